"""How many stories the rule judge judges in a second on one core, and what its reference model is worth.

A row is one story on all five axes, parsing included. The variants take turns over the same rows in one process, so a
busy machine slows them alike: trust the ratios. Time is processor time. Building is what a judge step does once.

    python -m bench.judge [--rows 600] [--repeats 5]
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bench.orderings import REAL, Gold, damaged, order_auc, real_gold, world_gold
from eval import consistency, grammar, plot
from eval.prose import Story
from eval.reference import reference
from eval.story_rules import rule_judge
from eval.verdict import Judge

WORTH = (
    ("sentences shuffled", "consistency"),
    ("cut after a sentence", "plot"),
    ("neighbours swapped", "grammar"),
    ("wrong forms", "grammar"),
)


@contextmanager
def without_reference() -> Iterator[None]:
    """The checks alone: no class is surprising and no sentence leans to a place."""
    kept = grammar.surprises, consistency.lean, plot.lean

    def nothing(story: Story) -> list[float]:
        return [0.0]

    grammar.surprises, consistency.lean, plot.lean = nothing, lambda found, odds: 0.0, lambda found, odds: 0.0
    try:
        yield
    finally:
        grammar.surprises, consistency.lean, plot.lean = kept


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def memory() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rates(gold: Gold, judges: dict[str, Judge], repeats: int) -> dict[str, list[float]]:
    """Rows a second of each variant, a figure a repeat."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, judge in judges.items():
            found.setdefault(name, []).append(len(gold.rows) / seconds(lambda judge=judge: judge(gold.rows)))
    return found


def checks_alone(judge: Judge) -> Judge:
    """The judge with its reference taken away."""

    def judged(rows: Sequence[dict[str, object]]) -> object:
        with without_reference():
            return judge(rows)

    return judged


def main() -> None:
    """Print rows a second, ratios, and what building costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    before = memory()
    print(f"reading the reference: {seconds(reference):.2f} s, {memory() - before:.0f} MB")
    gold = real_gold("held-out", arguments.rows) if REAL.is_file() else world_gold(arguments.rows)
    words = sum(len(text.split()) for text in gold.training)
    print(f"{len(gold.rows)} rows; {len(gold.training)} training rows of {words:,} words")
    before = memory()
    took = seconds(lambda: rule_judge(gold.prompts, gold.rows, gold.training))
    print(
        f"fitting on the rows and the training rows: {took:.2f} s, {memory() - before:.0f} MB; peak {memory():.0f} MB"
    )
    plain, full = rule_judge(gold.prompts, gold.rows), rule_judge(gold.prompts, gold.rows, gold.training)
    judges = {"checks alone": checks_alone(plain), "and the reference": plain, "and training rows": full}
    found = rates(gold, judges, arguments.repeats)
    base = statistics.median(found["checks alone"])
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:18} {middle:5.0f} rows/s ({min(values):.0f} to {max(values):.0f}), ratio {middle / base:.2f}")
    _print_worth(gold)


def _print_worth(gold: Gold) -> None:
    """AUC of some orderings with the checks alone and with the reference."""
    full = {ordering.name: ordering for ordering in damaged(gold)}
    with without_reference():
        bare = {ordering.name: ordering for ordering in damaged(gold)}
    for name, axis in WORTH:
        told = [f"{order_auc(found[name], each):.3f}" for each in (axis, "mean") for found in (bare, full)]
        print(f"{name} on {axis}: checks alone {told[0]}, with reference {told[1]}; on the mean {told[2]}, {told[3]}")


if __name__ == "__main__":
    main()
