"""The command line: exit codes, JSON shapes, plain errors, and how little it imports. No torch."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import FAKES, no_wait, the_store, write_recipe

from posttrain.chain.paths import PROJECT
from posttrain.cli import main

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "matplotlib", "jinja2")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command with fake stages; returns exit code, output, errors."""
    table = types.ModuleType("posttrain.stages")
    table.STAGES = FAKES  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "posttrain.stages", table)
    monkeypatch.setattr(os, "fsync", no_wait)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main([*arguments, "--store", str(the_store(tmp_path))])
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def imported_by(*arguments: str) -> set[str]:
    """Top-level packages that a command imports, in a process of its own."""
    code = (
        "import sys; from posttrain.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "finally: print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=PROJECT, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    for arguments in (["--help"], ["run", "--help"], ["chat", "--help"], ["serve", "--help"], ["--version"]):
        assert not imported_by(*arguments) & {*HEAVY, "pydantic", "rich", "yaml", "huggingface_hub"}


def test_a_plan_imports_no_torch(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    planned = imported_by("plan", "tinystories", "--set", f"base.model={tmp_path / 'model'}", "--store", str(tmp_path))
    assert not planned & set(HEAVY)
    assert "pydantic" in planned  # negative control: the check sees what is imported
    assert not imported_by("schema") & set(HEAVY)
    remote = imported_by("plan", "smoke", "--set", "judge.judge=openai:m", "--store", str(tmp_path))
    assert not remote & {*HEAVY, "openai", "httpx"}  # what would be asked is counted, and nobody is asked


def test_calibration_imports_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"prompt": "p", "a": "x", "b": "y", "votes": ["a"]}\n')
    assert not imported_by("calibrate", "--judge", "rule", "--labels", str(path)) & {*HEAVY, "openai"}


def test_the_report_has_the_documented_shape(tmp_path: Path, cli: Any) -> None:
    path = str(write_recipe(tmp_path))
    code, out, _ = cli("run", path, "--json")
    first = json.loads(out)
    assert code == 0
    code, out, _ = cli("report", path, "--json")
    report = json.loads(out)
    assert code == 0 and report == first
    assert report.keys() == {"recipe", "steps"} and report["recipe"] == "fake"
    assert [step["name"] for step in report["steps"]] == ["base", "rows", "sft"]
    for step in report["steps"]:
        assert step.keys() == {"name", "kind", "identity", "cached", "seconds", "metrics", "judge", "kept", "instead"}
        assert isinstance(step["cached"], bool) and isinstance(step["seconds"], float) and len(step["identity"]) == 64
        assert step["judge"].keys() >= {"axes", "n_scored", "n_asked", "verdict"}
        assert step["judge"]["axes"]["instruct"].keys() == {"score", "low", "high"}
    assert not any(step["cached"] for step in report["steps"])
    assert all(step["cached"] for step in json.loads(cli("run", path, "--json")[1])["steps"])
    unjudged = json.loads(cli("run", path, "--json", "--set", "judge=")[1])
    assert [step["judge"] for step in unjudged["steps"]] == [None] * 3
    assert (tmp_path / "runs/fake/report.md").read_text().startswith("# fake\n")


def test_a_report_is_a_page_and_markdown_beside_it(tmp_path: Path, cli: Any) -> None:
    path = str(write_recipe(tmp_path))
    cli("run", path)
    page = tmp_path / "runs/fake/report.html"
    assert not page.exists()  # plots are made when somebody asks for them
    assert cli("report", path) == (0, f"{page}\n", "")
    first = page.read_text()
    assert first.startswith("<!doctype html>") and "instruct 7.0 [6.0, 8.0]" in first
    cli("run", path)  # all cached: the same records
    cli("report", path)
    assert page.read_text() == first


def test_a_run_and_its_markdown_need_neither_torch_nor_plots(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    code = (
        "import sys; sys.path.insert(0, 'tests'); import chain_fakes\n"
        "chain_fakes.command_line(sys.argv[1:])\n"
        "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    arguments = [str(tmp_path / "fake.yaml"), "--store", str(the_store(tmp_path))]
    for command, plots in (("run", False), ("report", True)):
        answer = subprocess.run(
            [sys.executable, "-c", code, command, *arguments], capture_output=True, text=True, cwd=PROJECT, timeout=60
        )
        assert answer.returncode == 0, answer.stderr
        found = set(answer.stdout.splitlines()[-1].split())
        assert "torch" not in found and ("matplotlib" in found) == plots


def test_exit_codes_say_what_happened(tmp_path: Path, cli: Any) -> None:
    path = str(write_recipe(tmp_path))
    assert cli("run", path)[0] == 0
    for arguments in (("run", path, "--until", "stf"), ("run", "absent"), ("run", path, "--rerun", "stf")):
        code, _, err = cli(*arguments)
        assert code == 2 and err.startswith("posttrain: ") and "Traceback" not in err and err.count("\n") == 1
    code, out, err = cli("run", path, "--set", "sft.seed=13", "--json")
    assert code == 3 and "sft: the gate says FAIL" in err
    assert json.loads(out)["steps"][2]["judge"]["verdict"] == "FAIL"  # what was done is reported all the same
    assert "FAIL" in (tmp_path / "runs/fake/report.md").read_text()
    assert cli("run", path, "--set", "sft.seed=13", "--set", "gate.on_fail=warn")[0] == 0
    assert cli("run")[0] == 2  # argparse


def test_a_run_says_each_step_and_then_that_it_is_cached(tmp_path: Path, cli: Any) -> None:
    path = str(write_recipe(tmp_path))
    _, first, _ = cli("run", path)
    _, second, _ = cli("run", path)
    assert "✓ sft  " in first and "✓ sft.judge" in first and "(cached)" not in first
    assert "✓ sft (cached)" in second and "✓ sft.judge (cached)" in second
    assert "instruct 7.0 [6.0, 8.0]" in first and "PASS" in first
    assert "Samples on held-out prompts" in first and "Samples on held-out prompts" not in second


def test_until_and_dry_run_do_no_more_than_they_say(tmp_path: Path, cli: Any) -> None:
    path = str(write_recipe(tmp_path))
    code, out, _ = cli("run", path, "--dry-run")
    assert code == 0 and "8 of 8 to run" in out and not the_store(tmp_path).exists()
    assert [step["name"] for step in json.loads(cli("run", path, "--until", "rows", "--json")[1])["steps"]] == ["rows"]
    nodes = json.loads(cli("plan", path, "--json")[1])["nodes"]
    assert [row["state"] for row in nodes] == ["to run"] * 3 + ["cached"] * 2 + ["to run"] * 3
    assert nodes[0].keys() == {"name", "kind", "identity", "state", "seconds", "peak_memory_mb"}


def test_the_store_is_listed_and_shown(tmp_path: Path, cli: Any) -> None:
    path = str(write_recipe(tmp_path))
    assert cli("ls") == (0, "", "")
    cli("run", path)
    assert cli("ls")[1].count("\n") == 8
    entry = next(row["entry"] for row in json.loads(cli("ls", "--json")[1]) if row["kind"] == "sft")
    assert json.loads(cli("show", entry[:9])[1])["kind"] == "sft"
    for wrong in ("judge-", "nothing"):
        code, _, err = cli("show", wrong)
        assert code == 2 and "exactly one is needed" in err
    assert cli("validate", path)[1].endswith("fine; 3 steps, 8 nodes with judges\n")


def test_a_run_without_a_model_cannot_chat(tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    talked: list[str] = []
    monkeypatch.setattr("posttrain.chatting.commands.talk", lambda steps, step, *_: talked.append(step))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    path = str(write_recipe(tmp_path))
    code, _, err = cli("chat", path)
    assert code == 2 and "Run it first" in err
    cli("run", path, "--until", "rows")
    code, _, err = cli("chat", path)
    assert code == 2 and "there is none" in err
    cli("run", path)
    assert cli("chat", path)[0] == 0 and cli("chat", path, "--step", "base")[0] == 0
    assert talked == ["sft", "base"]
    assert cli("chat", path, "--step", "rows")[0] == 2
    code, _, err = cli("chat", path, "--format", "gguf-q8_0")
    assert code == 2 and "add an export step" in err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m posttrain schema | head -c 10 > {tmp_path / 'out'}; echo ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert answer.stdout == "0\n" and "Traceback" not in answer.stderr


def test_eval_judges_again_and_writes_a_report_of_its_own(tmp_path: Path, cli: Any) -> None:
    path, other = str(write_recipe(tmp_path)), tmp_path / "strict.md"
    other.write_text("# be strict\n")
    assert cli("run", path)[0] == 0
    code, out, _ = cli("eval", path, "--rubric", str(other), "--json")
    assert code == 0 and [step["name"] for step in json.loads(out)["steps"]] == ["base", "rows", "sft"]
    folder = tmp_path / "runs/fake/eval-rule-strict"
    assert "be strict" in (folder / "sft.judge/verdicts.txt").read_text() and (folder / "report.md").is_file()
    code, out, _ = cli("eval", path, "--rubric", str(other), "--dry-run")
    assert code == 0 and "0 of 8 to run" in out


def test_eval_exits_as_a_run_would_where_a_gate_fails(tmp_path: Path, cli: Any) -> None:
    path = str(write_recipe(tmp_path))
    failing = ("--set", "sft.seed=13")
    assert cli("run", path, *failing, "--set", "gate.on_fail=warn")[0] == 0
    code, _, err = cli("eval", path, *failing)
    assert code == 3 and "sft: the gate says FAIL" in err
    assert cli("eval", path, *failing, "--set", "gate.on_fail=warn")[0] == 0
