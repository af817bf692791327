"""Is a required word in a text, in any of its inflected forms?

A prompt asks for "run" and a good story says "ran". Matching whole words by their inflections, rather than
by substring, accepts that and still refuses "monkey" for "key". Forms are generated from the asked word by
the spelling rules of English and a table of irregular words, so nothing is guessed about the text's own
words.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from eval.lexicons import rows, word_class

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
VOWELS = "aeiou"
# Words that end like an inflected form and are none: the evening is no form of "even".
WHOLE = word_class("whole")
PLURALS = word_class("irregular_nouns")


def _irregular_table() -> dict[str, frozenset[str]]:
    """Base form to irregular forms; the two meanings of one spelling ("leaves") share what they have."""
    table: dict[str, frozenset[str]] = {}
    for base, *forms in rows("irregular.txt"):
        table[base] = table.get(base, frozenset()) | frozenset(forms)
    return table


IRREGULAR = _irregular_table()
BASE_OF: dict[str, frozenset[str]] = {}
for _base, _forms in IRREGULAR.items():
    for _form in _forms:
        BASE_OF[_form] = BASE_OF.get(_form, frozenset()) | {_base}
GRADABLE = frozenset(word for row in rows("adjectives.txt") for word in row)


def _doubles(word: str) -> bool:
    """Whether the last consonant doubles before a vowel: stop -> stopped, squat; "visit" and "play" keep one."""
    word = word.replace("qu", "qw")
    if len(word) < 3 or word[-1] in VOWELS + "wxy" or word[-2] not in VOWELS or word[-3] in VOWELS:
        return False
    return sum(letter in VOWELS for letter in word) == 1


def _before_vowel(word: str) -> list[str]:
    """Spellings of the stem before -ed, -ing, -er and -est; two where English allows both (travel)."""
    if word.endswith("e") and not word.endswith(("ee", "oe", "ye")):
        return [word[:-1]]
    if _doubles(word):
        return [word + word[-1]]
    if len(word) > 4 and word[-1] in "lpmtrn" and word[-2] in VOWELS and word[-3] not in VOWELS:
        return [word, word + word[-1]]
    return [word]


def _plural(word: str) -> str:
    """The -s form, of a noun or a verb."""
    if word.endswith(("s", "x", "z", "ch", "sh")) or (word.endswith("o") and word[-2:-1] not in VOWELS):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in VOWELS:
        return word[:-1] + "ies"
    return word + "s"


@lru_cache(maxsize=16384)
def forms(word: str) -> frozenset[str]:
    """Every inflected form of a base word, itself included, in lower case."""
    word = word.lower()
    found = {word, _plural(word)} | IRREGULAR.get(word, frozenset())
    if word.endswith("o"):
        found.add(word + "s")
    stems = _before_vowel(word)
    found |= {stem + "ing" for stem in ([word[:-2] + "y"] if word.endswith("ie") else stems)}
    soft = [word[:-1] + "i"] if word.endswith("y") and word[-2:-1] not in VOWELS else stems
    if word in PLURALS or all(form.endswith("ing") for form in IRREGULAR.get(word, ())):
        found |= {stem + "ed" for stem in soft} | ({word + "d"} if word.endswith("e") else set())
    if word in GRADABLE:
        found |= {stem + end for stem in soft for end in ("er", "est")}
    return frozenset(found - (WHOLE - {word} - IRREGULAR.get(word, frozenset())))


@lru_cache(maxsize=16384)
def bases(word: str) -> frozenset[str]:
    """Base words this one may be a form of, itself included: "ran" gives run, "hoping" hope but never hop."""
    word = word.lower()
    if word in IRREGULAR or word in WHOLE:
        return frozenset({word}) | BASE_OF.get(word, frozenset())
    guesses = {word}
    for ending in ("s", "es", "d", "ed", "ing", "er", "est"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 1 and any(letter in VOWELS + "y" for letter in stem):
            guesses |= {stem, stem + "e"}
            guesses |= {stem[:-1]} if stem[-1] == stem[-2] else set()
            guesses |= {stem[:-1] + "y"} if stem[-1] == "i" else set()
    if word.endswith("ying"):
        guesses.add(word[:-4] + "ie")
    kept = {guess for guess in guesses if len(guess) > 2 and word in forms(guess)}
    return frozenset(kept) | BASE_OF.get(word, frozenset()) | {word}


@lru_cache(maxsize=16384)
def accepted(word: str) -> frozenset[str]:
    """All the forms that count as using `word`, whichever of its forms was asked for."""
    return frozenset().union(*(forms(base) for base in bases(word)))


@lru_cache(maxsize=256)
def tokens(text: str) -> frozenset[str]:
    """The lower-case words of a text, possessives and parts of hyphenated words included."""
    found: set[str] = set()
    for match in WORD.finditer(text.lower().replace("’", "'")):
        word = match.group()
        found |= {word, word.removesuffix("'s")}
        if "-" in word:
            found |= set(word.split("-"))
    return frozenset(found)


def uses(text: str, word: str) -> bool:
    """Whether the text has `word` in any inflected form, as a whole word; a phrase in its order."""
    parts = [part.replace("’", "'") for part in WORD.findall(word.lower())]
    if not parts:
        return False
    if len(parts) == 1:
        return not accepted(parts[0]).isdisjoint(tokens(text))
    said = [token.replace("’", "'") for token in WORD.findall(text.lower())]
    wanted = [accepted(part) for part in parts]
    return any(
        all(token in want for token, want in zip(said[i:], wanted, strict=False))
        for i in range(len(said) - len(parts) + 1)
    )


def missing(text: str, words: Sequence[str]) -> list[str]:
    """The words of the list that the text does not use, in their order."""
    return [word for word in words if not uses(text, word)]


def share_used(text: str, words: Sequence[str]) -> float:
    """The share of the list that the text uses, in [0, 1]; an empty list asks for nothing and is all used."""
    return 1.0 - len(missing(text, words)) / len(words) if words else 1.0
