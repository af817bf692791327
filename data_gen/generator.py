"""What a generator is: which rows there are, what a teacher is asked for each, and what is read from its reply.

A generator knows text alone. Who answers, a local model or an endpoint, and how it is asked again after a fault, is
not its business: it is handed a reply.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

Row = dict[str, Any]  # {"id", "messages", …}: JSON types alone
Message = dict[str, str]
TEMPLATES = Path(__file__).parent / "templates"


class Rejected(NamedTuple):
    """A reply that makes no row. `reason` is counted, so it is one of a few: "not JSON", "a value not in the text"."""

    reason: str


class Draft(NamedTuple):
    """Rows to come. `make(start, stop)` gives those of these places, each a function of its place, seed and source.

    `total` is None where there are as many as one likes; `dropped` counts what of the source cannot be used.
    """

    make: Callable[[int, int], list[Row]]
    total: int | None = None
    dropped: Mapping[str, int] = {}


def own_request(row: Row) -> list[Message]:
    """What a model that knows the task is asked: the row's own messages, without its answer."""
    messages: list[Message] = row["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def as_answer(row: Row, text: str) -> Row | Rejected:
    """The row with a reply as its answer."""
    return {**row, "messages": [*own_request(row), {"role": "assistant", "content": text}]}


class Generator(NamedTuple):
    """`draft(seed, source)` gives rows; with `answers` they have answers of their own, and a teacher is not needed.

    `column` is the field that every row of a source must have, a string; None: no source is read. A row's teacher is
    asked `ask(row)`, with the JSON schema `schema(row)` where it can be bound by one, and `read(row, reply)` gives the
    answered row or why there is none. `ask` None: a teacher has nothing to do here.
    """

    draft: Callable[[int, Sequence[Row]], Draft]
    column: str | None = None
    answers: bool = True
    source_needed: bool = False
    ask: Callable[[Row], list[Message]] | None = own_request
    read: Callable[[Row, str], Row | Rejected] = as_answer
    schema: Callable[[Row], Mapping[str, Any] | None] = lambda row: None
    template: str | None = None  # the file of `templates/` that its questions are made from


def filled(name: str, **values: str) -> str:
    """The text of a template file with its $slots filled; a value is never read as a template itself."""
    return Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values).strip()
