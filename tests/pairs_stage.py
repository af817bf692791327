"""The pairs stage as a chain calls it: what its tests share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stage_context import RUBRIC, context, given, run
from test_stage_generate_teacher import saying

from data_gen.instructions import instruction_rows
from eval.story_rules import rule_judge
from posttrain.rows import Row, read_rows, write_rows

SHORT = {"max_new_tokens": 24, "block_size": 10}
FEW: dict[str, Any] = {
    "model": "m", "prompts": "p", "seed": 3, "samples": 3, "sampling": SHORT, "test_size": 4, "min_rows": 4,
    "max_one_sided": 1, "margin": 0, "judge": {"judge": "rule", "rubric": RUBRIC},
}  # fmt: skip


def faulty_model(tiny: Path, path: Path) -> Path:
    """A model of random words: it ends, is cut, says nothing, and speaks in control tokens."""
    return saying(tiny, path, **{"<|end|>": 0.1, "<|user|>": 0.02})


def rows_step(folder: Path, count: int = 20, rows: list[Row] | None = None) -> Path:
    """The artifact of a step that makes rows."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", instruction_rows(5, 0, count) if rows is None else rows)
    return folder


def paired(folder: Path, model: Path, prompts: Path, stop_after: int | None = None, **settings: Any) -> dict[str, Any]:
    """The metrics of a run in a folder of its own."""
    ctx = context(folder, stop_after, model=given(model), prompts=given(prompts))
    return run("pairs", ctx, **{**FEW, **settings})


def rows_of(folder: Path) -> list[Row]:
    return [row for name in ("train", "test") for row in read_rows(folder / "out" / f"{name}.jsonl")]


def bytes_of(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "out" / "train.jsonl").read_bytes(), (folder / "out" / "test.jsonl").read_bytes()


def written(folder: Path) -> dict[str, Row]:
    """All that the model answered, by prompt id and sample."""
    blocks = sorted((folder / "out" / ".work" / "answers").glob("*.jsonl"))
    return {row["id"]: row for block in blocks for row in read_rows(block)}


def text_of(row: Row, side: str) -> str:
    assert [message["role"] for message in row[side]] == ["assistant"]
    return str(row[side][0]["content"])


def usable(folder: Path) -> dict[str, list[Row]]:
    """By prompt the answers that end, say something and hold no control token."""
    found: dict[str, list[Row]] = {}
    for key, row in written(folder).items():
        if row["stopped"] and row["text"].strip() and "<|" not in row["text"]:
            found.setdefault(key.split("/")[0], []).append(row)
    return found


def scored(folder: Path, prompts: Path, training: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """Mean scores of all usable answers, by prompt and text: the judge once more, asked for itself."""
    about = {row["id"]: {**row, "prompt": row["messages"][0]["content"]} for row in read_rows(prompts / "train.jsonl")}
    rows = [{**row, "id": key} for key, answers in usable(folder).items() for row in answers]
    found: dict[str, dict[str, float]] = {}
    for row, verdicts in zip(rows, rule_judge(about, rows, training)(rows), strict=True):
        points = [verdict.score for verdict in verdicts.values() if verdict.score is not None]
        found.setdefault(row["id"], {})[row["text"]] = sum(points) / len(points)
    return found
