"""The table of recipes/dpo-study.yaml: each loss beside the model before it, and beside cross entropy without contrast.

Reads finished runs and trains nothing. Differences are paired by prompt; with several seeds they are pooled with
prompts as clusters, and the range over seeds stands beside them.

    posttrain run dpo-study --set seed=7 && cp -rL runs/dpo-study RUN-7     # and other seeds
    python -m bench.dpo_study RUN-7 RUN-1
    python -m bench.dpo_study --arms dpo --start sft RUN-7 RUN-1 RUN-2      # of any chain that ends in one dpo step
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.distill_study import change
from posttrain.rows import read_rows

AXES = ("instruct", "consistency", "grammar")
HEAD = ("arm", "loss", "pairs", "told apart, held out", "instruct, against the start", "against control", "consistency",
        "grammar", "words an answer", "gate", "minutes")  # fmt: skip


def scores(run: Path, name: str, axis: str) -> dict[str, float]:
    """Mean score of each prompt."""
    found: dict[str, list[float]] = {}
    for row in read_rows(run / f"{name}.judge" / "verdicts.jsonl"):
        if row["axes"][axis]["score"] is not None:
            found.setdefault(row["id"], []).append(row["axes"][axis]["score"])
    return {key: statistics.mean(values) for key, values in found.items()}


def words(run: Path, name: str) -> float:
    """Mean words an answer."""
    return statistics.mean(len(row["text"].split()) for row in read_rows(run / f"{name}.samples" / "completions.jsonl"))


def record(run: Path, name: str) -> dict[str, Any]:
    """What a run stored of a node."""
    found: dict[str, Any] = json.loads((run / name / "artifact.json").read_text(encoding="utf-8"))
    return found


def row(runs: Sequence[Path], arm: str, start: str, control: str | None) -> list[str]:
    """One line of the table."""
    metrics = [record(run, arm)["metrics"] for run in runs]
    against = {axis: change([scores(run, arm, axis) for run in runs], [scores(run, start, axis) for run in runs])
               for axis in AXES}  # fmt: skip
    beside = ""
    if control is not None and control != arm:
        beside = change([scores(run, arm, AXES[0]) for run in runs], [scores(run, control, AXES[0]) for run in runs])
    held = [one["held_out_pairs"]["accuracy"]["mean"] for one in metrics if one["held_out_pairs"]]
    lengths = [words(run, arm) / words(run, start) - 1 for run in runs]
    return [
        arm,
        " + ".join(metrics[0]["loss_type"]),
        ", ".join(f"{one['rows']:,}" for one in metrics),
        ", ".join(f"{share:.0%}" for share in held) or "–",
        against["instruct"],
        beside,
        against["consistency"],
        against["grammar"],
        ", ".join(f"{length:+.1%}" for length in lengths),
        ", ".join(record(run, f"{arm}.judge")["metrics"]["verdict"] for run in runs),
        ", ".join(f"{record(run, arm)['provenance']['seconds'] / 60:.1f}" for run in runs),
    ]


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs, a seed each")
    parser.add_argument("--arms", nargs="+", help="dpo steps; all of the run by default")
    parser.add_argument("--start", default="sft", help="the step that they start from")
    options = parser.parse_args()
    nodes = json.loads((options.runs[0] / "run.json").read_text(encoding="utf-8"))["nodes"]
    arms = options.arms or [node["name"] for node in nodes if node["kind"] == "dpo"]
    control = "control" if "control" in arms else None
    table = [row(options.runs, arm, options.start, control) for arm in arms]
    for line in [HEAD, ["---"] * len(HEAD), *table]:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
