"""What a student can minimise: each method of distillation as an `Objective` of the trainer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain.lm.distillation.cross_tokenizer import AlignedBatch, AlignedRow, RealIds, collate
from posttrain.lm.distillation.hidden_states import IntermediateMatching, intermediate_loss
from posttrain.lm.distillation.logit_loss import LogitDistillation, logit_distillation_loss
from posttrain.lm.distillation.mixed_universal import mixed_universal_loss
from posttrain.lm.distillation.sampled_loss import sampled_distillation_loss
from posttrain.lm.distillation.target_store import TargetStore
from posttrain.lm.distillation.training import Batch, Objective, Place


class Logits(Objective):
    """The teacher's whole distribution at supervised positions, computed beside the student's."""

    def __init__(self, teacher: Any, settings: LogitDistillation, real_ids: int) -> None:
        self.teacher, self.settings, self.real_ids = teacher, settings, real_ids

    def loss(self, student: Any, batch: Batch, items: Tensor) -> Tensor:
        return logit_distillation_loss(
            student,
            self.teacher,
            batch["input_ids"],
            None,
            batch["labels"],
            settings=self.settings,
            real_ids=self.real_ids,
            num_items_in_batch=items,
        )


class Cached(Objective):
    """Targets that the teacher's distribution was sampled for, read from the disk; no teacher runs."""

    def __init__(self, store: TargetStore, alpha: float) -> None:
        self.store, self.alpha = store, alpha

    def loss(self, student: Any, batch: Batch, items: Tensor) -> Tensor:
        return sampled_distillation_loss(
            student,
            self.store.targets(batch["rows"].tolist()),
            batch["input_ids"],
            None,
            batch["labels"],
            settings=self.store.settings,
            alpha=self.alpha,
            num_items_in_batch=items,
        )


class CrossTokenizer(Objective):
    """A teacher of another vocabulary: how its distribution is spread where both have read the same text."""

    def __init__(
        self, teacher: Any, rows: Sequence[AlignedRow], real_ids: RealIds, alpha: float, temperature: float
    ) -> None:
        self.teacher, self.rows, self.real_ids = teacher, rows, real_ids
        self.alpha, self.temperature = alpha, temperature

    def loss(self, student: Any, batch: Batch, items: Tensor) -> Tensor:
        aligned = collate([self.rows[number] for number in batch["rows"].tolist()])
        return mixed_universal_loss(
            student,
            self.teacher,
            batch["input_ids"],
            batch["labels"],
            AlignedBatch(*(part.to(batch["labels"].device) for part in aligned)),
            real_ids=self.real_ids,
            alpha=self.alpha,
            temperature=self.temperature,
            num_items_in_batch=items,
        )


class Hidden(Objective):
    """TinyBERT's two phases: first hidden states (and attention maps) follow the teacher's, then logits do.

    The first `share` of the steps is the first phase, in one pass over the data and under one learning rate schedule.
    The loss of the first phase is a mean over all real tokens, supervised or not.
    """

    module: IntermediateMatching

    def __init__(self, matching: IntermediateMatching, logits: Logits, share: float) -> None:
        self.module, self.teacher, self.logits, self.share = matching, logits.teacher, logits, share
        self.first_phase = True

    def prepared(self, student: Any, batches: Sequence[Batch], place: Place) -> list[Batch]:
        self.first_phase = place.step < intermediate_steps(self.share, place.steps)
        return list(batches)

    def begins_anew(self, place: Place) -> bool:
        return place.step == intermediate_steps(self.share, place.steps)

    def items(self, batches: Sequence[Batch]) -> Tensor:
        if not self.first_phase:
            return super().items(batches)
        return torch.stack([batch["tokens"].sum() for batch in batches]).sum()

    def loss(self, student: Any, batch: Batch, items: Tensor) -> Tensor:
        if not self.first_phase:
            return self.logits.loss(student, batch, items)
        ids = batch["input_ids"]
        real = torch.arange(ids.shape[1], device=ids.device) < batch["tokens"][:, None]
        return intermediate_loss(self.module, student, self.teacher, ids, real, num_items_in_batch=items)


def intermediate_steps(share: float, steps: int) -> int:
    """How many of the steps match intermediate layers."""
    return round(share * steps)
