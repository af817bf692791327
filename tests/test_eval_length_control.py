"""A judge that only likes length is seen through, and one that likes quality keeps its win rate."""

import numpy as np
import pytest

from eval.length_control import LengthControlled, length_controlled, logistic_fit
from eval.statistics import Floats, StatisticsError

PROMPTS = 300
NAMES = [f"p{i:03d}" for i in range(PROMPTS)]


def _chance(log_odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-log_odds))


def _judged(quality: float, likes_length: float, seed: int = 0, longer: float = 0.8) -> LengthControlled:
    """A model whose answers are longer on average, before a judge who weighs quality and length."""
    rng = np.random.default_rng(seed)
    longer_by = 200 * rng.normal(longer, 1, PROMPTS)
    wins = rng.random(PROMPTS) < _chance(quality + likes_length * np.tanh(longer_by / 200))
    return length_controlled(wins.astype(float).tolist(), NAMES, longer_by.tolist())


def test_a_judge_that_only_likes_length_has_a_high_raw_win_rate_and_a_controlled_one_near_half() -> None:
    found = [_judged(0.0, 2.5, seed) for seed in range(10)]
    assert np.mean([each.raw.mean for each in found]) > 0.68
    controlled = [each.controlled for each in found if each.controlled]
    assert np.mean([interval.mean for interval in controlled]) == pytest.approx(0.5, abs=0.03)
    assert all(each.raw.low > 0.5 for each in found)
    assert sum(interval.low <= 0.5 <= interval.high for interval in controlled) >= 9
    assert all(each.length_effect and each.length_effect > 1 for each in found)


def test_a_judge_that_always_takes_the_longer_answer_is_seen_through_too() -> None:
    longer_by = np.random.default_rng(1).normal(0.8, 1, PROMPTS)
    found = length_controlled((longer_by > 0).astype(float).tolist(), NAMES, longer_by.tolist())
    assert found.raw.mean > 0.7 and found.controlled
    assert found.controlled.mean == pytest.approx(0.5, abs=0.1)


def test_a_judge_that_likes_quality_keeps_its_win_rate_however_long_the_answers() -> None:
    found = [_judged(1.0, 0.0, seed) for seed in range(10)]
    raw, controlled = [each.raw.mean for each in found], [each.controlled.mean for each in found if each.controlled]
    assert np.mean(controlled) == pytest.approx(np.mean(raw), abs=0.02)
    assert np.mean(controlled) == pytest.approx(float(_chance(np.array(1.0))), abs=0.03)


def test_a_good_model_with_short_answers_gains() -> None:
    found = _judged(1.0, 2.0, longer=-0.8)
    assert found.raw.mean < 0.6 and found.controlled and found.controlled.low > 0.6


@pytest.mark.parametrize(("quality", "likes_length"), [(0.0, 2.0), (1.0, 0.0), (2.0, 1.0)])
def test_the_interval_covers_with_samples_of_the_same_prompts(quality: float, likes_length: float) -> None:
    rng = np.random.default_rng(2)
    truth = _chance(quality + rng.normal(0, 0.5, 100_000)).mean()
    names, covered = [name for name in NAMES[:50] for _ in range(4)], 0
    for _ in range(400):
        longer_by = rng.normal(0.5, 1, 200)
        of_prompt = np.repeat(rng.normal(0, 0.5, 50), 4)
        wins = rng.random(200) < _chance(quality + of_prompt + likes_length * np.tanh(longer_by))
        found = length_controlled(wins.astype(float).tolist(), names, longer_by.tolist()).controlled
        covered += found is not None and found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.985


def test_samples_of_one_prompt_make_the_interval_no_narrower_and_would_if_they_counted_as_prompts() -> None:
    rng = np.random.default_rng(6)
    wins, longer_by, names = rng.integers(2, size=100) * 1.0, rng.normal(0.5, 1, 100), NAMES[:100]
    once = length_controlled(wins.tolist(), names, longer_by.tolist()).controlled
    fivefold = (np.tile(wins, 5).tolist(), np.tile(longer_by, 5).tolist())
    again = length_controlled(fivefold[0], names * 5, fivefold[1]).controlled
    naive = length_controlled(fivefold[0], [str(i) for i in range(500)], fivefold[1]).controlled
    assert once and again and naive
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.05)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_swapping_the_models_mirrors_the_figure_and_the_unit_of_length_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    wins, longer_by, hard = rng.integers(3, size=80) / 2, rng.normal(30, 90, 80), rng.normal(0, 1, 80)
    names = NAMES[:80]
    found = length_controlled(wins.tolist(), names, longer_by.tolist(), difficulty=hard.tolist())
    mirrored = length_controlled((1 - wins).tolist(), names, (-longer_by).tolist(), difficulty=hard.tolist())
    words = length_controlled(wins.tolist(), names, (longer_by / 5.5).tolist(), difficulty=hard.tolist())
    assert found.controlled and mirrored.controlled
    assert found.controlled.mean == pytest.approx(1 - mirrored.controlled.mean)
    assert found.controlled.low == pytest.approx(1 - mirrored.controlled.high)
    assert words.controlled == pytest.approx(found.controlled)


def test_difficulty_that_goes_with_length_is_not_taken_for_length() -> None:
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 1, 2000)
    longer_by = hard + rng.normal(0, 1, 2000)  # long answers where the prompt is hard, and hard prompts are won
    wins = (rng.random(2000) < _chance(2 * hard)).astype(float).tolist()
    names = [str(i) for i in range(2000)]
    with_it = length_controlled(wins, names, longer_by.tolist(), difficulty=hard.tolist())
    without = length_controlled(wins, names, longer_by.tolist())
    assert with_it.length_effect == pytest.approx(0, abs=0.2) and with_it.difficulty_effect is not None
    assert with_it.difficulty_effect == pytest.approx(2, abs=0.3)
    assert without.length_effect is not None and without.length_effect > 0.6


def test_the_fit_is_the_minimum_that_a_general_optimiser_finds() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(5)
    features, wins = np.stack([np.ones(60), rng.normal(0, 1, 60)], axis=1), rng.random(60)

    def loss(terms: Floats) -> float:
        chance = _chance(features @ terms)
        return float(-(wins * np.log(chance) + (1 - wins) * np.log(1 - chance)).sum() + 0.05 * terms @ terms)

    assert logistic_fit(features, wins).terms == pytest.approx(optimize.minimize(loss, np.zeros(2)).x, abs=1e-4)


def test_only_wins_and_ever_longer_answers_still_give_finite_figures() -> None:
    sure = length_controlled([1.0] * 20, NAMES[:20], list(range(20)))
    assert sure.controlled and 0.5 < sure.controlled.mean < 1 and sure.controlled.high <= 1
    same = length_controlled([1.0, 0.0] * 10, NAMES[:20], [0.0] * 20)
    assert same.controlled and same.controlled.mean == pytest.approx(0.5)
    assert length_controlled([1.0, 0.0] * 10, NAMES[:20], [7.0] * 20).controlled is None
    alone = length_controlled([1.0, 0.0, 1.0], ["a"] * 3, [1.0, 2.0, -1.0]).controlled
    assert alone and (alone.low, alone.high) == (0, 1)


def test_lists_that_do_not_match_are_refused() -> None:
    with pytest.raises(StatisticsError, match="2 preferences, 1 length differences"):
        length_controlled([1.0, 0.0], ["a", "b"], [3.0])
    with pytest.raises(StatisticsError, match="1 difficulties"):
        length_controlled([1.0, 0.0], ["a", "b"], [3.0, 1.0], difficulty=[1.0])
