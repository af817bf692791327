"""Stored targets are those of their rows and teacher, and of nothing else; recomputing tells what hashes cannot."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stored_targets import (
    ORIGIN,
    ROWS,
    SETTINGS,
    TEACHER,
    block,
    files_of,
    laid_out,
    sharp_teacher,
    store,
    whole,
)

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.sampled_targets import SparseTargets, TargetSettings, draw_targets, uniforms
from posttrain.lm.distillation.target_block import decoded, encoded
from posttrain.lm.token_row import TokenRow


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with all blocks."""
    return laid_out(tmp_path / "copy")


def dense(targets: SparseTargets) -> torch.Tensor:
    return torch.zeros(len(targets.ids), SETTINGS.vocabulary).scatter_add_(1, targets.ids, targets.weights)


def expected(number: int, shift: int = 0, settings: TargetSettings = SETTINGS) -> torch.Tensor:
    """One row's targets, straight from full logits: token `at` is predicted by the logits before it."""
    row = ROWS[number]
    at = [position for position, on in enumerate(row.supervised) if on and position]
    with torch.no_grad():
        logits = TEACHER(input_ids=torch.tensor([row.input_ids])).logits[0]
    draws = draw_targets(
        logits[[position - 1 + shift for position in at]],
        torch.from_numpy(uniforms(settings.seed, number, at, settings.draws)),
        settings,
    )
    return dense(SparseTargets(draws.ids, draws.weights))


@pytest.mark.parametrize("proposal", [1.0, 0.8])
def test_each_row_has_the_targets_of_its_own_supervised_positions(tmp_path: Path, proposal: float) -> None:
    settings = replace(SETTINGS, proposal=proposal, temperature=2.0)
    kept = store(tmp_path, settings=settings)
    kept.make(TEACHER, batch_size=2)
    again = store(tmp_path, settings=settings)
    moved = 0.0
    for number in range(len(ROWS)):
        wanted = expected(number, settings=settings)
        found = dense(again.targets([number]))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
        moved = max(moved, (found - expected(number, shift=-1, settings=settings)).abs().max().item())
    assert moved > 0.1, "a position off by one shows"


def test_a_batch_has_its_rows_targets_one_after_another(copy: Path) -> None:
    kept = store(copy)
    mixed = kept.targets([7, 0, 4])
    assert torch.equal(dense(mixed), torch.cat([dense(kept.targets([number])) for number in (7, 0, 4)]))
    assert not torch.equal(dense(mixed), dense(kept.targets([0, 4, 7]))[: len(mixed.ids)])
    assert torch.allclose(mixed.weights.sum(1), torch.ones(len(mixed.ids)))


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
def test_a_block_of_something_else_is_refused_and_kept(copy: Path, changed: dict[str, Any], said: str) -> None:
    before = files_of(copy)
    for use in (lambda kept: kept.make(TEACHER), lambda kept: kept.targets([0])):
        with pytest.raises(PosttrainError, match=f"block-000000.safetensors: {said}"):
            use(store(copy, **changed))
    assert files_of(copy) == before


def test_the_same_rows_under_other_names_are_the_same(copy: Path) -> None:
    renamed = [row._replace(id=f"other {row.id}") for row in ROWS]
    assert store(copy, rows=renamed).make(TEACHER).made == 0


def test_a_block_under_another_number_is_refused(copy: Path) -> None:
    shutil.copy(block(copy, 1), block(copy, 0))
    with pytest.raises(PosttrainError, match="made for block 1; block 0 is needed"):
        store(copy).make(TEACHER)


def test_blocks_behind_the_last_row_are_refused(copy: Path) -> None:
    with pytest.raises(PosttrainError, match=r"block-000003.safetensors: a block behind the last of these 9 rows"):
        store(copy, rows=ROWS[:9]).make(TEACHER)


def test_a_recomputed_share_agrees_with_its_teacher(copy: Path) -> None:
    kept, positions = store(copy), sum(sum(row.supervised[1:]) for row in ROWS)
    assert kept.verify(TEACHER, share=1) == positions
    few = kept.verify(TEACHER)
    assert 0.01 * positions <= few < 0.5 * positions
    assert len({kept.verify(TEACHER, seed=seed) for seed in range(20)}) > 1, "other rows with another seed"


def test_a_recomputed_share_tells_another_teacher(copy: Path) -> None:
    other = sharp_teacher()
    with torch.no_grad():
        noise = torch.randn(other.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
        other.lm_head.weight.add_(noise * 0.05)
    with pytest.raises(PosttrainError, match="positions, computed again, differ"):
        store(copy).verify(other, share=0.2)


def test_targets_of_other_positions_are_told(copy: Path) -> None:
    """A block written wrong, with the right hashes, is what recomputing is for."""
    path = block(copy, 0)
    found = decoded(path.read_bytes())
    assert found is not None
    path.write_bytes(encoded(found[0]._replace(ids=found[0].ids[::-1].copy()), found[1]))
    assert store(copy).make(TEACHER).made == 0
    with pytest.raises(PosttrainError, match="computed again, differ"):
        store(copy).verify(TEACHER, share=1)


def test_the_teacher_is_left_as_it_was_and_reads_without_dropout(tmp_path: Path) -> None:
    model = sharp_teacher()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    before = [weight.clone() for weight in model.parameters()]
    model.train()
    store(tmp_path).make(model)
    assert model.training and files_of(tmp_path) == whole()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    ids = torch.arange(3, 23)[None]
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits), "in training it drops"


def test_the_report_counts_what_lies_there_and_what_was_read(tmp_path: Path) -> None:
    report = store(tmp_path).make(TEACHER)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    positions = sum(sum(row.supervised[1:]) for row in ROWS)
    assert (report.blocks, report.made, report.supervised_tokens) == (4, 4, positions)
    assert (report.file_bytes, report.bytes_per_token) == (size, size / positions)
    assert report.tokens_per_second is not None and report.tokens_per_second > 0
    again = store(tmp_path).make(TEACHER)
    assert again.made == 0 and again.tokens_per_second is None and again.bytes_per_token == report.bytes_per_token


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
