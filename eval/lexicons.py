"""The word lists and cue phrases of the rule judge, kept as text files so that people can read and extend
them.
"""

from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent / "lexicon"


def _lines(name: str) -> list[str]:
    """The lines of a lexicon file that are neither empty nor a `#` comment."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def rows(name: str) -> list[list[str]]:
    """The lines of a list, split at blanks."""
    return [line.split() for line in _lines(name)]


@lru_cache(maxsize=1)
def _classes() -> dict[str, frozenset[str]]:
    classes: dict[str, list[str]] = {}
    name = ""
    for line in _lines("classes.txt"):
        if not line.startswith(" "):
            name, _, line = line.partition(":")
        classes.setdefault(name, []).extend(line.split())
    return {name: frozenset(words) for name, words in classes.items()}


def word_class(name: str) -> frozenset[str]:
    """A class of words from classes.txt; KeyError when there is none of that name."""
    return _classes()[name]


@lru_cache(maxsize=1)
def _cues() -> dict[str, list[str]]:
    cues: dict[str, list[str]] = {}
    name = ""
    for line in _lines("cues.txt"):
        if line.startswith("["):
            name = line.strip("[]")
        else:
            cues.setdefault(name, []).append(line)
    return cues


def expressions(name: str) -> list[str]:
    """A list of regular expressions from cues.txt; KeyError when there is none of that name."""
    return _cues()[name]
