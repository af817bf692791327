"""What a run would do, from identities and records alone: nothing is computed, nothing sent, no torch imported."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from posttrain.chain.gates import StepGate
from posttrain.chain.graph import Node
from posttrain.chain.kept import as_it_will_run, instead
from posttrain.chain.runner import journal_path
from posttrain.chain.stage import Input, Planned
from posttrain.chain.store import Artifact, Store


def plan_rows(nodes: Sequence[Node], gates: Mapping[str, StepGate], store: Store) -> list[dict[str, Any]]:
    """One row a node: name, kind, identity, `cached` or `to run`, seconds and peak MB (its own, or its kind's last).

    `instead` says where the model of an earlier step is taken, because the step that the recipe names has failed;
    `remote` what a node that is to run would ask of endpoints, at most.
    """
    last: dict[str, Mapping[str, Any]] = {}
    for entry in reversed(store.entries()):
        last[entry.record["kind"]] = entry.record["provenance"]
    rows, made = [], dict[str, Artifact | None]()
    nodes = as_it_will_run(nodes, gates, store)
    configs = {node.name: node.config for node in nodes}
    for node in nodes:
        artifact = made[node.name] = store.look(node.stage.kind, node.identity)
        known = artifact.record["provenance"] if artifact else last.get(node.stage.kind, {})
        remote = (
            None if artifact or node.stage.remote is None else node.stage.remote(_planned(node, made, configs, store))
        )
        rows.append(
            {
                "name": node.name,
                "kind": node.stage.kind,
                "identity": node.identity,
                "state": "cached" if artifact else "to run",
                "seconds": known.get("seconds"),
                "peak_memory_mb": known.get("peak_memory_mb"),
                **({"instead": found} if (found := instead(node)) else {}),
                **({"remote": asdict(remote)} if remote else {}),
            }
        )
    return rows


def _planned(node: Node, made: Mapping[str, Artifact | None], configs: Mapping[str, Any], store: Store) -> Planned:
    paths, awaited = {}, {}
    for field, value in node.inputs.items():
        artifact = None if isinstance(value, Input) else made[value]
        if isinstance(value, Input):
            paths[field] = value.path
        elif artifact is not None:
            paths[field] = artifact.path
        else:
            awaited[field] = configs[value]
    return Planned(node.config, paths, awaited, journal_path(store))
