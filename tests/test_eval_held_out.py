"""Held-out answers: worse is found, another tokenizer is not compared, and a prompt that stops mattering is seen."""

import random
from typing import Any

import pytest

from eval.held_out import KEPT, NLL_RISE, loss_checks

Rows = list[dict[str, Any]]


def losses(nats: float, worth: float, spread: float = 0.1, seed: int = 1, count: int = 100) -> Rows:
    """Rows of 100 tokens with these means, nats a token."""
    rng = random.Random(seed)
    made = []
    for at in range(count):
        own = 100 * (nats + rng.gauss(0, spread))
        made.append(
            {
                "id": f"p{at}",
                "tokens": 100,
                "key": f"k{at}",
                "nats": own,
                "nats_other": own + 100 * rng.gauss(worth, spread / 10),
            }
        )
    return made


def test_a_model_that_predicts_better_passes_and_one_that_predicts_clearly_worse_fails() -> None:
    before = losses(0.42, 0.02)
    answers, prompts = loss_checks(losses(0.21, 0.5, seed=2), before)
    assert answers.ok and prompts.ok and answers.value == pytest.approx(0.21, abs=0.03)
    worse = loss_checks(losses(0.42 + NLL_RISE + 0.1, 0.02, seed=2), before)[0]
    assert worse.ok is False and worse.hard and "0.43 → 0.71" in worse.note
    little = loss_checks(losses(0.42 + NLL_RISE / 2, 0.02, seed=2), before)[0]
    assert little.ok


def test_a_step_after_which_the_prompt_matters_less_than_half_fails_though_it_predicts_better() -> None:
    before = losses(0.42, 0.02)
    answers, prompts = loss_checks(losses(0.34, 0.0, seed=2), before)
    assert answers.ok and prompts.ok is False and prompts.hard
    assert prompts.limit == pytest.approx(KEPT * 0.02, abs=0.002)
    assert loss_checks(losses(0.34, 0.016, seed=2), before)[1].ok


def test_a_model_that_never_read_its_prompts_loses_nothing() -> None:
    prompts = loss_checks(losses(0.3, 0.0, seed=2), losses(0.4, 0.0))[1]
    assert prompts.ok is None and "not told from nothing" in prompts.note


def test_the_first_model_is_held_to_nothing() -> None:
    answers, prompts = loss_checks(losses(0.4, 0.02), None)
    assert answers.ok is None and prompts.ok is None
    assert answers.value == pytest.approx(0.4, abs=0.03) and prompts.value == pytest.approx(0.02, abs=0.003)


def test_other_tokens_are_not_compared_and_that_is_said() -> None:
    other = [{**row, "key": f"other {row['key']}"} for row in losses(0.2, 0.1)]
    answers, prompts = loss_checks(losses(9.0, 0.0), other)
    assert answers.ok is None and prompts.ok is None
    assert "not comparable: the step before cuts them into other tokens" in answers.note
    half = [*other[:50], *losses(0.2, 0.1)[50:]]
    assert loss_checks(losses(9.0, 0.0), half)[0].ok is False  # what is comparable is compared


def test_without_references_nothing_is_told() -> None:
    for before in (None, losses(0.4, 0.1), []):
        assert [finding.ok for finding in loss_checks([], before)] == [None, None]
    assert "the step before was not measured" in loss_checks(losses(0.4, 0.1), [])[0].note


def test_prompts_that_are_all_the_same_say_nothing_of_reading_them() -> None:
    same = [{**row, "nats_other": None} for row in losses(0.4, 0.1)]
    assert loss_checks(same, same)[1].ok is None and loss_checks(same, None)[1].ok is None


def test_the_comparison_is_paired_by_prompt() -> None:
    """Prompts differ more than the models do: unpaired, nothing would be found."""
    before = losses(2.0, 0.1, spread=1.0)
    after = [{**row, "nats": row["nats"] + 100 * (NLL_RISE + 0.05), "nats_other": None} for row in before]
    assert loss_checks(after, before)[0].ok is False
