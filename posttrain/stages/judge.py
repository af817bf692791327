"""judge: what needs no judge is checked, then completions or rows are judged among canaries, and the gate decides."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from posttrain.chain.stage import InputPath, Metrics, Stage, StageContext, StepConfig, Test
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages.checking import checked_rows, checked_samples
from posttrain.stages.judging import Before, Rule, judge_metrics, words_used

if TYPE_CHECKING:
    from eval.canaries import Fit
    from eval.finding import Finding
    from eval.verdict import Verdict

ROWS_JUDGED = 200


class JudgeConfig(StepConfig):
    """The grading part of a recipe's `judge:`, and of a gate what decides the verdict."""

    kind: Literal["judge"]
    judged: str | None
    before: str | None = None
    previous: str | None = None
    training: str | None = None
    judge: Literal["rule"] = "rule"
    rubric: InputPath
    prompts: InputPath
    canaries: InputPath = Path("eval/prompts/canaries.jsonl")
    axis: str = "instruct"
    minimum: float | None = None
    test: Test | None = "superior"
    margin: float | None = None


def check(config: JudgeConfig, where: str) -> None:
    """Refuse a rubric that cannot be read or lacks the primary axis, and too few canaries, before any compute."""
    from eval.story_rules import AXES

    _chosen(config)
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
    """verdicts.jsonl: id, sample, axes {axis: {score, reason}}; unscored is null, never zero.

    canaries.jsonl beside it: kind, id of the prompt, text, axes.
    """
    from eval.story_rules import rule_judge

    return judge_with(rule_judge, config, ctx)


def judge_with(fit: "Fit", config: JudgeConfig, ctx: StageContext) -> Metrics:
    """Judge completions and canaries blind, by the judge that `fit` makes, and write both."""
    from eval.canaries import checks, judge_blind, make

    rubric, chosen = _rubric(config), _chosen(config)
    prompts, completions = _judged(config, ctx)
    training = _training(ctx)
    findings = _findings(config, ctx, training)
    answers = [row["messages"][-1]["content"] for row in training]
    canaries = make(chosen, config.seed)
    with ctx.progress(len(completions) + len(canaries), "verdicts") as tick:
        found = judge_blind(fit, prompts, completions, answers, chosen, canaries, seed=config.seed, report=tick)
    rows = [
        {"id": row["id"], "sample": row["sample"], "axes": _told(verdicts, rubric.axes)}
        for row, verdicts in zip(completions, found.completions, strict=True)
    ]
    write_rows(ctx.out / "verdicts.jsonl", rows)
    bred = zip(canaries, found.canaries, strict=True)
    write_rows(ctx.out / "canaries.jsonl", ({**canary._asdict(), "axes": _told(axes, axes)} for canary, axes in bred))
    rule = Rule(config.axis, config.test, config.margin, config.minimum)
    metrics = judge_metrics(rows, rule, _before(ctx), checks(canaries, found.canaries), findings)
    name = f"{config.judge} (a proxy)" if config.judge == "rule" else config.judge
    return {**metrics, "judge": name, "words_used": words_used(prompts, completions)}


def _told(verdicts: "Mapping[str, Verdict]", axes: Iterable[str]) -> Row:
    return {axis: verdicts[axis]._asdict() for axis in axes}


def _chosen(config: JudgeConfig) -> "Sequence[Mapping[str, Any]]":
    """Prompts for the canaries: the recipe's own, or the built-in ones where too few of these have a reference."""
    from eval.canaries import FEWEST_SENTENCES, PROMPTS, choose

    for path in (config.prompts, config.canaries):
        if chosen := choose(read_rows(path), config.seed):
            return chosen
    raise PosttrainError(
        f"{config.canaries}: fewer than {PROMPTS} rows with 'words' and a 'reference' of {FEWEST_SENTENCES} sentences "
        f"and more, and {config.prompts} has no more; the judge is tested with them. Add rows to one of the two."
    )


def _training(ctx: StageContext) -> list[Row]:
    """The rows that the judged model was trained on."""
    return read_rows(ctx.inputs["training"].path / "train.jsonl") if "training" in ctx.inputs else []


def _findings(config: JudgeConfig, ctx: StageContext, training: Sequence[Row]) -> "list[Finding]":
    prompts = read_rows(config.prompts)
    if _kind(ctx) == "rows":
        return checked_rows(read_rows(ctx.inputs["judged"].path / "train.jsonl"), prompts)
    return checked_samples(ctx, {row["id"]: row for row in prompts}, training)


def _before(ctx: StageContext) -> Before | None:
    from eval.canaries import Check

    if "previous" not in ctx.inputs:
        return None
    previous = ctx.inputs["previous"]
    canaries = [
        Check(f"{check['name']} (the step before)", check["asked"], check["passed"], check["needed"])
        for check in previous.metrics["canaries"]
    ]
    return Before(read_rows(previous.path / "verdicts.jsonl"), canaries)


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


JUDGE = Stage(
    kind="judge",
    version=3,
    config=JudgeConfig,
    makes="verdicts",
    inputs={
        "judged": frozenset({"samples", "rows"}),
        "before": frozenset({"samples"}),
        "previous": frozenset({"verdicts"}),
        "training": frozenset({"rows"}),
    },
    run=run,
    sources=("posttrain/stages/judge.py", "posttrain/stages/judging.py", "posttrain/stages/checking.py", "eval"),
    check=check,
)
