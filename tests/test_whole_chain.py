"""Whole chains with real parts: a chain killed again and again ends with the bytes of one never killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
TINY = """
name: tiny
seed: 7
judge: {prompts: eval/prompts/tinystories.jsonl, limit: 8, samples: 1, max_new_tokens: 40}
gate: {on_fail: warn}
steps:
  base:
    kind: base
    architecture: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}
    tokenizer: {vocab_size: 600, documents: 300}
    corpus: {documents: 600}
    training: {steps: 150, batch_size: 2, sequence_length: 64, checkpoint_every: 10}
  generate: {kind: generate, rows: 300, test_size: 10}
  sft: {kind: sft, model: base, data: generate, lora: {r: 4}, save_steps: 4}
"""


def start(recipe: Path, store: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "posttrain", "run", str(recipe), "--store", str(store), "--json"]
    return subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(recipe: Path, store: Path) -> dict[str, object]:
    process = start(recipe, store)
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()
    return dict(json.loads(out))


def files_of(store: Path) -> dict[str, dict[str, str]]:
    return {path.parent.name: json.loads(path.read_text())["files"] for path in store.glob("*-*/artifact.json")}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.mark.slow
def test_a_chain_killed_again_and_again_ends_with_the_same_bytes(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs" / "store"  # one place for both: an adapter names the directory of its base
    started = time.monotonic()
    finish(recipe, store)
    took = time.monotonic() - started
    whole = files_of(store)
    shutil.rmtree(store)
    rng = random.Random(1)
    kills = 0
    for _ in range(8):
        process = start(recipe, store)
        try:
            process.communicate(timeout=rng.uniform(0.3, 0.6) * took)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    assert kills >= 2
    finish(recipe, store)
    assert files_of(store) == whole


@pytest.mark.slow
def test_the_second_run_makes_nothing(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = finish(recipe, store)
    second = finish(recipe, store)
    assert [step["cached"] for step in first["steps"]] == [False] * 3  # type: ignore[attr-defined]
    assert [step["cached"] for step in second["steps"]] == [True] * 3  # type: ignore[attr-defined]
    identities = [[step["identity"] for step in run["steps"]] for run in (first, second)]  # type: ignore[attr-defined]
    assert identities[0] == identities[1]


@pytest.mark.slow
def test_a_real_model_learns_to_stop(stories260k: Path, tmp_path: Path) -> None:
    corpus = stories260k.parents[1] / "data" / "tinystories" / "train.jsonl"
    command = [
        *(sys.executable, "-m", "posttrain", "run", "instruct", "--until", "sft", "--json"),
        *("--store", str(tmp_path / "store"), "--set", f"base.model={stories260k}"),
        *("--set", "generate.generator=backtranslate", "--set", f"generate.source={corpus}"),
        *("--set", "generate.rows=2500", "--set", "judge.limit=20", "--set", "judge.samples=1"),
    ]
    answer = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900)
    assert answer.returncode in (0, 3), answer.stderr
    entries = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("s*-*/artifact.json")]
    held = next(entry["metrics"]["held_out_nll"] for entry in entries if entry["kind"] == "sft")
    assert held["change"]["high"] < 0
    stopped = sorted(entry["metrics"]["stopped"] for entry in entries if entry["kind"] == "samples")
    assert stopped[0] == 0 and stopped[-1] > 0.6
