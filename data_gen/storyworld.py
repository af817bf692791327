"""The words, people, places and plots of the story world, read once from `data_gen/world/*.yaml`.

They are data so that a person can read and extend them without touching code; they are compiled to plain
format strings here so that telling a story costs a few dozen string operations.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FEATURES = ("dialogue", "moral value", "plot twist", "bad ending", "foreshadowing", "conflict")
WORLD = Path(__file__).parent / "world"
SLOTS = frozenset(
    "hero he him his kind trait pal pal_he pal_him pal_his animal grownup place at spot noun adj verb verbed".split()
)


class Line(NamedTuple):
    """One way to say something: a format string and the slots that it fills."""

    template: str
    slots: frozenset[str]


class Choice(NamedTuple):
    """Several lines that mean the same."""

    lines: tuple[Line, ...]


class Branch(NamedTuple):
    """Beats that are told when the story shows `feature`, and beats that are told when it does not."""

    feature: str
    shown: "tuple[Beat, ...]"
    hidden: "tuple[Beat, ...]"


Beat = Choice | Branch


class Plot(NamedTuple):
    """Paragraphs of beats; `optional` are the features that its branches can switch on."""

    name: str
    always: frozenset[str]
    optional: frozenset[str]
    summary: Line
    paragraphs: tuple[tuple[Beat, ...], ...]


class Place(NamedTuple):
    """A place, how to be there, and the spots where a thing can lie there."""

    place: str
    at: str
    spots: tuple[str, ...]


class World(NamedTuple):
    """Everything a story is made of."""

    girls: tuple[str, ...]
    boys: tuple[str, ...]
    animals: tuple[str, ...]
    grownups: tuple[str, ...]
    nouns: tuple[str, ...]
    verbs: Mapping[str, str]  # base: past
    adjectives: tuple[str, ...]  # of things
    fitting: Mapping[str, tuple[str, ...]]  # noun: the adjectives that fit it
    traits: tuple[str, ...]  # adjectives of a child or an animal
    places: tuple[Place, ...]
    fillers: Mapping[str, tuple[str, ...]]
    plots: tuple[Plot, ...]


def compile_line(text: str) -> Line:
    """`$hero found $a_adj $noun.` becomes a format string with named slots."""
    slots = re.findall(r"\$(\w+)", text)
    return Line(re.sub(r"\$(\w+)", r"{\1}", text), frozenset(slots))


def compile_beats(raw: Any, shared: Mapping[str, Any]) -> tuple[Beat, ...]:
    """A beat as written (a sentence, a list of ways to say it, `if`, `use`, or a list of beats)."""
    if isinstance(raw, str):
        return (Choice((compile_line(raw),)),)
    if isinstance(raw, dict) and "use" in raw:
        return compile_beats(shared[raw["use"]], shared)
    if isinstance(raw, dict):
        if raw["if"] not in FEATURES:
            raise ValueError(f"data_gen/world: unknown feature {raw['if']!r}; known are {', '.join(FEATURES)}.")
        hidden = compile_beats(raw.get("else", []), shared)
        return (Branch(raw["if"], compile_beats(raw["then"], shared), hidden),)
    if raw and all(isinstance(item, str) for item in raw):
        return (Choice(tuple(compile_line(item) for item in raw)),)
    return tuple(beat for item in raw for beat in compile_beats(item, shared))


def branch_features(beats: Sequence[Beat]) -> frozenset[str]:
    """The features that some branch of these beats can switch on."""
    found: set[str] = set()
    for beat in beats:
        if isinstance(beat, Branch):
            found |= {beat.feature} | branch_features(beat.shown) | branch_features(beat.hidden)
    return frozenset(found)


def check_slots(plot: str, lines: Sequence[Line], known: frozenset[str]) -> None:
    """Refuse a slot that no story fills; `a_` before a slot and a capital first letter are forms of it."""
    for line in lines:
        for slot in sorted(line.slots):
            name = slot[0].lower() + slot[1:]
            if name.removeprefix("a_") not in known:
                raise ValueError(f"plot {plot!r}: unknown slot ${slot}; there is ${', $'.join(sorted(known))}.")


def lines_of(beats: Sequence[Beat]) -> list[Line]:
    """Every line of these beats, whichever branch it stands in."""
    lines: list[Line] = []
    for beat in beats:
        lines += beat.lines if isinstance(beat, Choice) else lines_of((*beat.shown, *beat.hidden))
    return lines


def compile_plot(raw: Mapping[str, Any], shared: Mapping[str, Any], known: frozenset[str]) -> Plot:
    """One entry of a plots file; `known` are the slots that its lines may use."""
    paragraphs = tuple(compile_beats(paragraph, shared) for paragraph in raw["paragraphs"])
    optional = frozenset().union(*(branch_features(beats) for beats in paragraphs))
    summary = compile_line(raw["summary"])
    check_slots(raw["plot"], [summary, *(line for beats in paragraphs for line in lines_of(beats))], known)
    return Plot(raw["plot"], frozenset(raw.get("always", [])), optional, summary, paragraphs)


def read_yaml(name: str) -> Any:
    """The content of one file of the world."""
    return yaml.safe_load((WORLD / name).read_text(encoding="utf-8"))


def flatten(groups: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """All words of a file of named groups, in file order."""
    return tuple(word for group in groups.values() for word in group)


def fitting_adjectives(
    nouns: Mapping[str, Sequence[str]], adjectives: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, tuple[str, ...]]:
    """For each noun the adjectives that fit any noun, and those that fit its group."""
    special = {group: words for groups, words in adjectives["fitting"].items() for group in groups.split()}
    if unknown := set(special) - set(nouns):
        raise ValueError(f"adjectives.yaml: fitting {min(unknown)!r}; the groups of nouns.yaml are {', '.join(nouns)}.")
    general = flatten(adjectives["any"])
    found = {group: (*general, *special.get(group, ())) for group in nouns}
    return {noun: found[group] for group, members in nouns.items() for noun in members}


@cache
def load_world() -> World:
    """The world as written in `data_gen/world/`, compiled."""
    nouns, adjectives = read_yaml("nouns.yaml"), read_yaml("adjectives.yaml")
    names, beings, phrases = read_yaml("names.yaml"), read_yaml("animals.yaml"), read_yaml("phrases.yaml")
    verbs = {base: past for group in read_yaml("verbs.yaml").values() for base, past in group.items()}
    known = SLOTS | set(phrases["fillers"])
    plots = [raw for path in sorted(WORLD.glob("plots*.yaml")) for raw in read_yaml(path.name)]
    return World(
        girls=tuple(names["girls"]),
        boys=tuple(names["boys"]),
        animals=tuple(beings["animals"]),
        grownups=tuple(beings["grownups"]),
        nouns=flatten(nouns),
        verbs=verbs,
        adjectives=(*flatten(adjectives["any"]), *flatten(adjectives["fitting"])),
        fitting=fitting_adjectives(nouns, adjectives),
        traits=flatten(read_yaml("traits.yaml")),
        places=tuple(Place(p["place"], p["at"], tuple(p["spots"])) for p in read_yaml("places.yaml")),
        fillers={slot: tuple(values) for slot, values in phrases["fillers"].items()},
        plots=tuple(compile_plot(raw, phrases["beats"], known) for raw in plots),
    )
