"""Preference rows as tokens: a prompt and two answers to it, or a prompt and one answer with a verdict.

Prompt and answer are cut where the model takes over: the prompt is what the model is asked with, the answer is what
the template writes after it, up to and with the stop token. Nothing is cut by default: a pair that is too long is
dropped whole, because a cut answer teaches answers without an end. Where prompts may be cut, both sides lose the
same, from the left. Pairs whose answers are the same tokens teach nothing and are dropped. All of it is counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.lm.chat import ChatFormat, Message

TOO_LONG, EQUAL, PROMPT_CUT = "too long", "equal", "prompt cut"

Row = Mapping[str, Any]


class TokenPair(NamedTuple):
    """Token ids of a prompt and of its two answers, each answer with its stop token."""

    id: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class TokenAnswer(NamedTuple):
    """Token ids of a prompt and of one answer with its stop token; `label` says whether it is a good one."""

    id: str
    prompt: list[int]
    completion: list[int]
    label: bool


def token_pairs(
    rows: Sequence[Row], chat: ChatFormat, max_length: int, cut_prompt: bool = False, mask_start: bool = False
) -> tuple[list[TokenPair], dict[str, int]]:
    """Pairs of at most `max_length` tokens a side, and how many were dropped or had their prompt cut.

    A row is {"id", "prompt": messages that end with a user's, "chosen", "rejected": one assistant message each}. With
    `mask_start` the tokens with which both answers begin count as the end of the prompt: nothing is learnt from them.
    """
    pairs, counts = [], Counter({TOO_LONG: 0, EQUAL: 0, PROMPT_CUT: 0})
    for row in rows:
        prompt = _prompt(row, chat)
        chosen, rejected = (_answer(row, side, prompt, chat) for side in ("chosen", "rejected"))
        if chosen == rejected:
            counts[EQUAL] += 1
            continue
        if mask_start:
            shared = next(at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
            prompt, chosen, rejected = prompt + chosen[:shared], chosen[shared:], rejected[shared:]
        fitting = _fitting(prompt, max(len(chosen), len(rejected)), max_length, cut_prompt, counts)
        if fitting is not None:
            pairs.append(TokenPair(row["id"], fitting, chosen, rejected))
    return pairs, dict(counts)


def token_answers(
    rows: Sequence[Row], chat: ChatFormat, max_length: int, cut_prompt: bool = False
) -> tuple[list[TokenAnswer], dict[str, int]]:
    """As `token_pairs`, for rows {"id", "prompt", "completion": [assistant message], "label": bool}."""
    answers, counts = [], Counter({TOO_LONG: 0, PROMPT_CUT: 0})
    for row in rows:
        label = row.get("label")
        if not isinstance(label, bool):
            raise PosttrainError(f"row {row.get('id')}: label is {label!r}; true or false is allowed. Correct the row.")
        prompt = _prompt(row, chat)
        completion = _answer(row, "completion", prompt, chat)
        fitting = _fitting(prompt, len(completion), max_length, cut_prompt, counts)
        if fitting is not None:
            answers.append(TokenAnswer(row["id"], fitting, completion, label))
    return answers, dict(counts)


def unpaired(pairs: Sequence[TokenPair]) -> list[TokenAnswer]:
    """Each pair as two answers: the chosen one good, the rejected one not."""
    return [
        TokenAnswer(f"{pair.id}.{side}", pair.prompt, answer, side == "chosen")
        for pair in pairs
        for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]


def _fitting(prompt: list[int], answer: int, longest: int, cut: bool, counts: Counter[str]) -> list[int] | None:
    """The prompt, or its end where it may be cut, beside an answer of so many tokens; None where neither fits."""
    room = longest - answer
    if len(prompt) <= room:
        return prompt
    if not cut or room < 1:
        counts[TOO_LONG] += 1
        return None
    counts[PROMPT_CUT] += 1
    return prompt[-room:]


def _prompt(row: Row, chat: ChatFormat) -> list[int]:
    messages = _messages(row, "prompt")
    if messages[-1]["role"] != "user":
        raise PosttrainError(
            f"row {row.get('id')}: its prompt ends with the role '{messages[-1]['role']}'; 'user' is allowed, whom the "
            "answers answer. Correct the row."
        )
    return chat.render(messages, add_generation_prompt=True).ids


def _answer(row: Row, side: str, prompt: list[int], chat: ChatFormat) -> list[int]:
    """What the template writes after the prompt for this answer, up to its stop token."""
    messages = _messages(row, side)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise PosttrainError(
            f"row {row.get('id')}: {side} holds {', '.join(message['role'] for message in messages)}; one message of "
            "'assistant' is allowed. Correct the row."
        )
    if side == "chosen" and not messages[0]["content"].strip():
        raise PosttrainError(f"row {row.get('id')}: its chosen answer is empty; a text is needed. Drop the row.")
    whole = chat.render([*row["prompt"], *messages])
    end = 1 + max((at for at, learnt in enumerate(whole.supervised) if learnt), default=-1)
    if whole.ids[: len(prompt)] != prompt:
        raise PosttrainError(
            f"{chat.where}: row {row.get('id')}: before an answer the prompt has other tokens than when the model is "
            "asked; they must be equal. The template writes something else after add_generation_prompt."
        )
    answer = whole.ids[len(prompt) : end]
    if not answer or answer[-1] not in chat.stop_ids:
        raise PosttrainError(
            f"row {row.get('id')}: its {side} answer does not end with a stop token; one is needed, or answers never "
            "end. Drop the row."
        )
    return answer


def _messages(row: Row, name: str) -> list[Message]:
    messages = row.get(name)
    shaped = isinstance(messages, list) and all(
        isinstance(message, dict) and {"role", "content"} <= message.keys() and isinstance(message["content"], str)
        for message in messages
    )
    if not isinstance(messages, list) or not messages or not shaped:
        raise PosttrainError(
            f"row {row.get('id')}: {name} is no list of messages with 'role' and 'content'; one is needed. "
            "Correct the row."
        )
    return messages
