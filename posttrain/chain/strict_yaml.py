"""YAML for recipes: safe, no duplicate keys, `1e-4` is a number, and an alias bomb is refused."""

import re
from pathlib import Path
from typing import Any

import yaml

from posttrain.errors import PosttrainError

MAX_NODES = 10_000


class _Loader(yaml.SafeLoader):
    pass


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicate key '{key}'; each key once is allowed", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
# YAML 1.1 reads 1e-4 as text because it has no dot; every person means a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)|[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)$"),
    list("-+0123456789."),
)


def parse(text: str, name: str) -> Any:
    """The document as plain Python values; errors name file, line and column."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        raise PosttrainError(f"{where}: {error.problem or error}. Correct the YAML there.") from None
    except yaml.YAMLError as error:
        raise PosttrainError(f"{name}: not YAML ({error}). Correct it.") from None
    if _count(value, 0) > MAX_NODES:
        raise PosttrainError(
            f"{name}: expands to more than {MAX_NODES:,} values; fewer are allowed. Use fewer aliases."
        )
    return value


def _count(value: Any, so_far: int) -> int:
    so_far += 1
    if so_far <= MAX_NODES and isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            so_far = _count(item, so_far)
            if so_far > MAX_NODES:
                break
    return so_far


def read(path: Path) -> Any:
    """Parse a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PosttrainError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError:
        raise PosttrainError(f"{path}: not UTF-8 text; a YAML recipe is allowed. Check the path.") from None
    if not text.strip():
        raise PosttrainError(f"{path}: empty; a recipe is needed. See recipes/ for examples.")
    return parse(text, str(path))
