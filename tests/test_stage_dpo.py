"""The stage dpo on a tiny model: what it learns, writes and refuses, and what an interruption leaves."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from stage_context import checked, context, given, run
from transformers import AutoModelForCausalLM

from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages.dpo import FOR_BASE

WORDS = "sun moon rain wind snow leaf tree bird fish frog".split()


def preference(number: int, swapped: bool = False) -> Row:
    """The chosen answer is a sentence, the rejected one a word again and again."""
    one, other = WORDS[number % 10], WORDS[(number // 10 + number) % 10]
    good, bad = f"Once there was a {one} and a {other}.", f"{one} {one} {one} {other}"
    good, bad = (bad, good) if swapped else (good, bad)
    return {
        "id": f"p{number}",
        "prompt": [{"role": "user", "content": f"Tell me of the {one} and the {other}, number {number}."}],
        "chosen": [{"role": "assistant", "content": good}],
        "rejected": [{"role": "assistant", "content": bad}],
    }


def written(folder: Path, make: Any = preference, train: int = 64, test: int = 16) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", [make(number) for number in range(train)])
    write_rows(folder / "test.jsonl", [make(number) for number in range(train, train + test)])
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def tuned(tiny_chat_model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on the tiny model, chat tokens trained too, as sft makes it."""
    folder = tmp_path_factory.mktemp("tuned")
    rows = [{"id": row["id"], "messages": row["prompt"] + row["chosen"]} for row in read_rows(pairs / "train.jsonl")]
    for name in ("train", "test"):
        write_rows(folder / f"{name}.jsonl", rows)
    run("sft", context(folder, model=given(tiny_chat_model), data=given(folder)), model="m", data="d")
    return folder / "out"


def dpo(folder: Path, model: Path, data: Path, stop_after: int | None = None, **settings: Any) -> dict[str, Any]:
    ctx = context(folder, stop_after, model=given(model), data=given(data))
    return run("dpo", ctx, **{"model": "m", "data": "d", "learning_rate": 5e-3, "bf16": False, **settings})


@pytest.mark.parametrize("settings", [{}, pytest.param({"full": True}, marks=pytest.mark.slow)], ids=["lora", "full"])
def test_held_out_pairs_are_told_apart_and_swapped_labels_are_learnt_as_they_are(
    tuned: Path, pairs: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    made = dpo(tmp_path / "a", tuned, pairs, **settings)
    found = made["held_out_pairs"]
    assert found["margin"]["low"] > 0 and found["accuracy"]["mean"] > 0.9
    swapped = written(tmp_path / "swapped", lambda number: preference(number, swapped=number < 64))
    control = dpo(tmp_path / "b", tuned, swapped, max_chosen_drop=None, **settings)["held_out_pairs"]
    assert control["margin"]["high"] < 0  # held-out labels are the honest ones


def test_training_starts_at_the_model_that_the_step_was_given(tuned: Path, pairs: Path, tmp_path: Path) -> None:
    for name, settings in {"lora": {}, "full": {"full": True}}.items():
        curve = dpo(tmp_path / name, tuned, pairs, **settings)["loss_curve"]
        assert abs(curve[0][1] - math.log(2)) < 1e-5 and curve[-1][1] < 0.6


@torch.inference_mode()
def logits(base: Path, adapter: Path) -> torch.Tensor:
    """By transformers and peft alone, as anyone would load them."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found: torch.Tensor = PeftModel.from_pretrained(model, adapter).eval()(torch.arange(4, 68)[None]).logits
    return found


def test_one_adapter_for_the_sft_model_and_one_for_the_base_say_the_same(
    tiny_chat_model: Path, tuned: Path, pairs: Path, tmp_path: Path
) -> None:
    dpo(tmp_path, tuned, pairs, lora={"r": 4, "lora_alpha": 12, "use_rslora": True})
    out = tmp_path / "out"
    config = json.loads((out / FOR_BASE / "adapter_config.json").read_text())
    assert config["r"] == 16 + 4 and config["base_model_name_or_path"] == str(tiny_chat_model)
    found = logits(out / "base", out)
    assert (found - logits(tiny_chat_model, out / FOR_BASE)).abs().max() <= 1e-4
    assert (found - logits(tiny_chat_model, tuned)).abs().max() > 1e-2  # the control: sft alone is another model


APART = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel

def logits(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).eval()(torch.arange(4, 68)[None]).logits

with torch.inference_mode():
    first, *others = (logits(*pair.split("+")) for pair in sys.argv[1:])
    print(*(float((first - other).abs().max()) for other in others))
"""


@pytest.mark.slow
def test_so_they_do_in_a_fresh_process(tiny_chat_model: Path, tuned: Path, pairs: Path, tmp_path: Path) -> None:
    dpo(tmp_path, tuned, pairs, lora={"r": 4, "lora_alpha": 12, "use_rslora": True})
    out = tmp_path / "out"
    models = ((out / "base", out), (tiny_chat_model, out / FOR_BASE), (tiny_chat_model, tuned))
    named = [f"{base}+{adapter}" for base, adapter in models]
    done = subprocess.run([sys.executable, "-c", APART, *named], check=True, capture_output=True, text=True)
    same, other = map(float, done.stdout.split())
    assert same <= 1e-4 and other > 1e-2


def test_a_model_without_an_adapter_below_it_has_one_adapter(
    tiny_chat_model: Path, pairs: Path, tmp_path: Path
) -> None:
    dpo(tmp_path, tiny_chat_model, pairs)
    assert not (tmp_path / "out" / FOR_BASE).exists() and not (tmp_path / "out" / "base").exists()


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bytes(tuned: Path, tmp_path: Path) -> None:
    pairs = written(tmp_path / "pairs", test=2)
    dpo(tmp_path / "whole", tuned, pairs, save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        dpo(tmp_path / "cut", tuned, pairs, stop_after=5, save_steps=2)
    dpo(tmp_path / "cut", tuned, pairs, save_steps=2)
    whole, cut = (tmp_path / name / "out" / "adapter_model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    dpo(tmp_path / "other", tuned, pairs, seed=1)  # the control
    assert (tmp_path / "other" / "out" / "adapter_model.safetensors").read_bytes() != whole.read_bytes()


def test_answers_with_labels_are_for_kto_alone(tuned: Path, tmp_path: Path) -> None:
    def answer(number: int) -> Row:
        row, side = preference(number // 2), ("chosen", "rejected")[number % 2]
        return {"id": f"a{number}", "prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}

    data = written(tmp_path / "answers", answer)
    made = dpo(tmp_path / "kto", tuned, data, loss_type="kto")
    assert made["rows"] == 64 and made["held_out_pairs"] is None
    with pytest.raises(PosttrainError, match="rows are single answers with a label; kto"):
        dpo(tmp_path / "dpo", tuned, data)


def test_what_can_be_refused_is_refused_before_any_compute() -> None:
    for settings, problem in [
        ({"loss_type": "sigmod"}, "steps.x.loss_type: 'sigmod'; .* Did you mean sigmoid"),
        ({"loss_type": ["sigmoid", "kto"]}, "kto has a trainer of its own"),
        ({"loss_weights": [1.0, 2.0]}, "loss_weights: 2 values for 1 losses"),
        ({"simpo_gamma": 1.0}, "simpo_gamma: is set, and the loss sigmoid does not read it"),
        ({"trainer": {"learning_rat": 1}}, "no such field"),
    ]:
        with pytest.raises(PosttrainError, match=problem):
            checked("dpo", model="m", data="d", **settings)
    checked("dpo", model="m", data="d", loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5])  # the control
