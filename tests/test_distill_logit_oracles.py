"""What goes wrong silently in distillation is seen: reduction, direction, mask, teacher, padded heads."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from distill_pair import (
    LENGTH,
    ROWS,
    SETTINGS,
    VOCABULARY,
    Batch,
    Loss,
    assert_same,
    batch,
    gradients,
    llama,
    ours,
    pair,
    whole_logits,
)
from torch import Tensor, nn

from posttrain.lm.distillation.divergences import generalized_jsd
from posttrain.lm.distillation.logit_loss import LogitDistillation
from posttrain.lm.losses import IGNORED

torch.set_num_threads(1)


def of_rows(rows: Batch, chosen: slice) -> Batch:
    return Batch(rows.input_ids[chosen], rows.labels[chosen])


def assert_reduction_is_a_mean_over_supervised_tokens(loss: Loss) -> None:
    (student, teacher), rows = pair(), batch()
    rows.labels[0, :-2] = IGNORED  # unequal rows: a mean of means is another number
    settings = LogitDistillation(alpha=0.3)
    whole = loss(student, teacher, rows, settings).item()
    longer = Batch(*(nn.functional.pad(x, (0, 4), value=v) for x, v in zip(rows, (0, IGNORED), strict=True)))
    doubled = Batch(*(torch.cat([x, x]) for x in rows))
    for other in (longer, doubled):
        assert loss(student, teacher, other, settings).item() == pytest.approx(whole, abs=1e-6)
    items = int((rows.labels != IGNORED).sum())
    wanted = gradients(student, loss(student, teacher, rows, settings))
    for borders in ((0, 1, 3), (0, 2, 3), (0, 1, 2, 3)):
        parts = [
            loss(student, teacher, of_rows(rows, slice(*ends)), settings, num_items_in_batch=items)
            for ends in pairwise(borders)
        ]
        total = torch.stack(parts).sum()
        assert total.item() == pytest.approx(whole, abs=1e-6)
        got = gradients(student, total)
        assert all(torch.allclose(got[name], wanted[name], atol=1e-6) for name in wanted)


def test_padding_doubling_and_accumulation_leave_the_loss_and_the_gradient() -> None:
    assert_reduction_is_a_mean_over_supervised_tokens(ours)


def test_a_mean_of_means_and_a_mean_over_positions_are_seen() -> None:
    def mean_of_means(*args: Any, num_items_in_batch: int | None = None) -> Tensor:
        return ours(*args)

    def over_positions(student: Any, teacher: Any, rows: Batch, *args: Any, **kwargs: Any) -> Tensor:
        return ours(student, teacher, rows, *args, **{"num_items_in_batch": rows.labels.numel(), **kwargs})

    for broken in (mean_of_means, over_positions):
        with pytest.raises(AssertionError):
            assert_reduction_is_a_mean_over_supervised_tokens(broken)


def assert_a_teachers_double_learns_nothing(loss: Loss) -> None:
    teacher = llama(24, 1).eval()
    for settings in SETTINGS.values():
        student = deepcopy(teacher)
        value = loss(
            student, teacher, batch(), LogitDistillation(settings.divergence, temperature=settings.temperature)
        )
        assert abs(value.item()) <= 1e-6
        assert all(grad.abs().max() <= 1e-6 for grad in gradients(student, value).values())


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient() -> None:
    assert_a_teachers_double_learns_nothing(ours)


def test_a_student_that_differs_or_is_treated_otherwise_is_seen() -> None:
    def nudged(student: Any, *args: Any) -> Tensor:
        with torch.no_grad():
            student.model.embed_tokens.weight[3] += 0.1
        return ours(student, *args)

    with pytest.raises(AssertionError):
        assert_a_teachers_double_learns_nothing(nudged)
    with pytest.raises(AssertionError):
        assert_a_teachers_double_learns_nothing(lambda s, t, rows, kept: ours(s, t, rows, LogitDistillation(alpha=0.1)))


def assert_teacher_is_left_alone(loss: Loss) -> None:
    student, teacher = llama(16, 0), llama(24, 1).eval()  # its weights could be trained
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    optimizer = torch.optim.SGD([*student.parameters(), *teacher.parameters()], lr=0.1)
    for settings in SETTINGS.values():
        loss(student, teacher, batch(), settings).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None for p in teacher.parameters())
        assert all(p.grad is not None for p in student.parameters())
        optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not teacher.training


def test_the_teacher_gets_no_gradient_and_keeps_its_bytes() -> None:
    assert_teacher_is_left_alone(ours)


def test_a_teacher_inside_the_graph_is_seen() -> None:
    def joint(student: Any, teacher: Any, rows: Batch, settings: LogitDistillation) -> Tensor:
        logits, wanted = (model(input_ids=rows.input_ids).logits.flatten(0, 1) for model in (student, teacher))
        return generalized_jsd(teacher_logits=wanted, student_logits=logits, beta=settings.jsd_beta).mean()

    with pytest.raises(AssertionError):
        assert_teacher_is_left_alone(joint)


@contextmanager
def shaken(teacher: Any, row: int, position: int) -> Iterator[None]:
    """Other hidden states, so other logits, of the teacher at one position."""

    def shake(module: Any, args: Any, out: Any) -> Any:
        out.last_hidden_state[row, position] += torch.linspace(-1, 1, out.last_hidden_state.shape[-1])
        return out

    hook = teacher.model.register_forward_hook(shake)
    yield
    hook.remove()


def assert_only_supervised_positions_count(loss: Loss) -> None:
    (student, teacher), rows = pair(), batch()
    rows.labels[1, 8] = IGNORED  # a hole
    settings = LogitDistillation(alpha=0.2)
    still = loss(student, teacher, rows, settings).item()
    for row in range(ROWS):
        for position in range(LENGTH):
            with shaken(teacher, row, position):
                moved = loss(student, teacher, rows, settings).item()
            predicts = position + 1 < LENGTH and rows.labels[row, position + 1] != IGNORED
            assert abs(moved - still) > 1e-4 if predicts else moved == still


def test_the_teacher_is_heard_at_each_supervised_position_and_nowhere_else() -> None:
    assert_only_supervised_positions_count(ours)


def test_a_mask_that_is_not_shifted_or_not_there_is_seen() -> None:
    def unshifted(student: Any, teacher: Any, rows: Batch, *args: Any) -> Tensor:
        return ours(student, teacher, Batch(rows.input_ids, rows.labels.roll(1, dims=1)), *args)

    def unmasked(student: Any, teacher: Any, rows: Batch, *args: Any) -> Tensor:
        return ours(student, teacher, Batch(rows.input_ids, rows.input_ids), *args)

    for broken in (unshifted, unmasked):
        with pytest.raises(AssertionError):
            assert_only_supervised_positions_count(broken)


def assert_padded_rows_do_not_count(loss: Loss) -> None:
    """Rows of either head that belong to no token: what they hold changes neither loss nor gradients."""
    for settings in (LogitDistillation(), LogitDistillation("reverse_kl"), LogitDistillation("jsd", beta=0.4)):
        found = []
        for filling in (0.0, 3.0):
            student, teacher = pair(VOCABULARY + 5, VOCABULARY + 9)
            with torch.no_grad():
                for model in (student, teacher):
                    model.get_output_embeddings().weight[VOCABULARY:] = filling
            value = loss(student, teacher, batch(), settings)
            grads = gradients(student, value)
            found.append((value.item(), torch.cat([grad.flatten() for grad in grads.values()])))
        assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_heads_with_padded_rows_are_compared_on_real_ids_only() -> None:
    assert_padded_rows_do_not_count(ours)
    student, teacher = pair(VOCABULARY + 5, VOCABULARY + 9)
    for settings in SETTINGS.values():
        expected = whole_logits(student, teacher, batch(), settings)
        assert_same(student, expected, ours(student, teacher, batch(), settings, chunk=4))


def test_comparing_the_rows_that_both_heads_have_is_seen() -> None:
    with pytest.raises(AssertionError):
        assert_padded_rows_do_not_count(lambda *args: ours(*args, real_ids=VOCABULARY + 5))
