"""Voting on the page in a real browser, by keys alone: vote, undo, skip, resume; a completion is text."""

import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium, requests
from label_fakes import ballot
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_report_browser import CONTRAST

from posttrain.labelling.pairs import Pair
from posttrain.labelling.server import Hall
from posttrain.rows import read_rows

NASTY = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'> &amp; A fox."
LONG = "word " * 3000


def nasty_pairs() -> list[Pair]:
    texts = [f"new {n} {NASTY}" for n in range(4)]
    return [Pair(f"p{n}/0", 0, f"Prompt {n} {NASTY}", text, f"old {n}\n\n {LONG}", {}) for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    with chromium() as made:
        yield made


@contextmanager
def serving(path: Path) -> Iterator[Hall]:
    """A hall for the votes in a file, as the command opens it and closes it."""
    held = ballot(path, nasty_pairs())
    with Hall(held) as hall:
        runs = threading.Thread(target=hall.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        runs.start()
        yield hall
        hall.shutdown()
        runs.join(5)
    held.file.file.close()


def enter(window: Any, url: str) -> None:
    for log in ("browser", "performance"):
        window.get_log(log)
    window.get(url)
    wait(window, lambda: text(window, "count") != "")


def wait(window: Any, holds: Callable[[], bool]) -> None:
    WebDriverWait(window, 10, 0.02).until(lambda _: holds())


def text(window: Any, name: str) -> str:
    return str(window.execute_script(f"return document.getElementById('{name}').textContent"))


def press(window: Any, key: str) -> None:
    """A key, and wait until the page has heard of it."""
    window.execute_script("document.getElementById('said').textContent = 'waiting'")
    window.find_element(By.TAG_NAME, "body").send_keys(key)
    wait(window, lambda: text(window, "said") != "waiting")


def new_is(window: Any) -> str:
    """The key for the text of the new step, as a person would see it."""
    return "a" if text(window, "first").startswith("new") else "b"


def faults(window: Any, url: str) -> list[str]:
    """Console messages, requests to elsewhere, and scripts that are not the page's."""
    found = [entry["message"] for entry in window.get_log("browser")]
    found += [asked for asked in requests(window) if not asked.startswith((url, "data:"))]
    return found + ([] if window.execute_script("return document.scripts.length") == 1 else ["scripts"])


def test_keys_alone_vote_undo_skip_and_quit(tmp_path: Path, window: Any) -> None:
    path = tmp_path / "v"
    with serving(path) as hall:
        enter(window, hall.url)
        assert window.title == "Which is better?" and text(window, "count").startswith("0 of 4")
        first = text(window, "prompt")
        press(window, new_is(window))
        assert text(window, "count").startswith("1 of 4") and text(window, "prompt") != first
        assert read_rows(path)[0]["votes"] == ["a"]
        press(window, "u")
        assert text(window, "prompt") == first and path.read_bytes() == b""
        press(window, "t")
        press(window, "s")
        assert "1 of 4 pairs have your vote, 1 skipped" in text(window, "count")
        window.find_element(By.TAG_NAME, "body").send_keys("x1 ")  # keys without meaning
        press(window, new_is(window))
        assert [row["votes"] for row in read_rows(path)] == [["tie"], ["a"]]
        assert faults(window, hall.url) == []
        press(window, "q")
        assert "Your votes are saved" in text(window, "end")
        assert not window.find_element(By.ID, "keys").is_displayed()
    with serving(path) as hall:  # the same command goes on; what was skipped is asked again
        enter(window, hall.url)
        assert text(window, "count").startswith("2 of 4")
        press(window, "u")
        assert text(window, "count").startswith("1 of 4") and len(read_rows(path)) == 1
        for _ in range(3):
            press(window, new_is(window))
        assert "All pairs are done" in text(window, "end") and len(read_rows(path)) == 4
        press(window, "u")  # and back from the end
        assert window.find_element(By.ID, "pair").is_displayed()


def test_a_completion_with_a_script_is_a_text(tmp_path: Path, window: Any) -> None:
    with serving(tmp_path / "v") as hall:
        enter(window, hall.url)
        shown = text(window, "first" if new_is(window) == "a" else "second")
        assert NASTY in shown and NASTY in text(window, "prompt")
        assert window.execute_script("return window.ran") is None
        assert window.find_elements(By.TAG_NAME, "img") == []
        seen = window.find_element(By.TAG_NAME, "body").text
        assert "sft" not in seen and "base" not in seen
        assert faults(window, hall.url) == []


def test_a_page_that_wrote_markup_or_reached_out_would_be_noticed(tmp_path: Path, window: Any) -> None:
    with serving(tmp_path / "v") as hall:
        hall.page = hall.page.replace(b"part(name).textContent = pair[name]", b"part(name).innerHTML = pair[name]")
        free = hall.policy
        hall.policy = "img-src *"
        enter(window, hall.url)
        wait(window, lambda: window.execute_script("return window.ran") == 1)  # without a policy it runs
        assert faults(window, hall.url) != []
        hall.policy = free
        window.get(hall.url)
        assert window.execute_script("return window.ran") is None
        assert any("Content Security Policy" in fault for fault in faults(window, hall.url))


def test_another_page_cannot_vote(tmp_path: Path, window: Any) -> None:
    with serving(tmp_path / "v") as hall:
        body = json.dumps({"do": "a", "pair": hall.ballot.shown.id if hall.ballot.shown else ""})
        script = (
            "const done = arguments[0];"
            f"fetch('{hall.url}ballot', {{method: 'POST', mode: 'no-cors', body: {body!r},"
            " headers: {'Content-Type': 'text/plain'}}).then(() => done('sent'), () => done('refused'))"
        )
        window.get("data:text/html," + urllib.parse.quote("<p>another page"))
        assert window.execute_async_script(script) in ("sent", "refused")
        assert hall.ballot.voted == 0
        enter(window, hall.url)
        press(window, "a")
        assert hall.ballot.voted == 1  # negative control: the same vote from the page itself


def test_held_keys_and_shortcuts_do_not_vote(tmp_path: Path, window: Any) -> None:
    with serving(tmp_path / "v") as hall:
        enter(window, hall.url)
        event = "dispatchEvent(new KeyboardEvent('keydown', {key: 'a', %s}))"
        for held in ("repeat: true", "ctrlKey: true", "metaKey: true", "altKey: true"):
            window.execute_script(event % held)
        press(window, "t")
        assert hall.ballot.voted == 1
        window.execute_script(event % "repeat: false")
        wait(window, lambda: hall.ballot.voted == 2)  # negative control


def test_buttons_are_reached_by_tab_and_do_the_same(tmp_path: Path, window: Any) -> None:
    with serving(tmp_path / "v") as hall:
        enter(window, hall.url)
        window.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        button = window.switch_to.active_element
        assert button.text.startswith("a A is better")
        outline = window.execute_script("return getComputedStyle(arguments[0]).outlineStyle", button)
        assert outline == "solid"
        button.send_keys(Keys.ENTER)
        wait(window, lambda: hall.ballot.voted == 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_and_nothing_is_cut_off(tmp_path: Path, window: Any, scheme: str) -> None:
    with serving(tmp_path / "v") as hall:
        window.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        enter(window, hall.url)
        press(window, "u")
        found = window.execute_script(CONTRAST)
        assert len(found) > 15 and found[0][0] >= 4.5
        background = window.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(20, 22, 26)") == (scheme == "dark")
        for width in (1240, 500):
            window.set_window_size(width, 900)
            wide, room = window.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide <= room
        window.set_window_size(1240, 900)
        window.execute_script("document.getElementById('count').style.color = '#777'")
        assert window.execute_script(CONTRAST)[0][0] < 4.5  # negative control


def test_a_command_that_has_ended_is_said(tmp_path: Path, window: Any) -> None:
    with serving(tmp_path / "v") as hall:
        enter(window, hall.url)
    press(window, "a")
    assert "has ended" in text(window, "said")
