"""A log shows progress line by line, with a rate and a time left that can be believed."""

import io

import pytest
from rich.console import Console

from posttrain.chain import console
from posttrain.chain.console import RichScreen


def lines(monkeypatch: pytest.MonkeyPatch, ticks: list[tuple[float, int]], total: int = 400) -> list[str]:
    """What a log shows when `done` is reported at these seconds."""
    out, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    screen = RichScreen(Console(file=out, width=130))
    with screen.progress("sft")(total, "rows") as tick:
        for at, done in ticks:
            clock[0] = at
            tick(done)
    return out.getvalue().splitlines()


def test_a_slow_first_unit_has_a_rate_and_a_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, [(20.0, 100)]) == ["● sft              100/400 rows  5.0/s  60 s left"]


def test_what_an_earlier_run_made_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = lines(monkeypatch, [(0.1, 300), (20.1, 340)])
    assert shown == ["● sft              340/400 rows  2.0/s  30 s left"]


def test_a_quick_step_leaves_no_line_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, [(1.0, 100), (2.0, 400)]) == []
