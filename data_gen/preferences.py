"""Preference data as others publish them, read row by row into one form.

The columns of a row say what it is:

- `prompt`, `chosen`, `rejected`: TRL's format, each a text or messages; the prompt may stand in both sides instead
  (https://huggingface.co/docs/trl/dataset_formats). With `score_chosen` and `score_rejected` it is UltraFeedback,
  binarised (https://huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized).
- `chosen`, `rejected` as transcripts of "Human:" and "Assistant:": HH (Bai et al. 2022, arXiv 2204.05862).
- `instruction`, `input`, `chosen`, `rejected`: an Alpaca-like list.
- `prompt`, `completion`, `label`: TRL's unpaired preferences, for KTO.

A row of none of these forms is an error. One of a known form that teaches nothing is none: its fault is named, to be
counted. Texts lose the white space round them, and nothing else.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Message = dict[str, str]
Row = Mapping[str, Any]

NO_PROMPT = "without a prompt"
NO_ANSWER = "without an answer"
NOT_LAST = "without a last word of the assistant"
APART = "with sides of different prompts"
ROLES = "with other roles than system, user and assistant"
FAULTS = (NO_PROMPT, NO_ANSWER, NOT_LAST, APART, ROLES)

TURN = re.compile(r"(?:\A\s*|\n\s*\n)(Human|Assistant): ?")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class PreferenceError(ValueError):
    """A row of no known form; the message says what was found and what is allowed."""


class Preference(NamedTuple):
    """A prompt (messages that end with a user's) with two answers; scores where the data have them."""

    prompt: list[Message]
    chosen: str
    rejected: str
    score_chosen: float | None
    score_rejected: float | None
    source: str


class Labelled(NamedTuple):
    """A prompt with one answer, and whether it is one that is wanted."""

    prompt: list[Message]
    completion: str
    label: bool
    source: str


class _Side(NamedTuple):
    """One answer with the conversation that stands before it in the same field, if any."""

    before: list[Message]
    answer: str


def form_of(row: Row) -> str:
    """`alpaca`, `hh`, `ultrafeedback`, `trl` or `unpaired`, by the columns; PreferenceError where it is none."""
    if "completion" in row and "label" in row and "chosen" not in row:
        return "unpaired"
    if "chosen" not in row or "rejected" not in row:
        raise PreferenceError(
            f"found the columns {', '.join(map(str, row)) or 'none'}; 'chosen' and 'rejected' are needed, beside "
            "'prompt' or 'instruction' or with the conversation in them (or 'prompt', 'completion' and 'label'). "
            "Rename the columns"
        )
    if "instruction" in row:
        return "alpaca"
    if "prompt" not in row and _is_transcript(row["chosen"]):
        return "hh"
    return "ultrafeedback" if "score_chosen" in row and "score_rejected" in row else "trl"


def read_preference(row: Row) -> Preference | str:
    """The pair of a row, or the one of FAULTS for which it is dropped; PreferenceError where it has no known form."""
    form = form_of(row)
    if form == "unpaired":
        raise PreferenceError(
            "found 'completion' and 'label', one answer a row; pairs are needed. Read it with format: unpaired"
        )
    asked = _asked(row, form)
    chosen, rejected = (_side(row[name], name) for name in ("chosen", "rejected"))
    for found in (asked, chosen, rejected):
        if isinstance(found, str):
            return found
    assert not isinstance(asked, str) and not isinstance(chosen, str) and not isinstance(rejected, str)
    prompt = _prompt(asked, chosen.before, rejected.before)
    if isinstance(prompt, str):
        return prompt
    if not chosen.answer or not rejected.answer:
        return NO_ANSWER
    scores = (_score(row, "score_chosen"), _score(row, "score_rejected"))
    return Preference(prompt, chosen.answer, rejected.answer, *scores, _source(row, form))


def read_labelled(row: Row) -> Labelled | str:
    """The labelled answer of a row, or the one of FAULTS for which it is dropped; PreferenceError in any other form."""
    if form_of(row) != "unpaired":
        raise PreferenceError(
            "found 'chosen' and 'rejected' among rows with 'label'; one form a file is allowed. Split it"
        )
    if not isinstance(row["label"], bool):
        raise PreferenceError(f"label is {str(row['label'])[:40]!r}; true or false is allowed. Correct the row")
    asked, side = _asked(row, "unpaired"), _side(row["completion"], "completion")
    if isinstance(asked, str) or isinstance(side, str):
        return asked if isinstance(asked, str) else str(side)
    prompt = _prompt(asked, side.before, side.before)
    if isinstance(prompt, str):
        return prompt
    return Labelled(prompt, side.answer, row["label"], _source(row, "unpaired")) if side.answer else NO_ANSWER


def _asked(row: Row, form: str) -> list[Message] | str:
    """What stands beside the sides as the prompt; nothing where it stands in them."""
    if form == "alpaca":
        parts = [_text(row.get(name) or "", name) for name in ("instruction", "input")]
        return [{"role": "user", "content": "\n\n".join(part for part in parts if part)}] if any(parts) else NO_PROMPT
    if row.get("prompt") is None:
        return []
    if isinstance(row["prompt"], str):
        if not _is_transcript(row["prompt"]):
            return [{"role": "user", "content": row["prompt"].strip()}] if row["prompt"].strip() else NO_PROMPT
        turns = _turns(row["prompt"])
        return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns
    return read_messages(row["prompt"], "prompt")


def _side(value: Any, name: str) -> _Side | str:
    if isinstance(value, str) and not _is_transcript(value):
        return _Side([], value.strip())
    messages = _turns(value) if isinstance(value, str) else read_messages(value, name)
    if isinstance(messages, str):
        return messages
    if not messages:
        return NO_ANSWER
    if messages[-1]["role"] != "assistant":
        return NOT_LAST
    return _Side(messages[:-1], messages[-1]["content"])


def _prompt(asked: Sequence[Message], one: list[Message], other: list[Message]) -> list[Message] | str:
    """The conversation before the answers: in both sides, beside them, or both (UltraFeedback repeats it)."""
    if one != other:
        return APART
    if asked and one and asked[-1] != one[-1]:
        return APART
    prompt = one or list(asked)
    if not prompt or prompt[-1]["role"] != "user" or not prompt[-1]["content"]:
        return NO_PROMPT
    return prompt


def read_messages(value: Any, name: str) -> list[Message] | str:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, Mapping) for one in value):
        raise PreferenceError(
            f"{name} is a {type(value).__name__}; a text or a list of messages is allowed. Convert it"
        )
    if not all(isinstance(one.get("content"), str) and isinstance(one.get("role"), str) for one in value):
        raise PreferenceError(
            f"{name} has a message without 'role' and 'content' as texts; both are needed. Convert it"
        )
    if any(one["role"] not in ("system", "user", "assistant") for one in value):
        return ROLES
    return [{"role": one["role"], "content": one["content"].strip()} for one in value]


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:")


def _turns(transcript: str) -> list[Message]:
    """The turns of a transcript; a speaker's name counts at the start of a paragraph only."""
    _, *parts = TURN.split(transcript)
    return [
        {"role": SPEAKERS[speaker], "content": text.strip()}
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise PreferenceError(f"{name} is a {type(value).__name__}; a text is allowed. Convert it")
    return value.strip()


def _score(row: Row, name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PreferenceError(f"{name} is {str(value)[:40]!r}; a finite number or null is allowed. Correct the row")
    return float(value)


def _source(row: Row, form: str) -> str:
    """Who published the row, where it says so; else its form."""
    return row["source"] if isinstance(row.get("source"), str) and row["source"] else form
