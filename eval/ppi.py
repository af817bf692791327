"""A few human labels correct the mean of many judged answers: prediction-powered inference.

A judge scores every prompt but is biased; people are right but label few. The judge's mean over all prompts
plus its error on the labelled ones is unbiased however bad the judge is. How far the judge is trusted (the
tuning, 0 to 1) is estimated, so that a judge that knows nothing costs almost nothing. Averaging human labels
and judge scores together, or reporting the judge alone, has the judge's bias and an interval that misses
the truth. PPI++: Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453, with power tuning, for the mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.statistics import Floats, Interval, StatisticsError, finite, t_quantile

FEWEST = 5  # human labels: three degrees of freedom are left beside the mean and the tuning


class Corrected(NamedTuple):
    """The corrected mean, how far the judge was trusted (0 not at all, 1 fully), and the mean of the labels alone."""

    interval: Interval
    tuning: float
    labels_only: Interval


def _tuning(human: Floats, judged: Floats, unlabelled: Floats) -> float:
    """The weight of the judge with the smallest variance: Cov(Y, f) / ((1 + n/N) Var f), within 0 and 1."""
    spread = float(np.concatenate([judged, unlabelled]).var(ddof=1))
    if spread == 0:
        return 0.0
    together = float(np.cov(human, judged, ddof=1)[0, 1])
    return min(max(together / ((1 + human.size / unlabelled.size) * spread), 0.0), 1.0)


def _around(mean: float, error: float, degrees: int, level: float) -> Interval:
    half = t_quantile(level, degrees) * error
    return Interval(mean, mean - half, mean + half)


def corrected_mean(
    human: Sequence[float], judged: Sequence[float], unlabelled: Sequence[float], *, level: float = 0.95
) -> Corrected:
    """Mean human value over all prompts, from labels on a random few and judge values on all of them.

    `human` and `judged` (n,) are the two values of the labelled prompts, `unlabelled` (N,) the judge's of the
    others; one value a prompt (`eval.statistics.prompt_means`), all in the same units, a win rate as 1, 0.5
    and 0. The labelled prompts must be a random sample of all. At least five labels and two unlabelled values
    are needed. Interval: t with n - 2 degrees of freedom, one for the tuning; it may pass the scale's ends.
    """
    y, f, others = finite(human, "human"), finite(judged, "judged"), finite(unlabelled, "unlabelled")
    if y.size != f.size or y.size < FEWEST or others.size < 2:
        raise StatisticsError(
            f"corrected_mean: {y.size} human labels, {f.size} judge values of the same prompts and {others.size} of "
            f"others; as many of both, at least {FEWEST}, and 2 others are needed. Label more prompts."
        )
    weight = _tuning(y, f, others)
    left = y - weight * f
    mean = float(weight * others.mean() + left.mean())
    degrees = y.size - (2 if weight else 1)
    variance = weight**2 * others.var(ddof=1) / others.size + ((left - left.mean()) ** 2).sum() / degrees / y.size
    labels_only = _around(float(y.mean()), float(y.std(ddof=1) / np.sqrt(y.size)), y.size - 1, level)
    return Corrected(_around(mean, float(np.sqrt(variance)), degrees, level), weight, labels_only)
