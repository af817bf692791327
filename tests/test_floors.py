"""The floors of the project: imports run down, rooms do not know each other, files and functions stay short."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("posttrain", "data_gen", "eval", "bench", "tests")
SOURCES = [path for room in OURS[:4] for path in sorted((ROOT / room).rglob("*.py"))]
FLOORS = {
    "posttrain": 0,  # the package itself holds its version and nothing else
    "posttrain.errors": 0,
    "posttrain.rows": 0,
    "posttrain.chain": 1,
    "posttrain.lm": 2,
    "posttrain.engines": 2,
    "posttrain.report": 2,
    "posttrain.stages": 3,
    "posttrain.chatting": 3,
    "posttrain.exporting": 3,
    "posttrain.hub": 3,
    "posttrain.labelling": 3,
    "posttrain.arguments": 0,
    "posttrain.cli": 4,
    "posttrain.__main__": 5,
}
ROOMS = ("data_gen", "eval")
STDLIB_ONLY = ("posttrain.errors", "posttrain.rows", "posttrain.arguments")
CHAIN_MAY_IMPORT = {"pydantic", "yaml", "rich", "pynvml"}
REPORT_MAY_IMPORT = {"posttrain", "jinja2", "markupsafe", "matplotlib"}
REPORT_NEVER_READS = {"posttrain.lm", "posttrain.engines"}  # its own floor, but it knows records and no models
ROOMS_NEVER_IMPORT = {"torch", "transformers", "trl", "peft", "datasets", "huggingface_hub"}
STDLIB = set(sys.stdlib_module_names)


class Import(NamedTuple):
    module: str  # who imports
    name: str  # what
    line: int
    inside: bool  # in a function: it costs nothing until it is called


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST, module: str, inside: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level:
                name = ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])])
            submodules = name in (
                "posttrain",
                "posttrain.chain",
                "posttrain.report",
            )  # `from posttrain.chain import plan`
            yield from (
                Import(module, f"{name}.{alias.name}" if submodules else name, node.lineno, inside)
                for alias in node.names
            )
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, module, inside or function)


def floor(name: str) -> int | None:
    """The floor of a module of ours; the longest known prefix counts."""
    parts = name.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((FLOORS[prefix] for prefix in prefixes if prefix in FLOORS), None)


def offence(found: Import) -> str | None:
    """Why an import may not be, or None."""
    room, top = found.module.split(".")[0], found.name.split(".")[0]
    here, there = floor(found.module), floor(found.name)
    if top in ("bench", "tests", "chain_fakes", "conftest") and room != "tests" and room != top:
        return "nothing imports bench or tests"
    if room in ROOMS and top in OURS and top != room:
        return "a room imports no other room and not posttrain"
    if room in ROOMS and top in ROOMS_NEVER_IMPORT:
        return "a room knows text, no models"
    if here is None or room != "posttrain":
        return None
    if there is not None and there > here:
        return f"floor {here} imports floor {there}"
    if top in ROOMS and here < 3:
        return "only stages use the rooms"
    if found.module in STDLIB_ONLY and top not in STDLIB and there is None:
        return "the standard library only"
    if here == 1 and there is None and top not in STDLIB | CHAIN_MAY_IMPORT:
        return "the chain imports pydantic, yaml and rich only"
    if found.module.startswith("posttrain.report") and (
        top not in STDLIB | REPORT_MAY_IMPORT or found.name.startswith(tuple(REPORT_NEVER_READS))
    ):
        return "the report knows records, no models"
    if here == 4 and not found.inside and top not in STDLIB and there != 0:
        return "the command line imports inside functions"
    return None


def checked_imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):  # what only the type checker reads is never imported
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    yield from imports(tree, module_of(path))


def test_imports_run_down_the_floors() -> None:
    found = [item for path in SOURCES for item in checked_imports(path)]
    assert len(found) > 200
    assert [f"{item.module}:{item.line} {item.name}: {why}" for item in found if (why := offence(item))] == []


def test_every_module_has_a_floor() -> None:
    modules = {module_of(path) for path in SOURCES if path.is_relative_to(ROOT / "posttrain")}
    assert {module for module in modules if floor(module) == 0} == {"posttrain", *STDLIB_ONLY}


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("posttrain.rows", "import yaml"),
        ("posttrain.errors", "from posttrain.chain import stage"),
        ("posttrain.chain.runner", "import torch"),
        ("posttrain.chain.runner", "def f():\n    import torch"),
        ("posttrain.chain.runner", "from posttrain.stages import STAGES"),
        ("posttrain.chain.runner", "from ..stages import STAGES"),
        ("posttrain.chain.runner", "from posttrain import stages"),
        ("posttrain.chain.runner", "import eval.gate"),
        ("posttrain.lm.models", "from posttrain.stages.sft import run"),
        ("posttrain.lm.models", "import data_gen.strip"),
        ("posttrain.engines.x", "from posttrain.hub.fetch import split"),
        ("posttrain.report.page", "def f():\n    import torch"),
        ("posttrain.report.page", "from posttrain.lm.chat import ChatFormat"),
        ("posttrain.report.page", "from posttrain.stages import STAGES"),
        ("posttrain.report.page", "from eval.words import accepted"),
        ("posttrain.stages.sft", "from posttrain.cli import main"),
        ("posttrain.stages.sft", "import bench.sft"),
        ("posttrain.stages.sft", "import tests.conftest"),
        ("posttrain.cli", "import posttrain.chain.store"),
        ("data_gen.story", "import eval"),
        ("data_gen.story", "from posttrain.rows import read_rows"),
        ("eval.gate", "import data_gen.story"),
        ("eval.gate", "def f():\n    import torch"),
    ],
)
def test_a_bad_import_is_caught(module: str, code: str) -> None:
    assert any(offence(item) for item in imports(ast.parse(code), module))


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("posttrain.lm.models", "from posttrain.chain.paths import find_path"),
        ("posttrain.report.plots", "from matplotlib.figure import Figure\nfrom posttrain.chain.store import Artifact"),
        ("posttrain.stages.sft", "from data_gen.strip import strip_control\nimport torch"),
        ("posttrain.cli", "def f():\n    from posttrain.stages import STAGES"),
        ("bench.sft", "import torch, posttrain.lm.sft"),
        ("eval.gate", "import numpy\nfrom eval.statistics import mean"),
    ],
)
def test_a_good_import_is_let_through(module: str, code: str) -> None:
    assert not any(offence(item) for item in imports(ast.parse(code), module))


def too_long(text: str) -> list[str]:
    """Files above 300 lines and functions above 50 (decorators and docstring included)."""
    found = [f"{len(text.splitlines())} lines"] if len(text.splitlines()) > 300 else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            found += [f"{node.name}: {lines} lines"] if lines > 50 else []
    return found


def test_files_and_functions_stay_short() -> None:
    long = {module_of(path): found for path in SOURCES if (found := too_long(path.read_text(encoding="utf-8")))}
    assert long == {}


def test_a_long_file_and_a_long_function_are_caught() -> None:
    assert too_long("x = 1\n" * 301) == ["301 lines"]
    assert too_long("def f():\n" + "    x = 1\n" * 50) == ["f: 51 lines"]
    assert too_long("def f():\n" + "    x = 1\n" * 49 + "x = 1\n" * 250) == []


def test_every_module_says_what_it_is() -> None:
    texts = {module_of(path): path.read_text(encoding="utf-8") for path in SOURCES}
    assert [module for module, text in texts.items() if text and not ast.get_docstring(ast.parse(text))] == []
