"""A run killed at any block continues to the same bytes; a damaged block is noticed and made again."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_targets import TEACHER, block, files_of, laid_out, store, whole

from posttrain.errors import PosttrainError
from posttrain.lm.distillation import target_block, target_store


def test_blocks_have_the_same_bytes_in_whatever_order_they_are_made(tmp_path: Path) -> None:
    laid_out(tmp_path)
    for gone in ([2, 0], [3], [0, 1, 2, 3]):
        for number in gone:
            block(tmp_path, number).unlink()
        report = store(tmp_path).make(TEACHER)
        assert report.made == len(gone) and report.damaged == 0
        assert files_of(tmp_path) == whole()


def killed_at(moment: int, before: bool) -> Callable[..., None]:
    """A rename that kills its process, just before or just after it happens for the n-th time."""
    rename, count = os.replace, 0

    def fatal(*paths: Any) -> None:
        nonlocal count
        count += 1
        if count == moment and before:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*paths)
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return fatal


def make_and_die(folder: Path, moment: int, before: bool) -> None:
    """A child that makes the targets and is killed at a rename."""
    child = os.fork()
    if not child:
        os.replace = killed_at(moment, before)
        try:
            store(folder).make(TEACHER)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_run_killed_at_any_block_continues_to_the_same_bytes(tmp_path: Path, moment: int, before: bool) -> None:
    make_and_die(tmp_path, moment, before)
    done = moment - before
    assert len(list(tmp_path.glob("*.safetensors"))) == done, "no block under its name before it is whole"
    seen: list[int] = []
    report = store(tmp_path).make(TEACHER, seen.append)
    assert (report.made, report.blocks, report.damaged) == (4 - done, 4, 0)
    assert seen == [3, 6, 9, 10]
    assert files_of(tmp_path) == whole()


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    for before in (True, False, True, False, False):
        make_and_die(tmp_path, 1, before)
    store(tmp_path).make(TEACHER)
    assert files_of(tmp_path) == whole()


def test_numbers_that_run_along_are_caught_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = np.random.default_rng(0)
    monkeypatch.setattr(
        target_store, "uniforms", lambda seed, row, at, draws: np.sort(running.random((len(at), draws)), axis=1)
    )
    store(tmp_path / "whole").make(TEACHER)
    running = np.random.default_rng(0)
    make_and_die(tmp_path / "killed", 2, before=False)
    running = np.random.default_rng(0)
    store(tmp_path / "killed").make(TEACHER)
    assert files_of(tmp_path / "killed") != files_of(tmp_path / "whole")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "last bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "no safetensors": lambda data: b"{}",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_block_is_refused_for_training_and_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = block(laid_out(tmp_path), 1)
    path.write_bytes(damage(path.read_bytes()))
    assert len(store(tmp_path).targets([0]).ids), "another block is read"
    with pytest.raises(PosttrainError, match=r"block-000001.*: missing or damaged"):
        store(tmp_path).targets([3])
    report = store(tmp_path).make(TEACHER)
    assert (report.made, report.damaged) == (1, 1)
    assert files_of(tmp_path) == whole()


def test_a_missing_block_is_said(tmp_path: Path) -> None:
    block(laid_out(tmp_path), 2).unlink()
    with pytest.raises(PosttrainError, match=r"block-000002.*: missing or damaged"):
        store(tmp_path).targets([6])


def test_a_full_disk_leaves_no_block_and_is_an_oserror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(target_block.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store(tmp_path).make(TEACHER)
    assert list(tmp_path.glob("*.safetensors")) == []
