"""pairs: preferences to train on, each a prompt with an answer that is better and one that is worse.

From a model's own answers, told apart by the recipe's judge or by exact checks, or from data that others have made.

pairs: {kind: pairs, model: sft, prompts: generate, samples: 4}
liked: {kind: pairs, model: sft, prompts: generate, format: unpaired}      # for KTO
given: {kind: pairs, source: preferences.jsonl}
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from posttrain.chain.stage import InputPath, Metrics, Stage, StageContext, StepConfig
from posttrain.engines.endpoint import api_key
from posttrain.errors import PosttrainError
from posttrain.rows import read_rows, write_rows
from posttrain.stages.candidates import CandidateSampling, answer_prompts, check_prompts
from posttrain.stages.judges import RULE, check_choice, members, prompt_hashes, refuse_self_judging
from posttrain.stages.pair_cost import pair_calls
from posttrain.stages.pair_report import check_sides, check_size, pair_metrics
from posttrain.stages.pair_rows import Made, paired, unpaired
from posttrain.stages.pair_scores import PairsJudge, score
from posttrain.stages.pair_source import check_source, from_source
from posttrain.stages.rubrics import graded_axes, rubric_of
from posttrain.stages.teaching import check_template

MATCHED = 1.25  # times the words of the shorter side, where match_lengths is just `true`
MARGINS = {"scores": 0.5, "pairwise": 0.0, "constraints": 0.0}  # points of each method's own scale
OF_A_MODEL = (
    "prompts",
    "training",
    "samples",
    "shared_start",
    "sampling",
    "by",
    "axis",
    "judge",
    "reject_cut",
    "threshold",
)


def _ratio(value: bool | float) -> bool | float:
    if value is True:
        return MATCHED
    if value is not False and value < 1:
        raise ValueError("true, or a ratio of the two lengths of 1 and more is allowed. Write 1.25, say")
    return value


class PairsConfig(StepConfig):
    """Either `model` and `prompts`, or a `source` of preferences as they are."""

    kind: Literal["pairs"]
    model: str | None = Field(None, description="whose answers are compared: a step, a directory or a hub id")
    prompts: str | None = Field(None, description="what it is asked: a step that makes rows, or a JSONL file")
    training: str | None = Field(None, description="rows that the model was trained on; a chain finds them by itself")
    source: str | None = Field(
        None, description="preferences as they are: a file, a data set's directory or hub id, or a step of pairs"
    )
    split: str = Field("train", description="of a data set that is no single file, such as train_prefs")
    subset: str | None = Field(None, description="configuration or folder of such a data set")
    rows: int | None = Field(
        None, ge=1, description="prompts to ask (500 by default), or rows of a source to read (all)"
    )
    samples: int = Field(4, ge=2, description="answers a prompt; a pairwise judge compares each with each")
    shared_start: bool = Field(
        False, description="the answers to a prompt begin alike: the first, cut at any word, is written on by the model"
    )
    sampling: CandidateSampling = CandidateSampling()
    by: Literal["scores", "pairwise", "constraints"] = Field(
        "scores", description="the judge's scores, its comparisons in both orders, or exact checks without a judge"
    )
    axis: str | None = Field(None, description="of the judge's scores; by default the mean of all axes")
    judge: PairsJudge | None = Field(None, description="who scores; the recipe's judge by default")
    margin: float | None = Field(
        None, ge=0, description="least difference of the scores: 0.5 of 10 points, or any by the other methods"
    )
    near_duplicates: float = Field(0.8, gt=0, le=1, description="Jaccard similarity that counts as equal")
    match_lengths: Annotated[bool | float, AfterValidator(_ratio)] = Field(
        False, description=f"longest ratio of the lengths of the two sides in words; true is {MATCHED}"
    )
    reject_cut: bool | None = Field(
        None, description="let a cut answer be rejected; by default only by constraints, where the cut is the fault"
    )
    format: Literal["paired", "unpaired"] = Field("paired", description="unpaired: one answer with a label a row, KTO")
    threshold: float | None = Field(None, description="score from which an answer is desirable; the median by default")
    hold_out: InputPath | None = Field(None, description="prompts that none may equal; the judge's by default")
    test_size: int = Field(50, ge=2, description="prompts set aside to measure held-out pairs on")
    min_rows: int = Field(100, ge=1, description="rows that must be left to train on")
    max_one_sided: float = Field(
        0.95, ge=0.5, le=1, description="share of pairs whose chosen, or rejected, side may be the longer one"
    )

    @property
    def alone(self) -> int:
        """How many answers a prompt start from the prompt itself."""
        return 1 if self.shared_start else self.samples

    @property
    def rejects_cut(self) -> bool:
        return self.by == "constraints" if self.reject_cut is None else self.reject_cut

    @property
    def least(self) -> float:
        """The margin that counts."""
        method = "pairwise" if self.source is not None else self.by
        return MARGINS[method] if self.margin is None else self.margin

    @model_validator(mode="before")
    @classmethod
    def _without_idle_judge(cls, values: Any) -> Any:
        """The recipe offers its judge to every step of this kind; where it is not asked it is no part of the step."""
        offered = isinstance(values, dict) and isinstance(values.get("judge"), BaseModel)
        if offered and (values.get("source") is not None or values.get("by") == "constraints"):
            return {**values, "judge": None}
        return values

    @model_validator(mode="after")
    def _one_origin(self) -> "PairsConfig":
        if (self.source is None) == (self.model is None) or (self.model is None) != (self.prompts is None):
            raise ValueError("either 'model' and 'prompts' or 'source' is needed. Name one of the two")
        for name, why in self._idle():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"'{name}' is read by nothing {why}. Delete it")
        if self.source is None and self.by != "constraints" and self.judge is None:
            raise ValueError(f"by: {self.by} asks a judge. Add 'judge:' to the recipe or here, or use by: constraints")
        if self.by == "pairwise" and self.judge is not None and self.judge.judge == RULE:
            raise ValueError("the rule judge compares no answers. Use by: scores, or name a language model as judge")
        if self.by == "pairwise" and self.format == "unpaired":
            raise ValueError("format unpaired needs a score an answer. Use by: scores or by: constraints")
        return self

    def _idle(self) -> Iterator[tuple[str, str]]:
        if self.source is not None:
            yield from ((name, "with a 'source'") for name in OF_A_MODEL)
        else:
            yield from ((name, "without a 'source'") for name in ("split", "subset"))
        if self.by != "scores":
            yield from ((name, f"with by: {self.by}") for name in ("axis", "threshold"))
        if self.by == "constraints":
            yield "judge", "with by: constraints"
        if self.format == "paired":
            yield "threshold", "with format: paired"
        else:
            yield "match_lengths", "with format: unpaired"


def check(config: PairsConfig, where: str) -> None:
    """Refuse before any compute what can be seen of prompts, model and judge."""
    if config.model is not None and config.prompts is not None:
        check_template(config.model, f"{where}.model")
        check_prompts(config.prompts)
    if config.source is not None:
        check_source(config, config.source)
    if config.judge is not None:
        check_choice(config.judge, f"{where}.judge")
        _check_axis(config, config.judge, where)


def _check_axis(config: PairsConfig, judge: PairsJudge, where: str) -> None:
    graded = graded_axes(judge)
    if config.axis is not None and config.axis not in graded:
        raise PosttrainError(
            f"{where}.axis: '{config.axis}' is no axis of {judge.rubric} with a score; there is {', '.join(graded)}. "
            "Name one of them, or leave it out for the mean of all."
        )


def ready(config: PairsConfig) -> None:
    """Refuse an endpoint whose key is not set, before anything runs."""
    for one in members(config.judge) if config.judge is not None else ():
        api_key(one.endpoint)


def among(config: PairsConfig, models: Any, where: str) -> None:
    """Refuse a judge that is one of the chain's models."""
    if config.judge is not None:
        refuse_self_judging(config.judge, models, where)


def also(config: PairsConfig) -> list[str] | None:
    """The words of the judge's prompts, and how its replies are read."""
    return None if config.judge is None else prompt_hashes(config.judge, rubric_of(config.judge))


def run(config: PairsConfig, ctx: StageContext) -> Metrics:
    """train.jsonl and test.jsonl in TRL's conversational preference formats, held out by prompt.

    {id, prompt: [message, …], chosen: [message], rejected: [message], score_chosen, score_rejected, source}, or with
    `format: unpaired` {id, prompt, completion: [message], label, score, source}. What makes no row is counted.
    """
    made = _made(config, ctx)
    held_out = _held_out(made, config.test_size)
    rows = [(key in held_out, row) for key, row in zip(made.prompts, made.rows, strict=True)]
    held = sum(is_held for is_held, _ in rows)
    check_size(config, made, len(rows) - held)
    check_sides(config, made)
    write_rows(ctx.out / "test.jsonl", (row for is_held, row in rows if is_held))
    write_rows(ctx.out / "train.jsonl", (row for is_held, row in rows if not is_held))
    return pair_metrics(config, made, held)


def _made(config: PairsConfig, ctx: StageContext) -> Made:
    prompts = read_rows(config.hold_out) if config.hold_out else []
    if config.source is not None:
        return from_source(config, ctx, prompts)
    answered = answer_prompts(config, ctx)
    make = paired if config.format == "paired" else unpaired
    return make(config, answered, score(config, ctx, answered), prompts)


def _held_out(made: Made, count: int) -> set[str]:
    """Prompts from all over; all rows of a prompt are on one side."""
    from data_gen.pairing import spread

    return set(spread(list(dict.fromkeys(made.prompts)), count))


PAIRS = Stage(
    kind="pairs",
    version=1,
    config=PairsConfig,
    makes="pairs",
    inputs={
        "model": frozenset({"model"}),
        "prompts": frozenset({"rows"}),
        "training": frozenset({"rows"}),
        "source": frozenset({"pairs"}),
    },
    run=run,
    sources=(
        "posttrain/stages/pairs.py",
        "posttrain/stages/candidates.py",
        "posttrain/stages/pair_scores.py",
        "posttrain/stages/pair_rows.py",
        "posttrain/stages/pair_report.py",
        "posttrain/stages/pair_source.py",
        "posttrain/stages/leaks.py",
        "posttrain/stages/teaching.py",
        "posttrain/engines/transformers_engine.py",
        "posttrain/lm/chat.py",
        "posttrain/lm/models.py",
        "data_gen",
        "eval",
    ),
    outside=frozenset({"model", "prompts", "source"}),
    data_sets=frozenset({"source"}),
    check=check,
    remote=pair_calls,
    among=among,
    ready=ready,
    also=also,
)
