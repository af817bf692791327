"""Recipes: whatever is wrong is said before anything runs, with the place, the values and the way out. No torch."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from chain_fakes import FAKES, commit_of, graph, raw_recipe, write_recipe

from posttrain.chain import strict_yaml
from posttrain.chain.graph import build_graph
from posttrain.chain.recipe import load_recipe
from posttrain.errors import PosttrainError
from posttrain.stages import STAGES

GOOD = {
    "name": "r",
    "steps": {
        "base": {"kind": "base", "model": "org/name"},
        "rows": {"kind": "generate"},
        "sft": {"kind": "sft", "model": "base", "data": "rows", "lora": {"r": 8}},
    },
}


def refusal(text: str, tmp_path: Path, *overrides: str, until: str | None = None) -> str:
    """What is said of a recipe with the real stages; its form is checked here, for all."""
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(PosttrainError) as error:
        build_graph(load_recipe(str(path), STAGES, overrides), STAGES, until, commit_of)
    said = str(error.value)
    assert "\n" not in said and said[-1] in ".?" and not said.endswith("..")
    return said


def changed(**steps: dict[str, Any]) -> str:
    """The good recipe with keys of steps replaced."""
    made = {name: {**step, **steps.get(name, {})} for name, step in GOOD["steps"].items()}  # type: ignore[attr-defined]
    return yaml.safe_dump({**GOOD, "steps": made}, sort_keys=False)


def test_a_good_recipe_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(changed())
    recipe = load_recipe(str(tmp_path / "r.yaml"), STAGES)
    assert [node.name for node in build_graph(recipe, STAGES, None, commit_of)] == ["base", "rows", "sft"]
    assert [node.name for node in build_graph(recipe, STAGES, "rows", commit_of)] == ["rows"]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"sft": {"learnin_rate": 1}}, r"steps\.sft\.learnin_rate: unknown key .*; allowed: .*'learning_rate'\?"),
        ({"sft": {"lora": {"rr": 1}}}, r"steps\.sft\.lora\.rr: unknown key 'rr'; allowed: lora_alpha, .* mean 'r'\?"),
        ({"sft": {"lora": {"r": "x"}}}, r"steps\.sft\.lora\.r: found 'x'; .*integer.*\. Correct r\."),
        ({"sft": {"lora": {"r": 0}}}, r"steps\.sft\.lora\.r: found 0; .*greater than or equal to 1"),
        ({"sft": {"lora": 3}}, r"steps\.sft\.lora: found 3; .*"),
        ({"sft": {"learning_rate": "nan"}}, r"steps\.sft\.learning_rate: found 'nan'; .*finite"),
        ({"sft": {"learning_rate": [1]}}, r"steps\.sft\.learning_rate: found a list; .*number"),
        ({"sft": {"seed": -1}}, r"steps\.sft\.seed: found -1; .*"),
        ({"sft": {"kind": "stf"}}, r"steps\.sft: kind is 'stf'; allowed: .*'sft'\?"),
        ({"sft": {"kind": "samples"}}, r"steps\.sft: kind is 'samples'; allowed: base, "),
        ({"sft": {"kind": ["sft"]}}, r"steps\.sft: kind is \['sft'\]; allowed: base, "),
        ({"sft": {"data": "row"}}, r"steps\.sft\.data: no step 'row'; there is base, rows. Did you mean 'rows'\?"),
        ({"sft": {"data": "base"}}, r"steps\.sft\.data: step 'base' \(base\) makes model; rows is needed\. .*: rows\."),
        ({"sft": {"model": "rows"}}, r"steps\.sft\.model: step 'rows' \(generate\) makes rows; model is needed\."),
        ({"sft": {"model": "sft"}}, r"steps go round in a circle: sft -> sft"),
        ({"base": {"model": "sft"}}, r"steps go round in a circle: base -> sft -> base"),
        ({"base": {"model": "./absent/dir"}}, r"steps\.base\.model: no step, file or directory './absent/dir'; .*"),
        ({"base": {"model": "~nobody-such/x/y"}}, r"steps\.base\.model: no step, file or directory"),
        ({"base": {"model": "a\0b"}}, r"steps\.base\.model: no step, file or directory"),
        ({"base": {"model": "x" * 5000}}, r"steps\.base\.model: no step, file or directory"),
        ({"base": {"model": "org/../name"}}, r"steps\.base\.model: no step, file or directory"),
        ({"base": {"architecture": {}}}, r"steps\.base: found a dict; exactly one of 'model' and 'architecture'"),
        ({"base": {"corpus": {"source": "absent.jsonl"}}}, r"steps\.base\.corpus\.source: found 'absent\.jsonl'; .*"),
        ({"rows": {"source": "absent.jsonl", "generator": "backtranslate"}}, r"steps\.rows\.source: no step, file or"),
        ({"sft": {"data": None}}, r"steps\.sft\.data: found None; .*string"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_its_place_and_the_way_out(steps: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert re.search(r"r\.yaml: " + said, found := refusal(changed(**steps), tmp_path)), found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- base\n- sft\n", r"r\.yaml: found a list; a mapping with 'name' and 'steps'"),
        ("", r"r\.yaml: empty; a recipe is needed"),
        ("# only a comment\n", r"r\.yaml: empty; a recipe is needed"),
        ("name: r\n", r"r\.yaml: 'steps' is missing or empty"),
        ("name: r\nsteps: [a]\n", r"'steps' is missing or empty"),
        ("name: r\nsteps:\n", r"'steps' is missing or empty"),
        ("name: r\nsetps: {}\n", r"unknown key 'setps'; allowed: name, .* 'steps'\?"),
        ("name: r\nsteps: {sft: 3}\n", r"steps\.sft: kind is None; allowed: base"),
        ("name: r\nname: r\nsteps: {}\n", r"r\.yaml, line 2, column 1: duplicate key 'name'; each key once"),
        ("name: r\nsteps: {a: {kind: base, kind: sft}}\n", r"line 2, column 25: duplicate key 'kind'"),
        ("name: r\nsteps: {a: {1: base}}\n", r"line 2, column 13: the key '1'; text as a key"),
        ("name: r\nsteps: {a: [\n", r"line 3, column 1: .*\. Correct the YAML there"),
        ("name: r\nsteps: &s {a: *s}\n", r"line 2, column \d+: an alias inside what it names"),
        ("name: !!python/object:os.system r\n", r"the tag tag:yaml.org,2002:python/object:os.system; plain values"),
        ("name: !!set {r}\n", r"the tag"),
        ("name: !!int x\n", r"the tag"),
        ("name: " + "9" * 5000 + "\n", r"not YAML that can be read"),
        ("name: " + "[" * 20_000 + "\n", r"not YAML that can be read"),
        ('name: "\\ud800"\n', r"half a character"),
        ("name: a\0b\n", r"not YAML that can be read"),
        ("name: ../../x\nsteps: {}\n", r"name: found '\.\./\.\./x'; at most 64 letters"),
        ("name: r\nsteps: {../x: {kind: base}}\n", r"steps: found '\.\./x'; at most 64 letters, digits, _ and -"),
        ('name: r\nsteps: {"a\\0b": {kind: base}}\n', r"steps: found 'a\\x00b'; at most 64"),
        ("name: r\nsteps: {/etc: {kind: base}}\n", r"steps: found '/etc'; at most 64"),
        ("name: r\nsteps: {a.judge: {kind: base}}\n", r"steps: found 'a\.judge'; at most 64"),
        ("name: r\nsteps: {judge: {kind: base}}\n", r"steps\.judge: a recipe has a key of this name"),
        (f"name: r\nsteps: {{{'a' * 65}: {{kind: base}}}}\n", r"at most 64"),
        ("name: r\ngate: {on_fail: stpo}\nsteps: {a: {kind: generate}}\n", r"gate\.on_fail: found 'stpo'; .*'warn' or"),
        ("name: r\nseed: x\nsteps: {a: {kind: generate}}\n", r"seed: found 'x'"),
        ("name: r\njudge: {}\nsteps: {a: {kind: generate}}\n", r"judge\.prompts: found nothing; 'prompts' is needed"),
        ("name: r\njudge: {prompts: no.jsonl}\nsteps: {a: {kind: generate}}\n", r"judge\.prompts: found 'no\.jsonl'; "),
        ("name: r\njudge: {prompts: r.yaml, rubik: 3}\nsteps: {}\n", r"'steps' is missing"),
    ],
)  # fmt: skip
def test_a_wrong_file_names_its_line_and_the_way_out(text: str, said: str, tmp_path: Path) -> None:
    assert re.search(said, found := refusal(text, tmp_path)), found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"judge\.prompts: found '.*p\.jsonl'; this file is empty; one with content is needed"),
        ("\n", "holds no rows"),
        ('{"id": "a"}\n', r"row 1: found id 'a' with prompt 'None'"),
        ('{"id": "a", "prompt": " "}\n', "row 1: "),
        ('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}\n', "row 2: found id 'a' with prompt 'y'; an 'id'"),
        ('{"id": "a", "prompt": "x"\n', "line 1: not JSON"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_used_are_refused_before_training(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    text = yaml.safe_dump({**GOOD, "judge": {"prompts": str(tmp_path / "p.jsonl")}})
    assert re.search(said, found := refusal(text, tmp_path)), found
    judge = {"prompts": "eval/prompts/tinystories.jsonl", "canaries": str(tmp_path / "p.jsonl")}
    found = refusal(yaml.safe_dump({**GOOD, "judge": judge}), tmp_path)
    assert re.search(said.replace("prompts", "canaries"), found), found


def test_a_judge_that_cannot_be_tested_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "x"}\n')
    judge = {"prompts": str(tmp_path / "p.jsonl"), "canaries": str(tmp_path / "p.jsonl")}
    found = refusal(yaml.safe_dump({**GOOD, "judge": judge}), tmp_path)
    assert re.search(r"p\.jsonl: fewer than 40 rows with 'words' and a 'reference' of 6 sentences", found), found


def test_a_gate_on_an_axis_that_the_rubric_lacks_is_refused_before_training(tmp_path: Path) -> None:
    text = yaml.safe_dump({**GOOD, "judge": {"prompts": "eval/prompts/tinystories.jsonl"}})
    for override, step in (("gate.axis=beauty", "base"), ("sft.gate.axis=beauty", "sft")):
        found = refusal(text, tmp_path, override)
        assert re.search(rf"steps\.{step}\.gate\.axis: 'beauty' is no axis of .*; there is grammar, ", found), found


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sft.lora.rr=1", r"steps\.sft\.lora\.rr: unknown key 'rr'"),
        ("stf.seed=1", r"--set stf\.seed: no step 'stf'; there is base, rows, .* mean 'sft'\?"),
        ("sft.seed", r"--set sft\.seed: found no KEY=VALUE"),
        ("=1", r"found no KEY=VALUE"),
        ("sft..r=1", r"found no KEY=VALUE"),
        ("sft.seed.deep=1", r"steps\.sft\.seed"),
        ("sft.model.deep=1", r"--set sft\.model\.deep: 'model' is 'base'; only a mapping has parts"),
        ("sft.seed=[1", r"--set sft\.seed, line 1"),
        ("sft=3", r"steps\.sft: kind is None"),
        ("name=../x", r"name: found '\.\./x'"),
    ],
)  # fmt: skip
def test_a_bad_override_is_refused(override: str, said: str, tmp_path: Path) -> None:
    assert re.search(said, found := refusal(changed(), tmp_path, override)), found


def test_an_unknown_step_to_stop_at_is_refused(tmp_path: Path) -> None:
    assert "no step 'stf'; there is base, rows, sft. Did you mean 'sft'?" in refusal(changed(), tmp_path, until="stf")


def test_a_missing_recipe_names_the_nearest(tmp_path: Path) -> None:
    for name in ("tinystorie", "../tinystorie", "no/such.yaml", "x" * 5000, str(tmp_path)):
        with pytest.raises(PosttrainError, match=r"^recipe .*: no file .*; there is .*[.?]$"):
            load_recipe(name, STAGES)
    with pytest.raises(PosttrainError, match="Did you mean 'tinystories'"):
        load_recipe("tinystorie", STAGES)


def test_overrides_change_one_step_and_no_other_that_shares_an_alias(tmp_path: Path) -> None:
    raw = raw_recipe(tmp_path)
    shared = {"r": 8}
    raw["steps"]["sft"]["lora"] = raw["steps"].setdefault("two", {**raw["steps"]["sft"]})["lora"] = shared
    path = tmp_path / "fake.yaml"
    path.write_text(yaml.dump(raw))
    assert "*id" in path.read_text()
    steps = load_recipe(str(path), FAKES, ["two.lora.r=9", "two.learning_rate=1e-4", "two.trainer.eps=1e-8"]).steps
    assert (steps["two"].lora.r, steps["sft"].lora.r) == (9, 8)  # type: ignore[attr-defined]
    assert steps["two"].learning_rate == 1e-4 and steps["two"].trainer == {"eps": 1e-8}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("-2.5e+3", -2500.0), ("5e-3", 5e-3), (".5", 0.5), ("1.", 1.0), ("60_000", 60000),
        ("-3", -3), ("true", True), ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("010", "010"),
        ("2024-01-01", "2024-01-01"),
        ("e-4", "e-4"), ("1e", "1e"), (".", "."), ("~", None), ("'1'", "1"), (".nan", ".nan"), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_are_what_people_mean(text: str, value: object) -> None:
    found = strict_yaml.parse(text, "x") if text != "<<" else value
    assert found == value and type(found) is type(value)


def test_merge_keys_and_aliases_work() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n"
    assert strict_yaml.parse(text, "x") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


@pytest.mark.timeout(30)  # expanded, it would take longer than anybody waits
@pytest.mark.parametrize("line", ["a{0}: &a{0} [{1}]", "a{0}: &a{0} {{<<: [{1}]}}"])
def test_an_alias_bomb_is_refused_before_it_expands(line: str, tmp_path: Path) -> None:
    """Ten to the twentieth values; by merge keys too, which a loader expands while it reads."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [line.format(level, ", ".join([f"*a{level - 1}"] * 10)) for level in range(1, 21)]
    assert "expands to more than 10,000 values" in refusal("\n".join(lines), tmp_path)
    (tmp_path / "few.yaml").write_text("\n".join(lines[:4]))  # negative control: a thousand values are fine
    assert strict_yaml.read(tmp_path / "few.yaml")


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(PosttrainError, match="not UTF-8 text"):
        load_recipe(str(tmp_path / "r.yaml"), STAGES)


def test_a_stage_may_refuse_its_config_before_anything_runs(tmp_path: Path) -> None:
    def check(config: Any, where: str) -> None:
        if (config.minimum or 0) > 10:
            raise PosttrainError(f"{where}.minimum: found {config.minimum}; at most 10 is allowed. Lower it.")

    table = {**FAKES, "judge": replace(FAKES["judge"], check=check)}
    path = write_recipe(tmp_path)
    with pytest.raises(PosttrainError, match=r"fake\.yaml: steps\.rows\.gate\.minimum: found 11\.0; "):
        build_graph(load_recipe(str(path), table, ["gate.minimum=11"]), table, None, commit_of)
    assert build_graph(load_recipe(str(path), table, ["gate.minimum=10"]), table, None, commit_of)


@pytest.mark.timeout(30)  # walked path by path, it would take two to the thirtieth steps
def test_wide_diamonds_are_planned_at_once(tmp_path: Path) -> None:
    raw = raw_recipe(tmp_path, judged=False)
    for level in range(30):
        raw["steps"][f"d{level}"] = {"kind": "sft", "model": f"d{level - 1}" if level else "base", "data": "rows"}
    assert len(graph(write_recipe(tmp_path, raw), until="d29")[1]) == 32
