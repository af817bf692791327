"""What a judge asks a language model and what comes back, as plain values.

This room knows no network and no model: it is handed an `Ask`, which may be an endpoint, a local model or a script.
A failure is a reply without text and says why; nobody raises on the way, so that one bad reply costs one verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Alternatives = Sequence[tuple[str, float]]


class Question(NamedTuple):
    """One call: chat messages {role, content}, the JSON schema wanted, the longest reply, and which sample it is.

    `nth` tells repeated samples of one question apart (0 is the only one asked without votes).
    """

    messages: tuple[Mapping[str, str], ...]
    schema: Mapping[str, Any] | None
    max_tokens: int
    nth: int = 0


class Reply(NamedTuple):
    """Text, or None and the reason why there is none.

    `logprobs`: for each generated token its alternatives as (token text, natural log of its probability), **the
    generated token first**, all of the whole distribution; None where the endpoint gives none.
    """

    text: str | None
    reason: str = ""
    finish_reason: str | None = None
    logprobs: Sequence[Alternatives] | None = None


Ask = Callable[[Sequence[Question]], list[Reply]]


def ask_all(ask: Ask, questions: Sequence[Question]) -> list[Reply]:
    """One reply a question, in their order; another number of replies is an error of the callable."""
    replies = ask(questions) if questions else []
    if len(replies) != len(questions):
        raise ValueError(
            f"ask: {len(replies)} replies to {len(questions)} questions; one each is needed. "
            "Return Reply(None, reason) for a question that failed."
        )
    return replies
