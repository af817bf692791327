"""TRL's `SFTTrainer` for rows that are tokens already: our loss, our batch order, whole checkpoints.

Why a subclass and what it changes:
- the loss scores supervised positions only, and entropy and accuracy are not computed beside it;
- batches group rows of like length (a CPU pays for every padded position) in an order that depends on seed
  and epoch alone, so that a run continued in the middle of an epoch sees the same batches;
- a checkpoint is written aside and renamed when it is on disk, and holds no pickled arguments;
- nothing is sent to anybody and nothing is drawn on the terminal.
"""

import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, PrinterCallback, Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

from posttrain.errors import PosttrainError
from posttrain.lm.losses import IGNORED, supervised_cross_entropy
from posttrain.lm.saving import disk_full_as_oserror
from posttrain.lm.sft import OnStep
from posttrain.lm.token_row import TokenRow

KEPT_CHECKPOINTS = 2
PARTIAL = "partial"


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Right-padded `input_ids` and `labels` [rows, longest]. No mask: causal rows never see the padding.

    The width is a multiple of 16: fewer shapes, so fewer compiled kernels to make and to keep in memory.
    """
    longest = -(-max(len(row["input_ids"]) for row in rows) // 16) * 16
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        labels[i, : len(row["labels"])] = torch.tensor(row["labels"])
    return {"input_ids": ids, "labels": labels, "tokens": torch.tensor([len(r["input_ids"]) for r in rows])}


def pack(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    """The same rows end to end in one, [1, tokens], without padding; `position_ids` start again at each row.

    Exact: attention stays within a row, and no row is taught by the end of the one before.
    """
    ids = [token for row in rows for token in row["input_ids"]]
    labels = [label for row in rows for label in [IGNORED, *row["labels"][1:]]]
    positions = [position for row in rows for position in range(len(row["input_ids"]))]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
        "tokens": torch.tensor([len(row["input_ids"]) for row in rows]),
    }


def as_dataset(rows: Sequence[TokenRow]) -> Dataset:
    """Columns `input_ids` and `labels` (-100 where a token is not supervised)."""
    labels = [
        [token if kept else IGNORED for token, kept in zip(row.input_ids, row.supervised, strict=True)] for row in rows
    ]
    return Dataset.from_dict({"input_ids": [row.input_ids for row in rows], "labels": labels})


class LengthGroupedBatches(torch.utils.data.Sampler[int]):
    """Row numbers in groups of like length, the groups in random order; a pure function of seed and epoch.

    transformers' own `LengthGroupedSampler` draws from the global generator, so that a resumed epoch gets
    another order, and sorts from long to short over fifty batches.
    """

    def __init__(self, lengths: Sequence[int], group: int, seed: int) -> None:
        self.lengths, self.group, self.seed, self.epoch = list(lengths), group, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        order = get_length_grouped_indices(self.lengths, self.group, generator=generator)
        whole = len(order) // self.group
        for i in torch.randperm(whole, generator=generator).tolist():
            yield from order[i * self.group : (i + 1) * self.group]
        yield from order[whole * self.group :]


class RepeatableTrainer(Trainer):  # type: ignore[misc]
    """What every trainer here does its own way: the order of rows, the log, and checkpoints. See the module.

    Mixed in before one of TRL's trainers. `on_step(step, steps, logs)` is called after every optimizer step.
    """

    def _prepare(self, args: Any, lengths: Sequence[int], on_step: OnStep, counts: Sequence[str]) -> None:
        """To be called before TRL's own `__init__`. `counts` are summed over an optimizer step, then logged."""
        self._lengths = list(lengths)
        self._on_step = on_step
        self._checkpoint_root = Path(args.output_dir)
        self._counts = dict.fromkeys(counts, 0.0)
        self._clock = time.perf_counter()

    def unpatch(self) -> None:
        """Take back what TRL and accelerate put over `forward`, so that the model is the caller's again."""
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        for module in (self.model, base):
            for name in ("forward", "_original_forward"):
                module.__dict__.pop(name, None)

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        group = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedBatches(self._lengths, group, self.args.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep each step's figures in the trainer's state, so in checkpoints, and hand them to `on_step`."""
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise PosttrainError(
                f"step {self.state.global_step}: the loss is {logs['loss']}; a finite number is needed. "
                "Lower learning_rate, or set bf16: false in the step."
            )
        now = time.perf_counter()
        logs |= self._counts | {"seconds": now - self._clock}
        self._clock, self._counts = now, dict.fromkeys(self._counts, 0.0)
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self._on_step(self.state.global_step, self.state.max_steps, logs)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._checkpoint_root / PARTIAL)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Weights only: no pickled arguments, and no look at the hub for whether embeddings were resized."""
        known = {"save_embedding_layers": False} if isinstance(self.model, PeftModel) else {}
        self.model.save_pretrained(output_dir, **known)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write aside, flush to disk, rename; then drop the oldest."""
        partial = self._checkpoint_root / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        with disk_full_as_oserror(self._checkpoint_root):
            Trainer._save_checkpoint(self, model, trial)
        name = f"checkpoint-{self.state.global_step}"
        for path in [*(partial / name).rglob("*"), partial / name]:
            _flush(path)
        os.replace(partial / name, self._checkpoint_root / name)
        _flush(self._checkpoint_root)
        for old in checkpoints(self._checkpoint_root)[:-KEPT_CHECKPOINTS]:
            os.replace(old, partial / old.name)
        shutil.rmtree(partial)


class SupervisedTrainer(RepeatableTrainer, SFTTrainer):  # type: ignore[misc]
    """The trainer of rows that are tokens already, with the loss at supervised positions. See the module."""

    def __init__(
        self, model: Any, args: SFTConfig, rows: Sequence[TokenRow], on_step: OnStep, packing: bool = False
    ) -> None:
        self._prepare(args, [len(row.input_ids) for row in rows], on_step, ("tokens", "supervised_tokens"))
        super().__init__(
            model,
            args,
            train_dataset=as_dataset(rows),
            data_collator=pack if packing else collate,
            processing_class=_no_tokenizer(),
        )
        self.processing_class = None  # demanded above, and then it would rewrite the model's special tokens
        self.model_accepts_loss_kwargs = True  # so that the supervised tokens of a whole step are counted
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss under autocast, which the Trainer puts on `model.forward` alone."""
        self._counts["tokens"] += int(inputs["tokens"].sum())
        self._counts["supervised_tokens"] += int((inputs["labels"][:, 1:] != IGNORED).sum())
        with self.accelerator.autocast():
            return self._loss(inputs, num_items_in_batch)

    def _loss(self, inputs: Any, num_items_in_batch: Any) -> Tensor:
        """The cross entropy at supervised positions; distillation puts another one in its place."""
        return supervised_cross_entropy(
            self.model,
            inputs["input_ids"],
            None,
            inputs["labels"],
            num_items_in_batch,
            position_ids=inputs.get("position_ids"),
        )


def checkpoints(root: Path) -> list[Path]:
    """The complete checkpoints under `root`, oldest first."""
    return sorted(root.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _no_tokenizer() -> PreTrainedTokenizerFast:
    """An empty tokenizer: `SFTTrainer` asks for one, also for rows that are tokens already."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")))
