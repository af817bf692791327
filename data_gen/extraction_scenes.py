"""Texts whose facts are known: a scene of `world/extraction.yaml` told in some sentences, with a template to fill.

Which sentences are said, in which words and order, what stands between them, which fields the template has, what they
are called and how they are nested is all drawn, so a model has to read and not to learn the scene by heart. A field
whose sentence is not said is empty.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from string import Template
from typing import Any, NamedTuple

from data_gen.instructions import listed
from data_gen.storyworld import load_world, read_yaml

Json = str | list[Any] | dict[str, Any]  # what a template is made of: "", [], [{…}] and {…}
Values = dict[str, str | list[str]]

SAID, UNDER, ABSENT, ASIDE = 0.75, 0.5, 0.15, (0.4, 0.4, 0.2)  # shares: sentences, nesting, empty keys; 0, 1, 2 asides
FEWEST, MOST = 2, 5  # fields of a template
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


@cache
def pools() -> Mapping[str, tuple[str, ...]]:
    """The values of each kind: those of the story world, and those of scenes alone."""
    world, own = load_world(), written()
    return {
        "name": (*world.girls, *world.boys),
        "animal": world.animals,
        "noun": world.nouns,
        "place": tuple(place.place.removeprefix("the ") for place in world.places),
        **{name: tuple(values) for name, values in own["pools"].items()},
        **{name: tuple(map(str, range(low, high + 1))) for name, (low, high) in own["ranges"].items()},
    }


class Bag:
    """Values drawn from the pools, none twice: a text with two Mias has no right answer."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.drawn = rng, set[str]()

    def draw(self, pool: str) -> str:
        while (value := self.rng.choice(pools()[pool])) in self.drawn:
            pass
        self.drawn.add(value)
        return value

    def values(self, fields: Mapping[str, Any]) -> Values:
        """A value of each field; a list of some where it has many."""
        counts = {name: self.rng.choice(MANY) if field.get("many") else 0 for name, field in fields.items()}
        return {
            name: [self.draw(fields[name]["pool"]) for _ in range(count)] if count else self.draw(fields[name]["pool"])
            for name, count in counts.items()
        }


def article(value: str) -> str:
    """`an owl`."""
    return f"{'an' if value[0].lower() in 'aeiou' else 'a'} {value}"


def slots_of(sentence: str) -> set[str]:
    """The slots of a sentence; `$a_pet` states the same fact as `$pet`."""
    return {name.removeprefix("a_") for name in Template(sentence).get_identifiers()}


def say(sentence: str, values: Values, bag: Bag) -> str:
    """A sentence with its slots filled, and a capital at its start."""
    others = {name: bag.draw(name.removeprefix("other_")) for name in slots_of(sentence) if name.startswith("other_")}
    shown: dict[str, str] = {}
    for name, value in {**values, **others}.items():
        each = [value] if isinstance(value, str) else value
        shown |= {name: listed(each), f"a_{name}": listed([article(one) for one in each])}
    found = Template(sentence).substitute(shown)
    return found[0].upper() + found[1:]


def tell(rng: random.Random) -> Told:
    """A text of one scene with its template."""
    scene = written()["scenes"][rng.choice(list(written()["scenes"]))]
    bag = Bag(rng)
    values, each = bag.values(scene["fields"]), scene.get("each")
    rows = [bag.values(each["fields"]) for _ in range(rng.choice(MANY))] if each else []
    chosen = [rng.choice(group) for at, group in enumerate(scene["says"]) if at == 0 or rng.random() < SAID]
    first, *rest = [say(sentence, values, bag) for sentence in chosen]
    rest += [say(rng.choice(each["says"]), row, bag) for row in rows]
    asides = rng.sample(written()["asides"], rng.choices(range(len(ASIDE)), ASIDE)[0])
    rest += [say(sentence, {}, bag) for sentence in asides]
    rng.shuffle(rest)
    said = {name: values[name] for sentence in chosen for name in slots_of(sentence)}
    return Told(" ".join([first, *rest]), *ask_for(rng, scene, said, rows))


def ask_for(
    rng: random.Random, scene: Mapping[str, Any], said: Values, rows: Sequence[Values]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A template for some fields of a scene, one of which the text states at least; and the same filled."""
    fields = scene["fields"]
    sure = rng.choice([name for name in fields if name in said])
    others = rng.sample([name for name in fields if name != sure], rng.randint(FEWEST, min(MOST, len(fields))) - 1)
    asked = rng.sample([sure, *others], len(others) + 1)
    template: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    keyed = _keyed(rng, fields, asked)
    for key, name in keyed.items():
        empty: Json = [] if fields[name].get("many") else ""
        template[key], expected[key] = empty, said.get(name, empty)
    for key, names in scene.get("under", {}).items():
        inner = [known for known, name in keyed.items() if name in names]
        if len(inner) > 1 and rng.random() < UNDER:
            template, expected = _under(template, key, inner), _under(expected, key, inner)
    if rng.random() < ABSENT:
        key = rng.choice(written()["absent"])
        template[key] = expected[key] = ""
    if "each" in scene and (rng.random() < UNDER or len(asked) == FEWEST):
        keys = _keyed(rng, scene["each"]["fields"], list(scene["each"]["fields"]))
        key = rng.choice(scene["each"]["keys"])
        template[key] = [dict.fromkeys(keys, "")]
        expected[key] = [{own: row[name] for own, name in keys.items()} for row in rows]
    return template, expected


def _keyed(rng: random.Random, fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """A key for each field."""
    return {rng.choice(fields[name]["keys"]): name for name in names}


def _under(flat: Mapping[str, Any], key: str, inner: Sequence[str]) -> dict[str, Any]:
    """Some keys put into an object of their own, which stands where the first of them was."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        if name not in inner:
            nested[name] = value
        elif name == inner[0]:
            nested[key] = {one: flat[one] for one in inner}
    return nested
