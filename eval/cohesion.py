"""Does a story stay with its subject? Lexical cohesion: how much of each sentence was told of before.

A weak model changes the subject in every sentence: the words are right, the things are always new ones, and they
come as "the", as if they had been told of. Good stories come back to their people and things, bring new ones in
with "a", and their last third speaks of the first (Halliday and Hasan 1976).
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from eval.lexicons import word_class
from eval.prose import FUNCTION, Story
from eval.tags import classes
from eval.words import bases

EVERYWHERE = FUNCTION | word_class("everywhere")
UNIQUE = word_class("unique")
FEWEST = 5  # sentences; with fewer there is nothing to come back to
FEWEST_THINGS = 3


class Cohesion(NamedTuple):
    """Shares in [0, 1]: content words told of before, words of the end that the start has, and of what is called
    "the", how much is new.
    """

    again: float
    link: float
    sudden: float


@lru_cache(maxsize=16384)
def _base(word: str) -> str:
    """One base form of a lower-case word, the shortest there is."""
    return min(bases(word.split("'")[0]), key=lambda form: (len(form), form))


def _bases(tokens: Iterable[str]) -> set[str]:
    return {_base(token.lower()) for token in tokens if token[0].isalpha()}


def _definite(tokens: tuple[str, ...]) -> Iterator[str]:
    """The nouns of a sentence that are called "the": the first word after it that is no adjective."""
    low = [token.lower() for token in tokens]
    for place, word in enumerate(low):
        if word != "the":
            continue
        nouns = (noun for noun in low[place + 1 : place + 4] if not noun[0].isalpha() or classes(noun)[0] != "A")
        noun = next(nouns, "")
        if noun[:1].isalpha() and noun not in FUNCTION:
            yield noun


def _sudden(story: Story, told: list[set[str]]) -> float:
    """The share of "the" things that were not told of and are not such as everybody knows: the sun, the park."""
    before: set[str] = set()
    new = total = 0
    for tokens, words in zip(story.tokens, told, strict=True):
        for noun in _definite(tokens):
            total += 1
            new += noun not in UNIQUE and _base(noun) not in before
        before |= words
    return new / max(FEWEST_THINGS, total)


@lru_cache(maxsize=8)
def cohesion(story: Story) -> Cohesion | None:
    """All three shares, or None for a text of fewer than five sentences. Names count in the link only."""
    if len(story.sentences) < FEWEST:
        return None
    names = {name.lower() for name in story.names}
    every = [_bases(tokens) for tokens in story.tokens]
    contents = [words - EVERYWHERE for words in every]
    told: set[str] = set(contents[0] | contents[1]) - names
    again = total = 0
    for words in contents[2:]:
        plain = words - names
        again += len(plain & told)
        total += len(plain)
        told |= plain
    third = max(2, len(contents) // 3)
    first, last = set().union(*contents[:third]), set().union(*contents[-third:])
    return Cohesion(again / max(1, total), len(first & last) / max(1, len(last)), _sudden(story, every))
