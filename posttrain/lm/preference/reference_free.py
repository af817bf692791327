"""TRL's `CPOTrainer` (CPO, SimPO) and `ORPOTrainer` for pairs that are tokens already: losses without a reference.

The starting model is scored before training all the same: what its answers have lost since is what the guards see.
Both trainers keep the logits of every position, and ORPO's cross entropy is taken over the prompt too.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.lm.losses import IGNORED
from posttrain.lm.preference.figures import pair_sums
from posttrain.lm.preference.pair_trainer import pair_length
from posttrain.lm.preference.pairs import TokenPair
from posttrain.lm.preference.preference_trainer import WIDTH, Batch, PreferenceTrainer, Unmasked, quietly
from posttrain.lm.preference.settings import PreferenceSettings
from posttrain.lm.sft import OnStep, training_arguments
from posttrain.lm.supervised_trainer import _no_tokenizer

with warnings.catch_warnings():  # TRL says of its experimental trainers that they may change
    warnings.simplefilter("ignore")
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer


SIDES = ("chosen", "rejected")
PADDING = 0


class Rendered(list[tuple[int, TokenPair]]):
    """Numbered pairs as a data set, on which TRL's preparation of texts has nothing to do."""

    def map(self, *args: Any, **kwargs: Any) -> "Rendered":
        """Itself."""
        return self


class ReferenceFreeTrainer(PreferenceTrainer):
    """What both share. See the module."""

    _logps: Tensor

    def __init__(
        self, model: Any, pairs: Sequence[TokenPair], settings: PreferenceSettings, work: Path, on_step: OnStep
    ) -> None:
        args = self.config(settings, work)
        self._begin(args, settings, [pair_length(pair) for pair in pairs], on_step)
        rows = Rendered(enumerate(pairs))
        super().__init__(model, args=args, train_dataset=rows, data_collator=_batch, processing_class=_no_tokenizer())
        self._settle()

    def get_batch_logps(self, logits: Tensor, labels: Tensor, average_log_prob: bool = False, **kwargs: Any) -> Tensor:
        """TRL's, which this keeps as sums over tokens."""
        found: Tensor = super().get_batch_logps(logits, labels, average_log_prob, **kwargs)
        counts = (labels[:, 1:] != IGNORED).sum(1)
        self._logps = found.detach() * counts if average_log_prob else found.detach()
        return found

    def _score(self, inputs: Batch) -> Tensor:
        ids, labels = (torch.cat([inputs[f"{side}_{name}"] for side in SIDES]) for name in ("input_ids", "labels"))
        with self.accelerator.autocast():
            logits = self.model(input_ids=ids, use_cache=False).logits
        self.get_batch_logps(logits, labels)
        return self._logps.view(2, -1)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """TRL's loss."""
        inputs = dict(inputs)
        start = self._from_start(inputs.pop("row"), inputs)
        loss: Tensor = super().compute_loss(Unmasked(model), inputs)
        self._stored_metrics["train"].clear()  # TRL's own figures, see `log`
        labels, mask = (
            torch.cat([inputs[f"{side}_{name}"] for side in SIDES]) for name in ("labels", "attention_mask")
        )
        self._count(mask.sum(), pair_sums(self._logps, start.flatten(), (labels != IGNORED).sum(1)))
        return loss


class ContrastiveTrainer(ReferenceFreeTrainer, CPOTrainer):  # type: ignore[misc]
    """CPO: DPO's loss without a reference, and the chosen answer's cross entropy; SimPO: a token, with a margin."""

    @staticmethod
    def config(settings: PreferenceSettings, work: Path) -> Any:
        """See `PreferenceTrainer`."""
        simpo = settings.loss_type == ("simpo",)
        alpha = (0.0 if simpo else 1.0) if settings.cpo_alpha is None else settings.cpo_alpha
        return quietly(
            CPOConfig,
            **training_arguments(settings.training, work),
            loss_type="simpo" if simpo else "sigmoid",
            cpo_alpha=alpha,
            simpo_gamma=settings.simpo_gamma,
            beta=settings.beta,
            label_smoothing=settings.label_smoothing,
        )


class OddsRatioTrainer(ReferenceFreeTrainer, ORPOTrainer):  # type: ignore[misc]
    """ORPO: cross entropy of prompt and chosen answer, and `beta` times the log odds ratio of the two answers."""

    @staticmethod
    def config(settings: PreferenceSettings, work: Path) -> Any:
        """See `PreferenceTrainer`."""
        return quietly(
            ORPOConfig, **training_arguments(settings.training, work), beta=settings.beta, padding_value=PADDING
        )


def _batch(rows: Sequence[tuple[int, TokenPair]]) -> Batch:
    """For each side `input_ids`, `attention_mask` and `labels` [pairs, longest of both]; `row` [pairs]."""
    width = -(-max(pair_length(pair) for _, pair in rows) // WIDTH) * WIDTH
    batch = {"row": torch.tensor([number for number, _ in rows])}
    for side in SIDES:
        ids = torch.full((len(rows), width), PADDING)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for i, (_, pair) in enumerate(rows):
            answer = pair.chosen if side == "chosen" else pair.rejected
            start, end = len(pair.prompt), len(pair.prompt) + len(answer)
            ids[i, :end] = torch.tensor(pair.prompt + answer)
            mask[i, :end] = 1
            labels[i, start:end] = ids[i, start:end]
        batch |= {f"{side}_input_ids": ids, f"{side}_attention_mask": mask, f"{side}_labels": labels}
    return batch
