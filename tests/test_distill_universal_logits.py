"""Universal logit distillation: what is compared where a student and its teacher have read the same text."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from two_tokenizers import ROWS, SIZES, STUDENT_CHAT, rows_of

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.cross_tokenizer import (
    AlignedBatch,
    RealIds,
    collate,
    sorted_distance,
)
from posttrain.lm.distillation.mixed_universal import mixed_universal_loss
from posttrain.lm.losses import IGNORED


def llama(vocabulary: int, seed: int = 0, size: int = 16, tied: bool = False) -> Any:
    torch.manual_seed(seed)
    shape = dict(hidden_size=size, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = LlamaConfig(**shape, vocab_size=vocabulary, tie_word_embeddings=tied, initializer_range=0.3)
    return LlamaForCausalLM(config).eval()


STUDENT, TEACHER = llama(SIZES.student), llama(SIZES.teacher, seed=1, size=32)
BATCH = collate(ROWS)


def distance(student: Any, teacher: Any, batch: AlignedBatch, count: int | None = None, **kwargs: Any) -> Tensor:
    """The loss without its cross entropy, with the aligned positions alone supervised."""
    wanted = torch.full_like(batch.student_ids, IGNORED)
    wanted[:, 1:][batch.student_positions] = batch.student_ids[:, 1:][batch.student_positions]
    kwargs = {"real_ids": SIZES, "num_items_in_batch": count, **kwargs}
    return mixed_universal_loss(student, teacher, batch.student_ids, wanted, batch, alpha=0.0, **kwargs)


def loss_of(batch: AlignedBatch = BATCH, student: Any = STUDENT, teacher: Any = TEACHER, **kwargs: Any) -> float:
    return distance(student, teacher, batch, **kwargs).item()


# what is compared there


def test_the_distance_is_what_a_hand_computes() -> None:
    logits = [torch.tensor([[0.2, 0.7, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()]
    for teacher, student in (logits, reversed(logits)):
        loss = sorted_distance(teacher_logits=teacher, student_logits=student).loss.item()
        assert loss == pytest.approx(0.2 + 0.3 + 0.1, abs=1e-6)


@pytest.mark.parametrize("sizes", [(7, 7), (5, 9), (9, 5)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_loss_and_slope_are_those_of_the_formula(sizes: tuple[int, int], temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(6, size, dtype=torch.float64, requires_grad=True) for size in sizes)
    width = max(sizes)
    tops = []
    for logits in (student, teacher):
        ranked = torch.softmax(logits / temperature, -1).sort(-1, descending=True).values
        tops.append(torch.cat([ranked, torch.zeros(6, width - ranked.shape[1], dtype=torch.float64)], 1))
    expected = (tops[0] - tops[1]).abs().sum()
    (slope,) = torch.autograd.grad(expected, student)
    found = sorted_distance(teacher_logits=teacher, student_logits=student, temperature=temperature)
    assert found.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(found.slope, slope, atol=1e-12)
    other = sorted_distance(teacher_logits=teacher, student_logits=student, temperature=temperature + 1)
    assert not torch.allclose(other.slope, slope, atol=1e-3)


def unsorted_distance(student: Tensor, teacher: Tensor) -> float:
    width = min(student.shape[1], teacher.shape[1])
    p, q = (torch.softmax(logits, -1)[:, :width] for logits in (student, teacher))
    return float((p - q).abs().sum())


def test_the_order_of_the_teachers_vocabulary_does_not_matter() -> None:
    exchanged = llama(SIZES.teacher, seed=1, size=32)
    order = torch.randperm(SIZES.teacher, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exchanged.lm_head.weight.copy_(TEACHER.lm_head.weight[order])
    assert loss_of(teacher=exchanged) == pytest.approx(loss_of(), rel=1e-6)
    student, teacher = torch.randn(4, 6), torch.randn(4, 8)
    assert abs(unsorted_distance(student, teacher) - unsorted_distance(student, teacher.flip(1))) > 1e-3
    with torch.no_grad():
        exchanged.lm_head.weight.mul_(0.5)
    assert abs(loss_of(teacher=exchanged) - loss_of()) > 1e-2, "another distribution does matter"


def test_padded_rows_of_a_head_are_not_compared() -> None:
    wider = [llama(SIZES.student + 9), llama(SIZES.teacher + 7, seed=1, size=32)]
    for wide, narrow in zip(wider, (STUDENT, TEACHER), strict=True):
        state = {
            k: v if v.shape == narrow.state_dict()[k].shape else narrow.state_dict()[k]
            for k, v in wide.state_dict().items()
        }
        with torch.no_grad():
            for name, weight in wide.named_parameters():
                weight[: len(state[name])] = narrow.state_dict()[name]
    assert loss_of(student=wider[0], teacher=wider[1]) == pytest.approx(loss_of(), rel=1e-6)
    unaware = RealIds(SIZES.student + 9, SIZES.teacher + 7)
    assert abs(loss_of(student=wider[0], teacher=wider[1], real_ids=unaware) - loss_of()) > 1e-4
    loss = distance(wider[0], wider[1], BATCH)
    loss.backward()  # type: ignore[no-untyped-call]
    grad = wider[0].lm_head.weight.grad
    assert not grad[SIZES.student :].any() and grad[: SIZES.student].any()


# K3: the reduction


def test_padding_a_doubled_batch_chunks_and_splits_change_nothing() -> None:
    whole, count = loss_of(), int(BATCH.student_positions.sum())
    wide = [nn.functional.pad(tensor, (0, 5)) for tensor in BATCH]
    assert loss_of(AlignedBatch(*wide)) == pytest.approx(whole, abs=1e-6)
    assert loss_of(collate([*ROWS, *ROWS])) == pytest.approx(whole, abs=1e-6)
    assert loss_of(chunk=7) == pytest.approx(whole, abs=1e-6)
    split = sum(loss_of(collate([row]), count=count) for row in ROWS)
    assert split == pytest.approx(whole, abs=1e-6)
    assert abs(sum(loss_of(collate([row])) for row in ROWS) / len(ROWS) - whole) > 1e-4, "a mean of means"


# K4: nothing to learn from oneself


@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradient_are_zero_where_models_and_tokenizers_are_one(tied: bool) -> None:
    batch = collate(rows_of(teacher=STUDENT_CHAT))
    sizes = RealIds(SIZES.student, SIZES.student)
    student, teacher = llama(SIZES.student, tied=tied), llama(SIZES.student, tied=tied)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    loss = distance(student, teacher, batch, real_ids=sizes)
    loss.backward()  # type: ignore[no-untyped-call]
    grads = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert loss.item() == 0 and grads and not any(grad.any() for grad in grads)
    other = llama(SIZES.student, seed=5, tied=tied)
    distance(other, teacher, batch, real_ids=sizes).backward()  # type: ignore[no-untyped-call]
    assert loss_of(batch, other, teacher, real_ids=sizes) > 0.1
    assert all(weight.grad is not None and weight.grad.any() for weight in other.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_student_comes_closer() -> None:
    student = llama(SIZES.student)
    rates, losses = torch.optim.Adam(student.parameters(), lr=3e-3), []
    for _ in range(15):
        loss = distance(student, TEACHER, BATCH)
        loss.backward()  # type: ignore[no-untyped-call]
        rates.step()
        rates.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# K5: which positions count


class disturbed:
    """Adds to a decoder's last hidden state at one position while the block runs."""

    def __init__(self, model: Any, row: int, position: int, size: float) -> None:
        def disturb(module: nn.Module, args: Any, output: Any) -> Any:
            output.last_hidden_state[row, position] += torch.linspace(-size, size, output.last_hidden_state.shape[-1])
            return output

        self.handle = model.model.register_forward_hook(disturb)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_positions_that_are_not_aligned_take_no_part_and_each_aligned_one_does(side: str) -> None:
    model = STUDENT if side == "student" else TEACHER
    positions = BATCH.student_positions if side == "student" else BATCH.teacher_positions
    with torch.no_grad():
        expected = loss_of()
        for row in range(len(positions)):
            for i, aligned in enumerate(positions[row].tolist()):
                with disturbed(model, row, i, 1.0 if aligned else float("nan")):
                    assert (loss_of() == expected) == (not aligned)


# errors


def test_a_teacher_in_training_is_refused() -> None:
    with pytest.raises(PosttrainError, match="teacher: it is in training mode"):
        loss_of(teacher=llama(SIZES.teacher).train())
