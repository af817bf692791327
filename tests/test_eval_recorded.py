"""Recorded verdicts are read as they are, and a reply that is no verdict is unscored, never a tie or a number."""

import json

import pytest
from judge_data import pair, pandalm, recorded, verdict

from eval.labels import LabelError, ScoreLabel
from eval.recorded import PairVerdict, Pick, ScoreVerdict, pair_verdicts, read_verdicts, score_verdicts


def _lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_the_plain_form_names_the_better_answer_in_one_order_or_both() -> None:
    text = _lines({"id": 1, "winner": "b", "reason": "kinder"}, {"id": 2, "winner": "a", "swapped": "tie"})
    assert read_verdicts(text, "f") == [
        PairVerdict("1", Pick(2, "kinder")),
        PairVerdict("2", Pick(1), Pick(0)),
    ]
    assert read_verdicts(_lines({"id": 1, "score": 6}), "f") == [ScoreVerdict("1", 6.0)]


@pytest.mark.parametrize("reply", ["garbage", "both are fine", None, 3, True, "", "11/10", ["a"]])
def test_a_reply_that_is_no_verdict_is_unscored(reply: object) -> None:
    (on_pair,) = read_verdicts(_lines({"id": 1, "winner": reply}), "f")
    (on_text,) = read_verdicts(_lines({"id": 1, "score": "high" if reply == 3 else reply}), "f")
    assert isinstance(on_pair, PairVerdict) and on_pair.settled.winner is None
    assert isinstance(on_text, ScoreVerdict) and on_text.score is None
    assert "no verdict" in on_pair.straight.reason and "no verdict" in on_text.reason


def test_a_score_that_is_no_finite_number_is_unscored() -> None:
    (found,) = read_verdicts('{"id": 1, "score": NaN, "reason": "?"}', "f")
    assert isinstance(found, ScoreVerdict) and found.score is None


def test_the_25_replies_of_gpt_35_that_are_no_verdict_are_unscored_and_none_of_pandalm_7b() -> None:
    labels = pandalm()
    gpt = recorded(labels, "pandalm-gpt-3.5-turbo.json")
    lost = [one for one in gpt if one.settled.winner is None]
    assert len(lost) == 25 and round(100 * len(lost) / len(gpt), 1) == 2.5
    assert {one.settled.reason for one in lost} == {"no verdict: 'garbage'"}
    assert sum(one.settled.winner == 0 for one in gpt) == 38  # the ties are those that it called so
    assert all(one.settled.winner is not None for one in recorded(labels, "pandalm-7b.json"))


def test_orders_that_disagree_are_a_tie_and_a_missing_order_leaves_the_pair_unscored() -> None:
    label = pair(1, [1])
    for straight, swapped, settled in ((1, 1, 1), (1, 2, 0), (1, 0, 0), (1, None, None), (None, 1, None), (2, -1, 2)):
        assert verdict(label, straight, swapped).settled.winner == settled


def test_verdicts_are_matched_by_id_and_a_label_without_one_is_unscored() -> None:
    labels = [pair(1, [1]), pair(2, [2]), pair(3, [0])]
    found = pair_verdicts(labels, [verdict(labels[2], 0), verdict(labels[0], 1)], "j")
    assert [one.settled.winner for one in found] == [1, None, 0]
    texts = [ScoreLabel("1", "p", "t", (5.0,)), ScoreLabel("2", "p", "t", (5.0,))]
    assert [one.score for one in score_verdicts(texts, [ScoreVerdict("2", 4.0)], "j")] == [None, 4.0]


def test_files_that_do_not_belong_together_are_refused() -> None:
    labels = [pair(1, [1])]
    with pytest.raises(LabelError, match="judge 'j': 1 verdicts on rows that are not labelled, first '9'"):
        pair_verdicts(labels, [verdict(pair(9, [1]), 1)], "j")
    with pytest.raises(LabelError, match="1 verdicts more than rows"):
        pair_verdicts(labels, [verdict(labels[0], 1), verdict(labels[0], 2)], "j")
    with pytest.raises(LabelError, match="one kind a file"):
        read_verdicts(_lines({"id": 1, "winner": "a"}, {"id": 2, "score": 3}), "f")
    for row in ({"winner": "a"}, {"id": 1}, {"id": 1, "x_result": "a", "y_result": "b"}):
        with pytest.raises(LabelError, match="f, line 1: fields"):
            read_verdicts(_lines(row), "f")
