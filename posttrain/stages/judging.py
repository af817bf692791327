"""What a judge's verdicts come to: an interval for each axis, paired changes, and the gate's word."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.chain.stage import Metrics
from posttrain.rows import Row

if TYPE_CHECKING:
    from eval.canaries import Check
    from eval.finding import Finding
    from eval.statistics import Interval

Scores = dict[str, dict[str, list[float]]]  # axis -> prompt id -> scores


class Rule(NamedTuple):
    """What a step must prove on its primary axis: a test against the step before, or a minimum; neither: nothing.

    Of the axes in `hold` none may be clearly worse than in the step before.
    """

    axis: str
    test: str | None
    margin: float | None
    minimum: float | None
    hold: tuple[str, ...] = ()


class Before(NamedTuple):
    """The verdict rows of the step before, and how its judge did on its canaries."""

    rows: Sequence[Row]
    canaries: Sequence["Check"]


def scores_of(rows: Sequence[Row]) -> Scores:
    """The scores that exist, by axis and prompt; the unscored are left out."""
    found: Scores = {}
    for row in rows:
        for axis, verdict in row["axes"].items():
            if verdict["score"] is not None:
                found.setdefault(axis, {}).setdefault(row["id"], []).append(verdict["score"])
    return found


def _flat(by_prompt: Mapping[str, list[float]]) -> tuple[list[float], list[str]]:
    pairs = [(score, key) for key, scores in by_prompt.items() for score in scores]
    return [score for score, _ in pairs], [key for _, key in pairs]


def _interval(by_prompt: Mapping[str, list[float]] | None) -> "Interval | None":
    from eval.statistics import cluster_bootstrap

    return cluster_bootstrap(*_flat(by_prompt)) if by_prompt else None


def _difference(scores: Scores, before: Scores, axis: str) -> "Interval | None":
    """Paired by prompt; None where one of the two has no score on the axis."""
    from eval.statistics import paired_difference

    if axis not in scores or axis not in before:
        return None
    return paired_difference(*_flat(scores[axis]), *_flat(before[axis]))


def _by_prompt(scores: Scores, before: Scores | None, axis: str) -> list[float]:
    """One figure a prompt: the paired difference, or the mean where there is no step before."""
    from eval.statistics import differences, prompt_means

    if axis not in scores or (before is not None and axis not in before):
        return []
    now = prompt_means(*_flat(scores[axis]))
    return list((differences(now, prompt_means(*_flat(before[axis]))) if before is not None else now).values())


def figures_of(interval: "Interval | None") -> dict[str, float | None]:
    """An interval as records have it: score, low, high; all None where there is none."""
    if interval is None:
        return {"score": None, "low": None, "high": None}
    return {"score": round(interval.mean, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


def _p_values(scores: Scores, before: Scores, primary: str) -> dict[str, float]:
    """Of every change: the primary axis by itself, the others beside it as Holm corrects them."""
    from eval.multiple import holm
    from eval.statistics import sign_flip_p

    found = {axis: sign_flip_p(changes) for axis in scores if (changes := _by_prompt(scores, before, axis))}
    beside = holm({axis: p for axis, p in found.items() if axis != primary})
    return {axis: round(beside.get(axis, p), 4) for axis, p in found.items()}


def _worst_case(rows: Sequence[Row], before: Before | None, axis: str) -> Row | None:
    """The change, or the mean, with the missing scores at their worst; None where none is missing."""
    from eval.missing import worst_case_difference, worst_case_mean
    from eval.verdict import HIGH, LOW

    def all_of(rows: Sequence[Row]) -> tuple[list[float | None], list[str]]:
        return [row["axes"][axis]["score"] for row in rows], [row["id"] for row in rows]

    if before is None:
        worst = worst_case_mean(*all_of(rows), (LOW, HIGH))
    else:
        worst = worst_case_difference(*all_of(rows), *all_of(before.rows), (LOW, HIGH))
    return {"missing": worst.missing, "asked": worst.asked, **figures_of(worst.least)} if worst.missing else None


class _Figures(NamedTuple):
    """Scores of a step and of the step before by axis and prompt, with the interval of each axis."""

    scores: Scores
    earlier: Scores
    intervals: "Mapping[str, Interval | None]"


def judge_metrics(
    rows: Sequence[Row],
    rule: Rule,
    before: Before | None,
    canaries: Sequence["Check"],
    findings: Sequence["Finding"],
) -> Metrics:
    """The figures of verdict rows {id, axes} and the gate's word on the primary axis."""
    scores = scores_of(rows)
    intervals = {axis: _interval(scores.get(axis)) for axis in rows[0]["axes"]}
    figures = _Figures(scores, scores_of(before.rows) if before else {}, intervals)
    changes = {axis: change for axis in intervals if (change := _difference(scores, figures.earlier, axis)) is not None}
    was = _interval(figures.earlier.get(rule.axis))
    return {
        **_ruled(rows, figures, rule, before, canaries, findings),
        "primary": rule.axis,
        "axes": {axis: figures_of(interval) for axis, interval in intervals.items()},
        "changes": {axis: figures_of(change) for axis, change in changes.items()},
        "p_values": _p_values(scores, figures.earlier, rule.axis) if changes else {},
        "n_asked": len(rows),
        "before": was.mean if was else None,
        "checks": [finding.record() for finding in findings],
        "canaries": [{**check._asdict(), "ok": check.ok} for check in canaries],
    }


def _ruled(
    rows: Sequence[Row],
    figures: _Figures,
    rule: Rule,
    before: Before | None,
    canaries: Sequence["Check"],
    findings: Sequence["Finding"],
) -> Metrics:
    """The gate's word with what it rests on. A difference rests on two judges, so both judges' canaries count."""
    from eval.gate import MOST_UNSCORED, gate
    from eval.statistics import prompts_to_decide
    from eval.verdict import Tally

    axis, compared = rule.axis, before if rule.test is not None else None
    n_scored = sum(row["axes"][axis]["score"] is not None for row in rows)
    main, margin = figures.intervals[axis], rule.margin or 0.0
    by_prompt = _by_prompt(figures.scores, figures.earlier if compared else None, axis)
    line = -margin if compared else rule.minimum
    needed = prompts_to_decide(by_prompt, line=line) if by_prompt and line is not None else None
    tally = Tally(len(rows), n_scored, main.mean if main else None)
    ruling = gate(
        axis,
        tally=tally,
        canaries=[*canaries, *(before.canaries if before else ())],
        difference=_difference(figures.scores, figures.earlier, axis) if compared else None,
        absolute=main,
        minimum=rule.minimum,
        margin=margin,
        findings=findings,
        fallen={axis: change for axis in rule.hold if (change := _fall(figures, axis)) is not None},
        prompts=len(by_prompt),
        needed=needed,
    )
    open_question = ruling.outcome == "INCONCLUSIVE" and tally.missing_share <= MOST_UNSCORED
    return {
        "summary": f"{ruling.outcome}: {ruling.reason}",
        "verdict": ruling.outcome,
        "why": ruling.reason,
        "n_scored": n_scored,
        "test": rule.test if compared else None,
        "margin": rule.margin if compared else None,
        "minimum": rule.minimum,
        "hold": list(rule.hold),
        "prompts": len(by_prompt),
        "prompts_needed": needed if open_question else None,
        "worst_case": _worst_case(rows, compared, axis),
    }


def _fall(figures: _Figures, axis: str) -> "Interval | None":
    """The change of an axis that is clearly worse than before; None where it is not."""
    change = _difference(figures.scores, figures.earlier, axis)
    return change if change is not None and change.high < 0 else None


def words_used(prompts: Mapping[str, Row], completions: Sequence[Row]) -> dict[str, Any] | None:
    """Share of required words that the completions use, with its interval; None when no prompt requires any."""
    from eval.statistics import cluster_bootstrap
    from eval.words import share_used

    pairs = [
        (share_used(row["text"], words), row["id"])
        for row in completions
        if row["text"] is not None and (words := prompts.get(row["id"], {}).get("words"))
    ]
    if not pairs:
        return None
    used = cluster_bootstrap([share for share, _ in pairs], [key for _, key in pairs])
    return {"share": round(used.mean, 4), "low": round(used.low, 4), "high": round(used.high, 4)}


def shares(rows: Sequence[Row], choices: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """The share of answers that got each choice of an axis such as the age group; the unscored are left out."""
    found = {}
    for axis, labels in choices.items():
        places = [round(row["choices"][axis]["score"]) for row in rows if row["choices"][axis]["score"] is not None]
        counts = Counter(places)
        found[axis] = {label: round(counts[place] / len(places), 4) for place, label in enumerate(labels, 1) if places}
    return found
