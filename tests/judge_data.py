"""Labels and verdicts for tests: simulated judges of known faults, and the real data beside the project."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from eval.labels import A, B, PairLabel, read_labels
from eval.recorded import PairVerdict, Pick, pair_verdicts, read_verdicts

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "judge"


def real_text(name: str) -> str:
    """A file of real labels or verdicts; the test skips where it does not lie beside the project."""
    if not REAL.is_dir():
        pytest.skip("needs the judge data beside the project")
    return (REAL / name).read_text(encoding="utf-8")


def pandalm() -> list[PairLabel]:
    """The 999 pairs that three people labelled."""
    return [label for label in read_labels(real_text("pandalm-human.json"), "human") if isinstance(label, PairLabel)]


def recorded(labels: Sequence[PairLabel], name: str) -> list[PairVerdict]:
    """The recorded verdicts of a real judge on them."""
    found = [verdict for verdict in read_verdicts(real_text(name), name) if isinstance(verdict, PairVerdict)]
    return pair_verdicts(labels, found, name)


def pair(number: int, votes: Sequence[int], longer: int = 0, prompt: str | None = None) -> PairLabel:
    """A labelled pair whose a is `longer` characters longer than its b."""
    return PairLabel(str(number), prompt or f"p{number:03d}", "x" * (100 + longer), "x" * 100, tuple(votes))


def verdict(label: PairLabel, straight: int | None, swapped: int | None = -1) -> PairVerdict:
    """A verdict with a first, and with b first too unless that is left out."""
    return PairVerdict(label.id, Pick(straight), None if swapped == -1 else Pick(swapped))


def simulated(count: int, seed: int = 0) -> list[PairLabel]:
    """Pairs of which a or b is better by chance, and whose lengths tell nothing of that."""
    rng = np.random.default_rng(seed)
    winners, lengths = rng.integers(A, B + 1, count), rng.integers(-50, 51, count)
    return [
        pair(i, [int(winner)] * 3, int(longer)) for i, (winner, longer) in enumerate(zip(winners, lengths, strict=True))
    ]


def judged(labels: Sequence[PairLabel], says: Callable[[PairLabel], int | None]) -> list[PairVerdict]:
    """A judge that was asked once, with a first."""
    return [verdict(label, says(label)) for label in labels]
