"""Sparse targets drawn from a teacher's next-token distribution, unbiased, so that they can be kept on a disk.

A whole distribution costs vocabulary x 4 bytes a position. Its largest k values, renormalised, cost little and are
biased: a student learns that the tail does not exist. So ids are drawn with replacement from a proposal q, and each
stands for its teacher probability p with the weight w = p/q/n: the expectation over the draws is p, and so is the
expectation of every gradient, which is linear in w (Anshumann et al. 2025, arXiv 2503.16870, "random sampling
knowledge distillation"; about 12 draws a position are enough).

A draw is an inverse transform of a uniform number that is a pure function of (seed, row, position, draw). What else
is in a batch, in which order rows come and whether a run was killed in between changes nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posttrain.errors import PosttrainError

MOST_DRAWS = 255  # a count fits one byte
IN_CACHE = 1 << 18  # probabilities that a CPU sums together: 2 MB in fp64
BITS = 48  # of a uniform number: fine against any probability, and u x total stays below the total in fp64


@dataclass(frozen=True)
class TargetSettings:
    """What targets are drawn: `draws` a position over the first `vocabulary` ids at `temperature`.

    The proposal is the teacher's distribution to the power of `proposal`, normalised: 1 is plain sampling, below 1
    looks more into the tail (lower variance there, higher at the head).
    """

    vocabulary: int
    draws: int = 12
    temperature: float = 1.0
    proposal: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "vocabulary": (2 <= self.vocabulary <= 2**32, "2 to 2^32 ids are allowed"),
            "draws": (1 <= self.draws <= MOST_DRAWS, f"1 to {MOST_DRAWS} are allowed"),
            "temperature": (0 < self.temperature < math.inf, "a number above 0 is allowed"),
            "proposal": (0 < self.proposal < math.inf, "a number above 0 is allowed"),
            "seed": (0 <= self.seed < 2**64, "0 to 2^64 - 1 is allowed"),
        }
        for name, (holds, rule) in allowed.items():
            if not holds:
                raise PosttrainError(f"cached targets, {name}: {self.__dict__[name]}; {rule}. Correct the setting.")
        for name in ("temperature", "proposal"):  # 1 and 1.0 are one setting, and one text
            object.__setattr__(self, name, float(self.__dict__[name]))


class SparseTargets(NamedTuple):
    """Ids (int64) and weights (fp32), both [positions, slots]; a slot with weight 0 is empty. Weights need not add
    up to 1 where the proposal is not the teacher itself; their expectation does."""

    ids: Tensor
    weights: Tensor


class Draws(NamedTuple):
    """Distinct ids in ascending order, how often each was drawn, and its weight, all [positions, draws].

    Behind the last distinct id of a position, count and weight are 0.
    """

    ids: Tensor
    counts: Tensor
    weights: Tensor


class _Proposal(NamedTuple):
    cdf: Tensor  # fp64, [positions, vocabulary]: fp32 sums would move every tail probability by up to 6e-8
    ratio: Tensor | None  # p/q, [positions, vocabulary]; None where it is 1


def uniforms(seed: int, row: int, positions: Sequence[int], draws: int) -> NDArray[np.float64]:
    """[len(positions), draws] numbers in (0, 1), ascending within a position; a pure function of the arguments.

    The key of a counter-based generator (Philox) is (seed, row), its counter runs over positions and draws.
    """
    if not len(positions):
        return np.zeros((0, draws))
    generator = np.random.Philox(key=np.array([seed, row], dtype=np.uint64))
    raw = generator.random_raw((max(positions) + 1) * draws).reshape(-1, draws)[list(positions)]
    return np.sort(((raw >> np.uint64(64 - BITS)) + 0.5) / 2.0**BITS, axis=1)


def draw_targets(logits: Tensor, numbers: Tensor, settings: TargetSettings) -> Draws:
    """The draws that `uniforms` decide for teacher logits [positions, head rows].

    Head rows behind the vocabulary (padding) are never drawn. Logits without a distribution are an error.
    """
    step = max(1, IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    starts = range(0, max(1, len(logits)), step)  # no position at all is one empty part
    parts = [_drawn(logits[start : start + step], numbers[start : start + step], settings) for start in starts]
    return Draws(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _drawn(logits: Tensor, numbers: Tensor, settings: TargetSettings) -> Draws:
    proposal = _proposal(logits, settings)
    at = torch.searchsorted(proposal.cdf, numbers * proposal.cdf[:, -1:], right=True)
    slots = torch.nn.functional.pad((at[:, 1:] != at[:, :-1]).long(), (1, 0)).cumsum(1)
    counts = torch.zeros_like(at).scatter_add_(1, slots, torch.ones_like(at))
    ids = torch.zeros_like(at).scatter_(1, slots, at)
    weights = counts.float() / settings.draws
    if proposal.ratio is not None:
        weights *= proposal.ratio.gather(1, ids)
    return Draws(ids, counts, weights)


def disagreeing(logits: Tensor, numbers: Tensor, targets: SparseTargets, settings: TargetSettings) -> Tensor:
    """Which positions [positions] do not hold what these teacher logits give, up to the logits' own rounding.

    Draws were made from ascending numbers, so the ids, each repeated by its count, stand beside them in order: the
    number must lie in the id's step of the distribution function, give or take the square root of the precision.
    """
    slack = torch.finfo(logits.dtype).eps ** 0.5
    proposal = _proposal(logits, settings)
    unit = torch.full_like(targets.weights, 1 / settings.draws)
    if proposal.ratio is not None:
        unit *= proposal.ratio.gather(1, targets.ids)
    filled = targets.weights > 0
    counts = (targets.weights / unit).round().clamp(min=1) * filled
    wrong = ((targets.weights - counts * unit).abs() > 0.01 * counts * unit + 1e-7).any(1)
    wrong |= counts.sum(1) != settings.draws
    ranks = torch.arange(settings.draws, device=counts.device).expand(len(counts), -1).contiguous()
    slots = torch.searchsorted(counts.cumsum(1), ranks.float(), right=True).clamp(max=counts.shape[1] - 1)
    ids, cdf = targets.ids.gather(1, slots), proposal.cdf / proposal.cdf[:, -1:]
    above = cdf.gather(1, ids)
    below = torch.where(ids > 0, cdf.gather(1, (ids - 1).clamp(min=0)), 0.0)
    outside: Tensor = (numbers < below - slack) | (numbers > above + slack)
    return wrong | outside.any(1)


def _proposal(logits: Tensor, settings: TargetSettings) -> _Proposal:
    if logits.shape[1] < settings.vocabulary:
        raise PosttrainError(
            f"teacher: its output head has {logits.shape[1]} rows for {settings.vocabulary} tokens; at least one row a "
            "token is needed. Use a teacher with the student's tokenizer."
        )
    scaled = logits[:, : settings.vocabulary].float() / settings.temperature
    if settings.proposal == 1:
        ratio, q = None, torch.softmax(scaled, dim=-1)
    else:
        log_p = torch.log_softmax(scaled, dim=-1)
        log_q = torch.log_softmax(log_p * settings.proposal, dim=-1)
        ratio, q = (log_p - log_q).nan_to_num(0.0).exp(), log_q.exp()
    cdf = q.cumsum(-1, dtype=torch.float64)
    if not bool(torch.isfinite(cdf[:, -1]).all()):
        raise PosttrainError(
            "teacher: its logits are not numbers at some position; finite ones are needed. Check its weights, or "
            "load it in fp32."
        )
    return _Proposal(cdf, ratio)
