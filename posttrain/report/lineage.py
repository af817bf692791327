"""How every node was made: settings, identity, inputs, files and versions, as its record says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.report.records import Named
from posttrain.report.wording import duration, flat, moment

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Node:
    """One node of the chain as its record tells it."""

    name: str
    kind: str
    identity: str
    config: Facts
    inputs: list[tuple[str, str, str]]  # field, reference, identity
    files: Facts  # name, sha256
    made: Facts


@dataclass(frozen=True)
class Versions:
    """What nodes were made with; most runs have one set."""

    nodes: str
    facts: Facts


def lineage_of(nodes: Sequence[Named]) -> list[Node]:
    """One entry a node, in the order of the chain."""
    return [_node(row["name"], artifact.record) for row, artifact in nodes]


def _node(name: str, record: dict[str, Any]) -> Node:
    provenance = record["provenance"]
    inputs = [(field, str(value["reference"]), value["identity"]) for field, value in record["inputs"].items()]
    config = [(key, value) for key, value in flat(record["config"]) if key not in ("kind", *record["inputs"])]
    made = [
        ("finished", moment(record["finished"])),
        ("took", duration(provenance["seconds"])),
        ("stage", f"{record['kind']}, version {record['version']}"),
        ("commit", provenance["commit"] or "not known"),
        ("source", provenance["source"]),
    ]
    return Node(name, record["kind"], record["identity"], config, inputs, sorted(record["files"].items()), made)


def versions_of(nodes: Sequence[Named]) -> list[Versions]:
    """Every set of versions and machine, with the nodes that were made with it."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row, artifact in nodes:
        provenance = artifact.record["provenance"]
        machine = provenance["machine"]
        facts = [
            ("posttrain", provenance["posttrain"]),
            ("python", provenance["python"]),
            *sorted(provenance["packages"].items()),
            ("machine", f"{machine['system']} {machine['processor']}, {machine['cores']} cores"),
        ]
        found.setdefault(tuple(facts), []).append(row["name"])
    return [Versions(", ".join(names), list(facts)) for facts, names in found.items()]
