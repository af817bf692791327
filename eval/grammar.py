"""Mechanical grammar: mistakes that can be seen reliably without a parser, counted per hundred words.

Each check is built to stay silent on correct prose; what it misses, it misses for every model alike. The
score falls smoothly with the weighted number of mistakes: one in a hundred words costs two points.
"""

import math
import re
from collections.abc import Iterable
from itertools import pairwise

from eval.lexicons import word_class
from eval.prose import FUNCTION, Story
from eval.reference import surprises
from eval.spelling import known
from eval.verdict import Verdict, graded
from eval.words import BASE_OF, IRREGULAR, bases

DECAY = 0.3  # one mistake of weight 1 per 100 words: 9 * (1 - exp(-0.3)) = 2.3 points
WEIGHTS = {"non-word": 1.5, "odd character": 2.0, "unfinished sentence": 0.7}
FEWEST = 20  # words; fewer show too little to be called correct
# Surprise of the reference (nats a word above ODDITY): half the real stories that it has never read lie below USUAL,
# nine in ten below 0.2; shuffled words lie at 0.8.
ODDITY, USUAL = 6.0, 0.12
YOO = re.compile(r"(?:uni(?!n)|use|usu|util|uku|eu|ewe|one|once|ut[eo])")
SILENT_H = re.compile(r"(?:hour|honest|honou?r|heir)")
STRAY = re.compile(r"\s[,.;:](?!\.)|,[,.!?;]|(?<!\.)\.\.(?!\.)|[;:][.,]|\?\.|!\.|\(\s*\)")
ODD = re.compile(r"[<>|{}\[\]\\@^_~`�\x00-\x08\x0b-\x1f]|[^\x00-\u024f\u2000-\u206f]")
MAY_DOUBLE = word_class("may_double")
ARTICLES = word_class("articles")
NO_NOUN = word_class("no_noun")
SUBJECTS = frozenset(["he", "she", "they", "we", "i"])
NO_VERB = word_class("no_verb")
PREPOSITIONS = frozenset(["of", "with", "from", "into", "at", "for"])
NO_OBJECT = word_class("no_object")
HELPERS = word_class("helpers")
NO_PAST = word_class("no_past")
AMBIGUOUS_AFTER_TO = NO_PAST | word_class("no_past_after_to")
CLAUSE_STARTS = frozenset(["", ",", "and", "but", "so", "then", "when", "because", ".", '"', "while", "until", "where"])
BARE = word_class("bare")
PAST_VERBS = word_class("past_verbs")


def _article(left: str, right: str) -> bool:
    """ "a apple", "an dog"; letters are not sounds, so u, eu, one and silent h are excepted."""
    vowel = (right[0] in "aeiou" and not YOO.match(right)) or bool(SILENT_H.match(right))
    return right[0].isalpha() and len(right) > 1 and ((left == "a" and vowel) or (left == "an" and not vowel))


def _is_past(word: str, helper: str) -> bool:
    """Whether a form is past only, so that it cannot follow "did", "could" or "to"."""
    if word in (AMBIGUOUS_AFTER_TO if helper == "to" else NO_PAST):
        return False
    if word in BASE_OF and word not in IRREGULAR:
        return (not word.endswith("s") and not word.endswith("ing") and helper != "don't") or word in (
            "was",
            "is",
            "has",
        )
    return helper != "to" and word.endswith("ed") and len(bases(word)) > 1


def _impossible(left: str, right: str) -> bool:
    """Two neighbours that no sentence has: "the and", "she the", "of went"."""
    if left in ARTICLES:
        return right in NO_NOUN
    if left in SUBJECTS:
        return right in NO_VERB
    if left in PREPOSITIONS:
        return (
            right in NO_OBJECT and not (left == "for" and right in SUBJECTS) and not (left != "of" and right in ".!?")
        )
    return (left, right) in {
        ("to", "was"),
        ("to", "were"),
        ("to", "is"),
        ("and", "."),
        ("and", "of"),
        ("but", "."),
        ("was", "said"),
        ("was", "went"),
        ("were", "said"),
        ("were", "went"),
        ("had", "was"),
        ("had", "is"),
        ("was", "had"),
    }


def _pair(left: str, right: str) -> str | None:
    """The kind of mistake two neighbouring words make, or None."""
    if left == right and left in FUNCTION and left not in MAY_DOUBLE:
        return "doubled word"
    if left in ("a", "an") and _article(left, right):
        return "a/an"
    if left in HELPERS and _is_past(right, left):
        return "past after helper"
    return "impossible pair" if _impossible(left, right) else None


def _agreement(before: str, left: str, right: str) -> bool:
    """ "she go", "they was", "him went": subject and verb that disagree, at the start of a clause only."""
    if before not in CLAUSE_STARTS:
        return False
    third = left in ("he", "she") and right in BARE | {"are", "am"}
    plural = left in ("they", "we") and right in (
        "was",
        "is",
        "has",
        "does",
        "goes",
        "wants",
        "likes",
        "says",
    )
    return third or plural or (left in ("him", "them", "me", "us") and right in PAST_VERBS)


def _sentence(tokens: tuple[str, ...]) -> Iterable[str]:
    """The mistakes among the words of one sentence."""
    low = [token.lower() for token in tokens]
    for before, (left, right) in zip(["", *low], pairwise(low), strict=False):
        if kind := _pair(left, right):
            yield kind
        if _agreement(before, left, right):
            yield "agreement"
    for before, token in pairwise(tokens):
        if token == "i" or (
            token.istitle() and before[0].isalpha() and before.islower() and token.lower() in FUNCTION - {"i"}
        ):
            yield "capital"


def _openings(story: Story) -> int:
    """Sentences that start with a small letter, other than after a trailing ellipsis."""
    starts = [next((token for token in tokens if token[0].isalpha()), "X") for tokens in story.tokens]
    before = ("", *story.sentences)
    return sum(
        start[0].islower() and not last.endswith(("...", '..."', ",", ":", "-"))
        for start, last in zip(starts, before, strict=False)
    )


def non_words(story: Story, allowed: frozenset[str]) -> list[str]:
    """Lower-case words of a story that are in no list and not allowed."""
    return [
        word
        for word in story.words_as_written
        if word.islower() and word.isalpha() and word not in allowed and not known(word)
    ]


def mistakes(story: Story) -> dict[str, int]:
    """Number of mistakes by kind, all but the non-words."""
    found: dict[str, int] = {}
    for tokens in story.tokens:
        for kind in _sentence(tokens):
            found[kind] = found.get(kind, 0) + 1
    odd_quotes = sum(line.count('"') % 2 for line in story.text.splitlines())
    counts = {
        "small letter at start": _openings(story),
        "unbalanced quotes": odd_quotes,
        "unfinished sentence": int(story.text[-1:] not in {".", "!", "?", '"', "'", ")"}),
        "stray punctuation": len(STRAY.findall(story.text)),
        "odd character": len(ODD.findall(story.text)),
    }
    return found | {kind: count for kind, count in counts.items() if count}


def oddity(story: Story) -> float:
    """By how many nats a word the classes of the words surprise the reference beyond the usual."""
    found = surprises(story)
    return sum(max(0.0, surprise - ODDITY) for surprise in found) / len(found)


def grammar(story: Story, allowed: frozenset[str] = frozenset()) -> Verdict:
    """Score by weighted mistakes per hundred words and by oddity; under 20 words it falls in proportion."""
    found, unknown = mistakes(story), non_words(story, allowed)
    found |= {"non-word": len(unknown)} if unknown else {}
    weighted = sum(WEIGHTS.get(kind, 1.0) * count for kind, count in found.items())
    rate, odd = 100 * weighted / max(FEWEST, len(story.words)), oddity(story)
    shown = min(1.0, len(story.words) / FEWEST)
    evidence = [f"{kind} x{count}" for kind, count in sorted(found.items())]
    evidence += [f"such as '{word}'" for word in unknown[:3]]
    evidence += [f"odd sequences of words ({odd:.2f} nats)"] if odd > 1.5 * USUAL else []
    return graded(shown * math.exp(-DECAY * rate - max(0.0, odd - USUAL)), evidence or ["no mistake found"])
