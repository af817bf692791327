"""TRL's `KTOTrainer` for single answers that are tokens already, each with a verdict (arXiv 2402.01306).

The divergence that a verdict is weighed against is estimated from each prompt with the answer of its neighbour in the
batch. TRL pairs them once, so its batches must stay in one order; here they are paired in each batch, so that
batches may change from epoch to epoch. Batches are drawn whatever their rows' lengths: grouped by length, good answers
that are longer than bad ones would meet only each other, and the divergence would be that of their own kind.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from trl import KTOConfig, KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference
from trl.trainer.utils import add_fused_lm_head

from posttrain.lm.preference.figures import answer_sums
from posttrain.lm.preference.pairs import TokenAnswer
from posttrain.lm.preference.preference_trainer import WIDTH, Batch, PreferenceTrainer, Unmasked, quietly
from posttrain.lm.preference.reference import frozen_copy
from posttrain.lm.preference.settings import PreferenceSettings
from posttrain.lm.sft import OnStep, training_arguments
from posttrain.lm.supervised_trainer import LengthGroupedBatches, _no_tokenizer


class AnswerTrainer(PreferenceTrainer, KTOTrainer):  # type: ignore[misc]
    """See the module."""

    def __init__(
        self, model: Any, answers: Sequence[TokenAnswer], settings: PreferenceSettings, work: Path, on_step: OnStep
    ) -> None:
        args = self.config(settings, work)
        lengths = [len(answer.prompt) + len(answer.completion) for answer in answers]
        self._begin(args, settings, lengths, on_step)
        if not isinstance(model, PeftModel):
            self.reference = frozen_copy(model)  # before TRL writes over the model's forward
        super().__init__(
            model,
            args=args,
            train_dataset=_dataset(answers),
            data_collator=partial(_batch, longest=max(lengths)),
            processing_class=_no_tokenizer(),
        )
        self._settle()
        if self.reference is None:
            self.model.delete_adapter("ref")  # TRL's copy of the fresh adapter, which adds nothing to the base
        else:
            add_fused_lm_head(self.reference.to(args.device))

    @staticmethod
    def config(settings: PreferenceSettings, work: Path) -> Any:
        """See `PreferenceTrainer`."""
        given = training_arguments(settings.training, work)
        given["train_sampling_strategy"] = "sequential"  # demanded, and then our sampler is used
        return quietly(
            KTOConfig,
            **given,
            loss_type=settings.loss_type[0],
            beta=settings.beta,
            desirable_weight=settings.desirable_weight,
            undesirable_weight=settings.undesirable_weight,
            precompute_ref_log_probs=True,  # so that TRL loads no reference; ours is looked up in each batch
            max_length=None,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedBatches:
        return LengthGroupedBatches([0] * len(self._lengths), self.args.train_batch_size, self.args.seed)

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        """Answers are tokens already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """The neighbours of a prompt change, so nothing can be scored before."""
        return dataset

    def _score(self, inputs: Batch) -> Tensor:
        """Log-probs of the answers, and of the neighbours' answers where the loss asks for them."""
        model = self.model if self.reference is None else self.reference
        answers, swapped = self.compute_ref_log_probs(Unmasked(model), inputs)
        return torch.stack([answers] if swapped is None else [answers, swapped])

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """TRL's loss, given the reference log-probs."""
        inputs = dict(inputs)
        start = self._from_start(inputs.pop("row"), inputs)
        scored = Unmasked(model)
        loss: Tensor = super().compute_loss(scored, {**inputs, "ref_logps": start[0], "ref_KL_logps": start[-1]})
        self._metrics["train"].clear()  # TRL's own figures, see `log`
        sums = answer_sums(scored.logps, start[0], inputs["completion_mask"].sum(1), inputs["label"])
        self._count(inputs["attention_mask"].sum(), sums)
        return loss


def _dataset(answers: Sequence[TokenAnswer]) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt_ids": [answer.prompt for answer in answers],
            "completion_ids": [answer.completion for answer in answers],
            "label": [answer.label for answer in answers],
            "row": list(range(len(answers))),
        }
    )


def _batch(rows: Sequence[dict[str, Any]], longest: int) -> Batch:
    """Right-padded `input_ids`, masks [rows, longest], `label` and `row` [rows]; and each prompt with the answer of
    the row before, cut where it would be longer than any row is.
    """
    others = [rows[at - 1]["completion_ids"][: longest - len(row["prompt_ids"])] for at, row in enumerate(rows)]
    swapped = [{**row, "KL_completion_ids": other} for row, other in zip(rows, others, strict=True)]
    batch: Batch = DataCollatorForUnpairedPreference(pad_token_id=0, pad_to_multiple_of=WIDTH)(swapped)
    batch["row"] = torch.tensor([row["row"] for row in rows])
    return batch
