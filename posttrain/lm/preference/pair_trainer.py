"""TRL's `DPOTrainer` for pairs that are tokens already: losses over two answers and a reference.

Each pair costs two rows, and two more of the reference unless that is scored before. TRL's fused head scores every
position on a CPU, those of the prompt and of the padding too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from posttrain.lm.preference.figures import pair_sums
from posttrain.lm.preference.pairs import TokenPair
from posttrain.lm.preference.preference_trainer import WIDTH, Batch, PreferenceTrainer, Unmasked, quietly
from posttrain.lm.preference.reference import frozen_copy
from posttrain.lm.preference.settings import PreferenceSettings
from posttrain.lm.sft import OnStep, training_arguments
from posttrain.lm.supervised_trainer import _no_tokenizer


class PairTrainer(PreferenceTrainer, DPOTrainer):  # type: ignore[misc]
    """See the module."""

    def __init__(
        self, model: Any, pairs: Sequence[TokenPair], settings: PreferenceSettings, work: Path, on_step: OnStep
    ) -> None:
        args = self.config(settings, work)
        self._begin(args, settings, [pair_length(pair) for pair in pairs], on_step)
        if not isinstance(model, PeftModel):
            self.reference = frozen_copy(model)  # before TRL writes over the model's forward
        super().__init__(
            model, args=args, train_dataset=_dataset(pairs), data_collator=_batch, processing_class=_no_tokenizer()
        )
        self._settle()
        if self.reference is None:
            self.model.delete_adapter("ref")  # TRL's copy of the fresh adapter, which adds nothing to the base
        else:
            add_fused_lm_head(self.reference.to(args.device))

    @staticmethod
    def config(settings: PreferenceSettings, work: Path) -> Any:
        """See `PreferenceTrainer`."""
        weights = settings.loss_weights
        return quietly(
            DPOConfig,
            **training_arguments(settings.training, work),
            loss_type=list(settings.loss_type),
            loss_weights=None if weights is None else list(weights),
            beta=settings.beta,
            label_smoothing=settings.label_smoothing,
            precompute_ref_log_probs=True,  # so that TRL loads no reference; ours is looked up in each batch
            max_length=None,
        )

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        """Pairs are tokens already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """See `remember`. TRL's own moves the global random state, and with it the order of the data."""
        return dataset

    def _score(self, inputs: Batch) -> Tensor:
        model = self.model if self.reference is None else self.reference
        return torch.stack(self.compute_ref_log_probs(Unmasked(model), inputs))

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """TRL's loss, given the reference log-probs."""
        inputs = dict(inputs)
        start = self._from_start(inputs.pop("row"), inputs)
        scored = Unmasked(model)
        given = {**inputs, "ref_chosen_logps": start[0], "ref_rejected_logps": start[1]}
        loss: Tensor = super().compute_loss(scored, given)
        self._metrics["train"].clear()  # TRL's own figures, see `log`
        sums = pair_sums(scored.logps, start.flatten(), inputs["completion_mask"].sum(1))
        self._count(inputs["attention_mask"].sum(), sums)
        return loss


def pair_length(pair: TokenPair) -> int:
    """Tokens of the longer side."""
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def _dataset(pairs: Sequence[TokenPair]) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt_ids": [pair.prompt for pair in pairs],
            "chosen_ids": [pair.chosen for pair in pairs],
            "rejected_ids": [pair.rejected for pair in pairs],
            "row": list(range(len(pairs))),
        }
    )


def _batch(rows: Sequence[dict[str, Any]]) -> Batch:
    """Right-padded `input_ids`, `attention_mask` and `completion_mask` [2 x pairs, longest]; `row` [pairs]."""
    batch: Batch = DataCollatorForPreference(pad_token_id=0, pad_to_multiple_of=WIDTH)(rows)
    batch["row"] = torch.tensor([row["row"] for row in rows])
    return batch
