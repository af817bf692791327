"""Identity: sha256 over canonical JSON of what a step is. What has no stable form is refused, never guessed."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from posttrain.errors import PosttrainError

ByContent = "posttrain: this path is identified by the content it names"


def sha256_file(path: Path) -> str:
    """Hex digest of one file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_path(path: Path) -> str:
    """Hex digest of a file, or of a directory's relative names and contents (hidden files left out)."""
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        raise PosttrainError(f"{path}: no such file or directory. Check the path.")
    listing = {
        str(file.relative_to(path)): sha256_file(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    }
    if not listing:
        raise PosttrainError(f"{path}: an empty directory; files are needed. Check the path.")
    return digest(listing)


def stable(value: Any) -> Any:
    """`value` as plain JSON types; raises TypeError for anything without a stable form."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} has no stable form")
        return value
    if isinstance(value, list | tuple):
        return [stable(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a mapping with keys that are not strings has no stable form")
        return {key: stable(item) for key, item in value.items()}
    if isinstance(value, BaseModel):
        return stable_model(value)
    raise TypeError(f"{type(value).__name__} has no stable form")


def stable_model(model: BaseModel) -> dict[str, Any]:
    """A config as JSON types; fields marked `ByContent` become the digest of what they name."""
    result = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        by_content = ByContent in field.metadata or any(
            ByContent in getattr(argument, "__metadata__", ()) for argument in get_args(field.annotation)
        )
        if by_content and value is not None:
            value = sha256_path(Path(value))
        result[name] = stable(value)
    return result


def digest(value: Any) -> str:
    """sha256 of canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(
        stable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()
