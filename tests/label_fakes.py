"""Pairs, ballots and voters for tests of voting; stories, noise and the command for tests of calibration."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.labelling.ballot import Ballot
from posttrain.labelling.label_file import LabelFile
from posttrain.labelling.pairs import Pair, Steps

TALE = (
    "Once upon a time there was a small fox named Tom. Tom lost his red ball in the woods and was very sad. "
    '"Can you help me?" he asked an owl. Suddenly the owl saw the ball under a tree. Tom was happy and thanked the '
    "owl. They played all day and were friends from then on. The end."
)
NOISE = "the the cat cat cat a apples goed goed. the the cat cat cat a apples goed goed."
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


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair_rows(count: int = 12, **more: Any) -> list[dict[str, Any]]:
    """Stories against longer noise; people take the story, which stands in either place."""
    rows = []
    for n in range(count):
        a, b = (TALE, NOISE * 9) if n % 2 else (NOISE * 9, TALE)
        rows.append({"id": str(n), "prompt": f"Tell {n}.", "a": a, "b": b, "votes": ["a" if n % 2 else "b"], **more})
    return rows


@pytest.fixture
def calibrate_cli(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `posttrain calibrate`; gives exit code, output, errors."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = 0
        try:
            main(["calibrate", *map(str, arguments)])
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def by_name(text: str) -> dict[str, Any]:
    return {row["judge"]: row for row in json.loads(text)["judges"]}
