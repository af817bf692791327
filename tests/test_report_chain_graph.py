"""The drawing of a chain: boxes apart from each other, arrows forwards and round the boxes between."""

import re
from itertools import combinations, pairwise

import pytest

from posttrain.report.chain_graph import BOX, Arrow, Drawing, Edge, Vertex, draw, in_words


def vertices(names: str, outside: str = "") -> list[Vertex]:
    return [Vertex(name, name, "kind", "", "PASS", outside=name in outside.split()) for name in names.split()]


def edges(text: str) -> list[Edge]:
    return [Edge(*pair.split(">"), field="model") for pair in text.split()]


CHAINS = {
    "one step": ("a", ""),
    "two that share nothing": ("a b", ""),
    "a line": ("a b c d", "a>b b>c c>d"),
    "a long way past": ("base rows sft pairs dpo", "base>sft rows>sft sft>pairs sft>dpo pairs>dpo rows>dpo base>dpo"),
    "branches": ("m scratch bundled rows full lora", "m>bundled scratch>full rows>full bundled>lora rows>lora"),
}


def points(arrow: Arrow) -> list[tuple[float, float]]:
    """Points on the arrow: straight parts and cubic curves, ten of each."""
    found: list[tuple[float, float]] = []
    for letter, numbers in re.findall(r"([MCL])([-\d. ]+)", arrow.path):
        values = [float(number) for number in numbers.split()]
        ends = list(zip(values[::2], values[1::2], strict=True))
        control = [found[-1], *ends] if found else ends
        steps = [at / 10 for at in range(11)] if letter != "M" else [0.0]
        for t in steps:
            level = control
            while len(level) > 1:  # de Casteljau
                level = [((1 - t) * a[0] + t * b[0], (1 - t) * a[1] + t * b[1]) for a, b in pairwise(level)]
            found.append(level[0])
    return found


def overlapping(drawing: Drawing) -> list[str]:
    """Boxes on each other, boxes outside the picture, arrows through boxes."""
    bad = []
    for one, two in combinations(drawing.boxes, 2):
        if abs(one.x - two.x) < BOX[0] and one.y < two.y + two.height and two.y < one.y + one.height:
            bad.append(f"{one.vertex.key} lies on {two.vertex.key}")
    for box in drawing.boxes:
        if not (0 <= box.x <= drawing.width - BOX[0] and 0 <= box.y <= drawing.height - box.height):
            bad.append(f"{box.vertex.key} lies outside")
        for arrow in drawing.arrows:
            inside = [
                point for point in points(arrow)
                if box.x + 1 < point[0] < box.x + BOX[0] - 1 and box.y + 1 < point[1] < box.y + box.height - 1
            ]  # fmt: skip
            bad += [f"{arrow.edge.source}>{arrow.edge.target} goes through {box.vertex.key}"] if inside else []
    return bad


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("name", CHAINS)
def test_nothing_lies_on_anything(name: str, across: bool) -> None:
    names, ways = CHAINS[name]
    drawing = draw(vertices(names, "m"), edges(ways), across)
    assert len(drawing.boxes) == len(names.split()) and len(drawing.arrows) == len(ways.split())
    assert overlapping(drawing) == []


def test_an_overlap_is_noticed() -> None:
    drawing = draw(vertices("a b c"), edges("a>b b>c"), across=True)
    straight = Arrow(drawing.arrows[0].edge, "M6 62 L900 62", 0, 0)
    assert overlapping(Drawing(drawing.boxes, [straight], drawing.width, drawing.height))
    moved = [drawing.boxes[0], *drawing.boxes[:2]]
    assert overlapping(Drawing(moved, [], drawing.width, drawing.height))


@pytest.mark.parametrize("across", [True, False])
def test_arrows_lead_forwards(across: bool) -> None:
    drawing = draw(vertices("base rows sft pairs dpo"), edges(CHAINS["a long way past"][1]), across)
    corner = {box.vertex.key: (box.x, box.y)[0 if across else 1] for box in drawing.boxes}
    assert all(corner[arrow.edge.source] < corner[arrow.edge.target] for arrow in drawing.arrows)
    assert corner["rows"] == corner["base"] and corner["pairs"] < corner["dpo"]


def test_a_source_stands_next_to_what_uses_it() -> None:
    drawing = draw(vertices("m base rows sft"), edges("m>base base>sft rows>sft"), across=True)
    corner = {box.vertex.key: box.x for box in drawing.boxes}
    assert corner["rows"] == corner["base"] > corner["m"]


def test_arrows_do_not_cross_where_they_need_not() -> None:
    drawing = draw(vertices("scratch m bundled rows full lora", "m"), edges(CHAINS["branches"][1]), across=True)
    side = {box.vertex.key: box.y + box.height / 2 for box in drawing.boxes}
    assert (side["m"] < side["scratch"]) == (side["bundled"] < side["full"])


def test_the_graph_in_words_names_inputs_and_verdicts() -> None:
    told = in_words(vertices("m a b", "m"), edges("m>a a>b"))
    assert told == "a (kind) with model from m: PASS. b (kind) with model from a: PASS."
