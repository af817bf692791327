"""Intervals cover what they promise when prompts are clusters, and the naive ones do not."""

import numpy as np
import pytest

from eval.statistics import (
    StatisticsError,
    auc,
    cluster_bootstrap,
    differences,
    minimum_detectable_effect,
    paired_difference,
    prompt_means,
    sign_flip_p,
)

PROMPTS, SAMPLES, RUNS = 40, 5, 600


def _simulated(rng: np.random.Generator) -> tuple[list[float], list[str]]:
    """Scores with a prompt effect as large as the noise; the true mean is 6."""
    effects = np.repeat(rng.normal(0, 1, PROMPTS), SAMPLES)
    scores = 6 + effects + rng.normal(0, 1, PROMPTS * SAMPLES)
    return scores.tolist(), [f"p{i:02d}" for i in range(PROMPTS) for _ in range(SAMPLES)]


def test_the_interval_covers_95_percent_and_the_unclustered_one_does_not() -> None:
    rng = np.random.default_rng(1)
    clustered = naive = 0
    for run in range(RUNS):
        values, clusters = _simulated(rng)
        held = cluster_bootstrap(values, clusters, seed=run, resamples=1000)
        clustered += held.low <= 6 <= held.high
        alone = cluster_bootstrap(values, [str(i) for i in range(len(values))], seed=run, resamples=300)
        naive += alone.low <= 6 <= alone.high
    assert 0.93 <= clustered / RUNS <= 0.97
    assert naive / RUNS < 0.85


def test_the_interval_covers_for_skewed_clusters_of_unequal_size() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for run in range(RUNS):
        sizes = rng.integers(1, 6, 60)
        means = 2 * rng.beta(2, 5, 60) - 2 * 2 / 7
        clusters = np.repeat([f"p{i}" for i in range(60)], sizes)
        values = np.repeat(means, sizes) + rng.exponential(0.5, sizes.sum()) - 0.5
        interval = cluster_bootstrap(values.tolist(), clusters.tolist(), seed=run, resamples=1000)
        held += interval.low <= 0 <= interval.high
    assert 0.92 <= held / RUNS <= 0.975


def test_the_sign_flip_test_rejects_five_percent_under_the_null_and_most_under_an_effect() -> None:
    rng = np.random.default_rng(3)
    null = [sign_flip_p(rng.normal(0, 1, 30).tolist(), seed=i, flips=500) for i in range(800)]
    effect = [sign_flip_p(rng.normal(0.8, 1, 30).tolist(), seed=i, flips=500) for i in range(100)]
    assert np.mean(np.array(null) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 800)
    assert 0.4 < np.mean(np.array(null) <= 0.5) < 0.6
    assert np.mean(np.array(effect) <= 0.05) > 0.9


def test_the_sign_flip_test_is_exact_for_few_prompts() -> None:
    assert sign_flip_p([1.0, 1.0, 1.0]) == pytest.approx(2 / 8)
    assert sign_flip_p([1.0, -1.0]) == 1.0


def test_pairing_by_prompt_finds_what_an_unpaired_comparison_misses() -> None:
    rng = np.random.default_rng(4)
    clusters = [f"p{i}" for i in range(60)]
    before = rng.normal(6, 2, 60)
    after = before + 0.3 + rng.normal(0, 0.3, 60)
    paired = paired_difference(after.tolist(), clusters, before.tolist(), clusters)
    assert paired.low > 0
    shuffled = rng.permutation(clusters).tolist()
    unpaired = paired_difference(after.tolist(), clusters, before.tolist(), shuffled)
    assert unpaired.low < 0 < unpaired.high
    assert paired.mean == pytest.approx(unpaired.mean)


def test_row_order_changes_nothing_and_only_shared_prompts_are_compared() -> None:
    values, clusters = _simulated(np.random.default_rng(5))
    order = np.random.default_rng(6).permutation(len(values))
    mixed = cluster_bootstrap([values[i] for i in order], [clusters[i] for i in order], seed=9)
    assert mixed == cluster_bootstrap(values, clusters, seed=9)
    assert differences({"a": 3.0, "b": 1.0}, {"b": 4.0, "c": 0.0}) == {"b": -3.0}
    with pytest.raises(StatisticsError, match="none shared"):
        differences({"a": 1.0}, {"b": 1.0})


def test_clusters_weigh_by_their_size() -> None:
    assert cluster_bootstrap([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]).mean == 2.0
    assert prompt_means([1.0, 3.0, 5.0], ["a", "a", "b"]) == {"a": 2.0, "b": 5.0}


def test_one_prompt_gives_no_interval_and_equal_scores_a_point() -> None:
    alone = cluster_bootstrap([1.0, 2.0], ["a", "a"])
    assert (alone.low, alone.high) == (-np.inf, np.inf)
    assert cluster_bootstrap([7.0] * 6, list("abcdef")) == (7.0, 7.0, 7.0)


def test_missing_scores_are_refused_and_not_counted_as_zero() -> None:
    with pytest.raises(StatisticsError, match="1 not finite"):
        cluster_bootstrap([1.0, float("nan")], ["a", "b"])
    with pytest.raises(StatisticsError, match="0 values"):
        auc([], [1.0])
    with pytest.raises(StatisticsError, match="2 values, 1 clusters"):
        cluster_bootstrap([1.0, 2.0], ["a"])


def test_the_detectable_effect_follows_the_known_formula() -> None:
    rng = np.random.default_rng(7)
    spread = rng.normal(0, 1.5, 200)
    spread = 1.5 * (spread - spread.mean()) / spread.std(ddof=1)
    assert minimum_detectable_effect(spread.tolist()) == pytest.approx(0.30, abs=0.01)
    assert minimum_detectable_effect([1.0]) == float("inf")


def test_auc_counts_ties_half() -> None:
    assert auc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert auc([1.0], [1.0]) == 0.5
    assert auc([1.0, 3.0], [2.0]) == 0.5
