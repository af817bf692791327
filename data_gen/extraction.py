"""Structured extraction: a text and a JSON template with empty values in, the template filled from the text out.

The task is NuExtract's (NuMind, 2024): every value stands verbatim in the text, and where the text says nothing it is
"" or []. A template is made of "", [] (a list of strings), [{…}] (a list of such objects) and {…}. Without a source the
texts are told here, with their facts (`extraction_scenes`); the texts of a source are read by a teacher, whose reply is
a row only when it has the structure of the template and nothing that the text has not.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from string import Template
from typing import Any

from data_gen.extraction_scenes import Told, tell, written
from data_gen.generator import Draft, Generator, Message, Rejected, Row, filled
from data_gen.json_reply import last_object
from data_gen.story import stable_random

TEMPLATE = "extraction.md"


def compact(value: Any) -> str:
    """JSON as it is written in every row: no blanks outside of strings."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(text: str) -> str:
    """A text with every run of white space as one blank."""
    return " ".join(text.split())


def _row(identity: str, request: str, text: str, template: Mapping[str, Any]) -> Row:
    asked = Template(request).substitute(text=text, template=compact(template))
    facts = {"words": [], "text": text, "template": template, "source": "extraction"}
    return {"id": identity, "messages": [{"role": "user", "content": asked}], **facts}


def rows(seed: int, index: int) -> Row:
    """Row `index` of `seed`, with its answer and `expected`, which is the answer as JSON."""
    return told_row(f"{index:06d}", *told_and_asked("extraction", seed, index))


def told_and_asked(name: str, seed: int, index: int) -> tuple[Told, str]:
    """A text with its facts, and the way to ask for them."""
    rng = stable_random(name, seed, index)
    return tell(rng), rng.choice(written()["requests"])


def told_row(identity: str, told: Told, request: str) -> Row:
    """An answered row of a text whose facts are known."""
    row = _row(identity, request, told.text, told.template)
    answer = {"role": "assistant", "content": compact(told.expected)}
    return {**row, "messages": [*row["messages"], answer], "expected": told.expected}


def source_row(seed: int, index: int, text: str) -> Row:
    """A row without an answer: a text of a source, with a template that fits any text."""
    rng = stable_random("extraction source", seed, index)
    template = rng.choice(written()["any_text"])
    return _row(f"{index:06d}", rng.choice(written()["requests"]), text, template)


def draft(seed: int, source: Sequence[Row]) -> Draft:
    """Answered rows without end; with a source a row without an answer for each of its texts."""
    if not source:
        return Draft(lambda start, stop: [rows(seed, index) for index in range(start, stop)])
    texts = [row["text"] for row in source if row["text"].strip()]
    return Draft(
        lambda start, stop: [source_row(seed, start + at, text) for at, text in enumerate(texts[start:stop])],
        len(texts),
        {"empty texts": len(source) - len(texts)},
    )


def ask(row: Row) -> list[Message]:
    """What a teacher is told, which knows the rules from here alone."""
    return [{"role": "user", "content": filled(TEMPLATE, text=row["text"], template=compact(row["template"]))}]


def schema(row: Row) -> dict[str, Any]:
    """The JSON schema of a row's answer."""
    return _schema(row["template"])


def _schema(template: Any) -> dict[str, Any]:
    if isinstance(template, dict):
        fields = {key: _schema(value) for key, value in template.items()}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    if isinstance(template, list):
        return {"type": "array", "items": _schema(template[0] if template else "")}
    return {"type": "string"}


def read(row: Row, reply: str) -> Row | Rejected:
    """The row answered by the last JSON object of a reply, which may stand in prose or in a fence."""
    found = last_object(reply)
    if found is None:
        return Rejected("not JSON")
    if not has_structure(found, row["template"]):
        return Rejected("another structure")
    text = plain(row["text"])
    if not all(plain(leaf) in text for leaf in leaves(found)):
        return Rejected("a value not in the text")
    answer = {"role": "assistant", "content": compact(_in_order(found, row["template"]))}
    return {**row, "messages": [row["messages"][0], answer]}


def has_structure(value: Any, template: Any) -> bool:
    """Whether a value has the template's keys, its lists and its objects, and strings in every place."""
    if isinstance(template, dict):
        same = isinstance(value, dict) and value.keys() == template.keys()
        return same and all(has_structure(value[key], inner) for key, inner in template.items())
    if isinstance(template, list):
        inner = template[0] if template else ""
        return isinstance(value, list) and all(has_structure(one, inner) for one in value)
    return isinstance(value, str)


def leaves(value: Any) -> Iterator[str]:
    """All strings of a value."""
    if isinstance(value, str):
        yield value
    else:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)


def _in_order(value: Any, template: Any) -> Any:
    """A value of the template's structure with its keys in the template's order."""
    if isinstance(template, dict):
        return {key: _in_order(value[key], inner) for key, inner in template.items()}
    return [_in_order(one, template[0]) for one in value] if template else value


EXTRACTION = Generator(draft, column="text", ask=ask, read=read, schema=schema, template=TEMPLATE)
