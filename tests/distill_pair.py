"""A tiny student and teacher that disagree, rows for them, and their distillation loss: ours and the naive one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from posttrain.lm.distillation.divergences import generalized_jsd
from posttrain.lm.distillation.logit_loss import LogitDistillation, logit_distillation_loss
from posttrain.lm.losses import IGNORED

VOCABULARY, LENGTH, ROWS = 40, 12, 3
SUPERVISED = ROWS * (LENGTH // 2)
SETTINGS = {
    "forward KL": LogitDistillation(),
    "reverse KL, T": LogitDistillation("reverse_kl", temperature=2.0),
    "JSD, T, cross entropy": LogitDistillation("jsd", beta=0.3, temperature=3.0, alpha=0.4),
    "forward KL, cross entropy": LogitDistillation(alpha=0.7),
}


class Batch(NamedTuple):
    input_ids: Tensor
    labels: Tensor


Loss = Callable[..., Tensor]  # student, teacher, batch, settings; items and real_ids by name


def llama(size: int, seed: int, rows: int = VOCABULARY, tied: bool = True) -> Any:
    set_seed(seed)
    shape = dict(hidden_size=size, intermediate_size=2 * size, num_hidden_layers=2, num_attention_heads=2)
    config = LlamaConfig(**shape, vocab_size=rows, tie_word_embeddings=tied, initializer_range=0.3)
    return LlamaForCausalLM(config)


def pair(rows: int = VOCABULARY, teacher_rows: int = VOCABULARY) -> tuple[Any, Any]:
    """Small weights agree on nothing but uniform; these are large enough to disagree."""
    return llama(16, 0, rows), llama(24, 1, teacher_rows).eval().requires_grad_(False)


def batch() -> Batch:
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, : LENGTH // 2] = IGNORED
    return Batch(ids, labels)


def ours(student: Any, teacher: Any, batch: Batch, settings: LogitDistillation, **kwargs: Any) -> Tensor:
    return logit_distillation_loss(
        student, teacher, batch.input_ids, None, batch.labels, settings=settings, **{"real_ids": VOCABULARY, **kwargs}
    )


def whole_logits(
    student: Any,
    teacher: Any,
    batch: Batch,
    settings: LogitDistillation,
    num_items_in_batch: int | None = None,
    real_ids: int = VOCABULARY,
) -> Tensor:
    """The same loss, written naively."""
    mask = batch.labels[:, 1:] != IGNORED
    targets = batch.labels[:, 1:][mask]
    logits, wanted = (model(input_ids=batch.input_ids).logits[:, :-1][mask] for model in (student, teacher))
    divergence = generalized_jsd(
        teacher_logits=wanted[:, :real_ids].detach(),
        student_logits=logits[:, :real_ids],
        beta=settings.jsd_beta,
        temperature=settings.temperature,
    ).sum()
    likelihood = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    total = settings.alpha * likelihood + (1 - settings.alpha) * divergence
    return total / (num_items_in_batch or len(targets))


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(student: Any, expected: Tensor, found: Tensor) -> None:
    wanted, got = gradients(student, expected), gradients(student, found)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6, rel=1e-6)
    assert got.keys() == wanted.keys() and got
    for name, grad in wanted.items():
        torch.testing.assert_close(got[name], grad, atol=1e-6, rtol=1e-5, msg=name)
