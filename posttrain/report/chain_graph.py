"""The chain drawn as boxes and arrows: layers by what comes from what, long arrows led round the boxes between.

Layers are the longest way from a source (Sugiyama et al. 1981, without its last refinements: chains are small).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from posttrain.report.records import Named, score_text, steps_of
from posttrain.report.wording import duration

BOX = (200.0, 112.0)  # width, height
LOW = 64.0  # height of what comes from outside: it has no score and no verdict
GAP = (66.0, 26.0)  # between layers, between boxes of a layer
LANE = 18.0  # the width of an arrow that passes a layer
EDGE = 6.0
WIDEST = 1300.0  # a chain that is longer than this across is shown from top to bottom on every screen


@dataclass(frozen=True)
class Vertex:
    """A step of the chain, or what comes from outside it."""

    key: str
    name: str
    detail: str
    score: str
    verdict: str
    outside: bool = False


@dataclass(frozen=True)
class Edge:
    """`field` of one step names another."""

    source: str
    target: str
    field: str


@dataclass(frozen=True)
class Box:
    """A vertex in its place; all are equally wide."""

    vertex: Vertex
    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Arrow:
    """An edge as an SVG path, and where its label stands."""

    edge: Edge
    path: str
    x: float
    y: float


@dataclass(frozen=True)
class Drawing:
    """Boxes and arrows with the size of the whole, px."""

    boxes: list[Box]
    arrows: list[Arrow]
    width: float
    height: float


def chain_of(nodes: Sequence[Named]) -> tuple[list[Vertex], list[Edge]]:
    """Steps and outside inputs as vertices; every input of a step is an edge."""
    steps = {step["name"]: step for step in steps_of(nodes)}
    vertices: dict[str, Vertex] = {}
    edges = []
    for row, artifact in nodes:
        if row["name"] not in steps:
            continue
        for field, value in artifact.record["inputs"].items():
            reference = str(value["reference"])
            source = reference if reference in steps else f"outside {value['identity']}"
            if source not in steps:
                vertices.setdefault(source, Vertex(source, reference, "from outside the chain", "", "", outside=True))
            edges.append(Edge(source, row["name"], field))
        vertices[row["name"]] = _vertex(steps[row["name"]])
    return list(vertices.values()), edges


def _vertex(step: Mapping[str, Any]) -> Vertex:
    judge = step["judge"]
    score = f"{judge['primary']} {score_text(judge['axes'].get(judge['primary']))}" if judge else ""
    verdict = judge["verdict"] if judge else "not judged"
    return Vertex(step["name"], step["name"], f"{step['kind']} · {duration(step['seconds'])}", score, verdict)


def _layers(vertices: Sequence[Vertex], edges: Sequence[Edge]) -> dict[str, int]:
    layer = {vertex.key: 0 for vertex in vertices}
    for _ in vertices:  # inputs come before what uses them, so one pass would do; a second changes nothing
        for edge in edges:
            layer[edge.target] = max(layer[edge.target], layer[edge.source] + 1)
    fed = {edge.target for edge in edges}
    for vertex in vertices:  # a source stands next to what uses it
        used = [layer[edge.target] for edge in edges if edge.source == vertex.key]
        if vertex.key not in fed and used:
            layer[vertex.key] = min(used) - 1
    return layer


def _ranked(vertices: Sequence[Vertex], edges: Sequence[Edge]) -> tuple[list[list[str]], list[list[str]]]:
    """Slots of every layer in order, and for every edge the slots that it passes; `a>b:f@2` is a lane."""
    layer = _layers(vertices, edges)
    slots: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    for vertex in vertices:
        slots[layer[vertex.key]].append(vertex.key)
    ways = []
    for edge in edges:
        first, last = layer[edge.source], layer[edge.target]
        lanes = [f"{edge.source}>{edge.target}:{edge.field}@{at}" for at in range(first + 1, last)]
        for at, lane in enumerate(lanes, start=first + 1):
            slots[at].append(lane)
        ways.append([edge.source, *lanes, edge.target])
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for way in ways:
        for source, target in pairwise(way):
            before.setdefault(target, []).append(source)
            after.setdefault(source, []).append(target)
    for rows, beside in ((slots, before), (slots[::-1], after), (slots, before)):
        _order(rows, beside)
    return slots, ways


def _order(rows: Sequence[list[str]], beside: Mapping[str, Sequence[str]]) -> None:
    """Sort every row by where the neighbours in the row before lie on average; what has none keeps its place."""
    place: dict[str, float] = {}
    for row in rows:
        kept = {slot: at - (len(row) - 1) / 2 for at, slot in enumerate(row)}
        means = {}
        for slot in row:
            places = [place[name] for name in beside.get(slot, ()) if name in place]
            means[slot] = sum(places) / len(places) if places else kept[slot]
        row.sort(key=means.__getitem__)
        place |= {slot: at - (len(row) - 1) / 2 for at, slot in enumerate(row)}


def draw(vertices: Sequence[Vertex], edges: Sequence[Edge], across: bool) -> Drawing:
    """Left to right where there is room, else from top to bottom."""
    slots, ways = _ranked(vertices, edges)
    known = {vertex.key: vertex for vertex in vertices}
    along, side = (BOX[0], BOX[1]) if across else (BOX[1], BOX[0])
    gap = GAP[0] if across else GAP[0] - 18
    sizes = [sum(side if slot in known else LANE for slot in row) + GAP[1] * (len(row) - 1) for row in slots]
    widest = max(sizes)
    corner: dict[str, tuple[float, float]] = {}  # (along, side) of the start of a slot
    for at, row in enumerate(slots):
        where = EDGE + (widest - sizes[at]) / 2
        for slot in row:
            corner[slot] = (EDGE + at * (along + gap), where)
            where += (side if slot in known else LANE) + GAP[1]
    boxes = [_box(known[slot], _turned(corner[slot], across), across) for row in slots for slot in row if slot in known]
    arrows = []
    for edge, way in zip(edges, ways, strict=True):
        points = []
        for slot in way:
            start, middle = corner[slot][0], corner[slot][1] + (side if slot in known else LANE) / 2
            points += [(start, middle), (start + along, middle)]
        arrows.append(_arrow(edge, points[1:-1], across))
    length = len(slots) * along + (len(slots) - 1) * gap + 2 * EDGE
    width, height = _turned((length, widest + 2 * EDGE), across)
    return Drawing(boxes, arrows, width, height)


def _box(vertex: Vertex, corner: tuple[float, float], across: bool) -> Box:
    """A low box stands where its arrows start: in the middle, or at the lower edge."""
    height = LOW if vertex.outside else BOX[1]
    free = BOX[1] - height
    return Box(vertex, corner[0], corner[1] + (free / 2 if across else free), height)


def _turned(point: tuple[float, float], across: bool) -> tuple[float, float]:
    return point if across else (point[1], point[0])


def _arrow(edge: Edge, points: Sequence[tuple[float, float]], across: bool) -> Arrow:
    """A smooth way through pairs of points: curves between layers, straight lines past one."""

    def at(along: float, side: float) -> str:
        x, y = _turned((along, side), across)
        return f"{x:.1f} {y:.1f}"

    parts = [f"M{at(*points[0])}"]
    for number, (start, end) in enumerate(pairwise(points)):
        if number % 2:
            parts.append(f"L{at(*end)}")
        else:
            middle = (start[0] + end[0]) / 2
            parts.append(f"C{at(middle, start[1])} {at(middle, end[1])} {at(*end)}")
    (first, side), (second, other) = points[0], points[1]
    x, y = _turned(((first + second) / 2, (side + other) / 2), across)
    return Arrow(edge, " ".join(parts), x, y)


def in_words(vertices: Sequence[Vertex], edges: Sequence[Edge]) -> str:
    """The graph for those who do not see it."""
    name = {vertex.key: vertex.name for vertex in vertices}
    said = []
    for vertex in vertices:
        if vertex.outside:
            continue
        uses = [f"{edge.field} from {name[edge.source]}" for edge in edges if edge.target == vertex.key]
        made = f" with {' and '.join(uses)}" if uses else ""
        judged = f"{vertex.verdict}, {vertex.score}" if vertex.score else vertex.verdict
        said.append(f"{vertex.name} ({vertex.detail}){made}: {judged}.")
    return " ".join(said)
