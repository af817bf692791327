"""A judge's answer: a score with the evidence for it, or no score and why.

Unscored is not zero: a judge that cannot tell (nothing was asked, no text came back, a remote judge failed)
says so with `score=None`, and whoever averages leaves it out and counts it. A failure never becomes a
number.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

LOW, HIGH = 1.0, 10.0


class Verdict(NamedTuple):
    """A score on the rubric's scale, or None; the reason names the evidence."""

    score: float | None
    reason: str


# Judges rows {id, text, stopped, sample?} one by one: a verdict for each axis of each row, in their order.
Judge = Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Verdict]]]


class Tally(NamedTuple):
    """How many verdicts were asked for, how many carry a score, and the mean of those."""

    asked: int
    scored: int
    mean: float | None

    @property
    def missing_share(self) -> float:
        """The share of verdicts without a score; 0 when nothing was asked."""
        return (self.asked - self.scored) / self.asked if self.asked else 0.0


def unscored(reason: str) -> Verdict:
    """A verdict that the judge could not reach."""
    return Verdict(None, reason)


def ramp(value: float, none: float, full: float) -> float:
    """How far a value has gone from one bound to the other, in [0, 1]."""
    return min(max((value - none) / (full - none), 0.0), 1.0)


def graded(quality: float, evidence: Iterable[str]) -> Verdict:
    """A verdict on the 1 to 10 scale from a quality in [0, 1]; nan is refused, as it hides a failure."""
    if math.isnan(quality):
        raise ValueError("graded: quality is nan; expected a number in [0, 1]. Return unscored(reason) instead.")
    score = LOW + (HIGH - LOW) * min(max(quality, 0.0), 1.0)
    return Verdict(round(score, 2), "; ".join(evidence) or "nothing to report")


def scores(verdicts: Iterable[Verdict]) -> list[float]:
    """The scores that exist, in order; the unscored are left out."""
    return [verdict.score for verdict in verdicts if verdict.score is not None]


def tally(verdicts: Iterable[Verdict]) -> Tally:
    """Count and average verdicts without turning a missing one into a number."""
    every = list(verdicts)
    found = scores(every)
    return Tally(len(every), len(found), sum(found) / len(found) if found else None)
