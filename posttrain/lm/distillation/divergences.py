"""How far a student's next-token distribution is from its teacher's: forward KL, reverse KL and what lies between.

p is the teacher's distribution, q the student's, both softmax(logits / T). All values are T² D(p, q) in nats,
one a position: T² keeps the gradient's size as T grows (Hinton et al. 2015, "Distilling the Knowledge in a
Neural Network", section 2). Arithmetic is in fp32 whatever the logits are, in fp64 where they are fp64.
Logits are [positions, vocabulary] and finite. Teacher and student go by name: exchanged, they are another loss.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Divergence(NamedTuple):
    """T² D(p, q) in nats [positions], and its gradient for the student's logits [positions, vocabulary]."""

    nats: Tensor
    gradient: Tensor


def forward_kl(*, teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T² KL(p ‖ q) = T² Σ p (ln p - ln q) in nats [positions], differentiable; the student covers the teacher.

    Source: Hinton et al. 2015, section 2 (cross entropy with soft targets, less the teacher's entropy).
    """
    log_p, log_q = _log_probs(teacher_logits, temperature), _log_probs(student_logits, temperature)
    return temperature**2 * _kl(log_p, log_q)


def reverse_kl(*, teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T² KL(q ‖ p) = T² Σ q (ln q - ln p) in nats [positions], differentiable; the student picks a mode.

    Source: Gu et al. 2024 (MiniLLM, arXiv 2306.08543), equation 1.
    """
    log_p, log_q = _log_probs(teacher_logits, temperature), _log_probs(student_logits, temperature)
    return temperature**2 * _kl(log_q, log_p)


def generalized_jsd(*, teacher_logits: Tensor, student_logits: Tensor, beta: float, temperature: float = 1.0) -> Tensor:
    """T² [β KL(p ‖ m) + (1-β) KL(q ‖ m)], m = β p + (1-β) q, in nats [positions], differentiable; 0 ≤ β ≤ 1.

    Source: Agarwal et al. 2024 (GKD, arXiv 2306.13649), equation 1. β = ½ is the Jensen-Shannon divergence, at
    most ln 2. The formula itself goes to zero at both ends; its *slope* there is a KL: value/β → KL(p ‖ q) for
    β → 0, value/(1-β) → KL(q ‖ p) for β → 1. So β = 0 is by definition `forward_kl` and β = 1 `reverse_kl`
    (TRL's reading too), and neither is continuous with its neighbours: at β = 0.01 the value is near 0.01 KL(p ‖ q).
    """
    if beta == 0:
        return forward_kl(teacher_logits=teacher_logits, student_logits=student_logits, temperature=temperature)
    if beta == 1:
        return reverse_kl(teacher_logits=teacher_logits, student_logits=student_logits, temperature=temperature)
    log_p, log_q = _log_probs(teacher_logits, temperature), _log_probs(student_logits, temperature)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return temperature**2 * (beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m))


def divergence_and_gradient(
    *, teacher_logits: Tensor, student_logits: Tensor, beta: float, temperature: float = 1.0
) -> Divergence:
    """`generalized_jsd` with its gradient for the student's logits in closed form, outside autograd.

    With u = student logits / T and E the mean under q, the derivatives are
    forward KL: q - p;  reverse KL: q (ln(q/p) - E ln(q/p));  JSD: (1-β) q (ln(q/m) - E ln(q/m)).
    T² for the factor and 1/T for u leave one T. The inputs are not changed; temporaries are reused.
    """
    log_p = _log_probs(teacher_logits.detach(), temperature)
    log_q = _log_probs(student_logits.detach(), temperature)
    if beta == 0:
        nats, gradient = _forward_kl_slope(log_p, log_q)
    elif beta == 1:
        nats, gradient = _ratio_slope(log_q, log_p)
    else:
        p, smallest = log_p.exp(), torch.finfo(log_p.dtype).tiny  # p = q = 0 in fp32 must not make ln 0
        log_m = torch.lerp(log_q.exp(), p, beta).clamp_min_(smallest).log_()  # a third of logaddexp's time
        teacher_part = _mean_under(p, log_p.sub_(log_m))
        student_part, gradient = _ratio_slope(log_q, log_m)
        nats = beta * teacher_part + (1 - beta) * student_part
        gradient.mul_(1 - beta)
    return Divergence(nats * temperature**2, gradient if temperature == 1 else gradient.mul_(temperature))


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(exact if temperature == 1 else exact / temperature, dim=-1)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return _mean_under(log_a.exp(), log_a - log_b)


def _mean_under(probabilities: Tensor, values: Tensor) -> Tensor:
    """Not vecdot: that is a matrix product inside, which autocast would round to bf16."""
    return (probabilities * values).sum(dim=-1)


def _forward_kl_slope(log_p: Tensor, log_q: Tensor) -> Divergence:
    """KL(p ‖ q) and q - p; both arguments are overwritten."""
    p = log_p.exp()
    nats = _mean_under(p, log_p.sub_(log_q))
    return Divergence(nats, log_q.exp_().sub_(p))


def _ratio_slope(log_q: Tensor, log_other: Tensor) -> Divergence:
    """KL(q ‖ other) and q (ln(q/other) - KL(q ‖ other)); both arguments are overwritten."""
    ratio = log_other.neg_().add_(log_q)
    q = log_q.exp_()
    nats = _mean_under(q, ratio)
    return Divergence(nats, ratio.sub_(nats[:, None]).mul_(q))
