"""Completions side by side: one prompt, every sampled step, what the judge says of each and how it changed."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.chain.identity import sha256_file
from posttrain.chain.store import Artifact
from posttrain.report.pairs import Pair, pairs_of
from posttrain.report.records import Named, step_before
from posttrain.rows import Row, read_rows

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
Forms = Callable[[str], frozenset[str]]  # all forms of a word that count as using it
Segments = list[tuple[str, bool]]  # text, and whether it is a required word


@dataclass(frozen=True)
class Verdict:
    """One axis of one completion; `change` is against the step before."""

    axis: str
    score: float | None
    reason: str
    change: float | None


@dataclass(frozen=True)
class Cell:
    """One step's completion of a prompt."""

    step: str
    before: str | None
    text: Segments | None
    stopped: bool
    tokens: int | None
    verdicts: list[Verdict]
    pair: Pair | None = None


@dataclass(frozen=True)
class Shown:
    """A prompt with the completions of every sampled step."""

    number: int
    prompt: Segments
    cells: list[Cell]

    def worst(self, axis: str | None) -> Verdict | None:
        """The verdict that fell most against the step before, on one axis or any; None without a step before."""
        compared = [
            verdict
            for cell in self.cells
            for verdict in cell.verdicts
            if verdict.change is not None and axis in (None, verdict.axis)
        ]
        return min(compared, key=lambda verdict: verdict.change or 0.0, default=None)

    def drop(self, axis: str | None) -> float | None:
        """The largest fall in points: 0 where nothing fell, None without a step before."""
        worst = self.worst(axis)
        return None if worst is None or worst.change is None else max(0.0, -worst.change)

    def last(self, axis: str) -> float | None:
        """The last step's score on an axis."""
        return next((verdict.score for verdict in self.cells[-1].verdicts if verdict.axis == axis), None)


def shown_prompts(nodes: Sequence[Named], count: int, prompts: Path | None, forms: Forms) -> list[Shown]:
    """The first `count` prompts that every sampled step has answered: chosen by order, never by score."""
    by_name = {row["name"]: artifact for row, artifact in nodes}
    steps = [row["name"].removesuffix(".samples") for row, _ in nodes if row["kind"] == "samples"]
    if not steps:
        return []
    texts = {step: _first_samples(by_name[f"{step}.samples"].path / "completions.jsonl") for step in steps}
    judges = {step: by_name.get(f"{step}.judge") for step in steps}
    verdicts = {step: _verdicts(judge) for step, judge in judges.items()}
    pairs = {step: pairs_of(judge) for step, judge in judges.items()}
    before = {step: step_before(judge.record) if judge else None for step, judge in judges.items()}
    required = _required(prompts, by_name[f"{steps[0]}.samples"])
    keys = [key for key in texts[steps[0]] if all(key in rows for rows in texts.values())][:count]
    found = []
    for number, key in enumerate(keys, start=1):
        words = required.get(key, [])
        cells = []
        for step in steps:
            earlier = verdicts.get(before[step] or "", {}).get(key, {})
            row = texts[step][key]
            text = None if row["text"] is None else marked(row["text"], words, forms)
            judged = _compared(verdicts[step].get(key, {}), earlier)
            stopped, pair = bool(row.get("stopped", True)), pairs[step].get(key)
            cells.append(Cell(step, before[step], text, stopped, row.get("tokens"), judged, pair))
        found.append(Shown(number, marked(texts[steps[0]][key]["prompt"], words, forms), cells))
    return found


def _first_samples(path: Path) -> dict[str, Row]:
    return {row["id"]: row for row in read_rows(path) if row["sample"] == 0}


def _verdicts(judge: Artifact | None) -> dict[str, dict[str, Any]]:
    """Axes of the first sample by prompt; empty where a step was not judged prompt by prompt."""
    if judge is None or not (judge.path / "verdicts.jsonl").is_file():
        return {}
    rows = read_rows(judge.path / "verdicts.jsonl")
    return {row["id"]: row["axes"] for row in rows if row["sample"] == 0}


def _compared(axes: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[Verdict]:
    found = []
    for axis, verdict in axes.items():
        score, was = verdict["score"], earlier.get(axis, {}).get("score")
        change = None if score is None or was is None else score - was
        found.append(Verdict(axis, score, str(verdict["reason"]), change))
    return found


def _required(prompts: Path | None, samples: Artifact) -> dict[str, list[str]]:
    """Required words by prompt, when the file of prompts is still the one that was sampled; else none is marked."""
    if prompts is None or not prompts.is_file() or sha256_file(prompts) != samples.record["config"].get("prompts"):
        return {}
    return {row["id"]: row.get("words") or [] for row in read_rows(prompts)}


def marked(text: str, words: Sequence[str], forms: Forms) -> Segments:
    """The text in pieces, the required words in any of their forms told apart."""
    wanted = frozenset[str]().union(*(forms(part.lower()) for word in words for part in WORD.findall(word)))
    pieces: Segments = []
    at = 0
    for match in WORD.finditer(text):
        if match.group().lower().replace("’", "'").removesuffix("'s") in wanted:
            pieces += [(text[at : match.start()], False), (match.group(), True)]
            at = match.end()
    return [piece for piece in [*pieces, (text[at:], False)] if piece[0]]
