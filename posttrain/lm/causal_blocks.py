"""Causal attention in blocks of queries, for bf16 training on a CPU.

PyTorch's CPU flash kernel spends most of a small model's step (75 % at head size 8) on tiles that are too
thin for its matrix products. Here a block of queries meets all keys up to its end in one batched product,
for all heads of a key group together; masked work is left out except on the diagonal. Same mathematics,
about half the time in bf16; the probabilities are kept for the backward pass, so it is for short rows.
Plugged in as one of transformers' attention functions, and taken out again when training ends.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "causal_blocks"
BLOCK = 64  # queries a block
LONGEST = 1024  # beyond this the kept probabilities cost more memory than the time is worth


class _CausalBlocks(torch.autograd.Function):
    """softmax(q k^T + causal) v; q (scaled) [groups, heads, length, size], k and v [groups, length, size]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, probabilities = torch.empty_like(q), []
        for start, end in _blocks(q.shape[2]):
            rows = q[:, :, start:end].flatten(1, 2)
            scores = torch.bmm(rows, k[:, :end].transpose(1, 2))
            future = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).triu_(1)
            by_head = scores.view(len(q), q.shape[1], end - start, end)
            by_head[..., start:].masked_fill_(future, float("-inf"))
            kept = torch.softmax(scores, dim=-1)
            out[:, :, start:end] = torch.bmm(kept, v[:, :end]).view_as(out[:, :, start:end])
            probabilities.append(kept)
        ctx.save_for_backward(q, k, v, *probabilities)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *probabilities = ctx.saved_tensors
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for (start, end), kept in zip(_blocks(q.shape[2]), probabilities, strict=True):
            rows, grad = (x[:, :, start:end].flatten(1, 2) for x in (q, grads[0]))
            dv[:, :end] += torch.bmm(kept.transpose(1, 2), grad)
            slope = torch.bmm(grad, v[:, :end].transpose(1, 2))
            slope = torch._softmax_backward_data(slope, kept, -1, kept.dtype)
            dq[:, :, start:end] = torch.bmm(slope, k[:, :end]).view_as(dq[:, :, start:end])
            dk[:, :end] += torch.bmm(slope.transpose(1, 2), rows)
        return dq, dk.to(k.dtype), dv.to(v.dtype)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Causal attention of [batch, heads, length, size] over keys and values [batch, groups, length, size]."""
    batch, groups, length, size = key.shape
    # layers of 4 bits answer in fp32 under autocast, and the backward pass has none to bring them together
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else value.dtype
    q = (query * scaling).to(kind).reshape(batch * groups, -1, length, size)
    k, v = (x.to(kind).reshape(batch * groups, length, size) for x in (key, value))
    out: Tensor = _CausalBlocks.apply(q, k, v)  # type: ignore[no-untyped-call]
    return out.view(query.shape)


def _forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention signature; what blocks do not cover goes to sdpa."""
    length, scaling = query.shape[2], kwargs.get("scaling") or query.shape[-1] ** -0.5
    covered = attention_mask is None and module.is_causal and not kwargs.get("dropout")
    if covered and key.shape == value.shape and length == key.shape[2] <= LONGEST:
        return causal_attention(query, key, value, scaling).transpose(1, 2).contiguous(), None
    result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return result


@contextlib.contextmanager
def causal_blocks(model: Any, active: bool) -> Iterator[None]:
    """Let a model that uses sdpa attend in blocks for a while."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    before = causal.config._attn_implementation
    if not active or before != "sdpa":
        yield
        return
    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    causal.set_attn_implementation(NAME)
    try:
        yield
    finally:
        causal.set_attn_implementation(before)
