"""Did a step prove itself? A word from an interval, and the sentence that says why.

A training step must be better than what it started from (superiority on the paired difference); a data step
must be good enough (its interval against a minimum). An interval that straddles the line decides nothing. Figures of a
judge that fails its canaries decide nothing either, and that is said before anything else: JUDGE INVALID.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from eval.canaries import Check
from eval.statistics import Interval
from eval.verdict import Tally

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "BASELINE", "JUDGE INVALID"]
MOST_UNSCORED = 0.02


class GateError(ValueError):
    """A gate that is asked for two things at once, or for a minimum of nothing."""


class Gate(NamedTuple):
    """The outcome and why."""

    outcome: Outcome
    reason: str


def _shown(interval: Interval) -> str:
    return f"{interval.mean:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def _against(interval: Interval, line: float, at_line: bool) -> Outcome:
    """PASS above the line (or on it, `at_line`), FAIL wholly below it."""
    if interval.low > line or (at_line and interval.low == line):
        return "PASS"
    return "FAIL" if interval.high < line else "INCONCLUSIVE"


def _failed(canaries: Sequence[Check]) -> str:
    """Which canaries failed, with their figures; empty when none did."""
    failed = [check for check in canaries if not check.ok]
    return ", ".join(f"{check.name} {check.passed} of {check.asked} ({check.needed} needed)" for check in failed)


def gate(
    axis: str,
    *,
    tally: Tally,
    canaries: Sequence[Check] = (),
    difference: Interval | None = None,
    absolute: Interval | None = None,
    minimum: float | None = None,
) -> Gate:
    """Decide from the paired `difference` to the step before, or from `absolute` against `minimum`.

    `tally` counts the verdicts asked for and scored on `axis`; `canaries` are the checks of the judge that gave
    them. With nothing to compare with: BASELINE.
    """
    if difference is not None and minimum is not None:
        raise GateError(f"gate on {axis}: both a difference and a minimum {minimum}; give one of them.")
    if minimum is not None and absolute is None and tally.scored:
        raise GateError(f"gate on {axis}: a minimum {minimum} but no interval; give `absolute`.")
    if failed := _failed(canaries):
        return Gate("JUDGE INVALID", f"{axis}: no ruling, the judge failed its canaries: {failed}.")
    unscored = tally.asked - tally.scored
    if tally.asked == 0 or tally.missing_share > MOST_UNSCORED:
        return Gate("INCONCLUSIVE", f"{axis}: {unscored} of {tally.asked} answers unscored; at most 2 % may be.")
    if difference is not None:
        outcome = _against(difference, 0.0, at_line=False)
        told = {"PASS": "better than", "FAIL": "worse than"}.get(outcome, "not told apart from")
        return Gate(outcome, f"{axis}: {told} the step before, by {_shown(difference)}.")
    if absolute is not None and minimum is not None:
        outcome = _against(absolute, minimum, at_line=True)
        told = {"PASS": "at or above", "FAIL": "below"}.get(outcome, "not clearly on one side of")
        shown = f"{absolute.mean:.2f} [{absolute.low:.2f}, {absolute.high:.2f}]"
        return Gate(outcome, f"{axis}: {shown} is {told} the minimum {minimum:g}.")
    return Gate("BASELINE", f"{axis}: nothing to compare with; this is the first figure.")
