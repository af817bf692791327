"""The student's loss against a teacher's sparse targets: no teacher runs, and a position needs only a few ids of it.

-Σ w_i ln s_i over the drawn ids i is, in expectation over the draws, the cross entropy with the whole distribution of
the teacher, so forward KL up to the teacher's entropy, which the student cannot change; and so are its gradients.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.sampled_targets import SparseTargets, TargetSettings
from posttrain.lm.losses import CHUNK, Score, Scored, head_loss, hidden_at, supervised_positions

IN_CACHE = 1 << 18  # logits that a CPU scores together: 1 MB in fp32


def sampled_distillation_loss(
    student: Any,
    targets: SparseTargets,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    *,
    settings: TargetSettings,
    alpha: float = 0.0,
    num_items_in_batch: Tensor | int | None = None,
    chunk: int = CHUNK,
    position_ids: Tensor | None = None,
) -> Tensor:
    """alpha * cross entropy + (1 - alpha) * T² cross entropy with `targets`, over `num_items_in_batch`, as in SFT.

    `targets` [supervised positions, slots] are those of the batch, row by row (`TargetStore.targets`), `settings`
    what they were drawn with; `input_ids` and `labels` are [batch, length]. The targets' softmax is over the
    vocabulary, that of the labels over all of the student's head rows, as in online distillation. The targets' part
    is a forward KL (times T²) plus the teacher's entropy (times T²): it does not fall to zero.
    Source: Anshumann et al. 2025 (arXiv 2503.16870), with T² of Hinton et al. 2015, section 2.
    """
    if not 0 <= alpha < 1:
        raise PosttrainError(f"alpha: {alpha}; 0 to below 1 is allowed. Use sft for cross entropy alone.")
    positions = supervised_positions(labels)
    wanted = labels[:, 1:][positions]
    if len(targets.ids) != len(wanted):
        raise PosttrainError(
            f"cached targets: {len(targets.ids)} positions for {len(wanted)} supervised ones in the batch; the same "
            "positions are needed. Take the targets of the batch's own rows, in its order."
        )
    hidden = hidden_at(student, input_ids, attention_mask, positions, position_ids)
    score = sampled_score(SparseTargets(*(part.to(hidden.device) for part in targets)), wanted, settings, alpha)
    count = wanted.numel() if num_items_in_batch is None else num_items_in_batch
    return head_loss(student, hidden, score, chunk) / count


def sampled_score(targets: SparseTargets, labels: Tensor, settings: TargetSettings, alpha: float) -> Score:
    """Scores logits against `targets` [positions, slots] and, where alpha is above 0, `labels` [positions].

    A label is one more target, with weight 1: where both parts have one softmax, it is taken once. The logits handed
    in are overwritten with their gradient, a few rows at a time: they stay in the cache.
    """
    hard = SparseTargets(labels[:, None], torch.full_like(labels[:, None], alpha, dtype=torch.float32))
    soft = SparseTargets(targets.ids, targets.weights * (1 - alpha))
    both = SparseTargets(*(torch.cat(pair, 1) for pair in zip(soft, hard, strict=True)))
    size, temperature = settings.vocabulary, settings.temperature

    def scored(logits: Tensor, rows: slice) -> Scored:
        if not alpha:
            return _padded(_sparse(logits[:, :size], soft, rows, temperature), logits)
        if temperature == 1 and logits.shape[1] == size:
            return _sparse(logits, both, rows, 1.0)
        likelihood = _sparse(logits, hard, rows, 1.0)
        loss, slope = _padded(_sparse(logits[:, :size], soft, rows, temperature), logits)
        return Scored(loss + likelihood.loss, likelihood.slope.add_(slope))

    @torch.no_grad()
    def score(logits: Tensor, rows: slice) -> Scored:
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        step = max(1, IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
        for start in range(0, len(logits), step):
            part = logits[start : start + step]
            loss, slope = scored(part, slice(rows.start + start, rows.start + start + len(part)))
            total += loss
            part.copy_(slope)
        return Scored(total, logits)

    return score


def _sparse(logits: Tensor, targets: SparseTargets, rows: slice, temperature: float) -> Scored:
    """-T² Σ w ln softmax(logits / T) at the targets' ids, and its slope T (s Σw - w)."""
    ids, weights = targets.ids[rows], targets.weights[rows]
    scaled = logits if temperature == 1 else logits.float() / temperature
    log_probs = torch.log_softmax(scaled, dim=-1, dtype=torch.float32)
    loss = -(log_probs.gather(1, ids) * weights).sum()
    slope = log_probs.exp_().mul_(weights.sum(1, keepdim=True)).scatter_add_(1, ids, -weights)
    return Scored(loss * temperature**2, slope if temperature == 1 else slope.mul_(temperature))


def _padded(scored: Scored, logits: Tensor) -> Scored:
    """Head rows behind the vocabulary have slope zero."""
    missing = logits.shape[1] - scored.slope.shape[1]
    return Scored(scored.loss, pad(scored.slope, (0, missing))) if missing else scored
