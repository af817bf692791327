"""What a run took and where its rows went: rows, time, memory, energy, remote calls, from the records alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.report.records import Named

PLAIN = {"exact": "exact copies", "near": "near copies"}
NO_ROWS = ("kept", "control strings removed")  # counts that are no dropped rows


@dataclass(frozen=True)
class Rows:
    """Rows (or documents) of one step: came in = used + held out + dropped."""

    step: str
    kind: str
    unit: str
    came_in: int
    dropped: tuple[tuple[str, int], ...]
    held_out: int | None
    cut: int | None
    packed: str
    used: int
    tokens: str
    note: str


@dataclass(frozen=True)
class Cost:
    """What one step took; its samples and its judge beside it."""

    step: str
    seconds: float
    samples_seconds: float | None
    judge_seconds: float | None
    peak_memory_mb: float
    joules: float | None
    calls: int
    tokens: int
    usd: float | None  # None: calls were sent, and no price is known for them

    @property
    def total_seconds(self) -> float:
        return self.seconds + (self.samples_seconds or 0.0) + (self.judge_seconds or 0.0)


def row_accounts(nodes: Sequence[Named]) -> list[Rows]:
    """One entry for every step that made, read or learnt from rows."""
    found = []
    for row, artifact in nodes:
        metrics, config = artifact.record["metrics"], artifact.record["config"]
        if "." in row["name"]:
            continue
        if "counts" in metrics:
            found.append(_made(row, metrics))
        elif "rows_dropped_too_long" in metrics:
            found.append(_trained(row, metrics, config))
        elif "corpus_tokens" in metrics:
            found.append(_read(row, metrics))
    return found


def _made(row: dict[str, Any], metrics: dict[str, Any]) -> Rows:
    dropped = tuple(
        (PLAIN.get(reason, reason), count) for reason, count in metrics["counts"].items() if reason not in NO_ROWS
    )
    total = metrics["rows"] + metrics["rows_held_out"] + sum(count for _, count in dropped)
    removed = metrics["counts"].get("control strings removed", 0)
    note = f"{removed:,} control strings removed from texts"
    unit, used = metrics.get("unit", "rows"), metrics["rows"]
    return Rows(row["name"], row["kind"], unit, total, dropped, metrics["rows_held_out"], None, "", used, "", note)


def _trained(row: dict[str, Any], metrics: dict[str, Any], config: dict[str, Any]) -> Rows:
    reasons = {"longer than max_length": "rows_dropped_too_long", "the same answer twice": "rows_dropped_equal"}
    dropped = tuple((reason, metrics[name]) for reason, name in reasons.items() if name in metrics)
    came_in = metrics["rows"] + sum(count for _, count in dropped)
    packing = metrics.get("packing", config.get("packing"))
    packed = "not recorded" if packing is None else "yes" if packing else "no"
    tokens = f"{metrics['tokens']:,} seen, {metrics['supervised_tokens']:,} supervised"
    return Rows(
        row["name"],
        row["kind"],
        "rows",
        came_in,
        dropped,
        None,
        metrics["rows_cut"],
        packed,
        metrics["rows"],
        tokens,
        "",
    )


def _read(row: dict[str, Any], metrics: dict[str, Any]) -> Rows:
    held_out, used = metrics["documents_held_out"], metrics["documents"]
    tokens = f"{metrics['corpus_tokens']:,} in the corpus, {metrics['tokens_seen']:,} seen"
    return Rows(row["name"], row["kind"], "documents", used + held_out, (), held_out, None, "yes", used, tokens, "")


def costs(nodes: Sequence[Named]) -> list[Cost]:
    """One entry a step, in the order of the chain."""
    by_name = {row["name"]: (row, artifact.record) for row, artifact in nodes}
    found = []
    for name, (row, _) in by_name.items():
        if "." in name:
            continue
        parts = [part for other, part in by_name.items() if other.split(".")[0] == name]
        records = [record for _, record in parts]
        beside = [_seconds(parts, kind) for kind in ("samples", "judge")]
        found.append(
            Cost(
                name,
                float(row["seconds"]),
                beside[0],
                beside[1],
                max(record["provenance"]["peak_memory_mb"] for record in records),
                total_joules([record["provenance"] for record in records]),
                sum(int(record["metrics"].get("remote_calls", 0)) for record in records),
                sum(int(record["metrics"].get("remote_tokens", 0)) for record in records),
                total_usd(record["metrics"].get("cost_usd", 0.0) for record in records),
            )
        )
    return found


def _seconds(parts: Sequence[tuple[Any, Any]], kind: str) -> float | None:
    """Of all nodes of a kind that close a step; None where there is none."""
    found = [float(row["seconds"]) for row, _ in parts if row["kind"] == kind]
    return sum(found) if found else None


def total_usd(amounts: Iterable[float | None]) -> float | None:
    """Dollars of all parts; None as soon as the price of one is not known."""
    known = list(amounts)
    return None if None in known else float(sum(amount for amount in known if amount is not None))


def total_joules(provenances: Sequence[dict[str, Any]]) -> float | None:
    """Joules of all parts; None as soon as one of them was not measured."""
    measured = [provenance.get("joules") for provenance in provenances]
    if not measured or any(not joules for joules in measured):
        return None
    return float(sum(value for joules in measured if joules for value in joules.values()))
