"""The graph of a recipe: steps, the judges that close them, what feeds what, and the identity of each node."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.chain.identity import digest, sha256_path
from posttrain.chain.recipe import JudgeSettings, Recipe, find_path, nearest
from posttrain.chain.stage import Input, Makes, Stage, StepConfig
from posttrain.errors import PosttrainError


@dataclass(frozen=True)
class Node:
    """One thing to make: a step of the recipe, its samples, or its judge."""

    name: str
    stage: Stage
    config: StepConfig
    inputs: Mapping[str, "str | Input"]  # config field -> node name, or something outside the chain
    identity: str

    @property
    def step(self) -> str:
        return self.name.split(".")[0]


def build_graph(
    recipe: Recipe, table: Mapping[str, Stage], until: str | None, revision: Callable[[str], str]
) -> list[Node]:
    """Nodes in an order in which each comes after its inputs; `until` keeps one step and what it needs.

    `revision` turns a hub id into the commit that it stands for.
    """
    order = _order(recipe, table)
    if until is not None:
        check_steps(recipe, [until])
        order = [step for step in order if step in _needed(recipe, table, until)]
    nodes: dict[str, Node] = {}
    for step in order:
        for node in _nodes_of(step, recipe, table, nodes, revision):
            nodes[node.name] = node
    return list(nodes.values())


def check_steps(recipe: Recipe, steps: Sequence[str]) -> None:
    """Refuse a step that the recipe does not have."""
    names = list(recipe.steps)
    for step in steps:
        if step not in names:
            raise PosttrainError(
                f"{recipe.where}: no step '{step}'; there is {', '.join(names)}{nearest(step, names)}."
            )


def _references(config: StepConfig, stage: Stage) -> dict[str, str]:
    return {field: str(value) for field in stage.inputs if (value := getattr(config, field)) is not None}


def _needed(recipe: Recipe, table: Mapping[str, Stage], step: str) -> set[str]:
    config = recipe.steps[step]
    needed = {step}
    for reference in _references(config, table[config.kind]).values():
        if reference in recipe.steps:
            needed |= _needed(recipe, table, reference)
    return needed


def _order(recipe: Recipe, table: Mapping[str, Stage]) -> list[str]:
    done: list[str] = []

    def visit(step: str, path: tuple[str, ...]) -> None:
        if step in path:
            circle = " -> ".join([*path[path.index(step) :], step])
            raise PosttrainError(f"{recipe.where}: steps go round in a circle: {circle}. Break it.")
        if step in done:
            return
        config = recipe.steps[step]
        stage = table[config.kind]
        for field, reference in _references(config, stage).items():
            if reference in recipe.steps:
                _check_kind(recipe, table, step, field, reference)
                visit(reference, (*path, step))
            elif field not in stage.outside:
                names = [name for name in recipe.steps if name != step]
                raise PosttrainError(
                    f"{recipe.where}: steps.{step}.{field}: no step '{reference}'; "
                    f"there is {', '.join(names)}{nearest(reference, names)}."
                )
        done.append(step)

    for step in recipe.steps:
        visit(step, ())
    return done


def _check_kind(recipe: Recipe, table: Mapping[str, Stage], step: str, field: str, reference: str) -> None:
    allowed = table[recipe.steps[step].kind].inputs[field]
    made: Makes = table[recipe.steps[reference].kind].makes
    if made not in allowed:
        fitting = [name for name, config in recipe.steps.items() if table[config.kind].makes in allowed]
        raise PosttrainError(
            f"{recipe.where}: steps.{step}.{field}: step '{reference}' ({recipe.steps[reference].kind}) makes {made}; "
            f"{' or '.join(sorted(allowed))} is needed. Name one of: {', '.join(fitting) or 'none in this recipe'}."
        )


def _nodes_of(
    step: str,
    recipe: Recipe,
    table: Mapping[str, Stage],
    nodes: Mapping[str, Node],
    revision: Callable[[str], str],
) -> list[Node]:
    config = recipe.steps[step]
    stage = table[config.kind]
    inputs: dict[str, str | Input] = {}
    for field, reference in _references(config, stage).items():
        where = f"{recipe.where}: steps.{step}.{field}"
        inputs[field] = reference if reference in recipe.steps else _outside(reference, where, revision)
    node = _node(step, stage, config, inputs, nodes)
    made = [node]
    if recipe.judge is not None:
        made += _closing(node, recipe.judge, table, {**nodes, step: node})
    return made


def _closing(node: Node, judge: JudgeSettings, table: Mapping[str, Stage], nodes: Mapping[str, Node]) -> list[Node]:
    """The nodes that close a step: samples of a model, then the verdicts; rows are judged as they are."""
    settings = judge.model_dump()
    judged, made = node.name, []
    if node.stage.makes == "model":
        samples = _config(table["samples"], {**settings, "model": node.name, "seed": node.config.seed})
        sampled = _node(f"{node.name}.samples", table["samples"], samples, {"model": node.name}, nodes)
        judged, made = sampled.name, [sampled]
        nodes = {**nodes, sampled.name: sampled}
    inputs: dict[str, str | Input] = {"judged": judged}
    previous = node.inputs.get("model")
    if isinstance(previous, str):
        inputs["previous"] = f"{previous}.judge"
    verdicts = _config(table["judge"], {**settings, **inputs, "seed": node.config.seed})
    return [*made, _node(f"{node.name}.judge", table["judge"], verdicts, inputs, nodes)]


def _config(stage: Stage, settings: dict[str, Any]) -> StepConfig:
    known = {key: value for key, value in settings.items() if key in stage.config.model_fields}
    return stage.config.model_validate({**known, "kind": stage.kind})


def _node(
    name: str, stage: Stage, config: StepConfig, inputs: Mapping[str, str | Input], nodes: Mapping[str, Node]
) -> Node:
    identities = {
        field: nodes[value].identity if isinstance(value, str) else value.identity
        for field, value in inputs.items()
    }
    plain = config.model_copy(update=dict.fromkeys(stage.inputs))  # inputs count by identity, not by name
    what = {"kind": stage.kind, "version": stage.version, "config": plain, "inputs": identities}
    return Node(name, stage, config, inputs, digest(what))


def _outside(reference: str, where: str, revision: Callable[[str], str]) -> Input:
    path = find_path(reference)
    if path.exists():
        return Input(path, sha256_path(path), reference)
    if reference.count("/") == 1 and not reference.startswith((".", "/", "~")):
        return Input(Path(reference), f"hub:{reference.split('@')[0]}@{revision(reference)}", reference)
    raise PosttrainError(
        f"{where}: no step, file or directory '{reference}'; allowed: a step's name, a path, or a hub id "
        "'org/name@revision'. Check the spelling."
    )
