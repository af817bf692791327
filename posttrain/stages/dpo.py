"""dpo: alignment on preferences, by DPO and its relatives, against the model that the step was given."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, WithJsonSchema, field_validator

from posttrain.chain.stage import Metrics, Stage, StageContext
from posttrain.errors import PosttrainError
from posttrain.rows import read_rows
from posttrain.stages.adapters import LoraSettings, save_adapter
from posttrain.stages.training import TrainingConfig, check_context, check_dropped, trainer_settings, training_metrics

if TYPE_CHECKING:
    from posttrain.lm.preference.pairs import TokenAnswer, TokenPair
    from posttrain.lm.preference.settings import PreferenceSettings

FOR_BASE = "adapter_for_base"  # the adapter of the step before and this one, as one adapter of the base of both


NAME = {"type": "string"}
ONE_OR_MORE = {"anyOf": [NAME, {"type": "array", "items": NAME}]}  # for editors: one name needs no list


class DPOStepConfig(TrainingConfig):
    """TRL's names. The reference is the step's own input model, in memory."""

    kind: Literal["dpo"]
    model: str
    data: str
    lora: LoraSettings = LoraSettings()
    full: bool = Field(False, description="train every weight instead of a LoRA")
    loss_type: Annotated[tuple[str, ...], WithJsonSchema(ONE_OR_MORE)] = Field(
        ("sigmoid",), description="TRL's names; sigmoid is DPO"
    )
    loss_weights: tuple[float, ...] | None = None
    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    precompute_ref_log_probs: bool = Field(False, description="score the reference once, before training")
    simpo_gamma: float = Field(0.5, description="margin that simpo asks for")
    cpo_alpha: float | None = Field(None, ge=0, description="weight of the chosen answer's cross entropy in cpo, simpo")
    desirable_weight: float = Field(1.0, gt=0, description="of kto's good answers")
    undesirable_weight: float = Field(1.0, gt=0, description="of kto's bad answers")
    max_chosen_drop: float | None = Field(
        1.0, gt=0, description="nats a token that chosen answers may lose before the run is stopped"
    )
    cut_prompts: bool = Field(False, description="cut a long prompt from the left, for both answers alike")
    mask_shared_start: bool = Field(
        False, description="learn nothing from the tokens with which both answers begin, as with pairs' shared_start"
    )
    learning_rate: float = Field(5e-4, gt=0)

    @field_validator("loss_type", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Prepared(NamedTuple):
    """What is trained on, the held-out pairs, and what was dropped or cut. Rows without a pair have none held out."""

    rows: "list[TokenPair] | list[TokenAnswer]"
    total: int  # of pairs, also where the loss reads each as two answers
    held: "list[TokenPair]"
    counts: dict[str, int]


def settings_of(config: DPOStepConfig) -> "PreferenceSettings":
    """The settings of a run, as training takes them."""
    from posttrain.lm.preference.settings import PreferenceSettings

    shared = PreferenceSettings.__dataclass_fields__.keys() - {"training"}
    return PreferenceSettings(trainer_settings(config), **{name: getattr(config, name) for name in shared})


def check(config: DPOStepConfig, where: str) -> None:
    """Refuse losses and `trainer` fields before any compute."""
    from posttrain.lm.preference.settings import check_settings

    try:
        check_settings(settings_of(config))
    except PosttrainError as error:
        raise PosttrainError(f"{where}.{error}") from None
    if config.trainer:
        from posttrain.lm.preference.training import check_trainer

        check_trainer(settings_of(config), where)


def run(config: DPOStepConfig, ctx: StageContext) -> Metrics:
    """Train, save the adapter (or model) with its tokenizer, and measure held-out pairs before and after."""
    import torch

    from posttrain.hub.fetch import local_directory
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.device import device
    from posttrain.lm.models import load_model, load_tokenizer, save_model
    from posttrain.lm.preference.training import align
    from posttrain.lm.sft import add_lora

    path = local_directory(ctx.inputs["model"])
    tokenizer = load_tokenizer(path)
    data = prepare(config, ctx, ChatFormat(tokenizer, str(path)))
    model = load_model(path).to(device())
    check_context(config, model, ctx.inputs["model"].reference)
    torch.manual_seed(config.seed)  # the adapter's first values come from the global generator
    if not config.full:
        model = add_lora(model, **config.lora.model_dump())
    before = _scored(model, data.held, ctx)
    with ctx.progress(0, "step") as tick:
        result = align(
            model,
            data.rows,
            settings=settings_of(config),
            checkpoint_dir=ctx.work / "checkpoints",
            on_step=lambda step, steps, logs: tick(step, f"loss {logs['loss']:.2f}", steps),
        )
    figures = _metrics(config, data, result, before, _scored(model, data.held, ctx))
    if config.full:
        save_model(model, tokenizer, ctx.out)
    else:
        save_adapter(model, tokenizer, ctx, path)
        _join(config, ctx, path)
    return figures


def prepare(config: DPOStepConfig, ctx: StageContext, chat: Any) -> Prepared:
    """Rows as tokens, as the loss reads them: pairs, or single answers with a label."""
    from posttrain.lm.preference.pairs import TOO_LONG, token_answers, token_pairs, unpaired
    from posttrain.lm.preference.settings import UNPAIRED

    train, test = (read_rows(ctx.inputs["data"].path / f"{name}.jsonl") for name in ("train", "test"))
    single = bool(train) and "completion" in train[0]
    wants_single = config.loss_type[0] in UNPAIRED
    if single and not wants_single:
        raise PosttrainError(
            f"dpo.loss_type: {', '.join(config.loss_type)}, and the rows are single answers with a label; "
            f"{', '.join(UNPAIRED)} are allowed with these. Choose one, or make pairs (format: paired)."
        )
    masked = {} if single else {"mask_start": config.mask_shared_start}
    rows, counts = (token_answers if single else token_pairs)(
        train, chat, config.max_length, config.cut_prompts, **masked
    )
    held = [] if single else token_pairs(test, chat, config.max_length, config.cut_prompts, **masked)[0]
    check_dropped(config, len(rows), counts[TOO_LONG], len(test) if single else len(held))
    read: Any = unpaired(rows) if wants_single and not single else rows  # type: ignore[arg-type]
    return Prepared(read, len(rows), held, counts)


def _scored(model: Any, held: "list[TokenPair]", ctx: StageContext) -> Any:
    from posttrain.lm.preference.measure import pair_logps

    with ctx.progress(2 * len(held), "held-out answers") as tick:
        return pair_logps(model, held, report=tick)


def _join(config: DPOStepConfig, ctx: StageContext, source: Path) -> None:
    """An adapter trained on an adapter is written a second time, as one of the base below both.

    Where the one before was joined to others already, all of them are.
    """
    from posttrain.lm.adapters import concatenate
    from posttrain.lm.models import ADAPTER

    if not (source / ADAPTER).is_file():
        return
    if config.lora.use_dora:
        ctx.say(f"no {FOR_BASE}: DoRA is no sum of two adapters")
        return
    before = source / FOR_BASE
    concatenate(before if before.is_dir() else source, ctx.out, ctx.out / FOR_BASE)


def _metrics(config: DPOStepConfig, data: Prepared, result: Any, before: Any, after: Any) -> Metrics:
    from posttrain.lm.preference.pairs import EQUAL, PROMPT_CUT, TOO_LONG

    what = "full fine-tuning" if config.full else f"LoRA r={config.lora.r}"
    found = _held_out(config, before, after) if data.held else None
    gained = "" if found is None else f", held-out pairs told apart {found['accuracy']['mean']:.0%}"
    dropped = {name: data.counts[name] for name in (TOO_LONG, EQUAL) if name in data.counts}
    return {
        "summary": (
            f"{' + '.join(config.loss_type)}, {what} on {data.total:,} {'pairs' if data.held else 'answers'}, "
            f"{sum(dropped.values())} dropped{gained}"
        ),
        "loss_type": list(config.loss_type),
        "rows": data.total,
        **{f"rows_dropped_{name.replace(' ', '_')}": count for name, count in dropped.items()},
        "rows_cut": data.counts[PROMPT_CUT],
        "answer_tokens": result.lengths._asdict(),
        "guards": result.guards._asdict(),
        **training_metrics(result),
        "preference_curve": [list(point) for point in result.curve],
        "held_out_pairs": found,
    }


def _held_out(config: DPOStepConfig, before: Any, after: Any) -> Metrics:
    """Implicit rewards on held-out pairs, whose margin is 0 at the start, with intervals."""
    from eval.statistics import cluster_bootstrap
    from posttrain.lm.preference.measure import held_out, implicit_rewards

    rewards = implicit_rewards(after, before, config.beta)
    names = [reward.id for reward in rewards]
    accuracy = cluster_bootstrap([reward.right for reward in rewards], names)
    margin = cluster_bootstrap([reward.margin for reward in rewards], names)
    means = held_out(after, before, config.beta)._asdict()
    return {**means, "accuracy": accuracy._asdict(), "margin": margin._asdict()}


DPO = Stage(
    kind="dpo",
    version=1,
    config=DPOStepConfig,
    makes="model",
    inputs={"model": frozenset({"model"}), "data": frozenset({"pairs"})},
    run=run,
    sources=("posttrain/stages/dpo.py", "posttrain/stages/adapters.py", "posttrain/stages/training.py", "posttrain/lm"),
    outside=frozenset({"model"}),
    check=check,
)
