"""Texts whose facts are known: a scene of `world/extraction.yaml` told in some sentences, with a template to fill.

Which sentences are said, in which words and order, what stands between them, which fields the template has and how they
are nested is all drawn, so a model has to read and not to learn the scene by heart. A field whose sentence is not said
is empty.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from string import Template
from typing import Any, NamedTuple

from data_gen.instructions import listed
from data_gen.storyworld import load_world, read_yaml

Values = dict[str, str | list[str]]

SAID, UNDER, ABSENT, EACH = 0.75, 0.5, 0.15, 0.7  # shares: of sentences, nested fields, empty keys, lists of objects
ASIDES = (0.4, 0.4, 0.2)  # shares of texts with 0, 1 and 2 sentences that state no fact
FEWEST, MOST = 1, 4  # fields of a template
MANY = (1, 2, 3)  # values of a list, objects of a list


class Told(NamedTuple):
    """A text, a template, and the template filled with what the text says."""

    text: str
    template: dict[str, Any]
    expected: dict[str, Any]


@cache
def written() -> dict[str, Any]:
    """The content of `world/extraction.yaml`."""
    loaded: dict[str, Any] = read_yaml("extraction.yaml")
    return loaded


def article(value: str) -> str:
    """`an owl`."""
    return f"{'an' if value[0] in 'aeiou' else 'a'} {value}"


def value_of(kind: str, rng: random.Random) -> str:
    """A value of a kind: `Mia`, `an owl`, `a red kite`, `the park`, `Monday`."""
    world = load_world()
    if kind == "name":
        return rng.choice((*world.girls, *world.boys))
    if kind == "animal":
        return article(rng.choice(world.animals))
    if kind == "thing":
        noun = rng.choice(world.nouns)
        return article(f"{rng.choice(world.fitting[noun])} {noun}")
    if kind == "place":
        return rng.choice(world.places).place
    return str(rng.choice(written()["kinds"][kind]))


class Bag:
    """Values, none drawn twice: a text with two Mias has no right answer."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.drawn = rng, set[str]()

    def draw(self, kind: str) -> str:
        """A value that was not drawn before."""
        while (value := value_of(kind, self.rng)) in self.drawn:
            pass
        self.drawn.add(value)
        return value

    def values(self, fields: Mapping[str, str], many: Sequence[str] = ()) -> Values:
        """A value of each field, and some of those in `many`."""
        return {
            name: [self.draw(kind) for _ in range(self.rng.choice(MANY))] if name in many else self.draw(kind)
            for name, kind in fields.items()
        }


def slots_of(sentence: str) -> set[str]:
    """The slots of a sentence that state a fact."""
    return {name for name in Template(sentence).get_identifiers() if not name.startswith(("the_", "other_"))}


def say(sentence: str, values: Values, bag: Bag) -> str:
    """A sentence with its slots filled."""
    shown = {}
    for name in Template(sentence).get_identifiers():
        kind, _, of = name.partition("_")
        value = bag.draw(of) if kind == "other" else values[of if kind == "the" else name]
        text = value if isinstance(value, str) else listed(value)
        shown[name] = f"the {text.partition(' ')[2]}" if kind == "the" else text
    return Template(sentence).substitute(shown)


def tell(rng: random.Random) -> Told:
    """A text of one scene with its template."""
    scene = written()["scenes"][rng.choice(list(written()["scenes"]))]
    bag = Bag(rng)
    values = bag.values(scene["fields"], scene.get("many", ()))
    rows = [bag.values(scene["each"]["fields"]) for _ in range(rng.choice(MANY))] if "each" in scene else []
    chosen = [rng.choice(group) for at, group in enumerate(scene["says"]) if at == 0 or rng.random() < SAID]
    first, *rest = [say(sentence, values, bag) for sentence in chosen]
    rest += [say(rng.choice(scene["told"]), row, bag) for row in rows]
    asides = rng.sample(written()["asides"], rng.choices(range(len(ASIDES)), ASIDES)[0])
    rest += [say(sentence, {}, bag) for sentence in asides]
    rng.shuffle(rest)
    text = " ".join([first, *rest])
    said = {name: values[name] for sentence in chosen for name in slots_of(sentence)}
    in_order = sorted(rows, key=lambda row: min(text.index(str(value)) for value in row.values()))
    return Told(text, *ask_for(rng, scene, said, in_order))


def ask_for(
    rng: random.Random, scene: Mapping[str, Any], said: Values, rows: Sequence[Values]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A template for some fields of a scene, one of which the text states at least; and the same filled."""
    fields = list(scene["fields"])
    sure = rng.choice([name for name in fields if name in said])
    others = rng.sample([name for name in fields if name != sure], rng.randint(FEWEST, min(MOST, len(fields))) - 1)
    asked = sorted([sure, *others], key=fields.index)
    template: dict[str, Any] = {name: [] if name in scene.get("many", ()) else "" for name in asked}
    expected: dict[str, Any] = {name: said.get(name, template[name]) for name in asked}
    for key, names in scene.get("under", {}).items():
        inner = [name for name in asked if name in names]
        if len(inner) > 1 and rng.random() < UNDER:
            template, expected = _under(template, key, inner), _under(expected, key, inner)
    if "each" in scene and rng.random() < EACH:
        key = scene["each"]["key"]
        template[key], expected[key] = [dict.fromkeys(scene["each"]["fields"], "")], list(rows)
    if rng.random() < ABSENT:
        key = rng.choice(written()["absent"])
        template[key] = expected[key] = ""
    return template, expected


def _under(flat: Mapping[str, Any], key: str, inner: Sequence[str]) -> dict[str, Any]:
    """Some fields put into an object of their own, which stands where the first of them was."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        if name not in inner:
            nested[name] = value
        elif name == inner[0]:
            nested[key] = {one: flat[one] for one in inner}
    return nested
