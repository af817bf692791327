"""judge: verdicts on a step's completions or rows, an interval for each axis, and the gate's word."""

from collections.abc import Mapping
from typing import Any, Literal

from posttrain.chain.stage import InputPath, Metrics, Stage, StageContext, StepConfig
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows

ROWS_JUDGED = 200
Scores = dict[str, dict[str, list[float]]]  # axis -> prompt id -> scores


class JudgeConfig(StepConfig):
    """The grading part of a recipe's `judge:`."""

    kind: Literal["judge"]
    judged: str | None
    previous: str | None = None
    judge: Literal["rule"] = "rule"
    rubric: InputPath
    prompts: InputPath
    axis: str = "instruct"
    minimum: float = 7.0


def check(config: JudgeConfig, where: str) -> None:
    """Refuse a rubric that cannot be read, or that lacks the primary axis, before any compute."""
    from eval.story_rules import AXES

    rubric = _rubric(config)
    unknown = [axis for axis in rubric.axes if axis not in AXES]
    if unknown:
        raise PosttrainError(
            f"{config.rubric}: axis '{unknown[0]}' is unknown to the rule judge; it knows {', '.join(AXES)}. "
            "Rename or delete that section."
        )
    if config.axis not in rubric.axes:
        raise PosttrainError(
            f"{where}.axis: '{config.axis}' is no axis of {config.rubric}; "
            f"there is {', '.join(rubric.axes)}. Name one of them."
        )


def _rubric(config: JudgeConfig) -> Any:
    from eval.rubric import RubricError, load_rubric

    try:
        return load_rubric(config.rubric.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise PosttrainError(f"{config.rubric}: cannot be read; a Markdown file is needed. Check the path.") from None
    except RubricError as error:
        raise PosttrainError(f"{config.rubric}: {error}") from None


def run(config: JudgeConfig, ctx: StageContext) -> Metrics:
    """verdicts.jsonl: id, sample, axes {axis: {score, reason}}; unscored is null, never zero."""
    from eval.story_rules import judge_batch

    rubric = _rubric(config)
    prompts, completions = _judged(config, ctx)
    verdicts = judge_batch(prompts, completions)
    rows = [
        {
            "id": completion["id"],
            "sample": completion["sample"],
            "axes": {axis: found[axis]._asdict() for axis in rubric.axes},
        }
        for completion, found in zip(completions, verdicts, strict=True)
    ]
    write_rows(ctx.out / "verdicts.jsonl", rows)
    before = None
    if "previous" in ctx.inputs:
        before = _scores(read_rows(ctx.inputs["previous"].path / "verdicts.jsonl"))
    metrics = _metrics(config, rows, before, are_rows=_kind(ctx) == "rows")
    return {**metrics, "words_used": _used(prompts, completions)}


def _kind(ctx: StageContext) -> str:
    return "samples" if (ctx.inputs["judged"].path / "completions.jsonl").is_file() else "rows"


def _judged(config: JudgeConfig, ctx: StageContext) -> tuple[dict[str, Row], list[Row]]:
    """Prompts by id and completions: a model's samples, or the first rows of a data step."""
    path = ctx.inputs["judged"].path
    if _kind(ctx) == "samples":
        return {row["id"]: row for row in read_rows(config.prompts)}, read_rows(path / "completions.jsonl")
    rows = read_rows(path / "train.jsonl")[:ROWS_JUDGED]
    completions = [
        {"id": row["id"], "sample": 0, "text": row["messages"][-1]["content"], "stopped": True} for row in rows
    ]
    return {row["id"]: {**row, "prompt": row["messages"][0]["content"]} for row in rows}, completions


def _scores(rows: list[Row]) -> Scores:
    found: Scores = {}
    for row in rows:
        for axis, verdict in row["axes"].items():
            if verdict["score"] is not None:
                found.setdefault(axis, {}).setdefault(row["id"], []).append(verdict["score"])
    return found


def _flat(by_prompt: Mapping[str, list[float]]) -> tuple[list[float], list[str]]:
    pairs = [(score, key) for key, scores in by_prompt.items() for score in scores]
    return [score for score, _ in pairs], [key for _, key in pairs]


def _interval(by_prompt: Mapping[str, list[float]] | None) -> Any:
    from eval.statistics import cluster_bootstrap

    return cluster_bootstrap(*_flat(by_prompt)) if by_prompt else None


def _difference(scores: Scores, before: Scores | None, axis: str) -> Any:
    """Paired by prompt; None where one of the two has no score on the axis."""
    from eval.statistics import paired_difference

    if before is None or axis not in scores or axis not in before:
        return None
    return paired_difference(*_flat(scores[axis]), *_flat(before[axis]))


def _axis(interval: Any) -> dict[str, float | None]:
    if interval is None:
        return {"score": None, "low": None, "high": None}
    return {"score": round(interval.mean, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


def _metrics(config: JudgeConfig, rows: list[Row], before: Scores | None, are_rows: bool) -> Metrics:
    from eval.gate import gate
    from eval.verdict import Tally

    scores = _scores(rows)
    intervals = {axis: _interval(scores.get(axis)) for axis in rows[0]["axes"]}
    primary = config.axis
    n_scored = sum(row["axes"][primary]["score"] is not None for row in rows)
    mean = intervals[primary].mean if intervals[primary] else None
    ruling = gate(
        primary,
        tally=Tally(len(rows), n_scored, mean),
        difference=_difference(scores, before, primary),
        absolute=intervals[primary],
        minimum=config.minimum if are_rows else None,
    )
    changes = {axis: change for axis in intervals if (change := _difference(scores, before, axis)) is not None}
    was = _interval(before.get(primary)) if before else None
    return {
        "summary": f"{ruling.outcome}: {ruling.reason}",
        "judge": f"{config.judge} (a proxy)" if config.judge == "rule" else config.judge,
        "primary": primary,
        "axes": {axis: _axis(interval) for axis, interval in intervals.items()},
        "changes": {axis: _axis(change) for axis, change in changes.items()},
        "n_scored": n_scored,
        "n_asked": len(rows),
        "verdict": ruling.outcome,
        "why": ruling.reason,
        "before": was.mean if was else None,
    }


def _used(prompts: Mapping[str, Row], completions: list[Row]) -> dict[str, Any] | None:
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


JUDGE = Stage(
    kind="judge",
    version=1,
    config=JudgeConfig,
    makes="verdicts",
    inputs={"judged": frozenset({"samples", "rows"}), "previous": frozenset({"verdicts"})},
    run=run,
    sources=("posttrain/stages/judge.py", "eval"),
    check=check,
)
