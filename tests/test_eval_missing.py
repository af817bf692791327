"""The bounds hold whatever the missing scores were, and leaving them out does not."""

import numpy as np
import pytest

from eval.missing import Scores, worst_case_difference, worst_case_mean
from eval.statistics import StatisticsError, cluster_bootstrap, paired_difference

NAMES = [f"p{i:02d}" for i in range(40)]
SCALE = (1.0, 10.0)


def _two_models() -> tuple[list[float], list[float]]:
    """Scores of two models, the first of which is worse by one half."""
    rng = np.random.default_rng(0)
    before = np.clip(rng.normal(6, 1, 40), 1, 10)
    return np.clip(before - 0.5 + rng.normal(0, 0.3, 40), 1, 10).tolist(), before.tolist()


def test_the_bounds_are_those_of_the_missing_put_at_the_ends_of_the_scale() -> None:
    found = worst_case_difference([5.0, None], ["a", "b"], [None, 4.0], ["a", "b"], SCALE)
    assert found.missing == 2 and found.asked == 4
    assert found.least.mean == pytest.approx(((5 - 10) + (1 - 4)) / 2)
    assert found.greatest.mean == pytest.approx(((5 - 1) + (10 - 4)) / 2)
    assert worst_case_mean([5.0, None], ["a", "b"], SCALE).greatest.mean == 7.5


def test_a_judge_that_fails_on_bad_answers_only_is_seen_through() -> None:
    after, before = _two_models()
    lost = set(np.argsort(np.array(after) - np.array(before))[:12].tolist())
    kept: Scores = [None if i in lost else score + 0.5 for i, score in enumerate(after)]
    scored = [(score, name) for score, name in zip(kept, NAMES, strict=True) if score is not None]
    left_out = paired_difference([s for s, _ in scored], [n for _, n in scored], before, NAMES)
    found = worst_case_difference(kept, NAMES, before, NAMES, SCALE)
    assert left_out.low > 0  # the negative control: the missing hide that nothing got better
    assert found.least.low < 0 < found.greatest.high


def test_without_missing_scores_the_bounds_are_the_paired_difference() -> None:
    after, before = _two_models()
    found = worst_case_difference(after, NAMES, before, NAMES, SCALE, seed=4)
    assert found.least == found.greatest == paired_difference(after, NAMES, before, NAMES, seed=4)
    assert found.missing == 0
    assert worst_case_mean(after, NAMES, SCALE, seed=4).least == cluster_bootstrap(after, NAMES, seed=4)


def test_a_score_off_the_scale_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"a score 11.0; 1.0 to 10.0 is allowed"):
        worst_case_mean([11.0, None], ["a", "b"], SCALE)
    with pytest.raises(StatisticsError, match="Turn it round"):
        worst_case_mean([1.0], ["a"], (10.0, 1.0))
