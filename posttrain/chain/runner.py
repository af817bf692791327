"""Runs a graph: what is in the store is used, what is not is made, and every node is named in run.json."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from posttrain.chain import provenance
from posttrain.chain.energy import metered
from posttrain.chain.gates import StepGate
from posttrain.chain.graph import Node
from posttrain.chain.identity import stable
from posttrain.chain.kept import instead, kept_by, rebuilt
from posttrain.chain.recipe import Recipe, check_steps
from posttrain.chain.stage import Input, Metrics, Progress, StageContext
from posttrain.chain.store import WORK, Artifact, Store, plain_disk_errors
from posttrain.errors import GateFailed, PosttrainError
from posttrain.rows import write_text

JOURNAL = "journal.sqlite"
STOPPING = ("FAIL", "JUDGE INVALID")  # verdicts after which a chain does not go on by itself


@dataclass(frozen=True)
class Done:
    """One node of a run: its artifact, and whether it was there already.

    `kept` of a judge names the step whose model is handed on, where the judged one failed and is not.
    """

    node: Node
    artifact: Artifact
    cached: bool
    kept: str | None = None


class Screen(Protocol):
    """What a run tells people."""

    def say(self, text: str) -> None: ...
    def progress(self, name: str) -> Progress: ...
    def done(self, done: Done) -> None: ...


def run_chain(
    recipe: Recipe, nodes: Sequence[Node], store: Store, screen: Screen, rerun: frozenset[str] = frozenset()
) -> list[Done]:
    """Make every node that is not in the store. Raises GateFailed when a judge says so and the gate stops."""
    check_steps({node.step: node for node in nodes}, sorted(rerun), f"{recipe.where}: --rerun")
    finished: dict[str, Done] = {}
    with plain_disk_errors(store.root):
        store.check_writable()
        folder = run_folder(recipe.name, store)
        folder.mkdir(parents=True, exist_ok=True)
        nodes = list(nodes)
        check_ready(nodes, store, rerun)
        for at in range(len(nodes)):  # what comes next may be built anew on the way
            node = nodes[at]
            _say_instead(node, screen)
            done = obtain(recipe.name, node, finished, store, screen, again=node.step in rerun)
            step = finished.get(node.step, done).node
            done = replace(done, kept=kept_by(recipe.gates[node.step], step, done.artifact.record["metrics"]))
            finished[node.name] = done
            name_nodes(recipe.name, folder, list(finished.values()))
            screen.done(done)
            _gate(recipe.gates[node.step], done, screen)
            if done.kept:
                nodes = rebuilt(nodes, node.step, done.kept)
    return list(finished.values())


def check_ready(nodes: Sequence[Node], store: Store, rerun: frozenset[str] = frozenset()) -> None:
    """A key that is not set is said now, not after an hour of training."""
    for node in nodes:
        known = node.step not in rerun and store.look(node.stage.kind, node.identity)
        if node.stage.ready is not None and not known:
            node.stage.ready(node.config)


def _say_instead(node: Node, screen: Screen) -> None:
    for field, names in instead(node).items():
        screen.say(
            f"{node.name}: takes {names['used']} as its {field}; {names['named']} did not pass and is not handed on"
        )


def obtain(
    run: str, node: Node, finished: Mapping[str, Done], store: Store, screen: Screen, again: bool = False
) -> Done:
    """The artifact of a node of a run: from the store, or made now and put there."""
    kind, identity = node.stage.kind, node.identity
    if not again and (artifact := store.look(kind, identity)):
        store.clear_rests(artifact)  # where a run was killed just before it could
        _drift(node, artifact, screen)
        return Done(node, artifact, cached=True)
    with store.owned(kind, identity):
        if again:
            store.forget_partial(kind, identity)
        elif artifact := store.find(kind, identity):
            return Done(node, artifact, cached=True)  # another process made it while this one waited
        return Done(node, _make(run, node, finished, store, screen), cached=False)


def _make(run: str, node: Node, finished: Mapping[str, Done], store: Store, screen: Screen) -> Artifact:
    inputs = {field: _input(value, finished) for field, value in node.inputs.items()}
    partial = store.partial(node.stage.kind, node.identity)
    context = StageContext(
        inputs, run, journal_path(store), partial, partial / WORK, screen.progress(node.name), screen.say
    )
    started = time.perf_counter()
    try:
        with metered() as meter:
            metrics = node.stage.run(node.config, context)
    except KeyboardInterrupt:
        kept = any((partial / WORK).rglob("*"))
        state = "its work so far is kept" if kept else "nothing of it was kept yet"
        screen.say(f"{node.name}: interrupted; {state}. Run the same command to continue.")
        raise
    except PosttrainError:
        if not any((partial / WORK).rglob("*")):
            store.forget_partial(node.stage.kind, node.identity)
        raise
    record = {
        "kind": node.stage.kind,
        "version": node.stage.version,
        "identity": node.identity,
        "config": stable(node.config),
        "inputs": {
            field: {"identity": value.identity, "reference": value.reference} for field, value in inputs.items()
        },
        "metrics": _plain(metrics, node.name),
        "provenance": provenance.record(node.stage.sources, time.perf_counter() - started, meter.joules()),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return store.complete(partial, record)


def _plain(metrics: Metrics, name: str) -> Any:
    """A loss that is no number ends here, said plainly, and not in a record."""
    try:
        return stable(metrics, "metrics")
    except TypeError as error:
        raise PosttrainError(
            f"{name}: {error}; finite numbers, text, lists and mappings are allowed. "
            "A loss that is no number means that training diverged: lower the learning rate."
        ) from None


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


def name_nodes(name: str, folder: Path, finished: Sequence[Done]) -> None:
    """run.json in the folder and a link for the newest node, so that people find artifacts by name."""
    rows = [{**row_of(done), "entry": done.artifact.path.name} for done in finished]
    write_text(folder / "run.json", json.dumps({"recipe": name, "nodes": rows}, indent=1) + "\n")
    newest = finished[-1]
    temporary = folder / f".{newest.node.name}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(newest.artifact.path, folder))
    temporary.replace(folder / newest.node.name)


def row_of(done: Done) -> dict[str, Any]:
    """What run.json says of a node."""
    return {
        "name": done.node.name,
        "kind": done.node.stage.kind,
        "identity": done.node.identity,
        "cached": done.cached,
        "seconds": done.artifact.record["provenance"]["seconds"],
        **({"kept": done.kept} if done.kept else {}),
        **({"instead": found} if (found := instead(done.node)) else {}),
    }


def journal_path(store: Store) -> Path:
    """The journal of all remote calls of a project: beside the store."""
    return store.root.parent / JOURNAL


def run_folder(name: str, store: Store) -> Path:
    """Where a recipe's run is named: beside the store."""
    folder = store.root.parent / name
    if folder.resolve() == store.root.resolve():
        raise PosttrainError(f"recipe '{name}': the store lies in {store.root}. Rename one of the two.")
    return folder


def _gate(gate: StepGate, done: Done, screen: Screen) -> None:
    """Say what a failed gate does, or raise where it stops the chain."""
    metrics, step = done.artifact.record["metrics"], done.node.step
    if metrics.get("verdict") not in STOPPING and not done.kept:
        return
    text = f"{step}: the gate says {metrics['verdict']}: {metrics['why'].removesuffix('.')}."
    if done.kept:
        how = "on_inconclusive" if metrics["verdict"] == "INCONCLUSIVE" else "on_fail"
        screen.say(f"{text} The model of {done.kept} is handed on in its place (gate: {how}: keep_previous).")
    elif gate.on_fail == "warn":
        screen.say(f"{text} Going on (gate: on_fail: warn).")
    else:
        keep = ", keep_previous hands the earlier model on" if gate.test and metrics["verdict"] == "FAIL" else ""
        raise GateFailed(f"{text} The chain stops here; 'gate: {{on_fail: warn}}' lets it go on{keep}.")


def read_run(name: str, store: Store) -> list[tuple[dict[str, Any], Artifact]]:
    """The nodes of the latest run of a recipe with their artifacts."""
    path = run_folder(name, store) / "run.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PosttrainError(
            f"{name}: {path} is missing or cannot be read; a run is needed. Run it first: posttrain run {name}."
        ) from None
    found = [(row, store.look(row["kind"], row["identity"])) for row in rows]
    lost = [row["entry"] for row, artifact in found if artifact is None]
    if lost:
        raise PosttrainError(f"{name}: {', '.join(lost)} no longer whole in {store.root}. Run it again.")
    return [(row, artifact) for row, artifact in found if artifact is not None]
