"""Online logit distillation: the student learns the whole next-token distribution of a teacher that runs beside it.

Both decoders run once. Their hidden states at supervised positions then meet chunk by chunk: two heads, one
loss, the student's gradient at once. So positions x vocabulary never lies in memory and no logit is made twice.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.divergences import divergence_and_gradient
from posttrain.lm.losses import (
    CHUNK,
    Score,
    Scored,
    causal_parts,
    cross_entropy_score,
    head_loss,
    hidden_at,
    supervised_positions,
)

IN_CACHE = 1 << 18  # logits that a CPU scores together: 1 MB in fp32; 8 rows of 32,000 take a third of 512 rows' time


@dataclass(frozen=True)
class LogitDistillation:
    """loss = alpha * cross entropy + (1 - alpha) * T² divergence(teacher, student), in nats a supervised token.

    `beta` is read by `jsd` alone, see `generalized_jsd`; `alpha` = 1 would be plain SFT and is not allowed here.
    """

    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.divergence not in ("forward_kl", "reverse_kl", "jsd"):
            raise PosttrainError(
                f"divergence: {self.divergence!r}; forward_kl, reverse_kl and jsd are allowed. Choose one of them."
            )
        if not 0 <= self.beta <= 1:
            raise PosttrainError(f"beta: {self.beta}; 0 to 1 is allowed. 0.5 is the Jensen-Shannon divergence.")
        if not 0 < self.temperature < float("inf"):
            raise PosttrainError(f"temperature: {self.temperature}; above 0 is allowed. 1 leaves the logits alone.")
        if not 0 <= self.alpha < 1:
            raise PosttrainError(f"alpha: {self.alpha}; 0 to below 1 is allowed. Use sft for cross entropy alone.")

    @property
    def jsd_beta(self) -> float:
        """The divergence as a generalised JSD: 0 is forward KL, 1 is reverse KL."""
        return {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": self.beta}[self.divergence]


def logit_distillation_loss(
    student: Any,
    teacher: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    *,
    settings: LogitDistillation,
    real_ids: int,
    num_items_in_batch: Tensor | int | None = None,
    chunk: int = CHUNK,
    position_ids: Tensor | None = None,
) -> Tensor:
    """`settings`' loss summed over supervised positions and divided by `num_items_in_batch`, as in SFT.

    Student and teacher are causal LMs over one vocabulary of `real_ids` tokens (see `check_same_vocabulary`) on
    one device; all tensors are [batch, length]. Either head may have padded rows: distributions are compared
    over real ids only, while the cross entropy is that of SFT, over all of the student's rows (so with alpha = 0
    padded rows of the student are not trained). The teacher must be in eval mode; it is run without gradients.
    """
    if teacher.training:
        raise PosttrainError("teacher: it is in training mode; eval mode is needed. Call teacher.eval() first.")
    positions = supervised_positions(labels)
    hidden = hidden_at(student, input_ids, attention_mask, positions, position_ids)
    with torch.no_grad():
        teacher_hidden = hidden_at(teacher, input_ids, attention_mask, positions, position_ids)
    targets = labels[:, 1:][positions]
    score = distillation_score(causal_parts(teacher).head, teacher_hidden, targets, settings, real_ids)
    count = targets.numel() if num_items_in_batch is None else num_items_in_batch
    return head_loss(student, hidden, score, chunk) / count


def distillation_score(
    teacher_head: nn.Module, teacher_hidden: Tensor, targets: Tensor, settings: LogitDistillation, real_ids: int
) -> Score:
    """Scores the student's logits against those of `teacher_head` at `teacher_hidden` [positions, size].

    The logits handed in are overwritten with their gradient, a few rows at a time: they stay in the cache.
    """
    cross_entropy = cross_entropy_score(targets)

    @torch.no_grad()
    def score(logits: Tensor, rows: slice) -> Scored:
        teacher_logits = teacher_head(teacher_hidden[rows])
        _check_rows("student", logits, real_ids)
        _check_rows("teacher", teacher_logits, real_ids)
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        for block in _blocks(logits):
            part, wanted = logits[block], slice(rows.start + block.start, rows.start + block.stop)
            loss, slope = _divergence(part, teacher_logits[block], settings, real_ids)
            if settings.alpha:
                likelihood = cross_entropy(part, wanted)
                loss = (1 - settings.alpha) * loss + settings.alpha * likelihood.loss
                slope.mul_(1 - settings.alpha).add_(likelihood.slope, alpha=settings.alpha)
            total += loss
            logits[block] = slope
        return Scored(total, logits)

    return score


def _divergence(logits: Tensor, teacher_logits: Tensor, settings: LogitDistillation, real_ids: int) -> Scored:
    """Summed divergence over real ids; padded columns of the student have slope zero."""
    nats, gradient = divergence_and_gradient(
        teacher_logits=teacher_logits[:, :real_ids],
        student_logits=logits[:, :real_ids],
        beta=settings.jsd_beta,
        temperature=settings.temperature,
    )
    padded = logits.shape[1] - real_ids
    return Scored(nats.sum(), nn.functional.pad(gradient, (0, padded)) if padded else gradient)


def _blocks(logits: Tensor) -> list[slice]:
    """Rows to score together: what fits a CPU's cache; on a GPU all of them, for few launches."""
    count, size = logits.shape
    step = max(1, IN_CACHE // size) if logits.device.type == "cpu" else count
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _check_rows(whose: str, logits: Tensor, real_ids: int) -> None:
    if logits.shape[1] < real_ids:
        raise PosttrainError(
            f"{whose}: its output head has {logits.shape[1]} rows for {real_ids} tokens; at least one row a token "
            "is needed. Resize its embeddings to the tokenizer."
        )
