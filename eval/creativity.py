"""Is the story its own? Variety inside the text, novelty against the training rows and the answers to other prompts.

What stands word for word in the training rows is not its own. And a model that tells one story whatever it is asked
has collapsed, which only a look at its other answers shows: each run of four words is charged with the share of the
*other prompts* whose answers have it too. Variety is measured in windows of fixed size, which keeps it from being
length in disguise.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from eval.loops import loop_share, ngrams
from eval.novelty import RUN as COPIED_RUN
from eval.novelty import Training
from eval.prose import FUNCTION, Story
from eval.spelling import known
from eval.verdict import Verdict, graded, ramp

WINDOW = 50
RUN = 4
SHOWN = 8  # words of a copied run that the reason shows
RARE = 0.05  # a word is rare when under one in twenty of the other prompts' answers have it

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """Which prompts' answers have each word and each run of four words, over a whole batch."""

    answers: Mapping[str, Collection[Gram]]  # prompt id to the grams of its answers
    counts: Mapping[Gram, int]

    def frequencies(self, grams: Collection[Gram], prompt: str) -> list[float]:
        """For each gram the share of the prompts other than this one whose answers have it."""
        own = self.answers.get(prompt)
        others = max(1, len(self.answers) - (own is not None))
        return [(self.counts.get(gram, 0) - (own is not None and gram in own)) / others for gram in grams]


class Known(NamedTuple):
    """What a story is compared with: the other prompts' answers and the training rows, where there are any."""

    prompt: str  # the id of the prompt it answers
    shared: Shared
    training: Training | None


def grams(story: Story) -> set[Gram]:
    """The runs of four words and the single words of a story."""
    return set(ngrams(story.words, RUN)) | {(word,) for word in story.words}


def share(answers: Mapping[str, Collection[Gram]]) -> Shared:
    """Count in how many prompts each gram occurs; one collection of grams (without repeats) a prompt."""
    counts: dict[Gram, int] = {}
    for answer in answers.values():
        for gram in answer:
            counts[gram] = counts.get(gram, 0) + 1
    return Shared(answers, counts)


def _spread(runs: list[Gram]) -> float:
    """Mean share of different runs in windows of 50."""
    if not runs:
        return 0.0
    starts = range(0, max(1, len(runs) - WINDOW + 1), WINDOW // 2)
    windows = [runs[start : start + WINDOW] for start in starts]
    return sum(len(set(window)) / len(window) for window in windows) / len(windows)


def _novelty(story: Story, prompt: str, shared: Shared) -> tuple[float, float]:
    """Mean share of other prompts per run of four words, and the share of rare words among content words."""
    runs = shared.frequencies(set(ngrams(story.words, RUN)), prompt)
    content = sorted({word for word in story.words if word not in FUNCTION})
    told = shared.frequencies([(word,) for word in content], prompt)
    rare = sum(frequency < RARE and known(word) for word, frequency in zip(content, told, strict=True))
    return sum(runs) / max(1, len(runs)), rare / max(1, len(content))


def creativity(story: Story, read: Known) -> Verdict:
    """Variety within the story, novelty against the answers to other prompts and against the training rows."""
    words, pairs, triples = (_spread(ngrams(story.words, size)) for size in (1, 2, 3))
    inside = 0.5 * ramp(words, 0.40, 0.85) + 0.25 * ramp(pairs, 0.6, 1.0) + 0.25 * ramp(triples, 0.7, 1.0)
    inside *= min(1.0, len(story.words) / WINDOW)
    inside *= 1 - min(0.9, 2 * max(0.0, loop_share(story) - 0.03))
    evidence = [
        f"{words:.0%} different words in {WINDOW}",
        f"distinct-2 {pairs:.0%}, distinct-3 {triples:.0%}",
    ]
    new, told = _new(story, read.training)
    if not read.shared.answers.keys() - {read.prompt}:
        return graded(inside * new, [*evidence, "no other answers to compare with", *told])
    copied, rare = _novelty(story, read.prompt, read.shared)
    own = (1 - ramp(copied, 0.02, 0.5)) * (0.5 + 0.5 * ramp(rare, 0.0, 0.5))
    evidence += [f"{copied:.1%} shared with other prompts", f"{rare:.0%} rare words"]
    return graded(inside**0.5 * own**0.5 * new, evidence + told)


def _new(story: Story, training: Training | None) -> tuple[float, list[str]]:
    """What copying from the training rows leaves, in [0, 1], and the evidence."""
    if training is None:
        return 1.0, []
    found = training.lookup(story.words)
    run = " ".join(story.words[found.start : found.start + min(found.longest, SHOWN)])
    dots = "..." if found.longest > SHOWN else ""
    told = f"'{run}{dots}' {found.longest} words as in the training rows"
    left = (1 - ramp(found.longest / len(story.words), 0.1, 1.0)) * (1 - 0.5 * ramp(found.share, 0.9, 1.0))
    return left, [told, f"{found.share:.0%} in runs of {COPIED_RUN} such words and more"]
