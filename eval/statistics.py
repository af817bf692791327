"""How sure is a difference? Prompts are the clusters: ten samples of one prompt are one observation, not
ten.

Treating samples as independent makes errors up to three times too small (Miller 2024, arXiv 2411.00640), so
the bootstrap draws whole prompts and comparisons are paired by prompt. Missing scores (None) are left out
and counted by the caller, and `eval.missing` says what they could change; nothing here accepts them.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
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


def finite(values: Sequence[float], name: str) -> Floats:
    """The values as an array; none at all or one that is no finite number is an error that names `name`."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise StatisticsError(
            f"{name}: {array.size} values, {int((~np.isfinite(array)).sum())} not finite; "
            "at least one finite value is needed. Leave unscored values out."
        )
    return array


def _count(index: npt.NDArray[np.intp], weights: Floats) -> Floats:
    return np.bincount(index, weights=weights).astype(np.float64)


def _cluster_sums(values: Sequence[float], clusters: Sequence[str], name: str) -> tuple[Floats, Floats]:
    """Sum and size of each cluster, in the order of their names, so that row order does not matter."""
    array = finite(values, name)
    if len(clusters) != array.size:
        raise StatisticsError(f"{name}: {array.size} values, {len(clusters)} clusters; one cluster a value.")
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
    sums, sizes = _cluster_sums(values, clusters, "cluster_bootstrap")
    mean = float(sums.sum() / sizes.sum())
    count = sums.size
    if count == 1:
        return Interval(mean, -np.inf, np.inf)
    picks = np.random.default_rng(seed).integers(count, size=(resamples, count))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    low, high = np.quantile(means, _bca_levels(left_out, means, mean, level))
    return Interval(mean, float(low), float(high))


def bootstrap_totals(
    totals: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval | None:
    """A statistic of summed counts with its BCa interval over whole clusters; None where the data leave it undefined.

    `totals` (clusters, k) holds what each cluster adds; `statistic` maps sums (m, k) to values (m,), nan where
    it is undefined (such resamples are left out). For ratios: accuracy, precision, kappa of a confusion matrix.
    """
    count = len(totals)
    mean = float(statistic(totals.sum(axis=0)[None])[0]) if count else float("nan")
    if not np.isfinite(mean):
        return None
    if count == 1:
        return Interval(mean, -np.inf, np.inf)
    picks = np.random.default_rng(seed).integers(count, size=(resamples, count))
    cells = (picks + count * np.arange(resamples)[:, None]).ravel()
    drawn = np.bincount(cells, minlength=resamples * count).reshape(resamples, count).astype(np.float64)
    values, left_out = statistic(drawn @ totals), statistic(totals.sum(axis=0) - totals)
    values, left_out = values[np.isfinite(values)], left_out[np.isfinite(left_out)]
    if not values.size or left_out.size < 2:
        return Interval(mean, -np.inf, np.inf)
    low, high = np.quantile(values, _bca_levels(left_out, values, mean, level))
    return Interval(mean, float(low), float(high))


def _bca_levels(left_out: Floats, means: Floats, mean: float, level: float) -> list[float]:
    """The two quantile levels, corrected for bias and skew and widened for few clusters (t, not normal)."""
    normal = NormalDist()
    away = left_out.mean() - left_out
    spread = float((away**2).sum())
    skew = float((away**3).sum()) / (6 * spread**1.5) if spread > 1e-24 else 0.0
    below = (np.count_nonzero(means < mean) + 0.5 * np.count_nonzero(means == mean)) / means.size
    bias = normal.inv_cdf(min(max(below, 1e-3), 1 - 1e-3))
    z = normal.inv_cdf(0.5 + level / 2)
    degrees = left_out.size - 1
    wide = np.sqrt(left_out.size / degrees) * (
        z + (z**3 + z) / (4 * degrees)
    )  # Cornish-Fisher t quantile, narrowness bias
    corrected = [bias + (bias + side) / (1 - skew * (bias + side)) for side in (-wide, wide)]
    return [normal.cdf(float(value)) for value in corrected]


def clustered_standard_error(values: Sequence[float], clusters: Sequence[str]) -> float:
    """Standard error of the mean of values that come in clusters (Miller 2024, arXiv 2411.00640).

    sqrt(SE² + (1/n²) Σ_c Σ_i Σ_{j≠i} (s_ic - s̄)(s_jc - s̄)), where SE² = Σ (s_i - s̄)² / (n (n - 1)) is the squared
    error of independent values, n counts values, c clusters, and i and j run within a cluster. In units of
    the values; infinite for one cluster. Too small for fewer than some 30 clusters: intervals come from
    `cluster_bootstrap`, which is widened for that.
    """
    array = finite(values, "clustered_standard_error")
    away = array - array.mean()
    sums, sizes = _cluster_sums(away.tolist(), clusters, "clustered_standard_error")
    count = array.size
    if sizes.size < 2:
        return float("inf")
    squares = float((away**2).sum())
    crossed = float((sums**2).sum()) - squares  # all ordered pairs of one cluster, without a value's own square
    return float(np.sqrt(max(squares / (count * (count - 1)) + crossed / count**2, 0.0)))


def t_quantile(level: float, degrees: float) -> float:
    """Where the two-sided `level` of Student's t ends, for at least 3 degrees of freedom (within 2 %).

    Cornish-Fisher expansion round the normal quantile (Abramowitz and Stegun 1964, 26.7.5).
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


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
    array = np.sort(finite(differences, "sign_flip_p"))
    if array.size <= EXACT_UP_TO:
        patterns = (np.arange(2**array.size)[:, None] >> np.arange(array.size)) & 1
        sums = np.abs((2.0 * patterns - 1) @ array)
        return float(np.mean(sums >= abs(array.sum()) - 1e-9))
    signs = np.random.default_rng(seed).integers(2, size=(flips, array.size)) * 2.0 - 1
    extreme = np.count_nonzero(np.abs(signs @ array) >= abs(array.sum()) - 1e-9)
    return float((extreme + 1) / (flips + 1))


def minimum_detectable_effect(differences: Sequence[float], power: float = 0.8, *, level: float = 0.95) -> float:
    """The true mean difference that a test at `level` would find with `power`; infinite for one prompt."""
    array = finite(differences, "minimum_detectable_effect")
    if array.size < 2:
        return float("inf")
    normal = NormalDist()
    z = normal.inv_cdf(0.5 + level / 2) + normal.inv_cdf(power)
    return float(z * array.std(ddof=1) / np.sqrt(array.size))


def prompts_to_decide(
    values: Sequence[float],
    power: float = 0.8,
    *,
    line: float = 0.0,
    smallest: float | None = None,
    level: float = 0.95,
) -> int | None:
    """How many prompts like these would put the interval of their mean wholly on one side of `line`, with `power`.

    n = (z_level + z_power)² · variance / distance² (Miller 2024), where the distance is that of the
    observed mean to the line, or `smallest`, the smallest difference of interest, both in units of the
    values. The observed mean is itself uncertain, so its n is a rough guess; `smallest` is not. None where no
    number would do: no distance, or fewer than two prompts to tell the variance from.
    """
    array = finite(values, "prompts_to_decide")
    if smallest is not None and not smallest > 0:
        raise StatisticsError(f"prompts_to_decide: smallest {smallest}; it is a distance above 0. Leave out the sign.")
    distance = smallest if smallest is not None else abs(float(array.mean()) - line)
    if array.size < 2 or distance == 0:
        return None
    normal = NormalDist()
    z = normal.inv_cdf(0.5 + level / 2) + normal.inv_cdf(power)
    return max(2, ceil(z**2 * float(array.var(ddof=1)) / distance**2))


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a positive outscores a negative, ties counting half (Mann-Whitney)."""
    high, low = finite(positive, "auc"), np.sort(finite(negative, "auc"))
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.sum() / (2 * high.size * low.size))


def spearman(one: Floats, other: Floats) -> float | None:
    """Spearman's rank correlation, -1 to 1, ties sharing their mean rank; None where one list does not vary."""
    if one.size < 2 or one.min() == one.max() or other.min() == other.max():
        return None
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place], dtype=np.float64)
