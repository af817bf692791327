"""The interval of a win rate covers for few prompts and near the ends, where a bootstrap claims to be sure."""

import numpy as np
import pytest

from eval.statistics import Interval, StatisticsError, cluster_bootstrap
from eval.win_rate import win_rate

RUNS = 800


def _covered(rate: float, prompts: int, samples: int) -> tuple[float, float]:
    """How often Wilson's interval and the bootstrap's hold the true rate; prompts differ in their own rate."""
    rng = np.random.default_rng(int(100 * rate) + prompts)
    names = [f"{i:03d}" for i in range(prompts) for _ in range(samples)]
    wilson = bootstrap = 0
    for run in range(RUNS):
        of_prompt = rng.beta(3 * rate, 3 * (1 - rate), prompts)
        wins = (rng.random((samples, prompts)) < of_prompt).T.astype(float).ravel().tolist()
        found = win_rate(wins, names)
        wilson += found.low <= rate <= found.high
        drawn = cluster_bootstrap(wins, names, seed=run, resamples=200)
        bootstrap += drawn.low <= rate <= drawn.high
    return wilson / RUNS, bootstrap / RUNS


@pytest.mark.parametrize(("rate", "prompts", "samples"), [(0.5, 50, 4), (0.9, 20, 4), (0.9, 20, 1)])
def test_the_interval_covers_when_prompts_differ(rate: float, prompts: int, samples: int) -> None:
    assert 0.925 <= _covered(rate, prompts, samples)[0] <= 0.985


def test_near_certainty_it_covers_and_the_bootstrap_does_not() -> None:
    wilson, bootstrap = _covered(0.97, 20, 1)
    assert wilson >= 0.93
    assert bootstrap < 0.7


def test_ten_wins_in_ten_prompts_are_not_certainty_and_in_one_prompt_tell_nothing() -> None:
    sure = win_rate([1.0] * 10, list("abcdefghij"))
    assert sure.high == 1.0 and 0.6 < sure.low < 0.75
    assert win_rate([1.0] * 10, ["a"] * 10) == Interval(1.0, 0.0, 1.0)


def test_independent_wins_have_the_textbook_interval() -> None:
    found = win_rate([1.0] * 60 + [0.0] * 40, [str(i) for i in range(100)])
    assert found == pytest.approx((0.6, 0.502, 0.691), abs=0.005)  # Wilson: 60 of 100


def test_a_tie_is_half_a_win_and_swapping_the_models_mirrors_the_interval() -> None:
    values, names = [1.0, 0.5, 0.5, 0.0, 1.0, 1.0], list("aabbcd")
    found, mirrored = win_rate(values, names), win_rate([1 - value for value in values], names)
    assert found.mean == pytest.approx(4 / 6)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


def test_samples_of_one_prompt_make_the_interval_no_narrower() -> None:
    wins = [1.0, 0.0] * 10
    once = win_rate(wins, [str(i) for i in range(20)])
    again = win_rate(wins * 5, [str(i) for i in range(20)] * 5)
    naive = win_rate(wins * 5, [str(i) for i in range(100)])
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.03)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_preferences_beyond_0_and_1_are_refused() -> None:
    with pytest.raises(StatisticsError, match=r"preferences from 0.0 to 2.0"):
        win_rate([2.0, 0.0], ["a", "b"])
