"""A log shows progress line by line, with a rate and a time left that can be believed."""

import io
import threading

import pytest
from rich.console import Console

from posttrain.chain import console
from posttrain.chain.console import LogLines, RichScreen
from posttrain.chain.pace import Pace


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


def test_work_without_news_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = [0.0], list[str]()
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    lines = LogLines("sft.samples", 400, "completions", out.append)
    for clock[0] in (5.0, 12.0, 13.0):
        lines.beat()
    clock[0] = 20.0
    lines.tick(100)
    for clock[0] in (30.0, 40.0):  # a block of completions takes its time
        lines.beat()
    lines.tick(400)
    clock[0] = 60.0
    lines.beat()  # nothing more to say
    assert out == [
        "● sft.samples      0/400 completions  0.0/s  12 s so far",
        "● sft.samples      100/400 completions  5.0/s  50 s left",
        "● sft.samples      100/400 completions  5.0/s  40 s left",
    ]


def test_work_of_a_length_that_is_not_known_yet_says_how_long_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = [0.0], list[str]()
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    lines = LogLines("sft", 0, "step", out.append)
    clock[0] = 15.0
    lines.beat()
    clock[0] = 30.0
    lines.tick(10, "loss 1.00", 100)
    assert out == [
        "● sft              begins  15 s so far",
        "● sft              10/100 step  0.3/s  270 s left  loss 1.00",
    ]


def test_a_log_is_beaten_while_the_work_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LOG_EVERY_S", 0.001)
    out = io.StringIO()
    with RichScreen(Console(file=out, width=130)).progress("sft")(400, "rows"):
        for _ in range(1000):
            if out.getvalue():
                break
            threading.Event().wait(0.01)
    assert out.getvalue().startswith("● sft              0/400 rows  0.0/s")


def test_a_terminal_has_a_bar_with_a_rate_and_a_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    screen = RichScreen(Console(file=out, width=130, force_terminal=True, color_system=None))
    with screen.progress("sft")(0, "step") as tick:
        clock[0] = 0.1
        tick(300, "", 400)  # an earlier run made these
        clock[0] = 20.1
        tick(340, "loss 1.00")
    shown = out.getvalue()
    assert "2.0 step/s" in shown and "0:30 left" in shown and "loss 1.00" in shown and "85%" in shown


def test_time_left_runs_down_between_reports() -> None:
    pace = Pace(100, opened=0.0)
    assert pace.left(1.0) is None and pace.rate() == 0.0
    pace.reach(50, None, 10.0)
    assert (pace.rate(), pace.left(10.0), pace.left(14.0), pace.left(99.0)) == (5.0, 10.0, 6.0, 0.0)
    assert not pace.over
    pace.reach(100, None, 20.0)
    assert pace.over


def test_a_quick_step_leaves_no_line_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, [(1.0, 100), (2.0, 400)]) == []
