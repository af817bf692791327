"""distill: a student learns from a teacher, by its texts or by its distribution, and is measured beside it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from posttrain.chain.stage import Metrics, Stage, StageContext
from posttrain.lm.pretraining import Architecture
from posttrain.stages.training import TrainingConfig, check_dropped, trainer_settings

Method = Literal["sequence", "logits", "cached", "on_policy", "hidden", "cross_tokenizer"]
READ_BY: Mapping[str, tuple[Method, ...]] = {  # settings that not every method reads
    "divergence": ("logits", "on_policy", "hidden"),
    "beta": ("logits", "on_policy", "hidden"),
    "temperature": ("logits", "cached", "on_policy", "hidden", "cross_tokenizer"),
    "alpha": ("logits", "cached", "on_policy", "hidden", "cross_tokenizer"),
    "draws": ("cached",),
    "proposal": ("cached",),
    "lmbda": ("on_policy",),
    "max_new_tokens": ("on_policy",),
    "sampling_temperature": ("on_policy",),
    "intermediate_share": ("hidden",),
    "layer_map": ("hidden",),
    "attention": ("hidden",),
}


class DistillConfig(TrainingConfig):
    """The student is one of `model`, `architecture` and `layers`; all of its weights are trained."""

    kind: Literal["distill"]
    model: str | None = Field(None, description="the student: a step, a local directory or a hub id")
    architecture: Architecture | None = Field(None, description="a new student, with the teacher's tokenizer")
    layers: Annotated[int, Field(ge=1)] | list[int] | None = Field(
        None, description="a student of these layers of the teacher (from 0), or of so many, evenly spaced"
    )
    teacher: str
    data: str
    method: Method = "logits"
    think: Literal["keep", "strip"] = Field("keep", description="strip: answers lose a leading <think>…</think>")
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    beta: float = Field(0.5, ge=0, le=1, description="of jsd: 0.5 is the Jensen-Shannon divergence")
    temperature: float = Field(
        1.0, gt=0, description="of both distributions in the loss, which is scaled by its square"
    )
    alpha: float = Field(0.5, ge=0, lt=1, description="weight of the cross entropy; the rest is the teacher's")
    draws: int = Field(12, ge=1, le=255, description="ids drawn from the teacher's distribution at each position")
    proposal: float = Field(1.0, gt=0, description="below 1, draws look more into the tail; still unbiased")
    lmbda: float = Field(0.5, gt=0, le=1, description="share of the batches whose answers the student writes itself")
    max_new_tokens: int = Field(256, ge=1, description="of an answer of the student; with its prompt, max_length")
    sampling_temperature: float = Field(1.0, gt=0, description="of the student when it writes")
    intermediate_share: float = Field(0.1, gt=0, lt=1, description="of the steps match layers, the others logits")
    layer_map: list[tuple[int, int]] | None = Field(
        None, description="pairs of a student's and a teacher's layer, 1 the first, 0 the embedding; uniform by default"
    )
    attention: bool = Field(False, description="match attention maps beside hidden states")

    @model_validator(mode="after")
    def _one_student(self) -> "DistillConfig":
        named = [name for name in ("model", "architecture", "layers") if getattr(self, name) is not None]
        if len(named) != 1:
            found = " and ".join(named) or "none"
            raise ValueError(
                f"exactly one of 'model', 'architecture' and 'layers' says what the student is, not {found}"
            )
        return self

    @model_validator(mode="after")
    def _settings_are_read(self) -> "DistillConfig":
        for name in sorted(self.model_fields_set & READ_BY.keys()):
            if self.method not in READ_BY[name]:
                others = ", ".join(READ_BY[name])
                raise ValueError(f"'{name}' is not read by method {self.method}, only by {others}. Delete '{name}'")
        if "beta" in self.model_fields_set and self.divergence != "jsd":
            raise ValueError(f"'beta' is read by divergence jsd alone, not by {self.divergence}. Delete 'beta'")
        return self


def check(config: DistillConfig, where: str) -> None:
    """Refuse `trainer` fields before any compute; transformers is imported only when there are some."""
    if config.trainer:
        from posttrain.lm.sft import check_trainer

        check_trainer(trainer_settings(config), where)


def run(config: DistillConfig, ctx: StageContext) -> Metrics:
    """Train the student, save it whole with its tokenizer, and measure held-out answers before and after."""
    from posttrain.lm.distillation.training import distil
    from posttrain.lm.models import save_model
    from posttrain.lm.sft import train
    from posttrain.stages.distill_methods import choose
    from posttrain.stages.distill_report import Held, measure, report, teacher_losses
    from posttrain.stages.distilling import load_pair, read_examples

    pair = load_pair(config, ctx)
    rows, held = (read_examples(config, ctx, pair, name) for name in ("train", "test"))
    check_dropped(config, len(rows.student), rows.too_long, len(held.student))
    taught = teacher_losses(ctx, pair, held)
    before = measure(ctx, pair, held)
    chosen = choose(config, ctx, pair, rows)
    with ctx.progress(0, "step") as tick:

        def on_step(step: int, steps: int, logs: Mapping[str, float]) -> None:
            tick(step, f"loss {logs['loss']:.2f}", steps)

        how: dict[str, Any] = {
            "settings": trainer_settings(config),
            "checkpoint_dir": ctx.work / "checkpoints",
            "on_step": on_step,
        }
        if chosen.objective is None:
            result = train(pair.student, rows.student, **how)
        else:
            result = distil(pair.student, rows.student, chosen.objective, **how)
    figures = report(config, ctx, pair, rows, held, result, Held(taught, before, measure(ctx, pair, held)))
    save_model(pair.student, pair.chat.tokenizer, ctx.out)
    return {**figures, **chosen.figures}


DISTILL = Stage(
    kind="distill",
    version=1,
    config=DistillConfig,
    makes="model",
    inputs={"model": frozenset({"model"}), "teacher": frozenset({"model"}), "data": frozenset({"rows"})},
    run=run,
    sources=(
        "posttrain/stages/distill.py",
        "posttrain/stages/distill_methods.py",
        "posttrain/stages/distill_report.py",
        "posttrain/stages/distilling.py",
        "posttrain/stages/training.py",
        "posttrain/lm",
    ),
    outside=frozenset({"model", "teacher"}),
    check=check,
)
