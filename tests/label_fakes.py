"""Pairs, ballots and voters for tests of voting."""

from collections.abc import Sequence
from pathlib import Path

from posttrain.labelling.ballot import Ballot
from posttrain.labelling.label_file import LabelFile
from posttrain.labelling.pairs import Pair, Steps

STEPS = Steps("sft", "base")


def pairs(count: int = 6, a: str = "new", b: str = "old") -> list[Pair]:
    """Pairs whose texts say which step they are from."""
    return [Pair(f"p{n}/0", 0, f"Prompt {n}", f"{a} {n}", f"{b} {n}", {"words": ["fox"]}) for n in range(count)]


def ballot(path: Path, made: Sequence[Pair] | None = None, seed: int = 0) -> Ballot:
    """A ballot on its file, as the command opens it."""
    return Ballot(made if made is not None else pairs(), STEPS, LabelFile(path), seed)


def prefer(held: Ballot, word: str) -> None:
    """Vote for whichever of the two texts has the word in it."""
    shown = held.shown
    assert shown is not None
    held.vote("a" if word in shown.first else "b")
