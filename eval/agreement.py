"""How far does a judge agree with people, and people with one another?

Accuracy flatters a judge where one answer is better in most pairs, so Cohen's kappa and the macro averages stand
beside it, and every figure has an interval over prompts: the 999 pairs of PandaLM have 170 prompts. Pairs
that the judge left unscored are left out and counted; `accuracy_at_worst` takes them for wrong, so that a judge gains
nothing by refusing the hard ones.
"""

from collections.abc import Sequence
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np

from eval.labels import PairLabel
from eval.recorded import PairVerdict
from eval.statistics import Floats, Interval, bootstrap_totals

CLASSES = 3  # tie, a, b
UNSCORED = CLASSES  # the column of pairs without a verdict
Counted = tuple[str, Floats]  # a prompt, and what one of its pairs adds


class Agreement(NamedTuple):
    """Of the pairs with a human winner, how many the judge scored, and how it agrees there: shares from 0 to 1.

    Precision, recall and F1 are means over the kinds of winner that people named. None where undefined.
    """

    asked: int
    scored: int
    accuracy: Interval | None
    accuracy_at_worst: Interval | None
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None
    kappa: Interval | None


class HumanAgreement(NamedTuple):
    """How often two people who voted on the same pair agree, that share corrected for chance, and kappa two by two."""

    pairs: int
    agreement: Interval | None
    kappa: Interval | None
    between: dict[str, float | None]  # "1-2": Cohen's kappa of the first and the second vote


def totals(counted: Sequence[Counted]) -> Floats:
    """What each prompt adds (prompts, k), in the order of the prompts' names; no row gives (0, 0)."""
    grouped: dict[str, Floats] = {}
    for prompt, adds in counted:
        grouped[prompt] = grouped[prompt] + adds if prompt in grouped else adds
    return np.stack([grouped[prompt] for prompt in sorted(grouped)]) if grouped else np.zeros((0, 0))


def share(sums: Floats) -> Floats:
    """First column over second, nan where that is 0: the statistic of a share for `bootstrap_totals`."""
    return _ratio(sums[:, 0], sums[:, 1])


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0))


def _table(sums: Floats) -> Floats:
    """Counts (m, 3, 3) of human winner by the judge's, from sums (m, 12) with the unscored in the last column."""
    return np.asarray(sums.reshape(-1, CLASSES, CLASSES + 1)[:, :, :CLASSES])


def _right(sums: Floats) -> Floats:
    return np.asarray(np.trace(_table(sums), axis1=1, axis2=2))


def accuracy_of(sums: Floats) -> Floats:
    """Share of scored pairs with the human winner, from sums (m, 12)."""
    return _ratio(_right(sums), _table(sums).sum(axis=(1, 2)))


def _accuracy_at_worst(sums: Floats) -> Floats:
    return _ratio(_right(sums), sums.sum(axis=1))


def kappa_of(sums: Floats) -> Floats:
    """Cohen 1960: (p_o - p_e) / (1 - p_e), nan where all agree on one class so that chance explains all."""
    table = _table(sums)
    count = table.sum(axis=(1, 2))
    by_chance = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1)
    return _ratio(_right(sums) * count - by_chance, count**2 - by_chance)


def macro_of(sums: Floats, classes: Sequence[int]) -> tuple[Floats, Floats, Floats]:
    """Macro precision, recall and F1 over `classes`; 0 for one that is never named, as is usual."""
    table = _table(sums)[:, classes]
    hits = np.stack([table[:, place, kind] for place, kind in enumerate(classes)], axis=1)
    named = _table(sums).sum(axis=1)[:, classes]
    precision, recall = np.nan_to_num(_ratio(hits, named)), np.nan_to_num(_ratio(hits, table.sum(axis=2)))
    f1 = np.nan_to_num(_ratio(2 * precision * recall, precision + recall))
    return precision.mean(axis=1), recall.mean(axis=1), f1.mean(axis=1)


def counts(labels: Sequence[PairLabel], verdicts: Sequence[PairVerdict]) -> Floats:
    """What each prompt adds to the table (prompts, 12), human winner by the judge's; no pair without a winner."""
    counted = []
    for label, verdict in zip(labels, verdicts, strict=True):
        if label.winner is not None:
            pick = verdict.settled.winner
            counted.append((label.prompt, _one(label.winner, UNSCORED if pick is None else pick)))
    return totals(counted)


def _one(human: int, judge: int, weight: float = 1.0) -> Floats:
    cell = np.zeros((CLASSES, CLASSES + 1))
    cell[human, judge] = weight
    return cell.ravel()


def agreement(
    labels: Sequence[PairLabel], verdicts: Sequence[PairVerdict], *, seed: int = 0, level: float = 0.95
) -> Agreement:
    """A judge's verdicts, in the order of the labels (`eval.recorded.pair_verdicts`), against what most people said.

    A judge asked in both orders counts with what they say together. Pairs on which people have no winner are left out.
    """
    found = counts(labels, verdicts)
    if not found.size:
        return Agreement(0, 0, None, None, None, None, None, None)
    classes = [kind for kind in range(CLASSES) if _table(found.sum(axis=0)[None]).sum(axis=2)[0, kind] > 0]
    whole = found.sum(axis=0).reshape(CLASSES, CLASSES + 1)
    scored = whole[:, :CLASSES].sum()
    if not scored:
        worst = bootstrap_totals(found, _accuracy_at_worst, seed=seed, level=level)
        return Agreement(int(whole.sum()), 0, None, worst, None, None, None, None)
    accuracy, worst, precision, recall, f1, kappa = (
        bootstrap_totals(found, statistic, seed=seed, level=level)
        for statistic in (
            accuracy_of,
            _accuracy_at_worst,
            lambda sums: macro_of(sums, classes)[0],
            lambda sums: macro_of(sums, classes)[1],
            lambda sums: macro_of(sums, classes)[2],
            kappa_of,
        )
    )
    return Agreement(int(whole.sum()), int(scored), accuracy, worst, precision, recall, f1, kappa)


def vote_agreement(
    labels: Sequence[PairLabel], verdicts: Sequence[PairVerdict], *, seed: int = 0, level: float = 0.95
) -> Interval | None:
    """How often the judge agrees with one person's vote: to be held beside how often two people agree."""
    counted = [
        (label.prompt, np.array([label.votes.count(pick), len(label.votes)], dtype=np.float64))
        for label, verdict in zip(labels, verdicts, strict=True)
        if (pick := verdict.settled.winner) is not None
    ]
    return bootstrap_totals(totals(counted), share, seed=seed, level=level)


def accuracy_over(
    labels: Sequence[PairLabel],
    verdicts: Sequence[PairVerdict],
    others: Sequence[PairVerdict],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Accuracy of one judge less that of another, -1 to 1, on the pairs that both scored; paired, so it is sharper."""
    counted = [
        (label.prompt, np.array([(one == label.winner) - (other == label.winner), 1], dtype=np.float64))
        for label, verdict, beside in zip(labels, verdicts, others, strict=True)
        if (one := verdict.settled.winner) is not None
        and (other := beside.settled.winner) is not None
        and label.winner is not None
    ]
    return bootstrap_totals(totals(counted), share, seed=seed, level=level)


def human_agreement(labels: Sequence[PairLabel], *, seed: int = 0, level: float = 0.95) -> HumanAgreement | None:
    """People against one another on the pairs with several votes; None without any.

    `kappa` pools all ordered pairs of votes, each pair of answers with the weight of its votes: Fleiss' kappa (1971)
    where all have equally many. `between` is Cohen's kappa of the n-th and m-th votes where every pair of answers has
    equally many, so that a place in the list can be a person.
    """
    several = [label for label in labels if len(label.votes) > 1]
    if not several:
        return None
    pooled = totals([(label.prompt, _all_votes(label.votes)) for label in several])
    found, kappa = (
        bootstrap_totals(pooled, statistic, seed=seed, level=level) for statistic in (accuracy_of, kappa_of)
    )
    return HumanAgreement(len(several), found, kappa, _between(several))


def _all_votes(votes: Sequence[int]) -> Floats:
    """The table of all ordered pairs of votes on one pair of answers; it sums to the number of votes."""
    return _sum([_one(one, other, 1 / (len(votes) - 1)) for one, other in permutations(votes, 2)])


def _sum(parts: Sequence[Floats]) -> Floats:
    return np.asarray(np.sum(parts, axis=0), dtype=np.float64)


def _between(labels: Sequence[PairLabel]) -> dict[str, float | None]:
    people = {len(label.votes) for label in labels}
    if len(people) > 1:
        return {}
    tables = {
        f"{one + 1}-{other + 1}": _sum([_one(label.votes[one], label.votes[other]) for label in labels])
        for one, other in combinations(range(people.pop()), 2)
    }
    kappas = {names: float(kappa_of(table[None])[0]) for names, table in tables.items()}
    return {names: kappa if np.isfinite(kappa) else None for names, kappa in kappas.items()}
