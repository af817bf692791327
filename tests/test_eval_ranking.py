"""Several judges in one table: the better is above, unscored costs, and "longer wins" stands beside each."""

import json

import numpy as np
import pytest
from judge_data import judged, pandalm, recorded, simulated, verdict

from eval.labels import A, B, LabelError, ScoreLabel
from eval.ranking import LONGEST, PairRow, ScoreRow, Spent, as_json, calibration
from eval.ranking_table import markdown
from eval.recorded import ScoreVerdict


def _rows(rows: object) -> list[PairRow]:
    assert isinstance(rows, list)
    return [row for row in rows if isinstance(row, PairRow)]


def test_judges_are_ranked_by_how_often_they_agree_and_refusing_does_not_pay() -> None:
    labels = simulated(300)
    rng = np.random.default_rng(0)
    wrong = {label.id for label in labels if rng.random() < 0.2}
    good = judged(labels, lambda label: label.winner if label.id not in wrong else A + B - (label.winner or A))
    picky = judged(labels[:200], lambda label: label.winner)
    found = _rows(calibration(labels, {"picky": picky, "good": good}))
    assert [row.judge for row in found] == ["good", "picky", LONGEST]
    assert found[1].accuracy and found[1].accuracy.mean == 1 and found[1].accuracy_at_worst
    assert found[1].accuracy_at_worst.mean == pytest.approx(2 / 3)
    assert found[1].unscored_share == pytest.approx(1 / 3)


def test_the_recorded_judges_stand_in_the_table_with_longer_wins_beside_them() -> None:
    labels = pandalm()
    names = {"7b": "pandalm-7b.json", "gpt": "pandalm-gpt-3.5-turbo.json"}
    found = calibration(
        labels, {judge: recorded(labels, name) for judge, name in names.items()}, {"7b": Spent(99.9, 0.5)}
    )
    gpt, small, length = _rows(found)
    assert [gpt.judge, small.judge, length.judge] == ["gpt", "7b", LONGEST]
    assert small.accuracy and length.accuracy and small.longest_accuracy == length.accuracy.mean
    assert gpt.longest_accuracy != small.longest_accuracy  # on the 974 pairs that it scored
    assert small.over_longest
    assert small.over_longest.mean == pytest.approx(small.accuracy.mean - length.accuracy.mean)
    assert small.verdicts_per_second == pytest.approx(10) and small.usd == 0.5 and gpt.usd is None
    shown = markdown(found)
    assert "| 7b | 999 of 999 | 66.8 [" in shown and "gpt: 25 of 999 unscored (2.5 %)." in shown
    assert "Two people agree on 92.0 [" in shown


def test_every_row_is_json_without_nan_and_infinity() -> None:
    labels = [label._replace(prompt="one") for label in simulated(5)]  # a single prompt: no interval
    for row in calibration(labels, {"sound": judged(labels, lambda label: label.winner)}):
        plain = json.loads(json.dumps(as_json(row), allow_nan=False))
        assert plain["judge"] == row.judge
    (first, *_) = calibration(labels, {})
    assert isinstance(first, PairRow) and first.judge == LONGEST
    assert as_json(first)["accuracy_at_worst"]["low"] is None


def test_flips_and_position_bias_are_in_the_row_of_a_judge_asked_twice() -> None:
    labels = simulated(50)
    found = {
        row.judge: row for row in _rows(calibration(labels, {"first": [verdict(label, A, B) for label in labels]}))
    }
    row = found["first"]
    assert row.flip_rate and row.flip_rate.mean == 1 and row.both_orders == 50
    assert row.position_bias and row.position_bias.mean == 0.5
    assert "100.0 [100.0, 100.0]" in markdown([row])


def test_scores_are_ranked_by_their_correlation() -> None:
    rng = np.random.default_rng(0)
    people = rng.uniform(1, 10, 60)
    labels = [
        ScoreLabel(str(i), f"p{i}", "x" * int(rng.integers(9, 99)), (float(s), float(s))) for i, s in enumerate(people)
    ]
    close = [ScoreVerdict(str(i), float(s + rng.normal(0, 0.5))) for i, s in enumerate(people)]
    loose = [ScoreVerdict(str(i), float(s + rng.normal(0, 9)) if i else None) for i, s in enumerate(people)]
    found = calibration(labels, {"loose": loose, "close": close}, {"close": Spent(usd=1.25)})
    assert found[0].judge == "close" and len(found) == 3
    assert isinstance(found[0], ScoreRow) and found[0].human_spearman == pytest.approx(1)
    shown = markdown(found)
    assert "| close | 60 of 60 |" in shown and "1.25" in shown and "loose: 1 of 60 unscored" in shown


def test_a_judge_may_be_given_the_name_of_the_baseline_and_then_stands_for_it() -> None:
    labels = simulated(20)
    (row,) = _rows(calibration(labels, {LONGEST: judged(labels, lambda label: label.winner)}))
    assert row.accuracy and row.accuracy.mean == 1


def test_labels_and_verdicts_of_different_kinds_are_refused() -> None:
    labels = simulated(3)
    with pytest.raises(LabelError, match="judge 'j': verdicts of the other kind"):
        calibration(labels, {"j": [ScoreVerdict("0", 5.0)]})
    with pytest.raises(LabelError, match="0 pairs, 0 scores"):
        calibration([], {})
    assert markdown([]) == ""


def test_a_name_cannot_break_the_table() -> None:
    labels = simulated(4)
    shown = markdown(calibration(labels, {"a|b\nc": judged(labels, lambda label: A)}))
    assert "| a\\|b c |" in shown
