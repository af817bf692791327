"""The gate says PASS, FAIL, INCONCLUSIVE or BASELINE from the interval, and nothing of them for a judge that errs."""

import pytest

from eval.canaries import Check
from eval.finding import Finding
from eval.gate import GateError, gate
from eval.statistics import Interval
from eval.text_checks import length_check
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


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-0.2, 0.4, "PASS"),
        (0.1, 0.9, "PASS"),
        (-0.9, -0.31, "FAIL"),
        (-0.5, 0.1, "INCONCLUSIVE"),
        (-0.3, 0.1, "INCONCLUSIVE"),
    ],
)
def test_a_step_that_must_not_lose_may_lose_less_than_its_margin(low: float, high: float, outcome: str) -> None:
    ruling = gate("plot", tally=FULL, difference=Interval((low + high) / 2, low, high), margin=0.3)
    assert ruling.outcome == outcome and "more than 0.3" in ruling.reason
    with pytest.raises(GateError, match="margin -1"):
        gate("plot", tally=FULL, difference=Interval(0, 0, 0), margin=-1)


BETTER = Interval(2.0, 1.0, 3.0)
STOPS = Finding("stop by themselves", 0.3, 0.9, False, "30% stop by themselves (was 95%)")
LONG = Finding("length", 500.0, 300.0, False, "500 words, references 100", hard=False)
HELD = Finding("held-out answers", 0.2, 0.6, True, "held-out answers 0.42 → 0.21 nats a token")
UNTOLD = Finding("own prompts", None, None, None, "not measured")


@pytest.mark.parametrize("canaries", [[], [Check("empty answer", 40, 3, 30)]])
def test_a_failed_hard_check_is_a_fail_before_the_judge_is_heard(canaries: list[Check]) -> None:
    ruling = gate("plot", tally=FULL, difference=BETTER, canaries=canaries, findings=[HELD, STOPS, UNTOLD])
    assert ruling.outcome == "FAIL"
    assert ruling.reason.startswith("not left to the judge: 30% stop by themselves (was 95%); the judge on plot: ")
    assert "0.42 → 0.21" in ruling.reason
    assert gate("plot", tally=FULL, difference=BETTER, findings=[HELD, UNTOLD]).outcome == "PASS"  # negative control
    assert gate("plot", tally=FULL, findings=[STOPS]).outcome == "FAIL"


def test_a_failed_soft_check_is_said_and_decides_nothing() -> None:
    ruling = gate("plot", tally=FULL, difference=BETTER, findings=[LONG, HELD])
    assert ruling.outcome == "PASS" and "; but 500 words, references 100; held-out answers" in ruling.reason


def test_what_is_not_decided_says_how_many_prompts_would_decide_it() -> None:
    unclear = Interval(0.1, -0.2, 0.4)
    ruling = gate("plot", tally=FULL, difference=unclear, absolute=Interval(6.0, 5, 7), prompts=50, needed=1234)
    assert ruling.reason == (
        "plot: not told apart from the step before, by +0.10 [-0.20, +0.40] to 6.00 on 50 prompts; "
        "about 1,200 would decide it."
    )
    assert "more decide nothing" in gate("plot", tally=FULL, difference=unclear, prompts=50).reason
    assert "would" not in gate("plot", tally=FULL, difference=BETTER, prompts=50, needed=30).reason
    floor = gate("plot", tally=FULL, absolute=Interval(7.0, 6, 8), minimum=7.2, prompts=50, needed=96)
    assert "minimum 7.2 on 50 prompts; about 96 would decide it" in floor.reason


@pytest.mark.parametrize("findings", [[], [STOPS], [LONG, HELD], [UNTOLD]])
@pytest.mark.parametrize("difference", [BETTER, Interval(0.1, -0.2, 0.4), None])
def test_the_reason_is_one_sentence(findings: list[Finding], difference: Interval | None) -> None:
    reason = gate("plot", tally=FULL, difference=difference, findings=findings, prompts=9, needed=20).reason
    assert reason.endswith(".") and "\n" not in reason and not reason.endswith("..") and ";;" not in reason


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.9), (-0.1, 0.9)])
def test_an_axis_that_must_hold_and_has_fallen_is_a_fail_whatever_was_gained(low: float, high: float) -> None:
    gained = Interval((low + high) / 2, low, high)
    ruling = gate("instruct", tally=FULL, difference=gained, fallen={"grammar": Interval(-0.2, -0.3, -0.1)})
    assert ruling.outcome == "FAIL"
    assert ruling.reason.startswith("grammar has fallen, by -0.20 [-0.30, -0.10]; instruct: ")
    assert gate("instruct", tally=FULL, difference=gained).outcome != "FAIL"  # negative control
    wrong = [Check("empty answer", 40, 0, 32)]
    unheard = gate("instruct", tally=FULL, difference=gained, fallen={"grammar": gained}, canaries=wrong)
    assert unheard.outcome == "JUDGE INVALID"


def test_a_mean_length_is_held_to_what_the_recipe_says() -> None:
    def told(words: int) -> list[dict[str, object]]:
        return [{"id": "a", "text": "word " * words, "stopped": True}, {"id": "b", "text": None, "stopped": False}]

    found = {words: length_check(told(words), told(100), 0.15) for words in (80, 86, 114, 116)}
    assert {words: one.ok for words, one in found.items()} == {80: False, 86: True, 114: True, 116: False}
    assert found[116].hard and "+16% words an answer (at most 15%)" in found[116].note
