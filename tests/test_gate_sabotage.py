"""A stage that does its work wrong fails its gate, end to end: SFT on answers shuffled among the prompts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]
RECIPE = """
name: sabotaged
seed: 7
judge: {prompts: eval/prompts/tinystories.jsonl, samples: 1, max_new_tokens: 250}
steps:
  base: {kind: base, model: models/storyteller-1m}
  generate: {kind: generate, rows: 1500, test_size: 60}
  sft: {kind: sft, model: base, data: generate}
"""
PREFERENCES = """\
  asked: {kind: generate, rows: 500, skip: 2000}
  pairs: {kind: pairs, model: sft, prompts: asked, axis: instruct, sampling: {max_new_tokens: 250}, test_size: 20}
  dpo:
    kind: dpo
    model: sft
    data: pairs
    learning_rate: 5e-4
    num_train_epochs: 3
    max_chosen_drop: null
    gate: {on_fail: keep_previous}
  more: {kind: sft, model: dpo, data: asked, trainer: {max_steps: 2}, gate: {on_fail: warn}}
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sabotage") / "sabotaged.yaml"
    path.write_text(RECIPE)
    return path


def run(sabotaged: str, recipe: Path, *overrides: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code, the judges' metrics by step, and what was said; what is alike is made once for all tests."""
    options = [part for override in overrides for part in ("--set", override)]
    program = Path(__file__).with_name("sabotaged_stages.py")
    command = [sys.executable, str(program), sabotaged, "run", str(recipe), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT)}
    answer = subprocess.run(
        [*command, "--store", str(recipe.parent / "runs/store"), "--json"],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert answer.returncode in (0, 3), answer.stderr
    return answer.returncode, {step["name"]: step for step in json.loads(answer.stdout)["steps"]}, answer.stderr


def failed(step: dict[str, Any]) -> list[str]:
    return [check["name"] for check in step["judge"]["checks"] if check["ok"] is False and check["hard"]]


def test_the_same_recipe_with_nothing_wrong_passes(recipe: Path) -> None:
    code, steps, _ = run("none", recipe)
    assert code == 0 and [step["judge"]["verdict"] for step in steps.values()] == ["BASELINE", "PASS", "PASS"]
    assert failed(steps["sft"]) == [] and all(step["kept"] is None for step in steps.values())


def test_shuffled_rows_fail_where_they_are_made(recipe: Path) -> None:
    code, steps, said = run("generate", recipe)
    assert code == 3 and [*steps] == ["base", "generate"]
    assert steps["generate"]["judge"]["verdict"] == "FAIL" and failed(steps["generate"]) == ["answers fit prompts"]
    assert "generate: the gate says FAIL: not left to the judge: training answers use" in said


def test_a_model_that_was_trained_on_shuffled_rows_fails_too(recipe: Path) -> None:
    """Whatever it learnt: two steps of training do."""
    code, steps, _ = run("generate", recipe, "generate.gate.on_fail=warn", "sft.trainer.max_steps=2")
    assert code == 3 and "answers fit prompts" in failed(steps["sft"])


def test_a_trainer_that_shuffles_good_rows_itself_fails(recipe: Path) -> None:
    """No row is wrong, the loss falls, and answers are likelier than before: only their prompts no longer matter."""
    code, steps, said = run("sft", recipe)
    assert code == 3 and steps["sft"]["judge"]["verdict"] == "FAIL"
    assert steps["generate"]["judge"]["verdict"] == "PASS" and failed(steps["sft"]) == ["own prompts"]
    assert steps["sft"]["judge"]["changes"]["instruct"]["low"] < 0  # the judge would not have passed it either
    held = steps["sft"]["metrics"]["held_out_nll"]
    assert held["change"]["high"] < 0 and "own prompts worth" in said


def test_the_earlier_model_is_handed_on_in_its_place(recipe: Path) -> None:
    code, steps, said = run("sft", recipe, "sft.gate.on_fail=keep_previous")
    assert code == 0 and steps["sft"]["kept"] == "base" and steps["sft"]["judge"]["verdict"] == "FAIL"
    assert "The model of base is handed on in its place (gate: on_fail: keep_previous)." in said


def test_preferences_turned_round_fail_and_the_model_before_is_kept(recipe: Path) -> None:
    path = recipe.with_name("preferences.yaml")
    path.write_text(recipe.read_text() + PREFERENCES)
    code, steps, said = run("pairs", path)
    assert code == 0 and steps["dpo"]["judge"]["verdict"] == "FAIL" and steps["dpo"]["kept"] == "sft"
    assert steps["dpo"]["judge"]["changes"]["instruct"]["high"] < 0
    assert steps["more"]["instead"] == {"model": {"named": "dpo", "used": "sft"}}
    assert "The model of sft is handed on in its place" in said
