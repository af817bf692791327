"""Supervised fine-tuning of a causal language model, full or with LoRA, on rows that are already tokens.

One call trains and, after an interruption, continues from its own newest checkpoint to the same bytes. The
heavy libraries are imported inside the functions, so that settings and results cost nothing to import.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.lm.device import device, has_fast_bf16
from posttrain.lm.token_row import TokenRow

OnStep = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class SFTSettings:
    """The knobs of a run, in TRL's words. `trainer` passes any further `TrainingArguments` field through."""

    learning_rate: float
    epochs: float = 1.0
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    warmup_ratio: float = 0.03
    lr_scheduler_type: str = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool | None = None  # None: what the machine is good at, see `mixed_precision`
    packing: bool | None = None  # None: where a flash attention kernel makes it pay
    save_every_steps: int = 200
    trainer: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "sft"  # the step that errors name


class LossPoint(NamedTuple):
    """Mean loss per supervised token of one optimizer step."""

    step: int
    loss: float


class TrainResult(NamedTuple):
    """What a whole run did, the part before an interruption included."""

    loss_curve: list[LossPoint]
    tokens: int
    supervised_tokens: int
    steps: int
    seconds: float
    packing: bool
    sampled_tokens: int = 0  # of `supervised_tokens`: those that the model itself wrote, in on-policy distillation


def mixed_precision() -> bool:
    """Whether training here runs under bf16 autocast unless a recipe says otherwise."""
    return has_fast_bf16(device())


def train(
    model: Any,
    rows: Sequence[TokenRow],
    *,
    settings: SFTSettings,
    checkpoint_dir: Path,
    on_step: OnStep,
    make_trainer: Callable[..., Any] | None = None,
) -> TrainResult:
    """Train `model` in place on `rows`; continue from the newest checkpoint in `checkpoint_dir`, if any.

    `make_trainer` is called in place of `SupervisedTrainer` where the loss is another one.

    A checkpoint is written every `save_every_steps` and the newest two are kept; the caller removes the
    directory when it has saved the model. A continued run ends with the bytes of an uninterrupted one
    (same machine, versions, threads).
    """
    from posttrain.lm.causal_blocks import causal_blocks
    from posttrain.lm.losses import check_plain_head
    from posttrain.lm.supervised_trainer import SupervisedTrainer, checkpoints

    _check_rows(rows)
    check_plain_head(model)
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    done = checkpoints(checkpoint_dir)
    packing = packs(model) if settings.packing is None else settings.packing
    trainer = (make_trainer or SupervisedTrainer)(model, _trl_config(settings, checkpoint_dir), rows, on_step, packing)
    try:
        with causal_blocks(model, active=trainer.args.bf16 and trainer.args.device.type == "cpu"):
            trainer.train(resume_from_checkpoint=str(done[-1]) if done else None)
    finally:
        trainer.unpatch()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return TrainResult(
        loss_curve=[LossPoint(entry["step"], entry["loss"]) for entry in steps],
        tokens=int(sum(entry["tokens"] for entry in steps)),
        supervised_tokens=int(sum(entry["supervised_tokens"] for entry in steps)),
        steps=trainer.state.global_step,
        seconds=sum(entry["seconds"] for entry in steps),
        packing=packing,
        sampled_tokens=int(sum(entry.get("sampled_tokens", 0) for entry in steps)),
    )


def packs(model: Any) -> bool:
    """Whether packing pays: with flash kernels; sdpa would attend over the whole pack and then mask it."""
    return str(model.config._attn_implementation).startswith("flash")


def add_lora(
    model: Any,
    *,
    r: int,
    lora_alpha: float,
    lora_dropout: float = 0.0,
    target_modules: str | Sequence[str] = "all-linear",
    use_rslora: bool = False,
    use_dora: bool = False,
    train_token_ids: Sequence[int] = (),
) -> Any:
    """A `PeftModel` with a fresh LoRA on `target_modules`; embeddings of `train_token_ids` are trained too.

    Tied embeddings stay tied: the trained rows of the input embedding are those of the output head.
    """
    from peft import LoraConfig, get_peft_model

    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    if targets != "all-linear":
        _check_targets(model, targets)
    config = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,  # a float is fine for peft, which divides by r
        lora_dropout=lora_dropout,
        target_modules=targets,
        use_rslora=use_rslora,
        use_dora=use_dora,
        trainable_token_indices=_trained_tokens(model, train_token_ids),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _trained_tokens(model: Any, ids: Sequence[int]) -> list[int] | dict[str, list[int]] | None:
    """peft's `trainable_token_indices`: the input embedding, and the output head unless tied to it."""
    if not ids:
        return None
    tokens = sorted(set(ids))
    if model.config.get_text_config().tie_word_embeddings:
        return tokens
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {module: name for name, module in model.named_modules()}
    return {names[module]: tokens for module in ends}


def training_arguments(settings: SFTSettings, checkpoint_dir: Path) -> dict[str, Any]:
    """Fields of `TrainingArguments`: the settings, what training here needs, and the recipe's further ones."""
    from transformers import TrainingArguments

    cuda = device() == "cuda"
    ours = {
        "output_dir": str(checkpoint_dir),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "warmup_steps": settings.warmup_ratio,  # transformers reads a value below 1 as a ratio
        "lr_scheduler_type": settings.lr_scheduler_type,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "bf16": mixed_precision() if settings.bf16 is None else settings.bf16,
        "use_cpu": not cuda,
        "save_strategy": "steps",
        "save_steps": settings.save_every_steps,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would replace a lost run's loss by an average
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    defaults = {"gradient_checkpointing": False, "optim": "adamw_torch_fused", "dataloader_pin_memory": cuda}
    known = {f.name for f in fields(TrainingArguments)} | {"gradient_checkpointing", "activation_offloading"}
    for name in settings.trainer:
        _check_trainer_field(name, ours, sorted(known), settings.kind)
    return {**defaults, **settings.trainer, **ours}


def _trl_config(settings: SFTSettings, checkpoint_dir: Path) -> Any:
    from trl import SFTConfig

    given = training_arguments(settings, checkpoint_dir)
    with warnings.catch_warnings():  # TRL's own default is a field that transformers has renamed
        warnings.simplefilter("ignore", FutureWarning)
        return SFTConfig(**given, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)


def check_trainer(settings: SFTSettings, where: str) -> None:
    """Refuse further trainer fields that do not exist, are ours, or that the config itself refuses."""
    try:
        _trl_config(settings, Path("unused"))
    except PosttrainError as error:
        raise PosttrainError(f"{where}.{error}") from None
    except (ValueError, TypeError) as error:
        raise PosttrainError(f"{where}.trainer: {error}. Correct that field, or leave it out.") from None


def _check_trainer_field(name: str, ours: Mapping[str, Any], allowed: Sequence[str], kind: str) -> None:
    if name in ours:
        raise PosttrainError(
            f"trainer.{name}: is set by {kind} itself (to {ours[name]!r}); only other TrainingArguments "
            f"fields are allowed. Use the setting of {kind}, or leave it out."
        )
    if name not in allowed:
        near = get_close_matches(name, allowed, n=1)
        raise PosttrainError(
            f"trainer.{name}: no such field; the fields of transformers' TrainingArguments are allowed. "
            + (f"Did you mean '{near[0]}'?" if near else "See its documentation for the names.")
        )


def _check_rows(rows: Sequence[TokenRow]) -> None:
    """Every row is aligned with its mask and supervises at least one token that has a predecessor."""
    if not rows:
        raise PosttrainError("data: 0 rows; at least one is needed. Check the step that makes the data.")
    for row in rows:
        if len(row.input_ids) != len(row.supervised):
            raise PosttrainError(
                f"row {row.id}: {len(row.input_ids)} tokens and {len(row.supervised)} mask values; "
                "one a token is allowed. Render the row again."
            )
        if not any(row.supervised[1:]):
            raise PosttrainError(
                f"row {row.id}: 0 of {len(row.input_ids)} tokens are supervised; at least one after the "
                "first is needed. Drop the row, or raise max_length if its answer was cut away."
            )


def _check_targets(model: Any, targets: str | list[str]) -> None:
    """Each wanted name must match a module (peft itself is silent when only some of a list match)."""
    from torch import nn

    names = [name for name, _ in model.named_modules()]
    wanted = [targets] if isinstance(targets, str) else targets
    for target in wanted:
        if isinstance(targets, str):
            found = any(re.fullmatch(target, name) for name in names)
        else:
            found = any(name == target or name.endswith(f".{target}") for name in names)
        if not found:
            linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
            kinds = sorted({name.rpartition(".")[2] for name in linear})
            raise PosttrainError(
                f"lora.target_modules: '{target}' matches no module of {type(model).__name__}; its linear "
                f"modules are {', '.join(kinds)}. Name some of them, or use all-linear."
            )
