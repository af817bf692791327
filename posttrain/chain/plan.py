"""What a run would do, from identities and records alone: nothing is computed, no torch is imported."""

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.chain.gates import StepGate
from posttrain.chain.graph import Node
from posttrain.chain.kept import as_it_will_run, instead
from posttrain.chain.store import Store


def plan_rows(nodes: Sequence[Node], gates: Mapping[str, StepGate], store: Store) -> list[dict[str, Any]]:
    """One row a node: name, kind, identity, `cached` or `to run`, and seconds (its own, or of its kind's last run).

    `instead` says where the model of an earlier step is taken, because the step that the recipe names has failed.
    """
    last: dict[str, float] = {}
    for entry in reversed(store.entries()):
        last[entry.record["kind"]] = entry.record["provenance"]["seconds"]
    rows = []
    for node in as_it_will_run(nodes, gates, store):
        artifact = store.look(node.stage.kind, node.identity)
        seconds = artifact.record["provenance"]["seconds"] if artifact else last.get(node.stage.kind)
        rows.append(
            {
                "name": node.name,
                "kind": node.stage.kind,
                "identity": node.identity,
                "state": "cached" if artifact else "to run",
                "seconds": seconds,
                **({"instead": found} if (found := instead(node)) else {}),
            }
        )
    return rows
