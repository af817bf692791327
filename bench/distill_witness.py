"""Is a cached loss the online one up to chance? Both of the same student, at every step, before it learns from it.

A position's cached loss is -1/n Σ ln s over n ids drawn from the teacher p. Its mean over draws is the cross entropy
H = -Σ p ln s, which is the online forward KL plus the teacher's entropy; its variance is (Σ p ln² s - H²) / n. Rows are
drawn for before training and read once, so at its step the student knows nothing of a row's draws: summed over
positions, the difference has mean zero and the summed variance. H and its variance come from whole rows of logits,
without the project's losses.

A student that knows nothing finds wrong targets as good as right ones. So the teacher is looked at in the student's
place too, where controls must show: its n largest probabilities made to sum to one, and the next position's draws.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posttrain.lm.distillation.objectives import Cached
from posttrain.lm.distillation.sampled_loss import sampled_distillation_loss
from posttrain.lm.distillation.sampled_targets import SparseTargets
from posttrain.lm.distillation.target_store import TargetStore
from posttrain.lm.distillation.training import Batch, Objective
from posttrain.lm.losses import supervised_positions

MOST = 4.0  # standard errors


class Seen(NamedTuple):
    """Sums over the supervised positions of a batch: losses in nats, and the variance of the drawn one."""

    positions: int
    drawn: float
    exact: float
    variance: float
    entropy: float  # of the teacher
    top: float  # a control: the loss with renormalised top-n targets
    moved: float  # a control: the loss with each position's draws given to the one before


class Witness(Objective):
    """Trains as `Cached` does, and keeps what it sees of the student and of the teacher in its place."""

    def __init__(self, store: TargetStore, teacher: Any) -> None:
        self.cached, self.teacher = Cached(store, alpha=0.0), teacher
        self.student_seen: list[Seen] = []
        self.teacher_seen: list[Seen] = []

    def loss(self, student: Any, batch: Batch, items: Tensor) -> Tensor:
        with torch.no_grad():
            self.student_seen.append(look(student, self.teacher, batch, self.cached.store))
            self.teacher_seen.append(look(self.teacher, self.teacher, batch, self.cached.store))
        return self.cached.loss(student, batch, items)


def look(student: Any, teacher: Any, batch: Batch, store: TargetStore) -> Seen:
    """Both losses of `student` over a batch, and the controls'."""
    ids, labels, settings = batch["input_ids"], batch["labels"], store.settings
    marked = supervised_positions(labels)
    log_s, log_p = (
        torch.log_softmax(model(input_ids=ids).logits[:, :-1][marked].double(), -1) for model in (student, teacher)
    )
    p = log_p.exp()
    exact = -(p * log_s).sum(1)

    def loss(targets: SparseTargets) -> float:
        return sampled_distillation_loss(
            student, targets, ids, None, labels, settings=settings, num_items_in_batch=1
        ).item()

    targets, top = store.targets(batch["rows"].tolist()), p.topk(settings.draws)
    return Seen(
        positions=len(p),
        drawn=loss(targets),
        exact=exact.sum().item(),
        variance=(((p * log_s**2).sum(1) - exact**2) / settings.draws).sum().item(),
        entropy=-(p * log_p).sum().item(),
        top=loss(SparseTargets(top.indices, (top.values / top.values.sum(1, keepdim=True)).float())),
        moved=loss(SparseTargets(*(part.roll(-1, 0) for part in targets))),
    )


def errors_away(seen: Sequence[Seen], name: str = "drawn") -> float:
    """How many standard errors of the drawn loss the loss of this name is above the exact one."""
    above = sum(one._asdict()[name] - one.exact for one in seen)
    return float(above / sum(one.variance for one in seen) ** 0.5)


def verdict(witness: Witness) -> dict[str, float]:
    """What is found, in standard errors; and the last step in nats a supervised token, as divergences."""
    last, teacher = witness.student_seen[-1], witness.teacher_seen
    return {
        "all_steps": errors_away(witness.student_seen),
        "last_step": errors_away([last]),
        "teacher": errors_away(teacher),
        "top": errors_away(teacher, "top"),
        "moved": errors_away(teacher, "moved"),
        "drawn_nats": (last.drawn - last.entropy) / last.positions,
        "exact_nats": (last.exact - last.entropy) / last.positions,
        "error_nats": last.variance**0.5 / last.positions,
        "entropy_nats": last.entropy / last.positions,
    }


def faults(found: dict[str, float]) -> list[str]:
    """What is wrong with a verdict: a loss that is off, or a control that is not caught."""
    losses = [name for name in ("all_steps", "last_step", "teacher") if not abs(found[name]) <= MOST]
    controls = [name for name in ("top", "moved") if not abs(found[name]) > MOST]
    return [f"{name}: {found[name]:.1f} standard errors from the exact loss" for name in losses + controls]
