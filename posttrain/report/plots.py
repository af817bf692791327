"""The plots, by matplotlib, as inline SVG: the same records give the same bytes.

No pyplot and no settings of the user: a Figure, its canvas, and matplotlib's own defaults. Text stays text, in the
page's font.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from posttrain.report.svg import PAINT, clean

DPI = 72  # of the SVG backend: one point is one pixel
SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "posttrain", "text.parse_math": False}
MOST_POINTS = 400
SMOOTH_FROM = 60  # points below which a running mean would hide more than it shows


@dataclass(frozen=True)
class Scored:
    """One step on one axis; `before` is what it is compared with, `of_rows` a score of data, not of a model."""

    step: str
    score: float | None
    low: float | None
    high: float | None
    before: str | None
    of_rows: bool

    @property
    def text(self) -> str:
        return "unscored" if self.score is None else f"{self.score:.1f} [{self.low:.1f}, {self.high:.1f}]"


def _figure(width: float, height: float, margins: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    """A figure of that many pixels; margins left, right, top, bottom."""
    left, right, top, bottom = margins
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasSVG(figure)
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(box)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _ticks(axes: Axes, size: float) -> None:
    axes.tick_params(length=0, labelsize=size, labelcolor=PAINT["dim"], pad=6)
    axes.set_axisbelow(True)


def _svg(figure: Figure, name: str, title: str, words: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return clean(out.getvalue(), name, title, words)


def _settings() -> Any:
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **SETTINGS})


def scores(name: str, axis: str, entries: Sequence[Scored], judge: str, primary: bool, large: bool) -> str:
    """One axis down the chain: a dot and its 95 % interval a step, the figures beside it."""
    size = 13.0 if large else 12.0
    row, width = (38.0, 1060.0) if large else (27.0, 400.0)
    longest = max(len(entry.step) for entry in entries)
    left = min(190.0 if large else 130.0, 20 + 7.2 * longest)
    with _settings():
        figure, axes = _figure(width, row * len(entries) + 34, (left, 122 if large else 104, 6, 28))
        axes.set_xlim(0.8, 10.2)
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.set_xticks(range(1, 11) if large else (1, 4, 7, 10))
        axes.set_yticks(range(len(entries)), [_short(entry.step, left) for entry in entries])
        _ticks(axes, size)
        axes.tick_params(axis="y", labelcolor=PAINT["ink"])
        axes.grid(axis="x", color=PAINT["grid"], linewidth=1)
        _dots(axes, entries, primary, large, size)
        told = "; ".join(f"{entry.step} {entry.text}" for entry in entries)
        title = f"Scores on {axis}, step by step. Judge: {judge}."
        return _svg(figure, name, title, f"Mean on a scale of 1 to 10 with its 95 % interval: {told}.")


def _dots(axes: Axes, entries: Sequence[Scored], primary: bool, large: bool, size: float) -> None:
    place = {entry.step: at for at, entry in enumerate(entries)}
    colour = PAINT["accent" if primary else "ink"]
    for at, entry in enumerate(entries):
        axes.text(10.5, at, entry.text, va="center", fontsize=size, color=PAINT["ink" if entry.score else "dim"])
        if entry.score is None or entry.low is None or entry.high is None:
            continue
        earlier = entries[place[entry.before]].score if entry.before in place else None
        if entry.before is not None and earlier is not None:
            axes.plot([earlier, entry.score], [place[entry.before], at], color=PAINT["soft"], linewidth=1.5, zorder=1)
        axes.plot([entry.low, entry.high], [at, at], color=colour, linewidth=3 if large else 2.2, zorder=2)
        face = PAINT["panel"] if entry.of_rows else colour
        axes.plot(
            [entry.score], [at], marker="s" if entry.of_rows else "o", color=colour, markerfacecolor=face,
            markersize=10 if large else 7.5, markeredgewidth=2, zorder=3,
        )  # fmt: skip


def _short(text: str, width: float) -> str:
    most = int((width - 14) / 7.0)
    return text if len(text) <= most else text[: most - 1] + "…"


def losses(name: str, step: str, curve: Sequence[Sequence[float]], note: str) -> str:
    """Training loss by optimizer step: every point (or means of a few), and a running mean where there are many."""
    curve = binned(curve, MOST_POINTS)
    steps, values = [point[0] for point in curve], [point[1] for point in curve]
    smooth = running_mean(values) if len(values) >= SMOOTH_FROM else values
    with _settings():
        figure, axes = _figure(400, 216, (40, 46, 10, 44))
        if len(values) >= SMOOTH_FROM:
            axes.plot(steps, values, color=PAINT["soft"], linewidth=1)
        axes.plot(steps, smooth, color=PAINT["accent"], linewidth=2, marker="o" if len(values) < 2 else None)
        axes.set_xlim(0, max(steps))
        axes.set_ylim(*_span(values))
        axes.locator_params(nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _ticks(axes, 11.5)
        axes.grid(axis="y", color=PAINT["grid"], linewidth=1)
        axes.set_xlabel("optimizer step", fontsize=11.5, color=PAINT["dim"], labelpad=6)
        axes.annotate(
            f"{smooth[-1]:.2f}", (max(steps), smooth[-1]), (8, 0), textcoords="offset pixels", va="center", fontsize=12,
            color=PAINT["ink"], annotation_clip=False,
        )  # fmt: skip
        half = smooth[len(smooth) // 2]
        words = (
            f"Nats a token: {values[0]:.2f} at step {steps[0]:,.0f}, {half:.2f} half way, "
            f"{smooth[-1]:.2f} at step {steps[-1]:,.0f}. {note}"
        )
        return _svg(figure, name, f"Training loss of {step}.", words.strip())


def _span(values: Sequence[float]) -> tuple[float, float]:
    """All values and some room above and below them."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def binned(curve: Sequence[Sequence[float]], most: int) -> list[tuple[float, float]]:
    """At most `most` points: the last step and the mean loss of equal parts."""
    size = -(-len(curve) // most)
    parts = [curve[at : at + size] for at in range(0, len(curve), size)]
    return [(part[-1][0], sum(point[1] for point in part) / len(part)) for part in parts]


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean of the last twentieth of the points; of what there is at the start."""
    window = max(1, len(values) // 20)
    means = []
    for at in range(len(values)):
        part = values[max(0, at - window + 1) : at + 1]
        means.append(sum(part) / len(part))
    return means
