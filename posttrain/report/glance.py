"""The run at one glance: its steps in a line each, and its few figures that matter most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.report import wording
from posttrain.report.accounting import Cost, total_usd
from posttrain.report.records import INVALID, Named, judge_name, lineage, score_text

Step = dict[str, Any]


@dataclass(frozen=True)
class Tile:
    """One figure of the summary."""

    name: str
    value: str
    note: str
    wide: bool = False
    counts: bool = True  # what was not measured, or not by a judge that can be trusted, is set back


@dataclass(frozen=True)
class Line:
    """One step in words."""

    name: str
    summary: str
    verdict: str
    why: str
    stopped: str
    words_used: str


def step_lines(steps: Sequence[Step]) -> list[Line]:
    """What every step did and how it was judged."""
    found = []
    for step in steps:
        judge = step["judge"] or {}
        stopped = step["metrics"].get("samples", {}).get("stopped")
        used = judge.get("words_used")
        found.append(
            Line(
                step["name"],
                str(step["metrics"].get("summary", "")),
                judge.get("verdict", "not judged"),
                judge.get("why", ""),
                "–" if stopped is None else f"{stopped:.0%}",
                f"{used['share']:.0%}" if used else "–",
            )
        )
    return found


def tiles(nodes: Sequence[Named], steps: Sequence[Step], spent: Sequence[Cost]) -> list[Tile]:
    """The primary axis from the first to the last model of the chain, and what the run took."""
    way = [step for name in lineage(nodes) for step in steps if step["name"] == name and step["judge"]]
    scored = [_primary_tile(way), *_words_tile(way)] if way else []
    seconds = sum(cost.total_seconds for cost in spent)
    longest = max(spent, key=lambda cost: cost.total_seconds)
    hungriest = max(spent, key=lambda cost: cost.peak_memory_mb)
    joules = [cost.joules for cost in spent]
    measured = sum(value for value in joules if value is not None) if None not in joules else None
    usd = total_usd(cost.usd for cost in spent)
    return [
        *scored,
        Tile("time", wording.duration(seconds), f"most of it {longest.step}"),
        Tile("peak memory", wording.memory(hungriest.peak_memory_mb), f"in {hungriest.step}"),
        Tile("energy", wording.energy(measured), _energy_short(spent), counts=measured is not None),
        Tile("cost", wording.dollars(usd), _calls(spent)),
    ]


def _primary_tile(way: Sequence[Step]) -> Tile:
    judge, first = way[-1]["judge"], way[0]["judge"]
    axis = judge["primary"]
    now = judge["axes"].get(axis)
    before = first["axes"].get(axis)
    name = f"{axis}, {way[-1]['name']}"
    value = score_text(now)
    if len(way) > 1:
        name = f"{axis}, {way[0]['name']} → {way[-1]['name']}"
        was = "unscored" if before is None or before["score"] is None else f"{before['score']:.1f}"
        value = f"{was} → {value}"
    change = judge.get("changes", {}).get(axis)
    last = f"{way[-1]['name']} by itself {score_text(change, '+')}, paired" if change else ""
    paired = last.replace("-", "−") + " · " if last else ""
    trusted = INVALID not in (judge["verdict"], first["verdict"])
    note = f"{paired}{judge_name(judge)}" if trusted else f"{INVALID}: these figures do not count"
    return Tile(name, value, note, wide=True, counts=trusted)


def _words_tile(way: Sequence[Step]) -> list[Tile]:
    used = [step["judge"].get("words_used") for step in way]
    if not used[-1]:
        return []
    value = f"{used[-1]['share']:.0%}"
    if len(used) > 1 and used[0]:
        value = f"{used[0]['share']:.0%} → {value}"
    return [Tile("words used", value, f"of those required [{used[-1]['low']:.0%}, {used[-1]['high']:.0%}]")]


def _calls(spent: Sequence[Cost]) -> str:
    calls, tokens = sum(cost.calls for cost in spent), sum(cost.tokens for cost in spent)
    return f"{calls:,} remote calls" + (f", {tokens:,} tokens" if tokens else "")


def _energy_short(spent: Sequence[Cost]) -> str:
    measured = [cost.joules for cost in spent if cost.joules is not None]
    if not measured:
        return "no counter is readable here"
    if len(measured) < len(spent):
        return f"{len(measured)} of {len(spent)} steps were measured"
    return f"{sum(measured) / 3600:,.1f} Wh, the whole machine"


def energy_note(spent: Sequence[Cost]) -> str:
    """Where the energy comes from, in a sentence."""
    if all(cost.joules is None for cost in spent):
        return "Energy: not measured, no counter (RAPL, NVML) was readable."
    return "Energy is what the machine's counters (RAPL, NVML) say of the whole machine, other work on it included."
