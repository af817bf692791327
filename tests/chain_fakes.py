"""Stages without a model, for laws of the chain; run as a program it is the command line with these stages.

python tests/chain_fakes.py run RECIPE
"""

import json
import os
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from posttrain.chain.graph import Node, build_graph
from posttrain.chain.identity import sha256_file
from posttrain.chain.recipe import Recipe, load_recipe
from posttrain.chain.runner import Done, run_chain
from posttrain.chain.stage import Config, InputPath, Makes, Metrics, Progress, Stage, StageContext, StepConfig, Tick
from posttrain.chain.store import RECORD, Store
from posttrain.rows import read_rows, write_rows, write_text

FSYNC = os.fsync
BAD_LUCK = 13


def no_wait(fd: Any) -> None:
    """In place of fsync, where no test looks at it: disks are slow."""


class Lora(Config):
    r: int = Field(16, ge=1)


class BaseConfig(StepConfig):
    kind: Literal["base"]
    model: str | None = None
    size: int = 1


class GenerateConfig(StepConfig):
    kind: Literal["generate"]
    rows: int = Field(3, ge=1)
    hold_out: InputPath | None = None


class SFTConfig(StepConfig):
    kind: Literal["sft"]
    model: str
    data: str
    lora: Lora = Lora()
    learning_rate: float = Field(1e-3, gt=0)
    trainer: dict[str, Any] = Field(default_factory=dict)


class SamplesConfig(StepConfig):
    kind: Literal["samples"]
    model: str | None
    prompts: InputPath
    temperature: float = 0.7


class JudgeConfig(StepConfig):
    kind: Literal["judge"]
    judged: str | None
    before: str | None = None
    previous: str | None = None
    training: str | None = None
    rubric: InputPath
    judge: str = "rule"
    axis: str = "instruct"
    minimum: float | None = None
    test: str | None = None
    margin: float | None = None
    hold: tuple[str, ...] = ()
    max_length_change: float | None = None


def called(kind: str) -> None:
    """Note that a stage runs, where a test asks for it."""
    if "CALLS" in os.environ:
        with Path(os.environ["CALLS"]).open("a") as file:
            file.write(f"{kind}\n")


def base(config: BaseConfig, ctx: StageContext) -> Metrics:
    called("base")
    (ctx.out / "weights").mkdir()
    write_text(ctx.out / "weights" / "a.txt", f"{config.size} {config.seed}")
    return {"summary": "a base"}


def generate(config: GenerateConfig, ctx: StageContext) -> Metrics:
    called("generate")
    write_rows(ctx.out / "train.jsonl", ({"id": str(i), "text": f"{config.seed} é"} for i in range(config.rows)))
    return {"summary": f"{config.rows} rows"}


def sft(config: SFTConfig, ctx: StageContext) -> Metrics:
    """Four parts with a journal: a part that is in `work` is not made again."""
    called("sft")
    for number in range(4):
        part = ctx.work / f"part-{number}"
        if not part.is_file():
            called(f"part-{number}")
            write_text(part, f"{number} {config.lora.r} {config.trainer}")
            time.sleep(float(os.environ.get("PAUSE", "0")))
    rows = len(read_rows(ctx.inputs["data"].path / "train.jsonl"))
    (ctx.out / "model.txt").write_text("".join((ctx.work / f"part-{n}").read_text() for n in range(4)) + str(rows))
    return {"summary": "tuned", "loss": 0.5}


def samples(config: SamplesConfig, ctx: StageContext) -> Metrics:
    called("samples")
    rows = [{**row, "sample": 0, "text": f"at {config.temperature}"} for row in read_rows(config.prompts)]
    write_rows(ctx.out / "completions.jsonl", rows)
    return {"summary": "sampled"}


def judge(config: JudgeConfig, ctx: StageContext) -> Metrics:
    """A step whose seed is 13 fails."""
    called("judge")
    write_text(ctx.out / "verdicts.txt", config.rubric.read_text())
    score = 7.0 if "previous" in ctx.inputs else 8.0
    axes = {"instruct": {"score": score, "low": score - 1, "high": score + 1}}
    verdict = "FAIL" if config.seed == BAD_LUCK else "PASS"
    return {
        "axes": axes, "primary": "instruct", "n_scored": 2, "n_asked": 2, "verdict": verdict, "why": f"{score}"
    }  # fmt: skip


MODEL: frozenset[Makes] = frozenset({"model"})
ROWS: frozenset[Makes] = frozenset({"rows"})
JUDGED: dict[str, frozenset[Makes]] = {
    "judged": frozenset({"samples", "rows"}),
    "before": frozenset({"samples"}),
    "previous": frozenset({"verdicts"}),
    "training": ROWS,
}
HERE = ("tests/chain_fakes.py",)
FAKES = {
    stage.kind: stage
    for stage in (
        Stage("base", 1, BaseConfig, "model", {"model": MODEL}, base, HERE, frozenset({"model"})),
        Stage("generate", 1, GenerateConfig, "rows", {}, generate, HERE),
        Stage("sft", 1, SFTConfig, "model", {"model": MODEL, "data": ROWS}, sft, HERE, frozenset({"model"})),
        Stage("samples", 1, SamplesConfig, "samples", {"model": MODEL}, samples, HERE),
        Stage("judge", 1, JudgeConfig, "verdicts", JUDGED, judge, HERE),
    )
}


class Quiet:
    """A screen that remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, name: str) -> Progress:
        @contextmanager
        def bar(total: int, unit: str) -> Iterator[Tick]:
            yield lambda done, note="", total=None: None

        return bar

    def done(self, done: Done) -> None:
        self.said.append(f"{done.node.name}{' (cached)' if done.cached else ''}")


def raw_recipe(folder: Path, judged: bool = True) -> dict[str, Any]:
    """A recipe of three steps, with its prompts and rubric in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text('{"id": "p0", "prompt": "A story."}\n{"id": "p1", "prompt": "Two."}\n')
    (folder / "rubric.md").write_text("# be kind\n")
    raw: dict[str, Any] = {
        "name": "fake",
        "seed": 7,
        "steps": {
            "base": {"kind": "base"},
            "rows": {"kind": "generate", "rows": 2},
            "sft": {"kind": "sft", "model": "base", "data": "rows", "lora": {"r": 8}},
        },
    }
    if judged:
        raw["judge"] = {"prompts": str(folder / "prompts.jsonl"), "rubric": str(folder / "rubric.md")}
    return raw


def write_recipe(folder: Path, raw: dict[str, Any] | None = None) -> Path:
    path = folder / "fake.yaml"
    path.write_text(yaml.safe_dump(raw or raw_recipe(folder), sort_keys=False))
    return path


def commit_of(reference: str) -> str:
    """In place of the hub."""
    return "c" * 40


def graph(path: Path, *overrides: str, until: str | None = None) -> tuple[Recipe, list[Node]]:
    recipe = load_recipe(str(path), FAKES, overrides)
    return recipe, build_graph(recipe, FAKES, until, commit_of)


def run(path: Path, *overrides: str, rerun: frozenset[str] = frozenset(), screen: Quiet | None = None) -> list[Done]:
    """Run a recipe into the store beside it."""
    recipe, nodes = graph(path, *overrides)
    screen = screen or Quiet()
    if os.fsync is FSYNC:  # a law about it has put its own in place
        os.fsync = no_wait
    try:
        return run_chain(recipe, nodes, Store(path.parent / "runs/store", screen.say), screen, rerun)
    finally:
        os.fsync = FSYNC if os.fsync is no_wait else os.fsync


def the_store(folder: Path) -> Path:
    return folder / "runs/store"


def visible(root: Path) -> list[Path]:
    """What readers would take for entries."""
    names = (path for path in sorted(root.glob("*-*")) if path.is_dir() and not path.suffix)
    return [path for path in names if path.name not in ("locks", "quarantine")]


def torn(root: Path) -> list[str]:
    """Visible entries that are not whole."""
    broken = []
    for path in visible(root):
        try:
            identity = json.loads((path / RECORD).read_text())["identity"]
        except (OSError, ValueError):
            identity = ""
        if Store(root).look(path.name.split("-")[0], identity) is None:
            broken.append(path.name)
    return broken


def contents(root: Path) -> dict[str, str]:
    """sha256 of every file of every visible entry; records hold times, so they are left out."""
    return {
        f"{entry.name}/{file.relative_to(entry)}": sha256_file(file)
        for entry in visible(root)
        for file in sorted(entry.rglob("*"))
        if file.is_file() and file.name != RECORD
    }


def command_line(arguments: list[str]) -> None:
    """The product's command line with these stages in place of the real ones."""
    table = types.ModuleType("posttrain.stages")
    table.STAGES = FAKES  # type: ignore[attr-defined]
    sys.modules["posttrain.stages"] = table
    from posttrain.cli import main

    os.fsync = no_wait
    main(arguments)


if __name__ == "__main__":
    command_line(sys.argv[1:])
