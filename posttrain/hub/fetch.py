"""Model references that name the hub: `org/name@revision` becomes a commit, then a directory."""

from pathlib import Path

from posttrain.chain.stage import Input
from posttrain.errors import PosttrainError

WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]  # never pickles


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
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except LocalEntryNotFoundError:
        raise PosttrainError(
            f"{reference}: no step and no directory of this name, the hub cannot be reached, and it is not in the "
            "local cache. Check the spelling; to fetch it once, be online and leave HF_HUB_OFFLINE unset."
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise PosttrainError(
            f"{reference}: no step and no directory of this name, and the hub gives no such model "
            f"({type(error).__name__}). Check the spelling, the network, and that you may read it (hf auth login)."
        ) from None


def local_directory(source: Input) -> Path:
    """Where the files of an input lie; a hub model is fetched (safetensors only) at its resolved commit."""
    if not source.identity.startswith("hub:"):
        return source.path
    from huggingface_hub import snapshot_download

    name, _, commit = source.identity.removeprefix("hub:").partition("@")
    return Path(snapshot_download(name, revision=commit, allow_patterns=WANTED))
