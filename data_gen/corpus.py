"""Plain documents for pretraining, told from the story world: stories, tagged stories and tagged sentences.

Tags stand in brackets before the text, `[ calm | key | dialogue ]`, a form that is no chat prompt: the model meets
the skill of using given words, and instruction tuning has the protocol to teach. Document i depends on (seed, i).
"""

import random
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256

from data_gen.instructions import first_sentence
from data_gen.story import Story, stable_random, tell

FORMS = ("story", "tagged", "sentence")
SENTENCES = re.compile(r'[^.!?]+[.!?]"?')
WORDS = re.compile(r"\b[a-z]{4,}\b")
PLAIN = frozenset(
    """
    about again all always away because before called could every from have into just like lived more named never
    next once only other over said same some that their them then there they this very wanted was were what when
    with would your
    """.split()
)


def documents(seed: int, count: int, mixture: Mapping[str, float]) -> Iterator[str]:
    """`count` documents; `mixture` gives the weight of each form."""
    forms, weights = list(mixture), list(mixture.values())
    for index in range(count):
        rng = stable_random("document", seed, index)
        form = rng.choices(forms, weights)[0]
        story = tell(seed, index)
        if form == "story":
            yield story.text
        elif form == "tagged":
            yield tagged_story(story, rng)
        else:
            yield tagged_sentences(story, rng)


def held_out(document: str, share: float) -> bool:
    """Whether a document belongs to the hold-out: about `share` of all, decided by the text alone."""
    return int.from_bytes(sha256(document.encode()).digest()[:8], "big") < share * 2**64


def tags(words: list[str]) -> str:
    """`[ a | b | c ]`; a space before each word, so that it is the same token here as in the story."""
    return f"[ {' | '.join(words)} ]"


def tagged_story(story: Story, rng: random.Random) -> str:
    """A story under its words, in any order, with some of its features, sometimes its hero or first sentence."""
    words = rng.sample(story.words, k=rng.choice((1, 2, 3, 3, 3, 3)))
    shown = [feature for feature in story.features if rng.random() < 0.6]
    hero = [story.characters[0]] if rng.random() < 0.3 else []
    first = [f'"{first_sentence(story.text)}"'] if rng.random() < 0.2 else []
    chosen = words + shown + hero + first
    rng.shuffle(chosen)
    return f"{tags(chosen)}\n\n{story.text}"


def tagged_sentences(story: Story, rng: random.Random) -> str:
    """Six single sentences of a story, each under one to three of its own content words."""
    sentences = [part.strip() for part in SENTENCES.findall(story.text) if len(part.split()) > 4]
    lines = []
    for sentence in rng.sample(sentences, k=min(6, len(sentences))):
        known = sorted(set(WORDS.findall(sentence)) - PLAIN)
        if known:
            words = rng.sample(known, k=min(len(known), rng.choice((1, 2, 3))))
            lines.append(f"{tags(words)} {sentence}")
    return "\n".join(lines)
