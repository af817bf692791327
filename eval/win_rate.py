"""How often is one model preferred to the other, and how sure is that?

A tie is half a win. Prompts are the clusters, as in `eval.statistics`; but a bootstrap of ten wins in ten
says that the win rate is 100 % for sure, so the interval is Wilson's, with the number of prompts
that the clustered error is worth.
"""

from collections.abc import Sequence

import numpy as np

from eval.statistics import Interval, StatisticsError, clustered_standard_error, finite, t_quantile


def win_rate(preferences: Sequence[float], clusters: Sequence[str], *, level: float = 0.95) -> Interval:
    """Mean preference, 0 to 1, with a Wilson interval (Wilson 1927) for clustered data (Korn and Graubard 1998).

    A preference is 1 for a win, 0.5 for a tie, 0 for a loss, or a probability. The effective number of
    comparisons is p (1 - p) / SE² with the clustered SE, shrunk by (z / t)² for few prompts; where no preference
    differs from another it is the number of prompts. With one prompt the interval is 0 to 1.
    """
    array = finite(preferences, "win_rate")
    if ((array < 0) | (array > 1)).any():
        raise StatisticsError(
            f"win_rate: preferences from {array.min()} to {array.max()}; 0 (loss) to 1 (win) is allowed. Map them."
        )
    error = clustered_standard_error(preferences, clusters)
    rate, prompts = float(array.mean()), len(set(clusters))
    if prompts == 1:
        return Interval(rate, 0.0, 1.0)
    t = t_quantile(level, max(prompts - 1, 3))
    z = t_quantile(level, np.inf)
    size = rate * (1 - rate) / error**2 if error > 0 else float(prompts)
    size *= (z / t) ** 2
    centre = (rate + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z * np.sqrt(rate * (1 - rate) / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    return Interval(rate, max(float(centre - half), 0.0), min(float(centre + half), 1.0))
