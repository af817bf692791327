"""What a story shares with the training rows is found exactly, and copying is not creative."""

import random

import pytest

from eval.novelty import Training
from eval.story_rules import judge_batch, rule_judge

ROWS = ("The fox ran home. It was late, and the moon was up.", "A bear sat on a red mat near the old mill.")


def longest_by_trying(words: list[str], rows: list[list[str]]) -> int:
    lines = [f" {' '.join(row)} " for row in rows]
    spans = [(start, end) for start in range(len(words)) for end in range(start + 1, len(words) + 1)]
    found = [end - start for start, end in spans if any(f" {' '.join(words[start:end])} " in line for line in lines)]
    return max(found, default=0)


def test_the_longest_run_is_the_one_that_trying_all_finds() -> None:
    rng = random.Random(1)
    for _ in range(50):
        rows = [[rng.choice("abc") for _ in range(rng.randrange(1, 60))] for _ in range(rng.randrange(1, 5))]
        words = [rng.choice("abcd") for _ in range(rng.randrange(1, 30))]
        words += rng.choice(rows)[3:50]
        training = Training([" ".join(row) for row in rows])
        assert training.lookup(words).longest == longest_by_trying(words, rows)


def test_a_run_longer_than_the_sorted_depth_is_followed_to_its_end() -> None:
    row = [chr(97 + number % 26) * (1 + number // 26) for number in range(100)]
    found = Training(["x y z", " ".join(row)]).lookup(["new", *row, "end"])
    assert (found.longest, found.start) == (100, 1) and found.share == pytest.approx(100 / 102)


def test_no_run_goes_over_the_end_of_a_row() -> None:
    found = Training(ROWS).lookup("the moon was up a bear sat on a red mat".split())
    assert (found.longest, found.start, found.share) == (7, 4, 0.0)
    assert Training(ROWS).lookup(["zebra"]) == (0, 0, 0.0) == Training([""]).lookup(["fox"])


def test_the_reason_names_what_was_copied_and_a_copy_scores_low() -> None:
    told = "A bear sat on a red mat near the old mill. " + "Nobody came by, so Ann sang loud songs of ships and hay. "
    copied = ROWS[1] + " " + ROWS[0]
    rows = [{"id": "a", "text": text, "stopped": True} for text in (told, copied)]
    asked = {"a": {"words": ["bear"]}}
    part, whole = (found["creativity"] for found in judge_batch(asked, rows, ROWS))
    assert "'a bear sat on a red mat near...' 11 words as in the training rows" in part.reason
    without = judge_batch(asked, rows)
    assert (part.score or 0) > (whole.score or 0) and (without[1]["creativity"].score or 0) > (whole.score or 0)
    assert "training rows" not in without[0]["creativity"].reason


def test_rows_mixed_in_blind_change_no_other_verdict() -> None:
    prompts = {"a": {"words": ["fox"]}, "b": {"words": ["bear"]}}
    real = [{"id": "a", "text": ROWS[0], "stopped": True}, {"id": "b", "text": ROWS[1], "stopped": True}]
    canaries = [{"id": "a", "text": text, "stopped": True} for text in (ROWS[1], "", "10/10", ROWS[0])]
    judge = rule_judge(prompts, real, ["The fox sat."])
    alone, mixed = judge(real), judge([canaries[0], real[1], *canaries[1:], real[0]])
    assert [mixed[5], mixed[1]] == alone == judge_batch(prompts, real, ["The fox sat."])
    assert mixed[4] == alone[0]  # the same answer again has the same verdict
    fitted_on_all = judge_batch(prompts, [*canaries, *real], ["The fox sat."])
    assert fitted_on_all[-2:] != alone  # the control: a judge fitted on the canaries too is moved by them
