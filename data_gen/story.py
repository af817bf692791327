"""Tell short children's stories in which a noun, a verb and an adjective carry the plot.

A story is a pure function of its arguments, so that any row of any data set can be told again alone. In the
spirit of TinyStories (Eldan & Li, 2023); every sentence is written for this project.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from data_gen.storyworld import FEATURES, Beat, Choice, Plot, World, load_world

SHORTEST, LONGEST = 80, 150  # words
CHANCE = {
    "dialogue": 0.5,
    "moral value": 0.35,
    "plot twist": 0.25,
    "bad ending": 0.15,
    "foreshadowing": 0.35,
    "conflict": 0.3,
}
OF_A_PERSON = 0.3  # share of stories whose adjective says how the hero is; the others say how the thing is
ROLES = ("hero", "pal", "animal", "grownup")
SPOKEN_WITH_A_CONSONANT, SPOKEN_WITH_A_VOWEL = ("uni", "use", "uku"), ("honest", "hour")


@dataclass(frozen=True)
class Story:
    """A story, the (noun, verb, adjective) it is built on, and what it shows."""

    text: str
    words: tuple[str, str, str]
    features: tuple[str, ...]
    characters: tuple[str, ...]
    summary: str


class Cast(dict[str, str]):
    """The values of a story's slots. `a_x` is x with its article; a capital first letter capitalises."""

    def __missing__(self, key: str) -> str:
        if key[0].isupper():
            value = self[key[0].lower() + key[1:]]
            return value[0].upper() + value[1:]
        if key.startswith("a_"):
            value = self[key[2:]]
            return f"{article(value)} {value}"
        raise KeyError(key)


def article(word: str) -> str:
    """`a` or `an`, by the sound of the word that follows."""
    vowel = word[0] in "aeiou" and not word.startswith(SPOKEN_WITH_A_CONSONANT)
    return "an" if vowel or word.startswith(SPOKEN_WITH_A_VOWEL) else "a"


def stable_random(*key: object) -> random.Random:
    """A generator that depends on the key alone, on every machine and in every process."""
    return random.Random(sha256(repr(key).encode()).digest())


def required_words(rng: random.Random, world: World, words: Sequence[str]) -> tuple[str, str, str]:
    """The given words, each in its class, and drawn words for the classes that are not given."""
    chosen: dict[str, str] = {}
    classes = {"noun": world.nouns, "verb": tuple(world.verbs), "adjective": (*world.adjectives, *world.traits)}
    for word in words:
        kinds = [kind for kind, known in classes.items() if word in known]
        if not kinds or kinds[0] in chosen:
            problem = f"a second {kinds[0]}" if kinds else "not in data_gen/world"
            raise ValueError(f"words {list(words)}: {word!r} is {problem}; give one noun, verb or adjective each.")
        chosen[kinds[0]] = word
    noun, verb = rng.choice(world.nouns), rng.choice(classes["verb"])
    noun = chosen.get("noun", noun)
    adjective = rng.choice(world.traits if rng.random() < OF_A_PERSON else world.fitting[noun])
    return noun, chosen.get("verb", verb), chosen.get("adjective", adjective)


def pronouns(prefix: str, is_girl: bool) -> dict[str, str]:
    """The slots he, him, his of one person."""
    forms = ("she", "her", "her") if is_girl else ("he", "him", "his")
    return {prefix + slot: form for slot, form in zip(("he", "him", "his"), forms, strict=True)}


def draw_cast(rng: random.Random, world: World, words: tuple[str, str, str]) -> Cast:
    """People, place and fillers of one story. The friend is of the other sex: pronouns stay clear."""
    noun, verb, adjective = words
    is_girl = rng.random() < 0.5
    heroes, friends = (world.girls, world.boys) if is_girl else (world.boys, world.girls)
    kind, animal = rng.sample(world.animals, 2)
    place = rng.choice(world.places)
    if rng.random() < 0.7:
        kind = "girl" if is_girl else "boy"
    trait, adj = rng.choice(world.traits), rng.choice(world.fitting[noun])
    if adjective in world.traits:
        trait = adjective
    else:
        adj = adjective
    return Cast(
        {slot: rng.choice(values) for slot, values in world.fillers.items()},
        hero=rng.choice(heroes),
        kind=kind,
        pal=rng.choice(friends),
        animal=animal,
        grownup=rng.choice(world.grownups),
        place=place.place,
        at=place.at,
        spot=rng.choice(place.spots),
        noun=noun,
        verb=verb,
        verbed=world.verbs[verb],
        adj=adj,
        trait=trait,
        **pronouns("", is_girl),
        **pronouns("pal_", not is_girl),
    )


def draw_features(rng: random.Random, plot: Plot, wanted: Sequence[str]) -> frozenset[str]:
    """The wanted features, those the plot always shows, and some that it can show."""
    extra = {name for name in FEATURES if rng.random() < CHANCE[name]}
    return plot.always | set(wanted) | (extra & plot.optional)


class Told(NamedTuple):
    """What telling has used so far: the slots that were filled and the features whose branch was taken."""

    slots: set[str]
    features: set[str]


def say(rng: random.Random, beats: Sequence[Beat], cast: Cast, shown: frozenset[str], told: Told) -> list[str]:
    """The sentences of some beats, noted in `told`."""
    sentences = []
    for beat in beats:
        if isinstance(beat, Choice):
            line = rng.choice(beat.lines)
            told.slots.update(line.slots)
            sentences.append(line.template.format_map(cast))
        elif beat.feature in shown:
            told.features.add(beat.feature)
            sentences += say(rng, beat.shown, cast, shown, told)
        else:
            sentences += say(rng, beat.hidden, cast, shown, told)
    return sentences


def tell(seed: int, index: int, *, words: Sequence[str] = (), features: Sequence[str] = ()) -> Story:
    """Story `index` of `seed`: with these words (one a class) and at least these features."""
    world, wanted = load_world(), frozenset(features)
    plots = [plot for plot in world.plots if wanted <= plot.always | plot.optional]
    if not plots:
        raise ValueError(f"features {sorted(wanted)}: no plot in data_gen/world shows them together.")
    rng = stable_random("story", seed, index, tuple(words), tuple(sorted(wanted)))
    chosen = required_words(rng, world, words)
    while True:  # a draw that is too short, too long or misses a feature is drawn again
        plot = rng.choice(plots)
        cast = draw_cast(rng, world, chosen)
        told = Told(set(plot.summary.slots), set(plot.always))
        shown = draw_features(rng, plot, features)
        text = "\n\n".join(" ".join(say(rng, beats, cast, shown, told)) for beats in plot.paragraphs)
        if '"' in text:
            told.features.add("dialogue")
        if fits(text, chosen) and wanted <= told.features:
            break
    summary = plot.summary.template.format_map(cast)
    return Story(
        text=text,
        words=chosen,
        features=tuple(name for name in FEATURES if name in told.features),
        characters=tuple(cast[role] for role in ROLES if role == "hero" or appears(role, told.slots)),
        summary=summary[0].upper() + summary[1:],
    )


def fits(text: str, words: tuple[str, str, str]) -> bool:
    """Whether the length is a story's, the thing is named often enough and not too often, and the adjective is used."""
    long_enough = SHORTEST <= len(text.split()) <= LONGEST
    return long_enough and 2 <= text.count(f" {words[0]}") <= 6 and f" {words[2]}" in text


def appears(role: str, used: set[str]) -> bool:
    """Whether a line that was told names this role."""
    return bool(used & {role, role.capitalize(), f"a_{role}", f"A_{role}"})
