"""Answers that stop, say something, go nowhere round and leak nothing; each check fails when it should."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from data_gen.story import tell
from eval.finding import Finding
from eval.text_checks import model_checks, row_checks

STORIES = [tell(3, number).text for number in range(60)]
LOOP = "The cat sat on the mat and slept. " * 12


def answers(
    texts: Sequence[str | None], stopped: Sequence[bool] | None = None, samples: int = 1
) -> list[dict[str, Any]]:
    stopped = stopped or [True] * len(texts)
    return [
        {"id": f"p{at // samples}", "text": text, "stopped": ends}
        for at, (text, ends) in enumerate(zip(texts, stopped, strict=True))
    ]


def found(findings: Sequence[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def check(name: str, after: list[dict[str, Any]], before: list[dict[str, Any]] | None, **more: Any) -> Finding:
    return found(model_checks(after, before, **more), name)


def test_equal_answers_fail_nothing() -> None:
    same = answers(STORIES)
    assert all(finding.ok for finding in model_checks(same, same, references=STORIES, training=["A cow."]))
    assert all(finding.ok for finding in row_checks(same))


def test_the_first_model_is_held_to_nothing_and_its_figures_are_there() -> None:
    bad = answers([LOOP + "<|user|>", ""] * 30, [False] * 60)
    findings = model_checks(bad, None)
    assert all(finding.ok is None for finding in findings)
    assert found(findings, "stop by themselves").value == 0.0 and found(findings, "empty").value == 0.5
    assert found(findings, "control tokens").value == 0.5


def test_a_base_that_never_stops_does_not_fail_the_step_that_teaches_it_by_half() -> None:
    never, half = answers(STORIES, [False] * 60), answers(STORIES, [True, False] * 30)
    assert check("stop by themselves", half, never).ok
    back = check("stop by themselves", never, half)
    assert back.ok is False and back.limit == pytest.approx(0.45) and back.note == "0% stop by themselves (was 50%)"


@pytest.mark.parametrize(("fallen", "ok"), [(0, True), (2, True), (5, True), (12, False), (30, False)])
def test_stopping_must_fall_clearly_by_more_than_one_in_twenty(fallen: int, ok: bool) -> None:
    after = answers(STORIES, [False] * fallen + [True] * (60 - fallen))
    assert check("stop by themselves", after, answers(STORIES)).ok is ok


@pytest.mark.parametrize(("name", "bad"), [("empty", " \n"), ("loop", LOOP)])
def test_more_empty_or_looping_answers_than_before_fail(name: str, bad: str) -> None:
    worse = answers([bad] * 15 + STORIES[15:])
    assert check(name, worse, answers(STORIES)).ok is False
    assert check(name, answers(STORIES), worse).ok and check(name, worse, worse).ok  # as bad as before is no fault


@pytest.mark.parametrize(
    "leak",
    ["<|user|>", "<|im_start|>", "</s>", "[INST]", "<end_of_turn>", "<｜User｜>", "<<SYS>>", "<eos>", "[/TOOL_CALLS]"],
)
def test_one_leaked_control_string_fails_a_step_and_rows(leak: str) -> None:
    texts = [*STORIES[1:], f"A story. {leak} More."]
    finding = check("control tokens", answers(texts), answers(texts))
    assert finding.ok is False and finding.hard and "1 of 60 with control tokens" in finding.note
    assert found(row_checks(answers(texts)), "control tokens").ok is False


@pytest.mark.parametrize(
    "plain", ["a < b | c > d", "He said [sic] so.", "<b>bold</b>", "| 1 | 2 |", "I <3 you", "(INST)"]
)
def test_what_only_looks_a_little_like_one_is_let_through(plain: str) -> None:
    texts = [*STORIES[1:], f"A story. {plain} More."]
    assert check("control tokens", answers(texts), answers(texts)).ok


def test_the_models_own_control_strings_count_too() -> None:
    texts = [*STORIES[1:], "A story. @@turn@@ More."]
    assert check("control tokens", answers(texts), answers(texts), controls=["@@turn@@", " "]).ok is False
    assert check("control tokens", answers(texts), answers(texts), controls=["@@other@@"]).ok


def test_another_kind_of_length_is_said_and_fails_nothing_by_itself() -> None:
    short = [" ".join(text.split()[:20]) for text in STORIES]
    finding = check("length", answers(short), answers(STORIES), references=STORIES)
    assert finding.ok is False and not finding.hard
    assert check("length", answers(short), answers(short), references=()).ok
    assert check("length", answers(STORIES), answers(short), references=STORIES).ok


def test_answers_made_of_the_training_rows_are_said() -> None:
    fresh = [tell(4, number).text for number in range(60)]
    copies = check("copied", answers(STORIES), answers(STORIES), training=STORIES, references=fresh)
    assert copies.ok is False and copies.value == 1.0 and not copies.hard
    own = check("copied", answers(fresh), answers(fresh), training=STORIES, references=fresh)
    assert own.ok and own.value == pytest.approx(own.limit - 0.1)
    assert not [finding for finding in model_checks(answers(fresh), None) if finding.name == "copied"]


def test_rows_are_held_to_what_they_are() -> None:
    assert found(row_checks(answers([*STORIES[1:], " "])), "empty").ok is False
    assert found(row_checks(answers([*STORIES[:50], *[LOOP] * 10])), "loop").ok is False
    assert found(row_checks(answers([*STORIES[:58], *[LOOP] * 2])), "loop").ok


def test_missing_answers_and_other_prompts_are_no_failure() -> None:
    assert model_checks(answers([None] * 3), answers(STORIES))[0].ok is None
    moved = [{**row, "id": f"q{at}"} for at, row in enumerate(answers(STORIES))]
    finding = check("empty", moved, answers(STORIES))
    assert finding.ok is None and "on other prompts" in finding.note


@pytest.mark.slow
def test_equal_models_fail_in_fewer_than_one_of_forty_steps() -> None:
    """Shares of 10 % that differ by chance alone, on 50 prompts of 2 samples."""
    rng = random.Random(5)
    fails = 0
    for _ in range(300):
        after, before = ([rng.random() > 0.1 for _ in range(100)] for _ in range(2))
        fails += (
            check("stop by themselves", answers(["A."] * 100, after, 2), answers(["A."] * 100, before, 2)).ok is False
        )
    assert fails / 300 < 1 / 40
