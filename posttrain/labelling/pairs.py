"""Pairs of completions to vote on: two steps' answers to the same prompts, in an order that says nothing.

One answer a prompt comes before any second one, since prompts are what the statistics count. Which answer is shown
first is drawn anew for each pair. Equal seeds give equal orders, so that a vote can be continued.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from posttrain.chain.identity import sha256_file
from posttrain.chain.recipe import check_steps
from posttrain.chain.store import Artifact
from posttrain.errors import PosttrainError
from posttrain.report.records import Named
from posttrain.rows import Row, read_rows

ASKED = ("words", "features", "first_sentence", "hero")  # what the rule judge checks of a prompt


class Pair(NamedTuple):
    """Two completions of one prompt: a of the step in question, b of the one that it is held against."""

    id: str
    sample: int
    prompt: str
    a: str
    b: str
    asked: Row  # what the prompt asks for, where the file of prompts is still the one that was sampled

    @property
    def prompt_id(self) -> str:
        """The prompt's id in the file of prompts."""
        return self.id.rpartition("/")[0]


class Steps(NamedTuple):
    """Two sampled steps of a run."""

    a: str
    b: str


class Found(NamedTuple):
    """The pairs to vote on, and the prompt's id of each pair left out because both completions are the same text."""

    pairs: list[Pair]
    same: list[str]

    @property
    def equal(self) -> int:
        """How many pairs were left out."""
        return len(self.same)


def chosen_steps(nodes: Sequence[Named], step: str | None, against: str | None, where: str) -> Steps:
    """The steps to compare: the last sampled one against the one that its judge compared it with, unless named."""
    sampled = _sampled(nodes)
    if len(sampled) < 2:
        raise PosttrainError(
            f"{where}: completions of {', '.join(sampled) or 'no step'}; two steps that were sampled are needed. "
            "Give the recipe a 'judge:' and run it to its second model."
        )
    names = [name for name in (step, against) if name is not None]
    check_steps(dict.fromkeys(sampled), names, f"{where}: steps with completions")
    a = step or list(sampled)[-1]
    b = against or _before(nodes, a)
    if b is None or a == b:
        raise PosttrainError(
            f"{where}: '{a}' has no other step to be held against; one of {', '.join(sampled)} is needed. "
            "Name it with --against."
        )
    return Steps(a, b)


def _sampled(nodes: Sequence[Named]) -> dict[str, Artifact]:
    return {row["name"].split(".")[0]: artifact for row, artifact in nodes if row["kind"] == "samples"}


def _before(nodes: Sequence[Named], step: str) -> str | None:
    """The step that the judge compared with, else the one sampled before it."""
    by_name = {row["name"]: artifact for row, artifact in nodes}
    sampled = list(_sampled(nodes))
    judge = by_name.get(f"{step}.judge")
    previous = judge.record["inputs"].get("previous") if judge is not None else None
    if previous and (name := str(previous["reference"]).split(".")[0]) in sampled:
        return name
    earlier = sampled[: sampled.index(step)]
    return earlier[-1] if earlier else None


def find_pairs(nodes: Sequence[Named], steps: Steps, prompts: Path | None, where: str) -> Found:
    """Every prompt and sample that both steps have answered, in the order of step a's completions."""
    sampled = _sampled(nodes)
    asked = _asked(prompts, sampled[steps.a])
    rows = read_rows(sampled[steps.a].path / "completions.jsonl")
    others = {_key(row): row for row in read_rows(sampled[steps.b].path / "completions.jsonl")}
    both = [(row, others[_key(row)]) for row in rows if _key(row) in others]
    same = [(a, b) for a, b in both if a["prompt"] == b["prompt"] and None not in (a["text"], b["text"])]
    if not same:
        raise PosttrainError(
            f"{where}: '{steps.a}' and '{steps.b}' answered no prompt in common; completions of the same prompts are "
            "needed. Choose other steps with --step and --against."
        )
    pairs = [_pair(a, b, asked.get(a["id"], {})) for a, b in same if a["text"] != b["text"]]
    if not pairs:
        raise PosttrainError(
            f"{where}: '{steps.a}' and '{steps.b}' wrote the same text on all {len(same)} prompts; completions that "
            "differ are needed. Choose other steps with --step and --against."
        )
    return Found(pairs, [str(a["id"]) for a, b in same if a["text"] == b["text"]])


def _key(row: Row) -> tuple[str, int]:
    return str(row["id"]), int(row["sample"])


def _pair(a: Row, b: Row, asked: Row) -> Pair:
    return Pair(f"{a['id']}/{a['sample']}", int(a["sample"]), a["prompt"], a["text"], b["text"], asked)


def _asked(prompts: Path | None, samples: Artifact) -> dict[str, Row]:
    """What each prompt asks for; nothing where the file has changed since it was sampled."""
    if prompts is None or not prompts.is_file() or sha256_file(prompts) != samples.record["config"].get("prompts"):
        return {}
    return {row["id"]: {name: row[name] for name in ASKED if row.get(name)} for row in read_rows(prompts)}


def shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """One pair of every prompt before any second one, each round in an order drawn by the seed.

    So the prompts voted on first are a random sample of all that have a pair, also where some first samples are equal.
    """
    samples: dict[str, list[int]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.sample):
        samples.setdefault(pair.prompt_id, []).append(pair.sample)

    def place(pair: Pair) -> tuple[int, float]:
        return samples[pair.prompt_id].index(pair.sample), random.Random(f"{seed} order {pair.id}").random()

    return sorted(pairs, key=place)


def a_first(pair: Pair, seed: int) -> bool:
    """Whether step a's completion is the one shown as A."""
    return random.Random(f"{seed} place {pair.id}").random() < 0.5
