"""Runs a graph: what is in the store is used, what is not is made, and every node is named in run.json."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from posttrain.chain import provenance
from posttrain.chain.graph import Node
from posttrain.chain.identity import stable
from posttrain.chain.recipe import Gate, Recipe
from posttrain.chain.stage import Input, Progress, StageContext
from posttrain.chain.store import WORK, Artifact, Store, plain_disk_errors
from posttrain.errors import GateFailed, PosttrainError
from posttrain.rows import write_text


@dataclass(frozen=True)
class Done:
    """One node of a run: its artifact, and whether it was there already."""

    node: Node
    artifact: Artifact
    cached: bool


class Screen(Protocol):
    """What a run tells people."""

    def say(self, text: str) -> None: ...
    def progress(self, name: str) -> Progress: ...
    def done(self, done: Done) -> None: ...


def run_chain(
    recipe: Recipe, nodes: Sequence[Node], store: Store, screen: Screen, rerun: frozenset[str] = frozenset()
) -> list[Done]:
    """Make every node that is not in the store. Raises GateFailed when a judge says so and the gate stops."""
    store.check_writable()
    finished: dict[str, Done] = {}
    for node in nodes:
        with plain_disk_errors(store.root):
            done = _obtain(node, finished, store, screen, again=node.step in rerun)
        finished[node.name] = done
        _name_it(recipe, store, list(finished.values()))
        screen.done(done)
        _gate(recipe.gate, done, screen)
    return list(finished.values())


def _obtain(node: Node, finished: Mapping[str, Done], store: Store, screen: Screen, again: bool) -> Done:
    if not again and (artifact := store.find(node.stage.kind, node.identity)):
        _drift(node, artifact, screen)
        return Done(node, artifact, cached=True)
    with store.owned(node.stage.kind, node.identity):
        if again:
            store.forget_partial(node.stage.kind, node.identity)
        if not again and (artifact := store.find(node.stage.kind, node.identity)):
            return Done(node, artifact, cached=True)  # another process made it while this one waited
        return Done(node, _make(node, finished, store, screen), cached=False)


def _make(node: Node, finished: Mapping[str, Done], store: Store, screen: Screen) -> Artifact:
    inputs = {field: _input(value, finished) for field, value in node.inputs.items()}
    partial = store.partial(node.stage.kind, node.identity)
    context = StageContext(inputs, partial, partial / WORK, screen.progress(node.name), screen.say)
    started = time.perf_counter()
    try:
        metrics = node.stage.run(node.config, context)
    except KeyboardInterrupt:
        kept = any((partial / WORK).rglob("*"))
        state = "its work so far is kept" if kept else "nothing of it was kept yet"
        screen.say(f"{node.name}: interrupted; {state}. Run the same command to continue.")
        raise
    record = {
        "kind": node.stage.kind,
        "version": node.stage.version,
        "identity": node.identity,
        "config": stable(node.config),
        "inputs": {
            field: {"identity": value.identity, "reference": value.reference} for field, value in inputs.items()
        },
        "metrics": stable(metrics),
        "provenance": provenance.record(node.stage.sources, time.perf_counter() - started),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return store.complete(partial, record)


def _input(value: str | Input, finished: Mapping[str, Done]) -> Input:
    if isinstance(value, Input):
        return value
    artifact = finished[value].artifact
    return Input(artifact.path, artifact.identity, value, artifact.record["metrics"])


def _drift(node: Node, artifact: Artifact, screen: Screen) -> None:
    if artifact.record["provenance"]["source"] != provenance.source_hash(node.stage.sources):
        screen.say(
            f"{node.name}: cached, but its code has changed since; --rerun {node.step} makes it again with the new"
        )


def _name_it(recipe: Recipe, store: Store, finished: Sequence[Done]) -> None:
    """runs/RECIPE/run.json and a link for each node, so that people find artifacts by name."""
    folder = run_folder(recipe.name, store)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "name": done.node.name,
            "kind": done.node.stage.kind,
            "identity": done.node.identity,
            "entry": done.artifact.path.name,
            "cached": done.cached,
            "seconds": done.artifact.record["provenance"]["seconds"],
        }
        for done in finished
    ]
    write_text(folder / "run.json", json.dumps({"recipe": recipe.name, "nodes": rows}, indent=1) + "\n")
    for done in finished:
        link = folder / done.node.name
        if link.is_symlink() or link.exists():
            link.unlink()
        link.symlink_to(os.path.relpath(done.artifact.path, folder))


def run_folder(name: str, store: Store) -> Path:
    """Where a recipe's run is named: beside the store."""
    return store.root.parent / name


def _gate(gate: Gate, done: Done, screen: Screen) -> None:
    metrics = done.artifact.record["metrics"]
    if metrics.get("verdict") != "FAIL":
        return
    text = f"{done.node.step}: the judge says FAIL: {metrics['why']}."
    if gate.on_fail == "stop":
        raise GateFailed(text + " The chain stops here; 'gate: {on_fail: warn}' lets it go on.")
    screen.say(text + " Going on (gate: on_fail: warn).")


def read_run(name: str, store: Store) -> list[tuple[dict[str, Any], Artifact]]:
    """The nodes of the latest run of a recipe with their artifacts."""
    path = run_folder(name, store) / "run.json"
    if not path.is_file():
        raise PosttrainError(f"{name}: has no run in {store.root.parent}. Run it first: posttrain run {name}.")
    found = []
    for row in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        artifact = store.find(row["kind"], row["identity"])
        if artifact is None:
            raise PosttrainError(f"{name}: {row['entry']} is no longer in {store.root}. Run it again.")
        found.append((row, artifact))
    return found

