"""What the trainers of this room share, beside what all trainers here share.

- log-probs of the starting model are looked up or computed here, never by a model that TRL loads;
- the model is called without an attention mask: rows are padded on the right, which a causal model never looks at,
  and then the CPU's faster attention can be used;
- a step's figures are taken from the log-probs of its rows, and guards look at them.
"""

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback

from posttrain.lm.preference.figures import SUMS, step_figures
from posttrain.lm.preference.guards import check_steps
from posttrain.lm.preference.settings import PreferenceSettings
from posttrain.lm.sft import OnStep
from posttrain.lm.supervised_trainer import RepeatableTrainer

WIDTH = 16  # padded widths are multiples of it: fewer shapes, so fewer compiled kernels

Batch = dict[str, Tensor]


def quietly(config: Any, **given: Any) -> Any:
    """A config of TRL's, without its warning that a default of its own is a field that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return config(**given)


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

    reference: Any = None  # a copy of the starting model; None where the adapter, turned off, leaves it
    _start: Tensor | None = None

    @staticmethod
    @abstractmethod
    def config(settings: PreferenceSettings, work: Path) -> Any:
        """TRL's config of a run in the directory `work`."""

    def _begin(self, args: Any, settings: PreferenceSettings, lengths: Sequence[int], on_step: OnStep) -> None:
        """To be called before TRL's own `__init__`."""
        self._prepare(args, lengths, on_step, ("tokens", "supervised_tokens", *SUMS))
        self._settings = settings

    def _settle(self) -> None:
        """To be called after it."""
        self.processing_class = None  # demanded there, and then it would rewrite the model's special tokens
        self.remove_callback(PrinterCallback)

    def remember(self) -> None:
        """Score every row with the starting model, in an order of its own; the random state stays as it was."""
        order = sorted(range(len(self._lengths)), key=self._lengths.__getitem__)
        size, training, found = self.args.train_batch_size, self.model.training, []
        self.model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            for at in range(0, len(order), size):
                batch = self.data_collator([self.train_dataset[i] for i in order[at : at + size]])
                batch.pop("row")
                found.append(self._score({name: value.to(self.args.device) for name, value in batch.items()}))
        self.model.train(training)
        self._start = torch.empty_like(torch.cat(found, 1))
        self._start[:, order] = torch.cat(found, 1)
        self.reference = None

    def _from_start(self, rows: Tensor, inputs: Batch) -> Tensor:
        """The summed log-probs of a batch under the starting model [sides, rows]."""
        return self._score(inputs) if self._start is None else self._start[:, rows]

    @abstractmethod
    def _score(self, inputs: Batch) -> Tensor:
        """As `_from_start`, computed."""

    def _count(self, tokens: Tensor, sums: Mapping[str, float]) -> None:
        """Add a batch of so many tokens to the sums of its step."""
        self._counts["tokens"] += float(tokens)
        self._counts["supervised_tokens"] += sums["chosen_tokens"] + sums["rejected_tokens"]
        for name, value in sums.items():
            self._counts[name] += value

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """The figures of a step instead of TRL's, which average over batches of unequal size; then the guards."""
        if "loss" in logs:
            logs |= step_figures(self._counts, self._settings.beta)
            super().log(logs, start_time)
            check_steps(self.state.log_history, self._settings)
