"""The report as Markdown: readable in any editor, made without any further package."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.report.accounting import costs, total_usd
from posttrain.report.exports import COLUMNS, exports_of
from posttrain.report.model_judge import judge_notes, remarks
from posttrain.report.records import INVALID, Named, judge_name, sample_rows, score_text, steps_of
from posttrain.report.wording import dollars
from posttrain.rows import write_text

MARKUP = re.compile(r"[\\`*<\[]")
LONG = ("summary", "loss_curve", "preference_curve")  # not repeated among the figures of a step


def report_markdown(recipe: str, nodes: Sequence[Named]) -> str:
    """The chain, the judge's axes, samples, and what every step recorded."""
    steps = steps_of(nodes)
    parts = [f"# {recipe}", "", *_chain_table(steps), "", "## Judge", "", *judge_section(nodes, steps), *_calls(nodes)]
    for one in exports_of(nodes):
        parts += ["", f"## Exported files of {one.step}", "", one.note, "", *table([COLUMNS, *one.rows])]
    columns, rows = sample_rows(nodes, 5)
    if rows:
        parts += ["", "## Samples", ""]
        for row in rows:
            parts += [f"> {_quoted(row[0])}", ""]
            for column, text in zip(columns[1:], row[1:], strict=True):
                parts += [f"**{column}**", "", "```text", text.replace("```", "'''"), "```", ""]
    parts += ["", "## What was made", ""]
    for step in steps:
        figures = {key: value for key, value in step["metrics"].items() if key not in LONG}
        parts += [f"### {step['name']} ({step['kind']})", "", f"identity `{step['identity']}`", ""]
        parts += ["```json", json.dumps(figures, indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(parts) + "\n"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; its first row is the head."""
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|" + "---|" * len(rows[0]), *others]


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")


def plain(text: str) -> str:
    """One line that Markdown shows as it is: an endpoint's words may hold markup."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def judge_section(nodes: Sequence[Named], steps: Sequence[dict[str, Any]]) -> list[str]:
    """The axes of every step, the gate's word, and what a language model as judge adds."""
    judges = ", ".join(dict.fromkeys(judge_name(step["judge"]) for step in steps if step["judge"])) or "none"
    scale = f"Judge: {judges}. Scores are 1-10 with a 95 % interval, prompts as clusters."
    lines, found = [scale, *_judge_table(steps), ""], remarks(nodes)
    for step in steps:
        if step["judge"]:
            kept = f" The model of {step['kept']} is handed on in its place." if step["kept"] else ""
            ruling = f"{step['judge']['verdict']}: {step['judge']['why']}{kept}"
            lines += [f"- **{step['name']}** {ruling}", *_canaries(step)]
            lines += [f"  - {one.about}: {one.text}" for one in found if one.step == step["name"]]
    for note in map(plain, judge_notes(nodes)):
        lines += ["", note]
    return lines


def _calls(nodes: Sequence[Named]) -> list[str]:
    """What went over the network, where anything did."""
    spent = costs(nodes)
    calls, tokens = sum(cost.calls for cost in spent), sum(cost.tokens for cost in spent)
    usd = dollars(total_usd(cost.usd for cost in spent))
    return ["", f"The run sent {calls:,} remote calls: {tokens:,} tokens, {usd}."] if calls else []


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
        cells = [score_text(judge["axes"].get(axis), places=2) for axis in axes]
        lines.append(f"| {step['name']} | {judge['n_scored']}/{judge['n_asked']} | " + " | ".join(cells) + " |")
        if judge.get("changes"):
            cells = [score_text(judge["changes"].get(axis), "+", 2) for axis in axes]
            lines.append(f"| {step['name']}, paired difference | | " + " | ".join(cells) + " |")
    return lines


def _canaries(step: dict[str, Any]) -> list[str]:
    """What a judge that cannot be trusted was asked; a judge that passed needs no more than a count."""
    canaries = step["judge"].get("canaries") or []
    if step["judge"]["verdict"] != INVALID:
        return [f"  - {len(canaries)} canaries passed"] if canaries else []
    return [
        f"  - canary {found['name']}: {found['passed']} of {found['asked']}, {found['needed']} needed"
        f"{'' if found['ok'] else ' **failed**'}"
        for found in canaries
    ]


def write_markdown(folder: Path, recipe: str, nodes: Sequence[Named]) -> Path:
    """Write report.md into the run's folder and return its path."""
    path = folder / "report.md"
    write_text(path, report_markdown(recipe, nodes))
    return path
