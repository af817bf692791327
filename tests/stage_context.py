"""Calls a stage as the chain does, in a folder of its own; what the tests of stages share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.chain.stage import Input, StageContext, Tick
from posttrain.stages import STAGES

PROMPTS = Path(__file__).parents[1] / "eval" / "prompts" / "tinystories.jsonl"
RUBRIC = Path(__file__).parents[1] / "eval" / "rubrics" / "story.md"


def context(folder: Path, stop_after: int | None = None, **inputs: Input) -> StageContext:
    out, work = folder / "out", folder / "out" / ".work"
    work.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def progress(total: int, unit: str) -> Iterator[Tick]:
        def tick(done: int, note: str = "", total: int | None = None) -> None:
            if stop_after is not None and done >= stop_after:
                raise KeyboardInterrupt

        yield tick

    return StageContext(inputs, "r", folder / "journal.sqlite", out, work, progress, lambda text: None)


def run(kind: str, ctx: StageContext, **settings: Any) -> dict[str, Any]:
    stage = STAGES[kind]
    return stage.run(stage.config.model_validate({"kind": kind, **settings}), ctx)


def given(path: Path, **metrics: Any) -> Input:
    return Input(path, "0" * 64, str(path), metrics)


def checked(kind: str, **settings: Any) -> None:
    stage = STAGES[kind]
    assert stage.check is not None
    stage.check(stage.config.model_validate({"kind": kind, **settings}), "r.yaml: steps.x")
