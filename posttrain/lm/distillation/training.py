"""Training a student on its teacher: the trainer of SFT with another loss, and the same promises on interruption.

What is minimised is an `Objective`. It is told which rows a batch holds, so that it can look up what it knows of them
(cached targets, another tokenizer's ids), it may change the batches of an optimizer step before they are counted
(on-policy samples), and it may bring parameters of its own (projections), which are trained and checkpointed beside
the student and are no part of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from posttrain.lm.causal_blocks import causal_blocks
from posttrain.lm.device import device
from posttrain.lm.losses import IGNORED
from posttrain.lm.sft import OnStep, SFTSettings, TrainResult, mixed_precision, train
from posttrain.lm.supervised_trainer import SupervisedTrainer, as_dataset, collate
from posttrain.lm.token_row import TokenRow

BESIDE = "objective.safetensors"  # in a checkpoint: the parameters that are not the student's

Batch = dict[str, Tensor]  # of SupervisedTrainer: input_ids and labels [rows, length], tokens [rows]; and rows [rows]


class Place(NamedTuple):
    """Where a run stands before an optimizer step: steps done, of how many, and batches a whole step."""

    step: int
    steps: int
    batches: int


class Objective(ABC):
    """What a student minimises. `teacher` is run beside it, where there is one; `module` is trained with it."""

    teacher: Any | None = None
    module: nn.Module | None = None

    def prepared(self, student: Any, batches: Sequence[Batch], place: Place) -> list[Batch]:
        """The batches of the next optimizer step as they are trained on. A pure function of its arguments."""
        return list(batches)

    def begins_anew(self, place: Place) -> bool:
        """Whether another loss begins here: then the optimizer forgets the gradients of the one before.

        Moments of gradients of another size would hold the student back for long.
        """
        return False

    def items(self, batches: Sequence[Batch]) -> Tensor:
        """What the summed loss of these batches, an optimizer step, is divided by: supervised tokens."""
        return torch.stack([(batch["labels"][:, 1:] != IGNORED).sum() for batch in batches]).sum()

    @abstractmethod
    def loss(self, student: Any, batch: Batch, items: Tensor) -> Tensor:
        """The summed loss of a batch, divided by `items`."""


class DistillationTrainer(SupervisedTrainer):
    """See the module."""

    def __init__(
        self,
        objective: Objective,
        model: Any,
        args: Any,
        rows: Sequence[TokenRow],
        on_step: OnStep,
        packing: bool = False,
    ) -> None:
        super().__init__(model, args, rows, on_step, packing)
        self._objective = objective
        self._counts["sampled_tokens"] = 0.0
        self.train_dataset = as_dataset(rows).add_column("row", list(range(len(rows))))
        self.data_collator = _numbered
        if objective.module is not None:
            objective.module.to(args.device).train()

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """The batches of an optimizer step as the objective wants them, and what their loss is divided by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        if self._objective.module is not None:
            self._objective.module.zero_grad()  # the trainer knows the student's gradients alone
        place = Place(self.state.global_step, self.state.max_steps, self.args.gradient_accumulation_steps)
        if self._objective.begins_anew(place):
            self.optimizer.state.clear()
        moved = [{name: tensor.to(self.args.device) for name, tensor in batch.items()} for batch in batches]
        prepared = self._objective.prepared(self.model, moved, place)
        return prepared, self._objective.items(prepared)

    def _loss(self, inputs: Any, num_items_in_batch: Any) -> Tensor:
        if "sampled" in inputs:
            self._counts["sampled_tokens"] += int(inputs["sampled"].sum())
        return self._objective.loss(self.model, inputs, num_items_in_batch)

    def create_optimizer(self, model: Any = None) -> Any:
        """The student's optimizer, which trains the objective's own parameters too."""
        optimizer = super().create_optimizer(model)
        beside = [] if self._objective.module is None else list(self._objective.module.parameters())
        if beside:
            optimizer.add_param_group({"params": beside, "weight_decay": self.args.weight_decay})
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self._objective.module is not None and output_dir is not None:
            save_file(self._objective.module.state_dict(), Path(output_dir) / BESIDE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._objective.module is not None:
            self._objective.module.load_state_dict(load_file(Path(resume_from_checkpoint) / BESIDE))


def distil(
    student: Any,
    rows: Sequence[TokenRow],
    objective: Objective,
    *,
    settings: SFTSettings,
    checkpoint_dir: Path,
    on_step: OnStep,
) -> TrainResult:
    """Train every weight of `student` in place; else as `train`, whose promises on interruption hold here too.

    Rows are never packed. The objective's teacher must be in eval mode, without gradients, on the student's device.
    """
    in_blocks = runs_in_bf16(settings) and device() == "cpu"
    run = partial(
        train,
        student,
        rows,
        settings=replace(settings, packing=False),
        checkpoint_dir=checkpoint_dir,
        on_step=on_step,
        make_trainer=partial(DistillationTrainer, objective),
    )
    if objective.teacher is None:
        return run()
    with causal_blocks(objective.teacher, active=in_blocks):
        return run()


def runs_in_bf16(settings: SFTSettings) -> bool:
    """Whether training computes under bf16 autocast."""
    return mixed_precision() if settings.bf16 is None else settings.bf16


@contextmanager
def as_in_training(teacher: Any, settings: SFTSettings) -> Iterator[None]:
    """The teacher computes alone as it would beside the student: in the same precision, with the same attention."""
    bf16 = runs_in_bf16(settings)
    with (
        causal_blocks(teacher, active=bf16 and device() == "cpu"),
        torch.autocast(device(), torch.bfloat16, enabled=bf16),
    ):
        yield


def _numbered(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """A padded batch that says which rows it holds."""
    batch = collate([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows])
    return {**batch, "rows": torch.tensor([row["row"] for row in rows])}
