"""What a judge's verdicts come to: an interval for each axis, paired changes, and the gate's word."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.chain.stage import Metrics
from posttrain.rows import Row

if TYPE_CHECKING:
    from eval.canaries import Check
    from eval.statistics import Interval

Scores = dict[str, dict[str, list[float]]]  # axis -> prompt id -> scores


class Before(NamedTuple):
    """The verdicts on the step before, and how its judge did on its canaries."""

    scores: Scores
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


def _difference(scores: Scores, before: Before | None, axis: str) -> "Interval | None":
    """Paired by prompt; None where one of the two has no score on the axis."""
    from eval.statistics import paired_difference

    if before is None or axis not in scores or axis not in before.scores:
        return None
    return paired_difference(*_flat(scores[axis]), *_flat(before.scores[axis]))


def _axis(interval: "Interval | None") -> dict[str, float | None]:
    if interval is None:
        return {"score": None, "low": None, "high": None}
    return {"score": round(interval.mean, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


def judge_metrics(
    rows: Sequence[Row], primary: str, before: Before | None, minimum: float | None, canaries: Sequence["Check"]
) -> Metrics:
    """The figures of verdict rows {id, axes} and the gate's word on the `primary` axis.

    A difference rests on two judges, so the canaries of the step before count too.
    """
    from eval.gate import gate
    from eval.verdict import Tally

    scores = scores_of(rows)
    intervals = {axis: _interval(scores.get(axis)) for axis in rows[0]["axes"]}
    n_scored = sum(row["axes"][primary]["score"] is not None for row in rows)
    main = intervals[primary]
    ruling = gate(
        primary,
        tally=Tally(len(rows), n_scored, main.mean if main else None),
        canaries=[*canaries, *(before.canaries if before else ())],
        difference=_difference(scores, before, primary),
        absolute=main,
        minimum=minimum,
    )
    changes = {axis: change for axis in intervals if (change := _difference(scores, before, axis)) is not None}
    was = _interval(before.scores.get(primary)) if before else None
    return {
        "summary": f"{ruling.outcome}: {ruling.reason}",
        "primary": primary,
        "axes": {axis: _axis(interval) for axis, interval in intervals.items()},
        "changes": {axis: _axis(change) for axis, change in changes.items()},
        "n_scored": n_scored,
        "n_asked": len(rows),
        "verdict": ruling.outcome,
        "why": ruling.reason,
        "before": was.mean if was else None,
        "canaries": [{**check._asdict(), "ok": check.ok} for check in canaries],
    }


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
