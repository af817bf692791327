"""Training a model on preferences, full or with LoRA; the same promises on interruption as supervised fine-tuning.

The reference is the model as it is handed over: a frozen copy in memory, or the base under a fresh adapter.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.lm.causal_blocks import causal_blocks
from posttrain.lm.preference.answer_trainer import AnswerTrainer
from posttrain.lm.preference.figures import AlignPoint, Lengths, curve, lengths
from posttrain.lm.preference.guards import GuardReport, guard_report
from posttrain.lm.preference.pair_trainer import PairTrainer
from posttrain.lm.preference.pairs import TokenAnswer, TokenPair, unpaired
from posttrain.lm.preference.reference import as_it_was, check_model
from posttrain.lm.preference.reference_free import ContrastiveTrainer, OddsRatioTrainer
from posttrain.lm.preference.settings import DPO_LOSSES, UNPAIRED, PreferenceSettings, check_settings
from posttrain.lm.sft import LossPoint, OnStep
from posttrain.lm.supervised_trainer import checkpoints

Rows = Sequence[TokenPair] | Sequence[TokenAnswer]


class AlignResult(NamedTuple):
    """What a whole run did, the part before an interruption included."""

    loss_curve: list[LossPoint]
    curve: list[AlignPoint]
    guards: GuardReport
    lengths: Lengths  # of the answers trained on
    tokens: int  # prompts and answers, padding not counted
    supervised_tokens: int  # answers
    steps: int
    seconds: float


def align(
    model: Any, rows: Rows, *, settings: PreferenceSettings, checkpoint_dir: Path, on_step: OnStep
) -> AlignResult:
    """Train `model` in place on `rows`; continue from the newest checkpoint in `checkpoint_dir`, if any.

    Rows are pairs; KTO and its like take single answers, and take pairs apart. `model` is either plain, then every
    weight is trained, or a `PeftModel` with one fresh adapter. It must be the model of the start also when a run is
    continued: it is the reference. Dropout is off, as in TRL, so that policy and reference say the same. A continued
    run ends with the bytes of an uninterrupted one (same machine, versions, threads). Guards stop a run that goes
    wrong with an error that names what to change; then nothing of it should be kept.
    """
    check_settings(settings)
    rows = _fitting(rows, settings.loss_type)
    check_model(model)
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    done = checkpoints(checkpoint_dir)
    with as_it_was(model):
        trainer = _trainer_of(settings.loss_type)(model, rows, settings, checkpoint_dir, on_step)
        try:
            _train(trainer, settings, done[-1] if done else None)
        finally:
            trainer.unpatch()
    return _result(trainer, rows)


def check_trainer(settings: PreferenceSettings, where: str) -> None:
    """Refuse further trainer fields that do not exist, are ours, or that TRL's config refuses."""
    try:
        _trainer_of(settings.loss_type).config(settings, Path("unused"))
    except PosttrainError as error:
        raise PosttrainError(f"{where}.{error}") from None
    except (ValueError, TypeError) as error:
        raise PosttrainError(f"{where}.trainer: {error}. Correct that field, or leave it out.") from None


def _fitting(rows: Rows, losses: tuple[str, ...]) -> Rows:
    """The rows in the shape that the losses take."""
    if not rows:
        raise PosttrainError("data: 0 rows; at least one is needed. Check the step that makes the data.")
    pairs = [row for row in rows if isinstance(row, TokenPair)]
    if losses[0] in UNPAIRED:
        return unpaired(pairs) if pairs else rows
    if not pairs:
        raise PosttrainError(
            f"data: single answers with a verdict, and the loss {' + '.join(losses)}; pairs are allowed. Use "
            f"{' or '.join(UNPAIRED)} for single answers."
        )
    return pairs


def _trainer_of(losses: tuple[str, ...]) -> Any:
    if losses[0] in DPO_LOSSES:
        return PairTrainer
    if losses[0] in UNPAIRED:
        return AnswerTrainer
    return OddsRatioTrainer if losses[0] == "orpo" else ContrastiveTrainer


def _train(trainer: Any, settings: PreferenceSettings, checkpoint: Path | None) -> None:
    in_blocks = trainer.args.bf16 and trainer.args.device.type == "cpu"
    reference = trainer.model if trainer.reference is None else trainer.reference
    before = settings.precompute_ref_log_probs or isinstance(trainer, ContrastiveTrainer | OddsRatioTrainer)
    with causal_blocks(trainer.model, in_blocks), causal_blocks(reference, in_blocks):
        if before:
            trainer.remember()
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _result(trainer: Any, rows: Rows) -> AlignResult:
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return AlignResult(
        loss_curve=[LossPoint(entry["step"], entry["loss"]) for entry in steps],
        curve=curve(steps),
        guards=guard_report(steps),
        lengths=lengths(rows),
        tokens=int(sum(entry["tokens"] for entry in steps)),
        supervised_tokens=int(sum(entry["supervised_tokens"] for entry in steps)),
        steps=trainer.state.global_step,
        seconds=sum(entry["seconds"] for entry in steps),
    )
