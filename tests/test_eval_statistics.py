"""Intervals cover what they promise when prompts are clusters, and the naive ones do not."""

import numpy as np
import pytest

from eval.gate import gate
from eval.statistics import (
    Floats,
    StatisticsError,
    auc,
    bootstrap_totals,
    cluster_bootstrap,
    clustered_standard_error,
    differences,
    minimum_detectable_effect,
    paired_difference,
    prompt_means,
    prompts_to_decide,
    sign_flip_p,
    t_quantile,
)
from eval.verdict import Tally

PROMPTS, SAMPLES, RUNS = 40, 5, 600
NAMES = [f"p{i:03d}" for i in range(200)]


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


def _equal_models(rng: np.random.Generator, prompts: int, samples: int) -> Floats:
    """Differences (prompts, samples) of the whole-number scores of two models that are equally good."""
    scale = rng.normal(6, 1.5, prompts)
    means = scale + rng.normal(0, 1, (2, prompts))  # a prompt may suit one model by chance
    scores = np.clip(np.rint(means[..., None] + rng.normal(0, 1, (2, prompts, samples))), 1, 10)
    return np.asarray(scores[0] - scores[1], dtype=np.float64)


def _false_passes(gates: int, by_prompt: bool) -> float:
    """The share of gates that pass a model no better than the one before: 50 prompts of 4 samples."""
    rng = np.random.default_rng(10)
    passed = 0
    for run in range(gates):
        changes = _equal_models(rng, 50, 4)
        flat = (changes.mean(axis=1) if by_prompt else changes.ravel()).tolist()
        difference = cluster_bootstrap(flat, [f"{i:03d}" for i in range(len(flat))], seed=run, resamples=500)
        passed += gate("plot", tally=Tally(200, 200, 6.0), difference=difference).outcome == "PASS"
    return passed / gates


def test_at_most_five_percent_of_2000_gates_pass_under_the_null_and_more_when_samples_count_as_prompts() -> None:
    assert 0.01 < _false_passes(2000, by_prompt=True) <= 0.05
    assert _false_passes(500, by_prompt=False) > 0.07


def test_the_clustered_error_equals_the_formula_by_hand_and_the_naive_one_is_too_small() -> None:
    # mean 3; deviations -2, -2, 0, 4; SE² = 24 / 12; pairs within a: 2·(-2·-2) = 8, within b: 2·(0·4) = 0; 8 / 16
    assert clustered_standard_error([1.0, 1.0, 3.0, 7.0], ["a", "a", "b", "b"]) == pytest.approx(np.sqrt(2 + 0.5))
    assert clustered_standard_error([1.0, 1.0, 3.0, 7.0], list("abcd")) == pytest.approx(np.sqrt(2))
    assert clustered_standard_error([1.0, 2.0], ["a", "a"]) == np.inf


def test_the_clustered_error_is_the_spread_of_the_mean_and_the_naive_one_is_not() -> None:
    rng = np.random.default_rng(11)
    means, clustered, naive = [], [], []
    for _ in range(RUNS):
        values, clusters = _simulated(rng)
        means.append(np.mean(values))
        clustered.append(clustered_standard_error(values, clusters))
        naive.append(clustered_standard_error(values, [str(i) for i in range(len(values))]))
    spread = np.std(means)
    assert np.mean(clustered) == pytest.approx(spread, rel=0.08)
    assert np.mean(naive) < 0.7 * spread


def test_student_quantiles_are_those_of_the_tables() -> None:
    tabled = {3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, np.inf: 1.960}
    for degrees, quantile in tabled.items():
        assert t_quantile(0.95, degrees) == pytest.approx(quantile, rel=0.02 if degrees < 4 else 0.005)


def test_a_statistic_of_totals_has_the_interval_of_the_mean_when_it_is_the_mean() -> None:
    values, clusters = _simulated(np.random.default_rng(12))
    totals = np.array([[sum(values[i : i + SAMPLES]), SAMPLES] for i in range(0, len(values), SAMPLES)])
    found = bootstrap_totals(totals, lambda sums: sums[:, 0] / sums[:, 1], seed=3)
    assert found == pytest.approx(cluster_bootstrap(values, clusters, seed=3))
    assert bootstrap_totals(totals[:0], lambda sums: sums[:, 0]) is None
    assert bootstrap_totals(totals, lambda sums: np.full(len(sums), np.nan)) is None
    alone = bootstrap_totals(totals[:1], lambda sums: sums[:, 0] / sums[:, 1])
    assert alone is not None and (alone.low, alone.high) == (-np.inf, np.inf)


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


def test_the_number_of_prompts_follows_the_known_formula_and_decides_as_often_as_promised() -> None:
    rng = np.random.default_rng(8)
    pilot = rng.normal(0, 1.5, 200)
    pilot = 1.5 * (pilot - pilot.mean()) / pilot.std(ddof=1) + 0.3
    assert prompts_to_decide(pilot.tolist()) == 197  # 7.85 · 1.5² / 0.3²
    assert prompts_to_decide(pilot.tolist(), smallest=0.6) == 50
    assert prompts_to_decide((pilot + 7).tolist(), line=7.0) == 197
    decided = 0
    for run in range(RUNS):
        found = cluster_bootstrap(rng.normal(0.3, 1.5, 197).tolist(), NAMES[:197], seed=run, resamples=400)
        decided += found.low > 0
    assert 0.75 < decided / RUNS < 0.85


def test_no_number_of_prompts_decides_between_equals() -> None:
    assert prompts_to_decide([1.0, -1.0]) is None
    assert prompts_to_decide([1.0]) is None
    assert prompts_to_decide([1.0, 1.0]) == 2
    with pytest.raises(StatisticsError, match="a distance above 0"):
        prompts_to_decide([1.0, 2.0], smallest=-0.1)


def test_auc_counts_ties_half() -> None:
    assert auc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert auc([1.0], [1.0]) == 0.5
    assert auc([1.0, 3.0], [2.0]) == 0.5
