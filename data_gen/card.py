"""The README.md of a data set: a header that `datasets` and the hub read, and a page for whoever may use it.

Texts of the data are shown and never read: they stand in YAML as quoted ASCII, in a table without markup, or in a
fence that they cannot close.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
LONGEST = 2_000  # characters of a text that the example shows
MARKUP = re.compile(r"[\\`*_\[\]<>|#~$]")
LIMITS = (
    "The rows are synthetic: what they say is not checked against the world.",
    "Personal data are looked for by their form: email addresses, phone, account and card numbers, keys and passwords. "
    "Names and postal addresses are not, and no scan is a proof.",
    "Overlap with evaluations is looked for word by word; a paraphrase is not seen.",
)


class Split(NamedTuple):
    """A part of the data set: its file and how many rows that has."""

    file: str
    rows: int


class Spend(NamedTuple):
    """What the teachers cost; `usd` None: no price is known."""

    calls: int
    tokens: int
    usd: float | None


class Facts(NamedTuple):
    """What a card is made from. `made` less all that was `dropped`, by reason in the order of the filters, is left.

    `licence` is the hub's name of the data's own licence ("apache-2.0"), `language` an ISO 639 code; None: not known.
    `sources` counts the rows left by where they come from, `licences` names the licence of each source and teacher,
    `columns` are those of `data_gen.tabular`, `overlaps` the findings of `data_gen.contamination` with their "set".
    """

    name: str
    splits: Mapping[str, Split]
    generator: str
    teachers: Sequence[str]
    seed: int
    made: int
    dropped: Mapping[str, int]
    sources: Mapping[str, int]
    licences: Mapping[str, str]
    spend: Spend
    example: Mapping[str, Any]
    columns: Sequence[Mapping[str, Any]]
    licence: str | None = None
    language: str | None = None
    tags: Sequence[str] = ()
    overlaps: Sequence[Mapping[str, Any]] = ()
    limits: Sequence[str] = ()


def card(facts: Facts) -> str:
    """The text of README.md; ValueError where what was made, dropped and kept does not add up."""
    kept, dropped = sum(split.rows for split in facts.splits.values()), sum(facts.dropped.values())
    if facts.made != kept + dropped:
        raise ValueError(
            f"data card {facts.name!r}: {facts.made} rows made, {dropped} dropped and {kept} kept; made is the sum of "
            "the others. Count each row once."
        )
    sections = {
        f"# {shown(facts.name)}": _about(facts, kept),
        "## Rows": _table(("split", "file", "rows"), [(name, *split) for name, split in facts.splits.items()]),
        "## From made to kept": _counts(facts, kept),
        "## Where they come from": _sources(facts, kept),
        "## Overlap with evaluations": _overlaps(facts.overlaps),
        "## Cost": _spend(facts.spend),
        "## A row": _example(facts.example),
        "## Limits": "\n".join(f"- {text}" for text in (*LIMITS, *map(shown, facts.limits))),
    }
    return _header(facts, kept) + "".join(f"\n{title}\n\n{text}\n" for title, text in sections.items() if text)


def shown(text: object) -> str:
    """A text on one line, with nothing left that Markdown would read as markup."""
    return MARKUP.sub(r"\\\g<0>", " ".join(str(text).split()))


def fenced(text: str, language: str) -> str:
    """A block of code whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _header(facts: Facts, kept: int) -> str:
    """The metadata between two lines of dashes. ASCII alone: a reader may take other line ends for lines."""
    files = [{"split": name, "path": split.file} for name, split in facts.splits.items()]
    fields = {
        "license": facts.licence,
        "language": facts.language and [facts.language],
        "task_categories": ["text-generation"],
        "size_categories": [next((name for most, name in SIZES.items() if kept < most), "10M<n<100M")],
        "tags": list(dict.fromkeys(["synthetic", *facts.tags])),
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": facts.columns and {"features": list(facts.columns)},
    }
    return f"---\n{yaml.safe_dump({key: value for key, value in fields.items() if value}, sort_keys=False)}---\n"


def _about(facts: Facts, kept: int) -> str:
    taught = f", answered by {shown(' and '.join(facts.teachers))}" if facts.teachers else ", without a teacher"
    load = 'from datasets import load_dataset\n\nrows = load_dataset("PATH OR NAME OF THIS DATA SET")'
    return (
        f"{kept:,} conversations to train language models on, made by the generator {shown(facts.generator)} of "
        f"posttrain with seed {facts.seed}{taught}.\n\n{fenced(load, 'python')}"
    )


def _counts(facts: Facts, kept: int) -> str:
    dropped = [(f"dropped: {reason}", -count) for reason, count in facts.dropped.items() if count]
    return _table(("", "rows"), [("made", facts.made), *dropped, ("kept", kept)])


def _sources(facts: Facts, kept: int) -> str:
    """Every source and teacher with its licence; nothing is claimed of one that is not known."""
    others = {name: None for name in (*facts.teachers, *facts.licences) if name not in facts.sources}
    rows = [
        (name, "" if count is None else count, facts.licences.get(name, "not recorded"))
        for name, count in {**facts.sources, **others}.items()
    ]
    own = shown(facts.licence) if facts.licence else "none is recorded: ask before use"
    return f"{_table(('source or teacher', 'rows', 'licence'), rows)}\n\nLicence of these rows: {own}."


def _overlaps(overlaps: Sequence[Mapping[str, Any]]) -> str:
    """Of each prompt set: how many rows share a run of words with it, how many were dropped, and which words."""
    if not overlaps:
        return ""
    rows = [(one["set"], one["prompts"], one["overlapping"], one["dropped"]) for one in overlaps]
    examples = [
        f'- row {shown(found["row"])} and prompt {shown(found["prompt"])}: "{shown(_cut(found["run"], 200))}"'
        for one in overlaps
        for found in one["examples"]
    ]
    head = ("prompts of", "prompts", "rows that share a run of words", "dropped: hold much of one")
    return "\n\n".join(part for part in (_table(head, rows), "\n".join(examples)) if part)


def _spend(spend: Spend) -> str:
    if not spend.calls:
        return "No remote call was made."
    price = "no price known" if spend.usd is None else f"{spend.usd:,.4f} USD"
    return f"{spend.calls:,} remote calls, {spend.tokens:,} tokens, {price}."


def _example(row: Mapping[str, Any]) -> str:
    return fenced(json.dumps(_shortened(row), ensure_ascii=False, indent=1), "json")


def _shortened(value: Any) -> Any:
    """The value with long texts cut, and said so."""
    if isinstance(value, Mapping):
        return {key: _shortened(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_shortened(part) for part in value]
    return _cut(value, LONGEST) if isinstance(value, str) else value


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text) - longest:,} more characters)"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers get their commas, texts lose their markup."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else shown(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
