"""Judge a finished chain again, from its stored completions and rows: nothing is sampled or trained.

Verdicts are artifacts like all others, so another judge's stand beside the first one's in the store, under an identity
of their own. They are named in a folder of their own below the run's, which has its own report.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.chain.graph import Node
from posttrain.chain.kept import handed_on, rebuilt
from posttrain.chain.recipe import Recipe, check_steps
from posttrain.chain.runner import STOPPING, Done, Screen, check_ready, name_nodes, obtain, read_run, run_folder
from posttrain.chain.store import Store, plain_disk_errors
from posttrain.errors import PosttrainError


def rejudge(
    recipe: Recipe, nodes: Sequence[Node], store: Store, screen: Screen, folder: Path, step: str | None = None
) -> list[Done]:
    """The nodes of a run, with its judges as `recipe` has them now; of `step` and those it is compared with, or all."""
    nodes = list(nodes)
    for failed, kept in handed_on([row for row, _ in read_run(recipe.name, store)]).items():
        if failed in {node.step for node in nodes}:
            nodes = rebuilt(nodes, failed, kept)
    nodes = _needed(recipe, nodes, step)
    finished: dict[str, Done] = {}
    with plain_disk_errors(store.root):
        store.check_writable()
        folder.mkdir(parents=True, exist_ok=True)
        check_ready([node for node in nodes if node.stage.makes == "verdicts"], store)
        for node in nodes:
            if node.stage.makes == "verdicts":
                done = obtain(recipe.name, node, finished, store, screen)
                screen.done(done)
            else:
                done = _stored(recipe, node, store)
            finished[node.name] = done
            name_nodes(recipe.name, folder, list(finished.values()))
    return list(finished.values())


def _needed(recipe: Recipe, nodes: Sequence[Node], step: str | None) -> list[Node]:
    """All nodes, or those that the verdict of one step rests on."""
    judges = {node.name: node.step for node in nodes if node.stage.makes == "verdicts"}
    if step is None:
        return list(nodes)
    check_steps(dict.fromkeys(judges.values()), [step], f"{recipe.where}: --step")
    needed = {name for name, of in judges.items() if of == step}
    for node in reversed(nodes):
        if node.name in needed:
            needed |= {value for value in node.inputs.values() if isinstance(value, str)}
    return [node for node in nodes if node.name in needed]


def _stored(recipe: Recipe, node: Node, store: Store) -> Done:
    artifact = store.look(node.stage.kind, node.identity)
    if artifact is None:
        raise PosttrainError(
            f"{recipe.where}: {node.name} is not in the store as this recipe has it; only what a run has made is "
            f"judged again. Run it first (posttrain run {recipe.name}), or leave out settings that change what is made."
        )
    return Done(node, artifact, cached=True)


def eval_folder(recipe: Recipe, nodes: Sequence[Node], store: Store) -> Path:
    """`runs/tinystories/eval-openai-gpt-4o-mini-story`, of the judge and its rubric."""
    judge: Any = next((node.config for node in nodes if node.stage.makes == "verdicts"), None)
    if judge is None:
        raise PosttrainError(f"{recipe.where}: 'judge' is missing, so nothing is judged; one is needed. Add 'judge:'.")
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{judge.judge}-{judge.rubric.stem}").strip("-.")
    return run_folder(recipe.name, store) / f"eval-{words}"


def failures(recipe: Recipe, done: Sequence[Done]) -> list[str]:
    """A sentence for each step that its gate would have stopped, were this judge the recipe's."""
    found = []
    for one in done:
        metrics = one.artifact.record["metrics"]
        if metrics.get("verdict") in STOPPING and recipe.gates[one.node.step].on_fail == "stop":
            found.append(f"{one.node.step}: the gate says {metrics['verdict']}: {metrics['why'].removesuffix('.')}.")
    return found
