"""Personas: made-up people, each described by a teacher from drawn attributes, so that they differ by design.

After Persona-Hub (Ge et al., 2024, arXiv:2406.20094), where the same request with another persona gives another text.
`diaries.py` and `profiles.py` ask about them. A persona may come from a file or from a model: it is data, and stands in
a question as one JSON string.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from math import gcd
from string import Template
from typing import Any

from data_gen.generator import TEMPLATES, Draft, Generator, Message, Rejected, Row, as_answer, filled
from data_gen.story import article, stable_random
from data_gen.storyworld import read_yaml
from data_gen.strip import strip_control

SHORTEST, LONGEST = 15, 80  # words of a persona that is written
TOO_LONG = 2_000  # characters of a persona that is given
ECHO = 6  # as many words of a template in a row, and a reply repeats it
MARKS = re.compile(r"[<>|\[\]＜＞｜［］\x85\u2028\u2029]")  # what control tokens are made of, and ends of lines
NAMED = re.compile(r"\b(?:named|called|name is)\s+[A-Z]")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


@cache
def lists() -> Mapping[str, Any]:
    """`world/personas.yaml`; a ValueError where two lists that are drawn from together share a divisor."""
    found: dict[str, Any] = read_yaml("personas.yaml")
    for group in ("persona", "diary"):
        check_lengths(group, found[group])
    return found


def check_lengths(group: str, values: Mapping[str, Sequence[str]]) -> None:
    """Refuse lists whose combinations `spread` would not all reach."""
    for (one, first), (two, second) in combinations(values.items(), 2):
        if (shared := gcd(len(first), len(second))) > 1:
            raise ValueError(
                f"world/personas.yaml, {group}: {len(first)} of {one} and {len(second)} of {two} are both multiples of "
                f"{shared}; lengths without a common divisor are allowed. Add or delete an entry."
            )


def spread(seed: int, index: int, group: str) -> dict[str, str]:
    """One value of each list of a group: each value once in every run of as many rows as its list is long.

    Each list is shuffled once and gone through again and again. As the lengths have no common divisor, no combination
    comes twice before all have come (the Chinese remainder theorem), and any two lists meet in all pairs alike.
    """
    values = lists()[group]
    return {name: shuffled(seed, name, tuple(of))[index % len(of)] for name, of in values.items()}


@cache
def shuffled(seed: int, name: str, values: tuple[str, ...]) -> Sequence[str]:
    """The values in an order that the seed and the name decide."""
    return stable_random("deck", seed, name).sample(values, len(values))


def quoted(text: str) -> str:
    """The text as a JSON string in one line, in which nothing can be taken for a control token."""
    return MARKS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def requested(rng: random.Random, kind: str, **values: str) -> list[Message]:
    """What a user may write, in one of the ways of `requests`; a value is never read as a template."""
    way = Template(rng.choice(lists()["requests"][kind]))
    return [{"role": "user", "content": way.substitute(values)}]


def question(template: str, **values: str) -> list[Message]:
    """What the teacher is asked."""
    return [{"role": "user", "content": filled(template, **values)}]


def word_runs(text: str) -> set[tuple[str, ...]]:
    """All runs of ECHO words."""
    words = re.findall(r"[\w']+", text.casefold())
    return {tuple(words[at : at + ECHO]) for at in range(len(words) - ECHO + 1)}


@cache
def template_runs(template: str) -> frozenset[tuple[str, ...]]:
    """The runs of words between the slots of a template."""
    parts = re.split(r"\$\w+|\n", (TEMPLATES / template).read_text(encoding="utf-8"))
    return frozenset(run for part in parts for run in word_runs(part))


def repeats(reply: str, template: str) -> bool:
    """Whether a reply holds a passage of the template that it was asked by."""
    return not template_runs(template).isdisjoint(word_runs(reply))


def persona_row(seed: int, index: int) -> Row:
    """A request for a persona; `attributes` are what it must fit."""
    drawn = spread(seed, index, "persona")
    a_work = f"{article(drawn['work'])} {drawn['work']}"
    messages = requested(stable_random("personas", seed, index), "persona", a_work=a_work, **drawn)
    return {"id": f"{index:06d}", "messages": messages, "words": [], "attributes": drawn, "source": "personas"}


def draft_personas(seed: int, source: Sequence[Row]) -> Draft:
    """As many as one likes."""
    return Draft(lambda start, stop: [persona_row(seed, index) for index in range(start, stop)])


def ask_persona(row: Row) -> list[Message]:
    """All attributes, and the rules that `read_persona` checks."""
    return question("personas.md", shortest=str(SHORTEST), longest=str(LONGEST), **row["attributes"])


def persona_fault(text: str, attributes: Mapping[str, str]) -> str | None:
    """Why a text is not the persona that was asked for, or None."""
    length = len(text.split())
    if length < SHORTEST:
        return "too short"
    if repeats(text, "personas.md"):
        return "repeats the question"
    if "\n" in text:
        return "more than one paragraph"
    if length > LONGEST:
        return "too long"
    if not text.startswith(("A ", "An ")):
        return "does not begin with A or An"
    if len(SENTENCE_END.findall(text)) != 2 or text[-1] not in ".!?":
        return "not two sentences"
    if NAMED.search(text):
        return "with a name"
    for name in ("work", "place"):
        if not re.search(rf"\b{re.escape(attributes[name])}\b", text, re.IGNORECASE):
            return f"without its {name}"
    return None


def read_persona(row: Row, reply: str) -> Row | Rejected:
    """The row with the persona as its answer and as `persona`, the column that diaries and profiles are made from."""
    text = reply.strip()
    fault = persona_fault(text, row["attributes"])
    return Rejected(fault) if fault else as_answer({**row, "persona": text}, text)


def usable(source: Sequence[Row]) -> tuple[list[str], Counter[str]]:
    """The personas of a source, each once and in one line, and how many were left out for what."""
    found: dict[str, None] = {}
    dropped: Counter[str] = Counter()
    for row in source:
        text = " ".join(row["persona"].split())
        if not text:
            dropped["persona empty"] += 1
        elif len(text) > TOO_LONG:
            dropped["persona too long"] += 1
        elif strip_control(text, ())[1]:
            dropped["persona with a control string"] += 1
        elif text in found:
            dropped["persona given twice"] += 1
        else:
            found[text] = None
    return list(found), dropped


PERSONAS = Generator(draft_personas, answers=False, ask=ask_persona, read=read_persona, template="personas.md")
