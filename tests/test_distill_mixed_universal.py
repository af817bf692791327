"""Cross entropy and universal logit distillation in one pass: the sum of the two, and nothing twice."""

from typing import Any

import pytest
import torch
from test_distill_universal_logits import STUDENT, TEACHER, llama
from torch import Tensor
from two_tokenizers import ROWS, SIZES

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.cross_tokenizer import AlignedBatch, collate
from posttrain.lm.distillation.mixed_universal import check_head, mixed_universal_loss
from posttrain.lm.losses import IGNORED, supervised_cross_entropy

ALIGNED = collate(ROWS)


def labels() -> Tensor:
    """Everything from the first aligned token on: some supervised tokens have no partner."""
    found = torch.full_like(ALIGNED.student_ids, IGNORED)
    for at, row in enumerate(ROWS):
        found[at, row.student_tokens[0] : len(row.student_ids)] = torch.tensor(row.student_ids)[row.student_tokens[0] :]
    return found


LABELS = labels()


def mixed(alpha: float, student: Any = STUDENT, aligned: AlignedBatch = ALIGNED, **kwargs: Any) -> Tensor:
    ids, wanted = (
        torch.nn.functional.pad(part, (0, 5), value=pad) for part, pad in ((ALIGNED.student_ids, 0), (LABELS, IGNORED))
    )
    return mixed_universal_loss(student, TEACHER, ids, wanted, aligned, real_ids=SIZES, alpha=alpha, **kwargs)


def apart(alpha: float, student: Any, temperature: float) -> Tensor:
    count = (LABELS[:, 1:] != IGNORED).sum()
    likelihood = supervised_cross_entropy(student, ALIGNED.student_ids, None, LABELS, count)
    with torch.no_grad():
        taught = TEACHER(ALIGNED.teacher_ids).logits[:, :-1][ALIGNED.teacher_positions]
    said = student(ALIGNED.student_ids).logits[:, :-1][ALIGNED.student_positions][:, : SIZES.student]
    q, p = (torch.softmax(part / temperature, -1).sort(-1, descending=True).values for part in (said, taught))
    width = max(q.shape[1], p.shape[1])
    q, p = (torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (q, p))
    distance = (q - p).abs().sum() / count
    return alpha * likelihood + (1 - alpha) * distance


@pytest.mark.parametrize("chunk", [1, 7, 512])
@pytest.mark.parametrize("padded", [0, 9])
def test_loss_and_gradients_are_those_of_the_two_apart(chunk: int, padded: int) -> None:
    student = llama(SIZES.student + padded, tied=True)
    expected = apart(0.3, student, 2.0)
    wanted = torch.autograd.grad(expected, list(student.parameters()))
    found = mixed(0.3, student, temperature=2.0, chunk=chunk)
    got = torch.autograd.grad(found, list(student.parameters()))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert abs(mixed(0.6, student, temperature=2.0).item() - expected.item()) > 1e-3


def test_some_supervised_positions_have_no_partner_here() -> None:
    assert 0 < int(ALIGNED.student_positions.sum()) < int((LABELS != IGNORED).sum())


def test_an_aligned_position_that_is_not_supervised_is_refused() -> None:
    others = collate(ROWS[::-1])
    with pytest.raises(PosttrainError, match="aligned and not supervised"):
        mixed(0.5, aligned=others)


def test_a_teacher_in_training_mode_is_refused() -> None:
    TEACHER.train()
    with pytest.raises(PosttrainError, match=r"teacher\.eval"):
        mixed(0.5)
    TEACHER.eval()


def test_a_head_without_a_row_for_every_token_is_refused() -> None:
    check_head("student", STUDENT, SIZES.student)
    with pytest.raises(
        PosttrainError, match=f"student: its output head has {SIZES.student} rows for {SIZES.student + 1}"
    ):
        check_head("student", STUDENT, SIZES.student + 1)
