"""How far do a judge's scores of single answers agree with people's?

Correlation says whether the judge orders answers as people do, the bias and the error whether its numbers are theirs.
A judge that scores by length stands beside it, as in `eval.agreement`.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from eval.agreement import share, totals
from eval.labels import ScoreLabel
from eval.recorded import ScoreVerdict
from eval.statistics import Floats, Interval, bootstrap_totals, spearman


class ScoreAgreement(NamedTuple):
    """Answers asked for and scored, and the agreement there: correlations from -1 to 1, the rest in points.

    `error` is the mean absolute difference to people's mean score, `bias` the mean of judge less people.
    `length_correlation` is Spearman's, of the judge's score with the answer's characters.
    """

    asked: int
    scored: int
    pearson: Interval | None
    spearman: float | None
    error: Interval | None
    bias: Interval | None
    length_correlation: float | None


def by_length(labels: Sequence[ScoreLabel]) -> list[ScoreVerdict]:
    """The judge whose score is the answer's length in characters; only its correlations mean anything."""
    return [ScoreVerdict(label.id, float(len(label.text)), "its length") for label in labels]


def score_agreement(
    labels: Sequence[ScoreLabel], verdicts: Sequence[ScoreVerdict], *, seed: int = 0, level: float = 0.95
) -> ScoreAgreement:
    """A judge's scores, in the order of the labels (`eval.recorded.score_verdicts`), against the mean of people's."""
    scored = [(one, two.score) for one, two in zip(labels, verdicts, strict=True) if two.score is not None]
    people = np.array([label.score for label, _ in scored], dtype=np.float64)
    judge = np.array([score for _, score in scored], dtype=np.float64)
    prompts = [label.prompt for label, _ in scored]
    away = judge - people
    return ScoreAgreement(
        len(labels),
        len(scored),
        pearson(people, judge, prompts, seed=seed, level=level),
        spearman(people, judge),
        _mean(np.abs(away), prompts, seed, level),
        _mean(away, prompts, seed, level),
        spearman(judge, np.array([len(label.text) for label, _ in scored], dtype=np.float64)),
    )


def human_spearman(labels: Sequence[ScoreLabel]) -> float | None:
    """Mean Spearman correlation of two people, by their places in `scores`; None where the numbers of scores differ."""
    people = {len(label.scores) for label in labels}
    if len(people) != 1 or people == {1}:
        return None
    table = np.array([label.scores for label in labels], dtype=np.float64)
    found = [spearman(one, other) for one, other in combinations(table.T, 2)]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def pearson(
    one: Floats, other: Floats, clusters: Sequence[str], *, seed: int = 0, level: float = 0.95
) -> Interval | None:
    """Pearson's correlation with its interval over clusters; None where one list does not vary."""
    if one.size < 2:
        return None
    x, y = one - one.mean(), other - other.mean()  # about the means, or the squares would lose digits
    adds = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    return bootstrap_totals(totals(list(zip(clusters, adds, strict=True))), _correlation, seed=seed, level=level)


def _correlation(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = sums.T
    below = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.asarray(np.divide(n * xy - x * y, below, out=np.full(n.shape, np.nan), where=below > 1e-12))


def _mean(values: Floats, clusters: Sequence[str], seed: int, level: float) -> Interval | None:
    adds = np.stack([values, np.ones_like(values)], axis=1)
    return bootstrap_totals(totals(list(zip(clusters, adds, strict=True))), share, seed=seed, level=level)
