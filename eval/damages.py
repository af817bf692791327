"""Stories damaged on purpose, which a judge worth its score must rank below the intact ones.

Each damage is a pure function of the story and a random generator; `another` and `spliced` take a batch. Tests and
`bench/orderings.py` use them.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from eval.prose import FUNCTION, parse
from eval.words import bases, forms

Damage = Callable[[str, random.Random], str]
SLIPS = 0.04  # of the words


def shuffled_sentences(text: str, rng: random.Random) -> str:
    """All the sentences in another order."""
    sentences = list(parse(text).sentences)
    rng.shuffle(sentences)
    return " ".join(sentences)


def shuffled_words(text: str, rng: random.Random) -> str:
    """All the words in another order."""
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def cut_in_a_sentence(text: str, rng: random.Random) -> str:
    """The first half or so, ending anywhere."""
    words = text.split()
    return " ".join(words[: int(len(words) * rng.uniform(0.4, 0.7))])


def cut_after_a_sentence(text: str, rng: random.Random) -> str:
    """The first half or so, ending with a whole sentence."""
    sentences = parse(text).sentences
    return " ".join(sentences[: max(2, int(len(sentences) * rng.uniform(0.4, 0.7)))])


def looped(text: str, rng: random.Random) -> str:
    """As long as the story, but one sentence of its first half is told until the end."""
    sentences = parse(text).sentences
    told = list(sentences[: rng.randrange(2, max(3, len(sentences) // 2))])
    return " ".join(told + [told[-1]] * (len(sentences) - len(told)))


def swapped_neighbours(text: str, rng: random.Random) -> str:
    """One word in 25 changes places with the next one."""
    words = text.split(" ")
    for _ in range(round(SLIPS * len(words))):
        place = rng.randrange(len(words) - 1)
        if words[place].isalpha() and words[place].islower() and words[place + 1].isalpha():
            words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


def wrong_forms(text: str, rng: random.Random) -> str:
    """One word in 25 takes another form of itself: "walks" for "walked"."""
    words = text.split(" ")
    other = {
        place: sorted(frozenset().union(*(forms(base) for base in bases(word))) - {word})
        for place, word in enumerate(words)
        if word.isalpha() and word.islower() and word not in FUNCTION
    }
    places = [place for place, found in other.items() if found]
    for place in rng.sample(places, min(len(places), round(SLIPS * len(words)))):
        words[place] = rng.choice(other[place])
    return " ".join(words)


DAMAGES: Mapping[str, Damage] = MappingProxyType(
    {
        "sentences shuffled": shuffled_sentences,
        "words shuffled": shuffled_words,
        "cut in a sentence": cut_in_a_sentence,
        "cut after a sentence": cut_after_a_sentence,
        "looped": looped,
        "neighbours swapped": swapped_neighbours,
        "wrong forms": wrong_forms,
    }
)


def spliced(texts: Sequence[str]) -> list[str]:
    """Each story's first half with the second half of the next one."""
    halves = [parse(text).sentences for text in texts]
    return [
        " ".join([*own[: len(own) // 2], *other[len(other) // 2 :]])
        for own, other in zip(halves, [*halves[1:], halves[0]], strict=True)
    ]


def another(texts: Sequence[str]) -> list[str]:
    """For each story the next one."""
    return [*texts[1:], *texts[:1]]
