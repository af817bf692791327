"""The gate says PASS, FAIL, INCONCLUSIVE or BASELINE from the interval, and nothing of them for a judge that errs."""

import pytest

from eval.canaries import Check
from eval.gate import GateError, gate
from eval.statistics import Interval
from eval.verdict import Tally

FULL = Tally(100, 100, 6.0)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.1, 0.9, "PASS"), (-0.9, -0.1, "FAIL"), (-0.1, 0.9, "INCONCLUSIVE"), (0.0, 0.0, "INCONCLUSIVE")],
)
def test_a_training_step_must_be_better_than_the_step_before(low: float, high: float, outcome: str) -> None:
    verdict = gate("instruct", tally=FULL, difference=Interval((low + high) / 2, low, high))
    assert verdict.outcome == outcome
    assert "instruct" in verdict.reason and f"{low:+.2f}" in verdict.reason


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(7.0, 8.0, "PASS"), (7.1, 8.0, "PASS"), (6.0, 6.9, "FAIL"), (6.5, 7.5, "INCONCLUSIVE")],
)
def test_a_data_step_must_reach_its_minimum(low: float, high: float, outcome: str) -> None:
    verdict = gate("grammar", tally=FULL, absolute=Interval((low + high) / 2, low, high), minimum=7.0)
    assert verdict.outcome == outcome
    assert "minimum 7" in verdict.reason


def test_nothing_to_compare_with_is_a_baseline() -> None:
    assert gate("plot", tally=FULL).outcome == "BASELINE"
    assert gate("plot", tally=FULL, absolute=Interval(6.0, 5.0, 7.0)).outcome == "BASELINE"


def test_more_than_two_percent_unscored_gives_no_verdict_however_good_the_rest() -> None:
    better = Interval(2.0, 1.0, 3.0)
    assert gate("plot", tally=Tally(100, 98, 6.0), difference=better).outcome == "PASS"
    missing = gate("plot", tally=Tally(100, 97, 6.0), difference=better)
    assert missing.outcome == "INCONCLUSIVE"
    assert "3 of 100" in missing.reason
    assert gate("plot", tally=Tally(0, 0, None), difference=better).outcome == "INCONCLUSIVE"


def test_a_gate_asked_for_two_things_at_once_is_an_error() -> None:
    with pytest.raises(GateError, match="both a difference and a minimum"):
        gate("plot", tally=FULL, difference=Interval(1, 0, 2), minimum=7.0)
    with pytest.raises(GateError, match="no interval"):
        gate("plot", tally=FULL, minimum=7.0)


@pytest.mark.parametrize("better", [Interval(2.0, 1.0, 3.0), Interval(-2.0, -3.0, -1.0), None])
def test_the_figures_of_a_judge_that_fails_its_canaries_decide_nothing(better: Interval | None) -> None:
    right, wrong = Check("empty answer", 40, 40, 32), Check("sentences shuffled", 40, 31, 32)
    ruling = gate("plot", tally=FULL, difference=better, canaries=[right, wrong])
    assert ruling.outcome == "JUDGE INVALID"
    assert "sentences shuffled 31 of 40 (32 needed)" in ruling.reason and "empty" not in ruling.reason
    just = wrong._replace(passed=32)
    assert gate("plot", tally=FULL, difference=better, canaries=[right, just]) == gate(
        "plot", tally=FULL, difference=better
    )


def test_an_invalid_judge_is_said_before_missing_scores() -> None:
    ruling = gate("plot", tally=Tally(100, 0, None), canaries=[Check("empty answer", 40, 0, 32)])
    assert ruling.outcome == "JUDGE INVALID"
