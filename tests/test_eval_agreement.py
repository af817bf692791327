"""Agreement with people: a published table comes out, and the intervals cover."""

import numpy as np
import pytest
from judge_data import judged, pair, pandalm, recorded, simulated, verdict

from eval.agreement import (
    Agreement,
    accuracy_of,
    accuracy_over,
    agreement,
    counts,
    human_agreement,
    kappa_of,
    vote_agreement,
)
from eval.bias import longest
from eval.labels import A, B, PairLabel
from eval.recorded import PairVerdict, Pick
from eval.statistics import Interval, bootstrap_totals


def _percent(found: Agreement) -> tuple[float, ...]:
    figures = (found.accuracy, found.precision, found.recall, found.f1)
    return tuple(round(100 * figure.mean, 2) for figure in figures if figure)


def test_the_published_row_of_pandalm_7b_comes_out() -> None:
    labels = pandalm()
    found = agreement(labels, recorded(labels, "pandalm-7b.json"))
    assert (found.asked, found.scored) == (999, 999)
    assert _percent(found) == (66.77, 57.38, 57.50, 57.43)


def test_two_labels_swapped_or_one_verdict_changed_give_other_figures() -> None:
    labels = pandalm()
    verdicts = recorded(labels, "pandalm-7b.json")
    tie, win = (next(i for i, label in enumerate(labels) if label.winner == kind) for kind in (0, 1))
    swapped = list(labels)
    swapped[tie], swapped[win] = (
        labels[tie]._replace(votes=labels[win].votes),
        labels[win]._replace(votes=labels[tie].votes),
    )
    assert _percent(agreement(swapped, verdicts)) != (66.77, 57.38, 57.50, 57.43)
    changed = [verdict(labels[0], 3 - (verdicts[0].settled.winner or 1)), *verdicts[1:]]
    assert _percent(agreement(labels, changed)) != (66.77, 57.38, 57.50, 57.43)


def test_the_published_row_of_gpt_35_counts_replies_that_are_no_verdict_as_ties_and_ours_does_not() -> None:
    labels = pandalm()
    verdicts = recorded(labels, "pandalm-gpt-3.5-turbo.json")
    as_ties = [one if one.settled.winner is not None else one._replace(straight=Pick(0)) for one in verdicts]
    assert _percent(agreement(labels, as_ties)) == (71.07, 58.79, 57.36, 57.55)  # their script's figures
    found = agreement(labels, verdicts)
    assert (found.asked, found.scored) == (999, 974)
    assert found.accuracy and found.accuracy_at_worst
    assert found.accuracy_at_worst.mean == pytest.approx(found.accuracy.mean * 974 / 999)


def test_the_published_kappas_between_the_annotators_of_pandalm_come_out() -> None:
    found = human_agreement(pandalm())
    assert found and found.kappa and found.pairs == 999
    assert {people: round(kappa or 0, 2) for people, kappa in found.between.items()} == {
        "1-2": 0.85,
        "1-3": 0.88,
        "2-3": 0.86,
    }
    assert 0.85 < found.kappa.mean < 0.88


def test_kappa_and_macro_averages_are_those_of_a_worked_example() -> None:
    labels = [pair(i, [winner]) for i, winner in enumerate([1, 1, 1, 1, 2, 2, 2, 0])]
    found = agreement(labels, [verdict(*both) for both in zip(labels, [1, 1, 1, 2, 2, 2, 1, 1], strict=True)])
    assert found.accuracy and found.kappa and found.precision and found.recall and found.f1
    assert found.accuracy.mean == pytest.approx(5 / 8)
    assert found.kappa.mean == pytest.approx((5 / 8 - (4 * 5 + 3 * 3) / 64) / (1 - (4 * 5 + 3 * 3) / 64))
    assert found.precision.mean == pytest.approx((3 / 5 + 2 / 3 + 0) / 3)
    assert found.recall.mean == pytest.approx((3 / 4 + 2 / 3 + 0) / 3)
    assert found.f1.mean == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_kinds_of_winner_that_people_never_named_are_not_averaged_over() -> None:
    labels = [pair(i, [1 + i % 2]) for i in range(10)]
    perfect = agreement(labels, judged(labels, lambda label: label.winner))
    assert perfect.f1 and perfect.f1.mean == 1
    assert perfect.kappa and perfect.kappa.mean == 1


def test_a_judge_that_always_says_the_same_has_no_kappa_worth_and_a_coin_none_either() -> None:
    labels = simulated(400)
    always = agreement(labels, judged(labels, lambda label: A))
    assert always.kappa and always.kappa.mean == 0
    rng = np.random.default_rng(1)
    coin = agreement(labels, judged(labels, lambda label: int(rng.integers(A, B + 1))))
    assert coin.kappa and coin.kappa.low < 0 < coin.kappa.high
    one_kind = [pair(i, [1]) for i in range(9)]
    assert agreement(one_kind, judged(one_kind, lambda label: A)).kappa is None  # chance explains all


def test_pairs_without_a_human_winner_and_unscored_ones_are_left_out_and_counted() -> None:
    labels = [pair(1, [1, 2]), pair(2, [1]), pair(3, [2]), pair(4, [2])]
    found = agreement(labels, [verdict(*both) for both in zip(labels, [1, 1, None, 1], strict=True)])
    assert (found.asked, found.scored) == (3, 2)
    assert found.accuracy and found.accuracy.mean == 1 / 2
    assert found.accuracy_at_worst and found.accuracy_at_worst.mean == 1 / 3
    silent = agreement(labels, judged(labels, lambda label: None))
    assert silent.scored == 0 and silent.accuracy is None and silent.kappa is None
    assert silent.accuracy_at_worst and silent.accuracy_at_worst.mean == 0
    assert agreement(labels[:1], judged(labels[:1], lambda label: 1)).asked == 0


def _study(clustered: bool) -> tuple[float, float]:
    """How often the intervals of accuracy (truly 0.7) and kappa (0.4) hold the truth.

    30 prompts of 5 pairs; the judge is good at some prompts and bad at others.
    """
    rng = np.random.default_rng(0)
    held = np.zeros(2)
    for run in range(400):
        skill = np.repeat(rng.beta(2.1, 0.9, 30), 5)
        winners = rng.integers(A, B + 1, 150)
        right = rng.random(150) < skill
        labels = [
            pair(i, [int(winner)], prompt=f"q{i // 5}" if clustered else str(i)) for i, winner in enumerate(winners)
        ]
        said = [int(winner) if good else A + B - int(winner) for winner, good in zip(winners, right, strict=True)]
        found = counts(labels, [verdict(*both) for both in zip(labels, said, strict=True)])
        for place, (statistic, truth) in enumerate(((accuracy_of, 0.7), (kappa_of, 0.4))):
            interval = bootstrap_totals(found, statistic, seed=run, resamples=400)
            held[place] += interval is not None and interval.low <= truth <= interval.high
    return float(held[0]) / 400, float(held[1]) / 400


@pytest.mark.slow
def test_the_intervals_cover_when_pairs_of_one_prompt_are_alike_and_do_not_when_pairs_count_as_prompts() -> None:
    assert all(0.925 <= covered <= 0.975 for covered in _study(clustered=True))
    assert all(covered < 0.9 for covered in _study(clustered=False))


def test_a_judge_is_compared_with_longer_wins_on_the_same_pairs() -> None:
    labels = simulated(300)
    knows = judged(labels, lambda label: label.winner)
    over = accuracy_over(labels, knows, longest(labels))
    assert over and over.low > 0.3
    assert accuracy_over(labels, longest(labels), longest(labels)) == Interval(0, 0, 0)
    labels_apart = [pair(1, [1], longer=5), pair(2, [1], longer=-5)]
    unscored = [verdict(labels_apart[0], 1), verdict(labels_apart[1], None)]
    missing = accuracy_over(labels_apart, unscored, longest(labels_apart))
    assert missing and missing.mean == 0


def test_agreement_with_one_vote_is_held_beside_that_of_two_people() -> None:
    labels = [pair(i, [1, 1, 2]) for i in range(6)]
    people, judge = human_agreement(labels), vote_agreement(labels, judged(labels, lambda label: A))
    assert people and people.agreement and people.agreement.mean == pytest.approx(1 / 3)
    assert judge and judge.mean == pytest.approx(2 / 3)


def test_votes_of_several_people_give_fleiss_kappa_and_one_vote_gives_none() -> None:
    votes = [(1, 1, 1), (1, 1, 2), (2, 2, 2), (0, 0, 2)]
    found = human_agreement([pair(i, each) for i, each in enumerate(votes)])
    shares = np.array([2, 5, 5]) / 12
    chance = (shares**2).sum()
    agreed = (1 + 1 / 3 + 1 + 1 / 3) / 4
    assert found and found.kappa and found.kappa.mean == pytest.approx((agreed - chance) / (1 - chance))
    assert human_agreement([pair(1, [1]), pair(2, [2])]) is None
    uneven: list[PairLabel] = [pair(1, [1, 1]), pair(2, [1, 2, 2])]
    other = human_agreement(uneven)
    assert other and other.between == {} and other.agreement is not None


def test_a_judge_asked_in_both_orders_counts_with_what_they_say_together() -> None:
    labels = [pair(1, [0]), pair(2, [1])]
    verdicts: list[PairVerdict] = [verdict(labels[0], 1, 2), verdict(labels[1], 1, 1)]
    found = agreement(labels, verdicts)
    assert found.accuracy and found.accuracy.mean == 1
