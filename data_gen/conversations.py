"""Instruction data as others publish them, read row by row into messages.

The columns of a row say what it is; the first of these counts:

- `messages`: a list of {role, content} (https://huggingface.co/docs/trl/dataset_formats).
- `conversations`: ShareGPT's list of {from, value}, with a `system` beside it where there is one.
- `prompt` and `completion`: TRL's format, each a text or messages.
- `instruction`, `input`, `output`: an Alpaca-like list.

A row of none of these forms is an error. One of a known form that teaches nothing is none: its fault is named, to be
counted. Texts lose the white space round them, and nothing else: `<think>` is text like any other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_gen.preferences import NO_ANSWER, NO_PROMPT, NOT_LAST, ROLES, Message, PreferenceError, read_messages

Row = Mapping[str, Any]

FAULTS = (NO_PROMPT, NO_ANSWER, NOT_LAST, ROLES)
FORMS = ("messages", "conversations", "prompt", "instruction")
NEEDED = {"prompt": "completion", "instruction": "output"}  # the answer's column beside the question's
SPEAKERS = {"human": "user", "gpt": "assistant"}  # ShareGPT's names; the others are roles already


class ConversationError(ValueError):
    """A row of no known form; the message says what was found and what is allowed."""


class Conversation(NamedTuple):
    """Messages that end with the assistant's, and who published them."""

    messages: list[Message]
    source: str


def read_conversation(row: Row) -> Conversation | str:
    """The conversation of a row, or the one of FAULTS for which it is dropped; ConversationError for no known form."""
    form = form_of(row)
    try:
        messages = _messages(row, form)
    except PreferenceError as error:
        raise ConversationError(str(error)) from None
    if isinstance(messages, str):
        return messages
    source = row["source"] if isinstance(row.get("source"), str) and row["source"] else form
    return fault(messages) or Conversation(messages, source)


def form_of(row: Row) -> str:
    """The first of FORMS whose columns are there; ConversationError where there is none."""
    for form in FORMS:
        if form in row and NEEDED.get(form, form) in row:
            return form
    raise ConversationError(
        f"found the columns {', '.join(map(str, row)) or 'none'}; 'messages' or 'conversations' is needed, or 'prompt' "
        "and 'completion', or 'instruction' and 'output'. Rename the columns"
    )


def fault(messages: Sequence[Message]) -> str | None:
    """Why a conversation teaches nothing, or None: it must ask, and end with an answer, and none may be empty."""
    said = {role: [one["content"] for one in messages if one["role"] == role] for role in ("user", "assistant")}
    if not said["user"] or not all(said["user"]):
        return NO_PROMPT
    if not said["assistant"] or not all(said["assistant"]):
        return NO_ANSWER
    return None if messages[-1]["role"] == "assistant" else NOT_LAST


def _messages(row: Row, form: str) -> list[Message] | str:
    if form == "messages":
        return read_messages(row["messages"], "messages")
    if form == "conversations":
        return _sharegpt(row)
    if form == "prompt":
        return _sides(row)
    parts = [_text(row.get(name) or "", name) for name in ("instruction", "input", "output")]
    asked = "\n\n".join(part for part in parts[:2] if part)
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": parts[2]}]


def _sharegpt(row: Row) -> list[Message] | str:
    turns = row["conversations"]
    if isinstance(turns, Sequence) and all(
        isinstance(one, Mapping) and {"from", "value"} <= one.keys() for one in turns
    ):
        turns = [{"role": SPEAKERS.get(one["from"], one["from"]), "content": one["value"]} for one in turns]
    messages = read_messages(turns, "conversations")
    system = _text(row.get("system") or "", "system")
    if isinstance(messages, str) or not system:
        return messages
    return [{"role": "system", "content": system}, *messages]


def _sides(row: Row) -> list[Message] | str:
    """A prompt and its completion, end to end."""
    found: list[Message] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        value = row[name]
        part = [{"role": role, "content": value.strip()}] if isinstance(value, str) else read_messages(value, name)
        if isinstance(part, str):
            return part
        found += part
    return found


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ConversationError(f"{name} is a {type(value).__name__}; a text is allowed. Convert it")
    return value.strip()
