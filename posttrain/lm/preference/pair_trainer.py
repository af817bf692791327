"""TRL's `DPOTrainer` for pairs that are tokens already: our reference, our batch order, whole checkpoints.

What `PreferenceTrainer` changes for every trainer of this room, beside what all trainers here share:
- reference log-probs are looked up or computed here, never by a model that TRL loads;
- the model is called without an attention mask: rows are padded on the right, which a causal model never looks at,
  and then the CPU's faster attention can be used;
- a step's figures are taken from the log-probs of its rows, and guards look at them.

Each pair costs two rows. TRL's fused head scores every position on a CPU, those of the prompt and the padding too.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from posttrain.lm.preference.figures import SUMS, pair_sums, step_figures
from posttrain.lm.preference.pairs import TokenPair
from posttrain.lm.sft import OnStep
from posttrain.lm.supervised_trainer import RepeatableTrainer, _no_tokenizer

WIDTH = 16  # padded widths are multiples of it: fewer shapes, so fewer compiled kernels

Batch = dict[str, Tensor]


class Unmasked:
    """A model called without its attention mask. `logps` [rows] are the summed log-probs that it last gave."""

    logps: Tensor

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        outputs = self.model(*args, **kwargs)
        if kwargs.get("fused_lm_head"):
            self.logps = outputs.log_probs.detach().sum(1)
        return outputs


class PreferenceTrainer(RepeatableTrainer):
    """See the module. Rows of a batch are known by their number, under "row"."""

    _start: Tensor | None = None

    def _get_ready(self, args: Any, lengths: Sequence[int], on_step: OnStep) -> None:
        """To be called before TRL's own `__init__`."""
        self._prepare(args, lengths, on_step, ("tokens", "supervised_tokens", *SUMS))

    def _settle(self) -> None:
        """To be called after it."""
        self.processing_class = None  # demanded there, and then it would rewrite the model's special tokens
        self.remove_callback(PrinterCallback)

    def remember(self) -> None:
        """Score every row with the model as it is now, in an order of its own; the random state stays as it was."""
        order = sorted(range(len(self._lengths)), key=self._lengths.__getitem__)
        found: Tensor | None = None
        training, size = self.model.training, self.args.train_batch_size
        self.model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            for at in range(0, len(order), size):
                batch = self.data_collator([self.train_dataset[i] for i in order[at : at + size]])
                batch = {name: value.to(self.args.device) for name, value in batch.items()}
                rows = batch.pop("row")
                scores = self._score(batch)
                found = scores.new_empty(len(scores), len(order)) if found is None else found
                found[:, rows] = scores
        self.model.train(training)
        self._start = found

    def _from_start(self, rows: Tensor, inputs: Batch) -> Tensor:
        """The log-probs of the starting model [sides, rows]."""
        return self._score(inputs) if self._start is None else self._start[:, rows]

    @abstractmethod
    def _score(self, inputs: Batch) -> Tensor:
        """Summed log-probs of a batch under the starting model [sides, rows]."""

    def _count(self, inputs_tokens: Tensor, sums: dict[str, float]) -> None:
        self._counts["tokens"] += float(inputs_tokens)
        self._counts["supervised_tokens"] += sums["chosen_tokens"] + sums["rejected_tokens"]
        for name, value in sums.items():
            self._counts[name] += value

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """The figures of a step instead of TRL's, which average over batches of unequal size."""
        if "loss" in logs:
            logs |= step_figures(self._counts, self.beta)
        super().log(logs, start_time)


class PairTrainer(PreferenceTrainer, DPOTrainer):  # type: ignore[misc]
    """DPO and its relatives: losses over pairs and a reference."""

    def __init__(self, model: Any, args: Any, pairs: Sequence[TokenPair], on_step: OnStep, reference: Any) -> None:
        """`reference` is None where the model's adapter, turned off, leaves it."""
        self._get_ready(args, [pair_length(pair) for pair in pairs], on_step)
        super().__init__(
            model, args=args, train_dataset=_dataset(pairs), data_collator=_batch, processing_class=_no_tokenizer()
        )
        self._settle()
        self._reference = reference
        if reference is None:
            self.model.delete_adapter("ref")  # TRL's copy of the fresh adapter, which adds nothing to the base
        else:
            add_fused_lm_head(reference.to(args.device))

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        """Pairs are tokens already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """See `remember`. TRL's own moves the global random state, and with it the order of the data."""
        return dataset

    def remember(self) -> None:
        super().remember()
        self._reference = None

    def _score(self, inputs: Batch) -> Tensor:
        model = self.model if self._reference is None else self._reference
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
