"""Training a model on preferences, full or with LoRA; the same promises on interruption as supervised fine-tuning.

The reference is the model as it is handed over: a frozen copy in memory, or the base under a fresh adapter.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peft import PeftModel

from posttrain.errors import PosttrainError
from posttrain.lm.causal_blocks import causal_blocks
from posttrain.lm.preference.figures import AlignPoint, curve
from posttrain.lm.preference.pair_trainer import PairTrainer
from posttrain.lm.preference.pairs import TokenPair
from posttrain.lm.preference.reference import as_it_was, check_adapter, frozen_copy
from posttrain.lm.preference.settings import PreferenceSettings, check_settings
from posttrain.lm.sft import LossPoint, OnStep, training_arguments
from posttrain.lm.supervised_trainer import checkpoints


class AlignResult(NamedTuple):
    """What a whole run did, the part before an interruption included."""

    loss_curve: list[LossPoint]
    curve: list[AlignPoint]
    tokens: int  # prompts and answers, padding not counted
    supervised_tokens: int  # answers
    steps: int
    seconds: float


def align(
    model: Any,
    pairs: Sequence[TokenPair],
    *,
    settings: PreferenceSettings,
    checkpoint_dir: Path,
    on_step: OnStep,
) -> AlignResult:
    """Train `model` in place on `pairs`; continue from the newest checkpoint in `checkpoint_dir`, if any.

    `model` is either plain, then every weight is trained, or a `PeftModel` with one fresh adapter. It must be the
    model of the start also when a run is continued: it is the reference. Dropout is off, as in TRL, so that policy
    and reference say the same. A continued run ends with the bytes of an uninterrupted one (same machine, versions,
    threads).
    """
    check_settings(settings)
    if not pairs:
        raise PosttrainError("data: 0 pairs; at least one is needed. Check the step that makes the data.")
    check_adapter(model)
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    done = checkpoints(checkpoint_dir)
    with as_it_was(model):
        trainer = _pair_trainer(model, pairs, settings, checkpoint_dir, on_step)
        try:
            _train(trainer, settings.precompute_ref_log_probs, done[-1] if done else None)
        finally:
            trainer.unpatch()
    return _result(trainer)


def _pair_trainer(
    model: Any, pairs: Sequence[TokenPair], settings: PreferenceSettings, checkpoint_dir: Path, on_step: OnStep
) -> PairTrainer:
    from trl import DPOConfig

    given = training_arguments(settings.training, checkpoint_dir)
    reference = None if isinstance(model, PeftModel) else frozen_copy(model)
    with warnings.catch_warnings():  # TRL's own default is a field that transformers has renamed
        warnings.simplefilter("ignore", FutureWarning)
        args = DPOConfig(
            **given,
            loss_type=list(settings.loss_type),
            loss_weights=None if settings.loss_weights is None else list(settings.loss_weights),
            beta=settings.beta,
            label_smoothing=settings.label_smoothing,
            precompute_ref_log_probs=True,  # so that TRL loads no reference; ours is looked up in each batch
            max_length=None,
        )
    return PairTrainer(model, args, pairs, on_step, reference)


def _train(trainer: Any, precompute: bool, checkpoint: Path | None) -> None:
    in_blocks = trainer.args.bf16 and trainer.args.device.type == "cpu"
    reference = trainer.model if trainer._reference is None else trainer._reference
    with causal_blocks(trainer.model, in_blocks), causal_blocks(reference, in_blocks):
        if precompute:
            trainer.remember()
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _result(trainer: Any) -> AlignResult:
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return AlignResult(
        loss_curve=[LossPoint(entry["step"], entry["loss"]) for entry in steps],
        curve=curve(steps),
        tokens=int(sum(entry["tokens"] for entry in steps)),
        supervised_tokens=int(sum(entry["supervised_tokens"] for entry in steps)),
        steps=trainer.state.global_step,
        seconds=sum(entry["seconds"] for entry in steps),
    )
