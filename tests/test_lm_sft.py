"""Supervised fine-tuning: what a step computes, what an interruption leaves, what LoRA changes and saves."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import ROWS, STEADY, STOP, VOCABULARY, fit, llama, logits, some_rows, weights_hash, with_lora

from posttrain.errors import PosttrainError
from posttrain.lm.sft import SFTSettings, train
from posttrain.lm.supervised_trainer import LengthGroupedBatches, SupervisedTrainer
from posttrain.lm.token_row import TokenRow

torch.set_num_threads(1)


def stop_at(last: int) -> Callable[[int, int, dict[str, float]], None]:
    def on_step(step: int, steps: int, logs: dict[str, float]) -> None:
        if step == last:
            raise KeyboardInterrupt

    return on_step


# G1, G4: what is computed


def split(batch_size: int, accumulation: int, path: Path) -> list[float]:
    settings = SFTSettings(
        learning_rate=1e-2,
        batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        bf16=False,
        epochs=2,
    )
    return [loss for _, loss in fit(llama(), path / f"{batch_size}x{accumulation}", settings).loss_curve]


def test_splitting_a_batch_into_accumulation_steps_changes_no_loss(tmp_path: Path) -> None:
    whole = split(8, 1, tmp_path)
    for batch_size, accumulation in [(4, 2), (2, 4), (1, 8)]:
        residuals = [a - b for a, b in zip(split(batch_size, accumulation, tmp_path), whole, strict=True)]
        assert max(map(abs, residuals)) <= 1e-5
        assert abs(sum(residuals) / len(residuals)) <= 1e-6


def test_averaging_the_means_of_batches_would_change_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = split(8, 1, tmp_path)
    monkeypatch.setattr(SupervisedTrainer, "_get_num_items_in_batch", lambda self, samples, device: None)
    naive = [loss / 4 for loss in split(2, 4, tmp_path)]
    assert abs(naive[0] - whole[0]) > 1e-4


def test_eight_rows_are_learnt_and_come_back_verbatim_with_their_stop(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = []
    for i in range(8):
        prompt, answer = [1, 10 + i, 3], [rng.randrange(4, VOCABULARY) for _ in range(6 + i)]
        rows.append(TokenRow(str(i), [*prompt, *answer, STOP], [False] * 3 + [True] * (len(answer) + 1)))
    model, untrained = llama(), llama()
    settings = SFTSettings(learning_rate=1e-2, batch_size=8, bf16=False, epochs=80, save_every_steps=1000)
    result = fit(model, tmp_path, settings, rows)
    assert result.loss_curve[-1].loss < 0.05
    for row in rows:
        assert continued(model, row) == row.input_ids
    assert all(continued(untrained, row) != row.input_ids for row in rows)


def continued(model: Any, row: TokenRow) -> list[int]:
    model.eval()
    out = model.generate(torch.tensor([row.input_ids[:3]]), max_new_tokens=30, do_sample=False, pad_token_id=0)
    ids: list[int] = out[0].tolist()
    return ids


def test_the_result_counts_every_token_and_every_step(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = train(
        llama(),
        ROWS,
        settings=STEADY,
        checkpoint_dir=tmp_path,
        on_step=lambda step, steps, logs: seen.append((step, steps)),
    )
    assert seen == [(i, 10) for i in range(1, 11)] and [p.step for p in result.loss_curve] == list(range(1, 11))
    assert result.steps == 10 and result.seconds > 0
    assert result.tokens == 2 * sum(len(row.input_ids) for row in ROWS)
    assert result.supervised_tokens == 2 * sum(sum(row.supervised[1:]) for row in ROWS)


def test_training_leaves_no_patched_forward_no_pickled_arguments_and_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sent(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("telemetry")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", sent)
    monkeypatch.delenv("CI", raising=False)
    model = with_lora()
    fit(model, tmp_path, SFTSettings(learning_rate=2e-4, batch_size=4, save_every_steps=2, bf16=True))
    assert "forward" not in vars(model) and "forward" not in vars(model.get_base_model())
    assert logits(model).dtype == torch.float32
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    assert not list(tmp_path.rglob("training_args.bin"))
    assert capsys.readouterr().out == ""


def test_batches_hold_rows_of_like_length_and_depend_on_seed_and_epoch_alone() -> None:
    lengths = [len(row.input_ids) for row in some_rows(200)]
    sampler = LengthGroupedBatches(lengths, 8, seed=3)
    first = list(sampler)
    torch.rand(5)
    assert sorted(first) == list(range(200)) and first == list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(LengthGroupedBatches(lengths, 8, seed=4)) != first

    def padded(order: list[int]) -> int:
        batches = [[lengths[i] for i in order[start : start + 8]] for start in range(0, 200, 8)]
        return sum(max(batch) * len(batch) for batch in batches)

    assert padded(first) < 0.85 * padded(list(range(200)))


# Interruption


@pytest.mark.parametrize(
    "last",
    [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 8],
    ids=["before a checkpoint", "first epoch", "second epoch"],
)
@pytest.mark.parametrize(
    ("make", "bf16"),
    [(llama, False), (lambda: with_lora(lora_dropout=0.2), True)],
    ids=["full in fp32", "lora in bf16"],
)
def test_an_interrupted_run_ends_with_the_bytes_of_an_uninterrupted_one(
    make: Callable[[], Any], bf16: bool, last: int, tmp_path: Path
) -> None:
    whole, settings = make(), replace(STEADY, bf16=bf16)
    expected = fit(whole, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        train(make(), ROWS, settings=settings, checkpoint_dir=tmp_path / "c", on_step=stop_at(last))
    resumed, steps = make(), []
    result = train(
        resumed,
        ROWS,
        settings=settings,
        checkpoint_dir=tmp_path / "c",
        on_step=lambda step, total, logs: steps.append(step),
    )
    assert steps[0] == (last - 1) // 3 * 3 + 1
    assert weights_hash(resumed, tmp_path / "b") == weights_hash(whole, tmp_path / "a")
    assert result._replace(seconds=0) == expected._replace(seconds=0)


def test_another_seed_ends_with_other_bytes(tmp_path: Path) -> None:
    first, second = with_lora(lora_dropout=0.2), with_lora(lora_dropout=0.2)
    fit(first, tmp_path / "c1")
    fit(second, tmp_path / "c2", replace(STEADY, seed=1))
    assert weights_hash(first, tmp_path / "a") != weights_hash(second, tmp_path / "b")


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, second = llama(), llama()
    expected = fit(first, tmp_path / "c")
    assert fit(second, tmp_path / "c") == expected
    assert weights_hash(first, tmp_path / "a") == weights_hash(second, tmp_path / "b")


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
import test_lm_sft as t
from posttrain.lm.sft import train
place, number = sys.argv[1], int(sys.argv[2])
def die():
    os.kill(os.getpid(), signal.SIGKILL)
calls = [0]
def counted(real):
    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == number:
            die()
        return real(*args, **kwargs)
    return call
if place != "step":
    setattr(os, place, counted(getattr(os, place)))
model = t.with_lora(lora_dropout=0.2)
train(model, t.ROWS, settings=t.STEADY, checkpoint_dir=Path(sys.argv[3]),
      on_step=lambda step, steps, logs: die() if place == "step" and step == number else None)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number"),
    [("step", 5), ("step", 8), ("fsync", 4), ("replace", 1), ("replace", 4)],
    ids=["in epoch 1", "in epoch 2", "while saving", "before the rename", "before the oldest goes"],
)
def test_a_killed_process_continues_to_the_same_bytes(place: str, number: int, tmp_path: Path) -> None:
    whole, resumed = with_lora(lora_dropout=0.2), with_lora(lora_dropout=0.2)
    fit(whole, tmp_path / "whole")
    here = Path(__file__).parent
    code = CHILD.format(tests=str(here), root=str(here.parent))
    child = subprocess.run(
        [sys.executable, "-c", code, place, str(number), str(tmp_path / "c")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-2000:]
    fit(resumed, tmp_path / "c")
    assert weights_hash(resumed, tmp_path / "b") == weights_hash(whole, tmp_path / "a")
    assert not (tmp_path / "c" / "partial").exists()


# What is refused


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (TokenRow("a7", [3, 4], [False, True, True]), "row a7: 2 tokens and 3 mask values"),
        (TokenRow("a8", [3, 4, 5], [True, False, False]), "row a8: 0 of 3 tokens are supervised"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_named(row: TokenRow, said: str, tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match=said):
        fit(llama(), tmp_path, rows=[*ROWS, row])
    with pytest.raises(PosttrainError, match="0 rows"):
        fit(llama(), tmp_path, rows=[])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adam_beta3", "no such field.*Did you mean 'adam_beta"),
        ("learning_rate", "is set by sft itself"),
        ("packing", "no such field"),
    ],
)
def test_a_trainer_field_that_is_unknown_or_ours_is_refused(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match=said):
        fit(llama(), tmp_path, SFTSettings(learning_rate=2e-4, trainer={name: 1}))


def test_a_trainer_field_reaches_the_trainer(tmp_path: Path) -> None:
    plain, fields = llama(), {"max_steps": 3, "adam_beta1": 0.5}
    assert fit(plain, tmp_path, replace(STEADY, trainer=fields)).steps == 3


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    model = llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PosttrainError, match="step 1: the loss is nan"):
        fit(model, tmp_path)
