"""The graph of a recipe: steps, the judges that close them, what feeds what, and the identity of each node."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.chain.identity import digest, sha256_path
from posttrain.chain.paths import find_path
from posttrain.chain.recipe import JudgeSettings, Recipe, check_steps
from posttrain.chain.references import endpoints, field_of, references, unnamed
from posttrain.chain.stage import Input, Stage, StepConfig
from posttrain.errors import PosttrainError

SAMPLED = ("model", "files")  # what is asked the evaluation's prompts before it is judged
HUB_ID = re.compile(r"(?!.*(--|\.\.))(\w[\w.-]{0,95}/\w[\w.-]{0,95})(@\w[\w./-]*)?", re.ASCII)


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
        check_steps(recipe.steps, [until], recipe.where)
        order = _needed(recipe, table, until, order)
    nodes: dict[str, Node] = {}
    for step in order:
        node = _step_node(step, recipe, table, nodes, revision)
        nodes[step] = node
        if recipe.judge is not None and node.stage.makes != "pairs":  # pairs come from verdicts
            _close(node, recipe, recipe.judge, table, nodes)
    _check_among(list(nodes.values()), recipe.where)
    return list(nodes.values())


def _check_among(nodes: Sequence[Node], where: str) -> None:
    """Let each stage refuse to stand in one chain with these models: a judge is none of those that it judges."""
    inputs = [value for node in nodes for value in node.inputs.values()]
    models = [value.reference for value in inputs if isinstance(value, Input)]
    models += [name for node in nodes for name in endpoints(node.config, node.stage)]
    for node in nodes:
        if node.stage.among is not None:
            node.stage.among(node.config, models, where)


def _references(recipe: Recipe, table: Mapping[str, Stage], step: str) -> dict[str, str]:
    return references(recipe.steps[step], table[recipe.steps[step].kind])


def _needed(recipe: Recipe, table: Mapping[str, Stage], until: str, order: list[str]) -> list[str]:
    needed = {until}
    for step in reversed(order):
        if step in needed:
            needed |= set(_references(recipe, table, step).values())
    return [step for step in order if step in needed]


def _order(recipe: Recipe, table: Mapping[str, Stage]) -> list[str]:
    done: dict[str, None] = {}

    def visit(step: str, path: tuple[str, ...]) -> None:
        if step in path:
            circle = " -> ".join([*path[path.index(step) :], step])
            raise PosttrainError(f"{recipe.where}: steps go round in a circle: {circle}. Break it.")
        if step in done:
            return
        for field, reference in _references(recipe, table, step).items():
            if reference in recipe.steps:
                _check_kind(recipe, table, step, field, reference)
                visit(reference, (*path, step))
            elif field_of(field) not in table[recipe.steps[step].kind].outside:
                others = [name for name in recipe.steps if name != step]
                check_steps(dict.fromkeys(others), [reference], f"{recipe.where}: steps.{step}.{field}")
        done[step] = None

    for step in recipe.steps:
        visit(step, ())
    return list(done)


def _check_kind(recipe: Recipe, table: Mapping[str, Stage], step: str, field: str, reference: str) -> None:
    allowed = table[recipe.steps[step].kind].inputs[field_of(field)]
    made = table[recipe.steps[reference].kind].makes
    if made not in allowed:
        fitting = [name for name, config in recipe.steps.items() if table[config.kind].makes in allowed]
        raise PosttrainError(
            f"{recipe.where}: steps.{step}.{field}: step '{reference}' ({recipe.steps[reference].kind}) "
            f"makes {made}; {' or '.join(sorted(allowed))} is needed. "
            f"Name one of: {', '.join(fitting) or 'none in this recipe'}."
        )


def _step_node(
    step: str,
    recipe: Recipe,
    table: Mapping[str, Stage],
    nodes: Mapping[str, Node],
    revision: Callable[[str], str],
) -> Node:
    config = recipe.steps[step]
    where = f"{recipe.where}: steps.{step}"
    inputs: dict[str, str | Input] = {}
    for field, reference in _references(recipe, table, step).items():
        inside = reference in recipe.steps
        kind = "datasets/" if field_of(field) in table[config.kind].data_sets else ""
        inputs[field] = reference if inside else _outside(reference, f"{where}.{field}", revision, kind)
    if "training" in table[config.kind].inputs and "training" not in inputs and isinstance(inputs.get("model"), str):
        found = _training(nodes[str(inputs["model"])], nodes)
        config, inputs = config.model_copy(update=found), {**inputs, **found}
    return _node(step, table[config.kind], config, inputs, nodes, where)


def _close(
    node: Node, recipe: Recipe, judge: JudgeSettings, table: Mapping[str, Stage], nodes: dict[str, Node]
) -> None:
    """Add the nodes that close a step: samples of a model or of each exported file, then the verdicts.

    Rows are judged as they are. Of an export's files the first is closed under the step's own name, others beside it.
    """
    settings = {**judge.model_dump(), **recipe.gates[node.name].ruling(), "seed": node.config.seed}

    def add(name: str, kind: str, inputs: dict[str, str | Input], where: str, **more: Any) -> None:
        stage = table[kind]
        known = {key: value for key, value in settings.items() if key in stage.config.model_fields}
        config = stage.config.model_validate({**known, **inputs, **more, "kind": kind})
        nodes[f"{name}.{kind}"] = _node(f"{name}.{kind}", stage, config, inputs, nodes, where)

    gate = f"{recipe.where}: steps.{node.name}.gate"
    for name, how in closed_as(node).items():
        if node.stage.makes in SAMPLED:
            add(name, "samples", {"model": node.name}, f"{recipe.where}: judge", **how)
        add(name, "judge", judge_inputs(node, nodes, name), gate)


def closed_as(node: Node) -> dict[str, dict[str, str]]:
    """Names under which a step is closed, with what its samples are told: one, or one for each exported file."""
    if node.stage.makes != "files":
        return {node.name: {}}
    first, *others = node.config.model_dump()["formats"]
    return {node.name: {"format": first}, **{f"{node.name}.{name}": {"format": name} for name in others}}


def judge_inputs(node: Node, nodes: Mapping[str, Node], name: str | None = None) -> dict[str, str | Input]:
    """What a step's judge reads: samples or rows, samples and verdicts of the step before, and the training rows."""
    judged = f"{name or node.name}.samples" if node.stage.makes in SAMPLED else node.name
    before = node.inputs.get("model")
    compared = {"before": f"{before}.samples", "previous": f"{before}.judge"} if isinstance(before, str) else {}
    return {"judged": judged, **compared, **_training(node, nodes)}


def _training(node: Node, nodes: Mapping[str, Node]) -> dict[str, str | Input]:
    """The rows that a judged model was trained on last: of all steps that feed it, the nearest one that makes rows.

    Of two equally near ones it is the one named in the earlier input field. Rows themselves have none.
    """
    feeding = [] if node.stage.makes == "rows" else [node.name]
    for name in feeding:  # grows on the way, nearest first
        if nodes[name].stage.makes == "rows":
            return {"training": name}
        named = [value for value in nodes[name].inputs.values() if isinstance(value, str)]
        feeding += [value for value in dict.fromkeys(named) if value not in feeding]
    return {}


def _node(
    name: str,
    stage: Stage,
    config: StepConfig,
    inputs: Mapping[str, str | Input],
    nodes: Mapping[str, Node],
    where: str,
) -> Node:
    if stage.check is not None:
        stage.check(config, where)
    return named_node(name, stage, config, inputs, nodes)


def named_node(
    name: str, stage: Stage, config: StepConfig, inputs: Mapping[str, str | Input], nodes: Mapping[str, Node]
) -> Node:
    """A node with the identity that follows from what it is and from what goes into it."""
    identities = {
        field: nodes[value].identity if isinstance(value, str) else value.identity for field, value in inputs.items()
    }
    what = {"kind": stage.kind, "version": stage.version, "config": unnamed(config, stage), "inputs": identities}
    also = stage.also(config) if stage.also is not None else None
    return Node(name, stage, config, inputs, digest(what if also is None else {**what, "also": also}))


def _outside(reference: str, where: str, revision: Callable[[str], str], kind: str = "") -> Input:
    """A path or a hub id as an input; `kind` is "datasets/" where the id is a data set's, as the hub itself has it."""
    path = find_path(reference)
    if os.path.isfile(path / "adapter_config.json"):
        raise PosttrainError(
            f"{where}: '{reference}' is an adapter, whose weights alone have no identity; a whole model "
            "is needed. Merge it into its base first, or name the step that makes it."
        )
    if os.path.exists(path):
        return Input(path, sha256_path(path), reference)
    if HUB_ID.fullmatch(reference) and not find_path(path.parts[0]).is_dir():  # models/typo is no hub id
        return Input(Path(reference), f"hub:{kind}{reference.split('@')[0]}@{revision(kind + reference)}", reference)
    raise PosttrainError(
        f"{where}: no step, file or directory '{reference[:200]}'; a step's name, a path, or a hub id "
        "'org/name@revision' is allowed. Check the spelling."
    )
