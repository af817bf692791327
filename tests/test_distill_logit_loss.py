"""Online logit distillation has the loss and gradients of whole logits, at supervised positions and nowhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.divergences import generalized_jsd
from posttrain.lm.distillation.logit_loss import LogitDistillation, logit_distillation_loss
from posttrain.lm.losses import IGNORED, supervised_cross_entropy

torch.set_num_threads(1)
VOCABULARY, LENGTH, ROWS = 40, 12, 3
SUPERVISED = ROWS * (LENGTH // 2)
SETTINGS = {
    "forward KL": LogitDistillation(),
    "reverse KL, T": LogitDistillation("reverse_kl", temperature=2.0),
    "JSD, T, cross entropy": LogitDistillation("jsd", beta=0.3, temperature=3.0, alpha=0.4),
    "forward KL, cross entropy": LogitDistillation(alpha=0.7),
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())


class Batch(NamedTuple):
    input_ids: Tensor
    labels: Tensor


Loss = Callable[..., Tensor]  # student, teacher, batch, settings; items and real_ids by name


def llama(size: int, seed: int, rows: int = VOCABULARY, tied: bool = True) -> Any:
    set_seed(seed)
    shape = dict(hidden_size=size, intermediate_size=2 * size, num_hidden_layers=2, num_attention_heads=2)
    config = LlamaConfig(**shape, vocab_size=rows, tie_word_embeddings=tied, initializer_range=0.3)
    return LlamaForCausalLM(config)


def pair(rows: int = VOCABULARY, teacher_rows: int = VOCABULARY) -> tuple[Any, Any]:
    """Small weights agree on nothing but uniform; these are large enough to disagree."""
    return llama(16, 0, rows), llama(24, 1, teacher_rows).eval().requires_grad_(False)


def batch() -> Batch:
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, : LENGTH // 2] = IGNORED
    return Batch(ids, labels)


def ours(student: Any, teacher: Any, batch: Batch, settings: LogitDistillation, **kwargs: Any) -> Tensor:
    return logit_distillation_loss(
        student, teacher, batch.input_ids, None, batch.labels, settings=settings, **{"real_ids": VOCABULARY, **kwargs}
    )


def whole_logits(
    student: Any,
    teacher: Any,
    batch: Batch,
    settings: LogitDistillation,
    num_items_in_batch: int | None = None,
    real_ids: int = VOCABULARY,
) -> Tensor:
    """The same loss, written naively."""
    mask = batch.labels[:, 1:] != IGNORED
    targets = batch.labels[:, 1:][mask]
    logits, wanted = (model(input_ids=batch.input_ids).logits[:, :-1][mask] for model in (student, teacher))
    divergence = generalized_jsd(
        teacher_logits=wanted[:, :real_ids].detach(),
        student_logits=logits[:, :real_ids],
        beta=settings.jsd_beta,
        temperature=settings.temperature,
    ).sum()
    likelihood = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    total = settings.alpha * likelihood + (1 - settings.alpha) * divergence
    return total / (num_items_in_batch or len(targets))


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(student: Any, expected: Tensor, found: Tensor) -> None:
    wanted, got = gradients(student, expected), gradients(student, found)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6, rel=1e-6)
    assert got.keys() == wanted.keys() and got
    for name, grad in wanted.items():
        torch.testing.assert_close(got[name], grad, atol=1e-6, rtol=1e-5, msg=name)


@every_setting
@pytest.mark.parametrize("chunk", [1, 7, SUPERVISED, SUPERVISED + 1])
def test_loss_and_gradients_are_those_of_whole_logits(settings: LogitDistillation, chunk: int) -> None:
    (student, teacher), rows = pair(), batch()
    expected = whole_logits(student, teacher, rows, settings, 7)
    assert expected.item() > 0.1
    assert_same(student, expected, ours(student, teacher, rows, settings, num_items_in_batch=7, chunk=chunk))


@every_setting
def test_the_comparison_with_whole_logits_sees_another_loss(settings: LogitDistillation) -> None:
    (student, teacher), rows = pair(), batch()
    moved = Batch(rows.input_ids, rows.labels.roll(1, dims=1))
    colder = LogitDistillation(settings.divergence, settings.beta, settings.temperature * 1.01, settings.alpha)
    for wrong in (ours(student, teacher, moved, settings), ours(student, teacher, rows, colder)):
        with pytest.raises(AssertionError):
            assert_same(student, whole_logits(student, teacher, rows, settings), wrong)


@every_setting
@pytest.mark.parametrize("at_once", [1, 3 * VOCABULARY, 1 << 18])
def test_how_many_rows_are_scored_together_changes_nothing(
    settings: LogitDistillation, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.lm.distillation.logit_loss.IN_CACHE", at_once)
    (student, teacher), rows = pair(), batch()
    assert_same(student, whole_logits(student, teacher, rows, settings), ours(student, teacher, rows, settings))


@pytest.mark.parametrize(
    "make",
    [
        lambda: llama(16, 0, tied=False),
        lambda: get_peft_model(llama(16, 0), LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear")),
        lambda: get_peft_model(llama(16, 0), LoraConfig(r=2, init_lora_weights=False, target_modules=["lm_head"])),
    ],
    ids=["untied", "lora", "lora on the head"],
)
def test_every_kind_of_student_learns(make: Callable[[], Any]) -> None:
    student, (_, teacher), rows = make(), pair(), batch()
    settings = SETTINGS["JSD, T, cross entropy"]
    assert_same(student, whole_logits(student, teacher, rows, settings), ours(student, teacher, rows, settings))


class HeadCalls(NamedTuple):
    rows: list[int]


@contextmanager
def watched(model: Any) -> Iterator[HeadCalls]:
    calls = HeadCalls([])
    hook = model.get_output_embeddings().register_forward_hook(
        lambda module, args, out: calls.rows.append(out.numel() // out.shape[-1])
    )
    yield calls
    hook.remove()


def assert_no_logit_is_made_twice_or_for_nothing(loss: Loss) -> None:
    (student, teacher), rows = pair(), batch()
    with watched(student) as one, watched(teacher) as other:
        gradients(student, loss(student, teacher, rows, LogitDistillation(alpha=0.5)))
    for calls in (one, other):
        assert sum(calls.rows) == SUPERVISED and max(calls.rows) <= 5


def test_no_logit_is_made_twice_and_only_a_chunk_lives_at_a_time() -> None:
    assert_no_logit_is_made_twice_or_for_nothing(lambda *args: ours(*args, chunk=5))
    with pytest.raises(AssertionError):
        assert_no_logit_is_made_twice_or_for_nothing(whole_logits)


@pytest.mark.parametrize(("beta", "name"), [(0.0, "forward_kl"), (1.0, "reverse_kl"), (0.3, "jsd")])
def test_at_temperature_1_the_loss_is_trls_generalized_jsd(beta: float, name: Any) -> None:
    from trl.experimental.gkd import GKDTrainer

    (student, teacher), rows = pair(), batch()
    theirs = GKDTrainer.generalized_jsd_loss(
        student(input_ids=rows.input_ids).logits[:, :-1],
        teacher(input_ids=rows.input_ids).logits[:, :-1],
        rows.labels[:, 1:],
        beta=beta,
    )
    assert_same(student, theirs, ours(student, teacher, rows, LogitDistillation(name, beta=beta)))
    warm = ours(student, teacher, rows, LogitDistillation(name, beta=beta, temperature=2.0))
    assert abs(warm.item() - theirs.item()) > 1e-3


def test_alpha_mixes_the_cross_entropy_of_sft_and_the_divergence() -> None:
    (student, teacher), rows = pair(), batch()
    likelihood = supervised_cross_entropy(student, rows.input_ids, None, rows.labels).item()
    divergence = ours(student, teacher, rows, LogitDistillation(temperature=2.0)).item()
    for alpha in (0.2, 0.9):
        mixed = ours(student, teacher, rows, LogitDistillation(temperature=2.0, alpha=alpha)).item()
        assert mixed == pytest.approx(alpha * likelihood + (1 - alpha) * divergence, abs=1e-6)
        assert abs(mixed - ((1 - alpha) * likelihood + alpha * divergence)) > 1e-3


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


def test_bf16_autocast_stays_within_bf16_of_fp32() -> None:
    (student, teacher), rows = pair(), batch()
    for settings in SETTINGS.values():
        exact = ours(student, teacher, rows, settings)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = ours(student, teacher, rows, settings, chunk=4)
        wanted, found = gradients(student, exact), gradients(student, rounded)
        assert 0 < abs(rounded.item() - exact.item()) < 0.03 * exact.item()
        size = max(grad.abs().max() for grad in wanted.values())
        assert all((found[name] - wanted[name]).abs().max() < 0.05 * size for name in wanted)


def test_a_teacher_in_bf16_teaches_a_student_in_fp32() -> None:
    (student, teacher), rows = pair(), batch()
    exact = ours(student, teacher, rows, LogitDistillation()).item()
    rounded = ours(student, teacher.bfloat16(), rows, LogitDistillation()).item()
    assert 0 < abs(rounded - exact) < 0.03 * exact


def test_a_head_with_fewer_rows_than_tokens_is_refused() -> None:
    with pytest.raises(PosttrainError, match="student: its output head has 39 rows for 40 tokens"):
        ours(*pair(rows=VOCABULARY - 1), Batch(batch().input_ids % 39, batch().labels), LogitDistillation())
    with pytest.raises(PosttrainError, match="teacher: its output head has 39 rows for 40 tokens"):
        ours(*pair(teacher_rows=39), Batch(batch().input_ids % 39, batch().labels), LogitDistillation())


def test_a_teacher_in_training_mode_and_a_batch_without_supervision_are_refused() -> None:
    student, teacher = pair()
    nothing = Batch(batch().input_ids, torch.full_like(batch().labels, IGNORED))
    with pytest.raises(PosttrainError, match="0 of 36 tokens are supervised"):
        ours(student, teacher, nothing, LogitDistillation())
    with pytest.raises(PosttrainError, match="teacher: it is in training mode"):
        ours(student, teacher.train(), batch(), LogitDistillation())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"divergence": "kl"}, "divergence: 'kl'"),
        ({"beta": 1.1}, "beta: 1.1"),
        ({"temperature": 0.0}, "temperature: 0.0"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"alpha": 1.0}, "alpha: 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(PosttrainError, match=message):
        LogitDistillation(**wrong)
