"""Attention in blocks is causal attention, in value and gradient, and leaves the model as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.lm.causal_blocks import BLOCK, LONGEST, causal_attention, causal_blocks

torch.set_num_threads(1)


def inputs(length: int, heads: int = 4, groups: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, heads, length, 8), (2, groups, length, 8), (2, groups, length, 8)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def with_gradients(out: Tensor, given: list[Tensor]) -> list[Tensor]:
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    return [out, *torch.autograd.grad(out, given, slope)]


@pytest.mark.parametrize("length", [1, 5, BLOCK, BLOCK + 1, 3 * BLOCK - 7])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_blocks_give_the_values_and_gradients_of_sdpa(length: int, groups: int) -> None:
    given = inputs(length, groups=groups)
    ours = with_gradients(causal_attention(*given, scaling=8**-0.5), given)
    theirs = with_gradients(sdpa(*given, is_causal=True, enable_gqa=True), given)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_attention_that_sees_the_future_differs() -> None:
    given = inputs(BLOCK + 3)
    ours = causal_attention(*given, scaling=8**-0.5)
    assert (ours - sdpa(*given, enable_gqa=True)).abs().max() > 0.1


def llama() -> Any:
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4)
    return LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, vocab_size=50)).eval()


@pytest.mark.parametrize("length", [70, LONGEST + 1])
def test_a_model_gives_the_same_logits_in_blocks_and_is_restored(length: int) -> None:
    model, ids = llama(), torch.arange(2 * length).view(2, length) % 50
    expected = model(input_ids=ids).logits
    with causal_blocks(model, active=True):
        assert model.config._attn_implementation == "causal_blocks"
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert model.config._attn_implementation == "sdpa"


def test_padding_on_the_left_is_left_to_sdpa() -> None:
    model, ids = llama(), torch.arange(20).view(2, 10)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    expected = model(input_ids=ids, attention_mask=mask).logits
    with causal_blocks(model, active=True):
        found = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    assert (model(input_ids=ids).logits - expected)[0, -1].abs().max() > 1e-4
