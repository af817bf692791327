"""Hub ids: the real client against a loopback double; offline and missing models are clear errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_double import COMMIT, TOKEN, Fault, HubDouble, hub

CODE = """
import sys
from pathlib import Path
from posttrain.chain.stage import Input
from posttrain.errors import PosttrainError
from posttrain.hub.fetch import local_directory, resolve_revision
for reference in sys.argv[1:]:
    try:
        commit = resolve_revision(reference)
        name = reference.split("@")[0]
        path = local_directory(Input(Path(name), f"hub:{name}@{commit}", reference))
        print(commit, *sorted(file.name for file in path.iterdir()))
    except PosttrainError as error:
        print("error:", error)
"""


def fetch(references: str, endpoint: str, home: Path, offline: bool = False, **more: str) -> str:
    """What becomes of references, one or some with spaces between them: a line each."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    command = [sys.executable, "-c", CODE, *references.split()]
    answer = subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_a_hub_id_becomes_a_commit_and_a_directory_without_pickles(tiny_chat_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    for file in tiny_chat_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    with hub("some/model", folder) as (endpoint, asked):
        commit, *names = fetch("some/model@main", endpoint, tmp_path / "home").split()
        assert commit == COMMIT
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
        assert "pytorch_model.bin" not in names
        assert not any(path.endswith(".bin") for path in asked)
    again = fetch("some/model@main", endpoint, tmp_path / "home", offline=True)
    assert again.split()[0] == COMMIT, "what was fetched once works offline"


def test_a_missing_or_unreachable_model_is_a_clear_error(tiny_chat_model: Path, tmp_path: Path) -> None:
    with hub("some/model", tiny_chat_model) as (endpoint, _):
        answer = fetch("no/such-model", endpoint, tmp_path / "home")
    assert answer.startswith("error: no/such-model: no step and no directory")
    assert "Check the spelling" in answer
    offline = fetch("no/such-model", endpoint, tmp_path / "home", offline=True)
    assert "cannot be reached" in offline


def test_a_data_set_becomes_a_commit_and_a_directory_of_rows_alone(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    for name in (".gitattributes", "train.jsonl", "test.parquet", "README.md", "loader.py", "old.bin"):
        (folder / name).write_text("{}\n")
    with hub("datasets/some/prefs", folder) as (endpoint, asked):
        commit, *names = fetch("datasets/some/prefs@main", endpoint, tmp_path / "home").split()
    assert commit == COMMIT and set(names) == {".gitattributes", "train.jsonl", "test.parquet", "README.md"}
    assert not any(path.endswith((".py", ".bin")) for path in asked), "code and pickles are never fetched"
    again = fetch("datasets/some/prefs@main", endpoint, tmp_path / "home", offline=True)
    assert again.split()[0] == COMMIT, "what was fetched once works offline"
    assert "is not in the local cache" in fetch("some/prefs@main", endpoint, tmp_path / "home", offline=True)


def test_what_may_not_be_had_says_the_way_to_it(tiny_chat_model: Path, tmp_path: Path) -> None:
    secret = "hf_somebodyelsestokenthatisold"
    with HubDouble() as double:
        for name, how in (("open", {}), ("gated", {"gated": True}), ("closed", {"private": True})):
            double.add(f"user/{name}", tiny_chat_model, **how)
        names = "user/gated user/closed user/open@no-such"
        gated, closed, revision = fetch(names, double.endpoint, tmp_path).splitlines()
        token = fetch("user/open", double.endpoint, tmp_path, HF_TOKEN=secret)
        assert "user/gated: gated, its authors ask you to accept their terms first. Accept them at " in gated
        assert f"{double.endpoint}/user/gated while logged in" in gated and "hf auth login" in gated
        assert "the hub gives no such model" in closed and "hf auth login" in closed
        assert "does not accept your token (401)" in token and "unset HF_TOKEN" in token and secret not in token
        assert "no such revision" in revision and "/user/open/commits/main" in revision
        allowed = fetch("user/gated user/closed", double.endpoint, tmp_path, HF_TOKEN=TOKEN)  # negative control
        commits = [double.commits(f"user/{name}")[-1].oid for name in ("gated", "closed")]
        assert [line.split()[0] for line in allowed.splitlines()] == commits


FULL = """
import errno, huggingface_hub.file_download as download
def full(*_, **__): raise OSError(errno.ENOSPC, "No space left on device")
download.http_get = full
"""


@pytest.mark.slow
def test_a_hub_in_trouble_and_a_full_disk_are_said_plainly(tiny_chat_model: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "sitecustomize.py").write_text(FULL)
    with HubDouble() as double:
        double.add("user/open", tiny_chat_model)
        full = fetch("user/open", double.endpoint, tmp_path / "a", PYTHONPATH=str(tmp_path / "full"))
        double.faults.append(Fault("/resolve/", status=503, times=100))
        ill = fetch("user/open", double.endpoint, tmp_path / "b")
    away = fetch("user/open", "http://127.0.0.1:9", tmp_path / "c")
    assert f"no space left in {tmp_path / 'a' / 'hub'}. Make room there, or set HF_HOME" in full
    assert all("the hub cannot be reached" in text and "run the same command again" in text for text in (ill, away))
