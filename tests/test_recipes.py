"""The shipped recipes: each is planned from anywhere, fits the schema, and needs no torch for that."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import commit_of

from posttrain.chain import strict_yaml
from posttrain.chain.graph import build_graph
from posttrain.chain.paths import PROJECT
from posttrain.chain.recipe import json_schema, load_recipe, parse_recipe
from posttrain.errors import PosttrainError
from posttrain.stages import STAGES

SHIPPED = sorted((PROJECT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_planned(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the project's folder and from another one; models may still be on the hub."""
    found = []
    for place in (PROJECT, tmp_path):
        monkeypatch.chdir(place)
        recipe = load_recipe(path.stem, STAGES)
        nodes = build_graph(recipe, STAGES, None, commit_of)
        found.append([node.identity for node in nodes])
        assert recipe.name == path.stem and len(nodes) >= len(recipe.steps)
    assert found[0] == found[1]


def test_a_judge_that_is_a_model_of_the_chain_is_refused_unless_that_is_meant() -> None:
    def planned(judge: str, *more: str) -> object:
        recipe = load_recipe("tinystories", STAGES, [f"judge.judge={judge}", *more])
        return build_graph(recipe, STAGES, None, commit_of)

    with pytest.raises(PosttrainError, match=r"'openai:storyteller-1m': it is the model that is judged .*allow_self"):
        planned("openai:storyteller-1m")
    planned("openai:storyteller-1m", "judge.allow_self_judging=true")
    planned("openai:storyteller-2m")


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """The part of JSON Schema that the recipe's schema uses."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(accepts(option, value, root) for option in schema[key]):
            return False
    kinds = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
        "boolean": bool, "null": type(None),
    }  # fmt: skip
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return False
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not set(schema.get("required", ())) <= value.keys():
            return False
        parts = {key: known.get(key, rest) for key in value}
        return all(
            part is not False and (part is True or accepts(part, value[key], root)) for key, part in parts.items()
        )
    return not isinstance(value, list) or all(accepts(schema.get("items", {}), item, root) for item in value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_schema_accepts_shipped_recipes_and_no_unknown_key(path: Path) -> None:
    schema = json_schema(STAGES)
    raw = strict_yaml.read(path)
    assert accepts(schema, raw, schema)
    step = next(iter(raw["steps"]))
    for wrong in (
        {**raw, "stesp": {}},
        {**raw, "steps": {**raw["steps"], step: {**raw["steps"][step], "kinnd": 1}}},
        {**raw, "steps": {**raw["steps"], step: {**raw["steps"][step], "kind": "bsae"}}},
        {**raw, "seed": "seven"},
    ):
        assert not accepts(schema, wrong, schema)
        with pytest.raises(PosttrainError):
            parse_recipe(wrong, "wrong", STAGES)


def test_a_plan_with_the_real_stages_imports_no_torch() -> None:
    code = (
        "import sys; from posttrain.chain.recipe import load_recipe; from posttrain.chain.graph import build_graph\n"
        "from posttrain.stages import STAGES\n"
        "build_graph(load_recipe('tinystories', STAGES), STAGES, None, lambda _: 'c')\n"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert answer.stdout.strip() == "[]"
