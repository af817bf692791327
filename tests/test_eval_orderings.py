"""The rule judge, a proxy, orders what has an order: on real stories that no rule was written on, and on told ones.

Each ordering has 70 pairs, and 200 and more in the slow tests. Real stories are the held-out half of ../shared; without
it the story world stands in. Figures of all axes are in docs/judge.md.
"""

import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from bench.orderings import (
    REAL,
    STORIES260K,
    Gold,
    Ordering,
    Verdicts,
    column,
    copied,
    correlations,
    damaged,
    freely,
    length_explains,
    order_auc,
    paired_share,
    patched,
    real_gold,
    sampled,
    with_texts,
    world_gold,
)
from bench.story_samples import Row, unprompted
from eval.damages import another, swapped_neighbours
from eval.grammar import mistakes, non_words, oddity
from eval.prose import Story, parse
from eval.story_rules import AXES, judge_batch
from eval.verdict import Verdict

COUNTS = [70, pytest.param(220, marks=pytest.mark.slow)]
MANY = pytest.mark.parametrize("count", COUNTS[1:], indirect=True)  # sampling takes a while
MEAN = (
    "sentences shuffled",
    "words shuffled",
    "cut in a sentence",
    "cut after a sentence",
    "looped",
    "another prompt's story",
)
CARRIES = {  # which axis sees which damage, and at least how well on real stories
    "sentences shuffled": {"consistency": 0.95},
    "words shuffled": {"grammar": 0.99, "plot": 0.95},
    "cut in a sentence": {"plot": 0.95, "grammar": 0.9},
    "cut after a sentence": {"plot": 0.9, "instruct": 0.8},
    "looped": {"creativity": 0.99, "consistency": 0.99, "plot": 0.99},
    "another prompt's story": {"instruct": 0.99},
    "spliced with another": {"consistency": 0.85},
    "wrong forms": {"grammar": 0.9},
    "neighbours swapped": {"grammar": 0.75},
}


@cache
def gold_of(source: str, count: int) -> Gold:
    if source == "told":
        return world_gold(count, training=10 * count)
    if not REAL.is_file():
        pytest.skip("needs ../shared/data/tinystories")
    return real_gold("held-out", count)


@cache
def orderings_of(source: str, count: int) -> Mapping[str, Ordering]:
    return {ordering.name: ordering for ordering in damaged(gold_of(source, count))}


@pytest.fixture(scope="module", params=COUNTS)
def count(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module", params=[pytest.param("real", marks=pytest.mark.slow), "told"])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def gold(source: str, count: int) -> Gold:
    return gold_of(source, count)


@pytest.fixture(scope="module")
def orderings(source: str, count: int) -> Mapping[str, Ordering]:
    return orderings_of(source, count)


@pytest.fixture(scope="module")
def real(count: int) -> Gold:
    return gold_of("real", count)


@pytest.fixture(scope="module")
def samples(request: pytest.FixtureRequest, count: int) -> list[Row]:
    """Stories that a small model ended itself, at temperature 1: the harder ones to tell from real stories.

    They are sampled once and kept in pytest's cache.
    """
    if not STORIES260K.is_dir():
        pytest.skip("needs the stories260k model beside the project")
    kept = Path(request.config.cache.mkdir("story_samples")) if request.config.cache else Path("runs/story_samples")
    ended = [row for row in unprompted(STORIES260K, count + 30, 1.0, 11, kept) if row["stopped"]]
    assert len(ended) >= 200
    return ended


@pytest.mark.parametrize("name", MEAN)
def test_the_mean_of_the_axes_ranks_gold_above_the_damaged(
    orderings: Mapping[str, Ordering], count: int, name: str
) -> None:
    found = order_auc(orderings[name], "mean")
    assert len(orderings[name].better) == count and found is not None and found >= 0.95
    assert paired_share(orderings[name]) >= 0.95


def test_an_axis_sees_the_damage_that_is_its_affair(count: int) -> None:
    orderings = orderings_of("real", count)
    for name, axes in CARRIES.items():
        for axis, least in axes.items():
            assert (order_auc(orderings[name], axis) or 0) >= least, (name, axis)


def test_an_axis_does_not_punish_what_is_not_its_affair(orderings: Mapping[str, Ordering]) -> None:
    other, mixed = orderings["another prompt's story"], orderings["sentences shuffled"]
    for axis in ("grammar", "consistency", "plot"):
        assert abs((order_auc(other, axis) or 0) - 0.5) < 0.03
    assert abs((order_auc(mixed, "grammar") or 0) - 0.5) < 0.03


def test_a_story_of_its_own_is_more_creative_than_a_copy_of_the_training_rows(gold: Gold, count: int) -> None:
    whole, pieces = copied(gold), patched(gold)
    assert len(whole.better) == count
    assert (order_auc(whole, "creativity") or 0) >= 0.95 and (order_auc(pieces, "creativity") or 0) >= 0.95
    assert min(column(whole.better, "creativity")) > max(column(whole.worse, "creativity"))
    unread = judge_batch(gold.prompts, with_texts(gold.rows, gold.training[:count]))  # the control: rows not known
    assert min(column(unread, "creativity")) > max(column(whole.worse, "creativity"))


@MANY
def test_real_stories_are_above_samples_of_a_small_model_and_those_above_mixed_words(
    real: Gold, samples: list[Row]
) -> None:
    above, below = sampled(real, samples, "stories260k at 1.0")
    for ordering in (above, below):
        assert (order_auc(ordering, "mean") or 0) >= 0.95
    assert (order_auc(above, "consistency") or 0) >= 0.93 and (order_auc(above, "grammar") or 0) >= 0.85


def test_real_stories_score_near_the_top_though_the_reference_never_read_them(real: Gold, count: int) -> None:
    found = judge_batch(real.prompts, real.rows, real.training)
    for axis in AXES:
        assert sum(column(found, axis)) / count > 8


def axes_of(gold: Gold) -> list[Verdicts]:
    """Verdicts on real stories, each under another's prompt: answers that all honour theirs say nothing of instruct."""
    return judge_batch(gold.prompts, with_texts(gold.rows, another([row["text"] for row in gold.rows])))


def test_no_axis_is_constant(real: Gold, count: int) -> None:
    own, elsewhere = judge_batch(real.prompts, real.rows), axes_of(real)
    for axis in AXES:
        values = column(elsewhere if axis == "instruct" else own, axis)
        assert len(set(values)) > count / 11 and _deviation(values) > 0.2, axis


@MANY
def test_no_axis_is_another_under_a_second_name(real: Gold, samples: list[Row]) -> None:
    each = correlations([[*axes_of(real), *freely(samples)]])
    assert all(abs(pearson) < 0.9 and abs(spearman) < 0.9 for pearson, spearman in each.values())


def _deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5)


@MANY
def test_length_explains_less_than_a_quarter_of_the_mean(real: Gold, samples: list[Row]) -> None:
    own, free = judge_batch(real.prompts, real.rows), freely(samples)
    for rows, verdicts in ((real.rows, own), (samples, free), ([*real.rows, *samples], [*own, *free])):
        assert length_explains(rows, verdicts) < 0.25


def test_a_judge_that_counts_words_is_explained_by_length_and_orders_nothing(real: Gold, count: int) -> None:
    counts = [_only(len(row["text"].split()) / 30) for row in real.rows]
    assert length_explains(real.rows, counts) > 0.9
    mixed = orderings_of("real", count)["sentences shuffled"]
    assert order_auc(Ordering("", counts, counts), "mean") == 0.5 == paired_share(Ordering("", counts, counts))
    assert (order_auc(Ordering("", mixed.worse, mixed.better), "mean") or 1) < 0.05  # turned round, it fails


def _only(score: float) -> Verdicts:
    return {axis: Verdict(min(10.0, 1 + score), "words") for axis in AXES}


def _checks(story: Story) -> tuple[int, int]:
    return sum(mistakes(story).values()), len(non_words(story, frozenset()))


def test_the_reference_sees_swapped_words_where_no_check_does(real: Gold, count: int) -> None:
    rng, seen, blind = random.Random(0), [], []
    for row in real.rows:
        told, slipped = parse(row["text"]), parse(swapped_neighbours(row["text"], rng))
        if told.words != slipped.words and _checks(told) == _checks(slipped):
            seen.append(oddity(slipped) > oddity(told))
            blind.append(grammar_without_reference(slipped) < grammar_without_reference(told))
    assert len(seen) >= count / 3 and sum(seen) >= 0.9 * len(seen)
    assert not any(blind)  # the control: the same rows without the reference


def grammar_without_reference(story: Story) -> float:
    return -100 * sum(_checks(story)) / len(story.words)
