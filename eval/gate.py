"""Did a step prove itself? A word from an interval, and the sentence that says why.

In this order: what needs no judge (eval/alignment.py, eval/text_checks.py, eval/held_out.py), where one hard check that
fails is a FAIL whatever a judge says; the judge's own test, for figures of a judge that fails its canaries decide
nothing: JUDGE INVALID; then the primary axis. A training step must be better than the step before (superior: the paired
difference above 0), and no axis that it has to hold may be clearly worse; an export must not be worse by more than a
margin (non-inferior: above -margin), a data step must be good enough (its interval against a minimum). An interval that
straddles the line decides nothing, and the sentence says how many prompts would.
"""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Literal, NamedTuple

from eval.canaries import Check
from eval.finding import Finding, failed
from eval.statistics import Interval
from eval.verdict import Tally

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "BASELINE", "JUDGE INVALID"]
MOST_UNSCORED = 0.02
NONE: Mapping[str, Interval] = {}


class GateError(ValueError):
    """A gate that is asked for two things at once, or for a minimum of nothing, or has a margin below 0."""


class Gate(NamedTuple):
    """The outcome and why."""

    outcome: Outcome
    reason: str


def gate(
    axis: str,
    *,
    tally: Tally,
    canaries: Sequence[Check] = (),
    difference: Interval | None = None,
    absolute: Interval | None = None,
    minimum: float | None = None,
    margin: float = 0.0,
    findings: Sequence[Finding] = (),
    fallen: Mapping[str, Interval] = NONE,
    prompts: int | None = None,
    needed: int | None = None,
) -> Gate:
    """Decide from the paired `difference` to the step before, or from `absolute` against `minimum`.

    `tally` counts the verdicts asked for and scored on `axis`; `canaries` are the checks of the judge that gave
    them; a `margin` above 0 asks for non-inferiority. `prompts` were compared, about `needed` would decide (None: no
    number would). `fallen` are axes that had to hold and are clearly worse than before: a FAIL, where the judge is
    heard. With nothing to compare with: BASELINE.
    """
    if difference is not None and minimum is not None:
        raise GateError(f"gate on {axis}: both a difference and a minimum {minimum}; give one of them.")
    if minimum is not None and absolute is None and tally.scored:
        raise GateError(f"gate on {axis}: a minimum {minimum} but no interval; give `absolute`.")
    if margin < 0:
        raise GateError(f"gate on {axis}: margin {margin}; 0 (superior) or more (non-inferior) is allowed.")
    ruling = _unheard(axis, tally, canaries)
    if ruling is None and difference is not None:
        ruling = _compared(axis, difference, absolute, margin, prompts, needed)
    if ruling is None and absolute is not None and minimum is not None:
        ruling = _held_to(axis, absolute, minimum, prompts, needed)
    if ruling is None:
        ruling = Gate("BASELINE", f"{axis}: nothing to compare with; this is the first figure")
    if fallen and ruling.outcome in ("PASS", "INCONCLUSIVE") and difference is not None:
        worse = ", ".join(f"{name} has fallen, by {_shown(change)}" for name, change in fallen.items())
        ruling = Gate("FAIL", f"{worse}; {ruling.reason}")
    if hard := failed(findings, hard=True):
        ruling = Gate("FAIL", f"not left to the judge: {_notes(hard)}; the judge on {ruling.reason}")
    soft = failed(findings, hard=False)
    held = [finding for finding in findings if finding.hard and finding.ok and finding.value]
    told = [ruling.reason, f"but {_notes(soft)}" if soft else "", _notes(held)]
    return Gate(ruling.outcome, "; ".join(part for part in told if part) + ".")


def _notes(findings: Sequence[Finding]) -> str:
    return ", ".join(finding.note for finding in findings)


def _unheard(axis: str, tally: Tally, canaries: Sequence[Check]) -> Gate | None:
    """Why the judge's figures decide nothing, if they do not."""
    wrong = [check for check in canaries if not check.ok]
    if wrong:
        shown = ", ".join(f"{check.name} {check.passed} of {check.asked} ({check.needed} needed)" for check in wrong)
        return Gate("JUDGE INVALID", f"{axis}: no ruling, the judge failed its canaries: {shown}")
    if tally.asked == 0 or tally.missing_share > MOST_UNSCORED:
        unscored = tally.asked - tally.scored
        return Gate("INCONCLUSIVE", f"{axis}: {unscored} of {tally.asked} answers unscored; at most 2 % may be")
    return None


def _compared(
    axis: str, difference: Interval, absolute: Interval | None, margin: float, prompts: int | None, needed: int | None
) -> Gate:
    outcome = _against(difference, -margin, at_line=False)
    told = (NON_INFERIOR if margin else SUPERIOR)[outcome].format(margin=f"{margin:g}")
    score = f" to {absolute.mean:.2f}" if absolute is not None else ""
    return Gate(outcome, f"{axis}: {told}, by {_shown(difference)}{score}{_on(outcome, prompts, needed)}")


def _shown(difference: Interval) -> str:
    return f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def _held_to(axis: str, absolute: Interval, minimum: float, prompts: int | None, needed: int | None) -> Gate:
    outcome = _against(absolute, minimum, at_line=True)
    told = {"PASS": "at or above", "FAIL": "below"}.get(outcome, "not clearly on one side of")
    shown = f"{absolute.mean:.2f} [{absolute.low:.2f}, {absolute.high:.2f}]"
    return Gate(outcome, f"{axis}: {shown} is {told} the minimum {minimum:g}{_on(outcome, prompts, needed)}")


SUPERIOR = {
    "PASS": "better than the step before",
    "FAIL": "worse than the step before",
    "INCONCLUSIVE": "not told apart from the step before",
}
NON_INFERIOR = {
    "PASS": "not worse than the step before by more than {margin}",
    "FAIL": "worse than the step before by more than {margin}",
    "INCONCLUSIVE": "not told whether worse than the step before by more than {margin}",
}


def _against(interval: Interval, line: float, at_line: bool) -> Outcome:
    """PASS above the line (or on it, `at_line`), FAIL wholly below it."""
    if interval.low > line or (at_line and interval.low == line):
        return "PASS"
    return "FAIL" if interval.high < line else "INCONCLUSIVE"


def _on(outcome: Outcome, prompts: int | None, needed: int | None) -> str:
    """On how many prompts this rests, and how many would decide what is not decided."""
    if prompts is None:
        return ""
    on = f" on {prompts:,} prompts"
    if outcome != "INCONCLUSIVE":
        return on
    return (
        f"{on}; about {_rough(needed):,} would decide it"
        if needed
        else f"{on}; it lies on the line, more decide nothing"
    )


def _rough(number: int) -> int:
    """Two digits are as much as a guess from an observed mean is worth."""
    step: int = 10 ** max(0, floor(log10(number)) - 1)
    return round(number / step) * step
