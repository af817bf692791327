"""A teacher's sparse targets on the disk: drawn once for every supervised position, read in every epoch.

Rows are cut into blocks in their own order, a file each (target_block.py). A block carries what it was made from:
the hash of its token ids and masks, the tokenizer, the teacher, the settings, its number. An intact block of anything
else is refused; a damaged one is made again; a block appears by rename when it is whole. So a killed run continues
with the block it was at and ends with the same bytes (same machine, versions, threads).

In memory the targets take the bytes they take on the disk; a batch is unfolded when it is asked for.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.sampled_targets import (
    Draws,
    SparseTargets,
    TargetSettings,
    disagreeing,
    draw_targets,
    uniforms,
)
from posttrain.lm.distillation.target_block import Block, compact, decoded, encoded, hash_of_rows, write_whole
from posttrain.lm.losses import CHUNK, causal_parts, check_plain_head, hidden_at
from posttrain.lm.token_row import TokenRow

FORMAT = 1
ROWS = 256  # a block: what a killed run does not make again
BATCH = 16  # rows that the teacher reads together
POSITIONS = 256  # whose logits are alive together on a CPU: 33 MB at 32,000 ids; fewer make the head slower


class Origin(NamedTuple):
    """Any strings that differ when the tokenizer or the teacher does (its precision included, where that varies)."""

    tokenizer: str
    teacher: str


class CacheReport(NamedTuple):
    """What lies on the disk, and what it took. Bytes are those of whole files, a supervised token."""

    blocks: int
    made: int  # in this call; the others were there
    damaged: int  # of those made
    supervised_tokens: int
    file_bytes: int
    bytes_per_token: float
    tokens_per_second: float | None  # read by the teacher in this call, prompts included; None: it read nothing


class TargetStore:
    """The targets of `rows` in `folder`. `make` draws what is missing, `targets` reads, `verify` recomputes."""

    def __init__(
        self,
        folder: Path,
        rows: Sequence[TokenRow],
        origin: Origin,
        settings: TargetSettings,
        rows_per_block: int = ROWS,
    ) -> None:
        _check_rows(rows, settings.vocabulary)
        self.folder, self.rows, self.origin, self.settings = folder, rows, origin, settings
        self.rows_per_block = rows_per_block
        self.block_count = -(-len(rows) // rows_per_block)
        self._counts = np.array([sum(row.supervised[1:]) for row in rows], dtype=np.int64)
        self._blocks: dict[int, list[Block]] = {}  # a block in rows

    def make(
        self, teacher: Any, on_rows: Callable[[int], None] = lambda done: None, batch_size: int = BATCH
    ) -> CacheReport:
        """Draw every block that is not there whole; `on_rows` is told how many rows are done, block by block."""
        check_plain_head(teacher)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_blocks_behind_the_last()
        made = damaged = tokens = 0
        began = time.perf_counter()
        for number in range(self.block_count):
            if not self._read(number):
                path, rows = self._path(number), self._rows_of(number)
                damaged += path.exists()
                made, tokens = made + 1, tokens + sum(len(row.input_ids) for row in rows)
                with _reading(teacher):
                    block = self._drawn(teacher, number, batch_size)
                write_whole(path, encoded(block, self._about(number)))
            on_rows(min((number + 1) * self.rows_per_block, len(self.rows)))
        seconds = time.perf_counter() - began
        size = sum(self._path(number).stat().st_size for number in range(self.block_count))
        supervised = int(self._counts.sum())
        rate = tokens / seconds if made else None
        return CacheReport(self.block_count, made, damaged, supervised, size, size / max(supervised, 1), rate)

    def targets(self, numbers: Sequence[int]) -> SparseTargets:
        """Targets [supervised positions of these rows, most ids of one], row after row, as in a batch of the rows."""
        parts = [self._row(number) for number in numbers]
        kept, ids, stored = (np.concatenate(column) for column in zip(*parts, strict=True))
        weights = stored.astype(np.float32) / (self.settings.draws if stored.dtype == np.uint8 else 1)
        filled = torch.from_numpy(np.arange(kept.max(initial=1)) < kept[:, None])
        result = SparseTargets(torch.zeros(filled.shape, dtype=torch.long), torch.zeros(filled.shape))
        result.ids[filled] = torch.from_numpy(ids.astype(np.int64))
        result.weights[filled] = torch.from_numpy(weights)
        return result

    def verify(self, teacher: Any, share: float = 0.01, seed: int = 0) -> int:
        """Recompute whole rows, drawn at random until they hold this share of all positions; returns how many.

        Rows and not single positions: a position costs the teacher all that stands before it. Each is read alone, so
        rounding may differ from that of its batch. Any other difference is an error.
        """
        positions = wrong = 0
        with _reading(teacher):
            for number in np.random.Generator(np.random.Philox(seed)).permutation(len(self.rows)).tolist():
                if positions >= share * self._counts.sum():
                    break
                wrong += self._differing(teacher, number)
                positions += int(self._counts[number])
        if wrong:
            raise PosttrainError(
                f"{self.folder}: {wrong} of {positions} positions, computed again, differ from what is stored; none "
                "may. Check that teacher and precision are those of then, or delete the folder."
            )
        return positions

    def _differing(self, teacher: Any, number: int) -> int:
        stored, at, wrong = self.targets([number]), 0, 0
        for logits, numbers in self._distributions(teacher, [number]):
            part = SparseTargets(*(tensor[at : at + len(logits)].to(logits.device) for tensor in stored))
            wrong += int(disagreeing(logits, numbers, part, self.settings).sum())
            at += len(logits)
        return wrong

    def _rows_of(self, number: int) -> Sequence[TokenRow]:
        return self.rows[number * self.rows_per_block : (number + 1) * self.rows_per_block]

    def _counts_of(self, number: int) -> NDArray[np.int64]:
        return self._counts[number * self.rows_per_block : (number + 1) * self.rows_per_block]

    def _path(self, number: int) -> Path:
        return self.folder / f"block-{number:06d}.safetensors"

    def _refuse_blocks_behind_the_last(self) -> None:
        ours = {self._path(number) for number in range(self.block_count)}
        for path in sorted(set(self.folder.glob("block-*.safetensors")) - ours):
            raise PosttrainError(
                f"{path}: a block behind the last of these {len(self.rows)} rows; {self.block_count} blocks are "
                f"allowed. Delete {self.folder} to draw the targets again, or name another folder."
            )

    def _about(self, number: int) -> dict[str, Any]:
        """Everything that decides a block's content."""
        return {
            **self.origin._asdict(),
            **asdict(self.settings),
            "format": FORMAT,
            "rows a block": self.rows_per_block,
            "block": number,
            "rows": hash_of_rows(self._rows_of(number)),
        }

    def _read(self, number: int) -> bool:
        """Whether the block is there undamaged, which then is in memory; one of anything else is refused."""
        path = self._path(number)
        found = decoded(path.read_bytes()) if path.is_file() else None
        if found is None:
            return False
        block, about = found
        for name, wanted in self._about(number).items():
            if about.get(name) != wanted:
                raise PosttrainError(
                    f"{path}: made for {name} {about.get(name)}; {name} {wanted} is needed here. Delete {self.folder} "
                    "to draw the targets again, or name another folder."
                )
        self._blocks[number] = self._in_rows(number, block)
        return True

    def _in_rows(self, number: int, block: Block) -> list[Block]:
        """Views of a block, one a row."""
        positions = np.cumsum(self._counts_of(number))[:-1]
        entries = np.concatenate([[0], np.cumsum(block.kept, dtype=np.int64)])[positions]
        pieces = (np.split(block.kept, positions), np.split(block.ids, entries), np.split(block.weights, entries))
        return [Block(*row) for row in zip(*pieces, strict=True)]

    def _row(self, number: int) -> Block:
        at, within = divmod(number, self.rows_per_block)
        if at not in self._blocks and not self._read(at):
            raise PosttrainError(
                f"{self._path(at)}: missing or damaged; a whole block is needed. Make the targets again: only what is "
                "missing is drawn."
            )
        return self._blocks[at][within]

    def _drawn(self, teacher: Any, number: int, batch_size: int) -> Block:
        """A block from the teacher, rows of like length read together; its own rows decide which."""
        first, counts = number * self.rows_per_block, self._counts_of(number)
        order = np.argsort([len(row.input_ids) for row in self._rows_of(number)], kind="stable")
        drawn = [
            draw_targets(logits, numbers, self.settings)
            for start in range(0, len(order), batch_size)
            for logits, numbers in self._distributions(teacher, (first + order[start : start + batch_size]).tolist())
        ]
        starts = np.cumsum(counts) - counts
        place = torch.from_numpy(np.concatenate([starts[at] + np.arange(counts[at]) for at in order])).argsort()
        in_row_order = [torch.cat(column).cpu()[place] for column in zip(*drawn, strict=True)]
        return compact(Draws(*in_row_order), self.settings.vocabulary, as_counts=self.settings.proposal == 1)

    def _distributions(self, teacher: Any, numbers: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Teacher logits and uniform numbers of these rows' supervised positions, row after row, chunk by chunk."""
        rows, width = [self.rows[number] for number in numbers], max(len(self.rows[n].input_ids) for n in numbers)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        marked = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, row in enumerate(rows):  # padded on the right: a causal model never looks at what follows
            ids[i, : len(row.input_ids)] = torch.tensor(row.input_ids)
            marked[i, : len(row.supervised)] = torch.tensor(row.supervised)
        hidden = hidden_at(teacher, ids.to(teacher.device), None, marked[:, 1:].to(teacher.device))
        positions = [[at for at, on in enumerate(row.supervised) if on and at] for row in rows]
        seed, draws = self.settings.seed, self.settings.draws
        drawn = [uniforms(seed, *where, draws) for where in zip(numbers, positions, strict=True)]
        uniform = torch.from_numpy(np.concatenate(drawn)).to(hidden.device)
        head, step = causal_parts(teacher).head, POSITIONS if hidden.device.type == "cpu" else CHUNK
        for start in range(0, len(hidden), step):
            chunk = slice(start, start + step)
            yield head(hidden[chunk]), uniform[chunk]


@contextmanager
def _reading(teacher: Any) -> Iterator[None]:
    """No dropout, no gradients; the teacher is left as it was."""
    training = teacher.training
    teacher.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        teacher.train(training)


def _check_rows(rows: Sequence[TokenRow], vocabulary: int) -> None:
    """Every row supervises a token and holds only ids of the vocabulary."""
    if not rows:
        raise PosttrainError("cached targets: 0 rows; at least one is needed. Check the step that makes the data.")
    for row in rows:
        if not any(row.supervised[1:]):
            raise PosttrainError(
                f"row {row.id}: 0 of {len(row.input_ids)} tokens are supervised; at least one after the first is "
                "needed. Drop the row."
            )
        if max(row.input_ids) >= vocabulary:
            raise PosttrainError(
                f"row {row.id}: token id {max(row.input_ids)}; ids below the vocabulary of {vocabulary} are allowed. "
                "Tokenize the rows with the teacher's tokenizer."
            )
