"""The supervised-only head gives the loss and the gradients of full logits, for plain and adapted models."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from posttrain.errors import PosttrainError
from posttrain.lm.losses import IGNORED, check_plain_head, dense_cross_entropy, supervised_cross_entropy

torch.set_num_threads(1)
LENGTH = 12


def llama(tied: bool = True) -> Any:
    torch.manual_seed(0)
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(**shape, vocab_size=40, tie_word_embeddings=tied))


def adapted(**kwargs: Any) -> Any:
    model = get_peft_model(llama(), LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM", **kwargs))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "tied": llama,
    "untied": lambda: llama(tied=False),
    "lora": lambda: adapted(target_modules="all-linear"),
    "lora and trained tokens": lambda: adapted(target_modules="all-linear", trainable_token_indices=[3, 5]),
    "lora on the head": lambda: adapted(target_modules=["q_proj", "lm_head"]),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def batch(rows: int = 3) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, 40, (rows, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, : LENGTH // 2] = IGNORED
    return ids, labels


def full_logits_loss(model: Any, ids: Tensor, mask: Tensor | None, labels: Tensor, items: int) -> Tensor:
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].reshape(-1, 40)
    targets = labels[:, 1:].reshape(-1)
    return torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / items


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(make: Callable[[], Any], ids: Tensor, mask: Tensor | None, labels: Tensor, chunk: int) -> None:
    model, items = make(), 7
    expected = full_logits_loss(model, ids, mask, labels, items)
    wanted = gradients(model, expected)
    loss = supervised_cross_entropy(model, ids, mask, labels, items, chunk=chunk)
    found = gradients(model, loss)
    assert abs(loss.item() - expected.item()) <= 1e-6 * max(1, abs(expected.item()))
    assert found.keys() == wanted.keys() and found
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, atol=1e-6, rtol=1e-5, msg=name)


@every_model
@pytest.mark.parametrize("chunk", [1, 7, LENGTH * 3, LENGTH * 3 + 1])
def test_supervised_loss_and_gradients_equal_those_of_full_logits(make: Callable[[], Any], chunk: int) -> None:
    ids, labels = batch()
    assert_same(make, ids, None, labels, chunk)


@every_model
def test_rows_without_supervision_change_nothing(make: Callable[[], Any]) -> None:
    ids, labels = batch()
    labels[:2] = IGNORED
    assert_same(make, ids, None, labels, chunk=4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_attention_mask_is_obeyed_on_both_sides(side: str) -> None:
    ids, labels = batch()
    mask = torch.ones_like(ids)
    padded = slice(0, 4) if side == "left" else slice(LENGTH - 4, LENGTH)
    mask[0, padded], labels[0, padded] = 0, IGNORED
    assert_same(llama, ids, mask, labels, chunk=5)


def test_right_padding_needs_no_mask() -> None:
    ids, labels = batch()
    mask = torch.ones_like(ids)
    mask[1, 9:], labels[1, 9:] = 0, IGNORED
    other = ids.clone()
    other[1, 9:] = 0
    with_mask = supervised_cross_entropy(llama(), ids, mask, labels)
    without = supervised_cross_entropy(llama(), other, None, labels)
    assert abs(with_mask.item() - without.item()) <= 1e-6


@every_model
def test_labels_moved_by_one_give_another_loss(make: Callable[[], Any]) -> None:
    ids, labels = batch()
    model = make()
    right = supervised_cross_entropy(model, ids, None, labels, 7)
    moved = supervised_cross_entropy(model, ids, None, labels.roll(1, dims=1), 7)
    assert abs(right.item() - moved.item()) > 1e-3


def test_the_first_token_is_never_a_target() -> None:
    ids, labels = batch()
    first = labels.clone()
    first[:, 0] = ids[:, 0]
    a, b = (supervised_cross_entropy(llama(), ids, None, given) for given in (labels, first))
    assert a.item() == b.item()


def test_a_batch_without_supervision_is_an_error_and_not_a_zero_loss() -> None:
    ids, labels = batch()
    with pytest.raises(PosttrainError, match="0 of 36 tokens are supervised"):
        supervised_cross_entropy(llama(), ids, None, torch.full_like(labels, IGNORED))


def test_bf16_autocast_stays_within_bf16_of_fp32() -> None:
    ids, labels = batch()
    model = adapted(target_modules="all-linear", trainable_token_indices=[3, 5])
    exact = supervised_cross_entropy(model, ids, None, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = supervised_cross_entropy(model, ids, None, labels, chunk=4)
    rounded.backward()  # type: ignore[no-untyped-call]
    assert 0 < abs(rounded.item() - exact.item()) < 0.02


def test_a_model_without_an_output_head_is_refused() -> None:
    ids, labels = batch()
    with pytest.raises(PosttrainError, match="LlamaModel has no output head"):
        supervised_cross_entropy(llama().model, ids, None, labels)


def test_a_model_that_caps_its_logits_is_refused_and_a_plain_one_is_not() -> None:
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = Gemma2Config(**shape, num_key_value_heads=1, head_dim=8, vocab_size=40, final_logit_softcapping=0.1)
    with pytest.raises(PosttrainError, match="changes its logits after the output head"):
        check_plain_head(Gemma2ForCausalLM(config))
    for make in MODELS.values():
        check_plain_head(make())


def test_packed_rows_give_the_loss_and_gradients_of_padded_ones() -> None:
    from posttrain.lm.supervised_trainer import collate, pack

    rows = [
        {"input_ids": [5, 6, 7, 8, 2], "labels": [-100, -100, 7, 8, 2]},
        {"input_ids": [9, 10, 2], "labels": [9, 10, 2]},
        {"input_ids": [11, 12, 13, 14, 15, 2], "labels": [-100, 12, 13, -100, 15, 2]},
    ]
    found = []
    for batch in (collate(rows), pack(rows)):
        model = tiny_llama.llama()
        loss = supervised_cross_entropy(
            model, batch["input_ids"], None, batch["labels"], position_ids=batch.get("position_ids")
        )
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert (found[0][1] - found[1][1]).abs().max() <= 1e-5
    assert sorted(pack(rows)["input_ids"][0].tolist()) == sorted(token for row in rows for token in row["input_ids"])
    naive = {**pack(rows), "position_ids": None}
    model = tiny_llama.llama()
    leaked = supervised_cross_entropy(model, naive["input_ids"], None, naive["labels"]).item()
    assert abs(leaked - found[0][0]) > 1e-4, "without positions the rows see each other"


def test_a_model_trained_on_packed_rows_ends_like_one_trained_on_padded_rows(tmp_path: Path) -> None:
    losses = []
    for packing in (False, True):
        model = tiny_llama.llama()
        settings = replace(tiny_llama.STEADY, packing=packing)
        losses.append([point.loss for point in tiny_llama.fit(model, tmp_path / str(packing), settings).loss_curve])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("chunk", [1, LENGTH, 3 * LENGTH, 500])
def test_the_dense_loss_has_the_loss_and_gradients_of_full_logits(chunk: int) -> None:
    model, (ids, _) = llama(), batch()
    logits = model(input_ids=ids[:, :-1]).logits
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    wanted = gradients(model, plain)
    ours = dense_cross_entropy(model, ids[:, :-1], ids[:, 1:], chunk)
    found = gradients(model, ours)
    assert torch.allclose(ours, plain, atol=1e-6)
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)
    shifted = dense_cross_entropy(model, ids[:, :-1], ids[:, :-1], chunk)
    assert not torch.allclose(shifted, plain, atol=1e-3)
