"""Laws of pairs: the best against the worst that may stand, whatever the order; what makes no pair has a reason."""

from collections.abc import Callable, Sequence
from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.pairing import (
    CUT,
    FEW,
    LABEL_REASONS,
    LENGTHS,
    NEAR,
    NO_SCORE,
    REASONS,
    TIE,
    UNENDED,
    UNSCORED,
    Candidate,
    Label,
    Pair,
    Rules,
    best_against_worst,
    labelled,
    lengths_match,
    middle,
    near,
    spread,
)

TEXTS = [
    "the cat sat on the mat and slept",
    "a dog ran far away over the hill and did not come back for tea",
    "one two three four five six seven eight nine ten",
    "one two three four five six seven eight nine ten eleven twelve thirteen",
    "no",
]
candidates = st.builds(
    Candidate,
    st.sampled_from(TEXTS),
    st.none() | st.sampled_from([1.0, 2.0, 2.5, 9.0]),
    st.booleans(),
    start=st.just(0),
)
answers = st.lists(candidates, max_size=6)
rules = st.builds(
    Rules, st.sampled_from([0.0, 0.5, 7.0]), st.sampled_from([0.6, 0.9]), st.none() | st.just(1.3), st.booleans()
)
some = settings(max_examples=40, deadline=None, database=None, derandomize=True)
Choose = Callable[[Sequence[Candidate], Rules], Pair | str]


def may_stand(one: Candidate, other: Candidate, rules: Rules) -> bool:
    """The rules once more, in other words: the reference of the differential test."""
    if one.score is None or other.score is None or not one.stopped:
        return False
    apart = one.score > other.score and one.score - other.score >= rules.margin
    return (
        apart
        and (other.stopped or rules.reject_cut)
        and not near(one.text, other.text, rules.near_duplicates)
        and (rules.length_ratio is None or lengths_match(one.text, other.text, rules.length_ratio))
    )


def difference(one: Candidate, other: Candidate) -> float:
    return (one.score or 0.0) - (other.score or 0.0)


def holds(choose: Choose, found: Sequence[Candidate], rules: Rules) -> bool:
    """The law: a pair that may stand and that no other surpasses, or none where there is none."""
    possible = [
        (difference(one, other), -abs(len(one.text.split()) - len(other.text.split())))
        for one, other in permutations(found, 2)
        if may_stand(one, other, rules)
    ]
    pair = choose(found, rules)
    if isinstance(pair, str):
        return not possible and pair in REASONS
    one, other = found[pair.chosen], found[pair.rejected]
    best = (difference(one, other), -abs(len(one.text.split()) - len(other.text.split())))
    return may_stand(one, other, rules) and best == max(possible)


@some
@given(answers, rules)
def test_of_all_pairs_that_may_stand_the_widest_is_taken(found: list[Candidate], rules: Rules) -> None:
    assert holds(best_against_worst, found, rules)


def first_against_last(found: Sequence[Candidate], rules: Rules) -> Pair | str:
    return Pair(0, len(found) - 1) if len(found) > 1 else FEW


def best_alone(found: Sequence[Candidate], rules: Rules) -> Pair | str:
    """Best against worst without a look at what else the rules ask for."""
    order = sorted(range(len(found)), key=lambda place: found[place].score or 0.0)
    return Pair(order[-1], order[0]) if len(found) > 1 else FEW


@pytest.mark.parametrize("wrong", [first_against_last, best_alone])
def test_the_law_catches_a_wrong_choice(wrong: Choose) -> None:
    """Negative control."""
    caught = []

    @some
    @given(answers, rules)
    def look(found: list[Candidate], rules: Rules) -> None:
        caught.append(not holds(wrong, found, rules))

    look()
    assert any(caught)


@some
@given(answers, rules, st.randoms(use_true_random=False))
def test_the_order_of_the_answers_decides_nothing_but_equals(found: list[Candidate], rules: Rules, rng: object) -> None:
    order = list(range(len(found)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    one, other = best_against_worst(found, rules), best_against_worst([found[place] for place in order], rules)
    assert isinstance(one, str) == isinstance(other, str)
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
    else:
        turned = Pair(order[other.chosen], order[other.rejected])
        assert difference(found[one.chosen], found[one.rejected]) == difference(
            found[turned.chosen], found[turned.rejected]
        )


@some
@given(
    st.lists(
        st.builds(Candidate, st.sampled_from(TEXTS), st.sampled_from([1.0, 2.0, 9.0]), st.just(True), st.just(0)),
        max_size=5,
    ),
    rules,
)
def test_with_the_scores_turned_round_the_sides_change_places(found: list[Candidate], rules: Rules) -> None:
    turned = [answer._replace(score=-(answer.score or 0.0)) for answer in found]
    one, other = best_against_worst(found, rules), best_against_worst(turned, rules)
    if isinstance(one, str):
        assert one == other
    else:
        assert isinstance(other, Pair)
        assert difference(found[one.chosen], found[one.rejected]) == difference(
            found[other.rejected], found[other.chosen]
        )


GOOD, BAD = Candidate(TEXTS[0], 8.0), Candidate(TEXTS[1], 3.0)


@pytest.mark.parametrize(
    ("found", "rules", "reason"),
    [
        ([], Rules(), FEW),
        ([GOOD], Rules(), FEW),
        ([GOOD, BAD._replace(score=None)], Rules(), UNSCORED),
        ([GOOD._replace(stopped=False), BAD._replace(stopped=False)], Rules(reject_cut=True), UNENDED),
        ([GOOD, BAD._replace(stopped=False)], Rules(), UNENDED),
        ([GOOD._replace(stopped=False), BAD], Rules(reject_cut=True), TIE),
        ([GOOD, BAD._replace(score=8.0)], Rules(), TIE),
        ([GOOD, BAD], Rules(margin=5.1), TIE),
        ([GOOD, Candidate(TEXTS[0].upper() + ".", 1.0)], Rules(), NEAR),
        ([GOOD, BAD], Rules(length_ratio=1.5), LENGTHS),
    ],
)
def test_what_makes_no_pair_has_a_reason(found: list[Candidate], rules: Rules, reason: str) -> None:
    assert best_against_worst(found, rules) == reason


def test_a_margin_that_is_just_reached_and_a_cut_answer_that_may_be_rejected_make_pairs() -> None:
    """Negative control of the reasons above."""
    assert best_against_worst([BAD, GOOD], Rules(margin=5.0)) == Pair(1, 0)
    assert best_against_worst([GOOD, BAD._replace(stopped=False)], Rules(reject_cut=True)) == Pair(0, 1)
    assert best_against_worst([GOOD, BAD], Rules(length_ratio=2.0)) == Pair(0, 1)


def test_of_pairs_that_differ_equally_the_one_of_nearest_lengths_is_taken() -> None:
    found = [Candidate(TEXTS[4], 9.0), Candidate(TEXTS[0], 9.0), BAD, Candidate(TEXTS[2], 3.0)]
    assert best_against_worst(found, Rules()) == Pair(1, 3)


def test_matched_lengths_fall_back_on_a_narrower_pair_of_the_prompt() -> None:
    found = [Candidate(TEXTS[1], 9.0), Candidate(TEXTS[4], 1.0), Candidate(TEXTS[3], 4.0)]
    assert best_against_worst(found, Rules()) == Pair(0, 1)
    assert best_against_worst(found, Rules(length_ratio=1.25)) == Pair(0, 2)


def test_a_side_that_lost_the_comparison_itself_is_not_chosen() -> None:
    found = [GOOD, BAD]
    assert best_against_worst(found, Rules(), lambda one, other: (one, other) == (0, 1)) == Pair(0, 1)
    assert best_against_worst(found, Rules(), lambda one, other: False) == TIE


@some
@given(answers, rules, st.sampled_from([1.0, 2.25, 9.5]))
def test_labels_follow_the_threshold(found: list[Candidate], rules: Rules, threshold: float) -> None:
    labels = labelled(found, rules, threshold)
    assert len(labels) == len(found)
    for answer, label in zip(found, labels, strict=True):
        if isinstance(label, Label):
            assert answer.score is not None and label.desirable == (answer.score >= threshold)
            assert abs(answer.score - threshold) >= rules.margin / 2
            assert answer.stopped or (rules.reject_cut and not label.desirable)
        else:
            assert label in LABEL_REASONS


@pytest.mark.parametrize(
    ("found", "rules", "labels"),
    [
        ([GOOD, BAD], Rules(), [Label(0, True), Label(1, False)]),
        ([GOOD, BAD], Rules(margin=8.0), [TIE, TIE]),
        ([GOOD, BAD._replace(score=None)], Rules(), [Label(0, True), NO_SCORE]),
        ([GOOD, GOOD._replace(score=3.0)], Rules(), [Label(0, True), NEAR]),
        ([GOOD._replace(stopped=False), BAD._replace(stopped=False)], Rules(), [CUT, CUT]),
        (
            [GOOD._replace(stopped=False), BAD._replace(stopped=False)],
            Rules(reject_cut=True),
            [CUT, Label(1, False)],
        ),
    ],
)
def test_each_answer_has_a_label_or_a_reason(found: list[Candidate], rules: Rules, labels: list[Label | str]) -> None:
    assert labelled(found, rules, 6.0) == labels


def test_the_middle_parts_the_answers_in_two_and_nothing_has_none() -> None:
    prompts = [[GOOD, BAD], [BAD._replace(score=None), GOOD._replace(score=5.0)], []]
    assert middle(prompts) == 5.0
    assert middle([[GOOD._replace(score=None)]]) is None


@some
@given(st.integers(0, 60), st.integers(1, 60))
def test_what_is_spread_comes_from_all_over(size: int, count: int) -> None:
    items = list(range(size))
    found = spread(items, count)
    assert len(found) == min(size, count) and found == sorted(set(found))
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    if found:
        assert size - found[-1] <= max(gaps, default=size) + 1 and found[0] == 0
