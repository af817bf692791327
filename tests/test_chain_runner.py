"""The runner: what is there is used, what is not is made once, and every stop can be continued. No torch."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import FAKES, Quiet, commit_of, contents, graph, raw_recipe, run, visible, write_recipe

from posttrain.chain import provenance
from posttrain.chain.graph import Node, build_graph
from posttrain.chain.runner import read_run, run_chain
from posttrain.chain.store import Store
from posttrain.errors import GateFailed, PosttrainError

PROGRAM = Path(__file__).with_name("chain_fakes.py")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "calls"
    path.touch()
    monkeypatch.setenv("CALLS", str(path))
    return path


def command(path: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    line = [sys.executable, str(PROGRAM), *arguments, "--store", str(path.parent / "runs/store")]
    root = str(PROGRAM.parents[1])
    return subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root, **environment},
    )


def test_the_second_run_is_all_cached_and_makes_the_same_report(tmp_path: Path, calls: Path) -> None:
    path = write_recipe(tmp_path)
    first = run(path)
    assert not any(done.cached for done in first) and len(first) == 8
    made = calls.read_text()
    second = run(path)
    assert all(done.cached for done in second)
    assert calls.read_text() == made  # no stage ran
    assert [done.artifact for done in first] == [done.artifact for done in second]
    assert not run(path, "sft.lora.r=9")[-1].cached  # negative control


def test_everything_is_named_in_the_runs_folder(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    done = run(path)
    folder = tmp_path / "runs/fake"
    assert {link.name for link in folder.iterdir()} == {item.node.name for item in done} | {"run.json"}
    assert (folder / "sft").resolve() == done[5].artifact.path.resolve() and os.readlink(folder / "sft")[0] != "/"
    run(path, "sft.lora.r=9")
    assert (folder / "sft").resolve() != done[5].artifact.path.resolve()
    rows = read_run("fake", Store(tmp_path / "runs/store"))
    assert [row["name"] for row, _ in rows] == [item.node.name for item in done]
    assert rows[0][0].keys() == {"name", "kind", "identity", "entry", "cached", "seconds"}
    with pytest.raises(PosttrainError, match=r"other: .*run\.json is missing"):
        read_run("other", Store(tmp_path / "runs/store"))


def test_a_record_says_what_went_in_and_with_what_it_was_made(tmp_path: Path) -> None:
    tuned = run(write_recipe(tmp_path))[5].artifact.record
    assert tuned["config"]["lora"] == {"r": 8} and tuned["metrics"]["loss"] == 0.5
    assert tuned["inputs"]["data"]["reference"] == "rows" and len(tuned["inputs"]["data"]["identity"]) == 64
    assert {"python", "packages", "machine", "seconds", "source", "commit"} <= tuned["provenance"].keys()
    assert tuned["files"].keys() == {"model.txt"}


def test_rerun_makes_a_step_again_with_what_closes_it(tmp_path: Path, calls: Path) -> None:
    path = write_recipe(tmp_path)
    before = run(path)
    calls.write_text("")
    after = run(path, rerun=frozenset({"base"}))
    assert [done.node.name for done in after if not done.cached] == ["base", "base.samples", "base.judge"]
    assert calls.read_text().split() == ["base", "samples", "judge"]
    assert [done.artifact.path for done in before] == [done.artifact.path for done in after]
    assert len(visible(tmp_path / "runs/store")) == 8 and not list((tmp_path / "runs/store").glob("*.old"))
    with pytest.raises(PosttrainError, match=r"--rerun: no step 'bsae'; .*'base'\?"):
        run(path, rerun=frozenset({"bsae"}))


def test_rerun_starts_without_the_journal_of_an_earlier_try(tmp_path: Path, calls: Path) -> None:
    path = write_recipe(tmp_path)
    node = graph(path)[1][5]
    work = Store(tmp_path / "runs/store").partial("sft", node.identity) / ".work"
    (work / "part-0").write_text("from an earlier try")
    run(path, rerun=frozenset({"sft"}))
    assert "part-0" in calls.read_text()


def test_code_that_changed_is_said_and_nothing_reruns_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recipe(tmp_path)
    run(path)
    quiet = Quiet()
    run(path, screen=quiet)
    assert not any("code has changed" in text for text in quiet.said)  # negative control
    monkeypatch.setattr(provenance, "source_hash", lambda sources: "another")
    screen = Quiet()
    assert all(done.cached for done in run(path, screen=screen))
    assert "sft: cached, but its code has changed since; --rerun sft makes it again with the new" in screen.said


def test_a_failed_gate_stops_or_warns_as_the_recipe_says(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    failing = "sft.seed=13"
    for _ in range(2):  # a cached FAIL is a FAIL
        with pytest.raises(GateFailed, match=r"^sft: the gate says FAIL: 7\.0\. .*on_fail: warn"):
            run(path, failing)
    assert [row["name"] for row, _ in read_run("fake", Store(tmp_path / "runs/store"))][-1] == "sft.judge"
    screen = Quiet()
    assert len(run(path, failing, "gate.on_fail=warn", screen=screen)) == 8
    assert "sft: the gate says FAIL: 7.0. Going on (gate: on_fail: warn)." in screen.said
    assert len(run(path)) == 8


def test_an_invalid_judge_stops_or_warns_like_a_failed_gate(tmp_path: Path) -> None:
    def judged(verdict: str) -> list[Node]:
        metrics = {"axes": {}, "primary": "instruct", "verdict": verdict, "why": "empty answer 3 of 40."}
        return build_graph(recipe, {**FAKES, "judge": replace(FAKES["judge"], run=lambda *_: metrics)}, None, commit_of)

    recipe, _ = graph(path := write_recipe(tmp_path))
    with pytest.raises(GateFailed, match=r"^base: the gate says JUDGE INVALID: empty answer 3 of 40\. The chain stops"):
        run_chain(recipe, judged("JUDGE INVALID"), Store(tmp_path / "runs/store"), Quiet())
    assert len(run_chain(recipe, judged("INCONCLUSIVE"), Store(tmp_path / "other/store"), Quiet())) == 8  # control
    screen, (warned, _) = Quiet(), graph(path, "gate.on_fail=warn")
    assert len(run_chain(warned, judged("JUDGE INVALID"), Store(tmp_path / "runs/store"), screen)) == 8
    assert "rows: the gate says JUDGE INVALID: empty answer 3 of 40. Going on (gate: on_fail: warn)." in screen.said


def test_metrics_that_are_no_numbers_end_a_step_plainly(tmp_path: Path) -> None:
    recipe, _ = graph(path := write_recipe(tmp_path))
    table = {**FAKES, "sft": replace(FAKES["sft"], run=lambda *_: {"held_out": {"loss": float("nan")}})}
    nodes = build_graph(recipe, table, None, commit_of)
    store = Store(path.parent / "runs/store")
    with pytest.raises(PosttrainError, match=r"^sft: metrics\.held_out\.loss: nan .*lower the learning rate"):
        run_chain(recipe, nodes, store, Quiet())
    assert not [entry for entry in visible(store.root) if entry.name.startswith("sft")]


def test_a_bug_in_a_stage_keeps_its_traceback_and_the_steps_before_it(tmp_path: Path) -> None:
    def broken(config: Any, ctx: Any) -> dict[str, Any]:
        (ctx.out / "half").write_text("x")
        raise ZeroDivisionError

    recipe, _ = graph(path := write_recipe(tmp_path))
    nodes = build_graph(recipe, {**FAKES, "sft": replace(FAKES["sft"], run=broken)}, None, commit_of)
    with pytest.raises(ZeroDivisionError):
        run_chain(recipe, nodes, Store(path.parent / "runs/store"), Quiet())
    assert [done.cached for done in run(path)] == [True] * 5 + [False] * 3


def test_a_recipe_cannot_be_named_like_the_store(tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match="recipe 'store': the store lies in"):
        run(write_recipe(tmp_path), "name=store")


def test_of_two_processes_one_works_and_the_other_says_whom_it_waits_for(tmp_path: Path, calls: Path) -> None:
    path = write_recipe(tmp_path)
    one = command(path, "run", str(path), "--json", PAUSE="1.5")  # long enough for a slow machine to start the other
    deadline = time.monotonic() + 20
    while "part-0" not in calls.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    two = command(path, "run", str(path), "--json", PAUSE="0.3")
    outputs = [process.communicate(timeout=60) for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), outputs
    assert sorted(calls.read_text().split()) == sorted(
        ["base", "generate", "sft", "samples", "samples", "judge", "judge", "judge", *(f"part-{n}" for n in range(4))]
    )
    entry = next(path.name for path in visible(tmp_path / "runs/store") if path.name.startswith("sft-"))
    assert f"{entry}: being made by process {one.pid}; waiting for it" in outputs[1][1]
    assert f"{entry}: being made by" not in outputs[0][1]  # of the later entries either may be first
    names = [[step["identity"] for step in json.loads(out)["steps"]] for out, _ in outputs]
    assert names[0] == names[1] and len(names[0]) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_what_is_kept_and_the_same_command_continues(
    tmp_path: Path, calls: Path, number: signal.Signals
) -> None:
    path = write_recipe(tmp_path)
    stopped = command(path, "run", str(path), PAUSE="1.5")
    deadline = time.monotonic() + 20
    while "part-1" not in calls.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    stopped.send_signal(number)
    out, err = stopped.communicate(timeout=20)
    assert stopped.returncode == 130
    assert "sft: interrupted; its work so far is kept. Run the same command to continue." in out
    assert "interrupted; what was finished is kept, and the same command continues" in err
    assert "Traceback" not in err
    calls.write_text("")
    again = run(path)
    assert [done.cached for done in again] == [True] * 5 + [False] * 3
    assert "part-0" not in calls.read_text() and "part-3" in calls.read_text()
    whole = write_recipe(tmp_path / "whole", raw_recipe(tmp_path / "whole"))
    run(whole)
    assert contents(tmp_path / "whole/runs/store") == contents(tmp_path / "runs/store")
