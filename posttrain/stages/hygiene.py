"""What of the rows is fit to train on: filters in a fixed order, each counting what it drops.

length -> language -> personal data -> judge's score -> copies -> what the evaluation knows
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from posttrain.chain.stage import Config, Metrics, StageContext
from posttrain.rows import Row, read_rows
from posttrain.stages.candidates import Answered, Asked
from posttrain.stages.pair_scores import PairsJudge, score

Counts = dict[str, int]
HELD_OUT, OVERLAPPING = "equal to a held-out prompt", "with much of an evaluation's text"


class Filters(Config):
    """What an answer must be to be kept."""

    min_words: int = Field(0, ge=0)
    max_words: int | None = Field(None, ge=1)
    language: str | None = Field(None, description="ISO 639 code, such as en; decisively another one is dropped")
    pii: Literal["drop", "keep"] = Field(
        "drop", description="rows with an email address, phone, card or account number, key or password"
    )

    @field_validator("language")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        from data_gen.filters import languages

        if value not in languages():
            raise ValueError(f"{', '.join(languages())} are allowed. Choose one of them")
        return value


class ScoreFilters(Filters):
    """And what a judge must say of it."""

    min_score: float | None = Field(None, ge=1, le=10, description="of the recipe's judge, or the step's own `judge`")
    axis: str | None = Field(None, description="that min_score is of; by default the mean of all axes")


class Scoring(NamedTuple):
    """What `score` reads of a step: each answer is scored by itself."""

    judge: PairsJudge
    axis: str | None
    by: Literal["scores"] = "scores"
    format: Literal["unpaired"] = "unpaired"


def without_pii(rows: Sequence[Row], what: Filters) -> tuple[list[Row], Counts]:
    """The rows in none of whose texts anything is found; the others are counted by what it is."""
    from data_gen import pii

    if what.pii == "keep":
        return list(rows), {}
    own = ("id", "provenance")  # hashes look like keys
    texts = [{"row": {**row, **dict.fromkeys(own)}, "at": at} for at, row in enumerate(rows)]
    clean, counts = pii.without_pii(texts)
    return [rows[row["at"]] for row in clean], {
        f"with personal data ({kind})": count for kind, count in counts.items() if kind != "kept"
    }


def fit(rows: Sequence[Row], what: Filters) -> tuple[list[Row], Counts]:
    """Rows whose answers are as they should be, and the counts of the others."""
    from data_gen.filters import by_language, by_length

    rows, counts = by_length(rows, what.min_words, what.max_words)
    if what.language is not None:
        rows, more = by_language(rows, what.language)
        counts |= more
    rows, personal = without_pii(rows, what)
    return rows, {name: count for name, count in {**counts, **personal}.items() if name != "kept"}


def well_scored(
    rows: Sequence[Row], what: ScoreFilters, judge: PairsJudge | None, ctx: StageContext
) -> tuple[list[Row], Counts, Metrics]:
    """Rows that a judge scores high enough, where that is asked for; the others' counts, and what the judge came to."""
    from data_gen.filters import by_score

    if what.min_score is None or judge is None:
        return list(rows), {}, {}
    found = score(Scoring(judge, what.axis), ctx, _as_answers(rows))
    scores = [answers[0].score for answers in found.answers]
    kept, counts = by_score(rows, lambda _: scores, what.min_score)
    return kept, {name: count for name, count in counts.items() if name != "kept"}, found.metrics


def _as_answers(rows: Sequence[Row]) -> Answered:
    from data_gen.generator import own_request
    from data_gen.pairing import Candidate

    asked = [
        Asked(row["id"], own_request(row), {**row, "prompt": own_request(row)[-1]["content"], "reference": None})
        for row in rows
    ]
    return Answered(asked, [[Candidate(row["messages"][-1]["content"], None)] for row in rows], {}, {})


def unleaked(
    rows: Sequence[Row], near_duplicates: float, prompts: Sequence[Row], sets: Sequence[Path], ctx: StageContext
) -> tuple[list[Row], Counts, list[dict[str, Any]]]:
    """Rows that are no copies, and not what the evaluation asks or tells; with what each prompt set has in common."""
    from data_gen.contamination import contaminated
    from data_gen.dedup import deduplicate
    from data_gen.holdout import drop_held_out

    with ctx.progress(len(rows), "rows compared") as tick:
        rows, counts = deduplicate(rows, near_duplicates, tick)
    rows, held = drop_held_out(rows, prompts)
    before = len(rows)
    rows, found = contaminated(rows, {f"{path.parent.name}/{path.name}": read_rows(path) for path in sets})
    overlaps = [{"set": name, **_plain(overlap._asdict())} for name, overlap in found.items()]
    counts = {name: count for name, count in counts.items() if name != "kept"}
    return rows, {**counts, HELD_OUT: held, OVERLAPPING: before - len(rows)}, overlaps


def _plain(overlap: Mapping[str, Any]) -> dict[str, Any]:
    return {**overlap, "examples": [example._asdict() for example in overlap["examples"]]}
