"""A file of votes held against the run whose completions were voted on: whose they are, and what was not voted on.

A few votes say how a judge errs; the pairs that nobody voted on are what its error is then taken off.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.labels import TIE, A, B, Labels, PairLabel, json_rows
from eval.ppi import FEWEST
from posttrain.errors import PosttrainError
from posttrain.labelling.pairs import Pair, Steps, chosen_steps, find_pairs
from posttrain.report.records import Named

WORTH = {A: 1.0, TIE: 0.5, B: 0.0}  # what a verdict is for step a
AWAY = "Leave --run out, or name the run that was voted on."


class Run(NamedTuple):
    """A finished run: its nodes, its recipe's file of prompts, and how errors name it."""

    nodes: Sequence[Named]
    prompts: Path | None
    where: str


class RunVotes(NamedTuple):
    """All pairs of two steps of a run that differ, what people prefer in some of them, and the others.

    `people` is the mean vote by the pair's id, 1 for step a, 0.5 a tie, 0 for step b; `same` has the prompt's id of
    each pair left out because both texts are equal.
    """

    steps: Steps
    pairs: list[Pair]
    same: list[str]
    people: dict[str, float]

    def labels(self) -> list[PairLabel]:
        """The pairs as a judge is given them: it learns nothing of the votes."""
        return [PairLabel(pair.id, pair.prompt, pair.a, pair.b, ()) for pair in self.pairs]

    def asked(self) -> dict[str, Mapping[str, Any]]:
        """What the prompts ask for, by the pair's id."""
        return {pair.id: pair.asked for pair in self.pairs}

    @property
    def prompts(self) -> set[str]:
        """Ids of all prompts that both steps answered."""
        return {*self.same, *(pair.prompt_id for pair in self.pairs)}

    @property
    def labelled(self) -> set[str]:
        """Ids of the prompts with a vote."""
        return {pair.prompt_id for pair in self.pairs if pair.id in self.people}


def run_votes(run: Run, path: Path, text: str, labels: Labels) -> RunVotes:
    """The votes of a file and the pairs of its steps in the run.

    PosttrainError where `posttrain label` did not write the file, where it is on other completions than the run's, and
    for votes on fewer than five prompts.
    """
    votes = [label for label in labels if isinstance(label, PairLabel)]
    steps = _steps(path, text)
    chosen_steps(run.nodes, steps.a, steps.b, f"{path}, held against {run.where}")
    found = find_pairs(run.nodes, steps, run.prompts, run.where)
    by_id = {pair.id: pair for pair in found.pairs}
    for vote in votes:
        pair = by_id.get(vote.id)
        if pair is None or (pair.prompt, pair.a, pair.b) != (vote.prompt, vote.a, vote.b):
            raise PosttrainError(
                f"{path}: holds a vote on other completions ('{vote.id}'); votes on those of '{steps.a}' against "
                f"'{steps.b}' in the latest run of {run.where} are allowed. {AWAY}"
            )
    people = {vote.id: sum(WORTH[cast] for cast in vote.votes) / len(vote.votes) for vote in votes}
    made = RunVotes(steps, found.pairs, found.same, people)
    if len(made.labelled) < FEWEST:
        raise PosttrainError(
            f"{path}: votes on {len(made.labelled)} prompts; at least {FEWEST} are needed to correct a judge. "
            f"Vote on more with 'posttrain label', or leave --run out."
        )
    return made


def _steps(path: Path, text: str) -> Steps:
    """The two steps that every row names."""
    named = {_named(row, where) for where, row in json_rows(text, str(path))}
    if len(named) > 1:
        shown = "; ".join(sorted(f"{one.a} against {one.b}" for one in named))
        raise PosttrainError(f"{path}: votes on several pairs of steps ({shown}); one is allowed. Split the file.")
    return named.pop()


def _named(row: Mapping[str, Any], where: str) -> Steps:
    match row:
        case {"votes": _, "steps": {"a": str(a), "b": str(b)}}:
            return Steps(a, b)
    raise PosttrainError(
        f"{where}: no vote with the 'steps' that it is on; with --run a file that 'posttrain label' wrote is needed. "
        f"{AWAY}"
    )
