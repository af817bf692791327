"""A finished chain is judged again from what is stored: nothing else is made, and the first judge's verdicts stay."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import Quiet, contents, graph, raw_recipe, run, the_store, write_recipe

from posttrain.chain.rejudge import eval_folder, failures, rejudge
from posttrain.chain.runner import Done
from posttrain.chain.store import Store
from posttrain.errors import PosttrainError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe, another rubric, and a note of every stage that is called."""
    (tmp_path / "strict.md").write_text("# be strict\n")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return write_recipe(tmp_path)


def again(path: Path, *overrides: str, step: str | None = None, until: str | None = None) -> list[Done]:
    recipe, nodes = graph(path, f"judge.rubric={path.parent / 'strict.md'}", *overrides, until=until)
    store = Store(the_store(path.parent))
    return rejudge(recipe, nodes, store, Quiet(), eval_folder(recipe, nodes, store), step)


def calls() -> list[str]:
    note = Path(os.environ["CALLS"])
    made = note.read_text().split() if note.is_file() else []
    note.unlink(missing_ok=True)
    return made


def test_only_judges_run_and_what_was_there_stays(path: Path) -> None:
    run(path)
    before = contents(the_store(path.parent))
    assert {"base", "sft", "samples"} < set(calls())
    done = again(path)
    assert calls() == ["judge"] * 3
    after = contents(the_store(path.parent))
    assert before.items() < after.items()
    assert {key for key in after if key not in before} and all(
        key.startswith("judge-") for key in after if key not in before
    )
    again(path)
    assert calls() == [] and [item.cached for item in done if item.node.name == "base"] == [True]


def test_its_names_and_run_stand_in_a_folder_of_their_own(path: Path) -> None:
    run(path)
    first = (path.parent / "runs/fake/run.json").read_text()
    again(path)
    folder = path.parent / "runs/fake/eval-rule-strict"
    assert (path.parent / "runs/fake/run.json").read_text() == first
    named = {row["name"]: row for row in json.loads((folder / "run.json").read_text())["nodes"]}
    assert (folder / "sft.judge/verdicts.txt").read_text() == "# be strict\n"
    known = {row["name"]: row for row in json.loads(first)["nodes"]}
    assert named["sft"]["identity"] == known["sft"]["identity"]
    assert named["sft.judge"]["identity"] != known["sft.judge"]["identity"]


def test_one_step_is_judged_with_what_it_is_compared_with_alone(path: Path) -> None:
    run(path)
    calls()
    again(path, step="sft")
    assert calls() == ["judge", "judge"]  # base and sft; the rows are not judged
    with pytest.raises(PosttrainError, match=r"no step 'sfd'.*Did you mean 'sft'"):
        again(path, step="sfd")


def test_what_was_never_made_is_not_made_now(path: Path) -> None:
    with pytest.raises(PosttrainError, match="a run is needed"):
        again(path)
    run(path)
    calls()
    with pytest.raises(PosttrainError, match=r"sft is not in the store as this recipe has it.*Run it first"):
        again(path, "sft.lora.r=2")
    assert "sft" not in calls()


def test_a_step_that_was_not_handed_on_is_not_handed_on_to_another_judge(path: Path) -> None:
    """The models are as the run made them; the new judge's verdict decides nothing about them."""
    raw = raw_recipe(path.parent)
    raw["steps"]["more"] = {"kind": "sft", "model": "sft", "data": "rows", "lora": {"r": 4}}
    write_recipe(path.parent, raw)
    settings = ("sft.gate.on_fail=keep_previous", "sft.seed=13")
    run(path, *settings)
    calls()
    found = {item.node.name: item for item in again(path, *settings)}
    assert calls() == ["judge"] * 4
    judged: dict[str, Any] = found["more.judge"].artifact.record["inputs"]
    assert judged["previous"]["reference"] == "base.judge"


def test_a_failure_is_a_failure_where_the_gate_stops(path: Path) -> None:
    run(path, "sft.seed=13", "gate.on_fail=warn")
    recipe, _ = graph(path, "sft.seed=13", "gate.on_fail=warn")
    stops, _ = graph(path, "sft.seed=13")
    done = again(path, "sft.seed=13", "gate.on_fail=warn")
    assert failures(recipe, done) == []
    assert len(found := failures(stops, done)) == 1 and found[0].startswith("sft: the gate says FAIL: 7.0")
