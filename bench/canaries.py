"""How well the rule judge tells gold from canaries, and how often a run would call a good or a blind judge invalid.

For each source of gold stories: the share of prompts on which gold is above each kind of bad answer, and the
chance that a run, with as many prompts as `eval.canaries` draws, calls the judge invalid by bad luck. Last: the
chance that a judge which tosses a coin passes one kind, and all of them.

    python bench/canaries.py
"""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil, comb
from pathlib import Path
from typing import Any

from data_gen.backtranslate import backtranslate_rows
from data_gen.canary_prompts import prompt_rows as handwritten_rows
from data_gen.instructions import instruction_rows
from data_gen.prompts import prompt_rows
from eval.canaries import PROMPTS, SHARE, Check, checks, judge_blind, make
from eval.story_rules import rule_judge

REAL = Path(__file__).parents[2] / "shared" / "data" / "tinystories" / "train.jsonl"
GOLDS, TRAINED = 400, 4_000
Source = tuple[list[dict[str, Any]], list[str]]  # prompts with references, training answers


def told() -> Source:
    """Prompts of the story world, and training rows of it."""
    return prompt_rows(99, GOLDS), [row["messages"][-1]["content"] for row in instruction_rows(7, 0, TRAINED)]


def handwritten() -> Source:
    """The built-in stories, against training rows of the story world."""
    return handwritten_rows(), told()[1]


def real() -> Source:
    """Real stories as references and as training rows; none where they do not lie beside the project."""
    if not REAL.is_file():
        return [], []
    rows, _ = backtranslate_rows([json.loads(line)["text"] for line in REAL.read_text().splitlines()], 1)
    random.Random(0).shuffle(rows)
    prompts = [
        {**row, "prompt": row["messages"][0]["content"], "reference": row["messages"][1]["content"]}
        for row in rows[:GOLDS]
    ]
    return prompts, [row["messages"][1]["content"] for row in rows[GOLDS:]]


SOURCES: Mapping[str, Callable[[], Source]] = {"story world": told, "hand-written": handwritten, "real": real}


def at_least(needed: int, share: float) -> float:
    """The chance of `needed` wins and more in as many prompts as a run asks, each won with chance `share`."""
    return sum(comb(PROMPTS, k) * share**k * (1 - share) ** (PROMPTS - k) for k in range(needed, PROMPTS + 1))


def found(prompts: Sequence[dict[str, Any]], training: Sequence[str]) -> list[Check]:
    """The checks over all the prompts, with every answer that of another prompt."""
    turned = [*prompts[1:], *prompts[:1]]
    answers = [
        {"id": row["id"], "text": other["reference"], "stopped": True}
        for row, other in zip(prompts, turned, strict=True)
    ]
    canaries = make(prompts, 0)
    by_id = {row["id"]: row for row in prompts}
    blind = judge_blind(rule_judge, by_id, answers, training, prompts, canaries, seed=0)
    return checks(canaries, blind.canaries)


def main() -> None:
    """Print the figures of each source."""
    needed = ceil(SHARE * PROMPTS)
    for name, source in SOURCES.items():
        prompts, training = source()
        if not prompts:
            print(f"{name}: not here")
            continue
        started = time.perf_counter()
        made = found(prompts, training)
        seconds = time.perf_counter() - started
        print(f"{name}: {len(prompts)} prompts, {len(training)} training rows, {seconds:.1f} s")
        failing = 1.0
        for check in made:
            share = check.passed / check.asked
            failing *= 1.0 if check.needed == check.asked else at_least(needed, share)
            print(f"  {check.name:26}{share:7.1%}")
        print(f"  a run of {PROMPTS} prompts calls this judge invalid with chance {1 - failing:.1e}")
    coin = at_least(needed, 0.5)
    print(f"a judge that tosses a coin passes one kind with chance {coin:.1e}, all five with {coin**5:.1e}")


if __name__ == "__main__":
    main()
