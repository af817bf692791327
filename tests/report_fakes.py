"""Records of runs that never ran, for laws of the report: artifacts on the disk with the shapes that stages write."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.chain.identity import digest, sha256_file
from posttrain.chain.store import Artifact
from posttrain.report import plots
from posttrain.report.records import PANEL, Named
from posttrain.rows import Row, write_rows

AXES = ("grammar", "instruct", "plot")
PACKAGES = {"torch": "2.13.0", "trl": "1.16.0"}
CANARIES = [
    {"name": "sentences shuffled", "asked": 20, "passed": 20, "needed": 18, "ok": True},
    {"name": "empty", "asked": 20, "passed": 3, "needed": 18, "ok": False},
]
DRAWN: dict[str, str] = {}  # plots by what they show
RULE, MODEL = "rule (a proxy)", "openai:gpt-4o-mini"
PAIRWISE = {
    "n_asked": 24,
    "n_scored": 24,
    "win_rate": {"score": 0.6458, "low": 0.5123, "high": 0.7793},
    "length_controlled": {"score": 0.6042, "low": 0.4711, "high": 0.7241},
    "flip_rate": 0.125,
    "first_share": 0.5532,
}
ASKED = {
    "judge_notes": ["gpt-4o-mini at https://api.example.org/v1 enforces json_schema"],
    "choices": {"age_group": {"3 or under": 0.0, "4 to 5": 0.7083, "6 to 7": 0.2917, "8 to 9": 0.0}},
    "remote_calls": 448,
    "remote_tokens": 91_234,
    "cost_usd": 0.0179,
}


class Run:
    """Adds nodes to a run, one artifact directory each; `by` judges on `axes`."""

    def __init__(
        self,
        folder: Path,
        texts: Mapping[str, str] | None = None,
        by: str = RULE,
        axes: Sequence[str] = AXES,
    ) -> None:
        self.folder, self.texts, self.by, self.axes = folder, dict(texts or {}), by, axes
        self.nodes: list[Named] = []
        self.prompts = folder / "prompts.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        prompts = [
            {"id": f"p{at:02d}", "prompt": f"Story {at} with the words fox and run.", "words": ["fox", "run"]}
            for at in range(24)
        ]
        write_rows(self.prompts, prompts)

    def add(
        self,
        name: str,
        kind: str,
        metrics: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        rows: Mapping[str, list[Row]] | None = None,
        config: Mapping[str, Any] | None = None,
        joules: dict[str, float] | None = None,
    ) -> None:
        """One node; an input that is no node of the run is outside the chain."""
        identities = {row["name"]: row["identity"] for row, _ in self.nodes}
        found = {
            field: {"identity": identities.get(value, "0" * 64), "reference": value}
            for field, value in (inputs or {}).items()
        }
        path = self.folder / f"{name}-entry"
        path.mkdir(parents=True)
        for file, content in (rows or {}).items():
            write_rows(path / file, content)
        record = {
            "kind": kind,
            "version": 1,
            "identity": digest({"name": name}),
            "config": {"kind": kind, "seed": 7, **(inputs or {}), **(config or {})},
            "inputs": found,
            "metrics": dict(metrics),
            "provenance": {
                "posttrain": "0.1.0",
                "commit": "c" * 40,
                "source": "5" * 64,
                "python": "3.11.7",
                "packages": PACKAGES,
                "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
                "seconds": 61.0,
                "peak_memory_mb": 1234.5,
                "joules": joules,
            },
            "finished": f"2026-01-02T03:04:{len(self.nodes):02d}+00:00",
            "files": {file.name: sha256_file(file) for file in path.iterdir()},
        }
        row = {"name": name, "kind": kind, "identity": record["identity"], "cached": False, "seconds": 61.0}
        self.nodes.append((row, Artifact(path, record)))

    def sample(self, step: str) -> None:
        """Completions of every prompt; `texts` of the run says what a step writes."""
        text = self.texts.get(step, f"A {step} fox ran away. The end.")
        rows = [
            {"id": f"p{at:02d}", "sample": 0, "prompt": f"Story {at} with the words fox and run.", "text": text}
            | {"stopped": at % 5 != 0, "tokens": 100 + at}
            for at in range(24)
        ]
        metrics = {"summary": "24 completions", "completions": 24, "stopped": 0.8, "tokens": 2400}
        config = {"prompts": sha256_file(self.prompts)}
        self.add(f"{step}.samples", "samples", metrics, {"model": step}, {"completions.jsonl": rows}, config)

    def judge(self, step: str, level: float, previous: str | None = None, of_rows: bool = False, **more: Any) -> None:
        """Verdicts round `level`; the reason says where they come from."""
        low = {f"p{at:02d}": round(max(1.0, level - (at * 7 % 5)), 2) for at in range(24)}
        rows = [
            {
                "id": key,
                "sample": 0,
                "axes": {axis: {"score": score, "reason": f"{axis} of {step} at {key}"} for axis in self.axes},
            }
            for key, score in low.items()
        ]
        if self.by != RULE:
            for at, row in enumerate(rows):
                row["choices"] = {"age_group": {"score": 2 if at < 17 else 3, "reason": "its words"}}
            more = ASKED | ({"pairwise": PAIRWISE} if previous else {}) | more
        axis = {"score": level, "low": level - 0.4, "high": level + 0.3}
        metrics: dict[str, Any] = {
            "judge": self.by,
            "primary": "instruct" if "instruct" in self.axes else self.axes[0],
            "axes": dict.fromkeys(self.axes, axis),
            "n_scored": 24,
            "n_asked": 24,
            "verdict": "PASS" if previous else "BASELINE",
            "why": f"{step} was judged",
            "words_used": {"share": level / 10, "low": level / 10 - 0.05, "high": level / 10},
        }
        if previous:
            metrics["changes"] = {key: {"score": 1.5, "low": 1.0, "high": 2.0} for key in self.axes}
        inputs = {"judged": step if of_rows else f"{step}.samples"}
        inputs |= {"before": f"{previous}.samples", "previous": f"{previous}.judge"} if previous else {}
        files = {"verdicts.jsonl": rows} | ({"pairs.jsonl": compared(self.by)} if "pairwise" in more else {})
        self.add(f"{step}.judge", "judge", metrics | more, inputs, files)


def compared(by: str) -> list[Row]:
    """Pairs of all prompts: won in both orders, won in the first place only, lost in both, and so on."""
    sides = [("new", "new", 1.0), ("new", "old", 0.5), ("old", "old", 0.0)]
    rows = []
    for at in range(24):
        one, other, score = sides[at % 3]
        said = {"new_first": _side(one, "its end is an end"), "old_first": _side(other, "the fox has a wish")}
        win = {"score": score, "reason": "both orders"}
        lengths = {"new_length": 500 + at, "old_length": 480}
        judges = dict.fromkeys(PANEL.split(by), said)
        rows.append({"id": f"p{at:02d}", "sample": 0, "win": win, **lengths, "sides": judges})
    return rows


def _side(outcome: str | None, reason: str) -> dict[str, str | None]:
    return {"outcome": outcome, "reason": reason}


def whole_chain(folder: Path, texts: Mapping[str, str] | None = None, by: str = RULE, **of_last_judge: Any) -> Run:
    """A base that was pretrained, rows, and a model tuned on them, all judged."""
    run = Run(folder, texts, by)
    pretrained = {
        "summary": "0.1M parameters from scratch",
        "documents": 990,
        "documents_held_out": 10,
        "corpus_tokens": 5000,
        "tokens_seen": 9000,
        "held_out_nll": 2.5,
        "loss_curve": [[50, 5.0], [100, 3.5], [150, 3.25]],
    }
    run.add("base", "base", pretrained, {"tokenizer": "org/outside@main"})
    run.sample("base")
    run.judge("base", 3.0)
    counts = {"control strings removed": 2, "kept": 90, "exact": 4, "near": 5, "equal to a held-out prompt": 1}
    run.add("rows", "generate", {"summary": "80 rows", "rows": 80, "rows_held_out": 10, "counts": counts})
    run.judge("rows", 9.0, of_rows=True)
    tuned = {
        "summary": "LoRA on 78 rows",
        "rows": 78,
        "rows_dropped_too_long": 2,
        "rows_cut": 0,
        "tokens": 4000,
        "supervised_tokens": 3000,
        "held_out_nll": {"before": 3.0, "after": 1.5},
        "loss_curve": [[at, 3.0 - at / 50] for at in range(1, 101)],
    }
    run.add("sft", "sft", tuned, {"model": "base", "data": "rows"})
    run.sample("sft")
    run.judge("sft", 6.0, "base", **of_last_judge)
    return run


def draw_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot of the same figures is the same plot, so it is drawn once in all tests."""
    for draw in (plots.scores, plots.losses):
        monkeypatch.setattr(plots, draw.__name__, _remembered(draw))


def _remembered(draw: Callable[..., str]) -> Callable[..., str]:
    def drawn(*arguments: Any, **keywords: Any) -> str:
        key = repr((draw.__name__, arguments, keywords))
        if key not in DRAWN:
            DRAWN[key] = draw(*arguments, **keywords)
        return DRAWN[key]

    return drawn
