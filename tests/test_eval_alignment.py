"""Answers that belong to their prompts, and evaluation prompts that nothing was trained on."""

import random
from typing import Any

from data_gen.instructions import instruction_rows
from eval.alignment import own_words, seen_prompts


def entries(count: int = 100) -> list[dict[str, Any]]:
    return [
        {"prompt": row["messages"][0]["content"], "answer": row["messages"][1]["content"], "words": row["words"]}
        for row in instruction_rows(3, 0, count)
    ]


def shuffled(rows: list[dict[str, Any]], share: float = 1.0) -> list[dict[str, Any]]:
    moved = rows[: round(share * len(rows))]
    answers = [row["answer"] for row in moved]
    random.Random(1).shuffle(answers)
    return [{**row, "answer": answer} for row, answer in zip(moved, answers, strict=True)] + rows[len(moved) :]


def test_answers_of_the_story_world_fit_their_prompts_and_shuffled_ones_do_not() -> None:
    fit = own_words(entries())
    assert fit.ok and fit.hard and fit.value > 0.9
    mixed = own_words(shuffled(entries()))
    assert mixed.ok is False and abs(mixed.value) < 0.1
    assert "of their prompts' words" in mixed.note


def test_rows_moved_by_one_do_not_fit_either() -> None:
    rows = entries()
    moved = [{**row, "answer": other["answer"]} for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
    assert own_words(moved).ok is False


def test_half_shuffled_still_fits_better_than_chance() -> None:
    assert own_words(shuffled(entries(), 0.5)).ok


def test_where_no_words_are_named_nothing_is_told() -> None:
    bare = [{**row, "words": None} for row in entries()]
    assert own_words(bare).ok is None
    assert own_words(entries(10)).ok is None
    assert own_words([{**row, "words": ["cat"]} for row in entries()]).ok is None


def test_an_evaluation_prompt_or_its_reference_among_the_rows_is_found() -> None:
    rows = entries()
    prompts = [{"prompt": f"Another request {at}.", "reference": f"Another story {at}."} for at in range(5)]
    assert seen_prompts(prompts, rows).ok
    asked = seen_prompts([*prompts, {"prompt": rows[3]["prompt"].upper() + "\n"}], rows)
    assert asked.ok is False and asked.note == "1 of 6 evaluation prompts in the training rows"
    assert seen_prompts([{"prompt": "x", "reference": rows[3]["answer"]}], rows).ok is False
