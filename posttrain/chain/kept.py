"""keep_previous: after a failed gate the earlier model is handed on, and every node says what it really takes.

What a step takes may depend on a verdict, which is known only when its judge has run. So a graph is built as if every
step passed. When the judge fails a step that keeps the previous model, the nodes behind it are built again with the
earlier step in its place: inputs, identity, and the step that their own judges compare them with. Nothing else carries
the decision. A step behind a failed one has the identity that it would have in a recipe that names the earlier step,
its record names what went in, and `run.json` says of it `instead` and of the failed judge `kept`. The failed model
stays in the store under its own name, for people to look at.

INCONCLUSIVE is no FAIL: the step's own model is handed on, unless the gate says `on_inconclusive: keep_previous`, for
steps such as alignment that must earn their place. JUDGE INVALID keeps nothing: a judge that failed its
canaries cannot say which of two models is the worse one, so the chain stops.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.chain.gates import StepGate
from posttrain.chain.graph import Node, judge_inputs, named_node
from posttrain.chain.references import references
from posttrain.chain.stage import Metrics
from posttrain.chain.store import Store


def kept_by(gate: StepGate, step: Node, metrics: Metrics) -> str | None:
    """The step whose model is handed on in place of `step`, by the metrics of its judge; None where it is its own."""
    return str(step.inputs["model"]) if gate.keeps_previous(metrics.get("verdict")) else None


def rebuilt(nodes: Sequence[Node], step: str, kept: str) -> list[Node]:
    """The graph with `kept` in place of `step` wherever another step takes its model."""
    old = {node.name: node for node in nodes}
    made: dict[str, Node] = {}
    for node in nodes:
        inputs = dict(node.inputs)
        if node.name == node.step:
            inputs = {field: kept if value == step else value for field, value in inputs.items()}
        elif "judged" in inputs:
            inputs = judge_inputs(made[node.step], made, node.name.removesuffix(".judge"))
        named = [value for value in inputs.values() if isinstance(value, str)]
        same = inputs == node.inputs and all(made[name] is old[name] for name in named)
        made[node.name] = node if same else named_node(node.name, node.stage, node.config, inputs, made)
    return list(made.values())


def instead(node: Node) -> dict[str, dict[str, str]]:
    """Input fields of a step for which the recipe names one step and another is taken."""
    if node.name != node.step:
        return {}
    named = references(node.config, node.stage)
    used = {field: value for field, value in node.inputs.items() if isinstance(value, str)}
    return {field: {"named": named[field], "used": used[field]} for field in used if used[field] != named[field]}


def as_it_will_run(nodes: Sequence[Node], gates: Mapping[str, StepGate], store: Store) -> list[Node]:
    """The graph as far as the verdicts in the store decide it; a step that is not judged yet counts as passed."""
    nodes = list(nodes)
    for at in range(len(nodes)):
        node = nodes[at]
        if node.stage.makes != "verdicts":
            continue
        artifact = store.look(node.stage.kind, node.identity)
        step = next(other for other in nodes if other.name == node.step)
        if artifact and (kept := kept_by(gates[node.step], step, artifact.record["metrics"])):
            nodes = rebuilt(nodes, node.step, kept)
    return nodes


def handed_on(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """From the rows of run.json: the steps whose model is not handed on, and whose model is in its place."""
    return {row["name"].split(".")[0]: row["kept"] for row in rows if row.get("kept")}
