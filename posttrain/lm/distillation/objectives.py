"""What a student can minimise: each method of distillation as an `Objective` of the trainer."""

from typing import Any

from torch import Tensor

from posttrain.lm.distillation.logit_loss import LogitDistillation, logit_distillation_loss
from posttrain.lm.distillation.sampled_loss import sampled_distillation_loss
from posttrain.lm.distillation.target_store import TargetStore
from posttrain.lm.distillation.training import Batch, Objective


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
