"""References that name the hub: `org/name@revision` becomes a commit, then a directory.

A data set's begins with `datasets/`, as its address on the hub does. Of a model safetensors alone are fetched: weights
in any other form are pickles, which run code when they are read.
"""

from pathlib import Path
from typing import Any, NamedTuple

from posttrain.chain.stage import Input
from posttrain.errors import PosttrainError
from posttrain.hub.data_files import CARD, named_patterns
from posttrain.hub.refusals import DATA_SETS, plain_hub_errors

WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "README.md"]  # no pickles; a licence
DATA = ["*.jsonl", "*.json", "*.jsonl.gz", "*.json.gz", "*.parquet", "README.md"]  # the card names the splits
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
CONVERTER = "https://huggingface.co/spaces/safetensors/convert"


class HubFile(NamedTuple):
    """A file that is wanted: its bytes, and whether it is here already."""

    name: str
    size: int
    here: bool


def _repository(name: str) -> tuple[str, str]:
    """The id of a repository and its type, as the hub's client takes them."""
    return name.removeprefix(DATA_SETS), "dataset" if name.startswith(DATA_SETS) else "model"


def split(reference: str) -> tuple[str, str | None]:
    """`org/name@revision` as (name, revision or None)."""
    name, _, revision = reference.partition("@")
    return name, revision or None


def resolve_revision(reference: str) -> str:
    """The commit that a hub id stands for: the hub's, or the local cache's when offline or unreachable."""
    from huggingface_hub import hf_hub_download

    name, revision = split(reference)
    repository, kind = _repository(name)
    always_there = ".gitattributes" if kind == "dataset" else "config.json"
    with plain_hub_errors(reference):
        return Path(hf_hub_download(repository, always_there, repo_type=kind, revision=revision)).parent.name


def local_directory(source: Input, subset: str | None = None, split: str | None = None) -> Path:
    """Where the files of an input lie; those on the hub are fetched at its commit, unless they are here.

    Of a model only safetensors; of a data set only the files of the `split` of the configuration `subset`, where its
    card says which these are. A repository with pickled weights alone is refused.
    """
    if not source.identity.startswith("hub:"):
        return source.path
    from huggingface_hub import snapshot_download

    with plain_hub_errors(_asked(source)):
        what = _wanted(source, subset, split)
        found = _already_here(what) or Path(snapshot_download(**what))
    if what["repo_type"] == "model":
        _check_weights(found, source)
    return found


def wanted_files(source: Input, subset: str | None, split: str | None) -> list[HubFile]:
    """What `local_directory` would fetch of an input that is on the hub; the hub must be there."""
    from huggingface_hub import snapshot_download

    with plain_hub_errors(_asked(source)):
        listed = snapshot_download(**_wanted(source, subset, split), dry_run=True)
    return [HubFile(file.filename, file.file_size, file.is_cached) for file in listed]


def _named(source: Input) -> str:
    """`org/name@commit`, or `datasets/org/name@commit`."""
    return source.identity.removeprefix("hub:")


def _wanted(source: Input, subset: str | None, split: str | None) -> dict[str, Any]:
    """What `snapshot_download` is asked for."""
    name, _, commit = _named(source).partition("@")
    repository, kind = _repository(name)
    wanted = DATA if kind == "dataset" else WANTED
    if kind == "dataset" and split is not None:
        wanted = _of_split(repository, commit, subset, split) or wanted
    return {"repo_id": repository, "repo_type": kind, "revision": commit, "allow_patterns": wanted}


def _already_here(what: dict[str, Any]) -> Path | None:
    """The local copy, where it is known to be whole: then the hub need not be asked."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        get_cached_repo_tree(what["repo_id"], repo_type=what["repo_type"], revision=what["revision"])
        return Path(snapshot_download(**what, local_files_only=True))
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        return None


def _of_split(repository: str, commit: str, subset: str | None, split: str) -> list[str]:
    """Patterns of the files of one split, with the card that names them; none where it does not."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        card = Path(hf_hub_download(repository, CARD, repo_type="dataset", revision=commit))
    except EntryNotFoundError:
        return []
    patterns = named_patterns(card, subset, split)
    return [*patterns, CARD] if patterns else []


def _asked(source: Input) -> str:
    """As the recipe has it, with the mark of a data set."""
    mark = DATA_SETS if _named(source).startswith(DATA_SETS) else ""
    return mark + source.reference.removeprefix(DATA_SETS)


def _check_weights(folder: Path, source: Input) -> None:
    """Refuse a repository of pickles, and a cache that was never filled."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    if any(folder.glob("*.safetensors")):
        return
    name, _, commit = _named(source).partition("@")
    try:
        names = [file.path for file in get_cached_repo_tree(name, revision=commit)]
    except CachedRepoTreeNotFoundError:
        with plain_hub_errors(_asked(source)):
            raise LocalEntryNotFoundError("no weights") from None
    pickled = sorted(name for name in names if name.endswith(PICKLES))
    what = f"its weights are pickles ({', '.join(pickled[:3])})" if pickled else "it holds no weights"
    raise PosttrainError(
        f"{source.reference}: {what}; only safetensors are read, because a pickle can run any code. {CONVERTER} makes "
        f"a pull request with safetensors: name its revision, as in {split(source.reference)[0]}@refs/pr/1, or another "
        "model."
    )
