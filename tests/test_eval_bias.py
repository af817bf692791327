"""A judge that minds the order or the length is found out, and a sound one is not accused."""

import numpy as np
import pytest
from judge_data import judged, pair, pandalm, recorded, simulated, verdict

from eval.bias import bias, longest
from eval.labels import TIE, A, B


def test_a_judge_that_takes_the_first_answer_flips_on_swap_and_a_sound_one_does_not() -> None:
    labels = simulated(400)
    always = bias(labels, [verdict(label, A, B) for label in labels])
    assert always.both_orders == 400
    assert always.flips and always.flips.mean == 1
    assert always.position and always.position.mean == 0.5
    sound = bias(labels, [verdict(label, label.winner, label.winner) for label in labels])
    assert sound.flips and sound.flips.mean == 0
    assert sound.position and sound.position.mean == 0


def test_half_a_bias_is_measured_as_half() -> None:
    labels = simulated(1000)
    rng = np.random.default_rng(0)
    said = [verdict(label, *(first if rng.random() < 0.4 else label.winner for first in (A, B))) for label in labels]
    found = bias(labels, said)
    assert found.position and found.position.low < 0.2 < found.position.high
    assert found.flips and found.flips.low < 0.4 < found.flips.high  # whoever should win, one of the orders changes


def test_with_one_order_the_position_is_held_against_people() -> None:
    labels = simulated(300)
    sound = bias(labels, judged(labels, lambda label: label.winner))
    assert sound.flips is None and sound.both_orders == 0
    assert sound.position and sound.position.mean == 0
    first = bias(labels, judged(labels, lambda label: A))
    assert first.position and first.position.low > 0.4


def test_a_judge_that_likes_length_is_found_out_and_one_that_does_not_is_not() -> None:
    labels = simulated(400)
    likes = bias(labels, longest(labels))
    assert likes.longer and likes.longer.mean == 1
    assert likes.length and likes.length.low > 0.4
    assert likes.length_correlation is not None and likes.length_correlation > 0.8
    sound = bias(labels, judged(labels, lambda label: label.winner))
    assert sound.length and sound.length.mean == 0
    assert sound.length_correlation is not None and abs(sound.length_correlation) < 0.12


def test_people_who_like_length_excuse_a_judge_who_agrees_with_them() -> None:
    labels = [pair(i, [A if longer > 0 else B], longer) for i, longer in enumerate([5, -3, 8, -9, 4, 1])]
    found = bias(labels, judged(labels, lambda label: label.winner))
    assert found.longer and found.longer.mean == 1
    assert found.length and found.length.mean == 0


def test_longer_wins_takes_the_longer_and_ties_on_equal_lengths() -> None:
    labels = [pair(1, [1], 5), pair(2, [1], -5), pair(3, [1], 0)]
    assert [one.settled.winner for one in longest(labels)] == [A, B, TIE]


def test_a_judge_without_verdicts_has_no_bias_figures() -> None:
    labels = simulated(5)
    found = bias(labels, judged(labels, lambda label: None))
    assert found == (0, None, None, None, None, None, None)


def test_the_recorded_judges_take_the_longer_answer_no_more_often_than_people() -> None:
    labels = pandalm()
    for name in ("pandalm-7b.json", "pandalm-gpt-3.5-turbo.json"):
        found = bias(labels, recorded(labels, name))
        assert found.longer and found.humans_longer and found.length
        assert found.length.mean == pytest.approx(found.longer.mean - found.humans_longer.mean)
        assert found.length.mean < 0 < found.longer.mean - 0.5
