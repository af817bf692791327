"""judge: what needs no judge is checked, then completions or rows are judged among canaries, and the gate decides."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from posttrain.chain.stage import InputPath, Metrics, Stage, StageContext, StepConfig, Test
from posttrain.engines.endpoint import api_key
from posttrain.engines.journal import Journal
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages.asking import Account, Asker
from posttrain.stages.checking import checked_rows, checked_samples
from posttrain.stages.judge_cost import judge_calls
from posttrain.stages.judges import RULE, JudgeChoice, check_choice, fitted, members, prompt_hashes, refuse_self_judging
from posttrain.stages.judging import Before, Rule, judge_metrics, shares, words_used
from posttrain.stages.pairing import compare_steps
from posttrain.stages.rubrics import graded_axes, rubric_of, rules_of, scored, told_of

if TYPE_CHECKING:
    from eval.asking import Ask
    from eval.canaries import Fit
    from eval.finding import Finding
    from eval.rule_judges import RuleJudge
    from eval.verdict import Verdict

ROWS_JUDGED = 200


class JudgeConfig(JudgeChoice, StepConfig):
    """The grading part of a recipe's `judge:`, and of a gate what decides the verdict."""

    kind: Literal["judge"]
    judged: str | None
    before: str | None = None
    previous: str | None = None
    training: str | None = None
    rubric: InputPath
    prompts: InputPath
    canaries: InputPath = Path("eval/prompts/canaries.jsonl")
    axis: str = "instruct"
    minimum: float | None = None
    test: Test | None = "superior"
    margin: float | None = None
    hold: tuple[str, ...] = ()
    max_length_change: float | None = None


def check(config: JudgeConfig, where: str) -> None:
    """Refuse a rubric that cannot be read or lacks the primary axis, a judge that cannot be, and too few canaries."""
    check_choice(config, f"{where.partition(': ')[0]}: judge")
    chosen_prompts(config)
    graded = graded_axes(config)
    for key, axes in (("axis", (config.axis,)), ("hold", config.hold)):
        for axis in axes:
            if axis not in graded:
                raise PosttrainError(
                    f"{where}.{key}: '{axis}' is no axis of {config.rubric} with a score; "
                    f"there is {', '.join(graded)}. Name one of them."
                )


def ready(config: JudgeConfig) -> None:
    """Refuse an endpoint whose key is not set, before anything runs."""
    for one in members(config):
        api_key(one.endpoint)


def shows_references(config: JudgeConfig) -> bool:
    """Whether a language model is shown the reference answers of the prompts: where the rubric asks for them."""
    return config.judge != RULE and told_of(config).reference is not None


def run(config: JudgeConfig, ctx: StageContext) -> Metrics:
    """verdicts.jsonl: id, sample, axes {axis: {score, reason}}; unscored is null, never zero.

    canaries.jsonl beside it: kind, id of the prompt, text, axes. pairs.jsonl where a language model has compared the
    answers with those of the step before.
    """
    if config.judge == RULE:
        return judge_with(rules_of(config).fit, config, ctx)
    with Journal(ctx.journal) as journal:
        account = Account(journal, ctx)
        found = [Asker(one.endpoint, journal, ctx.run, config.budget, ctx.progress) for one in members(config)]
        for asker in found:
            if not asker.schema:
                ctx.say(asker.said)
        asks = [asker.ask for asker in found]
        metrics = judge_with(fitted(config, rubric_of(config), asks), config, ctx, at_once=True)
        pairs = _pairs(config, ctx, asks)
        spent = account.spent(priced=all(asker.price is not None for asker in found))
        return {**metrics, **pairs, **spent, "judge_notes": [asker.said for asker in found]}


def judge_with(fit: "Fit", config: JudgeConfig, ctx: StageContext, at_once: bool = False) -> Metrics:
    """Judge completions and canaries blind, by the judge that `fit` makes, and write both.

    `at_once` gives the judge all rows in one call, and leaves it to show its progress.
    """
    from eval.canaries import CHUNK, checks, judge_blind

    told, chosen, rules = told_of(config), chosen_prompts(config), rules_of(config)
    graded = scored(told)
    prompts, completions = judged_rows(config, ctx.inputs["judged"].path)
    training = _training(ctx)
    findings = _findings(config, ctx, training)
    canaries = rules.make(chosen, config.seed)
    bar = ctx.progress(len(completions) + len(canaries), "verdicts") if not at_once else nullcontext(lambda done: None)
    with bar as tick:
        found = judge_blind(
            fit,
            prompts,
            completions,
            [row["messages"][-1]["content"] for row in training],
            chosen,
            canaries,
            seed=config.seed,
            asked=rules.asked,
            with_references=shows_references(config),
            chunk=None if at_once else CHUNK,
            report=tick,
        )
    choices = {axis: told.choices[axis] for axis in told.choices if config.judge != RULE}
    rows = [
        {"id": row["id"], "sample": row["sample"], "axes": _of(verdicts, graded)} | _chose(verdicts, choices)
        for row, verdicts in zip(completions, found.completions, strict=True)
    ]
    write_rows(ctx.out / "verdicts.jsonl", rows)
    bred = [{axis: axes[axis] for axis in graded if axis in axes} for axes in found.canaries]
    write_rows(
        ctx.out / "canaries.jsonl",
        ({**canary._asdict(), "axes": _of(axes, axes)} for canary, axes in zip(canaries, bred, strict=True)),
    )
    rule = Rule(config.axis, config.test, config.margin, config.minimum, config.hold)
    metrics = judge_metrics(rows, rule, _before(ctx), checks(canaries, bred), findings)
    name = f"{RULE} ({rules.worth})" if config.judge == RULE else "+".join(one.name for one in members(config))
    exact = {"words_used": words_used(prompts, completions), "exact": rules.figures(prompts, completions)}
    return {**metrics, "judge": name, **exact, **({"choices": shares(rows, choices)} if choices else {})}


def _of(verdicts: "Mapping[str, Verdict]", axes: Iterable[str]) -> Row:
    return {axis: verdicts[axis]._asdict() for axis in axes}


def _chose(verdicts: "Mapping[str, Verdict]", choices: Iterable[str]) -> Row:
    return {"choices": found} if (found := _of(verdicts, choices)) else {}


def _pairs(config: JudgeConfig, ctx: StageContext, asks: "Sequence[Ask]") -> Metrics:
    """Against the step before, where there is one and pairs are wanted."""
    if not config.pairwise or "before" not in ctx.inputs:
        return {}
    prompts, new = judged_rows(config, ctx.inputs["judged"].path)
    old = read_rows(ctx.inputs["before"].path / "completions.jsonl")
    rows, figures = compare_steps(config, rubric_of(config), asks, prompts, new, old)
    write_rows(ctx.out / "pairs.jsonl", rows)
    return {"pairwise": figures}


def chosen_prompts(config: JudgeConfig) -> "Sequence[Mapping[str, Any]]":
    """Prompts for the canaries: the recipe's own, or the built-in ones where too few of these have a reference."""
    from eval.canaries import PROMPTS

    rules = rules_of(config)
    for path in (config.prompts, config.canaries):
        if chosen := _chosen(rules, path, path.stat().st_mtime_ns, config.seed):
            return chosen
    raise PosttrainError(
        f"{config.canaries}: fewer than {PROMPTS} rows with {rules.needed}, and {config.prompts} has no more; "
        "the judge is tested with them. Add rows to one of the two."
    )


@lru_cache(maxsize=8)  # every judge of a recipe asks the same
def _chosen(rules: "RuleJudge", path: Path, changed: int, seed: int) -> "Sequence[Mapping[str, Any]]":
    return rules.choose(read_rows(path), seed)


def _training(ctx: StageContext) -> list[Row]:
    """The rows that the judged model was trained on."""
    return read_rows(ctx.inputs["training"].path / "train.jsonl") if "training" in ctx.inputs else []


def _findings(config: JudgeConfig, ctx: StageContext, training: Sequence[Row]) -> "list[Finding]":
    prompts = read_rows(config.prompts)
    if not _holds_samples(ctx.inputs["judged"].path):
        return checked_rows(read_rows(ctx.inputs["judged"].path / "train.jsonl"), prompts)
    return checked_samples(ctx, {row["id"]: row for row in prompts}, training, config.max_length_change)


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


def _holds_samples(path: Path) -> bool:
    return (path / "completions.jsonl").is_file()


def judged_rows(config: JudgeConfig, path: Path) -> tuple[dict[str, Row], list[Row]]:
    """Prompts by id and completions: a model's samples, or the first rows of a data step."""
    if _holds_samples(path):
        return {row["id"]: row for row in read_rows(config.prompts)}, read_rows(path / "completions.jsonl")
    rows = read_rows(path / "train.jsonl")[:ROWS_JUDGED]
    completions = [
        {"id": row["id"], "sample": 0, "text": row["messages"][-1]["content"], "stopped": True} for row in rows
    ]
    return {row["id"]: {**row, "prompt": row["messages"][0]["content"]} for row in rows}, completions


JUDGE = Stage(
    kind="judge",
    version=5,
    config=JudgeConfig,
    makes="verdicts",
    inputs={
        "judged": frozenset({"samples", "rows"}),
        "before": frozenset({"samples"}),
        "previous": frozenset({"verdicts"}),
        "training": frozenset({"rows"}),
    },
    run=run,
    sources=(
        "posttrain/stages/judge.py",
        "posttrain/stages/judges.py",
        "posttrain/stages/judging.py",
        "posttrain/stages/rubrics.py",
        "posttrain/stages/pairing.py",
        "posttrain/stages/checking.py",
        "eval",
    ),
    check=check,
    remote=judge_calls,
    among=refuse_self_judging,
    ready=ready,
    also=lambda config: prompt_hashes(config, rubric_of(config)),
)
