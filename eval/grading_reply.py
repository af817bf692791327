"""Reading a judge's reply: a score with its reason for each axis, or no score and why.

What counts is the last JSON object in the reply that names an axis and is not a copy of something that the judge was
shown. Text round it, code fences and thinking before it do not matter. A judge that repeats the answer repeats any
verdict that the answer holds; such an object is recognised by its content, however it is laid out, and a long passage
repeated word for word is passed over. Nothing is mended: a score that is no number from 1 to 10, is missing, or stands
in a reply that was cut short is unscored.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from eval.asking import Reply
from eval.grade_tokens import TokenStarts, expected_grade
from eval.json_places import places
from eval.verdict import HIGH, LOW, Verdict, unscored

VERSION = 1  # bumped when the same reply is read in another way
OPENING = re.compile(r'\{\s*"')
NUMBER = re.compile(r"\s*(\d{1,2}(?:\.\d+)?)(?:\s*/\s*10)?\s*", re.ASCII)
LETTER = re.compile(r"\s*([A-Za-z])(?:\s*[:.)].*)?\s*", re.DOTALL)
THINKING = ("<think>", "</think>")
LONG_ECHO = 40  # characters; shorter texts hold no verdict that a comparison of objects does not find
MOST_BROKEN = 1000  # objects that cannot be read before a reply is given up
MOST_TEXT = 1000  # characters of a reason that are kept
DEEPEST = 20  # levels of a value that are compared
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
PLAIN = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
DEPTH = 3  # levels of objects in which a verdict may be wrapped

Path = tuple[str, ...]
Fields = dict[str, Any]


class Found(NamedTuple):
    """An object of a reply: its text starts at `start`; `path` leads to the object that holds the verdict."""

    start: int
    end: int
    path: Path
    value: Fields


def _fields(pairs: list[tuple[str, Any]]) -> Fields:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is given twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_fields, strict=False)


def objects(text: str, start: int = 0, skip: Sequence[tuple[int, int]] = ()) -> Iterator[tuple[int, int, Fields]]:
    """Objects that are not part of another, with their places; none begins inside a span to skip."""
    broken = 0
    while (opening := OPENING.search(text, start)) and broken < MOST_BROKEN:
        at = opening.start()
        jump = max((end for begin, end in skip if begin <= at < end), default=None)
        if jump is not None:
            start = jump
            continue
        try:
            value, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            broken, start = broken + 1, at + 1
            continue
        yield at, end, value
        start = end


def _inner(value: Fields, keys: Sequence[str], depth: int = DEPTH) -> tuple[Path, Fields] | None:
    """The object that has one of the keys: this one, or the last one inside it."""
    if any(key in value for key in keys):
        return (), value
    for name, part in reversed(value.items()):
        if depth and isinstance(part, dict) and (found := _inner(part, keys, depth - 1)):
            return (name, *found[0]), found[1]
    return None


def _plain(value: Any, depth: int = DEEPEST) -> Any:
    """The value without what a copyist changes (spacing, case, 10 for 10.0), and without what is buried too deep."""
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    if isinstance(value, dict):
        return {key: _plain(part, depth - 1) for key, part in value.items()} if depth else None
    if isinstance(value, list):
        return [_plain(part, depth - 1) for part in value] if depth else None
    return value


def _all_in(value: Any, depth: int = DEEPEST) -> Iterator[Fields]:
    if isinstance(value, dict):
        yield value
    if depth and isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _all_in(part, depth - 1)


def _unescaped(text: str) -> str:
    """The text with one layer of JSON escapes taken off, as a judge does that quotes an answer in plain."""
    return ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else PLAIN.get(found[2], found[2]), text)


def _shown_verdicts(shown: Sequence[str], keys: Sequence[str]) -> list[Fields]:
    """Objects with one of the keys in what the judge was shown."""
    return [fake for text in shown for fake in _verdicts_in(text, tuple(keys))]


@lru_cache(maxsize=64)  # the rubric's part of a prompt is the same in a thousand replies
def _verdicts_in(text: str, keys: tuple[str, ...]) -> list[Fields]:
    """Objects with one of the keys in a text, also where they stand escaped once or twice."""
    once = _unescaped(text)
    layers = dict.fromkeys([text, once, _unescaped(once)])
    every = (part for layer in layers for _, _, value in objects(layer) for part in _all_in(value))
    return [_plain(value) for value in every if any(key in value for key in keys)]


def _echoes(text: str, shown: Sequence[str]) -> list[tuple[int, int]]:
    """Where a long text that was shown, and that could hold a verdict, is repeated word for word."""
    found = []
    for part in {part.strip() for part in shown if "{" in part}:
        at = text.find(part) if len(part) >= LONG_ECHO else -1
        while at >= 0:
            found.append((at, at + len(part)))
            at = text.find(part, at + len(part))
    return found


def last_verdict(text: str, keys: Sequence[str], shown: Sequence[str], start: int = 0) -> Found | None:
    """The last object from `start` that has one of the keys and copies nothing that was shown; None without one."""
    fakes, last = _shown_verdicts(shown, keys), None
    for begin, end, value in objects(text, start, _echoes(text, shown)):
        inner = _inner(value, keys)
        if inner is None:
            continue
        given = {key: _plain(inner[1][key]) for key in (*keys, "reason") if key in inner[1]}
        if not any(all(key in fake and fake[key] == part for key, part in given.items()) for fake in fakes):
            last = Found(begin, end, *inner)
    return last


def thought(text: str) -> int | None:
    """Where the text after a leading block of thinking starts; None when the thinking does not end."""
    opening, closing = THINKING
    if not text.lstrip().startswith(opening):
        return 0
    end = text.find(closing)
    return None if end < 0 else end + len(closing)


def no_verdict(reply: Reply, what: str) -> str:
    """Why a reply holds no verdict, in words."""
    if reply.finish_reason == "length":
        return f"the reply was cut short before {what}"
    return f"the reply holds no {what}"


def find(reply: Reply, keys: Sequence[str], shown: Sequence[str]) -> Found | str:
    """The object that holds the verdict, or why there is none."""
    if reply.text is None:
        return reply.reason or "no reply"
    if not reply.text.strip():
        return "the reply is empty"
    start = thought(reply.text)
    if start is None:
        return "the reply ends in its thinking"
    return last_verdict(reply.text, keys, shown, start) or no_verdict(reply, "verdict")


def clean(reason: Any) -> str:
    """A reason that any file can hold; one that is missing or no text is said to be so."""
    if not isinstance(reason, str) or not reason.strip():
        return "no reason given"
    text = reason.strip().encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"


def _number(value: Any) -> float | None:
    """A number from 1 to 10, or None; "7" and "7/10" are numbers, true and NaN are not."""
    if isinstance(value, str) and (found := NUMBER.fullmatch(value)):
        value = float(found[1])
    if isinstance(value, bool) or not isinstance(value, int | float) or not LOW <= value <= HIGH:
        return None
    return float(value)


def _short(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _scored(axis: str, given: Fields) -> Verdict:
    if "score" not in given:
        return unscored(f"{axis} has no score")
    number = _number(given["score"])
    if number is None:
        return unscored(f"{axis} has the score {_short(given['score'])}; a number from 1 to 10 was asked for")
    return Verdict(number, clean(given.get("reason")))


def _chosen(axis: str, given: Fields, labels: Sequence[str]) -> Verdict:
    """The place of a choice, 1 for A, and what it stands for."""
    letter = given.get("choice")
    found = LETTER.fullmatch(letter) if isinstance(letter, str) else None
    place = ord(found[1].upper()) - ord("A") if found else len(labels)
    if place >= len(labels):
        return unscored(f"{axis} has the choice {_short(letter)}; one of {len(labels)} letters from A was asked for")
    return Verdict(place + 1.0, f"{chr(ord('A') + place)} ({labels[place]}): {clean(given.get('reason'))}")


def _axis(axis: str, value: Fields, labels: Sequence[str] | None) -> Verdict:
    """The verdict on one axis of the object; a bare value stands for a score or a choice without a reason."""
    if axis not in value:
        return unscored(f"the verdict has no {axis}")
    given = value[axis] if isinstance(value[axis], dict) else {"score": value[axis], "choice": value[axis]}
    return _scored(axis, given) if labels is None else _chosen(axis, given, labels)


def read_grades(
    reply: Reply, axes: Sequence[str], choices: Mapping[str, Sequence[str]], shown: Sequence[str]
) -> dict[str, Verdict]:
    """A verdict for each axis from a reply; `shown` is every text that the judge was given.

    A score is the expectation over the grade tokens where the reply carries enough of their probabilities.
    """
    found = find(reply, axes, shown)
    if isinstance(found, str):
        return dict.fromkeys(axes, unscored(found))
    verdicts = {axis: _axis(axis, found.value, choices.get(axis)) for axis in axes}
    if reply.finish_reason == "length" and any(verdict.score is None for verdict in verdicts.values()):
        return dict.fromkeys(axes, unscored(no_verdict(reply, "a whole verdict")))
    return _expected(reply, found, verdicts, choices)


def _expected(
    reply: Reply, found: Found, verdicts: dict[str, Verdict], choices: Mapping[str, Sequence[str]]
) -> dict[str, Verdict]:
    """The same verdicts with expected grades for said ones, where the probabilities are there."""
    text, starts = reply.text or "", TokenStarts.of(reply.text or "", reply.logprobs)
    if starts is None:
        return verdicts
    where = places(text, found.start, found.end)
    better = dict(verdicts)
    for axis, verdict in verdicts.items():
        span = where.get((*found.path, axis, "score"), where.get((*found.path, axis)))
        if verdict.score is None or axis in choices or span is None:
            continue
        grade = expected_grade(starts, text, *span)
        if grade is not None:
            better[axis] = Verdict(grade, f"{verdict.reason} (said {verdict.score:g})")
    return better
