"""Cross entropy that runs the output head only where a token is supervised.

The head is the largest matrix of a small model (61 % of the parameters at 15M with 32,000 tokens), and a
chat row supervises about half of its positions. So the hidden states of supervised positions are gathered
first, and their logits live only one chunk at a time: each chunk is scored and differentiated before the
next one, which keeps positions x vocabulary out of memory without computing any logit twice.
"""

from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn

from posttrain.errors import PosttrainError

IGNORED = -100
CHUNK = 512  # positions whose logits are alive together: 65 MB in fp32 at 32,000 tokens


class CausalParts(NamedTuple):
    """A causal language model cut before its output head."""

    backbone: nn.Module
    head: nn.Module


def causal_parts(model: Any) -> CausalParts:
    """The decoder and the output head of a transformers causal LM, as it is or inside a `PeftModel`."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    backbone, head = causal.base_model, causal.get_output_embeddings()
    if backbone is causal or head is None:
        raise PosttrainError(
            f"model: {type(causal).__name__} has no output head over a decoder; a causal language model is "
            "allowed. Load it with AutoModelForCausalLM."
        )
    return CausalParts(backbone, head)


def check_plain_head(model: Any) -> None:
    """Refuse a model whose logits are not `head(decoder(x))`: soft-capped or scaled ones train wrongly."""
    parts, training = causal_parts(model), model.training
    ids = torch.arange(4, device=model.device)[None]
    model.eval()
    with torch.no_grad():
        ours = parts.head(parts.backbone(input_ids=ids, use_cache=False).last_hidden_state)
        theirs = model(input_ids=ids, use_cache=False).logits
    model.train(training)
    if not torch.allclose(ours, theirs.to(ours.dtype), rtol=1e-4, atol=1e-5, equal_nan=True):
        raise PosttrainError(
            f"model: {type(model).__name__} ({model.config.model_type}) changes its logits after the output "
            "head (soft cap or scale); logits straight from the head are allowed. Use another model."
        )


def supervised_cross_entropy(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    chunk: int = CHUNK,
    position_ids: Tensor | None = None,
) -> Tensor:
    """Summed next-token cross entropy of the labels that are not -100, divided by `num_items_in_batch`.

    All tensors are [batch, length]. `num_items_in_batch` defaults to this batch's supervised tokens; a
    trainer that accumulates gradients passes the count of the whole step. Rows padded on the right need no
    `attention_mask`: a causal decoder never looks at what follows. Rows packed into one have `position_ids`
    that start again at each row. No supervised token at all is an error.
    """
    targets = labels[:, 1:]
    positions = targets != IGNORED
    if not positions.any():
        raise PosttrainError(
            f"batch of {labels.shape[0]} rows: 0 of {labels.numel()} tokens are supervised; at least one is "
            "needed. Check the mask: the assistant's text and its stop token must be marked."
        )
    parts = causal_parts(model)
    hidden = parts.backbone(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
    )
    kept = hidden.last_hidden_state[:, :-1][positions]
    wanted = targets[positions]
    count = wanted.numel() if num_items_in_batch is None else num_items_in_batch
    return _summed(model, parts.head, kept, wanted, chunk) / count


def dense_cross_entropy(model: Any, input_ids: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Mean cross entropy where every position is supervised; both tensors [batch, length], nothing is shifted."""
    parts = causal_parts(model)
    hidden = parts.backbone(input_ids=input_ids, use_cache=False).last_hidden_state.flatten(0, 1)
    return _summed(model, parts.head, hidden, targets.flatten(), chunk) / targets.numel()


def _summed(model: Any, head: nn.Module, hidden: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """Summed cross entropy of hidden states [positions, size] and targets [positions]."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    total: Tensor = _HeadLoss.apply(head, chunk, hidden, targets, *trainable)  # type: ignore[no-untyped-call]
    return total


class _HeadLoss(torch.autograd.Function):
    """Summed cross entropy of `head(hidden)`; the gradients are taken chunk by chunk in the forward pass."""

    @staticmethod
    def forward(ctx: Any, head: nn.Module, chunk: int, hidden: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(hidden)
        weight_grads: list[Tensor | None] = [None] * len(weights)
        for start in range(0, len(targets), chunk):
            rows = slice(start, start + chunk)
            loss, slope, grads = _chunk_loss(head, hidden[rows], targets[rows], weights)
            total += loss
            hidden_grad[rows] = slope
            weight_grads = [_plus(known, grad) for known, grad in zip(weight_grads, grads, strict=True)]
        ctx.grads = [hidden_grad, *weight_grads]
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        hidden_grad, *weight_grads = [grad if grad is None else grad * grad_outputs[0] for grad in ctx.grads]
        return None, None, hidden_grad, None, *weight_grads


def _chunk_loss(
    head: nn.Module, hidden: Tensor, targets: Tensor, weights: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Loss of one chunk, its gradient for `hidden`, and those for `weights` (None if not in the head)."""
    with torch.enable_grad():
        leaf = hidden.detach().requires_grad_()
        logits = head(leaf)
    log_probs = torch.log_softmax(logits.detach(), dim=-1, dtype=torch.float32)
    index = targets[:, None]
    loss = -log_probs.gather(1, index).sum()
    slope = log_probs.exp_()
    slope.scatter_add_(1, index, torch.full_like(index, -1, dtype=slope.dtype))
    first, *rest = torch.autograd.grad(logits, [leaf, *weights], slope.to(logits.dtype), allow_unused=True)
    return loss, first, tuple(rest)


def _plus(known: Tensor | None, more: Tensor | None) -> Tensor | None:
    if known is None or more is None:
        return known if more is None else more
    return known.add_(more)
