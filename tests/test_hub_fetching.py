"""`posttrain fetch` against the loopback hub: all of a recipe, once, and then a run without the network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED
from hub_double import Fault, HubDouble

PROJECT = Path(__file__).resolve().parents[1]
RECIPE = """
name: hub
steps:
  base: {kind: base, model: some/model}
  twin: {kind: base, model: some/model}
  data: {kind: data, source: some/rows, split: train_sft, test_size: 2}
  sft: {kind: sft, model: base, data: data, lora: {r: 2}, per_device_train_batch_size: 2, bf16: false, max_dropped: 0.5}
"""
CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train_sft, path: data/train_sft-*}
  - {split: test_sft, path: data/test_sft-*}
---
Rows.
"""


def rows(count: int, mark: str = "") -> str:
    talks = [
        [{"role": "user", "content": f"Tell {mark}{n}."}, {"role": "assistant", "content": f"Once, {n}."}]
        for n in range(count)
    ]
    return "".join(json.dumps({"messages": talk, "source": "people"}) + "\n" for talk in talks)


def data_set(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / ".gitattributes").write_text("")
    (folder / "data" / "train_sft-00000.jsonl").write_text(rows(12))
    (folder / "data" / "test_sft-00000.jsonl").write_text(rows(5, "held "))
    return folder


def posttrain(home: Path, *arguments: str, endpoint: str = "http://127.0.0.1:9", **more: str) -> tuple[int, str]:
    """The command with a hub of its own, its exit code and all that it printed; not offline unless told."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "posttrain", *arguments, "--store", str(home / "store")]
    answer = subprocess.run(
        command, cwd=PROJECT, env=environment | more, capture_output=True, text=True, timeout=300, check=False
    )
    return answer.returncode, answer.stdout + answer.stderr


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "hub.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.mark.slow
def test_what_is_fetched_once_runs_without_the_network(tiny_chat_model: Path, tmp_path: Path, recipe: str) -> None:
    with HubDouble() as double:
        double.add("some/model", tiny_chat_model)
        double.add("some/rows", data_set(tmp_path / "rows"), "dataset")
        code, said = posttrain(tmp_path / "home", "fetch", recipe, endpoint=double.endpoint)
        assert code == 0, said
        assert said.count("some/model@") == 1 and "MB to fetch" in said and "datasets/some/rows@" in said
        assert "(train_sft)" in said and "HF_HUB_OFFLINE=1 posttrain run hub" in said
        assert not any("test_sft" in path for path in double.asked), "of a data set only the split that is wanted"
        sent = len(double.requests)
        code, said = posttrain(tmp_path / "home", "fetch", recipe, endpoint=double.endpoint)
        assert code == 0 and said.count("here already") == 2 and "0.0 MB of it new" in said
        assert not any(r.method == "GET" and "/resolve/" in r.path for r in double.requests[sent:])
    code, said = posttrain(tmp_path / "home", "run", recipe, "--until", "data", HF_HUB_OFFLINE="1")
    assert code == 0 and "10 rows of some/rows" in said
    code, said = posttrain(
        tmp_path / "other", "fetch", recipe, HF_HUB_OFFLINE="1"
    )  # negative control: nothing is there
    assert code == 2 and "HF_HUB_OFFLINE is set" in said and "posttrain fetch" in said


@pytest.mark.slow
def test_stories260k_and_real_stories_under_other_names(stories260k: Path, tmp_path: Path) -> None:
    stories = SHARED / "data" / "tinystories" / "train.jsonl"
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories" / "train.jsonl").write_bytes(stories.read_bytes())
    (tmp_path / "stories" / ".gitattributes").write_text("")
    (tmp_path / "hub.yaml").write_text(
        RECIPE.replace("split: train_sft, test_size: 2", "backtranslate: true, rows: 120, test_size: 10")
    )
    with HubDouble() as double:
        commits = double.add("some/model", stories260k), double.add("some/rows", tmp_path / "stories", "dataset")
        code, said = posttrain(tmp_path, "fetch", str(tmp_path / "hub.yaml"), endpoint=double.endpoint)
    assert code == 0 and all(commit[:12] in said for commit in commits), said
    code, said = posttrain(tmp_path, "fetch", str(tmp_path / "hub.yaml"), HF_HUB_OFFLINE="1")
    assert code == 0 and said.count("here already") == 2
    code, said = posttrain(tmp_path, "run", str(tmp_path / "hub.yaml"), HF_HUB_OFFLINE="1")
    assert code == 0, said
    records = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("*-*/artifact.json")]
    identities = {value["identity"] for record in records for value in record["inputs"].values()}
    assert {f"hub:some/model@{commits[0]}", f"hub:datasets/some/rows@{commits[1]}"} <= identities


@pytest.mark.slow
def test_no_room_is_said_before_anything_is_fetched(tiny_chat_model: Path, tmp_path: Path, recipe: str) -> None:
    with HubDouble() as double:
        double.add("some/model", tiny_chat_model)
        double.add("some/rows", data_set(tmp_path / "rows"), "dataset")
        full = "import shutil, collections\nU = collections.namedtuple('U', 'total used free')\n"
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "sitecustomize.py").write_text(f"{full}shutil.disk_usage = lambda path: U(9, 9, 0)\n")
        code, said = posttrain(
            tmp_path / "home", "fetch", recipe, endpoint=double.endpoint, PYTHONPATH=str(tmp_path / "full")
        )
    assert code == 2 and "some/model: no space left in" in said and "set HF_HOME" in said and "MB to come" in said
    assert not any(r.method == "GET" and "/resolve/" in r.path and "config" not in r.path for r in double.requests)


@pytest.mark.slow
def test_a_repository_of_pickles_is_refused_by_name(tiny_chat_model: Path, tmp_path: Path, recipe: str) -> None:
    (tmp_path / "old").mkdir()
    for file in tiny_chat_model.iterdir():
        name = file.name.replace("model.safetensors", "pytorch_model.bin")
        (tmp_path / "old" / name).write_bytes(file.read_bytes())
    with HubDouble() as double:
        double.add("some/model", tmp_path / "old")
        double.add("some/rows", data_set(tmp_path / "rows"), "dataset")
        for command in ("fetch", "run"):
            code, said = posttrain(tmp_path / "home", command, recipe, endpoint=double.endpoint)
            assert code == 2 and "some/model: its weights are pickles (pytorch_model.bin)" in said
            assert "safetensors/convert" in said and "some/model@refs/pr/1" in said
        assert not any("pytorch_model" in path for path in double.asked)


@pytest.mark.slow
def test_a_hub_that_fails_in_the_middle_is_said_plainly(tiny_chat_model: Path, tmp_path: Path, recipe: str) -> None:
    with HubDouble() as double:
        double.add("some/model", tiny_chat_model)
        double.add("some/rows", data_set(tmp_path / "rows"), "dataset")
        double.faults.append(Fault("model.safetensors", status=403))
        code, said = posttrain(tmp_path / "home", "fetch", recipe, endpoint=double.endpoint)
        assert code == 2 and "your token may not read it (403)" in said, said
        code, said = posttrain(tmp_path / "home", "fetch", recipe, endpoint=double.endpoint)
        assert code == 0, "and the next one gets the rest"
