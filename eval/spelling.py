"""Is a word an English word? Weak story models write "chaches" and "shrugge", and that can be seen without
a model.

The list is the common part of SCOWL reduced to base forms, so inflections and the usual derivations are
undone before the look-up. Long words are not judged: they are the ones a small list lacks.
"""

from functools import lru_cache

from eval.lexicons import rows
from eval.words import bases

LONGEST_JUDGED = 9
SUFFIXES = ("ly", "ness", "less", "ful", "er", "or", "y", "able", "ally", "ment")
PREFIXES = ("un", "re")
LISTED = frozenset(word for name in ("common.txt", "story_words.txt") for row in rows(name) for word in row)


def _stems(word: str) -> set[str]:
    """What the word may be derived from: careful from care, easily from easy, slippery from slip."""
    found: set[str] = set()
    for suffix in SUFFIXES:
        stem = word.removesuffix(suffix)
        if stem != word and len(stem) > 2:
            found |= {stem, stem + "e"}
            found |= {stem[:-1] + "y"} if stem[-1] == "i" else set()
            found |= {stem[:-1]} if stem[-1] == stem[-2] else set()
    found |= {word[len(prefix) :] for prefix in PREFIXES if word.startswith(prefix) and len(word) > 5}
    return found


def _listed(word: str, depth: int, listed: frozenset[str] | set[str]) -> bool:
    forms = bases(word)
    if not listed.isdisjoint(forms):
        return True
    return depth > 0 and any(_listed(stem, depth - 1, listed) for form in forms for stem in _stems(form))


@lru_cache(maxsize=16384)
def known(word: str) -> bool:
    """Whether a lower-case word is listed, is formed from a listed one, or is too long to tell."""
    return len(word) > LONGEST_JUDGED or _listed(word, 2, LISTED)
