"""Pairs from scored answers: of one prompt's answers the best against the worst, or each with a label (KTO).

A pair teaches only what tells its two sides apart. So sides with about the same score, with about the same words or, on
request, of very different lengths make none; and what made none is named, to be counted.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations
from statistics import median
from typing import NamedTuple, TypeVar

from data_gen.dedup import jaccard, shingles

T = TypeVar("T")
Beats = Callable[[int, int], bool]  # of two answers' places: did the first win when the two were compared?

FEW = "with fewer than two answers"
UNSCORED = "with fewer than two scores"
UNENDED = "without a whole answer"  # none that ends by itself, or no other beside it
TIE = "ties"
NEAR = "near-duplicates"
LENGTHS = "of unlike lengths"
NO_SCORE, CUT = "unscored", "cut"  # of a single answer
REASONS = (FEW, UNSCORED, UNENDED, TIE, NEAR, LENGTHS)  # why a prompt makes no pair, in the order they are looked for
LABEL_REASONS = (NO_SCORE, CUT, TIE, NEAR)  # why an answer has no label


class Candidate(NamedTuple):
    """One answer to a prompt. Unscored is None, never zero; `stopped` says that it ended by itself.

    `start` is how many characters all answers to the prompt begin with, by their making.
    """

    text: str
    score: float | None
    stopped: bool = True
    start: int = 0

    @property
    def own(self) -> str:
        """The text after the shared start."""
        return self.text[self.start :]


class Rules(NamedTuple):
    """What a pair must be. `margin` is in points of the scores; 0 asks for any difference.

    `near_duplicates` is the Jaccard similarity of word 5-grams from which two answers count as the same one.
    `length_ratio` is the most that the longer side's words may be of the shorter one's; None: any. `reject_cut` lets an
    answer that was cut be rejected; it is never chosen.
    """

    margin: float = 0.0
    near_duplicates: float = 0.8
    length_ratio: float | None = None
    reject_cut: bool = False


class Pair(NamedTuple):
    """The places of the two sides among a prompt's answers."""

    chosen: int
    rejected: int


class Label(NamedTuple):
    """An answer's place, and whether it is one that is wanted."""

    place: int
    desirable: bool


def words(text: str) -> int:
    """Length in words."""
    return len(text.split())


def near(one: str, other: str, threshold: float) -> bool:
    """Whether two texts say about the same; two without words do."""
    return jaccard(shingles(one), shingles(other)) >= threshold


def lengths_match(one: str, other: str, ratio: float) -> bool:
    """Whether the longer of two texts has at most `ratio` times the words of the shorter one."""
    short, long = sorted((words(one), words(other)))
    return long <= ratio * short


def best_against_worst(answers: Sequence[Candidate], rules: Rules, beats: Beats | None = None) -> Pair | str:
    """Of all pairs that may stand the one whose scores differ most, or the first of REASONS that leaves none.

    Of pairs that differ equally it is the one whose lengths are nearest, then the earliest. With `beats` the chosen
    side must also have won against the rejected one itself.
    """
    if len(answers) < 2:
        return FEW
    scored = [place for place, answer in enumerate(answers) if answer.score is not None]
    if len(scored) < 2:
        return UNSCORED
    pairs = [
        Pair(one, other)
        for one, other in permutations(scored, 2)
        if answers[one].stopped and (answers[other].stopped or rules.reject_cut)
    ]
    if not pairs:
        return UNENDED
    for reason, stands in _tests(answers, rules, beats):
        pairs = [pair for pair in pairs if stands(pair)]
        if not pairs:
            return reason
    return max(pairs, key=lambda pair: (_difference(answers, pair), -_gap(answers, pair), -pair.chosen, -pair.rejected))


def _tests(
    answers: Sequence[Candidate], rules: Rules, beats: Beats | None
) -> Iterator[tuple[str, Callable[[Pair], bool]]]:
    def differs(pair: Pair) -> bool:
        difference = _difference(answers, pair)
        return difference > 0 and difference >= rules.margin and (beats is None or beats(*pair))

    same = {
        pair
        for pair in combinations(range(len(answers)), 2)
        if near(answers[pair[0]].own, answers[pair[1]].own, rules.near_duplicates)
    }
    yield TIE, differs
    yield NEAR, lambda pair: (min(pair), max(pair)) not in same
    ratio = rules.length_ratio
    if ratio is not None:
        yield LENGTHS, lambda pair: lengths_match(answers[pair.chosen].text, answers[pair.rejected].text, ratio)


def _difference(answers: Sequence[Candidate], pair: Pair) -> float:
    better, worse = answers[pair.chosen].score, answers[pair.rejected].score
    assert better is not None and worse is not None  # unscored answers are in no pair
    return better - worse


def _gap(answers: Sequence[Candidate], pair: Pair) -> int:
    return abs(words(answers[pair.chosen].text) - words(answers[pair.rejected].text))


def middle(prompts: Sequence[Sequence[Candidate]]) -> float | None:
    """The median of all scores, where labels part by default: as many answers wanted as not. None without a score."""
    found = [answer.score for answers in prompts for answer in answers if answer.score is not None]
    return median(found) if found else None


def labelled(answers: Sequence[Candidate], rules: Rules, threshold: float) -> list[Label | str]:
    """For each answer of a prompt a label, or the first of LABEL_REASONS why it has none.

    At `threshold` and above an answer is desirable, below it is not; half of `margin` to either side is a tie. What
    nearly equals an earlier answer with a label has none, nor has a cut one that would be desirable.
    """
    found: list[Label | str] = []
    for place, answer in enumerate(answers):
        kept = [answers[label.place].own for label in found if isinstance(label, Label)]
        found.append(_label(place, answer, kept, rules, threshold))
    return found


def _label(place: int, answer: Candidate, kept: Sequence[str], rules: Rules, threshold: float) -> Label | str:
    if answer.score is None:
        return NO_SCORE
    desirable = answer.score >= threshold
    if not answer.stopped and (desirable or not rules.reject_cut):
        return CUT
    if abs(answer.score - threshold) < rules.margin / 2:
        return TIE
    if any(near(answer.own, other, rules.near_duplicates) for other in kept):
        return NEAR
    return Label(place, desirable)


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items at equal distances, from all over: files are rarely in random order. All, where fewer."""
    if len(items) <= count:
        return list(items)
    return [items[at * len(items) // count] for at in range(count)]
