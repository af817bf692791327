"""Universal logit distillation mixed with cross entropy, as one loss over one pass of the student.

The universal loss says how a distribution is spread and not over which tokens, so a student needs the cross entropy
beside it. Aligned positions are some of the supervised ones: the student's decoder and head run once for both.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.cross_tokenizer import AlignedBatch, RealIds, sorted_distance
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


def check_head(whose: str, model: Any, real_ids: int) -> None:
    """Refuse an output head with fewer rows than its tokenizer has tokens."""
    rows = model.get_output_embeddings().weight.shape[0]
    if rows < real_ids:
        raise PosttrainError(
            f"{whose}: its output head has {rows} rows for {real_ids} tokens; at least one row a token is needed. "
            "Resize its embeddings to the tokenizer."
        )


def mixed_universal_loss(
    student: Any,
    teacher: Any,
    input_ids: Tensor,
    labels: Tensor,
    aligned: AlignedBatch,
    *,
    real_ids: RealIds,
    alpha: float,
    temperature: float = 1.0,
    num_items_in_batch: Tensor | int | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """alpha * cross entropy + (1 - alpha) * sorted distance, summed, over `num_items_in_batch`, as in SFT.

    `input_ids` and `labels` [rows, length] are the student's rows, those of `aligned` in its order. Both sums are
    divided by the supervised tokens, so that a position that the teacher says nothing about weighs in by its cross
    entropy alone. The teacher must be in eval mode; it is run without gradients. Source: Boizard et al. 2024
    (arXiv 2402.12030), who add the distance to the cross entropy with a weight, here (1 - alpha) / alpha.
    """
    if teacher.training:
        raise PosttrainError("teacher: it is in training mode; eval mode is needed. Call teacher.eval() first.")
    positions = supervised_positions(labels)
    width = positions.shape[1] - aligned.student_positions.shape[1]
    partnered = pad(aligned.student_positions, (0, width))
    if width < 0 or not torch.equal(partnered & positions, partnered):
        raise PosttrainError(
            "cross_tokenizer: a position is aligned and not supervised; every aligned one must be supervised. Align "
            "the batch's own rows, in its order."
        )
    hidden = hidden_at(student, input_ids, None, positions)
    with torch.no_grad():
        taught = hidden_at(teacher, aligned.teacher_ids, None, aligned.teacher_positions)
    wanted = labels[:, 1:][positions]
    score = _score(causal_parts(teacher).head, taught, partnered[positions], wanted, real_ids, alpha, temperature)
    count = wanted.numel() if num_items_in_batch is None else num_items_in_batch
    return head_loss(student, hidden, score, chunk) / count


def _score(
    head: Any, taught: Tensor, partnered: Tensor, wanted: Tensor, real_ids: RealIds, alpha: float, temperature: float
) -> Score:
    """`partnered` [positions] says which have a teacher's position; those stand in `taught`, in the same order."""
    cross_entropy, partner = cross_entropy_score(wanted), partnered.cumsum(0) - 1

    @torch.no_grad()
    def score(logits: Tensor, rows: slice) -> Scored:
        loss, slope = cross_entropy(logits, rows)
        loss, slope = alpha * loss, slope.mul_(alpha)
        chosen = partnered[rows]
        if chosen.any():
            distance = sorted_distance(
                teacher_logits=head(taught[partner[rows][chosen]])[:, : real_ids.teacher],
                student_logits=logits[chosen][:, : real_ids.student],
                temperature=temperature,
            )
            loss = loss + (1 - alpha) * distance.loss
            slope[chosen] += (1 - alpha) * pad(distance.slope, (0, slope.shape[1] - real_ids.student))
        return Scored(loss, slope)

    return score
