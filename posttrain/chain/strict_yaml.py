"""YAML for recipes: safe, no duplicate keys, `1e-4` is a number, `on` is text, and an alias bomb is refused.

The document is checked as a graph of nodes, before any value is made: aliases cost nothing there.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from posttrain.errors import PosttrainError

MAX_VALUES = 10_000
TAG = "tag:yaml.org,2002:"
NUMBER = r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*[eE][-+]?[0-9]+|[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)$"


class _Loader(yaml.SafeLoader):
    """Scalars as YAML 1.2 reads them: 1.1 takes 1e-4 for text, `no` for false, 1:30 for 90 and 010 for 8."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # type: ignore[misc]


for _name, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", NUMBER, "-+.0123456789"),
    ("merge", r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(TAG + _name, re.compile(_pattern), list(_first))


def parse(text: str, name: str) -> Any:
    """The document as plain Python values; errors name file, line and column."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}, loader) > MAX_VALUES:
            raise PosttrainError(
                f"{name}: expands to more than {MAX_VALUES:,} values; fewer are allowed. Use fewer aliases."
            )
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        raise PosttrainError(f"{where}: {error.problem or error}. Correct the YAML there.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of 5,000 digits
        reason = " ".join(str(error).split())
        raise PosttrainError(f"{name}: not YAML that can be read ({reason}). Correct it.") from None


def _size(node: yaml.Node, sizes: dict[int, int], loader: _Loader) -> int:
    """How many values a node makes with its aliases written out; refuses what a recipe has no use for."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise _refused("an alias inside what it names", "a tree", node)
        return sizes[id(node)]
    sizes[id(node)] = 0  # being counted: meeting it again is a circle
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    is_scalar = isinstance(node, yaml.ScalarNode)
    if is_scalar and node.value != node.value.encode(errors="ignore").decode():
        raise _refused("half a character (a lone surrogate)", "text", node)
    expected = loader.resolve(type(node), node.value if is_scalar else None, (True, False))  # type: ignore[no-untyped-call]
    if node.tag not in (expected, TAG + "str"):
        raise _refused(f"the tag {node.tag}", "plain values without tags", node)
    sizes[id(node)] = 1 + sum(_size(part, sizes, loader) for part in parts)
    return sizes[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag not in (TAG + "str", TAG + "merge"):
            raise _refused(f"the key '{key.value}'", "text as a key (quote it)", key)
        if key.value in seen:
            raise _refused(f"duplicate key '{key.value}'", "each key once", key)
        seen.add(key.value)


def _refused(found: str, allowed: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"{found}; {allowed} is allowed", problem_mark=node.start_mark)


def read(path: Path) -> Any:
    """Parse a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PosttrainError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError:
        raise PosttrainError(f"{path}: not UTF-8 text; a YAML recipe is allowed. Check the path.") from None
    value = parse(text, str(path))
    if value is None:
        raise PosttrainError(f"{path}: empty; a recipe is needed. See recipes/ for examples.")
    return value
