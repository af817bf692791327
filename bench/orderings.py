"""Does the rule judge, a proxy, order what has an order? AUC by damage and axis, correlations, the part of length.

Real stories are those of ../shared, whose texts ask for what they have (`data_gen.backtranslate`); every second one
was used to write the rules and every other one is held out. Without them the story world stands in.

    python -m bench.orderings                     # the held-out half; model samples are kept in runs/story_samples
    python -m bench.orderings --stories told      # the story world
"""

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.story_samples import Row, asked, unprompted
from data_gen.backtranslate import backtranslate_rows
from data_gen.handwritten import handwritten
from data_gen.instructions import instruction_rows
from data_gen.prompts import prompt_rows
from eval.canaries import grade
from eval.damages import DAMAGES, another, shuffled_words, spliced
from eval.statistics import auc
from eval.story_rules import AXES, judge_batch, rule_judge
from eval.verdict import Verdict

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
REAL, STORIES260K = SHARED / "data" / "tinystories" / "train.jsonl", SHARED / "models" / "stories260k"
STORYTELLER = ROOT / "models" / "storyteller-1m"
HALVES = ("develop", "held-out")
COLUMNS = (*AXES, "mean")
Verdicts = dict[str, Verdict]
Group = tuple[list[Row], list[Verdicts]]


class Gold(NamedTuple):
    """Prompts by id, a story that honours each, and other stories that a model may have been trained on."""

    prompts: dict[str, dict[str, Any]]
    rows: list[Row]
    training: list[str]


class Ordering(NamedTuple):
    """Verdicts on what should be above and on what should be below; pairs stand at the same place."""

    name: str
    better: list[Verdicts]
    worse: list[Verdicts]


def real_gold(half: str, count: int) -> Gold:
    """Real stories of one half with prompts of their own; the other half is the training rows."""
    texts = [json.loads(line)["text"] for line in REAL.read_text(encoding="utf-8").splitlines()]
    rows, _ = backtranslate_rows(texts, 7)
    halves = [[row for row in rows if int(row["id"]) % 2 == number] for number in (0, 1)]
    own, other = halves[HALVES.index(half)], halves[1 - HALVES.index(half)]
    random.Random(5).shuffle(own)
    told = [{"id": row["id"], "text": row["messages"][-1]["content"], "stopped": True} for row in own[:count]]
    return Gold({row["id"]: row for row in own[:count]}, told, [row["messages"][-1]["content"] for row in other])


def world_gold(count: int, seed: int = 5, training: int = 3000) -> Gold:
    """Stories of the story world with their prompts, and as many of its instruction rows to be trained on."""
    prompts = prompt_rows(seed, count)
    told = [{"id": row["id"], "text": row["reference"], "stopped": True} for row in prompts]
    read = [row["messages"][-1]["content"] for row in instruction_rows(seed + 1, 0, training)]
    return Gold({row["id"]: row for row in prompts}, told, read)


def with_texts(rows: Sequence[Row], texts: Sequence[str]) -> list[Row]:
    """The rows with other texts."""
    return [{**row, "text": text} for row, text in zip(rows, texts, strict=True)]


def damaged(gold: Gold, seed: int = 0) -> Iterator[Ordering]:
    """Gold above each damage; one judge, fitted on the gold answers, judges them all."""
    judge, texts = rule_judge(gold.prompts, gold.rows), [row["text"] for row in gold.rows]
    better = judge(gold.rows)
    for name, damage in DAMAGES.items():
        rng = random.Random(seed)
        yield Ordering(name, better, judge(with_texts(gold.rows, [damage(text, rng) for text in texts])))
    yield Ordering("another prompt's story", better, judge(with_texts(gold.rows, another(texts))))
    yield Ordering("spliced with another", better, judge(with_texts(gold.rows, spliced(texts))))


def copied(gold: Gold, seed: int = 0) -> Ordering:
    """Stories of their own above stories copied from the training rows."""
    judge = rule_judge(gold.prompts, gold.rows, gold.training)
    found = random.Random(seed).sample(gold.training, len(gold.rows))
    return Ordering("copied from training", judge(gold.rows), judge(with_texts(gold.rows, found)))


def patched(gold: Gold, seed: int = 0) -> Ordering:
    """Stories of their own above stories put together from pieces of training rows, of 30 words each."""
    judge, rng = rule_judge(gold.prompts, gold.rows, gold.training), random.Random(seed)
    pieces = [rng.sample(gold.training, 5) for _ in gold.rows]
    texts = [" ".join(" ".join(text.split()[30 * i : 30 * i + 30]) for i, text in enumerate(five)) for five in pieces]
    return Ordering("patched from training", judge(gold.rows), judge(with_texts(gold.rows, texts)))


def freely(rows: Sequence[Row]) -> list[Verdicts]:
    """Verdicts on rows that nothing was asked of."""
    prompts = {row["id"]: {"id": row["id"]} for row in rows}
    return judge_batch(prompts, rows)


def sampled(gold: Gold, samples: Sequence[Row], name: str) -> list[Ordering]:
    """Real stories above samples, and samples above their own words shuffled; nothing is asked of any."""
    rng, below = random.Random(0), freely(samples)
    mixed = freely(with_texts(samples, [shuffled_words(row["text"], rng) for row in samples]))
    return [Ordering(name, freely(gold.rows), below), Ordering(f"{name}: words shuffled", below, mixed)]


def column(verdicts: Sequence[Verdicts], axis: str) -> list[float]:
    """The scores of an axis, or the mean of the axes; the unscored left out."""
    found = [grade(verdict) if axis == "mean" else verdict[axis].score for verdict in verdicts]
    return [score for score in found if score is not None]


def order_auc(ordering: Ordering, axis: str) -> float | None:
    """The chance that the better one scores higher; None where the axis is unscored."""
    better, worse = column(ordering.better, axis), column(ordering.worse, axis)
    return auc(better, worse) if better and worse else None


def paired_share(ordering: Ordering) -> float:
    """The share of pairs whose better one has the higher mean; ties count half."""
    pairs = list(zip(column(ordering.better, "mean"), column(ordering.worse, "mean"), strict=False))
    return sum((better > worse) + 0.5 * (better == worse) for better, worse in pairs) / len(pairs)


def ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks, ties shared."""
    array = np.asarray(values)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def correlations(groups: Sequence[Sequence[Verdicts]]) -> dict[tuple[str, str], tuple[float, float]]:
    """Pearson's and Spearman's correlation of each two axes, over the rows in which both are scored.

    Of several groups the means are taken away first: what is left is how the axes go together within a group.
    """
    found = {}
    for left, right in combinations(AXES, 2):
        pairs = [
            [(v[left].score, v[right].score) for v in group if None not in (v[left].score, v[right].score)]
            for group in groups
        ]
        centred = [np.asarray(group) - np.mean(group, axis=0) for group in pairs if group]
        one, two = np.concatenate(centred).T
        found[left, right] = (float(np.corrcoef(one, two)[0, 1]), float(np.corrcoef(ranks(one), ranks(two))[0, 1]))
    return found


def length_explains(rows: Sequence[Row], verdicts: Sequence[Verdicts]) -> float:
    """R² of the mean of the axes on a cubic in the logarithm of the number of words."""
    lengths = np.log([max(1, len(row["text"].split())) for row in rows])
    means = np.asarray(column(verdicts, "mean"))
    fit = np.polynomial.Polynomial.fit(lengths, means, 3)
    return float(1 - np.var(means - fit(lengths)) / np.var(means))


def _line(ordering: Ordering) -> str:
    cells = []
    for axis in COLUMNS:
        worse, value = column(ordering.worse, axis), order_auc(ordering, axis)
        cells.append(f"{np.mean(worse):.2f} ({value:.3f})" if value is not None else "")
    return f"| {ordering.name} | {' | '.join(cells)} | {paired_share(ordering):.3f} |"


def _print_orderings(orderings: Sequence[Ordering]) -> None:
    print(f"Mean score (AUC)\n\n| | {' | '.join(COLUMNS)} | paired |\n|{'---|' * (len(COLUMNS) + 2)}")
    print(_line(Ordering("gold", orderings[0].better, orderings[0].better)))
    print("\n".join(_line(ordering) for ordering in orderings))


def _print_spread(groups: Mapping[str, Group]) -> None:
    print(f"\nMean ± standard deviation, and what length explains of the mean (R²)\n\n| | {' | '.join(AXES)} | R² |")
    print("|---" * (len(AXES) + 2) + "|")
    for name, (rows, verdicts) in groups.items():
        cells = [f"{np.mean(found):.2f} ± {np.std(found):.2f}" if (found := column(verdicts, a)) else "" for a in AXES]
        print(f"| {name} | {' | '.join(cells)} | {length_explains(rows, verdicts):.2f} |")
    every = [row for rows, _ in groups.values() for row in rows]
    verdicts = [verdict for _, found in groups.values() for verdict in found]
    print(f"| all {len(every)} | | | | | | {length_explains(every, verdicts):.2f} |")


def _print_correlations(groups: Mapping[str, Group]) -> None:
    found = [verdicts for _, verdicts in groups.values()]
    for name, parts in (("all rows", [[verdict for group in found for verdict in group]]), ("within a source", found)):
        print(f"\nCorrelations, {name}: Pearson / Spearman\n\n| | {' | '.join(AXES[1:])} |\n|{'---|' * len(AXES)}")
        pairs = correlations(parts)
        for left in AXES[:-1]:
            cells = [f"{pair[0]:.2f} / {pair[1]:.2f}" if (pair := pairs.get((left, a))) else "" for a in AXES[1:]]
            print(f"| {left} | {' | '.join(cells)} |")


def main() -> None:
    """Print the tables of docs/judge.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", choices=(*HALVES, "told"), default="held-out")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "story_samples")
    arguments = parser.parse_args()
    told = arguments.stories == "told" or not REAL.is_file()
    gold = world_gold(arguments.count) if told else real_gold(arguments.stories, arguments.count)
    orderings = [*damaged(gold), copied(gold), patched(gold)]
    if told:
        return _print_orderings(orderings)
    own = [{"id": entry.title, "text": entry.story.text, "stopped": True} for entry in handwritten()]
    groups = {"real stories": (gold.rows, orderings[0].better), "hand-written": (own, freely(own))}
    for heat in (1.0, 0.7, 0.4):
        rows = unprompted(STORIES260K, arguments.count, heat, 11, arguments.kept)
        groups[f"stories260k at {heat}"] = (rows, freely(rows))
        ended = [row for row in rows if row["stopped"]]
        orderings += sampled(gold, rows, f"stories260k at {heat}")[: 2 if heat == 1 else 1]
        orderings += sampled(gold, ended, f"stories260k at {heat}, ended")[:1]
    prompts = world_gold(arguments.count, 99).prompts
    for heat in (1.0, 0.7):
        rows = asked(STORYTELLER, list(prompts.values()), heat, 11, arguments.kept)
        groups[f"storyteller-1m untuned at {heat}"] = (rows, judge_batch(prompts, rows))
    _print_orderings(orderings)
    _print_spread(groups)
    _print_correlations(groups)


if __name__ == "__main__":
    main()
