"""Identity: sha256 over canonical JSON of what a step is. What has no stable form is refused, never guessed."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from posttrain.chain.paths import ByContent
from posttrain.errors import PosttrainError

HowNotWhat = "posttrain: a setting that changes how a result is obtained and never the result: no part of the identity"
PIECE = 1 << 22  # bytes hashed at a time


def sha256_file(path: Path, read: Callable[[int], None] = lambda count: None) -> str:
    """Hex digest of one file's bytes; `read` is told of the bytes of each piece."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
            read(len(piece))
    return found.hexdigest()


def sha256_path(path: Path) -> str:
    """Hex digest of a file, or of a directory's names and contents (hidden files and the README card left out)."""
    if path.is_file():
        return sha256_file(path)
    listing = {
        str(file.relative_to(path)): sha256_file(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "README.md" and not _hidden(file.relative_to(path))
    }
    if not listing:
        raise PosttrainError(f"{path}: holds no files; a file or a directory of files is needed. Check the path.")
    return digest(listing)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def stable(value: Any, at: str = "value") -> Any:
    """`value` as plain JSON types; raises TypeError, naming the place, for anything without a stable form."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        what = [(name, field) for name, field in fields if HowNotWhat not in field.metadata]
        return {name: _stable_field(getattr(value, name), field, f"{at}.{name}") for name, field in what}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {stable(key, at): stable(item, f"{at}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [stable(item, f"{at}.{number}") for number, item in enumerate(value)]
    is_text = isinstance(value, str) and value == value.encode(errors="ignore").decode()  # no lone surrogates
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if value is None or is_text or is_number:
        return value
    raise TypeError(f"{at}: {value!r} ({type(value).__name__}) has no stable form")


def _stable_field(value: Any, field: FieldInfo, at: str) -> Any:
    """A field marked `ByContent` becomes the digest of what its path names."""
    marks = [*field.metadata]
    for argument in get_args(field.annotation):  # InputPath | None, tuple[InputPath, ...]
        marks += getattr(argument, "__metadata__", ())
    if ByContent not in marks or value is None:
        return stable(value, at)
    return [sha256_path(path) for path in value] if isinstance(value, tuple) else sha256_path(Path(value))


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return _text(stable(value))


def _text(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def digest_of_json(value: Any) -> str:
    """`digest` of what is plain JSON already, without a look at every part: ten times as fast.

    Raises TypeError for what has no stable form; keys must be strings.
    """
    try:
        return hashlib.sha256(_text(value).encode()).hexdigest()
    except ValueError as error:  # a number that is not finite, half a character
        raise TypeError(f"value: {error}; it has no stable form") from None
