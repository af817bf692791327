"""Online logit distillation has the loss and gradients of whole logits, for every divergence and kind of student."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from distill_pair import (
    SETTINGS,
    SUPERVISED,
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
from peft import LoraConfig, get_peft_model

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.logit_loss import LogitDistillation
from posttrain.lm.losses import IGNORED, supervised_cross_entropy

torch.set_num_threads(1)
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())


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
def test_at_temperature_1_the_loss_is_trls_generalized_jsd(
    beta: float, name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
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


def test_bf16_autocast_stays_within_bf16_of_fp32() -> None:
    (student, teacher), rows = pair(), batch()
    for settings in SETTINGS.values():
        exact = ours(student, teacher, rows, settings)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = ours(student, teacher, rows, settings, chunk=4)
            naive = whole_logits(student, teacher, rows, settings)
        assert rounded.item() == pytest.approx(naive.item(), rel=1e-6), "only the models are rounded, the loss is not"
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
