"""Plots: no style, no colour of their own, real figures in words; the same data give the same bytes."""

import re

import matplotlib
import pytest

from posttrain.report.plots import MOST_POINTS, Scored, binned, losses, running_mean, scores
from posttrain.report.svg import PAINT, clean

ENTRIES = [
    Scored("base", 2.7, 2.5, 2.9, None, False),
    Scored("a_step-with-a-name-of-more-letters-than-fit", 9.0, 8.9, 9.1, None, True),
    Scored("sft", None, None, None, "base", False),
]


def plots() -> list[str]:
    curve = [[float(at), 3.0 - at / 1000] for at in range(1, 1001)]
    return [scores("s", "instruct", ENTRIES, "rule judge (a proxy)", True, True), losses("l", "sft", curve, "A note.")]


def colours(svg: str) -> list[str]:
    """Colours that the page could not change."""
    found = re.findall(r'(?:fill|stroke)="([^"]+)"', svg)
    return [colour for colour in found if colour != "none"]


def test_the_same_data_give_the_same_bytes_whatever_the_settings_of_the_user() -> None:
    first = plots()
    with matplotlib.rc_context({"axes.grid": True, "font.size": 30, "svg.fonttype": "path", "svg.hashsalt": None}):
        assert plots() == first


def test_every_colour_is_a_class_of_the_page() -> None:
    for svg in plots():
        assert "style" not in svg and colours(svg) == [] and "<metadata" not in svg
        assert set(re.findall(r"[fs]-(\w+)", " ".join(re.findall(r'class="([^"]+)"', svg)))) <= set(PAINT)


def test_a_colour_that_is_no_class_is_noticed() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><path style="fill: #123456; stroke: #000001"/></svg>'
    cleaned = clean(svg, "x", "t", "w")
    assert colours(cleaned) == ["#123456"] and 'class="s-ink"' in cleaned


def test_plots_say_their_figures_in_words() -> None:
    first, second = plots()
    assert "<desc" in first and "base 2.7 [2.5, 2.9]" in first and "sft unscored" in first
    assert "a_step-with-a-name-of-more-letters-than-fit 9.0 [8.9, 9.1]" in first  # in words it is never cut
    assert "Training loss of sft." in second and "A note." in second


def test_text_is_text_and_never_a_formula() -> None:
    svg = scores("s", "x", [Scored("$a_1$", 2.0, 1.0, 3.0, None, False)], "j", False, False)
    assert re.search(r"<text[^>]*>\$a_1\$</text>", svg)


@pytest.mark.parametrize("count", [1, 399, 400, 401, 12_345])
def test_a_long_curve_is_drawn_in_few_points_that_keep_its_mean(count: int) -> None:
    curve = [[float(at), float(at % 7)] for at in range(1, count + 1)]
    drawn = binned(curve, MOST_POINTS)
    assert len(drawn) <= MOST_POINTS and drawn[-1][0] == count
    if count <= MOST_POINTS:
        assert [list(point) for point in drawn] == curve


def test_a_running_mean_looks_back_only() -> None:
    values = [0.0] * 50 + [10.0] * 50
    smooth = running_mean(values)
    assert smooth[49] == 0.0 and 0 < smooth[50] < 10 and smooth[54] == 10.0 and len(smooth) == 100


def test_a_curve_of_one_point_is_drawn() -> None:
    assert "2.00 at step 5" in losses("l", "sft", [[5, 2.0]], "")
