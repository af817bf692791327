"""One prompt's answer against that of the step before: who won, and what each judge said in either order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from posttrain.chain.store import Artifact
from posttrain.report.records import model_name, step_before
from posttrain.rows import Row, read_rows

OUTCOMES = {"new": "won", "old": "lost", "tie": "tie", None: "no verdict"}


@dataclass(frozen=True)
class Order:
    """What one judge said with this answer as A, in the first place, or as B; `judge` is empty where there is one."""

    judge: str
    letter: str
    outcome: str
    reason: str


@dataclass(frozen=True)
class Pair:
    """An answer compared with the earlier one; `score` is 1 where it won, 0 where it lost, None without a verdict."""

    before: str
    score: float | None
    orders: list[Order]

    @property
    def outcome(self) -> str:
        """`won`, `lost`, `tie`, `no verdict`; with the mean of a panel that does not agree."""
        if self.score is None:
            return "no verdict"
        word = "tie" if self.score == 0.5 else "won" if self.score > 0.5 else "lost"
        return word if self.score in (0, 0.5, 1) else f"{word} ({self.score:.2f})"


def pairs_of(judge: Artifact | None) -> dict[str, Pair]:
    """The comparison of the first sample by prompt; empty where a step was compared with none."""
    if judge is None or not (judge.path / "pairs.jsonl").is_file():
        return {}
    before = step_before(judge.record) or "the step before"
    rows = [row for row in read_rows(judge.path / "pairs.jsonl") if row["sample"] == 0]
    return {row["id"]: Pair(before, row["win"]["score"], list(_orders(row))) for row in rows}


def _orders(row: Row) -> Iterator[Order]:
    sides: dict[str, dict[str, Any]] = row["sides"]
    for judge, found in sides.items():
        name = model_name(judge) if len(sides) > 1 else ""
        for letter, side in (("A", found["new_first"]), ("B", found["old_first"])):
            yield Order(name, letter, OUTCOMES[side["outcome"]], side["reason"])
