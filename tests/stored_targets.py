"""A small store of a sharp random teacher's targets, made once: what the tests of stored targets share."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tiny_llama
import torch

from posttrain.lm.distillation.sampled_targets import TargetSettings
from posttrain.lm.distillation.target_store import Origin, TargetStore

ROWS = [row._replace(supervised=[True, *row.supervised[1:]]) for row in tiny_llama.some_rows(10)]  # first: no target
ORIGIN = Origin(tokenizer="tokenizer 1", teacher="teacher 1")
SETTINGS = TargetSettings(vocabulary=tiny_llama.VOCABULARY, draws=6, seed=3)
A_BLOCK = 3  # rows; the last of four blocks is shorter


def sharp_teacher() -> Any:
    """Random, but far from uniform, so that draws repeat and a wrong position shows."""
    model = tiny_llama.llama(tied=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    return model.eval()


TEACHER = sharp_teacher()


def store(folder: Path, **changed: Any) -> TargetStore:
    known = {"rows": ROWS, "origin": ORIGIN, "settings": SETTINGS, "rows_per_block": A_BLOCK}
    return TargetStore(folder, **{**known, **changed})


@cache
def whole() -> dict[str, bytes]:
    """The files of a store that was made in one go."""
    with TemporaryDirectory() as folder:
        store(Path(folder)).make(TEACHER)
        return files_of(Path(folder))


def laid_out(folder: Path) -> Path:
    """The folder with these files in it."""
    folder.mkdir(exist_ok=True)
    for name, data in whole().items():
        (folder / name).write_bytes(data)
    return folder


def block(folder: Path, number: int) -> Path:
    return folder / f"block-{number:06d}.safetensors"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
