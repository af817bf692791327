"""How sure is a difference? Prompts are the clusters: ten samples of one prompt are one observation, not
ten.

Treating samples as independent makes errors up to three times too small (Miller 2024, arXiv 2411.00640), so
the bootstrap draws whole prompts and comparisons are paired by prompt. Missing scores (None) are left out
and counted by the caller; nothing here accepts them.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
EXACT_UP_TO = 12  # with this many prompts all 4,096 sign patterns are enumerated


class StatisticsError(ValueError):
    """Values from which no statistic can be made: none, or lengths that differ, or not finite."""


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


def _finite(values: Sequence[float], name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise StatisticsError(
            f"{name}: {array.size} values, {int((~np.isfinite(array)).sum())} not finite; "
            "at least one finite value is needed. Leave unscored values out."
        )
    return array


def _count(index: npt.NDArray[np.intp], weights: Floats) -> Floats:
    return np.bincount(index, weights=weights).astype(np.float64)


def _cluster_sums(values: Sequence[float], clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and size of each cluster, in the order of their names, so that row order does not matter."""
    array = _finite(values, "cluster_bootstrap")
    if len(clusters) != array.size:
        raise StatisticsError(f"cluster_bootstrap: {array.size} values, {len(clusters)} clusters; one cluster a value.")
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    order = np.lexsort((array, index))
    return _count(index[order], array[order]), _count(index, np.ones_like(array))


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of all values with a bootstrap interval over whole clusters (BCa, Efron 1987).

    Clusters weigh by their size. With a single cluster the interval is unbounded: one prompt tells
    nothing of others.
    """
    sums, sizes = _cluster_sums(values, clusters)
    mean = float(sums.sum() / sizes.sum())
    count = sums.size
    if count == 1:
        return Interval(mean, -np.inf, np.inf)
    picks = np.random.default_rng(seed).integers(count, size=(resamples, count))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = np.quantile(means, _bca_levels(sums, sizes, means, mean, level))
    return Interval(mean, float(low), float(high))


def _bca_levels(sums: Floats, sizes: Floats, means: Floats, mean: float, level: float) -> list[float]:
    """The two quantile levels, corrected for bias and skew and widened for few clusters (t, not normal)."""
    normal = NormalDist()
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    away = left_out.mean() - left_out
    spread = float((away**2).sum())
    skew = float((away**3).sum()) / (6 * spread**1.5) if spread > 1e-24 else 0.0
    below = (np.count_nonzero(means < mean) + 0.5 * np.count_nonzero(means == mean)) / means.size
    bias = normal.inv_cdf(min(max(below, 1e-3), 1 - 1e-3))
    z = normal.inv_cdf(0.5 + level / 2)
    degrees = sums.size - 1
    wide = np.sqrt(sums.size / degrees) * (z + (z**3 + z) / (4 * degrees))  # Cornish-Fisher t quantile, narrowness bias
    corrected = [bias + (bias + side) / (1 - skew * (bias + side)) for side in (-wide, wide)]
    return [normal.cdf(float(value)) for value in corrected]


def prompt_means(values: Sequence[float], clusters: Sequence[str]) -> dict[str, float]:
    """Mean of each prompt's samples, by prompt id."""
    grouped: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        grouped.setdefault(cluster, []).append(value)
    return {cluster: float(np.mean(sorted(group))) for cluster, group in sorted(grouped.items())}


def differences(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """After minus before for the prompts that both have, by prompt id; no shared prompt is an error."""
    shared = sorted(after.keys() & before.keys())
    if not shared:
        raise StatisticsError(
            f"differences: {len(after)} and {len(before)} prompts, none shared; judge both on the same prompts."
        )
    return {prompt: after[prompt] - before[prompt] for prompt in shared}


def paired_difference(
    after: Sequence[float],
    after_clusters: Sequence[str],
    before: Sequence[float],
    before_clusters: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """After minus before on per-prompt means matched by prompt id, with its interval over prompts."""
    by_prompt = differences(prompt_means(after, after_clusters), prompt_means(before, before_clusters))
    return cluster_bootstrap(list(by_prompt.values()), list(by_prompt), seed=seed, resamples=resamples, level=level)


def sign_flip_p(differences: Sequence[float], *, seed: int = 0, flips: int = 10000) -> float:
    """Two-sided permutation p of a zero mean: signs of the per-prompt differences flipped; exact for few."""
    array = np.sort(_finite(differences, "sign_flip_p"))
    if array.size <= EXACT_UP_TO:
        patterns = (np.arange(2**array.size)[:, None] >> np.arange(array.size)) & 1
        sums = np.abs((2.0 * patterns - 1) @ array)
        return float(np.mean(sums >= abs(array.sum()) - 1e-9))
    signs = np.random.default_rng(seed).integers(2, size=(flips, array.size)) * 2.0 - 1
    extreme = np.count_nonzero(np.abs(signs @ array) >= abs(array.sum()) - 1e-9)
    return float((extreme + 1) / (flips + 1))


def minimum_detectable_effect(differences: Sequence[float], power: float = 0.8, *, level: float = 0.95) -> float:
    """The true mean difference that a test at `level` would find with `power`; infinite for one prompt."""
    array = _finite(differences, "minimum_detectable_effect")
    if array.size < 2:
        return float("inf")
    normal = NormalDist()
    z = normal.inv_cdf(0.5 + level / 2) + normal.inv_cdf(power)
    return float(z * array.std(ddof=1) / np.sqrt(array.size))


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a positive outscores a negative, ties counting half (Mann-Whitney)."""
    high, low = _finite(positive, "auc"), np.sort(_finite(negative, "auc"))
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.sum() / (2 * high.size * low.size))
