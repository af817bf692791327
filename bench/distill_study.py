"""The table of recipes/distill-study.yaml: each method of distillation beside its control, over several seeds.

Reads finished runs and trains nothing. Differences are paired by prompt and pooled over seeds with prompts as clusters
(their intervals tell how prompts scatter, not how trainings do: the range over seeds stands beside them). Held-out
nats are those of the judge's reference answers, the same for every arm, whatever its training rows were.

    posttrain run distill-study --set seed=7 && cp -rL runs/distill-study RUN-7     # and other seeds
    python -m bench.distill_study RUN-7 RUN-1 RUN-2
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.statistics import cluster_bootstrap
from posttrain.rows import read_rows

CONTROLS = {"layers": "layers_control"}  # any other arm has `control`
SHOWN = ("instruct", "consistency")


class Arm(NamedTuple):
    """One arm of one seed: its record, and by prompt its scores and nats a token."""

    record: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]  # axis -> prompt -> score
    nats: Mapping[str, float]


def read_arm(run: Path, name: str) -> Arm:
    """What a run stored of one arm."""
    record = json.loads((run / name / "artifact.json").read_text(encoding="utf-8"))
    verdicts = read_rows(run / f"{name}.judge" / "verdicts.jsonl")
    held = read_rows(run / f"{name}.samples" / "held_out.jsonl")
    scores = {axis: {row["id"]: row["axes"][axis]["score"] for row in verdicts} for axis in SHOWN}
    return Arm(record, scores, {row["id"]: row["nats"] / row["tokens"] for row in held})


def interval(by_seed: Sequence[Mapping[str, float]]) -> str:
    """Mean of all seeds and prompts with its 95 % interval."""
    found = cluster_bootstrap([v for part in by_seed for v in part.values()], [k for part in by_seed for k in part])
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def change(after: Sequence[Mapping[str, float]], before: Sequence[Mapping[str, float]]) -> str:
    """The paired difference with its interval, and the least and greatest of a seed."""
    pairs = [{key: a[key] - b[key] for key in a} for a, b in zip(after, before, strict=True)]
    found = cluster_bootstrap([v for part in pairs for v in part.values()], [k for part in pairs for k in part])
    means = [statistics.mean(part.values()) for part in pairs]
    clear = "" if found.low > 0 or found.high < 0 else " (not clear)"
    seeds = f", seeds {min(means):+.3f} to {max(means):+.3f}" if len(means) > 1 else ""
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{clear}{seeds}"


def rows(runs: Sequence[Path]) -> list[list[str]]:
    """A line of the table an arm, in the order of the recipe."""
    nodes = json.loads((runs[0] / "run.json").read_text(encoding="utf-8"))["nodes"]
    names = [node["name"] for node in nodes if node["kind"] == "distill"]
    arms = {name: [read_arm(run, name) for run in runs] for name in names}
    table = []
    for name, seeds in arms.items():
        control = CONTROLS.get(name, "control") if not name.endswith("control") else None
        cells = [f"{seeds[0].record['metrics']['parameters'] / 1e6:.2f}M", interval([arm.nats for arm in seeds])]
        cells.append(change([a.nats for a in seeds], [a.nats for a in arms[control]]) if control else "")
        for axis in SHOWN:
            cells.append(interval([arm.scores[axis] for arm in seeds]))
            if axis == SHOWN[0]:
                before = [arm.scores[axis] for arm in arms[control]] if control else []
                cells.append(change([arm.scores[axis] for arm in seeds], before) if control else "")
        speed = statistics.median(arm.record["metrics"]["tokens_per_second"] for arm in seeds)
        minutes = statistics.median(arm.record["provenance"]["seconds"] for arm in seeds) / 60
        peak = max(arm.record["provenance"]["peak_memory_mb"] for arm in seeds)
        table.append([name, *cells, f"{speed:,.0f}", f"{minutes:.1f}", f"{peak:,.0f}"])
    return table


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs, a seed each")
    head = ["arm", "size", "held-out nats", "against its control", "instruct", "against its control", "consistency"]
    head += ["tokens/s", "minutes", "peak MB"]
    for line in [head, ["---"] * len(head), *rows(parser.parse_args().runs)]:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
