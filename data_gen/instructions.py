"""Rows of a request and the story that honours it: required words, features, first sentence, hero.

In the style of TinyStories-Instruct, whose requests can be checked by rule. Row i of a seed is a function of
(seed, i), so rows can be made in any order, in parts, and again.
"""

import random
from collections.abc import Sequence
from functools import cache
from string import Template
from typing import Any, NamedTuple

from data_gen.story import Story, stable_random, tell
from data_gen.storyworld import FEATURES, read_yaml

THREE_WORDS, FIRST_SENTENCE, HERO = 0.7, 0.2, 0.25  # shares of rows
FEATURE_COUNTS, FEATURE_WEIGHTS = (0, 1, 2), (0.4, 0.45, 0.15)


class Request(NamedTuple):
    """What a user asks of a story."""

    words: tuple[str, ...]
    features: tuple[str, ...]
    first_sentence: str | None
    hero: str | None


@cache
def phrasings() -> dict[str, Any]:
    """The ways to ask, from `world/instructions.yaml`."""
    loaded: dict[str, Any] = read_yaml("instructions.yaml")
    return loaded


def listed(items: Sequence[str]) -> str:
    """`key, run and calm`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def phrase(rng: random.Random, request: Request) -> str:
    """The request as a user may say it; the words and the features in any order."""
    ways = phrasings()
    words = rng.sample(request.words, len(request.words))
    noun = "words" if len(words) > 1 else "word"
    parts = []
    if request.features:
        names = [rng.choice(ways["feature_names"][name]) for name in request.features]
        features = listed(rng.sample(names, len(names)))
        parts.append(Template(rng.choice(ways["features"])).substitute(features=features))
    if request.hero:
        parts.append(Template(rng.choice(ways["hero"])).substitute(hero=request.hero))
    if request.first_sentence:
        parts.append(Template(rng.choice(ways["first_sentence"])).substitute(first=request.first_sentence))
    rng.shuffle(parts)
    opening = Template(rng.choice(ways["requests"])).substitute(words=f"the {noun} {listed(words)}")
    return " ".join([opening, *parts])


def first_sentence(story: str) -> str:
    """A story's text up to its first full stop, question or exclamation mark."""
    ends = [end for end in map(story.find, (". ", "! ", "? ", ".\n", "!\n", "?\n")) if end >= 0]
    return story[: min(ends) + 1] if ends else story


def ask(rng: random.Random, seed: int, index: int, *, all_words: bool = False) -> tuple[Request, Story]:
    """A request and the story for it; `all_words` asks for three words in any case."""
    count = rng.choices(FEATURE_COUNTS, FEATURE_WEIGHTS)[0]
    features = tuple(sorted(rng.sample(FEATURES, count), key=FEATURES.index))
    story = tell(seed, index, features=features)
    asked = 3 if all_words or rng.random() < THREE_WORDS else rng.choice((1, 2))
    request = Request(
        words=tuple(rng.sample(story.words, asked)),
        features=features,
        first_sentence=first_sentence(story.text) if rng.random() < FIRST_SENTENCE else None,
        hero=story.characters[0] if rng.random() < HERO else None,
    )
    return request, story


def as_row(identity: str, request: Request, prompt: str, story: str, source: str) -> dict[str, Any]:
    """The common form of an instruction row."""
    return {
        "id": identity,
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": story}],
        "words": list(request.words),
        "features": list(request.features),
        "first_sentence": request.first_sentence,
        "hero": request.hero,
        "source": source,
    }


def instruction_rows(seed: int, start: int, stop: int) -> list[dict[str, Any]]:
    """Rows `start` to `stop` of `seed`."""
    rows = []
    for index in range(start, stop):
        rng = stable_random("instruction", seed, index)
        request, story = ask(rng, seed, index)
        rows.append(as_row(f"{index:06d}", request, phrase(rng, request), story.text, "instructions"))
    return rows
