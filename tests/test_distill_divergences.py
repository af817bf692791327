"""Divergences equal hand-computed values, their gradients equal autograd's, and T² keeps the gradient's size."""

from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor

from posttrain.lm.distillation.divergences import (
    Divergence,
    divergence_and_gradient,
    forward_kl,
    generalized_jsd,
    reverse_kl,
)

torch.set_num_threads(1)
BETAS, TEMPERATURES = [0.0, 0.1, 0.5, 0.9, 1.0], [0.5, 1.0, 4.0]
P, Q = (1 / 2, 1 / 4, 1 / 4), (1 / 8, 1 / 8, 3 / 4)
FORWARD = 1 / 2 * log(4) + 1 / 4 * log(2) + 1 / 4 * log(1 / 3)
REVERSE = 1 / 8 * log(1 / 4) + 1 / 8 * log(1 / 2) + 3 / 4 * log(3)
HALF = (  # m = (5/16, 3/16, 1/2)
    1 / 2 * (1 / 2 * log(8 / 5) + 1 / 4 * log(4 / 3) + 1 / 4 * log(1 / 2))
    + 1 / 2 * (1 / 8 * log(2 / 5) + 1 / 8 * log(2 / 3) + 3 / 4 * log(3 / 2))
)
QUARTER = (  # beta = 1/4 of the teacher: m = (7/32, 5/32, 5/8)
    1 / 4 * (1 / 2 * log(16 / 7) + 1 / 4 * log(8 / 5) + 1 / 4 * log(2 / 5))
    + 3 / 4 * (1 / 8 * log(4 / 7) + 1 / 8 * log(4 / 5) + 3 / 4 * log(6 / 5))
)
BY_HAND = {0.0: FORWARD, 0.25: QUARTER, 0.5: HALF, 1.0: REVERSE}

Value = Callable[[Tensor, Tensor, float], Tensor]  # teacher's logits, student's logits, beta
Slope = Callable[[Tensor, Tensor, float, float], Divergence]  # and the temperature


def jsd(teacher: Tensor, student: Tensor, beta: float) -> Tensor:
    return generalized_jsd(teacher_logits=teacher, student_logits=student, beta=beta)


def closed_form(teacher: Tensor, student: Tensor, beta: float, temperature: float) -> Divergence:
    return divergence_and_gradient(teacher_logits=teacher, student_logits=student, beta=beta, temperature=temperature)


def logits(scale: float = 3.0, positions: int = 5, vocabulary: int = 11) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    teacher, student = scale * torch.randn(2, positions, vocabulary, generator=draw, dtype=torch.float64)
    return teacher, student


def assert_values_by_hand(value: Value) -> None:
    p, q = (torch.tensor([x], dtype=torch.float64).log() + 5 for x in (P, Q))  # the 5 must not matter
    for beta, expected in BY_HAND.items():
        assert value(p, q, beta).item() == pytest.approx(expected, abs=1e-12)


def test_values_equal_those_computed_by_hand() -> None:
    assert_values_by_hand(jsd)
    assert_values_by_hand(lambda p, q, beta: closed_form(p, q, beta, 1.0).nats)
    assert abs(FORWARD - REVERSE) > 0.02, "an asymmetric pair is needed to see the direction"


@pytest.mark.parametrize(
    "broken",
    [
        lambda p, q, beta: jsd(q, p, beta),  # teacher and student exchanged
        lambda p, q, beta: jsd(p, q, 1 - beta),  # beta read from the other end
        lambda p, q, beta: jsd(p, q, beta) / p.shape[-1],  # the mean over the vocabulary
    ],
)
def test_a_wrong_direction_or_reduction_is_seen(broken: Value) -> None:
    with pytest.raises(AssertionError):
        assert_values_by_hand(broken)


def test_the_two_kls_are_the_ends_of_the_jsd_and_its_slopes_there() -> None:
    teacher, student = logits(scale=1.0)
    forward, reverse = (kl(teacher_logits=teacher, student_logits=student) for kl in (forward_kl, reverse_kl))
    assert torch.equal(jsd(teacher, student, 0.0), forward)
    assert torch.equal(jsd(teacher, student, 1.0), reverse)
    small = 1e-7
    assert torch.allclose(jsd(teacher, student, small) / small, forward, rtol=1e-5)
    assert torch.allclose(jsd(teacher, student, 1 - small) / small, reverse, rtol=1e-5)
    assert not torch.allclose(jsd(teacher, student, small) / small, reverse, rtol=1e-1), "the other end's limit"
    assert jsd(teacher, student, small).max() < 1e-5, "the formula itself goes to zero, unlike the definition at 0"


def test_the_jensen_shannon_divergence_is_symmetric_and_below_ln_2() -> None:
    teacher, student = logits(scale=30.0)
    assert torch.allclose(jsd(teacher, student, 0.5), jsd(student, teacher, 0.5), rtol=1e-12)
    values = jsd(teacher, student, 0.5)
    assert values.min() > 0 and values.max() <= log(2) + 1e-12
    assert not torch.allclose(jsd(teacher, student, 0.4), jsd(student, teacher, 0.4), rtol=1e-2)


def assert_gradient_is_autograds(slope: Slope) -> None:
    teacher, student = logits()
    student.requires_grad_()
    for beta in BETAS:
        for temperature in TEMPERATURES:
            found = slope(teacher, student, beta, temperature)
            value = generalized_jsd(teacher_logits=teacher, student_logits=student, beta=beta, temperature=temperature)
            (wanted,) = torch.autograd.grad(value.sum(), student)
            torch.testing.assert_close(found.nats, value.detach(), atol=1e-12, rtol=1e-12)
            torch.testing.assert_close(found.gradient, wanted, atol=1e-12, rtol=1e-12)


def test_the_closed_form_gradient_is_that_of_autograd() -> None:
    assert_gradient_is_autograds(closed_form)


@pytest.mark.parametrize(
    "broken",
    [
        lambda p, q, beta, t: closed_form(p, q, beta, 1.0),  # no temperature
        lambda p, q, beta, t: closed_form(p, q, beta, t)._replace(gradient=closed_form(p, q, beta, t).gradient / t),
        lambda p, q, beta, t: closed_form(p, q, 0.0, t),  # q - p for every divergence
    ],
)
def test_a_wrong_gradient_is_seen(broken: Slope) -> None:
    with pytest.raises(AssertionError):
        assert_gradient_is_autograds(broken)


@pytest.mark.parametrize("beta", BETAS)
def test_autograd_of_the_divergence_is_its_finite_difference(beta: float) -> None:
    teacher, student = logits(scale=1.0, positions=2, vocabulary=4)
    assert torch.autograd.gradcheck(lambda s: jsd(teacher, s, beta), student.requires_grad_())


def assert_temperature_keeps_the_gradient(slope: Slope) -> None:
    """Zero-mean small logits: the norm changes by under 5 % from T = 4 to 32, and tends to (s - t)/V."""
    teacher, student = (x - x.mean(dim=-1, keepdim=True) for x in logits(scale=0.3, vocabulary=50))
    limits = {0.0: 1.0, 0.5: 0.25, 1.0: 1.0}  # a JSD's curvature is beta (1 - beta) of a KL's
    for beta, share in limits.items():
        norms = torch.tensor([slope(teacher, student, beta, t).gradient.norm() for t in (4.0, 8.0, 16.0, 32.0)])
        assert norms.max() / norms.min() < 1.05
        far = slope(teacher, student, beta, 1e5).gradient
        assert torch.allclose(far, share * (student - teacher) / 50, atol=1e-6)


def test_the_squared_temperature_keeps_the_gradient() -> None:
    assert_temperature_keeps_the_gradient(closed_form)


def test_without_the_squared_temperature_the_gradient_falls_with_it() -> None:
    def unscaled(p: Tensor, q: Tensor, beta: float, t: float) -> Divergence:
        return Divergence(*(part / t**2 for part in closed_form(p, q, beta, t)))

    with pytest.raises(AssertionError):
        assert_temperature_keeps_the_gradient(unscaled)
    teacher, student = (x - x.mean(dim=-1, keepdim=True) for x in logits(scale=0.3, vocabulary=50))
    near, far = (unscaled(teacher, student, 0.0, t).gradient.norm() for t in (8.0, 32.0))
    assert near / far == pytest.approx(16, rel=0.05)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_arithmetic_is_in_fp32_whatever_the_logits_are(beta: float) -> None:
    teacher, student = (x.bfloat16() for x in logits(vocabulary=200))
    found = closed_form(teacher, student, beta, 2.0)
    exact = closed_form(teacher.double(), student.double(), beta, 2.0)
    assert found.nats.dtype == found.gradient.dtype == torch.float32
    assert exact.nats.dtype == exact.gradient.dtype == torch.float64
    assert torch.allclose(found.nats.double(), exact.nats, atol=1e-5)
    assert torch.allclose(found.gradient.double(), exact.gradient, atol=1e-6)
    in_bf16 = (torch.log_softmax(x, dim=-1) for x in (teacher, student))
    p, q = (x.exp() for x in in_bf16)
    assert not torch.allclose((q - p).double(), closed_form(teacher, student, 0.0, 1.0).gradient.double(), atol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_probabilities_too_small_for_fp32_leave_numbers(beta: float) -> None:
    teacher, student = (x.float() for x in logits(scale=300.0))
    assert (teacher.softmax(dim=-1) * student.softmax(dim=-1)).min() == 0
    found, exact = closed_form(teacher, student, beta, 1.0), closed_form(teacher.double(), student.double(), beta, 1.0)
    torch.testing.assert_close(found.nats.double(), exact.nats, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.gradient.double(), exact.gradient, rtol=1e-4, atol=1e-5)
    naive = teacher.softmax(dim=-1).log() - student.softmax(dim=-1).log()
    assert not naive.isfinite().all(), "logarithms of probabilities would not do"


def assert_autocast_changes_nothing(value: Value) -> None:
    teacher, student = (x.float() for x in logits(vocabulary=200))
    for beta in BETAS:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = value(teacher, student, beta)
        assert torch.equal(rounded, value(teacher, student, beta))


def test_autocast_leaves_the_arithmetic_in_fp32() -> None:
    assert_autocast_changes_nothing(jsd)
    assert_autocast_changes_nothing(lambda p, q, beta: closed_form(p, q, beta, 2.0).nats)
    assert_autocast_changes_nothing(lambda p, q, beta: closed_form(p, q, beta, 2.0).gradient)


def test_a_product_that_autocast_rounds_is_seen() -> None:
    def as_product(p: Tensor, q: Tensor, beta: float) -> Tensor:
        log_p, log_q = (torch.log_softmax(x, dim=-1) for x in (p, q))
        nats: Tensor = torch.linalg.vecdot(log_p.exp(), log_p - log_q)
        return nats

    with pytest.raises(AssertionError):
        assert_autocast_changes_nothing(as_product)


@pytest.mark.parametrize("beta", BETAS)
def test_the_logits_handed_in_are_not_changed(beta: float) -> None:
    teacher, student = logits()
    before = teacher.clone(), student.clone()
    closed_form(teacher, student, beta, 1.0)
    assert torch.equal(teacher, before[0]) and torch.equal(student, before[1])


@pytest.mark.parametrize("beta", BETAS)
def test_equal_distributions_have_no_divergence_and_no_gradient(beta: float) -> None:
    teacher, _ = logits()
    same = closed_form(teacher, teacher + 2.0, beta, 3.0)
    assert same.nats.abs().max() <= 1e-12 and same.gradient.abs().max() <= 1e-12
    other = closed_form(teacher, 2.0 * teacher, beta, 3.0)
    assert other.nats.min() > 1e-3 and other.gradient.abs().max() > 1e-3
