"""Pairs in a chain: the recipe's judge is part of what they are, and a chain with them runs, reports and is cached."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pairs_stage import rows_step
from stage_context import PROMPTS, RUBRIC

from posttrain.chain.graph import Node, build_graph
from posttrain.chain.identity import sha256_file
from posttrain.chain.recipe import parse_recipe
from posttrain.chain.stage import Input
from posttrain.cli import main
from posttrain.errors import PosttrainError
from posttrain.stages import STAGES

PROJECT = Path(__file__).parents[1]
STORYTELLER = PROJECT / "models" / "storyteller-1m"
JUDGE: dict[str, Any] = {"prompts": str(PROMPTS), "limit": 4, "samples": 1, "max_new_tokens": 20}


def raw(judge: dict[str, Any] | None = JUDGE, **pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": "r",
        "steps": {
            "base": {"kind": "base", "model": str(STORYTELLER)},
            "rows": {"kind": "generate", "rows": 100, "test_size": 10},
            "sft": {"kind": "sft", "model": "base", "data": "rows"},
            "more": {"kind": "generate", "rows": 80, "test_size": 10, "seed": 1},
            "pairs": {"kind": "pairs", "model": "sft", "prompts": "more", **pairs},
        },
    }
    return found if judge is None else {**found, "judge": judge}


def nodes(judge: dict[str, Any] | None = JUDGE, **pairs: Any) -> dict[str, Node]:
    recipe = parse_recipe(raw(judge, **pairs), "r.yaml", STAGES)
    return {node.name: node for node in build_graph(recipe, STAGES, None, str)}


def identity(judge: dict[str, Any] | None = JUDGE, **pairs: Any) -> str:
    return nodes(judge, **pairs)["pairs"].identity


def test_the_recipes_judge_scores_and_its_prompts_are_held_out() -> None:
    found: Any = nodes()["pairs"].config
    assert found.judge.judge == "rule" and found.judge.rubric.samefile(RUBRIC) and found.hold_out == PROMPTS
    other: Any = nodes({**JUDGE, "judge": "openai:m", "votes": 1, "budget": {"requests": 1}})["pairs"].config
    assert other.judge.judge == "openai:m" and other.judge.budget.requests == 1
    mine = raw()
    mine["steps"]["pairs"]["judge"] = {"judge": "openai:n"}
    own: Any = parse_recipe(mine, "r.yaml", STAGES).steps["pairs"]
    assert own.judge.judge == "openai:n" and own.judge.budget is None


def test_what_changes_the_scores_is_identity_and_how_the_judge_is_asked_is_not(tmp_path: Path) -> None:
    remote = {**JUDGE, "judge": "openai:m"}
    usual = identity(remote)
    same: list[dict[str, Any]] = [
        {"endpoint": {"concurrency": 3, "retries": 1}}, {"budget": {"requests": 5}}, {"allow_self_judging": True},
        {"pairwise": False}, {"limit": 9}, {"samples": 3}, {"max_new_tokens": 99}, {"temperature": 0.2},
    ]  # fmt: skip
    assert {identity({**remote, **change}) for change in same} == {usual}
    (tmp_path / "r.md").write_text(RUBRIC.read_text().replace("Is the English correct?", "Is it right?"))
    other: list[dict[str, Any]] = [
        {"judge": "openai:n"}, {"judge": "rule"}, {"rubric": str(tmp_path / "r.md")},
        {"endpoint": {"temperature": 1.0}}, {"endpoint": {"temperature": 1.0}, "votes": 3},
    ]  # fmt: skip
    assert len({usual, *(identity({**remote, **change}) for change in other)}) == 1 + len(other)


def test_a_judge_that_is_not_asked_is_no_part_of_the_pairs() -> None:
    remote = {**JUDGE, "judge": "openai:m"}
    assert identity(by="constraints") == identity(remote, by="constraints")
    alone = {"model": str(STORYTELLER), "prompts": str(PROMPTS), "hold_out": str(PROMPTS), "by": "constraints"}
    assert identity(**alone) == identity(None, **alone)
    assert identity() != identity(remote)  # negative control
    with pytest.raises(PosttrainError, match=r"steps\.pairs: .*by: scores asks a judge. Add 'judge:'"):
        nodes(None)


def test_the_rows_that_the_model_learnt_are_found_and_those_it_is_asked_are_not_taken_for_them() -> None:
    assert nodes()["pairs"].inputs == {"model": "sft", "prompts": "more", "training": "rows"}
    assert nodes(model="base")["pairs"].inputs == {"model": "base", "prompts": "more"}
    outside = nodes(model=str(STORYTELLER), prompts=str(PROMPTS), hold_out=str(PROMPTS))["pairs"].inputs
    assert outside.keys() == {"model", "prompts"}
    assert isinstance(outside["prompts"], Input) and outside["prompts"].identity == sha256_file(PROMPTS)
    assert nodes(training="more")["pairs"].inputs["training"] == "more"


def test_a_source_is_a_file_a_step_of_pairs_or_a_data_set_of_the_hub(tmp_path: Path) -> None:
    asked: list[str] = []

    def planned(**pairs: Any) -> Node:
        steps = {**raw()["steps"], "again": {"kind": "pairs", **pairs}}
        recipe = parse_recipe({**raw(), "steps": steps}, "r.yaml", STAGES)
        return build_graph(recipe, STAGES, "again", lambda name: asked.append(name) or "c" * 40)[-1]

    assert planned(source="pairs").inputs == {"source": "pairs"}
    found = planned(source="org/prefs@main", split="train_prefs").inputs["source"]
    assert isinstance(found, Input) and found.identity == f"hub:datasets/org/prefs@{'c' * 40}"
    assert asked == ["datasets/org/prefs@main"]
    (tmp_path / "s.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    first = planned(source=str(tmp_path / "s.jsonl")).identity
    (tmp_path / "s.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "d"}\n')
    assert planned(source=str(tmp_path / "s.jsonl")).identity != first
    with pytest.raises(PosttrainError, match=r"source: step 'rows' \(generate\) makes rows; pairs is needed"):
        planned(source="rows")


def test_pairs_are_closed_by_no_judge_and_have_no_gate() -> None:
    found = nodes()
    assert [name for name in found if name.startswith("pairs")] == ["pairs"]
    assert {"sft.judge", "more.judge"} <= found.keys()  # negative control
    with pytest.raises(PosttrainError, match=r"steps\.pairs\.gate\.minimum: found 7.0; pairs come from verdicts"):
        nodes(gate={"minimum": 7})


def test_a_step_that_takes_rows_takes_no_pairs_and_a_judge_may_not_be_the_model() -> None:
    wrong = raw()
    wrong["steps"]["again"] = {"kind": "sft", "model": "sft", "data": "pairs"}
    with pytest.raises(PosttrainError, match=r"steps\.again\.data: step 'pairs' \(pairs\) makes pairs; rows is needed"):
        build_graph(parse_recipe(wrong, "r.yaml", STAGES), STAGES, None, str)
    mine = raw()
    mine["steps"]["pairs"]["judge"] = {"judge": "openai:storyteller-1m"}
    with pytest.raises(PosttrainError, match="it is the model that is judged"):
        build_graph(parse_recipe(mine, "r.yaml", STAGES), STAGES, None, str)


@pytest.mark.slow
def test_the_summary_of_a_step_without_a_judge_stands_in_the_report(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows_step(tmp_path / "p", rows=[{"id": f"{n}", "prompt": f"Say {n}."} for n in range(30)])
    few = {"samples": 3, "sampling": {"max_new_tokens": 20}, "test_size": 3, "min_rows": 3, "max_one_sided": 1}
    chain = {
        "name": "r",
        "judge": {**JUDGE, "judge": "rule"},
        "gate": {"on_fail": "warn"},
        "steps": {
            "base": {"kind": "base", "model": str(faulty)},
            "pairs": {"kind": "pairs", "model": "base", "prompts": str(tmp_path / "p/train.jsonl"), "margin": 0, **few},
            "labels": {"kind": "pairs", "model": "base", "prompts": str(tmp_path / "p/train.jsonl"), **few,
                       "format": "unpaired", "by": "constraints"},
        },
    }  # fmt: skip
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(chain, sort_keys=False))
    told = run(path, capsys)
    assert [(step["name"], step["cached"], bool(step["judge"])) for step in told] == [
        ("base", False, True), ("pairs", False, False), ("labels", False, False)
    ]  # fmt: skip
    assert told[1]["metrics"]["rows"] >= 3 and told[1]["metrics"]["score_chosen"]["low"] > 0
    assert all(step["cached"] for step in run(path, capsys)), "the second run makes nothing"
    main(["report", str(path), "--store", str(tmp_path / "runs/store")])
    markdown, page = ((tmp_path / "runs/r" / name).read_text() for name in ("report.md", "report.html"))
    for shown in (markdown, page):
        assert told[1]["metrics"]["summary"].split(";")[0] in shown.replace("&gt;", ">") and "not judged" in shown
    assert all(f'<span class="dim">{unit}</span>' in page for unit in ("prompts", "answers")), "rows of another unit"
    (tmp_path / "rubric.md").write_text(RUBRIC.read_text().replace("Is the English correct?", "Is it right?"))
    capsys.readouterr()
    store = ("--json", "--store", str(tmp_path / "runs/store"))
    main(["eval", str(path), "--rubric", str(tmp_path / "rubric.md"), *store])
    again = json.loads(capsys.readouterr().out)["steps"]
    assert [step["identity"] for step in again] == [step["identity"] for step in told], "pairs stay as they were made"
    with pytest.raises(SystemExit):  # negative control: a recipe with this judge would have made others
        main(["eval", str(path), "--set", f"judge.rubric={tmp_path / 'rubric.md'}", *store])
    assert "pairs is not in the store as this recipe has it" in capsys.readouterr().err


def run(path: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    main(["run", str(path), "--store", str(path.parent / "runs/store"), "--json"])
    return list(json.loads(capsys.readouterr().out)["steps"])


def start(path: Path, store: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "posttrain", "run", str(path), "--store", str(store), "--json"]
    return subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def files_of(store: Path, kind: str) -> dict[str, dict[str, str]]:
    return {path.parent.name: json.loads(path.read_text())["files"] for path in store.glob(f"{kind}-*/artifact.json")}


@pytest.mark.slow
def test_a_chain_killed_between_blocks_of_answers_ends_with_the_same_pairs(faulty: Path, tmp_path: Path) -> None:
    few = {"samples": 3, "sampling": {"max_new_tokens": 20, "block_size": 4}, "margin": 0, "test_size": 3}
    steps = {
        "base": {"kind": "base", "model": str(faulty)},
        "rows": {"kind": "generate", "rows": 120, "test_size": 10},
        "sft": {"kind": "sft", "model": "base", "data": "rows", "learning_rate": 1e-5, "lora": {"r": 2}},
        "pairs": {"kind": "pairs", "model": "sft", "prompts": "rows", "rows": 60, "min_rows": 3, "max_one_sided": 1,
                  **few},
    }  # fmt: skip
    path, store = tmp_path / "r.yaml", tmp_path / "runs" / "store"
    path.write_text(
        yaml.safe_dump({"name": "r", "judge": JUDGE, "gate": {"on_fail": "warn"}, "steps": steps}, sort_keys=False)
    )
    finish(path, store)
    whole = files_of(store, "pairs")
    assert len(whole) == 1
    shutil.rmtree(next(store.glob("pairs-*")))
    process = start(path, store)
    while process.poll() is None and not list(store.glob("pairs-*.partial/.work/answers/block-00003.jsonl")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not files_of(store, "pairs"), "negative control: it was killed on the way"
    assert len(list(store.glob("pairs-*.partial/.work/answers/*.jsonl"))) >= 4
    told = finish(path, store)
    assert files_of(store, "pairs") == whole
    assert [step["cached"] for step in told] == [True, True, True, False]
    assert all(step["cached"] for step in finish(path, store))


def finish(path: Path, store: Path) -> list[dict[str, Any]]:
    process = start(path, store)
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors.decode()
    return list(json.loads(out)["steps"])
