"""The grammatical class of every word: about forty classes, so that a small text shows how they follow each other.

Words that carry grammar have classes of their own (lexicon/tags.txt); any other word gets one from its kind and its
ending, and where it has several kinds ("smile", "light") the word before it decides. Names and unknown words have
a class each: prose is not judged for what it is about.
"""

from collections.abc import Iterable
from functools import lru_cache

from eval.lexicons import rows, word_class
from eval.prose import FUNCTION, KIN, Story
from eval.spelling import KINDS
from eval.words import BASE_OF, PLURALS, bases

CLOSED = {word: row[0] for row in rows("tags.txt") for word in row[1:]}
NAMES = (word_class("male") | word_class("female")) - KINDS.keys() - KIN
MARKS = frozenset('.,!?":;-')
NAME, UNKNOWN, GENITIVE = "NAME", "UNKNOWN", "'S"
BASE_TAGS = {"n": "N", "v": "V", "a": "A", "r": "R"}
# What is meant by a word of several kinds, by the class before it: the first that it can be.
BEFORE_NOUN = frozenset(["AN", "THE", "THIS", "HIS", "HER", "EACH", GENITIVE, "A"])
BEFORE_VERB = frozenset(["TO", "CAN", "DID", "I", "YOU", "THEY"])
BEFORE_PAST = frozenset(["HE", "IT", "HAD", "N", "NS", NAME, "WHO", "ONE"])
BEFORE_ADJECTIVE = frozenset(["WAS", "WERE", "BE", "VERY", "SO"])
WANTED = (
    (BEFORE_NOUN, ("N", "NS", "A", "VG", "VD")),
    (BEFORE_VERB, ("V", "VD")),
    (BEFORE_PAST, ("VD", "VZ", "N")),
    (BEFORE_ADJECTIVE, ("A", "VG", "VD", "R", "N")),
)


def _form(word: str, base: str, kind: str) -> str | None:
    """The class of one form of a base word of one kind, or None where the kind has no such form."""
    if word == base:
        return BASE_TAGS[kind]
    if word.endswith("ing"):
        return "VG" if kind == "v" else None
    if word.endswith("s") and not word.endswith("ss") and base not in BASE_OF.get(word, ()):
        return {"n": "NS", "v": "VZ"}.get(kind)
    if kind == "n":
        return "NS" if base in PLURALS else None
    return "VD" if kind == "v" else "A" if word.endswith(("er", "est")) or word in BASE_OF else None


@lru_cache(maxsize=16384)
def classes(word: str) -> tuple[str, ...]:
    """The classes a lower-case word may have, the likeliest first; UNKNOWN alone when it is in no list."""
    if word in CLOSED:
        return (CLOSED[word],)
    if "-" in word:
        return classes(word.rsplit("-", 1)[1])
    found: list[str] = []
    for base in sorted(bases(word), key=lambda base: (base != word, base)):
        main, _, rare = KINDS.get(base, "").partition("+")
        for kind in (main + rare if base != word else main).replace("x", ""):
            tag = _form(word, base, kind)
            if tag and tag not in found:
                found.append(tag)
            if tag == "V" and base == word and base in BASE_OF.get(base, ()) and "VD" not in found:
                found.append("VD")  # put, let, hit
    return tuple(found) or (("R",) if word.endswith("ly") else (UNKNOWN,))


def _meant(options: tuple[str, ...], before: str) -> str:
    if len(options) > 1:
        for place, wanted in WANTED:
            if before in place:
                return next((tag for tag in wanted if tag in options), options[0])
    return options[0]


def is_name(token: str, story: Story) -> bool:
    """Whether a token names somebody: a name of the story, a common one, or a capitalised word in no list."""
    if not token[0].isupper():
        return False
    bare = token.split("'")[0]
    low = bare.lower()
    if bare in story.names or low in NAMES:
        return True
    return len(bare) > 1 and low not in FUNCTION and low not in KIN and classes(low) == (UNKNOWN,)


def tags(tokens: Iterable[str], story: Story) -> list[str]:
    """The classes of one sentence's words and punctuation marks, a genitive 's apart."""
    found: list[str] = []
    for token in tokens:
        low, before = token.lower(), found[-1] if found else ""
        if not token[0].isalpha():
            found.append(token if token in MARKS else "#" if token.isdigit() else "...")
        elif low in CLOSED:
            found.append(CLOSED[low])
        else:
            stem, _, ending = low.partition("'")
            found.append(NAME if is_name(token, story) else _meant(classes(stem), before))
            if ending or token.endswith("'"):
                found.append(GENITIVE)
    return found
