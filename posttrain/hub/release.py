"""What of a step would be pushed: its files by an allow-list, and the hub model that an adapter belongs to.

An adapter is of use to others where its base is: it goes as an adapter where the chain's base is a model on the hub,
unchanged, and merged into its base otherwise. Adapters trained one on the other go as one adapter of the first one's
base (posttrain/lm/adapters.py). What is not on the list stays here: optimizers, journals, records, checkpoints.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from posttrain.chain.recipe import check_steps
from posttrain.chain.runner import read_run
from posttrain.chain.store import Artifact, Store
from posttrain.errors import PosttrainError
from posttrain.report.records import Named
from posttrain.stages.dpo import FOR_BASE

Shape = Literal["model", "adapter", "rows", "files"]
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
)  # fmt: skip
MODEL = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
ROWS = ("train.jsonl", "test.jsonl")
RUNNABLE = (*MODEL, "*.onnx", "*.onnx.data", "generate.py", "prompt.json")  # an exported directory
GGUF = ("*.gguf", "Modelfile", "llama.cpp.md")
OF_THIS_MACHINE = ("_name_or_path", "name_or_path", "is_local", "local_files_only")  # keys of settings
HUB = "hub:"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class File(NamedTuple):
    """A file as it would be in the repository; its content lies on the disk where it needs no change."""

    name: str
    content: Path | bytes


@dataclass(frozen=True)
class Release:
    """What would be pushed, without card and lineage."""

    recipe: str
    step: str
    repo: str
    repo_type: Literal["model", "dataset"]
    shape: Shape
    nodes: Sequence[Named]  # all rows of run.json with their artifacts, in order
    base: str | None  # `org/name@commit` that an adapter belongs to; None where it is needed for nothing
    files: tuple[File, ...]
    merged: str | None = None  # why an adapter goes merged into its base


def release_of(recipe: str, store: Store, step: str, repo: str, folder: Path | None = None) -> Release:
    """A step of the latest run as repository `repo` would hold it.

    An adapter whose base is on no hub is merged into it in fp32, and written to `folder` (a new temporary directory
    unless given). Raises PosttrainError for a step without files that others can use.
    """
    if not REPOSITORY.fullmatch(repo) or len(repo) > 96 or "--" in repo or ".." in repo or repo.endswith(".git"):
        raise PosttrainError(f"--repo {repo}: no repository's name; user/name or organisation/name is allowed.")
    nodes = read_run(recipe, store)
    steps = {row["name"]: artifact for row, artifact in nodes if "." not in row["name"]}
    check_steps(steps, [step], f"{recipe}: the latest run")
    artifact = steps[step]
    shape, base, merged = _shape(recipe, step, artifact), None, None
    if shape == "adapter":
        path, base, merged = _adapter(step, steps)
        if merged:
            shape, path = "model", _merged(path, folder or Path(tempfile.mkdtemp(prefix="posttrain-merged-")))
        files = [*_named(artifact.path, TOKENIZER), *_named(path, ADAPTER)] if base else _named(path, MODEL)
    elif shape == "files":
        files = list(_exported(artifact))
    else:
        files = _named(artifact.path, ROWS if shape == "rows" else MODEL)
    kind: Literal["model", "dataset"] = "dataset" if shape == "rows" else "model"
    public = tuple(sorted((_public(file, base) for file in files), key=lambda file: file.name))
    return Release(recipe, step, repo, kind, shape, nodes, base, public, merged)


def _shape(recipe: str, step: str, artifact: Artifact) -> Shape:
    holds: dict[Shape, tuple[str, ...]] = {"adapter": ADAPTER, "rows": ROWS, "model": ("*.safetensors",)}
    if "formats" in artifact.record["metrics"]:
        return "files"
    for shape, patterns in holds.items():
        if _named(artifact.path, patterns):
            return shape
    raise PosttrainError(
        f"{recipe}: step '{step}' holds no model, rows or exported files; one of them can be pushed. Name another step."
    )


def _named(folder: Path, patterns: Sequence[str], prefix: str = "") -> list[File]:
    found = {path.name: path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()}
    return [File(prefix + name, path) for name, path in found.items()]


def _exported(artifact: Artifact) -> Iterator[File]:
    """GGUF files at the root, where llama.cpp and Ollama look; every other format in a folder of its name.

    The Modelfile names one GGUF file: of several formats the first one's goes.
    """
    formats = list(artifact.record["metrics"]["formats"])
    ggufs = [name for name in formats if name.startswith("gguf")]
    for name in formats:
        if name in ggufs:
            yield from _named(artifact.path / name, GGUF if name == ggufs[0] else GGUF[:1])
        else:
            yield from _named(artifact.path / name, RUNNABLE, f"{name}/")


def _adapter(step: str, steps: Mapping[str, Artifact]) -> tuple[Path, str | None, str | None]:
    """The adapter's directory, then its base on the hub, or why it has to be merged."""
    lowest = step
    while (below := _below(lowest, steps)) and (steps[below].path / ADAPTER[0]).is_file():
        lowest = below
    path = steps[step].path
    base, why = _base(steps[lowest].record["inputs"]["model"], below, steps)
    if base and lowest != step:
        joined = path / FOR_BASE
        if not joined.is_dir():
            return path, None, f"it was trained on the adapter of '{_below(step, steps)}' and is not one with it"
        return joined, base, None
    return path, base, why


def _below(step: str, steps: Mapping[str, Artifact]) -> str | None:
    """The step whose model this one was trained on; None where that came from outside."""
    model = steps[step].record["inputs"]["model"]
    name = str(model["reference"])
    return name if name in steps and steps[name].identity == model["identity"] else None


def _base(model: Mapping[str, str], below: str | None, steps: Mapping[str, Artifact]) -> tuple[str | None, str | None]:
    """The hub's name of what an adapter was trained on, or why it has none."""
    if below is None:
        if model["identity"].startswith(HUB):
            return model["identity"].removeprefix(HUB), None
        return None, f"its base {Path(model['reference']).name} is a directory and not on the hub"
    record = steps[below].record
    source = record["inputs"].get("model")
    if record["kind"] != "base" or source is None or not source["identity"].startswith(HUB):
        return None, f"its base is what step '{below}' made, which is not on the hub"
    config = record["config"]
    if record["metrics"]["new_token_ids"] or config.get("grow") or config.get("dtype"):
        return None, f"step '{below}' changed {source['reference']}, so that its base is not on the hub"
    return source["identity"].removeprefix(HUB), None


def _merged(adapter: Path, folder: Path) -> Path:
    """In fp32, as the model was judged: rounding the sum to half the bytes could change what it says."""
    from posttrain.exporting.companions import load_merged
    from posttrain.lm.models import save_model

    save_model(*load_merged(adapter), folder)
    return folder


def _public(file: File, base: str | None) -> File:
    """Settings without what they say of this machine; an adapter names its base as others find it."""
    if not file.name.endswith("config.json") or not isinstance(file.content, Path):
        return file
    settings: dict[str, Any] = json.loads(file.content.read_text(encoding="utf-8"))
    public = {key: value for key, value in settings.items() if key not in OF_THIS_MACHINE}
    if file.name == ADAPTER[0] and base:
        name, _, commit = base.partition("@")
        public |= {"base_model_name_or_path": name, "revision": commit}
    if public == settings:
        return file
    return File(file.name, (json.dumps(public, indent=2, ensure_ascii=False) + "\n").encode())
