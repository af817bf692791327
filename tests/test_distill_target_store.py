"""Stored targets are those of their rows and their teacher, whole, whenever they were made; all else is noticed."""

import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llama
import torch

from posttrain.errors import PosttrainError
from posttrain.lm.distillation import target_block, target_store
from posttrain.lm.distillation.sampled_targets import Draws, SparseTargets, TargetSettings, draw_targets, uniforms
from posttrain.lm.distillation.target_block import compact, decoded, encoded
from posttrain.lm.distillation.target_store import Origin, TargetStore
from posttrain.lm.token_row import TokenRow

ROWS = tiny_llama.some_rows(10)
ORIGIN = Origin(tokenizer="tokenizer 1", teacher="teacher 1")
SETTINGS = TargetSettings(vocabulary=tiny_llama.VOCABULARY, draws=6, seed=3)
A_BLOCK = 3  # rows; the last block is shorter


def sharp_teacher() -> Any:
    """Random, but far from uniform, so that draws repeat and a wrong position shows."""
    model = tiny_llama.llama(tied=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    return model.eval()


@pytest.fixture(scope="module")
def teacher() -> Any:
    return sharp_teacher()


def store(folder: Path, **changed: Any) -> TargetStore:
    known = {"rows": ROWS, "origin": ORIGIN, "settings": SETTINGS, "rows_per_block": A_BLOCK}
    return TargetStore(folder, **{**known, **changed})


@pytest.fixture(scope="module")
def whole(teacher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All blocks, made in one go."""
    folder = tmp_path_factory.mktemp("whole")
    store(folder).make(teacher)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def block(folder: Path, number: int) -> Path:
    return folder / f"block-{number:06d}.safetensors"


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def dense(targets: SparseTargets) -> torch.Tensor:
    return torch.zeros(len(targets.ids), SETTINGS.vocabulary).scatter_add_(1, targets.ids, targets.weights)


def expected(teacher: Any, number: int, shift: int = 0, settings: TargetSettings = SETTINGS) -> torch.Tensor:
    """One row's targets, straight from full logits: token `at` is predicted by the logits before it."""
    row = ROWS[number]
    at = [position for position, on in enumerate(row.supervised) if on and position]
    with torch.no_grad():
        logits = teacher(input_ids=torch.tensor([row.input_ids])).logits[0]
    draws = draw_targets(
        logits[[position - 1 + shift for position in at]],
        torch.from_numpy(uniforms(settings.seed, number, at, settings.draws)),
        settings,
    )
    return dense(SparseTargets(draws.ids, draws.weights))


@pytest.mark.parametrize("proposal", [1.0, 0.8])
def test_each_row_has_the_targets_of_its_own_supervised_positions(
    teacher: Any, tmp_path: Path, proposal: float
) -> None:
    settings = replace(SETTINGS, proposal=proposal, temperature=2.0)
    kept = store(tmp_path, settings=settings)
    kept.make(teacher, batch_size=2)
    again = store(tmp_path, settings=settings)
    moved = 0.0
    for number in range(len(ROWS)):
        wanted = expected(teacher, number, settings=settings)
        found = dense(again.targets([number]))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
        moved = max(moved, (found - expected(teacher, number, shift=-1, settings=settings)).abs().max().item())
    assert moved > 0.1, "a position off by one shows"


def test_a_batch_has_its_rows_targets_one_after_another(whole: Path) -> None:
    kept = store(whole)
    mixed = kept.targets([7, 0, 4])
    assert torch.equal(dense(mixed), torch.cat([dense(kept.targets([number])) for number in (7, 0, 4)]))
    assert not torch.equal(dense(mixed), dense(kept.targets([0, 4, 7]))[: len(mixed.ids)])
    assert torch.allclose(mixed.weights.sum(1), torch.ones(len(mixed.ids)))


def test_blocks_have_the_same_bytes_in_whatever_order_they_are_made(teacher: Any, whole: Path, copy: Path) -> None:
    for gone in ([2, 0], [3], [0, 1, 2, 3]):
        for number in gone:
            block(copy, number).unlink()
        report = store(copy).make(teacher)
        assert report.made == len(gone) and report.damaged == 0
        assert bytes_of(copy) == bytes_of(whole)


def test_one_block_has_one_text_of_bytes(whole: Path) -> None:
    found = decoded(block(whole, 0).read_bytes())
    assert found is not None
    assert {encoded(*found) for _ in range(30)} == {block(whole, 0).read_bytes()}


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


def make_and_die(teacher: Any, folder: Path, moment: int, before: bool) -> None:
    """A child that makes the targets and is killed at a rename."""
    child = os.fork()
    if not child:
        os.replace = killed_at(moment, before)
        try:
            store(folder).make(teacher)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_run_killed_at_any_block_continues_to_the_same_bytes(
    teacher: Any, whole: Path, tmp_path: Path, moment: int, before: bool
) -> None:
    make_and_die(teacher, tmp_path, moment, before)
    done = moment - before
    assert len(list(tmp_path.glob("*.safetensors"))) == done, "no block under its name before it is whole"
    seen: list[int] = []
    report = store(tmp_path).make(teacher, seen.append)
    assert (report.made, report.blocks, report.damaged) == (4 - done, 4, 0)
    assert seen == [3, 6, 9, 10]
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(teacher: Any, whole: Path, tmp_path: Path) -> None:
    for before in (True, False, True, False, False):
        make_and_die(teacher, tmp_path, 1, before)
    store(tmp_path).make(teacher)
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_numbers_that_run_along_are_caught_after_a_kill(
    teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = np.random.default_rng(0)
    monkeypatch.setattr(
        target_store, "uniforms", lambda seed, row, at, draws: np.sort(running.random((len(at), draws)), axis=1)
    )
    store(tmp_path / "whole").make(teacher)
    running = np.random.default_rng(0)
    make_and_die(teacher, tmp_path / "killed", 2, before=False)
    running = np.random.default_rng(0)
    store(tmp_path / "killed").make(teacher)
    assert bytes_of(tmp_path / "killed") != bytes_of(tmp_path / "whole")


def test_every_flipped_bit_is_noticed(whole: Path) -> None:
    data = block(whole, 3).read_bytes()
    assert decoded(data) is not None
    missed = []
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            if decoded(bytes(flipped)) is not None:
                missed.append((at, bit))
    assert missed == []


def test_every_cut_and_whatever_is_added_is_noticed(whole: Path) -> None:
    data = block(whole, 3).read_bytes()
    assert [length for length in range(len(data)) if decoded(data[:length]) is not None] == []
    assert decoded(data + b"\0") is None
    assert decoded(bytes(len(data))) is None


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "last bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "no safetensors": lambda data: b"{}",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_block_is_refused_for_training_and_made_again(
    teacher: Any, whole: Path, copy: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = block(copy, 1)
    path.write_bytes(damage(path.read_bytes()))
    assert len(store(copy).targets([0]).ids), "another block is read"
    with pytest.raises(PosttrainError, match=r"block-000001.*: missing or damaged"):
        store(copy).targets([3])
    report = store(copy).make(teacher)
    assert (report.made, report.damaged) == (1, 1)
    assert bytes_of(copy) == bytes_of(whole)


def test_a_missing_block_is_said(copy: Path) -> None:
    block(copy, 2).unlink()
    with pytest.raises(PosttrainError, match=r"block-000002.*: missing or damaged"):
        store(copy).targets([6])


def other_rows(change: Callable[[list[TokenRow]], None]) -> list[TokenRow]:
    rows = [row._replace(input_ids=[*row.input_ids], supervised=[*row.supervised]) for row in ROWS]
    change(rows)
    return rows


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "teacher": ({"origin": ORIGIN._replace(teacher="teacher 2")}, "made for teacher teacher 1; teacher teacher 2 is"),
    "tokenizer": ({"origin": ORIGIN._replace(tokenizer="tokenizer 2")}, "made for tokenizer tokenizer 1"),
    "draws": ({"settings": replace(SETTINGS, draws=7)}, "made for draws 6; draws 7 is needed"),
    "temperature": ({"settings": replace(SETTINGS, temperature=2)}, "made for temperature 1.0; temperature 2.0"),
    "proposal": ({"settings": replace(SETTINGS, proposal=0.9)}, "made for proposal 1.0"),
    "seed": ({"settings": replace(SETTINGS, seed=4)}, "made for seed 3"),
    "vocabulary": ({"settings": replace(SETTINGS, vocabulary=65)}, "made for vocabulary 64"),
    "a token": ({"rows": other_rows(lambda rows: rows[0].input_ids.__setitem__(2, 9))}, "made for rows "),
    "a mask": ({"rows": other_rows(lambda rows: rows[0].supervised.__setitem__(1, True))}, "made for rows "),
    "an order": ({"rows": [ROWS[1], ROWS[0], *ROWS[2:]]}, "made for rows "),
    "a block size": ({"rows_per_block": 2}, "made for rows a block 3; rows a block 2"),
}


@pytest.mark.parametrize(("changed", "said"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_block_of_something_else_is_refused_and_kept(
    teacher: Any, copy: Path, changed: dict[str, Any], said: str
) -> None:
    before = bytes_of(copy)
    for use in (lambda kept: kept.make(teacher), lambda kept: kept.targets([0])):
        with pytest.raises(PosttrainError, match=f"block-000000.safetensors: {said}"):
            use(store(copy, **changed))
    assert bytes_of(copy) == before


def test_the_same_rows_under_other_names_are_the_same(teacher: Any, copy: Path) -> None:
    renamed = [row._replace(id=f"other {row.id}") for row in ROWS]
    assert store(copy, rows=renamed).make(teacher).made == 0


def test_a_block_under_another_number_is_refused(teacher: Any, copy: Path) -> None:
    shutil.copy(block(copy, 1), block(copy, 0))
    with pytest.raises(PosttrainError, match="made for block 1; block 0 is needed"):
        store(copy).make(teacher)


def test_blocks_behind_the_last_row_are_refused(teacher: Any, copy: Path) -> None:
    with pytest.raises(PosttrainError, match=r"block-000003.safetensors: a block behind the last of these 9 rows"):
        store(copy, rows=ROWS[:9]).make(teacher)


def test_a_recomputed_share_agrees_with_its_teacher(teacher: Any, whole: Path) -> None:
    kept, positions = store(whole), sum(sum(row.supervised[1:]) for row in ROWS)
    assert kept.verify(teacher, share=1) == positions
    few = kept.verify(teacher)
    assert 0.01 * positions <= few < 0.5 * positions
    assert len({kept.verify(teacher, seed=seed) for seed in range(20)}) > 1, "other rows with another seed"


def test_a_recomputed_share_tells_another_teacher(whole: Path) -> None:
    other = sharp_teacher()
    with torch.no_grad():
        other.lm_head.weight.add_(torch.randn(other.lm_head.weight.shape) * 0.05)
    with pytest.raises(PosttrainError, match="positions, computed again, differ"):
        store(whole).verify(other, share=0.2)


def test_targets_of_other_positions_are_told(teacher: Any, copy: Path) -> None:
    """A block written wrong, with the right hashes, is what recomputing is for."""
    path = block(copy, 0)
    found = decoded(path.read_bytes())
    assert found is not None
    path.write_bytes(encoded(found[0]._replace(ids=found[0].ids[::-1].copy()), found[1]))
    assert store(copy).make(teacher).made == 0
    with pytest.raises(PosttrainError, match="computed again, differ"):
        store(copy).verify(teacher, share=1)


def test_the_teacher_is_left_as_it_was_and_reads_without_dropout(whole: Path, tmp_path: Path) -> None:
    model = sharp_teacher()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    before = [weight.clone() for weight in model.parameters()]
    model.train()
    store(tmp_path).make(model)
    assert model.training and bytes_of(tmp_path) == bytes_of(whole)
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    ids = torch.arange(3, 23)[None]
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits), "in training it drops"


def test_the_report_counts_what_lies_there_and_what_was_read(teacher: Any, whole: Path, tmp_path: Path) -> None:
    report = store(tmp_path).make(teacher)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    positions = sum(sum(row.supervised[1:]) for row in ROWS)
    assert (report.blocks, report.made, report.supervised_tokens) == (4, 4, positions)
    assert (report.file_bytes, report.bytes_per_token) == (size, size / positions)
    assert report.tokens_per_second is not None and report.tokens_per_second > 0
    again = store(tmp_path).make(teacher)
    assert again.made == 0 and again.tokens_per_second is None and again.bytes_per_token == report.bytes_per_token


def draws_of(ids: list[int], weights: list[float]) -> Draws:
    return Draws(torch.tensor([ids]), torch.tensor([[1] * len(ids)]), torch.tensor([weights]))


def test_ids_and_weights_take_the_smallest_types_that_hold_them() -> None:
    small, large = compact(draws_of([65_535], [1.0]), 65_536, True), compact(draws_of([65_536], [1.0]), 65_537, True)
    assert (small.ids.dtype, small.ids.tolist()) == (np.uint16, [65_535])
    assert (large.ids.dtype, large.ids.tolist()) == (np.uint32, [65_536])
    assert small.weights.dtype == np.uint8
    assert compact(draws_of([1], [0.3]), 100, False).weights.dtype == np.float16


def test_a_weight_too_large_to_store_is_refused() -> None:
    assert compact(draws_of([1], [65_504.0]), 100, False).weights.tolist() == [65_504.0]
    with pytest.raises(PosttrainError, match="proposal: a weight is above 65,504"):
        compact(draws_of([1], [70_000.0]), 100, False)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "0 rows; at least one is needed"),
        ([TokenRow("a", [5, 6], [True, False])], "row a: 0 of 2 tokens are supervised"),
        ([TokenRow("b", [5, 64], [True, True])], "row b: token id 64; ids below the vocabulary of 64"),
    ],
)
def test_rows_that_have_no_targets_are_refused(tmp_path: Path, rows: list[TokenRow], said: str) -> None:
    with pytest.raises(PosttrainError, match=said):
        store(tmp_path, rows=rows)


def test_a_full_disk_leaves_no_block_and_is_an_oserror(
    teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(target_block.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store(tmp_path).make(teacher)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_targets_of_a_real_teacher_have_its_entropy_and_agree_when_recomputed(
    stories260k: Path, tmp_path: Path
) -> None:
    from posttrain.lm.models import load_model, load_tokenizer

    model, tokenizer = load_model(stories260k), load_tokenizer(stories260k)
    text = (stories260k.parents[1] / "data" / "tinystories" / "valid.txt").read_text(encoding="utf-8")
    ids = [tokenizer(part).input_ids[:200] for part in text.split("<|endoftext|>")[:6]]
    rows = [TokenRow(str(at), part, [True] * len(part)) for at, part in enumerate(ids)]
    settings = TargetSettings(vocabulary=len(tokenizer))
    kept = store(tmp_path, rows=rows, settings=settings)
    report = kept.make(model)
    assert kept.verify(model, share=1) == report.supervised_tokens == sum(len(part) - 1 for part in ids)
    entropy, drawn = [], []
    for number, part in enumerate(ids):
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=torch.tensor([part])).logits[0, :-1], -1)
        targets = kept.targets([number])
        entropy.append(-(log_p.exp() * log_p).sum(1))
        drawn.append(-(targets.weights * log_p.gather(1, targets.ids)).sum(1))
    gap = torch.cat(drawn) - torch.cat(entropy)
    assert gap.mean().abs() <= 4 * gap.std() / len(gap) ** 0.5
    assert (torch.cat(drawn).mean() - 1.1 * torch.cat(entropy).mean()).abs() > 4 * gap.std() / len(gap) ** 0.5
