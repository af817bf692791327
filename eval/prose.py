"""A story taken apart once: sentences, words, speeches and names, which every axis reads."""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from eval.lexicons import word_class

CURLY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "—": " - ", "–": " - "})
TITLES = r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bMs\.)"
BOUNDARY = re.compile(rf"(?<=[.!?]){TITLES}\s+|(?<=[.!?][\"']){TITLES}\s+(?=[\"'A-Z])|\n+")
TOKEN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+|\.\.\.|[^\w\s]")
DOUBLE = re.compile(r'"([^"\n]*)"')
SINGLE = re.compile(r"(?:(?<=\s)|^)'((?:[^'\n]|(?<=\w)'(?=\w)){3,}?[.,!?])'(?=\s|[.,]|$)", re.MULTILINE)
KIN = word_class("kin")
FUNCTION = word_class("function")


@dataclass(frozen=True)
class Story:
    """The text with straight quotes, and the parts that follow from it."""

    text: str

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """Sentences of the text in order; a line end closes one."""
        return tuple(part for part in (piece.strip() for piece in BOUNDARY.split(self.text)) if part)

    @cached_property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """Words and punctuation of each sentence, in their case."""
        return tuple(tuple(TOKEN.findall(sentence)) for sentence in self.sentences)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All words in lower case, in order."""
        return tuple(token.lower() for sentence in self.tokens for token in sentence if token[0].isalpha())

    @cached_property
    def speeches(self) -> tuple[str, ...]:
        """What is said between quotation marks."""
        return tuple(DOUBLE.findall(self.text)) + tuple(SINGLE.findall(self.text))

    @cached_property
    def narration(self) -> str:
        """The text with what is said blanked out."""
        return SINGLE.sub(" , ", DOUBLE.sub(" , ", self.text))

    @cached_property
    def names(self) -> dict[str, tuple[int, ...]]:
        """Names of characters (capitalised inside some sentence) to the sentences that have them."""
        inside: set[str] = set()
        for sentence in self.tokens:
            for before, token in pairwise(sentence):
                if token[0].isupper() and len(token) > 1 and (before[0].isalpha() or before == ","):
                    inside.add(_bare(token))
        names = {name for name in inside if name.lower() not in FUNCTION | KIN and not name.isupper()}
        lower = set(self.words_as_written)
        names = {name for name in names if name.lower() not in lower}
        found: dict[str, list[int]] = {name: [] for name in sorted(names)}
        for number, sentence in enumerate(self.tokens):
            for name in {_bare(token) for token in sentence} & names:
                found[name].append(number)
        return {name: tuple(numbers) for name, numbers in found.items()}

    @cached_property
    def words_as_written(self) -> tuple[str, ...]:
        """All words in their case, in order."""
        return tuple(token for sentence in self.tokens for token in sentence if token[0].isalpha())


def _bare(token: str) -> str:
    """A word without its possessive or contraction: Lily's -> Lily."""
    return token.split("'")[0].split("-")[0]


def parse(text: str) -> Story:
    """Take a story apart; curly quotes and dashes become plain first."""
    return Story(text.translate(CURLY).strip())
