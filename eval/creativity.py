"""Is the story its own? Variety inside the text and novelty against the answers to other prompts.

A model that tells one story whatever it is asked has collapsed, and only a look at its other answers shows
it. So each run of four words is charged with the share of the *other prompts* whose answers have it too.
Variety is measured in windows of fixed size, which keeps it from being length in disguise.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from eval.loops import loop_share, ngrams
from eval.prose import FUNCTION, Story
from eval.verdict import Verdict, graded

WINDOW = 50
RUN = 4
RARE = 0.05  # a word is rare when under one in twenty of the other prompts' answers have it

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """In how many prompts' answers each word and each run of four words occurs, over a whole batch."""

    prompts: int
    counts: Mapping[Gram, int]

    def frequency(self, gram: Gram) -> float:
        """The share of the other prompts that have a gram which this one's answers have."""
        return max(0, self.counts.get(gram, 1) - 1) / max(1, self.prompts - 1)


def grams(story: Story) -> set[Gram]:
    """The runs of four words and the single words of a story."""
    return set(ngrams(story.words, RUN)) | {(word,) for word in story.words}


def share(answers: Collection[Collection[Gram]]) -> Shared:
    """Count in how many prompts each gram occurs; one collection of grams (without repeats) a prompt."""
    counts: dict[Gram, int] = {}
    for answer in answers:
        for gram in answer:
            counts[gram] = counts.get(gram, 0) + 1
    return Shared(len(answers), counts)


def _spread(runs: list[Gram]) -> float:
    """Mean share of different runs in windows of 50."""
    if not runs:
        return 0.0
    starts = range(0, max(1, len(runs) - WINDOW + 1), WINDOW // 2)
    windows = [runs[start : start + WINDOW] for start in starts]
    return sum(len(set(window)) / len(window) for window in windows) / len(windows)


def _scaled(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _novelty(story: Story, shared: Shared) -> tuple[float, float]:
    """Mean share of other prompts per run of four words, and the share of rare words among content words."""
    runs = set(ngrams(story.words, RUN))
    copied = sum(shared.frequency(run) for run in runs) / max(1, len(runs))
    content = {word for word in story.words if word not in FUNCTION}
    rare = sum(shared.frequency((word,)) < RARE for word in content) / max(1, len(content))
    return copied, rare


def creativity(story: Story, shared: Shared | None) -> Verdict:
    """Variety within the story and, with other prompts to compare, novelty against their answers."""
    words, pairs, triples = (_spread(ngrams(story.words, size)) for size in (1, 2, 3))
    inside = 0.5 * _scaled(words, 0.40, 0.85) + 0.25 * _scaled(pairs, 0.6, 1.0) + 0.25 * _scaled(triples, 0.7, 1.0)
    inside *= min(1.0, len(story.words) / WINDOW)
    inside *= 1 - min(0.9, 2 * max(0.0, loop_share(story) - 0.03))
    evidence = [
        f"{words:.0%} different words in {WINDOW}",
        f"distinct-2 {pairs:.0%}, distinct-3 {triples:.0%}",
    ]
    if shared is None or shared.prompts < 2:
        return graded(inside, [*evidence, "no other answers to compare with"])
    copied, rare = _novelty(story, shared)
    own = (1 - _scaled(copied, 0.02, 0.5)) * (0.5 + 0.5 * _scaled(rare, 0.0, 0.5))
    told = [f"{copied:.1%} shared with other prompts", f"{rare:.0%} rare words"]
    return graded(inside**0.5 * own**0.5, evidence + told)
