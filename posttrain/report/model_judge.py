"""What judges record beside scores: exact shares; of a language model comparisons with the step before, choices, notes.

In words, so that the page and the Markdown say the same. The rule judge of stories records none of it, and nothing is
said.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.chain.store import Artifact
from posttrain.report.records import INVALID, Named, step_before
from posttrain.report.wording import interval, percent
from posttrain.rows import read_rows

MOST_UNSCORED = "2 %"  # of the pairs: above it the judge stage gives no rate (eval/gate.py)

NOT_CONTROLLED = "no length-controlled rate, as the lengths differ by the same in every pair"


@dataclass(frozen=True)
class Remark:
    """One line on one step, for example on `against base` or on `age group`."""

    step: str
    about: str
    text: str


def remarks(nodes: Sequence[Named]) -> list[Remark]:
    """The exact shares, win rate against the step before and choices of every step whose judge recorded them."""
    found = []
    for row, artifact in nodes:
        if row["kind"] == "judge":
            step = row["name"].split(".")[0]
            found += [Remark(step, about, text) for about, text in _lines(artifact)]
    return found


def _lines(judge: Artifact) -> Iterator[tuple[str, str]]:
    metrics = judge.record["metrics"]
    if exact := metrics.get("exact"):
        yield "exact shares", ", ".join(f"{name} {interval(share)}" for name, share in exact.items())
    if pairwise := metrics.get("pairwise"):
        void = f"{INVALID}, so this does not count: " if metrics["verdict"] == INVALID else ""
        yield f"against {step_before(judge.record) or 'the step before'}", void + win_sentence(pairwise)
    for axis, shares in metrics.get("choices", {}).items():
        yield axis.replace("_", " "), _choice_sentence(shares, *_unscored(judge, axis))


def win_sentence(pairwise: Mapping[str, Any]) -> str:
    """The rate with its interval, or why there is none; how far the places of the answers decided; what is missing."""
    missing, asked = pairwise["n_asked"] - pairwise["n_scored"], pairwise["n_asked"]
    without = f"{missing} of {asked} pairs without a verdict"
    if pairwise["win_rate"] is None:
        parts = [f"no win rate: {without}, more than {MOST_UNSCORED}"]
    else:
        parts = [f"win rate {interval(pairwise['win_rate'])}, {_controlled(pairwise['length_controlled'])}"]
    if pairwise["flip_rate"] is not None:
        parts.append(f"{percent(pairwise['flip_rate'])} of the verdicts changed when the answers changed places")
        parts.append(_first(pairwise["first_share"]))
    if pairwise["win_rate"] is not None:
        parts.append(f"{without}, counted for neither answer" if missing else f"all {asked} pairs have a verdict")
    return "; ".join(parts)


def _controlled(rate: Mapping[str, float] | None) -> str:
    return f"length-controlled {interval(rate)}" if rate else NOT_CONTROLLED


def _first(share: float | None) -> str:
    if share is None:
        return "none named a winner"
    return f"the first place was preferred in {percent(share)} of those that named a winner"


def _choice_sentence(shares: Mapping[str, float], missing: int, asked: int) -> str:
    """Labels with their shares of the answers that were scored; those that nobody got are left out."""
    got = ", ".join(f"{label} ({percent(share)})" for label, share in shares.items() if share > 0)
    unscored = f"{missing} of {asked} unscored" if missing else ""
    return "; ".join(part for part in (got, unscored) if part)


def _unscored(judge: Artifact, axis: str) -> tuple[int, int]:
    """How many answers have no choice, and how many were asked for one."""
    choices = [row["choices"][axis] for row in read_rows(judge.path / "verdicts.jsonl")]
    return sum(choice["score"] is None for choice in choices), len(choices)


def judge_notes(nodes: Sequence[Named]) -> list[str]:
    """What the endpoints of the judges can do, each sentence once."""
    notes = (note for _, artifact in nodes for note in artifact.record["metrics"].get("judge_notes", []))
    return list(dict.fromkeys(notes))
