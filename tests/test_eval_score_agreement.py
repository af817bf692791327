"""Scores of single answers: correlation, error and bias against people's."""

import numpy as np
import pytest

from eval.labels import ScoreLabel
from eval.recorded import ScoreVerdict
from eval.score_agreement import by_length, human_spearman, pearson, score_agreement


def _labels(count: int, seed: int = 0) -> list[ScoreLabel]:
    """Answers whose three people agree up to a point of noise, and whose lengths tell nothing."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(2, 9, count)
    return [
        ScoreLabel(
            str(i), f"p{i // 2}", "x" * int(rng.integers(10, 99)), tuple((true[i] + rng.normal(0, 0.5, 3)).tolist())
        )
        for i in range(count)
    ]


def _scored(labels: list[ScoreLabel], scores: list[float | None]) -> list[ScoreVerdict]:
    return [ScoreVerdict(label.id, score) for label, score in zip(labels, scores, strict=True)]


def test_a_judge_that_is_right_but_mild_has_full_correlation_and_a_bias() -> None:
    labels = _labels(40)
    found = score_agreement(labels, _scored(labels, [label.score + 1 for label in labels]))
    assert found.pearson and found.error and found.bias
    assert found.spearman == pytest.approx(1) and found.pearson.mean == pytest.approx(1)
    assert found.bias.mean == pytest.approx(1) and found.error.mean == pytest.approx(1)


def test_a_judge_that_guesses_has_no_correlation_and_one_that_counts_letters_is_found_out() -> None:
    labels = _labels(200)
    rng = np.random.default_rng(1)
    guesses = score_agreement(labels, _scored(labels, rng.uniform(1, 10, 200).tolist()))
    assert guesses.pearson and guesses.pearson.low < 0 < guesses.pearson.high
    letters = score_agreement(labels, by_length(labels))
    assert letters.length_correlation == pytest.approx(1)
    assert letters.spearman is not None and abs(letters.spearman) < 0.2


def test_unscored_answers_are_left_out_and_counted() -> None:
    labels = _labels(4)
    found = score_agreement(labels, _scored(labels, [labels[0].score, None, labels[2].score, None]))
    assert (found.asked, found.scored) == (4, 2) and found.error and found.error.mean == pytest.approx(0)
    silent = score_agreement(labels, _scored(labels, [None] * 4))
    assert silent == (4, 0, None, None, None, None, None)


def test_a_judge_that_gives_one_score_to_all_has_no_correlation() -> None:
    labels = _labels(10)
    found = score_agreement(labels, _scored(labels, [5.0] * 10))
    assert found.spearman is None and found.pearson is None and found.bias is not None


def test_spearman_and_pearson_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    labels = _labels(30)
    scores = rng.integers(1, 6, 30).astype(float)
    found = score_agreement(labels, _scored(labels, scores.tolist()))
    people = [label.score for label in labels]
    assert found.pearson and found.spearman == pytest.approx(stats.spearmanr(people, scores).statistic)
    assert found.pearson.mean == pytest.approx(stats.pearsonr(people, scores).statistic)


@pytest.mark.slow
def test_the_interval_of_the_correlation_covers_with_clusters_and_not_without() -> None:
    rng = np.random.default_rng(3)
    names, held, naive = [f"q{i // 4}" for i in range(160)], 0, 0
    for run in range(300):
        shared = np.repeat(rng.normal(0, 1, (2, 40)), 4, axis=1)
        shared[1] = 0.6 * shared[0] + 0.8 * shared[1]
        own = rng.normal(0, 0.3, (2, 160))
        own[1] = 0.6 * own[0] + 0.8 * own[1]
        one, other = shared + own
        found = pearson(one, other, names, seed=run)
        alone = pearson(one, other, [str(i) for i in range(160)], seed=run)
        held += found is not None and found.low <= 0.6 <= found.high
        naive += alone is not None and alone.low <= 0.6 <= alone.high
    assert 0.91 <= held / 300 <= 0.98
    assert naive / 300 < 0.85


def test_people_are_correlated_two_by_two_where_each_answer_has_equally_many_scores() -> None:
    found = human_spearman(_labels(100))
    assert found is not None and 0.9 < found < 1
    assert human_spearman([ScoreLabel("1", "p", "t", (5.0,)), ScoreLabel("2", "p", "t", (6.0,))]) is None
    assert human_spearman([ScoreLabel("1", "p", "t", (5.0, 4.0)), ScoreLabel("2", "p", "t", (6.0,))]) is None
