"""Diaries: entries of a drawn day, mood and length by the people that personas describe."""

import re
from collections.abc import Sequence

from data_gen.generator import Draft, Generator, Message, Rejected, Row, as_answer
from data_gen.personas import question, quoted, repeats, requested, spread, usable
from data_gen.story import stable_random

MARKUP = re.compile(r"^\s*(?:#|[-*] |>|```)|\*\*", re.MULTILINE)
FIRST_PERSON = re.compile(r"\b(?:I|[Mm]y|[Mm]e)\b")


def diary_row(seed: int, index: int, personas: Sequence[str]) -> Row:
    """A request for an entry. The personas take turns; each has another day in every round."""
    turn, place = divmod(index, len(personas))
    drawn, persona = spread(seed, place + turn, "diary"), personas[place]
    messages = requested(stable_random("diaries", seed, index), "diary", persona=persona, **drawn)
    facts = {"persona": persona, "attributes": drawn, "source": "diaries"}
    return {"id": f"{index:06d}", "messages": messages, "words": [], **facts}


def draft_diaries(seed: int, source: Sequence[Row]) -> Draft:
    """As many as one likes, if there is a persona."""
    personas, dropped = usable(source)

    def make(start: int, stop: int) -> list[Row]:
        return [diary_row(seed, index, personas) for index in range(start, stop)]

    return Draft(make, None if personas else 0, dropped)


def ask_diary(row: Row) -> list[Message]:
    """The persona as data, and the rules that `read_diary` checks."""
    return question("diaries.md", persona=quoted(row["persona"]), **row["attributes"])


def diary_fault(text: str, row: Row) -> str | None:
    """Why a text is not the entry that was asked for, or None."""
    shortest, longest = map(int, row["attributes"]["length"].split(" to "))
    length = len(text.split())
    if length < shortest:
        return "too short"
    if length > longest:
        return "too long"
    if repeats(text, "diaries.md"):
        return "repeats the question"
    if row["persona"].casefold() in " ".join(text.split()).casefold():
        return "repeats the persona"
    if MARKUP.search(text):
        return "not plain text"
    return None if FIRST_PERSON.search(text) else "not in the first person"


def read_diary(row: Row, reply: str) -> Row | Rejected:
    """The row with the entry as its answer."""
    text = reply.strip()
    fault = diary_fault(text, row)
    return Rejected(fault) if fault else as_answer(row, text)


DIARIES = Generator(
    draft_diaries, "persona", answers=False, source_needed=True, ask=ask_diary, read=read_diary, template="diaries.md"
)
