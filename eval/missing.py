"""What could the missing scores change? The least and the greatest difference that they allow.

Leaving unscored answers out assumes that they are like the scored ones. They may not be: a judge fails on
long answers, or refuses bad ones. So every missing score is put at the bottom of the scale, then at the top
(bounds of Manski 1990), the two models against each other. A PASS whose least difference is still above
the line rests on no assumption.
"""

from collections.abc import Sequence
from typing import NamedTuple

from eval.statistics import Interval, StatisticsError, cluster_bootstrap, paired_difference

Scores = Sequence[float | None]  # None: asked for and not scored


class WorstCase(NamedTuple):
    """How many scores are missing of those asked for, and the interval with the missing at their worst and best."""

    missing: int
    asked: int
    least: Interval
    greatest: Interval


def _filled(scores: Scores, with_value: float) -> list[float]:
    return [with_value if score is None else score for score in scores]


def _checked(scores: Scores, scale: tuple[float, float], name: str) -> int:
    """How many are missing; a scale that is none or a score off it is an error."""
    low, high = scale
    if not low < high:
        raise StatisticsError(f"{name}: scale from {low} to {high}; the first must be lower. Turn it round.")
    off = [score for score in scores if score is not None and not low <= score <= high]
    if off:
        raise StatisticsError(f"{name}: a score {off[0]}; {low} to {high} is allowed. Give the scale it was judged on.")
    return sum(score is None for score in scores)


def worst_case_mean(
    scores: Scores, clusters: Sequence[str], scale: tuple[float, float], *, seed: int = 0, level: float = 0.95
) -> WorstCase:
    """Mean over all answers asked for, its missing scores at the bottom and at the top of `scale`."""
    missing = _checked(scores, scale, "worst_case_mean")
    least, greatest = (cluster_bootstrap(_filled(scores, value), clusters, seed=seed, level=level) for value in scale)
    return WorstCase(missing, len(scores), least, greatest)


def worst_case_difference(
    after: Scores,
    after_clusters: Sequence[str],
    before: Scores,
    before_clusters: Sequence[str],
    scale: tuple[float, float],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> WorstCase:
    """After minus before, paired by prompt: `least` with the missing after at the bottom and before at the top.

    In units of the scores. Without missing scores both are `eval.statistics.paired_difference`.
    """
    missing = _checked(after, scale, "worst_case_difference") + _checked(before, scale, "worst_case_difference")
    low, high = scale
    least, greatest = (
        paired_difference(
            _filled(after, after_value),
            after_clusters,
            _filled(before, before_value),
            before_clusters,
            seed=seed,
            level=level,
        )
        for after_value, before_value in ((low, high), (high, low))
    )
    return WorstCase(missing, len(after) + len(before), least, greatest)
