"""Holm's correction controls false rejections over several axes, and testing each axis alone does not."""

import numpy as np
import pytest

from eval.multiple import holm
from eval.statistics import StatisticsError

RUNS, AXES = 4000, 5


def test_adjusted_values_are_those_of_a_worked_example_in_the_order_given() -> None:
    found = holm({"plot": 0.03, "grammar": 0.01, "instruct": 0.005, "creativity": 0.04})
    assert list(found) == ["plot", "grammar", "instruct", "creativity"]
    assert found == pytest.approx({"instruct": 0.02, "grammar": 0.03, "plot": 0.06, "creativity": 0.06})


def test_of_five_true_nulls_any_is_rejected_in_five_percent_of_runs_and_in_far_more_without_the_correction() -> None:
    rng = np.random.default_rng(0)
    corrected = alone = 0
    for p_values in rng.random((RUNS, AXES)):
        named = {str(i): float(p) for i, p in enumerate(p_values)}
        corrected += min(holm(named).values()) <= 0.05
        alone += min(named.values()) <= 0.05
    assert corrected / RUNS <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / RUNS)
    assert alone / RUNS > 0.2


def test_holm_rejects_more_than_bonferroni_and_never_less() -> None:
    named = {"a": 0.001, "b": 0.02, "c": 0.024}
    assert [p <= 0.05 for p in holm(named).values()] == [True, True, True]
    assert [3 * p <= 0.05 for p in named.values()] == [True, False, False]


def test_one_axis_stays_as_it_is_and_a_p_that_is_none_is_refused() -> None:
    assert holm({"plot": 0.04}) == {"plot": 0.04}
    assert holm({}) == {}
    for wrong in (float("nan"), -0.1, 1.1):
        with pytest.raises(StatisticsError, match="p of 'plot'"):
            holm({"plot": wrong})
