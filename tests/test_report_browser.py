"""The report page in a real browser: it renders, filters, obeys keys alone, can be read, and stays inside."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import no_wait
from chromium import chromium, faults
from report_fakes import CANARIES, whole_chain
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from posttrain.report.page import page
from posttrain.rows import read_rows, write_rows

STORY = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'> A fox ran away."
DROPS = {"p03": 4.0, "p07": 2.5, "p11": 0.5}  # on plot, of the last step against the one before

# Contrast of every visible text with what lies behind it (WCAG 2.2, 1.4.3): the lowest ones first.
CONTRAST = r"""
const parse = (text) => {
  const numbers = text.match(/[\d.]+/g).map(Number);
  return numbers.length > 3 && !numbers[3] ? null : numbers.slice(0, 3);
};
const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  const svg = element.closest("svg");
  if (svg) {
    const at = element.getBoundingClientRect(), x = at.x + at.width / 2, y = at.y + at.height / 2;
    const under = [...element.ownerDocument.querySelectorAll("svg rect")].filter((rect) => {
      const box = rect.getBoundingClientRect();
      return getComputedStyle(rect).fill !== "none" && box.x <= x && x <= box.right && box.y <= y && y <= box.bottom;
    });
    if (under.length) return parse(getComputedStyle(under.pop()).fill);
  }
  for (let part = element; part; part = part.parentElement) {
    const colour = parse(getComputedStyle(part).backgroundColor);
    if (colour) return colour;
  }
  return [255, 255, 255];
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  if (element.closest("script, title, desc, .skip")) continue;
  const style = getComputedStyle(element);
  const pair = [parse(element instanceof SVGElement ? style.fill : style.color), behind(element)].map(light);
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  found.push([ratio, walker.currentNode.data.trim().slice(0, 40), element.className.baseVal ?? element.className]);
}
return found.sort((a, b) => a[0] - b[0]);
"""
# Labels of plots and of the graph that reach out of their picture.
CLIPPED = """
return [...document.querySelectorAll("svg text")].filter((text) => text.checkVisibility()).filter((text) => {
  const a = text.getBoundingClientRect(), b = text.closest("svg").getBoundingClientRect();
  return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
}).map((text) => text.textContent);
"""

# What a judge says that reaches out of its cell.
SPILLED = """
return [...document.querySelectorAll(".says .why, .note")].filter((part) => part.checkVisibility())
  .filter((part) => part.scrollWidth > part.clientWidth + 1).map((part) => part.textContent.slice(0, 40));
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with a nasty story, drops, and a judge that failed."""
    folder = tmp_path_factory.mktemp("page")
    fsync, os.fsync = os.fsync, no_wait
    broken: dict[str, Any] = {"verdict": "JUDGE INVALID", "why": "empty answers won", "canaries": CANARIES}
    run = whole_chain(folder, {"sft": STORY}, **broken)
    was, now = (
        next(artifact.path for row, artifact in run.nodes if row["name"] == f"{step}.judge") / "verdicts.jsonl"
        for step in ("base", "sft")
    )
    before = {row["id"]: row["axes"]["plot"]["score"] for row in read_rows(was)}
    rows = read_rows(now)
    for row in rows:
        if row["id"] in DROPS:
            row["axes"]["plot"]["score"] = before[row["id"]] - DROPS[row["id"]]
    write_rows(now, rows)
    path = folder / "report.html"
    path.write_text(page("a run", run.nodes, run.prompts, lambda word: frozenset({word})), encoding="utf-8")
    os.fsync = fsync
    return path


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that a panel of two has judged, with markup and no space in what they say."""
    folder = tmp_path_factory.mktemp("asked")
    fsync, os.fsync = os.fsync, no_wait
    names = ["openai:org/a-model-of-a-long-name-8b", "openai:b"]
    run = whole_chain(folder, by="+".join(names), judge_notes=[STORY])
    pairs = run.nodes[-1][1].path / "pairs.jsonl"
    side = {"outcome": "old", "reason": f"{STORY} {'word' * 60}"}
    sides = {name: {"new_first": side, "old_first": side} for name in names}
    write_rows(pairs, [row | {"sides": sides} for row in read_rows(pairs)])
    path = folder / "report.html"
    path.write_text(page("asked", run.nodes, run.prompts, lambda word: frozenset({word})), encoding="utf-8")
    os.fsync = fsync
    return path


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def opened(window: Any, written: Path) -> Any:
    """The page, freshly loaded at its usual size."""
    window.set_window_size(1240, 900)
    assert faults(window, written) == []
    return window


def numbers(window: Any) -> list[int]:
    """The prompts that are shown, in their order."""
    script = (
        "return [...document.querySelectorAll('.prompt')].filter((part) => part.checkVisibility())"
        ".map((part) => Number(part.querySelector('.number').textContent))"
    )
    return list(window.execute_script(script))


def choose(window: Any, name: str, text: str) -> None:
    window.find_element(By.XPATH, f"//select[@id='{name}']/option[text()='{text}']").click()


def test_it_renders_and_a_story_with_a_script_is_a_story(opened: Any) -> None:
    assert opened.title == "a run · posttrain report"
    assert opened.execute_script("return window.ran") is None
    assert STORY in opened.find_element(By.CSS_SELECTOR, ".cell:nth-child(2) .story").text
    sizes = opened.execute_script(
        "return [...document.querySelectorAll('svg[role=img]')].filter((s) => s.checkVisibility())"
        ".map((s) => s.getBoundingClientRect()).map((b) => Math.min(b.width, b.height))"
    )
    assert len(sizes) == 6 and min(sizes) > 80
    assert opened.find_element(By.CSS_SELECTOR, ".alarm h2").is_displayed()


def test_a_page_that_errs_or_reaches_out_or_lets_a_script_in_is_noticed(window: Any, written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    free = re.sub(r"<meta http-equiv[^>]*>", "", text)
    image = '<img src="http://127.0.0.1:9/x.png" alt="">'
    bad = written.with_name("bad.html")

    def found(page: str, inserted: str) -> str:
        bad.write_text(page.replace("</main>", inserted + "</main>"), encoding="utf-8")
        return "; ".join(faults(window, bad))

    assert found(free, "") == ""  # the page does not lean on its policy
    assert "console:" in found(free, "<script>console.error('x')</script>")
    assert "request: http://127.0.0.1:9/x.png" in found(free, image)
    assert "2 scripts" in found(free, STORY) and window.execute_script("return window.ran") == 1
    assert "2 scripts" in found(text, STORY) and window.execute_script("return window.ran") is None  # the policy holds
    assert "console: " in found(text, image)  # it refuses, and says so


def test_the_filter_shows_one_axis_and_sorts_by_the_worst_drop(opened: Any) -> None:
    assert numbers(opened) == list(range(1, 21))
    choose(opened, "axis", "plot")
    choose(opened, "order", "worst drop first")
    assert numbers(opened)[:3] == [4, 8, 12]
    opened.find_element(By.CSS_SELECTOR, ".prompt").find_element(By.TAG_NAME, "summary").click()
    first = opened.find_element(By.CSS_SELECTOR, ".prompt")
    said = [part.text for part in first.find_elements(By.CSS_SELECTOR, ".says li") if part.is_displayed()]
    assert len(said) == 2 and all(text.startswith("plot") for text in said)
    assert first.find_element(By.CSS_SELECTOR, "summary .way:not([hidden])").text.endswith("↓ −4.0")
    choose(opened, "fell", "fell by 1 or more")
    assert numbers(opened) == [4, 8]
    assert opened.find_element(By.ID, "shown").text == "2 of 20 prompts shown"
    choose(opened, "axis", "grammar")
    assert numbers(opened) == []
    choose(opened, "fell", "all prompts")
    choose(opened, "order", "as asked")
    assert numbers(opened) == list(range(1, 21))


def test_keys_alone_reach_and_use_the_filter(opened: Any) -> None:
    opened.execute_script(
        "window.seen = [];"
        "addEventListener('focusin', (event) => {"
        "  const part = event.target;"
        "  seen.push([part.id || part.textContent.trim(), getComputedStyle(part).outlineStyle]);"
        "});"
    )
    opened.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB * 30)
    seen = opened.execute_script("return seen")
    assert seen[0] == ["Skip to the report", "solid"]
    names = [name for name, _ in seen]
    assert names.index("axis") < names.index("order") < names.index("fell") < names.index("open")
    assert {outline for _, outline in seen} == {"solid"}  # where one is can be seen
    opened.find_element(By.ID, "axis").send_keys("plot")
    opened.find_element(By.ID, "order").send_keys("worst", Keys.TAB * 3)
    assert numbers(opened)[:3] == [4, 8, 12]
    summary = opened.switch_to.active_element
    assert summary.tag_name == "summary"
    summary.send_keys(Keys.ENTER)
    assert summary.find_element(By.XPATH, "..").get_attribute("open") is not None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(opened: Any, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    opened.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    found = opened.execute_script(CONTRAST)
    assert len(found) > 400 and [text for text in found if text[0] < 4.5] == []
    assert {"f-dim", "f-ink", "word", "field halo"} <= {text[2] for text in found}  # labels of plots and graph too
    button = opened.find_element(By.ID, "theme")
    page = "return getComputedStyle(document.body).backgroundColor"
    before = opened.execute_script(page)
    button.click()
    assert opened.execute_script(page) != before  # the button changes the colours, and they are readable again
    assert opened.execute_script(CONTRAST)[0][0] >= 4.5
    opened.execute_script("document.querySelector('.lead').style.color = '#777'")
    assert opened.execute_script(CONTRAST)[0][0] < 4.5  # negative control


@pytest.mark.parametrize("width", [1240, 760, 500])
def test_nothing_is_cut_off_at_any_width(opened: Any, width: int) -> None:
    opened.set_window_size(width, 900)
    wide, room = opened.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room
    assert opened.execute_script(CLIPPED) == []
    opened.execute_script("document.querySelector('.plot text').setAttribute('x', -40)")
    opened.execute_script("document.querySelector('.plot + .plot text')?.setAttribute('x', -40)")
    assert opened.execute_script(CLIPPED) != []  # negative control


def test_on_paper_everything_is_open(opened: Any) -> None:
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert opened.execute_script("return [...document.querySelectorAll('details')].every((part) => part.open)")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1240), ("dark", 500)])
def test_what_language_models_say_can_be_read_stays_inside_and_runs_nothing(
    window: Any, asked: Path, scheme: str, width: int
) -> None:
    window.set_window_size(width, 900)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert faults(window, asked) == [] and window.execute_script("return window.ran") is None
    window.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    found = window.execute_script(CONTRAST)
    assert {"lead note", "order"} <= {text[2] for text in found} and [text for text in found if text[0] < 4.5] == []
    wide, room = window.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room and window.execute_script(CLIPPED) == window.execute_script(SPILLED) == []
    choose(window, "axis", "plot")
    said = [
        part for part in window.find_elements(By.CSS_SELECTOR, ".prompt:first-child .says li") if part.is_displayed()
    ]
    assert [part.text.split()[0] for part in said] == ["plot", "plot", "against"]  # of the base, of sft, and the pair
    window.execute_script("document.querySelectorAll('.why').forEach((why) => { why.style.overflowWrap = 'normal'; })")
    assert window.execute_script(SPILLED) != []  # negative control
