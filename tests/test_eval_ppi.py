"""A few human labels correct a biased judge: the interval covers, and is narrow when the judge knows something."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from eval.ppi import corrected_mean
from eval.statistics import Floats, StatisticsError

PROMPTS, LABELLED, RUNS = 300, 40, 1000
TRUTH = 0.55
Judge = Callable[[np.random.Generator, Floats], Floats]  # the human values in, its own out


class Study(NamedTuple):
    covered: float  # by the corrected interval
    alone: float  # by the labels alone
    mixed: float  # by human labels and judge scores thrown together
    width: float  # corrected over labels alone


def _people(rng: np.random.Generator) -> Floats:
    return (rng.random(PROMPTS) < TRUTH).astype(np.float64)


def _good_judge(rng: np.random.Generator, human: Floats) -> Floats:
    """Right in nine of ten, and when wrong it is for the new model: its own win rate is far too high."""
    return np.where(rng.random(PROMPTS) < 0.2, 1.0, human)


def _noise(rng: np.random.Generator, human: Floats) -> Floats:
    return rng.integers(2, size=human.size).astype(np.float64)


def _study(judge: Judge) -> Study:
    rng = np.random.default_rng(0)
    covered = alone = mixed = 0
    width = 0.0
    for _ in range(RUNS):
        human = _people(rng)
        judged = judge(rng, human)
        found = corrected_mean(human[:LABELLED].tolist(), judged[:LABELLED].tolist(), judged[LABELLED:].tolist())
        covered += found.interval.low <= TRUTH <= found.interval.high
        alone += found.labels_only.low <= TRUTH <= found.labels_only.high
        together = np.concatenate([human[:LABELLED], judged[LABELLED:]])
        mixed += abs(together.mean() - TRUTH) <= 1.96 * together.std() / np.sqrt(PROMPTS)
        width += (found.interval.high - found.interval.low) / (found.labels_only.high - found.labels_only.low)
    return Study(covered / RUNS, alone / RUNS, mixed / RUNS, width / RUNS)


def test_with_a_good_judge_the_interval_covers_and_is_narrower_and_mixing_scores_in_is_biased() -> None:
    study = _study(_good_judge)
    assert 0.93 <= study.covered <= 0.97
    assert study.width < 0.75
    assert study.mixed < 0.5  # the negative control
    assert 0.93 <= study.alone <= 0.97


def test_with_a_judge_that_is_noise_it_covers_and_is_hardly_wider_than_the_labels_alone() -> None:
    study = _study(_noise)
    assert 0.93 <= study.covered <= 0.97
    assert study.width < 1.03


def test_a_perfect_judge_is_trusted_and_a_constant_one_is_not() -> None:
    human = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    perfect = corrected_mean(human, human, [1.0, 0.0] * 300)
    assert perfect.tuning == pytest.approx(1.0, abs=0.12)
    assert perfect.interval.mean == pytest.approx(0.5, abs=0.03)
    constant = corrected_mean(human, [0.3] * 6, [0.3] * 100)
    assert constant.tuning == 0
    assert constant.interval == pytest.approx(constant.labels_only)


def test_a_judge_that_says_the_opposite_is_not_trusted() -> None:
    human = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert corrected_mean(human, [1 - value for value in human], [0.0, 1.0, 1.0]).tuning == 0


def test_too_few_labels_or_labels_that_do_not_match_are_refused() -> None:
    with pytest.raises(StatisticsError, match="4 human labels"):
        corrected_mean([1.0] * 4, [1.0] * 4, [1.0, 0.0])
    with pytest.raises(StatisticsError, match="6 human labels, 5 judge values"):
        corrected_mean([1.0] * 6, [1.0] * 5, [1.0, 0.0])
    with pytest.raises(StatisticsError, match="and 1 of others"):
        corrected_mean([1.0] * 6, [1.0] * 6, [1.0])
