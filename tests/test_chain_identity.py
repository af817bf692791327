"""Identity: what a step is, and nothing else. Fake stages; no torch."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from chain_fakes import FAKES, commit_of, graph, raw_recipe, write_recipe

from posttrain.chain.graph import build_graph
from posttrain.chain.identity import digest, digest_of_json, sha256_path, stable
from posttrain.chain.recipe import load_recipe
from posttrain.chain.stage import InputPath, StepConfig
from posttrain.errors import PosttrainError

ALL = {
    "base", "base.samples", "base.judge", "rows", "rows.judge", "sft", "sft.samples", "sft.judge"
}  # fmt: skip


def identities(path: Path, *overrides: str) -> dict[str, str]:
    return {node.name: node.identity for node in graph(path, *overrides)[1]}


def changed(path: Path, *overrides: str) -> set[str]:
    """Names of the nodes whose identity another value changes."""
    before, after = identities(path), identities(path, *overrides)
    return {name for name in before if before[name] != after[name]}


def test_every_value_of_a_step_changes_that_step_and_what_follows_it(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    tuned = {"sft", "sft.samples", "sft.judge"}
    assert set(identities(path)) == ALL
    assert changed(path, "sft.lora.r=9") == tuned
    assert changed(path, "sft.learning_rate=1e-4") == tuned
    assert changed(path, "sft.trainer.eps=1") == tuned
    assert changed(path, "rows.rows=4") == {"rows", "rows.judge"} | tuned
    assert changed(path, "base.size=2") == ALL - {"rows", "rows.judge"}
    assert changed(path, "seed=8") == ALL
    assert changed(path, "sft.seed=8") == tuned
    assert changed(path, "seed=7", "sft.lora.r=8", "gate.on_fail=warn") == set()  # negative control


def test_the_judge_settings_change_only_what_they_are_for(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    judges = {name for name in ALL if name.endswith(".judge")}
    sampled = {"base.samples", "base.judge", "sft.samples", "sft.judge"}
    assert changed(path, "gate.minimum=2") == {"rows.judge"}
    assert changed(path, "gate.test=non_inferior") == {"sft.judge"}
    assert changed(path, "gate.axis=plot") == judges
    assert changed(path, "sft.gate.axis=plot") == {"sft.judge"}
    assert changed(path, "judge.temperature=0.9") == sampled
    before = identities(path)
    (tmp_path / "rubric.md").write_text("# be strict\n")
    after = identities(path)
    assert {name for name in ALL if before[name] != after[name]} == judges
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write('{"id": "p2", "prompt": "Three."}\n')
    later = identities(path)
    assert {name for name in ALL if after[name] != later[name]} == sampled | {"rows", "rows.judge", "sft"}


def test_a_judge_knows_the_rows_that_its_model_was_trained_on_last(tmp_path: Path) -> None:
    raw = raw_recipe(tmp_path)
    raw["steps"] |= {
        "others": {"kind": "generate", "rows": 5},
        "again": {"kind": "sft", "model": "sft", "data": "others"},
        "copy": {"kind": "base", "model": "sft"},
    }
    nodes = {node.name: node for node in graph(write_recipe(tmp_path, raw))[1]}
    training = {node.step: node.inputs.get("training") for node in nodes.values() if node.stage.kind == "judge"}
    assert training == {
        "base": None, "rows": None, "others": None, "sft": "rows", "again": "others", "copy": "rows"
    }  # fmt: skip
    assert {node.stage.kind for node in nodes.values() if "training" in node.inputs} == {"judge"}
    judge = nodes["copy.judge"]
    inputs = {field: nodes[str(name)].identity for field, name in judge.inputs.items()}
    plain = judge.config.model_copy(update=dict.fromkeys(judge.stage.inputs))

    def identity(**other: str) -> str:
        return digest({"kind": "judge", "version": 1, "config": plain, "inputs": {**inputs, **other}})

    assert judge.identity == identity()
    assert judge.identity != identity(training=nodes["others"].identity)


def test_names_places_comments_and_order_do_not_enter(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    expected = identities(path)
    raw = raw_recipe(tmp_path)
    raw["name"] = "other"
    raw["steps"] = {"tuned": raw["steps"]["sft"], "data": raw["steps"]["rows"], "start": raw["steps"]["base"]}
    raw["steps"]["tuned"] = dict(reversed({**raw["steps"]["tuned"], "model": "start", "data": "data"}.items()))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("prompts.jsonl", "rubric.md"):
        shutil.copy(tmp_path / name, moved / f"copy-of-{name}")
    raw["judge"] |= {"prompts": str(moved / "copy-of-prompts.jsonl"), "rubric": str(moved / "copy-of-rubric.md")}
    other = moved / "other.yaml"
    other.write_text("# a comment\n" + yaml.safe_dump(raw))
    renamed = {"start": "base", "data": "rows", "tuned": "sft"}
    found = {".".join([renamed[name.split(".")[0]], *name.split(".")[1:]]): i for name, i in identities(other).items()}
    assert found == expected
    raw["steps"]["tuned"]["lora"] = {"r": 9}  # negative control
    other.write_text(yaml.safe_dump(raw))
    assert identities(other)["tuned"] != expected["sft"]


def test_version_and_kind_enter(tmp_path: Path) -> None:
    recipe, nodes = graph(write_recipe(tmp_path))
    newer = {**FAKES, "sft": replace(FAKES["sft"], version=2)}
    after = {node.name: node.identity for node in build_graph(recipe, newer, None, commit_of)}
    assert {node.name for node in nodes if node.identity != after[node.name]} == {"sft", "sft.samples", "sft.judge"}
    renamed = {**FAKES, "sft": replace(FAKES["sft"], kind="tune")}
    other = {node.name: node.identity for node in build_graph(recipe, renamed, None, commit_of)}
    assert other["sft"] not in {after["sft"], *(node.identity for node in nodes)}


def test_a_model_counts_by_its_files_and_a_hub_model_by_its_commit(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_text("w")
    one, two = (identities(path, f"base.model={tmp_path / name}")["base"] for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / ".cache").write_text("hidden files are not the model's")
    assert identities(path, f"base.model={tmp_path / 'two'}")["base"] == two
    (tmp_path / "two" / "tokenizer.json").write_text("{}")
    assert identities(path, f"base.model={tmp_path / 'two'}")["base"] != two

    def base(reference: str, commit: str) -> str:
        recipe = load_recipe(str(path), FAKES, [f"base.model={reference}"])
        return build_graph(recipe, FAKES, "base", lambda _: commit)[0].identity

    assert base("org/name", "c1") == base("org/name@main", "c1")
    assert len({base("org/name", "c1"), base("org/name", "c2"), base("org/other", "c1")}) == 3


class Unmarked(StepConfig):
    kind: Literal["x"] = "x"
    path: Path


class Marked(StepConfig):
    kind: Literal["x"] = "x"
    path: InputPath
    maybe: InputPath | None = None


@pytest.mark.parametrize(
    "value",
    [object(), {1}, float("nan"), float("inf"), b"bytes", Path("p"), 1j, {1: 2}, print, "half \ud800", [{"a": {()}}]],
)
def test_what_has_no_stable_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^value.* has no stable form"):
        stable(value)
    with pytest.raises(TypeError):
        digest({"config": {"x": value}})
    assert stable({"a": (1, 2.5, None, True, "é")}) == {"a": [1, 2.5, None, True, "é"]}  # negative control


def test_a_path_counts_by_content_only_where_it_is_marked(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    with pytest.raises(TypeError, match=r"value\.path"):
        digest(Unmarked(path=tmp_path / "a"))
    a, b, c = (digest(Marked(path=tmp_path / name)) for name in "abc")
    assert a == b != c
    assert digest(Marked(path=tmp_path / "a", maybe=tmp_path / "b")) != a
    assert "same" not in json.dumps(stable(Marked(path=tmp_path / "a")))


def test_the_order_of_keys_is_irrelevant_and_that_of_lists_is_not() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest({"a": 1}) != digest({"a": "1"})


def test_a_directory_is_its_names_and_contents(tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match="holds no files"):
        sha256_path(tmp_path)
    (tmp_path / "a").write_text("1")
    before = sha256_path(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256_path(tmp_path) != before


def test_identities_are_equal_in_every_process(tmp_path: Path) -> None:
    """Also with other hash seeds, another current directory and another order of the directory's files."""
    path = write_recipe(tmp_path)
    code = (
        "import json, sys; from pathlib import Path; from chain_fakes import graph\n"
        f"print(json.dumps({{n.name: n.identity for n in graph(Path({str(path)!r}))[1]}}))"
    )
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in (0, 1))
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        answer = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert json.loads(answer.stdout) == identities(path)


def test_a_models_card_is_not_the_model(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1")
    before = sha256_path(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert sha256_path(tmp_path) == before
    (tmp_path / "weights").write_text("2")
    assert sha256_path(tmp_path) != before


@pytest.mark.parametrize("value", [{"b": [1, 2.5, "é\u2028"], "a": {"x": None, "y": True}}, [], "text", {"t": (1, 2)}])
def test_the_quick_digest_of_json_is_the_same(value: Any) -> None:
    assert digest_of_json(value) == digest(value)


@pytest.mark.parametrize("value", [{"x": float("nan")}, ["\ud800"], {"x": {1, 2}}])
def test_the_quick_digest_refuses_what_has_no_stable_form(value: Any) -> None:
    for one in (digest_of_json, digest):
        with pytest.raises(TypeError):
            one(value)
