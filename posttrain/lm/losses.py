"""Cross entropy that runs the output head only where a token is supervised.

The head is the largest matrix of a small model (61 % of the parameters at 15M with 32,000 tokens), and a
chat row supervises about half of its positions. So the hidden states of supervised positions are gathered
first, and their logits live only one chunk at a time: each chunk is scored and differentiated before the
next one, which keeps positions x vocabulary out of memory without computing any logit twice. What a chunk
is scored with is a function (`head_loss`): cross entropy here, a teacher's distribution in distillation.
"""

from collections.abc import Callable
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


class Scored(NamedTuple):
    """The summed loss of some positions, and its gradient for their logits (in the logits' shape)."""

    loss: Tensor
    slope: Tensor


Score = Callable[[Tensor, slice], Scored]  # logits [chunk, vocabulary] of these positions, and which ones they are


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
    positions = supervised_positions(labels)
    hidden = hidden_at(model, input_ids, attention_mask, positions, position_ids)
    wanted = labels[:, 1:][positions]
    count = wanted.numel() if num_items_in_batch is None else num_items_in_batch
    return head_loss(model, hidden, cross_entropy_score(wanted), chunk) / count


def supervised_positions(labels: Tensor) -> Tensor:
    """Where the next token is supervised: bool [batch, length - 1]. Nowhere at all is an error."""
    positions = labels[:, 1:] != IGNORED
    if not positions.any():
        raise PosttrainError(
            f"batch of {labels.shape[0]} rows: 0 of {labels.numel()} tokens are supervised; at least one is "
            "needed. Check the mask: the assistant's text and its stop token must be marked."
        )
    return positions


def hidden_at(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, positions: Tensor, position_ids: Tensor | None = None
) -> Tensor:
    """The decoder's last hidden states [marked positions, size], row by row; see `supervised_positions`."""
    hidden = causal_parts(model).backbone(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
    )
    kept: Tensor = hidden.last_hidden_state[:, :-1][positions]
    return kept


def dense_cross_entropy(model: Any, input_ids: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Mean cross entropy where every position is supervised; both tensors [batch, length], nothing is shifted."""
    backbone = causal_parts(model).backbone
    hidden = backbone(input_ids=input_ids, use_cache=False).last_hidden_state.flatten(0, 1)
    return head_loss(model, hidden, cross_entropy_score(targets.flatten()), chunk) / targets.numel()


def cross_entropy_score(targets: Tensor) -> Score:
    """Scores logits by their summed cross entropy with `targets` [positions]."""

    def score(logits: Tensor, rows: slice) -> Scored:
        log_probs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        index = targets[rows, None]
        loss = -log_probs.gather(1, index).sum()
        slope = log_probs.exp_()
        slope.scatter_add_(1, index, torch.full_like(index, -1, dtype=slope.dtype))
        return Scored(loss, slope)

    return score


def head_loss(model: Any, hidden: Tensor, score: Score, chunk: int = CHUNK) -> Tensor:
    """Summed loss of `score` over the model's logits at `hidden` [positions, size], differentiable.

    `score` is called once a chunk, outside autograd, and returns the gradient itself; it may write it over the logits.
    """
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    head = causal_parts(model).head
    total: Tensor = _HeadLoss.apply(head, score, chunk, hidden, *trainable)  # type: ignore[no-untyped-call]
    return total


class _HeadLoss(torch.autograd.Function):
    """Summed loss of `head(hidden)`; the gradients are taken chunk by chunk in the forward pass."""

    @staticmethod
    def forward(ctx: Any, head: nn.Module, score: Score, chunk: int, hidden: Tensor, *weights: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(hidden)
        weight_grads: list[Tensor | None] = [None] * len(weights)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            with torch.enable_grad():
                leaf = hidden[rows].detach().requires_grad_()
                logits = head(leaf)
            loss, slope = score(logits.detach(), rows)
            total += loss
            grads = torch.autograd.grad(logits, [leaf, *weights], slope.to(logits.dtype), allow_unused=True)
            hidden_grad[rows] = grads[0]
            weight_grads = [_plus(known, grad) for known, grad in zip(weight_grads, grads[1:], strict=True)]
        ctx.grads = [hidden_grad, *weight_grads]
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        # detached, since autograd adds the gradient of a tied embedding in place only to what is nobody's view
        scaled = [grad if grad is None else grad.detach().mul_(grad_outputs[0]) for grad in ctx.grads]
        hidden_grad, *weight_grads = scaled
        del ctx.grads  # scaled in place: a second pass would scale them again
        return None, None, None, hidden_grad, *weight_grads


def _plus(known: Tensor | None, more: Tensor | None) -> Tensor | None:
    if known is None or more is None:
        return known if more is None else more
    return known.add_(more)
