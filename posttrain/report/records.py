"""What the records of a run say, step by step: the facts under every form of the report."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.chain.references import ENDPOINT
from posttrain.chain.runner import Done, row_of
from posttrain.chain.store import Artifact
from posttrain.rows import read_rows

Named = tuple[dict[str, Any], Artifact]  # a row of run.json and its artifact
REMOTE = ENDPOINT
PANEL = re.compile(rf"\+(?={REMOTE})")  # between the models of a panel; a plus in a name is none
INVALID = "JUDGE INVALID"  # the judge failed on texts whose order is known: no verdict of it counts
JUDGE_KEYS = (
    "axes", "n_scored", "n_asked", "verdict", "why", "primary", "before", "changes", "words_used", "exact", "judge",
    "canaries", "checks", "test", "margin", "minimum", "prompts_needed", "pairwise", "choices", "judge_notes",
)  # fmt: skip


def named(done: Sequence[Done]) -> list[Named]:
    """The nodes of a run that has just ended, as `read_run` would give them."""
    return [(row_of(item), item.artifact) for item in done]


def steps_of(nodes: Sequence[Named]) -> list[dict[str, Any]]:
    """One entry a step; its judge and samples are folded in. `seconds` counts all of them.

    `kept` names the step whose model is handed on in place of this one's; `instead` the inputs that are such models.
    """
    by_name = {row["name"]: (row, artifact) for row, artifact in nodes}
    steps = []
    for name, (row, artifact) in by_name.items():
        if "." in name:
            continue
        parts = [part for part in nodes if part[0]["name"].split(".")[0] == name]
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
                "kept": verdicts[0].get("kept") if verdicts is not None else None,
                "instead": row.get("instead", {}),
            }
        )
    return steps


def _beside(parts: Sequence[Named]) -> dict[str, Any]:
    """Figures of the nodes round a step: its samples, and the highest memory of any of them."""
    found: dict[str, Any] = {}
    for row, artifact in parts:
        if row["kind"] == "samples" and not found:  # of an export's files the first
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
    made = [(row["name"].removesuffix(".samples"), artifact) for row, artifact in nodes if row["kind"] == "samples"]
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


def step_before(judge: Mapping[str, Any]) -> str | None:
    """The step that a judge's record compares with; None without one."""
    before = judge["inputs"].get("previous") or judge["inputs"].get("before")
    return str(before["reference"]).split(".")[0] if before else None


def model_name(reference: str) -> str:
    """`gpt-4o-mini` of `openai:gpt-4o-mini`: the prefix says how it is asked, not whose it is."""
    return reference.removeprefix(REMOTE)


def judge_name(judge: dict[str, Any]) -> str:
    """`rule judge (a proxy)`, `language model a`, `panel of a, b and c`; `judge` where a record does not name it."""
    found = str(judge.get("judge", ""))
    if found.startswith(REMOTE):
        *others, last = (model_name(part) for part in PANEL.split(found))
        return f"panel of {', '.join(others)} and {last}" if others else f"language model {last}"
    name, _, remark = found.partition(" ")
    return " ".join(part for part in (name, "judge", remark) if part)


def score_text(axis: dict[str, float | None] | None, sign: str = "", places: int = 1) -> str:
    """`6.8 [6.6, 7.0]`, or that there is no score: unscored is not zero."""
    if axis is None or axis["score"] is None:
        return "unscored"
    number = f"{sign}.{places}f"
    return f"{axis['score']:{number}} [{axis['low']:{number}}, {axis['high']:{number}}]"
