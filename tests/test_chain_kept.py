"""keep_previous: the earlier model is handed on, everybody says so, and identities follow what is really taken."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import chain_fakes
import pytest
from chain_fakes import Quiet, contents, graph, raw_recipe, run, write_recipe

from posttrain.chain.gates import StepGate
from posttrain.chain.kept import handed_on, kept_by, rebuilt
from posttrain.chain.plan import plan_rows
from posttrain.chain.runner import Done, read_run
from posttrain.chain.store import Store
from posttrain.errors import GateFailed
from posttrain.report import records
from posttrain.report.markdown import report_markdown

KEEP = "sft.gate.on_fail=keep_previous"
FAILS = "sft.seed=13"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """base, rows, sft, then `more` on sft and `last` on more."""
    raw = raw_recipe(tmp_path)
    raw["steps"] |= {
        "more": {"kind": "sft", "model": "sft", "data": "rows", "lora": {"r": 4}},
        "last": {"kind": "base", "model": "more"},
    }
    return write_recipe(tmp_path, raw)


def by_name(done: list[Done]) -> dict[str, Done]:
    return {item.node.name: item for item in done}


def inputs_of(done: Done) -> dict[str, str]:
    return {field: value["reference"] for field, value in done.artifact.record["inputs"].items()}


def test_a_failed_step_hands_the_earlier_model_on(path: Path) -> None:
    found = by_name(run(path, KEEP, FAILS))
    assert found["sft.judge"].kept == "base" and found["sft"].artifact.path.is_dir()
    assert inputs_of(found["more"]) == {"model": "base", "data": "rows"}
    judged = {"judged": "more.samples", "before": "base.samples", "previous": "base.judge", "training": "rows"}
    assert inputs_of(found["more.judge"]) == judged
    assert inputs_of(found["last"]) == {"model": "more"}
    passed = by_name(run(path, KEEP))  # negative control
    assert passed["sft.judge"].kept is None and inputs_of(passed["more"]) == {"model": "sft", "data": "rows"}
    assert inputs_of(passed["more.judge"])["previous"] == "sft.judge"


def test_its_identity_is_that_of_a_recipe_that_names_the_earlier_model(path: Path, tmp_path: Path) -> None:
    kept = by_name(run(path, KEEP, FAILS))
    named = {node.name: node for node in graph(path, "more.model=base")[1]}
    for name in ("more", "more.samples", "more.judge", "last", "last.judge"):
        assert kept[name].node.identity == named[name].identity
    other = {node.name: node for node in graph(path, KEEP, FAILS)[1]}  # as if sft passed
    assert kept["more"].node.identity != other["more"].identity
    assert all(kept[name].node.identity == other[name].identity for name in ("base", "rows", "sft", "sft.judge"))


def test_the_second_run_is_all_cached_and_the_same(path: Path) -> None:
    first = run(path, KEEP, FAILS)
    before = contents(path.parent / "runs/store")
    second = run(path, KEEP, FAILS)
    assert all(done.cached for done in second) and not any(done.cached for done in first)
    assert [(done.node.name, done.kept, done.artifact) for done in first] == [
        (done.node.name, done.kept, done.artifact) for done in second
    ]
    assert contents(path.parent / "runs/store") == before


def test_everybody_says_which_model_is_handed_on(path: Path) -> None:
    screen = Quiet()
    run(path, KEEP, FAILS, screen=screen)
    said = "sft: the gate says FAIL: 7.0. The model of base is handed on in its place (gate: on_fail: keep_previous)."
    assert said in screen.said
    assert "more: takes base as its model; sft did not pass and is not handed on" in screen.said
    store = Store(path.parent / "runs/store")
    rows = {row["name"]: row for row in json.loads((path.parent / "runs/fake/run.json").read_text())["nodes"]}
    assert rows["sft.judge"]["kept"] == "base"
    assert rows["more"]["instead"] == {"model": {"named": "sft", "used": "base"}}
    assert [name for name, row in rows.items() if "kept" in row or "instead" in row] == ["sft.judge", "more"]
    steps = {step["name"]: step for step in records.steps_of(read_run("fake", store))}
    assert steps["sft"]["kept"] == "base" and steps["more"]["instead"]["model"]["used"] == "base"
    assert steps["more"]["kept"] is None and steps["sft"]["instead"] == {}
    assert records.lineage(read_run("fake", store)) == ["base", "more", "last"]
    assert handed_on(list(rows.values())) == {"sft": "base"}


def test_a_plan_shows_what_a_known_verdict_decides(path: Path) -> None:
    recipe, nodes = graph(path, KEEP, FAILS)
    store = Store(path.parent / "runs/store")

    def planned() -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in plan_rows(nodes, recipe.gates, store)}

    assert "instead" not in planned()["more"]  # no verdict yet: it counts as passed
    done = by_name(run(path, KEEP, FAILS))
    assert {name: row["identity"] for name, row in planned().items()} == {
        name: item.node.identity for name, item in done.items()
    }
    assert {row["state"] for row in planned().values()} == {"cached"}
    assert planned()["more"]["instead"] == {"model": {"named": "sft", "used": "base"}}


def test_two_failed_steps_hand_on_the_last_one_that_stood(path: Path) -> None:
    found = by_name(run(path, FAILS, "more.seed=13", "gate.on_fail=keep_previous"))
    assert (found["sft.judge"].kept, found["more.judge"].kept) == ("base", "base")
    assert inputs_of(found["last"]) == {"model": "base"}


def test_a_failed_last_step_leaves_the_earlier_model_as_the_result(path: Path) -> None:
    found = by_name(run(path, "last.seed=13", "last.gate.on_fail=keep_previous"))
    assert found["last.judge"].kept == "more"


def test_an_invalid_judge_keeps_nothing_and_stops(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(config: Any, ctx: Any) -> dict[str, Any]:
        verdict = "JUDGE INVALID" if "previous" in ctx.inputs else "BASELINE"
        return {"axes": {}, "primary": "instruct", "verdict": verdict, "why": "empty answer 3 of 40."}

    monkeypatch.setitem(chain_fakes.FAKES, "judge", replace(chain_fakes.FAKES["judge"], run=blind))
    with pytest.raises(GateFailed, match=r"^sft: the gate says JUDGE INVALID: empty answer 3 of 40\. The chain stops"):
        run(path, KEEP)


def test_what_comes_before_a_failed_step_and_beside_it_is_left_alone(path: Path) -> None:
    _, nodes = graph(path)
    after = {node.name: node for node in rebuilt(nodes, "sft", "base")}
    same = {node.name for node in nodes if after[node.name] is node}
    assert same == {"base", "base.samples", "base.judge", "rows", "rows.judge", "sft", "sft.samples", "sft.judge"}


def test_the_report_says_it_too(path: Path) -> None:
    run(path, KEEP, FAILS)
    store = Store(path.parent / "runs/store")
    said = "- **sft** FAIL: 7.0 The model of base is handed on in its place."
    assert said in report_markdown("fake", read_run("fake", store))
    run(path, KEEP)  # negative control
    assert "handed on" not in report_markdown("fake", read_run("fake", store))


def test_what_is_not_told_apart_is_handed_on_unless_the_recipe_says_otherwise(path: Path) -> None:
    node = next(node for node in graph(path)[1] if node.name == "sft")
    gates = {
        (fails, open_): StepGate("instruct", None, "superior", None, fails, on_inconclusive=open_)  # type: ignore[arg-type]
        for fails in ("stop", "keep_previous")
        for open_ in ("go_on", "keep_previous")
    }
    kept = {
        (verdict, *key): kept_by(gate, node, {"verdict": verdict})
        for key, gate in gates.items()
        for verdict in ("PASS", "FAIL", "INCONCLUSIVE", "JUDGE INVALID")
    }
    assert {key for key, name in kept.items() if name == "base"} == {
        *(("FAIL", "keep_previous", open_) for open_ in ("go_on", "keep_previous")),
        *(("INCONCLUSIVE", fails, "keep_previous") for fails in ("stop", "keep_previous")),
    }
    assert {name for key, name in kept.items()} == {None, "base"}
