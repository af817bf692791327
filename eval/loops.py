"""Loops: a story that says the same again. Plot, consistency and creativity all read this share."""

from functools import lru_cache
from itertools import islice

from eval.prose import Story

SPAN = 5
SHORT = 4  # sentences of fewer words ("He was happy.") may come back


def ngrams(words: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    """The runs of `size` words, in order."""
    return list(zip(*(islice(words, start, None) for start in range(size)), strict=False))


def repeated_sentences(story: Story) -> int:
    """How many sentences of at least four words were told before, word for word."""
    seen: set[tuple[str, ...]] = set()
    repeats = 0
    for tokens in story.tokens:
        told = tuple(token.lower() for token in tokens if token[0].isalpha())
        repeats += told in seen and len(told) >= SHORT
        seen.add(told)
    return repeats


@lru_cache(maxsize=8)
def loop_share(story: Story) -> float:
    """The share of five-word runs that occurred before, in [0, 1]; below 0.05 in good stories."""
    runs = ngrams(story.words, SPAN)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
