"""Does a story stay with its subject? Lexical cohesion: how much of each sentence was told of before.

A weak model changes the subject in every sentence: the words are right, the things are always new ones.
Good stories come back to their people and things, and their last third speaks of the first (Halliday and
Hasan 1976).
"""

from functools import lru_cache
from typing import NamedTuple

from eval.lexicons import word_class
from eval.prose import FUNCTION, Story
from eval.words import bases

EVERYWHERE = FUNCTION | word_class("everywhere")
FEWEST = 5  # sentences; with fewer there is nothing to come back to


class Cohesion(NamedTuple):
    """Shares in [0, 1]: content words told of before, and words of the end that the start has."""

    again: float
    link: float


@lru_cache(maxsize=16384)
def _base(word: str) -> str:
    """One base form of a lower-case word, the shortest there is."""
    return min(bases(word.split("'")[0]), key=lambda form: (len(form), form))


def _content(tokens: tuple[str, ...]) -> set[str]:
    return {_base(token.lower()) for token in tokens if token[0].isalpha()} - EVERYWHERE


def cohesion(story: Story) -> Cohesion | None:
    """Both shares, or None for a text of fewer than five sentences. Names count in the link only."""
    if len(story.sentences) < FEWEST:
        return None
    names = {name.lower() for name in story.names}
    contents = [_content(tokens) for tokens in story.tokens]
    told: set[str] = set(contents[0] | contents[1]) - names
    again = total = 0
    for words in contents[2:]:
        plain = words - names
        again += len(plain & told)
        total += len(plain)
        told |= plain
    third = max(2, len(contents) // 3)
    first, last = set().union(*contents[:third]), set().union(*contents[-third:])
    return Cohesion(again / max(1, total), len(first & last) / max(1, len(last)))
