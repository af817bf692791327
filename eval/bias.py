"""What moves a judge besides the answers: their order and their length.

Of the published verdicts of a strong judge 12.9 % change when the answers change places (lm-sys/FastChat issue 3911),
and 68 % go to the longer answer. People too prefer long answers, since they often are better, so the human share stands
beside the judge's: the bias is what the judge adds.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from eval.agreement import Counted, share, totals
from eval.labels import TIE, A, B, PairLabel
from eval.recorded import PairVerdict, Pick
from eval.statistics import Floats, Interval, bootstrap_totals, spearman


class Bias(NamedTuple):
    """How the judge leans, each with its interval over prompts; None where nothing was decided.

    `flips`: share of the pairs scored in both orders whose verdict changed with the order. `position`: how much more
    often the answer shown first wins than it should, -0.5 to 0.5 with both orders; with one order, -1 to 1 and
    against people. `longer`: share of decided verdicts for the longer answer; `humans_longer`: people's, same pairs;
    `length` is the difference. `length_correlation`: Spearman's, of the preference for a with how many characters it is
    longer by.
    """

    both_orders: int
    flips: Interval | None
    position: Interval | None
    longer: Interval | None
    humans_longer: Interval | None
    length: Interval | None
    length_correlation: float | None


def longest(labels: Sequence[PairLabel]) -> list[PairVerdict]:
    """The judge that takes the longer answer (in characters) and reads nothing; equal lengths tie."""
    return [PairVerdict(label.id, Pick(_longer(label), "the longer one")) for label in labels]


def _longer(label: PairLabel) -> int:
    if len(label.a) == len(label.b):
        return TIE
    return A if len(label.a) > len(label.b) else B


def bias(labels: Sequence[PairLabel], verdicts: Sequence[PairVerdict], *, seed: int = 0, level: float = 0.95) -> Bias:
    """How a judge leans, from its verdicts in the order of the labels (`eval.recorded.pair_verdicts`)."""
    pairs = list(zip(labels, verdicts, strict=True))

    def interval(counted: list[Counted], statistic: Callable[[Floats], Floats] = share) -> Interval | None:
        return bootstrap_totals(totals(counted), statistic, seed=seed, level=level)

    flips = _flips(pairs)
    of_length = _takes_longer(pairs)
    position = interval(_first_of_both(pairs), _share_above_half) if flips else interval(_first_of_one(pairs), _excess)
    return Bias(
        len(flips),
        interval(flips),
        position,
        interval(of_length),
        interval(of_length, lambda sums: share(sums[:, 2:])),
        interval(of_length, _excess),
        _length_correlation(pairs),
    )


Pairs = Sequence[tuple[PairLabel, PairVerdict]]


def _adds(label: PairLabel, *numbers: float) -> Counted:
    return label.prompt, np.array(numbers, dtype=np.float64)


def _in_both(verdict: PairVerdict) -> tuple[int, int] | None:
    """The winners in both orders, or None where one is missing."""
    straight, swapped = verdict.straight.winner, verdict.swapped.winner if verdict.swapped else None
    return None if straight is None or swapped is None else (straight, swapped)


def _flips(pairs: Pairs) -> list[Counted]:
    """Whether the verdict changed, out of one, for pairs with a verdict in both orders."""
    return [_adds(label, both[0] != both[1], 1) for label, verdict in pairs if (both := _in_both(verdict))]


def _first_of_both(pairs: Pairs) -> list[Counted]:
    """Verdicts for the answer shown first out of those decided; each answer was first once."""
    return [
        _adds(label, (both[0] == A) + (both[1] == B), (both[0] != TIE) + (both[1] != TIE))
        for label, verdict in pairs
        if (both := _in_both(verdict))
    ]


def _first_of_one(pairs: Pairs) -> list[Counted]:
    """The judge's verdicts for a out of those decided, then people's of the same pairs."""
    return [
        _adds(label, pick == A, pick != TIE, label.winner == A, label.winner != TIE)
        for label, verdict in pairs
        if (pick := verdict.straight.winner) is not None and label.winner is not None
    ]


def _share_above_half(sums: Floats) -> Floats:
    return share(sums) - 0.5


def _excess(sums: Floats) -> Floats:
    return share(sums[:, :2]) - share(sums[:, 2:])


def _takes_longer(pairs: Pairs) -> list[Counted]:
    """The judge's verdicts for the longer answer out of those decided, then people's of the same pairs."""
    return [
        _adds(label, pick == longer, pick != TIE, label.winner == longer, label.winner != TIE)
        for label, verdict in pairs
        if (pick := verdict.settled.winner) is not None
        and label.winner is not None
        and (longer := _longer(label)) != TIE
    ]


def _length_correlation(pairs: Pairs) -> float | None:
    scored = [(label, pick) for label, verdict in pairs if (pick := verdict.settled.winner) is not None]
    preference = np.array([{A: 1.0, TIE: 0.5, B: 0.0}[pick] for _, pick in scored])
    return spearman(preference, np.array([len(label.a) - len(label.b) for label, _ in scored], dtype=np.float64))
