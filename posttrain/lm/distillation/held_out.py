"""How far a student is from its teacher on held-out answers: the figure that distillation is about."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from posttrain.lm.distillation.divergences import forward_kl
from posttrain.lm.losses import CHUNK, causal_parts, hidden_at
from posttrain.lm.token_row import TokenRow


def row_divergence(
    student: Any,
    teacher: Any,
    rows: Sequence[TokenRow],
    real_ids: int,
    batch_size: int = 16,
    report: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """KL(teacher ‖ student) in nats a supervised token of each row, in the order of `rows`, at temperature 1.

    Over the first `real_ids` ids, in the models' own precision; both are put in eval mode. `report` is told how many
    rows are done. It is the part of the row's expected cross entropy that the student could still lose to its teacher.
    """
    order = sorted(range(len(rows)), key=lambda at: len(rows[at].input_ids))
    result = [0.0] * len(rows)
    student.eval()
    teacher.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for at, nats in zip(chosen, _means(student, teacher, [rows[at] for at in chosen], real_ids), strict=True):
                result[at] = nats
            report(start + len(chosen))
    return result


def _means(student: Any, teacher: Any, rows: Sequence[TokenRow], real_ids: int) -> list[float]:
    """The mean of each row of one batch."""
    ids = pad_sequence([torch.tensor(row.input_ids) for row in rows], batch_first=True).to(student.device)
    supervised = pad_sequence([torch.tensor(row.supervised) for row in rows], batch_first=True).to(student.device)
    positions = supervised[:, 1:]
    ours, theirs = (hidden_at(model, ids, None, positions) for model in (student, teacher))
    heads = causal_parts(student).head, causal_parts(teacher).head
    nats = torch.cat(
        [
            forward_kl(
                teacher_logits=heads[1](theirs[at : at + CHUNK])[:, :real_ids],
                student_logits=heads[0](ours[at : at + CHUNK])[:, :real_ids],
            )
            for at in range(0, len(ours), CHUNK)
        ]
    )
    counts: list[int] = positions.sum(1).tolist()
    return [float(part.mean()) for part in torch.split(nats, counts)]
