"""What a step must prove: the recipe's default, the step's own keys before it, and nothing that cannot be."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from chain_fakes import FAKES, graph, raw_recipe, write_recipe

from posttrain.chain.gates import MARGIN, StepGate
from posttrain.chain.recipe import json_schema, load_recipe
from posttrain.errors import PosttrainError


def gates(path: Path, *overrides: str) -> dict[str, StepGate]:
    return dict(graph(path, *overrides)[0].gates)


def test_every_kind_of_step_has_a_sensible_gate(tmp_path: Path) -> None:
    assert gates(write_recipe(tmp_path)) == {
        "base": StepGate("instruct", None, None, None, "stop"),
        "rows": StepGate("instruct", 7.0, None, None, "stop"),
        "sft": StepGate("instruct", None, "superior", None, "stop"),
    }


def test_a_kind_that_must_not_lose_asks_for_no_more(tmp_path: Path) -> None:
    table = {**FAKES, "sft": replace(FAKES["sft"], test="non_inferior")}
    path = str(write_recipe(tmp_path))
    assert load_recipe(path, table).gates["sft"] == StepGate("instruct", None, "non_inferior", MARGIN, "stop")
    assert load_recipe(path, table, ["sft.gate.margin=0.1"]).gates["sft"].margin == 0.1
    assert load_recipe(path, table, ["sft.gate.test=superior"]).gates["sft"].margin is None


def test_files_are_compared_and_stand_in_no_models_place(tmp_path: Path) -> None:
    table = {**FAKES, "sft": replace(FAKES["sft"], makes="files", test="non_inferior")}
    path = str(write_recipe(tmp_path))
    default = ["gate.on_fail=keep_previous", "gate.on_inconclusive=keep_previous"]  # for the steps that make models
    assert load_recipe(path, table, default).gates["sft"] == StepGate(
        "instruct", None, "non_inferior", MARGIN, "stop", on_inconclusive="go_on"
    )
    assert load_recipe(path, FAKES, default).gates["sft"].on_inconclusive == "keep_previous"
    for key, said in (("on_fail", "stop or warn is allowed: it makes files"), ("on_inconclusive", "it makes files")):
        with pytest.raises(PosttrainError, match=rf"sft\.gate\.{key}: found 'keep_previous'; {said}"):
            load_recipe(path, table, [f"sft.gate.{key}=keep_previous"])


def test_a_steps_own_keys_go_before_the_recipes(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    default = ("gate.axis=plot", "gate.test=non_inferior", "gate.margin=0.5", "gate.on_fail=keep_previous")
    found = gates(path, *default, "gate.minimum=8")
    assert found["sft"] == StepGate("plot", None, "non_inferior", 0.5, "keep_previous")
    assert found["rows"] == StepGate("plot", 8.0, None, None, "stop")  # there is no earlier model to hand on
    assert found["base"] == StepGate("plot", None, None, None, "stop")
    own = gates(path, *default, "sft.gate.test=superior", "sft.gate.axis=grammar", "rows.gate.on_fail=warn")
    assert own["sft"] == StepGate("grammar", None, "superior", None, "keep_previous")
    assert own["rows"].on_fail == "warn" and own["base"].on_fail == "stop"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sft.gate.margin=0.1"], r"steps\.sft\.gate\.margin: found 0\.1 without test: non_inferior; .*Add 'test"),
        (["gate.margin=0.1"], r"gate\.margin: found 0\.1 without test: non_inferior"),
        (["gate.test=superior", "gate.margin=0.1"], r"gate\.margin: found 0\.1 without test: non_inferior"),
        (["sft.gate.test=non_inferior", "sft.gate.margin=0"], r"steps\.sft\.gate\.margin: found 0; .*greater than 0"),
        (["sft.gate.test=better"], r"steps\.sft\.gate\.test: found 'better'; .*'superior' or 'non_inferior'"),
        (["sft.gate.minimum=5"], r"steps\.sft\.gate\.minimum: found 5\.0; only a step that makes rows has a minimum"),
        (["rows.gate.test=superior"], r"steps\.rows\.gate\.test: found 'superior'; a step that makes rows is held to"),
        (["rows.gate.margin=1"], r"steps\.rows\.gate\.margin: found 1\.0; a step that makes rows is held to"),
        (["base.gate.test=superior"], r"steps\.base\.gate\.test: found 'superior'; its model is no step's"),
        (["rows.gate.on_fail=keep_previous"], r"steps\.rows\.gate\.on_fail: found 'keep_previous'; .*it makes rows"),
        (["base.gate.on_fail=keep_previous"], r"steps\.base\.gate\.on_fail: .*its model is no step's"),
        (
            ["sft.model=models", "sft.gate.on_fail=keep_previous"],
            r"steps\.sft\.gate\.on_fail: .*its model is no step's",
        ),
        (["rows.gate.max_length_change=0.1"], r"steps\.rows\.gate\.max_length_change: found 0\.1; a step that makes"),
        (["base.gate.on_inconclusive=keep_previous"], r"steps\.base\.gate\.on_inconclusive: .*its model is no step's"),
        (["sft.gate.on_fial=warn"], r"steps\.sft\.gate\.on_fial: unknown key .*'on_fail'\?"),
        (["sft.gaet.on_fail=warn"], r"steps\.sft\.gaet: unknown key 'gaet'; allowed: .*gate, .*'gate'\?"),
        (["sft.gate=3"], r"steps\.sft\.gate: found 3; "),
        (["judge.axis=plot"], r"judge\.axis: unknown key 'axis'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(overrides: list[str], said: str, tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    with pytest.raises(PosttrainError) as error:
        graph(path, *overrides)
    assert re.search(said, text := str(error.value)), text
    assert "\n" not in text and text[-1] in ".?"


def test_a_gate_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, raw_recipe(tmp_path, judged=False))
    assert graph(path)
    for override, place in (("gate.on_fail=warn", "gate"), ("sft.gate.on_fail=warn", r"steps\.sft\.gate")):
        with pytest.raises(PosttrainError, match=rf"{place}: found a gate; without 'judge' nothing is judged"):
            graph(path, override)


def test_what_a_fail_does_is_no_part_of_the_verdict(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)

    def judge(*overrides: str) -> str:
        return next(node.identity for node in graph(path, *overrides)[1] if node.name == "sft.judge")

    assert judge() == judge("sft.gate.on_fail=keep_previous") == judge("sft.gate.test=superior")
    assert judge() == judge("sft.gate.on_inconclusive=keep_previous")
    others = ("test=non_inferior", "axis=plot", "hold=[grammar]", "max_length_change=0.1")
    assert len({judge(), *(judge(f"sft.gate.{other}") for other in others)}) == 1 + len(others)


def test_editors_complete_a_steps_gate(tmp_path: Path) -> None:
    schema = json_schema(FAKES)
    kinds = [schema["$defs"][name]["properties"] for name in ("BaseConfig", "GenerateConfig", "SFTConfig")]
    assert all("gate" in properties and "kind" in properties for properties in kinds)
    assert schema["$defs"]["Gate"]["properties"].keys() == {
        "axis", "minimum", "test", "margin", "hold", "max_length_change", "on_fail", "on_inconclusive"
    }  # fmt: skip
