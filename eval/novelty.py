"""What a story shares, word for word, with the stories a model was trained on.

All rows stand one after another in one array of word numbers, and a suffix array (Manber and Myers 1993) over it finds
for each place of a story the longest run of words that the rows have too. A million words are sorted in about a second
and take 40 MB; a story is looked up in under a millisecond.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eval.prose import CURLY

Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]
DEPTH = 32  # words by which places are sorted and compared; a longer run is followed word by word
WIDTH = 4  # bytes of a word's number
RUN = 8  # words; a shorter run is common English
WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")  # the words of eval.prose


class Copied(NamedTuple):
    """The longest run of words that the rows have too, and the share of the words in runs of eight and more."""

    longest: int
    start: int  # of the longest run, counted in words
    share: float


class Training:
    """The rows a model was trained on, ready to be searched."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.numbers: dict[str, int] = {}
        number = self.numbers
        found = [
            [number.setdefault(word, len(number) + 1) for word in WORD.findall(text.translate(CURLY).lower())]
            for text in texts
        ]
        gap = [0] * DEPTH  # no run goes over the end of a row
        self.words: Ints = np.array([word for row in found for word in (*row, *gap)], dtype=np.int32)
        self.places = _sorted_places(self.words)
        self.sorted = array("q", self.places.tobytes())
        self.ordered = _ordered(self.words)
        self.keys = _keys(self.words, self.places)

    def lookup(self, words: Sequence[str]) -> Copied:
        """What these words in lower case share with the rows."""
        if not words or not self.places.size:
            return Copied(0, 0, 0.0)
        mine = np.array([self.numbers.get(word, -1) for word in words] + [-1] * DEPTH, dtype=np.int32)
        runs = self._runs(mine, len(words))
        inside = np.zeros(len(words) + 1, dtype=np.int32)
        for place in np.flatnonzero(runs >= RUN):
            inside[place] += 1
            inside[min(int(place + runs[place]), len(words))] -= 1
        start = int(runs.argmax())
        return Copied(int(runs[start]), start, float((inside.cumsum()[:-1] > 0).mean()))

    def _runs(self, mine: Ints, count: int) -> Ints:
        """For each word of a story the length of the longest run from there that the rows have."""
        every = np.arange(count)
        wanted, ordered = _keys(mine, every), _ordered(mine)
        low, high = np.searchsorted(self.keys, wanted), np.searchsorted(self.keys, wanted, side="right")
        for place in np.flatnonzero(low < high).tolist():  # only where the rows have the first three words
            target = ordered[WIDTH * place : WIDTH * (place + DEPTH)]
            low[place] = bisect_left(self.sorted, target, int(low[place]), int(high[place]), key=self._suffix)
        suffixes = _windows(mine, every)
        runs = np.zeros(count, dtype=np.int32)
        for near in (low - 1, low):  # the longest match stands beside the place where the story would be sorted in
            beside = self.places[np.clip(near, 0, self.places.size - 1)]
            same = _windows(self.words, beside) == suffixes
            runs = np.maximum(runs, np.where(same.all(axis=1), DEPTH, same.argmin(axis=1)))
        for start in range(count - 2, -1, -1):  # a run of 32 and more goes on as far as the next one does
            if runs[start] == DEPTH == min(runs[start + 1], DEPTH):
                runs[start] = runs[start + 1] + 1
        return runs

    def _suffix(self, place: int) -> bytes:
        """The words from a place on, as bytes that sort like them."""
        return self.ordered[WIDTH * place : WIDTH * (place + DEPTH)]


def _windows(words: Ints, places: Places) -> Ints:
    """The words from each place on, DEPTH of them; ended by 0."""
    return words.take(places[:, None] + np.arange(DEPTH), mode="clip")


def _keys(words: Ints, places: Places) -> Places:
    """The first three words from each place on as one number, which sorts like them (a word takes 21 bits)."""
    first, second, third = words.take(places[:, None] + np.arange(3), mode="clip").astype(np.int64).T
    keys: Places = ((first << 21) + second << 21) + third
    return keys


def _ordered(words: Ints) -> bytes:
    """The words as bytes that sort like them."""
    return words.astype(">u4").tobytes()


def _sorted_places(words: Ints) -> Places:
    """Places of all words, sorted by the DEPTH words from there on (prefix doubling)."""
    rank = words.astype(np.int64)
    order = np.argsort(rank, kind="stable")
    width = 1
    while width < DEPTH and rank.size:
        behind = np.concatenate([rank[width:], np.zeros(min(width, rank.size), dtype=np.int64)])[: rank.size]
        key = rank * (int(rank.max()) + 1) + behind
        order = np.argsort(key, kind="stable")
        rank = np.empty_like(rank)
        rank[order] = np.concatenate([[0], np.cumsum(np.diff(key[order]) > 0)])
        width *= 2
    return order[words[order] > 0]
