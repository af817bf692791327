"""The reference language model: how children's prose goes, counted from this project's own texts.

Two small models, neither of which knows what a story may be about. The *fluency* of a sentence is the probability of
its grammatical classes (eval.tags), trigrams with interpolated Kneser-Ney smoothing (Chen and Goodman 1999): a class
model in the sense of Brown et al. (1992), so that a new word costs nothing. The *place* of a sentence is a log-odds
(naive Bayes) over its words and pairs of words: does it open a story, or close one?

The counts in reference/ are made by `python -m bench.reference` from the story world, the hand-written stories and
reference/prose.txt. They are narrow, so they are read with wide bands.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from eval.prose import Story
from eval.tags import NAME, is_name, tags

FOLDER = Path(__file__).parent / "reference"
START, STOP = "<s>", "</s>"
DISCOUNT = 0.75
SMOOTHING = 0.5  # added to each count of a place
STEADY = 5  # the length up to which a sentence's log-odds are damped

Trigram = tuple[str, str, str]


class Fluency:
    """Log-probabilities of classes after the two before them."""

    def __init__(self, counts: Mapping[Trigram, int]) -> None:
        followed: dict[tuple[str, ...], dict[str, int]] = {}
        for (first, second, third), count in counts.items():
            followed.setdefault((first, second), {})[third] = count
        for _, second, third in counts:  # a shorter context counts in how many longer ones a class follows
            after = followed.setdefault((second,), {})
            after[third] = after.get(third, 0) + 1
        for (second,) in [context for context in followed if len(context) == 1]:
            for third in followed[(second,)]:
                alone = followed.setdefault((), {})
                alone[third] = alone.get(third, 0) + 1
        self.followed = followed
        self.totals = {context: sum(after.values()) for context, after in followed.items()}
        self.found: dict[Trigram, float] = {}

    def probability(self, context: tuple[str, ...], tag: str) -> float:
        """P(tag | context), for contexts of two, one or no classes; every class has some probability."""
        lower = self.probability(context[1:], tag) if context else 1 / (len(self.followed[()]) + 1)
        after = self.followed.get(context)
        if after is None:
            return lower
        kept = max(after.get(tag, 0) - DISCOUNT, 0.0)
        return (kept + DISCOUNT * len(after) * lower) / self.totals[context]

    def surprises(self, found: Sequence[str]) -> list[float]:
        """Minus the log-probability (nats) of each class of a sentence and of its end."""
        padded = [START, START, *found, STOP]
        return [self._surprise(trigram) for trigram in zip(padded, padded[1:], padded[2:], strict=False)]

    def _surprise(self, trigram: Trigram) -> float:
        known = self.found.get(trigram)
        if known is None:
            known = self.found[trigram] = -math.log(self.probability(trigram[:2], trigram[2]))
        return known


class Places(NamedTuple):
    """Log-odds of words and pairs of words: of opening a story against not, and of closing one against not."""

    opening: Mapping[str, float]
    closing: Mapping[str, float]


class Reference(NamedTuple):
    """What the judge has read."""

    fluency: Fluency
    places: Places


def grams(tokens: Iterable[str], story: Story) -> set[str]:
    """The words of a sentence in lower case and their pairs; names are all one word."""
    words = [NAME if token[0].isalpha() and is_name(token, story) else token.lower() for token in tokens]
    return set(words) | {f"{left} {right}" for left, right in zip([START, *words], words, strict=False)}


def lean(found: Iterable[str], odds: Mapping[str, float]) -> float:
    """How far a sentence leans to a place: mean log-odds of what is known of it, damped for short sentences."""
    known = [odds[gram] for gram in found if gram in odds]
    return sum(known) / (len(known) + STEADY)


def _odds(rows: Sequence[tuple[str, list[int]]], place: int) -> dict[str, float]:
    """Log-odds of one of three places against the other two; the first row holds how many sentences were read."""
    sizes = rows[0][1]
    size, rest = sizes[place], sum(sizes) - sizes[place]
    found = {}
    for gram, counts in rows[1:]:
        here, there = counts[place], sum(counts) - counts[place]
        found[gram] = math.log((here + SMOOTHING) / (size + 1)) - math.log((there + SMOOTHING) / (rest + 1))
    return found


@cache
def reference() -> Reference:
    """The counts of reference/, read once."""
    lines = (FOLDER / "classes.txt").read_text(encoding="utf-8").splitlines()
    fields = [line.split(" ") for line in lines if not line.startswith("# ")]
    fluency = Fluency({(first, second, third): int(count) for first, second, third, count in fields})
    lines = (FOLDER / "places.txt").read_text(encoding="utf-8").splitlines()
    rows = [
        (gram, [int(count) for count in counts])
        for gram, *counts in (line.split("\t") for line in lines if not line.startswith("# "))
    ]
    return Reference(fluency, Places(_odds(rows, 0), _odds(rows, 2)))


def surprises(story: Story) -> list[float]:
    """The surprise (nats) of every class of a story, sentence by sentence."""
    fluency = reference().fluency
    return [surprise for tokens in story.tokens for surprise in fluency.surprises(tags(tokens, story))]
