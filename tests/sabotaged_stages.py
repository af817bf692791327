"""The command line with a stage that does its work wrong: answers shuffled among their prompts, or preferences turned.

    python tests/sabotaged_stages.py generate|sft|pairs|none run RECIPE --store DIR

`generate` makes such rows; `sft` gets good rows and shuffles them itself, as a wrong join inside a trainer would. Of
`pairs` the worse answer is the chosen one.
"""

import random
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.chain.stage import Metrics, StageContext
from posttrain.rows import read_rows, write_rows
from posttrain.stages import STAGES

FILES = ("train.jsonl", "test.jsonl")


def shuffle_answers(source: Path, target: Path) -> None:
    """The rows of a file with their last messages permuted."""
    rows = read_rows(source)
    answers = [row["messages"][-1] for row in rows]
    random.Random(1).shuffle(answers)
    mixed = ({**row, "messages": [*row["messages"][:-1], answer]} for row, answer in zip(rows, answers, strict=True))
    write_rows(target, list(mixed))


def generate(config: Any, ctx: StageContext) -> Metrics:
    metrics = STAGES["generate"].run(config, ctx)
    for name in FILES:
        shuffle_answers(ctx.out / name, ctx.out / name)
    return metrics


def sft(config: Any, ctx: StageContext) -> Metrics:
    mixed = ctx.work / "mixed"
    mixed.mkdir(exist_ok=True)
    data = ctx.inputs["data"]
    for name in FILES:
        shuffle_answers(data.path / name, mixed / name)
    return STAGES["sft"].run(config, replace(ctx, inputs={**ctx.inputs, "data": replace(data, path=mixed)}))


def pairs(config: Any, ctx: StageContext) -> Metrics:
    metrics = STAGES["pairs"].run(config, ctx)
    for name in FILES:
        rows = read_rows(ctx.out / name)
        write_rows(ctx.out / name, [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows])
    return metrics


SABOTAGED = {"generate": generate, "sft": sft, "pairs": pairs}


def main() -> None:
    kind, *arguments = sys.argv[1:]
    table = dict(STAGES)
    if kind in SABOTAGED:
        table[kind] = replace(STAGES[kind], version=99, run=SABOTAGED[kind])
    module = types.ModuleType("posttrain.stages")
    module.STAGES = table  # type: ignore[attr-defined]
    module.__path__ = sys.modules["posttrain.stages"].__path__  # what lies below is imported as ever
    sys.modules["posttrain.stages"] = module
    from posttrain.cli import main as command_line

    command_line(arguments)


if __name__ == "__main__":
    main()
