"""Before anything goes: verdicts are said, secrets never pass, and a dry run lists all and asks nobody."""

import hashlib
import json
from pathlib import Path

import pytest
from hub_double import TOKEN, HubDouble, reach
from hub_runs import HubRun, rows

from posttrain.cli import main
from posttrain.errors import PosttrainError
from posttrain.hub.push import Pushed, push
from posttrain.hub.release import File, release_of
from posttrain.hub.scan import leaks

CANARY = "canary-7f3a91c2-of-this-environment"


@pytest.fixture
def run(tmp_path: Path) -> HubRun:
    made = HubRun(tmp_path)
    made.add("data", "generate", rows("One.", "Two.", "Three."), metrics={"rows": 2, "rows_held_out": 1, "counts": {}})
    return made


def dry(run: HubRun, step: str = "data", anyway: bool = False) -> tuple[Pushed, str]:
    said: list[str] = []
    release = release_of("tiny", run.store, step, "user/rows")
    return push(release, dry_run=True, anyway=anyway, say=said.append), "\n".join(said)


def test_a_dry_run_lists_what_goes_and_asks_nobody(
    run: HubRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = run.store.root.parent / "tiny.yaml"
    recipe.write_text("name: tiny\nsteps:\n  data: {kind: generate, rows: 40, test_size: 2}\n")
    command = ["push", str(recipe), "--store", str(run.store.root), "--step", "data", "--repo", "user/rows", "--json"]
    with HubDouble() as double:
        reach(double, monkeypatch)
        main([*command, "--dry-run"])
        listed = json.loads(capsys.readouterr().out)
        assert double.asked == [] and listed["url"] is None
        main(command)
        pushed = json.loads(capsys.readouterr().out)
        held = double.files("user/rows", "dataset")
        assert pushed["commit"] == double.commits("user/rows", "dataset")[-1].oid and pushed["new"]
    assert listed["files"] == pushed["files"]
    facts = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in held.items()}
    assert facts.pop(".gitattributes")
    assert {file["name"]: (file["bytes"], file["sha256"]) for file in listed["files"]} == facts
    assert facts.keys() == {"README.md", "posttrain.json", "test.jsonl", "train.jsonl"}
    assert not list(run.store.root.parent.glob(".push-*")), "nothing is left behind"


@pytest.mark.parametrize("verdict", ["FAIL", "JUDGE INVALID"])
def test_a_failed_gate_stops_a_push_unless_it_is_meant(run: HubRun, verdict: str) -> None:
    run.judge("data", verdict)
    recipe = run.store.root.parent / "tiny.yaml"
    recipe.write_text("name: tiny\nsteps:\n  data: {kind: generate, rows: 40, test_size: 2}\n")
    command = ["push", str(recipe), "--store", str(run.store.root), "--step", "data", "--repo", "user/rows"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--dry-run"])
    assert ended.value.code == 3
    _, said = dry(run, anyway=True)
    assert f"data.judge: {verdict}: so it is" in said


@pytest.mark.parametrize("verdict", ["PASS", "INCONCLUSIVE"])
def test_other_verdicts_are_said(run: HubRun, verdict: str) -> None:
    assert "no judge has closed it" in dry(run)[1]
    run.judge("data", verdict)
    assert f"data.judge: {verdict}: so it is" in dry(run)[1]


def test_personal_data_stops_a_push_unless_it_is_meant(run: HubRun) -> None:
    run.add("mail", "generate", rows("One.", "Two.", "Write to anna.smith@example.com today."))
    with pytest.raises(PosttrainError, match=r"train.jsonl, line 2: email .*--anyway") as found:
        dry(run, "mail")
    assert "anna.smith" not in str(found.value)
    assert "go all the same" in dry(run, "mail", anyway=True)[1]


def test_secrets_never_pass(run: HubRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SOME_API_KEY", CANARY)
    told = {
        "token": f"It is {TOKEN}.",
        "own": f"It is {CANARY}.",
        "key": "It is hf_abcdefghijklmnopqrstuvwxyzabcdefgh.",
    }
    for step, text in told.items():
        run.add(step, "generate", rows("One.", "Two.", text))
        with pytest.raises(PosttrainError, match=r"train.jsonl, line 2: .*secret replaced by its issuer") as found:
            dry(run, step, anyway=True)
        assert CANARY not in str(found.value) and TOKEN not in str(found.value)
    monkeypatch.delenv("SOME_API_KEY")
    assert dry(run, "own")[0].files, "a text that is nobody's secret passes"


def test_findings_in_weights_settings_and_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", CANARY)
    here = f"{Path.cwd()}/runs"
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\0\xff" * 4000 + CANARY.encode() + b"\0")
    (tmp_path / "empty.gguf").write_bytes(b"")
    files = [
        File("model.safetensors", weights),
        File("empty.gguf", tmp_path / "empty.gguf"),
        File("prefill.onnx", f"\0{here}/x\0".encode()),
        File("config.json", json.dumps({"a": [{"path": here}], "n": 0.123456789012}).encode()),
        File("README.md", b"# A card\n\nAsk anna@example.com.\n"),
        File("tokenizer.json", json.dumps({"vocab": {"anna@example.com": 1}}).encode()),
        File("rows.jsonl", b'{"text": "a\\u0040b.org \\u002f"}\n' + '{"text": "one\u2028two"}\n'.encode()),
    ]
    found = {(leak.file, leak.line, leak.kind) for leak in leaks(files)}
    assert found == {
        ("model.safetensors", None, "secret of this environment"),
        ("prefill.onnx", None, "path of this machine"),
        ("config.json", None, "path of this machine"),
        ("README.md", 3, "email"),
        ("rows.jsonl", 1, "email"),
    }
