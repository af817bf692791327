"""Which files of a data set are one split of one configuration: its card says so, under `configs`.

Where the card is silent, all of them may be, and the `datasets` library finds out by their names.
(https://huggingface.co/docs/hub/datasets-manual-configuration)
"""

from pathlib import Path
from typing import Any

CARD = "README.md"


def named_patterns(card: Path, subset: str | None, split: str) -> list[str]:
    """Patterns of the files of a split, as the card gives them; none where it names no files."""
    from huggingface_hub import metadata_load

    configs = ((metadata_load(card) if card.is_file() else None) or {}).get("configs") or []
    config = _chosen(configs, subset)
    files = config.get("data_files") if config else None
    if isinstance(files, list) and all(isinstance(entry, dict) for entry in files):
        files = [entry["path"] for entry in files if entry["split"] == split]
    found = [path for entry in _listed(files) for path in _listed(entry)]
    folder = f"{config['data_dir']}/" if config and config.get("data_dir") else ""
    return [f"{folder}{path}" for path in found if _inside(f"{folder}{path}")]


def named_files(folder: Path, subset: str | None, split: str) -> list[Path]:
    """Those files in a local copy."""
    patterns = named_patterns(folder / CARD, subset, split)
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _inside(pattern: str) -> bool:
    """A card is anybody's text: what it names must lie in its own repository."""
    return not pattern.startswith("/") and ".." not in Path(pattern).parts


def _chosen(configs: list[dict[str, Any]], subset: str | None) -> dict[str, Any] | None:
    """The configuration of that name, else the default one, else the only one."""
    if subset is not None:
        return next((config for config in configs if config["config_name"] == subset), None)
    default = [config for config in configs if config.get("default") or config["config_name"] == "default"]
    return next(iter(default), configs[0] if len(configs) == 1 else None)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
