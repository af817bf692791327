"""References that name the hub: `org/name@revision` becomes a commit, then a directory.

A data set's begins with `datasets/`, as its address on the hub does.
"""

from pathlib import Path

from posttrain.chain.stage import Input
from posttrain.errors import PosttrainError

WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]  # never pickles
DATA = ["*.jsonl", "*.json", "*.jsonl.gz", "*.json.gz", "*.parquet", "README.md"]  # the card names the splits
DATA_SETS = "datasets/"


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
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, revision = split(reference)
    try:
        repository, kind = _repository(name)
        always_there = ".gitattributes" if kind == "dataset" else "config.json"
        return Path(hf_hub_download(repository, always_there, repo_type=kind, revision=revision)).parent.name
    except LocalEntryNotFoundError:
        raise PosttrainError(
            f"{reference}: no step and no directory of this name, the hub cannot be reached, and it is not in the "
            "local cache. Check the spelling; to fetch it once, be online and leave HF_HUB_OFFLINE unset."
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise PosttrainError(
            f"{reference}: no step and no directory of this name, and the hub gives no such repository "
            f"({type(error).__name__}). Check the spelling, the network, and that you may read it (hf auth login)."
        ) from None


def local_directory(source: Input) -> Path:
    """Where the files of an input lie; those on the hub are fetched at its commit, of a model safetensors only."""
    if not source.identity.startswith("hub:"):
        return source.path
    from huggingface_hub import snapshot_download

    name, _, commit = source.identity.removeprefix("hub:").partition("@")
    repository, kind = _repository(name)
    wanted = DATA if kind == "dataset" else WANTED
    return Path(snapshot_download(repository, repo_type=kind, revision=commit, allow_patterns=wanted))
