"""Preference training: what a step computes, against which reference, and what an interruption leaves."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_llama import llama, weights_hash
from tiny_preferences import DPO, PAIRS, moved, nothing, plain_lora, prefer, stop_at
from trl import DPOConfig, DPOTrainer

from posttrain.errors import PosttrainError
from posttrain.lm.supervised_trainer import _no_tokenizer

torch.set_num_threads(1)

LN2 = math.log(2)
PRECOMPUTED = replace(DPO, precompute_ref_log_probs=True)


# D1: where training starts


@pytest.mark.parametrize("settings", [DPO, PRECOMPUTED], ids=["on the fly", "precomputed"])
@pytest.mark.parametrize("make", [plain_lora, moved], ids=["new lora", "full, from a model in memory"])
def test_the_first_loss_is_ln_2_and_the_first_rewards_are_0(make: Any, settings: Any, tmp_path: Path) -> None:
    first = prefer(make(), tmp_path, settings).curve[0]
    assert abs(first.loss - LN2) <= 1e-6
    assert first.rewards_margin == pytest.approx(0, abs=1e-6) and first.chosen_drop == pytest.approx(0, abs=1e-6)


class PlainTRL(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer as it is, but for rows that are tokens already."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def test_trl_alone_would_take_its_reference_from_the_disk(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "before")
    model = moved()
    model.config._name_or_path = str(tmp_path / "before")
    names = {"prompt_ids": "prompt", "chosen_ids": "chosen", "rejected_ids": "rejected"}
    rows = Dataset.from_list([{ids: getattr(pair, name) for ids, name in names.items()} for pair in PAIRS])
    tokenizer = _no_tokenizer()
    tokenizer.pad_token = "[UNK]"
    args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_steps=1, logging_steps=1)
    trainer = PlainTRL(model, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    assert abs(trainer.state.log_history[0]["loss"] - LN2) > 1e-2


# What is learnt, and what is left behind


@pytest.mark.parametrize("make", [plain_lora, llama], ids=["lora", "full"])
def test_the_chosen_answers_win_and_the_model_is_the_callers_again(
    make: Callable[[], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("telemetry")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", sent)
    monkeypatch.delenv("CI", raising=False)
    model, seen = make(), []
    model.config.pad_token_id = model.generation_config.pad_token_id = 1
    names = list(model.state_dict())
    result = prefer(
        model, tmp_path, on_step=lambda step, steps, logs: seen.append((step, steps)), epochs=4, save_every_steps=3
    )
    last = result.curve[-1]
    assert last.rewards_accuracy == 1 and last.rewards_margin > 0.05 and last.loss < LN2 - 0.02
    assert seen == [(i, 12) for i in range(1, 13)] and result.steps == 12
    assert result.tokens == 4 * sum(2 * len(p.prompt) + len(p.chosen + p.rejected) for p in PAIRS)
    assert result.supervised_tokens == 4 * sum(len(p.chosen + p.rejected) for p in PAIRS)
    assert list(model.state_dict()) == names
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 1
    assert "forward" not in vars(model)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2 and not list(tmp_path.rglob("training_args.bin"))
    assert not (tmp_path / "README.md").exists()
    assert capsys.readouterr().out == ""


def test_splitting_a_batch_into_accumulation_steps_changes_no_loss(tmp_path: Path) -> None:
    whole = prefer(llama(), tmp_path / "whole").loss_curve
    split = prefer(llama(), tmp_path / "split", batch_size=2, gradient_accumulation_steps=2).loss_curve
    assert max(abs(a.loss - b.loss) for a, b in zip(whole, split, strict=True)) <= 1e-5
    other = prefer(llama(), tmp_path / "other", batch_size=2).loss_curve
    assert max(abs(a.loss - b.loss) for a, b in zip(whole, other, strict=False)) > 1e-4


# Interruption


@pytest.mark.parametrize(
    ("make", "settings", "bf16", "last"),
    [
        pytest.param(plain_lora, DPO, True, 5, id="lora in bf16"),
        pytest.param(llama, DPO, False, 5, id="full", marks=pytest.mark.slow),
        pytest.param(llama, PRECOMPUTED, False, 5, id="full, precomputed"),
        pytest.param(plain_lora, DPO, True, 2, id="lora in bf16, before a checkpoint", marks=pytest.mark.slow),
        pytest.param(llama, PRECOMPUTED, False, 2, id="full, before a checkpoint", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_with_the_bytes_of_an_uninterrupted_one(
    make: Callable[[], Any], settings: Any, bf16: bool, last: int, tmp_path: Path
) -> None:
    whole, resumed = make(), make()
    expected = prefer(whole, tmp_path / "whole", settings, bf16=bf16, save_every_steps=2)
    with pytest.raises(KeyboardInterrupt):
        prefer(make(), tmp_path / "c", settings, on_step=stop_at(last), bf16=bf16, save_every_steps=2)
    steps: list[int] = []
    result = prefer(
        resumed, tmp_path / "c", settings, on_step=lambda step, *_: steps.append(step), bf16=bf16, save_every_steps=2
    )
    assert steps[0] == (last - 1) // 2 * 2 + 1
    assert weights_hash(resumed, tmp_path / "b") == weights_hash(whole, tmp_path / "a")
    assert result._replace(seconds=0) == expected._replace(seconds=0)


def test_continuing_with_another_reference_would_end_with_other_bytes(tmp_path: Path) -> None:
    whole, other = llama(), moved()
    prefer(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prefer(llama(), tmp_path / "c", on_step=stop_at(5), save_every_steps=2)
    prefer(other, tmp_path / "c")
    assert weights_hash(other, tmp_path / "b") != weights_hash(whole, tmp_path / "a")


@pytest.mark.slow
def test_another_seed_sees_the_pairs_in_another_order(tmp_path: Path) -> None:
    first, second = llama(), llama()
    prefer(first, tmp_path / "c1")
    prefer(second, tmp_path / "c2", seed=1)
    assert weights_hash(first, tmp_path / "a") != weights_hash(second, tmp_path / "b")


# What is refused


def test_no_pairs_and_adapters_that_the_losses_would_not_see_are_refused(tmp_path: Path) -> None:
    from tiny_llama import with_lora

    with pytest.raises(PosttrainError, match="0 rows; at least one"):
        prefer(llama(), tmp_path, pairs=[])
    with pytest.raises(PosttrainError, match="its output head is adapted"):
        prefer(with_lora(), tmp_path)
    with pytest.raises(PosttrainError, match="none of its weights is trainable"):
        prefer(plain_lora().merge_and_unload(), tmp_path)
    two = plain_lora()
    two.add_adapter("second", two.peft_config["default"])
    with pytest.raises(PosttrainError, match="it has the adapters default, second; one fresh adapter"):
        prefer(two, tmp_path)


def test_a_trainer_field_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match=r"trainer\.adam_beta3: no such field"):
        prefer(llama(), tmp_path, trainer={"adam_beta3": 1})


# Killed


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
import test_preference_training as t
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
t.run_of(sys.argv[4], Path(sys.argv[3]), lambda step, *_: die() if place == "step" and step == number else None)
"""
KINDS = {
    "dpo-lora": (plain_lora, DPO),
    "dpo-precomputed": (llama, PRECOMPUTED),
    "kto": (llama, replace(DPO, loss_type=("kto",))),
    "simpo": (llama, replace(DPO, loss_type=("simpo",))),
}


def run_of(kind: str, path: Path, on_step: Any = nothing) -> Any:
    make, settings = KINDS[kind]
    model = make()
    prefer(model, path, settings, on_step=on_step, save_every_steps=2, epochs=3)
    return model


PLACES = [("step", 3), ("step", 5), ("fsync", 4), ("replace", 1), ("replace", 4)]  # of the second, the n-th call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "place", "number"),
    [*(("dpo-lora", *at) for at in PLACES), *((kind, *PLACES[1]) for kind in KINDS if kind != "dpo-lora")],
)
def test_a_killed_process_continues_to_the_same_bytes(kind: str, place: str, number: int, tmp_path: Path) -> None:
    here = Path(__file__).parent
    code = CHILD.format(tests=str(here), root=str(here.parent))
    child = subprocess.run(
        [sys.executable, "-c", code, place, str(number), str(tmp_path / "c"), kind],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-2000:]
    whole, resumed = run_of(kind, tmp_path / "whole"), run_of(kind, tmp_path / "c")
    assert weights_hash(resumed, tmp_path / "b") == weights_hash(whole, tmp_path / "a")
    assert not (tmp_path / "c" / "partial").exists()
