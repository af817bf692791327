"""Stages without a model, for laws of the chain; run as a program it is the command line with these stages,
or a sweep that kills a run (or fills its disk) at every operation on the disk.

    python tests/chain_fakes.py cli run RECIPE
    python tests/chain_fakes.py sweep FOLDER kill|full|rename-first
"""

import errno
import io
import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from posttrain.chain import store as store_module
from posttrain.chain.graph import Node, build_graph
from posttrain.chain.identity import digest, sha256_file
from posttrain.chain.recipe import Recipe, load_recipe
from posttrain.chain.runner import Done, run_chain
from posttrain.chain.stage import Config, InputPath, Makes, Metrics, Progress, Stage, StageContext, StepConfig, Tick
from posttrain.chain.store import RECORD, Store
from posttrain.errors import PosttrainError
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


class Shim:
    """Counts operations on the disk and, at the k-th, kills the process or says that the disk is full."""

    def __init__(self, at: int = 0, when: str = "count") -> None:
        self.count, self.at, self.when = 0, at, when
        self.log: list[tuple[str, Any]] = []

    def install(self) -> None:
        for name in ("replace", "rename", "fsync", "mkdir", "symlink", "unlink", "rmdir"):
            setattr(os, name, self.wrap(name, getattr(os, name)))
        opened = io.open

        def counting_open(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            handle = opened(file, mode, *arguments, **keywords)
            return handle if set(mode) <= set("rbt") else _Written(handle, self)

        io.open = counting_open  # type: ignore[assignment]

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.reach(name, arguments, None)
            result = real(*arguments, **keywords)
            if self.count == self.at and self.when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    def reach(self, name: str, arguments: tuple[Any, ...], half: Callable[[], None] | None) -> None:
        self.count += 1
        target = os.fstat(arguments[0]).st_ino if name == "fsync" else [str(argument) for argument in arguments]
        self.log.append((name, target))
        if self.count != self.at:
            return
        if self.when == "half" and half is not None:
            half()
        if self.when in ("before", "half"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.when == "full" and name not in ("unlink", "rmdir"):
            raise OSError(errno.ENOSPC, "No space left on device")


class _Written:
    def __init__(self, file: Any, shim: Shim) -> None:
        self.file, self.shim = file, shim

    def write(self, text: Any) -> Any:
        def half() -> None:
            self.file.write(text[: len(text) // 2])
            self.file.flush()

        self.shim.reach("write", (self.file.name,), half)
        result = self.file.write(text)
        if self.shim.count == self.shim.at and self.shim.when == "after":
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def in_child(path: Path, shim: Shim | None) -> int:
    """Run the recipe in a child process: 0 done, 2 a plain error, -9 killed, 1 anything else."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        if shim is not None:
            shim.install()
        run(path)
        os._exit(0)
    except PosttrainError:
        os._exit(2)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)


def rename_first(self: Store, partial: Path, record: dict[str, Any]) -> store_module.Artifact:
    """The mutant: an entry gets its final name before its record is written."""
    record = {**record, "files": store_module._files(partial)}
    final = partial.rename(partial.with_suffix(""))
    write_text(final / RECORD, json.dumps({**record, "record_sha256": digest(record)}))
    return store_module.Artifact(final, record)


def two_steps(folder: Path) -> Path:
    """The recipe of a sweep: a step with a journal, and one before it."""
    raw = raw_recipe(folder, judged=False)
    del raw["steps"]["base"]
    raw["steps"]["sft"]["model"] = str(folder / "rubric.md")
    return write_recipe(folder, raw)


def operations(folder: Path) -> list[str]:
    """The names of all operations of an undisturbed run, counted in a child."""
    path, child = two_steps(folder), os.fork()
    if not child:
        shim = Shim()
        shim.install()
        run(path)
        names = [name for name, _ in shim.log]
        Path(folder / "operations").write_text(json.dumps(names))
        os._exit(0)
    os.waitpid(child, 0)
    return list(json.loads((folder / "operations").read_text()))


def sweep(folder: Path, how: str) -> dict[str, Any]:
    """Stop a run at every operation, run it again, and compare with a run that was left alone.

    What a kill after the k-th operation leaves is what a kill before the next one leaves, so each k is stopped
    before; writes are stopped in their middle too, and the last operation after.
    """
    if how == "rename-first":
        Store.complete = rename_first  # type: ignore[method-assign]
    os.fsync = no_wait  # a killed process loses nothing that it gave to the kernel
    names = operations(folder / "reference")
    expected = contents(folder / "reference/runs/store")
    stops = [(at, "full" if how == "full" else "before") for at in range(1, len(names) + 1)]
    if how == "full":
        stops = [(at, when) for at, when in stops if names[at - 1] not in ("unlink", "rmdir")]
    if how == "rename-first":
        stops = stops[:20]  # the first entry shows it
    if how == "kill":
        stops += [(at, "half") for at, name in enumerate(names, start=1) if name == "write"] + [(len(names), "after")]
    bad: list[str] = []
    stopped = sum(_stop_and_continue(folder / f"{at}-{when}", at, when, expected, bad) for at, when in stops)
    return {"operations": len(names), "stopped": stopped, "bad": bad}


def _stop_and_continue(place: Path, at: int, when: str, expected: dict[str, str], bad: list[str]) -> int:
    root = place / "runs/store"
    path = two_steps(place)
    code = in_child(path, Shim(at, when))
    if code not in ((0, 2) if when == "full" else (0, -9)):
        bad.append(f"{place.name}: exit {code}")
    bad += [f"{place.name}: {name} is visible and torn" for name in torn(root)]
    there = {entry.name.split("-")[0] for entry in visible(root)}
    os.environ["CALLS"] = str(place / "calls")
    again = in_child(path, None)
    del os.environ["CALLS"]
    made = set((place / "calls").read_text().split()) if (place / "calls").exists() else set()
    if again or contents(root) != expected or (root / "quarantine").exists():
        bad.append(f"{place.name}: the run after it exits {again} or ends with other files")
    if made & there:
        bad.append(f"{place.name}: {made & there} was complete and is made again")
    return int(code != 0)


def command_line(arguments: list[str]) -> None:
    """The product's command line with these stages in place of the real ones."""
    table = types.ModuleType("posttrain.stages")
    table.STAGES = FAKES  # type: ignore[attr-defined]
    sys.modules["posttrain.stages"] = table
    from posttrain.cli import main

    os.fsync = no_wait
    main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "cli":
        command_line(sys.argv[2:])
    else:
        print(json.dumps(sweep(Path(sys.argv[2]), sys.argv[3])))
