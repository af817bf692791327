"""What people see while a chain runs: bars in a terminal, plain lines in a log, one closing table."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import (
    Progress as Bar,
)
from rich.table import Table
from rich.text import Text

from posttrain.chain.pace import Pace
from posttrain.chain.runner import STOPPING, Done
from posttrain.chain.stage import Progress, Tick

LOG_EVERY_S = 10.0
LOG_WIDTH = 130
STYLES = {
    "PASS": "green",
    "FAIL": "bold red",
    "INCONCLUSIVE": "yellow",
    "BASELINE": "cyan",
    "JUDGE INVALID": "bold red",
}


def screen_console(to_stderr: bool = False) -> Console:
    """The console of a run; on stderr when stdout carries JSON."""
    console = Console(highlight=False, stderr=to_stderr)
    if not console.is_terminal:
        console.width = LOG_WIDTH  # a log has no width of its own; 80 would break every table
    return console


class _Speed(ProgressColumn):
    """Units a second, and the time that is left at this rate."""

    def render(self, task: Any) -> Text:
        pace: Pace = task.fields["pace"]
        left = pace.left(time.monotonic())
        known = "" if left is None else f"  {_clock(left)} left"
        return Text(f"{pace.rate():,.1f} {task.fields['unit']}/s{known}", style="dim")


def _clock(seconds: float) -> str:
    """`0:41`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class LogLines:
    """Progress in a log: a line every ten seconds, and one when ten seconds bring nothing new."""

    def __init__(self, name: str, total: int, unit: str, write: Callable[[str], None]) -> None:
        self.name, self.unit, self.write = name, unit, write
        self.pace = Pace(total, time.monotonic())
        self.last = self.pace.opened  # when a line was written
        self.note = ""
        self.lock = threading.Lock()

    def tick(self, done: int, note: str = "", total: int | None = None) -> None:
        with self.lock:
            self.pace.reach(done, total, time.monotonic())
            self.note = note
            self._line()

    def beat(self) -> None:
        """Called from time to time: work without news shows that it lives."""
        with self.lock:
            self._line()

    def _line(self) -> None:
        pace, now = self.pace, time.monotonic()
        if now - self.last < LOG_EVERY_S or pace.over:
            return
        self.last = now
        left = pace.left(now)
        known = f"{now - pace.opened:,.0f} s so far" if left is None else f"{left:,.0f} s left"
        done = f"{pace.done:,}/{pace.total:,} {self.unit}  {pace.rate():,.1f}/s" if pace.total else "begins"
        self.write(f"● {self.name:<16} {done}  {known}  {self.note}".rstrip())


class RichScreen:
    """The screen of a run. In a terminal bars move; elsewhere a line comes every ten seconds."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or screen_console()

    def say(self, text: str) -> None:
        self.console.print(f"  {text}", markup=False, soft_wrap=True)

    def progress(self, name: str) -> Progress:
        @contextmanager
        def bar(total: int, unit: str) -> Iterator[Tick]:
            opened = self._bar if self.console.is_terminal else self._lines
            with opened(name, total, unit) as tick:
                yield tick

        return bar

    @contextmanager
    def _bar(self, name: str, total: int, unit: str) -> Iterator[Tick]:
        columns = (
            TextColumn("● {task.description:<16}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            _Speed(),
            TextColumn("{task.fields[note]}"),
        )
        pace = Pace(total, time.monotonic())
        with Bar(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(name, total=total or None, unit=unit, note="", pace=pace)

            def tick(done: int, note: str = "", total: int | None = None) -> None:
                pace.reach(done, total, time.monotonic())
                bar.update(task, completed=done, note=note, total=total)

            yield tick

    @contextmanager
    def _lines(self, name: str, total: int, unit: str) -> Iterator[Tick]:
        lines = LogLines(name, total, unit, lambda line: self.console.print(line, markup=False, soft_wrap=True))
        over = threading.Event()

        def watch() -> None:
            while not over.wait(LOG_EVERY_S):
                lines.beat()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield lines.tick
        finally:
            over.set()
            thread.join()

    def done(self, done: Done) -> None:
        metrics = done.artifact.record["metrics"]
        mark, style = ("✗", "red") if metrics.get("verdict") in STOPPING else ("✓", "green")
        line = Text(f"{mark} ", style=style)
        name = done.node.name + (" (cached)" if done.cached else "")
        line.append(f"{name:<26}")
        line.append_text(_score(metrics) if "verdict" in metrics else Text(str(metrics.get("summary", ""))))
        self.console.print(line, soft_wrap=True)

    def closing_table(self, steps: Sequence[dict[str, Any]]) -> None:
        """The table at the end: step, what it did, judge score with interval, verdict, minutes."""
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for title in ("step", "what it did", "judge", "verdict", "minutes"):
            table.add_column(title, justify="right" if title == "minutes" else "left")
        for step in steps:
            judge = step["judge"] or {}
            verdict = str(judge.get("verdict", "not judged"))
            kept = f", {step['kept']} kept" if step["kept"] else ""
            table.add_row(
                step["name"],
                str(step["metrics"].get("summary", "")) + _taken(step["instead"]),
                primary_score(judge),
                Text(verdict + kept, style=STYLES.get(verdict, "")),
                "cached" if step["cached"] else f"{step['seconds'] / 60:.1f}",
            )
        self.console.print()
        self.console.print(table)

    def plan_table(self, recipe: str, rows: Sequence[dict[str, Any]]) -> None:
        """What would run: step, kind, identity, state, time and memory of the last time, and calls at most."""
        table = Table(title=recipe, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
        remote = [row["remote"] for row in rows if row.get("remote")]
        titles = ["step", "kind", "identity", "state", "minutes", "peak MB", *(["calls at most"] if remote else [])]
        for title in titles:
            table.add_column(title, justify="right" if title in ("minutes", "peak MB") else "left")
        for row in rows:
            minutes = "" if row["seconds"] is None else f"{row['seconds'] / 60:.1f}"
            state = Text(row["state"], style="green" if row["state"] == "cached" else "yellow")
            name = row["name"] + _taken(row.get("instead", {}))
            memory = "" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:,.0f}"
            calls = [_calls(row["remote"])] if row.get("remote") else []
            table.add_row(name, row["kind"], row["identity"][:12], state, minutes, memory, *calls)
        self.console.print(table)
        waiting = sum(row["state"] != "cached" for row in rows)
        self.console.print(
            f"{waiting} of {len(rows)} to run; minutes and memory of a step to run are those of its kind's last run"
        )
        if remote:
            total = {key: sum(one[key] or 0 for one in remote) for key in ("calls", "answered", "tokens", "usd")}
            known = all(one["usd"] is not None for one in remote)
            self.console.print(f"in all: {_calls({**total, 'usd': total['usd'] if known else None})}")

    def where(self, models: Sequence[str], folder: Path, recipe: str, kept: Mapping[str, str]) -> None:
        """Where the results lie: the model that the chain ends with, and the report; `recipe` as it was given.

        `kept` names the steps whose model is not handed on, with the step whose model is.
        """
        for step in models:
            model = kept.get(step, step)
            failed = f"; {step} did not pass and is not handed on" if model != step else ""
            self.console.print(f"\n{model} lies in {folder / model}{failed}", markup=False)
        self.console.print(
            f"report: {folder / 'report.md'}; as a page with plots: posttrain report {recipe}", markup=False
        )

    def side_by_side(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Texts beside each other, a row a prompt. Content is never read as markup."""
        table = Table(title=title, show_lines=True, title_justify="left", title_style="bold")
        for name in columns:
            table.add_column(name, ratio=1)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print()
        self.console.print(table)


def _calls(remote: Mapping[str, Any]) -> str:
    """`300 rows: 640, 0.91M tokens, $0.18; 200 known`: an upper bound, from bytes and the longest replies."""
    rows = f"{remote['rows']:,} rows: " if remote.get("rows") else ""
    cost = "no price known" if remote["usd"] is None else f"${remote['usd']:,.2f}"
    known = f"; {remote['answered']:,} known" if remote["answered"] else ""
    return f"{rows}{remote['calls']:,}, {remote['tokens'] / 1e6:,.2f}M tokens, {cost}{known}"


def _taken(instead: Mapping[str, Mapping[str, str]]) -> str:
    """` (base in place of sft)` where a step takes another one's model than the recipe names."""
    return "".join(dict.fromkeys(f" ({names['used']} in place of {names['named']})" for names in instead.values()))


def primary_score(judge: dict[str, Any]) -> str:
    """`instruct 6.8 [6.6, 7.0]`, or why there is none."""
    axis = judge.get("axes", {}).get(judge.get("primary"))
    if not axis or axis["score"] is None:
        return "unscored" if judge else ""
    return f"{judge['primary']} {axis['score']:.1f} [{axis['low']:.1f}, {axis['high']:.1f}]"


def _score(metrics: dict[str, Any]) -> Text:
    verdict = str(metrics["verdict"])
    line = Text(primary_score(metrics))
    before = metrics.get("before")
    if before is not None:
        line.append(f" (was {before:.1f})", style="dim")
    line.append(f"  {verdict}", style=STYLES.get(verdict, ""))
    others = [
        f"{name} {axis['score']:.1f}"
        for name, axis in metrics["axes"].items()
        if name != metrics["primary"] and axis["score"] is not None
    ]
    used, pairs = metrics.get("words_used"), metrics.get("pairwise") or {}
    if used is not None:
        others.append(f"words used {used['share']:.0%}")
    others += [f"{name} {share['score']:.0%}" for name, share in metrics.get("exact", {}).items()]
    if pairs.get("win_rate"):
        others.append(f"wins {pairs['win_rate']['score']:.0%}")
    line.append("  " + "  ".join(others), style="dim")
    return line
