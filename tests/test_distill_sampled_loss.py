"""The loss against sparse targets has, on average, the gradient of forward KL; whole targets give exactly that."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny_llama
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.sampled_loss import sampled_distillation_loss
from posttrain.lm.distillation.sampled_targets import SparseTargets, TargetSettings, draw_targets, uniforms
from posttrain.lm.losses import IGNORED, supervised_cross_entropy

VOCABULARY, LENGTH = tiny_llama.VOCABULARY, 12
SETTINGS = TargetSettings(vocabulary=VOCABULARY)


def adapted(**kwargs: Any) -> Any:
    return get_peft_model(tiny_llama.llama(), LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM", **kwargs))


MODELS: dict[str, Callable[[], Any]] = {
    "tied": tiny_llama.llama,
    "untied": lambda: tiny_llama.llama(tied=False),
    "lora": lambda: adapted(target_modules="all-linear"),
    "lora on the head": lambda: adapted(target_modules=["q_proj", "lm_head"]),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def batch(rows: int = 3) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, VOCABULARY, (rows, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, : LENGTH // 2] = IGNORED
    return ids, labels


def teacher_logits(positions: int, size: int = VOCABULARY) -> Tensor:
    return torch.randn(positions, size, generator=torch.Generator().manual_seed(2)) * 2


def whole_targets(logits: Tensor, temperature: float) -> SparseTargets:
    """The teacher itself as sparse targets: every id, with its probability."""
    p = torch.softmax(logits[:, :VOCABULARY] / temperature, -1)
    return SparseTargets(torch.arange(VOCABULARY).expand(len(p), -1), p)


def sampled_targets(logits: Tensor, settings: TargetSettings, row: int = 0) -> SparseTargets:
    numbers = torch.from_numpy(uniforms(settings.seed, row, range(len(logits)), settings.draws))
    draws = draw_targets(logits, numbers, settings)
    return SparseTargets(draws.ids, draws.weights)


def plain_loss(model: Any, ids: Tensor, labels: Tensor, logits: Tensor, temperature: float, alpha: float) -> Tensor:
    """The same from full logits, by the formula: forward KL + the teacher's entropy, and cross entropy; summed."""
    positions = labels[:, 1:] != IGNORED
    student = model(input_ids=ids).logits[:, :-1][positions]
    p = torch.softmax(logits[:, :VOCABULARY] / temperature, -1)
    log_s = torch.log_softmax(student[:, :VOCABULARY] / temperature, -1)
    divergence = torch.nn.functional.kl_div(log_s, p, reduction="sum") - (p * p.log()).sum()
    hard = torch.nn.functional.cross_entropy(student, labels[:, 1:][positions], reduction="sum")
    return alpha * hard + (1 - alpha) * temperature**2 * divergence


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model: Any, ours: Tensor, plain: Tensor) -> None:
    wanted, found = gradients(model, plain), gradients(model, ours)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    assert found.keys() == wanted.keys() and found
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, atol=2e-6, rtol=1e-4, msg=name)


@every_model
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (1.0, 0.3), (2.0, 0.0), (2.0, 0.3)])
def test_whole_targets_give_forward_kl_plus_entropy_mixed_with_cross_entropy(
    make: Callable[[], Any], temperature: float, alpha: float
) -> None:
    model, (ids, labels) = make(), batch()
    logits = teacher_logits(18)
    settings = replace(SETTINGS, temperature=temperature)
    targets = whole_targets(logits, temperature)
    ours = sampled_distillation_loss(
        model, targets, ids, None, labels, settings=settings, alpha=alpha, num_items_in_batch=7, chunk=5
    )
    assert_same(model, ours, plain_loss(model, ids, labels, logits, temperature, alpha) / 7)


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (1.0, 0.3), (2.0, 0.3)])
def test_padded_head_rows_are_no_part_of_the_distillation(temperature: float, alpha: float) -> None:
    model, (ids, labels) = tiny_llama.llama(), batch()
    model.resize_token_embeddings(VOCABULARY + 6, mean_resizing=False)
    logits = teacher_logits(18, VOCABULARY + 9)
    targets, settings = whole_targets(logits, temperature), replace(SETTINGS, temperature=temperature)
    ours = sampled_distillation_loss(
        model, targets, ids, None, labels, settings=settings, alpha=alpha, num_items_in_batch=7
    )
    assert_same(model, ours, plain_loss(model, ids, labels, logits, temperature, alpha) / 7)
    padding = gradients(model, sampled_distillation_loss(model, targets, ids, None, labels, settings=settings))
    assert padding["model.embed_tokens.weight"][VOCABULARY:].abs().max() == 0


@pytest.mark.parametrize("cached", [1, 200, 1 << 18])
def test_the_pieces_that_stay_in_the_cache_change_nothing(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.lm.distillation.sampled_loss.IN_CACHE", cached)
    model, (ids, labels) = tiny_llama.llama(), batch()
    logits = teacher_logits(18)
    ours = sampled_distillation_loss(
        model, whole_targets(logits, 1.0), ids, None, labels, settings=SETTINGS, alpha=0.3, chunk=7
    )
    assert_same(model, ours, plain_loss(model, ids, labels, logits, 1.0, 0.3) / 18)


def direction(model: Any, targets: SparseTargets, copies: int, settings: TargetSettings) -> Tensor:
    """The gradient for all weights, flat, of the mean loss over copies of one row with these targets."""
    ids, labels = batch(1)
    loss = sampled_distillation_loss(
        model, targets, ids.expand(copies, -1), None, labels.expand(copies, -1), settings=settings
    )
    return torch.cat([grad.flatten() for grad in gradients(model, loss).values()]).double()


@pytest.mark.parametrize(("temperature", "proposal"), [(1.0, 1.0), (2.0, 0.8)])
def test_the_mean_gradient_is_that_of_forward_kl_and_that_of_top_k_is_not(temperature: float, proposal: float) -> None:
    model, logits, copies, groups = tiny_llama.llama(), teacher_logits(6), 50, 40
    settings = replace(SETTINGS, temperature=temperature, proposal=proposal)
    full = gradients(model, plain_loss(model, *batch(1), logits, temperature, 0.0) / 6)
    wanted = torch.cat([grad.flatten() for grad in full.values()]).double()
    many = logits.repeat(copies, 1)
    found = torch.stack(
        [direction(model, sampled_targets(many, settings, row), copies, settings) for row in range(groups)]
    )
    error = (found.var(0).sum() / groups).sqrt()  # of the whole mean vector
    off = (found.mean(0) - wanted).norm()
    assert 0.3 * error < off < 2 * error
    assert error < 0.05 * wanted.norm(), "enough draws to tell"

    top = torch.softmax(logits / temperature, -1).topk(settings.draws)
    renormalised = SparseTargets(top.indices, top.values / top.values.sum(1, keepdim=True))
    assert (direction(model, renormalised, 1, settings) - wanted).norm() > 5 * error


@pytest.mark.parametrize("temperature", [4.0, 8.0, 16.0])
def test_t_squared_keeps_the_size_of_the_gradient(temperature: float) -> None:
    model, logits = tiny_llama.llama(), teacher_logits(6) / 4
    logits = logits - logits.mean(1, keepdim=True)
    sizes = []
    for t in (temperature, 32.0):
        settings = replace(SETTINGS, temperature=t)
        sizes.append(direction(model, whole_targets(logits, t), 1, settings).norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert sizes[0] / temperature**2 > 2 * sizes[1] / 32.0**2, "without it, it falls"


def a_loss(ids: Tensor, labels: Tensor, targets: SparseTargets, model: Any = None, **kwargs: Any) -> float:
    model = model or tiny_llama.llama()
    loss: Tensor = sampled_distillation_loss(model, targets, ids, None, labels, settings=SETTINGS, alpha=0.4, **kwargs)
    return loss.item()


def test_padding_doubling_and_splitting_a_batch_change_nothing() -> None:
    ids, labels = batch()
    targets = sampled_targets(teacher_logits(18), SETTINGS)
    plain = a_loss(ids, labels, targets)
    pad = torch.nn.functional.pad
    assert a_loss(pad(ids, (0, 5)), pad(labels, (0, 5), value=IGNORED), targets) == pytest.approx(plain, abs=1e-6)
    twice = SparseTargets(*(part.repeat(2, 1) for part in targets))
    assert a_loss(ids.repeat(2, 1), labels.repeat(2, 1), twice) == pytest.approx(plain, abs=1e-6)
    parts = [
        a_loss(ids[row : row + 1], labels[row : row + 1], rows, num_items_in_batch=18)
        for row in range(3)
        for rows in [SparseTargets(*(part[6 * row : 6 * row + 6] for part in targets))]
    ]
    assert sum(parts) == pytest.approx(plain, abs=1e-6)
    assert sum(part * 3 for part in parts) != pytest.approx(plain, abs=1e-2), "a mean of each part counts thrice"


def test_targets_of_other_positions_give_another_loss() -> None:
    ids, labels = batch()
    targets = sampled_targets(teacher_logits(18), SETTINGS)
    moved = SparseTargets(*(part.roll(1, 0) for part in targets))
    assert abs(a_loss(ids, labels, targets) - a_loss(ids, labels, moved)) > 1e-3


def test_a_student_that_is_its_teacher_stands_still_on_average() -> None:
    model, (ids, labels) = tiny_llama.llama(), batch()
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1][labels[:, 1:] != IGNORED]
    for targets, still in ((whole_targets(logits, 1.0), True), (whole_targets(logits * 1.5, 1.0), False)):
        loss = sampled_distillation_loss(model, targets, ids, None, labels, settings=SETTINGS)
        largest = max(grad.abs().max().item() for grad in gradients(model, loss).values())
        assert (largest < 1e-6) is still


def test_label_mass_alone_is_the_cross_entropy_of_sft() -> None:
    model, (ids, labels) = tiny_llama.llama(), batch()
    wanted = labels[:, 1:][labels[:, 1:] != IGNORED]
    targets = SparseTargets(wanted[:, None], torch.ones(18, 1))
    ours = sampled_distillation_loss(model, targets, ids, None, labels, settings=SETTINGS)
    assert_same(model, ours, supervised_cross_entropy(model, ids, None, labels))


def test_empty_slots_change_nothing() -> None:
    ids, labels = batch()
    targets = sampled_targets(teacher_logits(18), SETTINGS)
    padded = SparseTargets(*(torch.nn.functional.pad(part, (0, 4)) for part in targets))
    assert a_loss(ids, labels, padded) == a_loss(ids, labels, targets)


def test_targets_of_another_batch_are_refused() -> None:
    ids, labels = batch()
    with pytest.raises(PosttrainError, match="cached targets: 17 positions for 18 supervised ones"):
        a_loss(ids, labels, sampled_targets(teacher_logits(17), SETTINGS))


def test_a_batch_without_supervision_is_refused() -> None:
    ids, labels = batch()
    with pytest.raises(PosttrainError, match="0 of 36 tokens are supervised"):
        a_loss(ids, torch.full_like(labels, IGNORED), sampled_targets(teacher_logits(18), SETTINGS))


@pytest.mark.parametrize("alpha", [-0.1, 1.0, float("nan")])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    ids, labels = batch()
    with pytest.raises(PosttrainError, match="0 to below 1 is allowed"):
        targets = sampled_targets(teacher_logits(18), SETTINGS)
        sampled_distillation_loss(tiny_llama.llama(), targets, ids, None, labels, settings=SETTINGS, alpha=alpha)


def test_bf16_autocast_stays_within_bf16_of_fp32() -> None:
    ids, labels = batch()
    targets = sampled_targets(teacher_logits(18), SETTINGS)
    exact = a_loss(ids, labels, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = a_loss(ids, labels, targets)
    assert 0 < abs(rounded - exact) < 0.02
