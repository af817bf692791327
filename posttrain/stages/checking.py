"""The checks before the judge is heard: which artifacts they read. What they mean is said in `eval`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from posttrain.chain.stage import Input, StageContext
from posttrain.rows import Row, read_rows

if TYPE_CHECKING:
    from eval.finding import Finding


def checked_rows(path_rows: Sequence[Row], prompts: Sequence[Row]) -> "list[Finding]":
    """A data step: its rows belong to their prompts, hold no evaluation prompt, and are whole."""
    from eval.alignment import own_words, seen_prompts
    from eval.text_checks import row_checks

    entries = [_entry(row) for row in path_rows]
    texts = [{"id": row["id"], "text": row["messages"][-1]["content"], "stopped": True} for row in path_rows]
    return [own_words(entries), seen_prompts(prompts, entries), *row_checks(texts)]


def checked_samples(
    ctx: StageContext, prompts: Mapping[str, Row], training: Sequence[Row], max_length_change: float | None = None
) -> "list[Finding]":
    """A model's answers: what it was trained on, its texts, and its held-out answers, beside the step before."""
    from eval.alignment import own_words, seen_prompts
    from eval.held_out import loss_checks
    from eval.text_checks import length_check, model_checks

    judged, before = ctx.inputs["judged"], ctx.inputs.get("before")
    completions = read_rows(judged.path / "completions.jsonl")
    asked = [prompts[key] for key in dict.fromkeys(row["id"] for row in completions) if key in prompts]
    entries = [_entry(row) for row in training]
    texts = model_checks(
        completions,
        read_rows(before.path / "completions.jsonl") if before else None,
        references=[row["reference"] for row in asked if row.get("reference")],
        training=[entry["answer"] for entry in entries],
        controls=[row["text"] for row in _optional(judged, "control.jsonl")],
    )
    losses = loss_checks(_optional(judged, "held_out.jsonl"), _optional(before, "held_out.jsonl") if before else None)
    lengths = []
    if before and max_length_change is not None:
        earlier = read_rows(before.path / "completions.jsonl")
        lengths = [length_check(completions, earlier, max_length_change)]
    return [*([own_words(entries), seen_prompts(asked, entries)] if entries else []), *texts, *lengths, *losses]


def _entry(row: Row) -> Row:
    messages = row["messages"]
    return {"prompt": messages[0]["content"], "answer": messages[-1]["content"], "words": row.get("words")}


def _optional(source: Input, name: str) -> list[Row]:
    """Rows that samples have only where there was something to write."""
    path = source.path / name
    return read_rows(path) if path.is_file() else []
