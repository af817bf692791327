"""A finished run without a chain: its recipe, its store with the given models and exports, and its run.json."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from posttrain.chain.store import Artifact, Store


def finished_run(folder: Path, models: Mapping[str, Path], exports: Mapping[str, Mapping[str, Path]]) -> Path:
    """The recipe of a run: `models` by step, and GGUF files by format of exports of the step of that name."""
    store, rows = Store(folder / "runs/store"), []
    for step, model in models.items():
        rows.append(_row(step, "base", _stored(store, "base", step, {"": model}, None)))
    for step, files in exports.items():
        made = _stored(store, "export", step, files, _identity("base", step))
        rows.append(_row(f"{step}_export", "export", made))
    run = folder / "runs/tiny"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"recipe": "tiny", "nodes": rows}))
    recipe = folder / "tiny.yaml"
    recipe.write_text("name: tiny\nsteps:\n  base: {kind: base, model: models/storyteller-1m}\n")
    return recipe


def _identity(kind: str, step: str) -> str:
    return hashlib.sha256(f"{kind} {step}".encode()).hexdigest()


def _stored(store: Store, kind: str, step: str, files: Mapping[str, Path], made_from: str | None) -> Artifact:
    identity = _identity(kind, step)
    partial = store.partial(kind, identity)
    for place, path in files.items():
        (partial / place).mkdir(exist_ok=True)
        for file in path.iterdir() if path.is_dir() else [path]:
            shutil.copy(file, partial / place / file.name)
    inputs = {"model": {"identity": made_from}} if made_from else {}
    record = {"kind": kind, "identity": identity, "inputs": inputs, "metrics": {}, "finished": "2026-01-01"}
    return store.complete(partial, record)


def _row(name: str, kind: str, artifact: Artifact) -> dict[str, object]:
    return {"name": name, "kind": kind, "identity": artifact.identity, "entry": artifact.path.name}
