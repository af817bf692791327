"""What would the win rate be if both models answered at the same length?

Judges like long answers, so a model may win by its length alone. AlpacaEval 2's answer (Dubois, Galambosi,
Liang and Hashimoto 2024, arXiv 2404.04475): a logistic regression explains each preference by a term for the
model, one for the length difference and one for how hard the prompt is; the controlled win rate is what it
predicts with the length term at zero. It is printed beside the raw one and does not replace it: it removes
all that goes with length, earned or not.

Two things differ from AlpacaEval. A small fixed ridge keeps the terms finite in place of a cross-validated L1
penalty, so that the same preferences give the same figure without drawing folds; and there are no made-up
opponents in the fit, so a model that cuts its answers short on the lost prompts can gain by it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.statistics import Floats, Interval, StatisticsError, finite, t_quantile
from eval.win_rate import win_rate

RIDGE = 0.1  # a normal prior of standard deviation 3.2 on each term: 20 wins of 20 are 98 %, not 100 %
STEPS, CLOSE = 100, 1e-10


class LengthControlled(NamedTuple):
    """The raw and the controlled win rate, and what an average length difference does to the log odds of a win."""

    raw: Interval
    controlled: Interval | None  # None: all answers are longer by the same, so length cannot be told from the model
    length_effect: float | None
    difficulty_effect: float | None


class Fit(NamedTuple):
    """Terms (k,) of a logistic regression and the curvature (k, k) of its penalised likelihood there."""

    terms: Floats
    curvature: Floats


def _chance(log_odds: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -log_odds))


def _objective(features: Floats, wins: Floats, terms: Floats) -> float:
    log_odds = features @ terms
    return float((wins * log_odds - np.logaddexp(0.0, log_odds)).sum() - RIDGE / 2 * terms @ terms)


def logistic_fit(features: Floats, wins: Floats) -> Fit:
    """Ridge logistic regression by Newton's method: features (n, k), wins (n,) from 0 to 1, no intercept added.

    The penalised likelihood is concave with one maximum, and steps that overshoot are halved, so every
    start ends there.
    """
    terms = np.zeros(features.shape[1])
    for _ in range(STEPS):
        chance = _chance(features @ terms)
        slope = features.T @ (wins - chance) - RIDGE * terms
        step = np.linalg.solve(_curvature(features, chance), slope)
        before = _objective(features, wins, terms)
        while _objective(features, wins, terms + step) < before - CLOSE:
            step = step / 2
        terms = terms + step
        if np.abs(step).max() < CLOSE:
            break
    return Fit(terms, _curvature(features, _chance(features @ terms)))


def _curvature(features: Floats, chance: Floats) -> Floats:
    curved = (features * (chance * (1 - chance))[:, None]).T @ features
    return np.asarray(curved + RIDGE * np.eye(features.shape[1]))


def _covariance(features: Floats, wins: Floats, clusters: Sequence[str], fit: Fit) -> Floats:
    """Of the terms, prompts being the clusters: a sandwich, with the prior counted among what was observed."""
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    slopes = features * (wins - _chance(features @ fit.terms))[:, None]
    by_cluster = np.stack([np.bincount(index, weights=column) for column in slopes.T], axis=1)
    count = len(by_cluster)
    middle = by_cluster.T @ by_cluster * count / (count - 1) + RIDGE * np.eye(features.shape[1])
    inverse = np.linalg.inv(fit.curvature)
    return np.asarray(inverse @ middle @ inverse)


def _scaled(values: Floats) -> Floats:
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return values / spread if spread > 0 else np.zeros_like(values)


def _interval(at: Floats, fit: Fit, covariance: Floats, prompts: int, level: float) -> Interval:
    """Mean chance over the rows of `at`, with its interval on the log odds (delta method), which stays in 0 to 1."""
    chance = _chance(at @ fit.terms)
    rate = float(chance.mean())
    slope = (at * (chance * (1 - chance))[:, None]).mean(axis=0)
    error = float(np.sqrt(slope @ covariance @ slope)) / (rate * (1 - rate))
    centre = np.log(rate / (1 - rate))
    half = t_quantile(level, max(prompts - 1, 3)) * error
    low, high = _chance(np.array([centre - half, centre + half]))
    return Interval(rate, float(low), float(high))


def _checked(preferences: Sequence[float], longer_by: Sequence[float], difficulty: Sequence[float] | None) -> None:
    lengths = {len(preferences), len(longer_by), len(preferences if difficulty is None else difficulty)}
    if len(lengths) > 1:
        raise StatisticsError(
            f"length_controlled: {len(preferences)} preferences, {len(longer_by)} length differences"
            f"{'' if difficulty is None else f', {len(difficulty)} difficulties'}; one each a comparison."
        )


def length_controlled(
    preferences: Sequence[float],
    clusters: Sequence[str],
    longer_by: Sequence[float],
    *,
    difficulty: Sequence[float] | None = None,
    level: float = 0.95,
) -> LengthControlled:
    """Win rate with the length difference at zero, beside the raw one.

    `preferences` are 1 (win), 0.5 (tie), 0 (loss) or between, `clusters` the prompts' names, `longer_by` the
    length of the model's answer less that of the other, in any unit (characters in AlpacaEval); it enters as
    tanh(d / sd of d). `difficulty` is a number a prompt known from elsewhere, such as the log odds of other models
    there; without it that term is left out. Effects are on the log odds, for one sd. Swapping the models mirrors it.
    """
    _checked(preferences, longer_by, difficulty)
    raw = win_rate(preferences, clusters, level=level)
    wins, differences = finite(preferences, "preferences"), finite(longer_by, "longer_by")
    length = np.tanh(_scaled(differences))
    if not length.any() and differences.any():
        return LengthControlled(raw, None, None, None)
    columns = [np.ones_like(wins), length]
    if difficulty is not None:
        hard = finite(difficulty, "difficulty")
        columns.append(_scaled(hard - hard.mean()))
    features = np.stack(columns, axis=1)
    fit = logistic_fit(features, wins)
    at = features * np.array([1.0, 0.0, 1.0])[: features.shape[1]]
    prompts = len(set(clusters))
    if prompts == 1:
        controlled = Interval(float(_chance(at @ fit.terms).mean()), 0.0, 1.0)
    else:
        controlled = _interval(at, fit, _covariance(features, wins, clusters, fit), prompts, level)
    difficulty_effect = float(fit.terms[2]) if difficulty is not None else None
    return LengthControlled(raw, controlled, float(np.tanh(1.0) * fit.terms[1]), difficulty_effect)
