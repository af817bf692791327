"""Is a word an English word, and of what kind? Weak story models write "chaches" and "darked", and that can be seen
without a model.

The list holds base forms with their kinds (noun, verb, adjective, adverb), so inflections and the usual derivations
are undone before the look-up, and only where the kind has them: "parked" and "darkly" are words, "darked" is not.
"""

from collections.abc import Mapping
from functools import lru_cache

from eval.lexicons import rows
from eval.words import BASE_OF, bases

LONGEST_JUDGED = 14
# Endings that make a word, and the kinds of word they are put to.
SUFFIXES = {
    "ly": "a",
    "ness": "a",
    "less": "n",
    "ful": "nv",
    "er": "va",
    "or": "v",
    "y": "nv",
    "able": "v",
    "ally": "a",
    "ment": "v",
    "ish": "na",
}
PREFIXES = ("un", "re")
KINDS = {word: row[0] for name in ("english.txt", "story_words.txt") for row in rows(name) for word in row[1:]}


def _takes(kinds: str, letters: str) -> bool:
    """Whether a word of these kinds can be a noun, verb, adjective or adverb of the letters; x tells nothing."""
    return "x" in kinds or any(letter in kinds for letter in letters)


def inflected(word: str, listed: Mapping[str, str] = KINDS) -> bool:
    """Whether the word is an inflected form of a listed one that has such forms."""
    if any(base in listed and base != word for base in BASE_OF.get(word, ())):
        return True
    letters = {"ed": "v", "ing": "v", "er": "ar", "est": "ar"}
    needed = next((kinds for ending, kinds in letters.items() if word.endswith(ending)), "nv")
    return any(base != word and _takes(listed.get(base, ""), needed) for base in bases(word))


def _stems(word: str, suffix: str) -> set[str]:
    """What the word may be derived from by a suffix: easily from easy, slippery from slip."""
    stem = word.removesuffix(suffix)
    if stem == word or len(stem) < 3:
        return set()
    found = {stem, stem + "e"}
    found |= {stem[:-1] + "y"} if stem[-1] == "i" else set()
    found |= {stem[:-1]} if stem[-1] == stem[-2] else set()
    return found | ({stem + "le"} if suffix == "ly" else set())


def _derived(word: str) -> bool:
    for suffix, letters in SUFFIXES.items():
        for stem in _stems(word, suffix):
            if _takes(KINDS.get(stem, ""), letters) or (
                suffix == "ly" and stem.endswith(("ed", "ing")) and known(stem)
            ):
                return True
    return len(word) > 5 and any(word.startswith(prefix) and known(word[len(prefix) :]) for prefix in PREFIXES)


@lru_cache(maxsize=16384)
def known(word: str) -> bool:
    """Whether a lower-case word is listed, is formed from a listed one, or is too long to tell."""
    if len(word) > LONGEST_JUDGED or word in KINDS or inflected(word) or _derived(word):
        return True
    parts = bases(word) - {word}  # buildings, dwellers, unties
    return word.endswith("s") and any(inflected(part) or _derived(part) for part in parts)
