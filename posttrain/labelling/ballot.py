"""A vote in progress: which pair is next, what was said, and the way back. Terminal and page share it.

The voter sees A and B, which are places; the file gets a and b, which are steps.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.labelling.label_file import LabelFile, label_row
from posttrain.labelling.pairs import Pair, Steps, a_first, shuffled

Choice = Literal["a", "b", "tie"]
CHOICES: tuple[Choice, ...] = ("a", "b", "tie")


class Shown(NamedTuple):
    """All that a voter may know of a pair."""

    id: str
    prompt: str
    first: str
    second: str


class Done(NamedTuple):
    """A pair that was dealt with; one without a vote was skipped."""

    pair: Pair
    voted: bool


class Ballot:
    """The pairs of two steps and the file of votes on them."""

    def __init__(self, pairs: Sequence[Pair], steps: Steps, file: LabelFile, seed: int) -> None:
        self.steps, self.file, self.seed = steps, file, seed
        by_id = {pair.id: pair for pair in pairs}
        _check(file, by_id, steps)
        voted = {row["id"] for row in file.rows}
        self.waiting = [pair for pair in shuffled(pairs, seed) if pair.id not in voted]
        self.done = [Done(by_id[row["id"]], True) for row in file.rows]
        self.total = len(pairs)

    @property
    def voted(self) -> int:
        """How many pairs have a vote, those of earlier sessions included."""
        return len(self.file.rows)

    @property
    def skipped(self) -> int:
        """How many were skipped in this session; the next one asks again."""
        return len(self.done) - self.voted

    @property
    def shown(self) -> Shown | None:
        """The pair to vote on; None when all are done."""
        if not self.waiting:
            return None
        pair = self.waiting[0]
        texts = (pair.a, pair.b) if a_first(pair, self.seed) else (pair.b, pair.a)
        return Shown(pair.id, pair.prompt, *texts)

    def vote(self, choice: Choice) -> None:
        """A vote on the pair that is shown, by place; it is on the disk when this returns."""
        pair = self.waiting[0]
        first = a_first(pair, self.seed)
        winner = choice if choice == "tie" or first else {"a": "b", "b": "a"}[choice]
        self.file.append(label_row(pair, winner, self.steps, first))
        self.done.append(Done(self.waiting.pop(0), True))

    def skip(self) -> None:
        """No vote on this pair in this session."""
        self.done.append(Done(self.waiting.pop(0), False))

    def undo(self) -> bool:
        """Back to the pair before, without its vote; False at the beginning."""
        if not self.done:
            return False
        if self.done[-1].voted:
            self.file.take_back()
        self.waiting.insert(0, self.done.pop().pair)
        return True


def _check(file: LabelFile, by_id: dict[str, Pair], steps: Steps) -> None:
    """The votes in the file must be on these very pairs, each on one."""
    for row in file.rows:
        pair = by_id.get(row["id"])
        texts = (row["prompt"], row["a"], row["b"])
        if pair is None or (pair.prompt, pair.a, pair.b) != texts or row["steps"] != steps._asdict():
            raise PosttrainError(
                f"{file.path}: holds a vote on other completions ('{row['id']}'); votes on this run's '{steps.a}' "
                f"against '{steps.b}' are allowed. Move the file away and keep it, or name another with --out FILE."
            )
    if len({row["id"] for row in file.rows}) < len(file.rows):
        raise PosttrainError(f"{file.path}: two votes on one pair; one is allowed. Delete one of the lines.")
