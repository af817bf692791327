"""One file of sparse targets: what is in it, what it was made from, and whether it is whole.

A block is a safetensors file. Its header holds one JSON text: everything that decided its content, and the sha256 of
that and of the content. One text, because safetensors writes several metadata entries in random order, and the same
block has the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.sampled_targets import Draws
from posttrain.lm.token_row import TokenRow

About = dict[str, Any]


class Block(NamedTuple):
    """Targets of positions in row order: how many ids each position keeps, the ids, and their weights.

    `kept` is uint8 [positions]; `ids` uint16 or uint32 and `weights` uint8 (counts) or float16, both [sum of `kept`].
    """

    kept: NDArray[Any]
    ids: NDArray[Any]
    weights: NDArray[Any]


def compact(draws: Draws, vocabulary: int, as_counts: bool) -> Block:
    """Draws without their empty slots, in the smallest types that hold them.

    Counts hold the weights of plain sampling exactly. Other weights go to float16: its rounding moves one by at most
    1/2048, where 12 draws move it by tens of per cent.
    """
    filled = (draws.counts > 0).cpu().numpy()
    stored = (draws.counts if as_counts else draws.weights).cpu().numpy()[filled]
    with np.errstate(over="ignore"):
        weights = stored.astype(np.uint8 if as_counts else np.float16)
    if not np.isfinite(weights).all():
        raise PosttrainError(
            "cached targets, proposal: a weight is above 65,504, the most that is stored; the nearer proposal is to "
            "1, the smaller are the weights. Bring it nearer to 1."
        )
    ids = draws.ids.cpu().numpy()[filled].astype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    return Block(filled.sum(1).astype(np.uint8), ids, weights)


def encoded(block: Block, about: About) -> bytes:
    """The bytes of a block's file."""
    text = json.dumps({**about, "sha256": _digest(block, about)}, sort_keys=True)
    return save(block._asdict(), metadata={"block": text})


def decoded(data: bytes) -> tuple[Block, About] | None:
    """The block and what it was made from; None if any byte is not as it was written."""
    try:
        block = Block(**load(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about: About = json.loads(header["__metadata__"]["block"])
        digest = about.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError):  # what the parsers say of damaged bytes
        return None
    return (block, about) if digest == _digest(block, about) else None


def write_whole(path: Path, data: bytes) -> None:
    """Write aside, flush to the disk, rename: `path` is either absent or whole."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def hash_of_rows(rows: Sequence[TokenRow]) -> str:
    """sha256 of token ids and masks, row by row; ids of rows do not count."""
    found = hashlib.sha256()
    for row in rows:
        found.update(len(row.input_ids).to_bytes(8, "little"))
        found.update(np.array(row.input_ids, dtype="<u4").tobytes())
        found.update(np.array(row.supervised, dtype=np.uint8).tobytes())
    return found.hexdigest()


def _digest(block: Block, about: About) -> str:
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for array in block:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()
