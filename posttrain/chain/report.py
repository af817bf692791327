"""A report from the records alone: JSON for programs, Markdown for people."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.chain.runner import Done, row_of
from posttrain.chain.store import Artifact
from posttrain.rows import read_rows, write_text

Named = tuple[dict[str, Any], Artifact]  # a row of run.json and its artifact
JUDGE_KEYS = ("axes", "n_scored", "n_asked", "verdict", "why", "primary", "before", "changes", "words_used", "judge")


def named(done: Sequence[Done]) -> list[Named]:
    """The nodes of a run that has just ended, as `read_run` would give them."""
    return [(row_of(item), item.artifact) for item in done]


def steps_of(nodes: Sequence[Named]) -> list[dict[str, Any]]:
    """One entry a step; its judge and samples are folded in. `seconds` counts all of them."""
    by_name = {row["name"]: (row, artifact) for row, artifact in nodes}
    steps = []
    for name, (row, artifact) in by_name.items():
        if "." in name:
            continue
        parts = [by_name[part] for part in (name, f"{name}.samples", f"{name}.judge") if part in by_name]
        verdicts = by_name.get(f"{name}.judge")
        judge = None
        if verdicts is not None:
            metrics = verdicts[1].record["metrics"]
            judge = {key: metrics[key] for key in JUDGE_KEYS if key in metrics}
        steps.append(
            {
                "name": name,
                "kind": row["kind"],
                "identity": row["identity"],
                "cached": all(part[0]["cached"] for part in parts),
                "seconds": round(sum(part[0]["seconds"] for part in parts), 2),
                "metrics": {**artifact.record["metrics"], **_beside(parts)},
                "judge": judge,
            }
        )
    return steps


def _beside(parts: Sequence[Named]) -> dict[str, Any]:
    """Figures of the nodes round a step: its samples, and the highest memory of any of them."""
    found: dict[str, Any] = {}
    for row, artifact in parts:
        if row["kind"] == "samples":
            found["samples"] = {key: value for key, value in artifact.record["metrics"].items() if key != "summary"}
    return {**found, "peak_memory_mb": max(artifact.record["provenance"]["peak_memory_mb"] for _, artifact in parts)}


def report_json(recipe: str, nodes: Sequence[Named]) -> dict[str, Any]:
    """The report for programs."""
    return {"recipe": recipe, "steps": steps_of(nodes)}


def lineage(nodes: Sequence[Named]) -> list[str]:
    """The last step that was sampled and the models it comes from, oldest first."""
    by_name = {row["name"]: artifact for row, artifact in nodes}
    sampled = [row["name"].split(".")[0] for row, _ in nodes if row["kind"] == "samples"]
    found: list[str] = []
    step = sampled[-1] if sampled else ""
    while step in by_name:
        found.insert(0, step)
        step = str(by_name[step].record["inputs"].get("model", {}).get("reference"))
    return found


def sample_rows(
    nodes: Sequence[Named], count: int, steps: Sequence[str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of completions side by side: the prompt, then each sampled step (of `steps`) in chain order."""
    made = [(row["name"].split(".")[0], artifact) for row, artifact in nodes if row["kind"] == "samples"]
    sampled = [(name, artifact) for name, artifact in made if steps is None or name in steps]
    if not sampled:
        return [], []
    texts = []
    for _, artifact in sampled:
        rows = read_rows(artifact.path / "completions.jsonl")
        texts.append({row["id"]: row for row in rows if row["sample"] == 0})
    shown = [key for key in texts[0] if all(key in text for text in texts)][:count]
    table = [[texts[0][key]["prompt"], *(text[key]["text"] for text in texts)] for key in shown]
    return ["prompt", *(name for name, _ in sampled)], table


def report_markdown(recipe: str, nodes: Sequence[Named]) -> str:
    """The report as Markdown: the chain, the judge's axes, samples, settings and lineage."""
    steps = steps_of(nodes)
    parts = [f"# {recipe}", "", *_chain_table(steps), ""]
    parts += ["## Judge", "", "Scores are 1-10 with a 95 % interval, prompts as clusters.", *_judge_table(steps), ""]
    parts += [f"- **{s['name']}** {s['judge']['verdict']}: {s['judge']['why']}" for s in steps if s["judge"]]
    columns, rows = sample_rows(nodes, 5)
    if rows:
        parts += ["", "## Samples", ""]
        for row in rows:
            parts += [f"> {_quoted(row[0])}", ""]
            for column, text in zip(columns[1:], row[1:], strict=True):
                parts += [f"**{column}**", "", "```text", text.replace("```", "'''"), "```", ""]
    parts += ["", "## What was made", ""]
    for step in steps:
        figures = {key: value for key, value in step["metrics"].items() if key not in ("summary", "loss_curve")}
        parts += [f"### {step['name']} ({step['kind']})", "", f"identity `{step['identity']}`", ""]
        parts += ["```json", json.dumps(figures, indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")


def _chain_table(steps: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| step | what it did | verdict | words used | stops by itself | minutes | peak MB |", "|" + "---|" * 7]
    for step in steps:
        verdict = step["judge"]["verdict"] if step["judge"] else "not judged"
        summary = str(step["metrics"].get("summary", "")).replace("|", "\\|")
        used = (step["judge"] or {}).get("words_used")
        stopped = step["metrics"].get("samples", {}).get("stopped")
        cells = [
            f"{used['share']:.2f} [{used['low']:.2f}, {used['high']:.2f}]" if used else "",
            "" if stopped is None else f"{stopped:.1%}",
            f"{step['seconds'] / 60:.2f}",
            f"{step['metrics']['peak_memory_mb']:,.0f}",
        ]
        lines.append(f"| {step['name']} | {summary} | {verdict} | {' | '.join(cells)} |")
    return lines


def _judge_table(steps: Sequence[dict[str, Any]]) -> list[str]:
    judged = [step for step in steps if step["judge"]]
    axes = list(dict.fromkeys(axis for step in judged for axis in step["judge"]["axes"]))
    lines = ["", "| step | scored | " + " | ".join(axes) + " |", "|---|---|" + "---|" * len(axes)]
    for step in judged:
        judge = step["judge"]
        cells = [_cell(judge["axes"].get(axis)) for axis in axes]
        lines.append(f"| {step['name']} | {judge['n_scored']}/{judge['n_asked']} | " + " | ".join(cells) + " |")
        if judge.get("changes"):
            cells = [_cell(judge["changes"].get(axis), "+") for axis in axes]
            lines.append(f"| {step['name']}, paired difference | | " + " | ".join(cells) + " |")
    return lines


def _cell(axis: dict[str, float | None] | None, sign: str = "") -> str:
    if axis is None or axis["score"] is None:
        return "unscored"
    return f"{axis['score']:{sign}.2f} [{axis['low']:{sign}.2f}, {axis['high']:{sign}.2f}]"


def write_report(folder: Path, recipe: str, nodes: Sequence[Named]) -> Path:
    """Write report.md into the run's folder and return its path."""
    path = folder / "report.md"
    write_text(path, report_markdown(recipe, nodes))
    return path
