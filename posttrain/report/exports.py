"""Exported files beside the fp32 model that they were made from: a row a file, the same in Markdown and on the page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from posttrain.report.records import Named, score_text

MB = 1e6
COLUMNS = (
    "file", "MB", "of fp32", "peak MB", "load s", "prefill tokens/s", "decode tokens/s", "ms/token",
    "held-out loss, nats", "top-1", "top-1, clear", "KL, nats", "same ids", "same greedy text", "tuned, nats", "judge",
)  # fmt: skip
NOTE = (
    "Each file was measured by itself, in a process of its own, by the runtime of its users, beside the merged model "
    "in fp32 in transformers ({threads}). Memory is that of the process with its libraries. Loss, top-1 (clear: where "
    "fp32 leads by 0.1 nat) and KL are over {tokens:,} tokens of held-out answers, the same ones; 'tuned' is how far "
    "the file is from the untuned base, KL a token: an adapter that got lost would leave nothing of it. 'judge' is the "
    "paired difference to the step before on the primary axis."
)


class Exported(NamedTuple):
    """The files of one step: a note, and a row of cells a file under COLUMNS."""

    step: str
    note: str
    rows: list[list[str]]


def exports_of(nodes: Sequence[Named]) -> list[Exported]:
    """One entry a step that exports."""
    by_name = {row["name"]: artifact.record for row, artifact in nodes}
    found = []
    for row, artifact in nodes:
        if row["kind"] == "export":
            metrics = artifact.record["metrics"]
            first = next(iter(artifact.record["config"]["formats"]))
            judges = {
                name: by_name.get(f"{row['name']}.judge" if name == first else f"{row['name']}.{name}.judge")
                for name in metrics["formats"]
            }
            count = metrics["threads"]
            threads = "one thread" if count == 1 else f"{count} threads"
            rows = [_cells(name, one, judges[name]) for name, one in metrics["formats"].items()]
            found.append(Exported(row["name"], NOTE.format(threads=threads, tokens=metrics["scored_tokens"]), rows))
    return found


def _cells(name: str, one: Mapping[str, Any], judge: Mapping[str, Any] | None) -> list[str]:
    speed = [f"{one['prefill_tokens_per_second']:,.0f}", f"{one['decode_tokens_per_second']:,.0f}"]
    ratio = one.get("ratio")
    if ratio:
        speed = [f"{text} (x {ratio[key]:.1f})" for text, key in zip(speed, ("prefill", "decode"), strict=True)]
    tuned = "–" if one["tuned_kl"] is None else f"{one['tuned_kl']:.4f}"
    size = [f"{one['bytes'] / MB:.2f}", f"{ratio['size']:.3f}" if ratio else "1"]
    process = [f"{one['peak_mb']:,.0f}", f"{one['load_seconds']:.2f}"]
    return [name, *size, *process, *speed, f"{one['ms_per_token']:.2f}", *_lost(one), tuned, _judged(judge)]


def _lost(one: Mapping[str, Any]) -> list[str]:
    """What the file lost; of the fp32 model its loss alone."""
    if "d_nll" not in one:
        return ["", *[""] * 5]
    change = one["d_nll"]
    clear = "–" if one["top1_clear"] is None else f"{one['top1_clear']:.2%}"
    return [
        f"{change['score']:+.5f} [{change['low']:+.5f}, {change['high']:+.5f}] ({one['d_nll_share']:+.2%})",
        f"{one['top1']:.2%}", clear, f"{one['kl']:.5f}", f"{one['tokenizer']:.0%}", f"{one['greedy']:.0%}",
    ]  # fmt: skip


def _judged(judge: Mapping[str, Any] | None) -> str:
    if judge is None:
        return ""
    metrics = judge["metrics"]
    change = metrics.get("changes", {}).get(metrics["primary"])
    return f"{metrics['verdict']}, {metrics['primary']} {score_text(change, '+', 2)}" if change else metrics["verdict"]
