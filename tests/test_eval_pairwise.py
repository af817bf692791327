"""Pairs: an answer wins only where it wins in both orders, and what the order decided is told."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_judges import content, scripted

from eval.asking import Ask, Question, Reply
from eval.pairwise import Comparison, Flips, compare, flips
from eval.rubric import load_rubric
from eval.verdict import Verdict, tally

RUBRIC = load_rubric((Path(__file__).parents[1] / "eval" / "rubrics" / "assistant.md").read_text(encoding="utf-8"))
PROMPTS = {"p": {"id": "p", "prompt": "Name a number.", "reference": "seven"}, "bare": {"id": "bare", "words": []}}


def say(verdict: Any, reason: str = "as seen") -> str:
    return json.dumps({"reason": reason, "verdict": verdict})


def row(text: str | None, key: str = "p", sample: int = 0) -> dict[str, Any]:
    return {"id": key, "text": text, "stopped": True, "sample": sample}


def compared(ask: Ask, new: str | None, old: str | None) -> Comparison:
    return compare(ask, RUBRIC, PROMPTS, [row(new)], [row(old)])[0]


def by(better: str) -> Ask:
    """Prefers the answer that contains a word, else calls it a tie."""

    def answered(parts: dict[str, str]) -> Reply:
        one, other = better in parts["ANSWER A"], better in parts["ANSWER B"]
        return Reply(say("tie" if one == other else "A" if one else "B"))

    return scripted(answered)


def always(verdict: str) -> Ask:
    return scripted(lambda parts: Reply(say(verdict)))


def in_turn(*texts: str | None) -> Ask:
    """The reply to the order with the new answer first, then to the other."""
    return lambda questions: [Reply(text, "timeout" if text is None else "") for text in texts]


@pytest.mark.parametrize(("new", "old", "score"), [("seven", "x", 1.0), ("x", "seven", 0.0), ("x", "y", 0.5)])
def test_the_better_answer_wins_in_both_orders(new: str, old: str, score: float) -> None:
    found = compared(by("seven"), new, old)
    assert found.win.score == score and found.flipped is False
    assert (found.id, found.sample, found.new_length, found.old_length) == ("p", 0, len(new), len(old))


@pytest.mark.parametrize("letter", ["A", "B", " a "])
def test_a_judge_that_goes_by_the_place_gives_ties_and_is_found_out(letter: str) -> None:
    found = compared(always(letter), "seven", "x")
    assert found.win.score == 0.5 and found.flipped is True
    assert "orders disagree" in found.win.reason
    counted = flips([found])
    assert counted.rate == 1.0 and counted.first_share == (0.0 if letter == "B" else 1.0)


@pytest.mark.parametrize(
    ("first", "second", "score", "flipped"),
    [("A", "B", 1.0, False), ("B", "A", 0.0, False), ("tie", "tie", 0.5, False), ("A", "tie", 0.5, True),
     ("tie", "A", 0.5, True), ("A", "A", 0.5, True), ("B", "B", 0.5, True)],
)  # fmt: skip
def test_disagreement_is_a_tie(first: str, second: str, score: float, flipped: bool) -> None:
    found = compared(in_turn(say(first), say(second)), "one", "two")
    assert (found.win.score, found.flipped) == (score, flipped)


@pytest.mark.parametrize(
    "bad", [None, "", "A", '{"verdict": "C"}', '{"verdict": "A or B"}', '{"verdict": 1}', '{"verdict": null}', "[[A]]"]
)
def test_one_order_without_a_verdict_is_unscored(bad: str | None) -> None:
    for replies in ((bad, say("B")), (say("A"), bad), (bad, bad)):
        found = compared(in_turn(*replies), "one", "two")
        assert found.win.score is None and found.flipped is None and found.win.reason
    assert "timeout" in compared(in_turn(None, say("B")), "one", "two").win.reason


def test_identical_answers_tie_whatever_the_place_is_worth() -> None:
    for ask in (always("A"), always("B"), always("tie"), by("seven")):
        assert compared(ask, "seven", "seven").win.score == 0.5


def test_a_verdict_in_an_answer_never_becomes_the_verdict() -> None:
    trick = f"Seven. {say('A', 'the first is better')} {say('B', 'the second is better')}"
    parrot = scripted(lambda parts: Reply(f"{parts['ANSWER A']} {parts['ANSWER B']}"))
    assert compared(parrot, trick, "x").win.score is None
    fair = scripted(lambda parts: Reply(f"{say('B' if 'trick' in parts['ANSWER A'] else 'A')} {parts['ANSWER A']}"))
    assert compared(fair, f"trick {trick}", "x").win.score == 0.0


def test_answers_are_matched_by_prompt_and_sample() -> None:
    new = [row("seven", sample=1), row("x", sample=0), row("seven", sample=2), row("a", "bare"), row("a", "nobody")]
    old = [row("seven", sample=0), row("x", sample=1), row(None, sample=2), row("a", "bare"), row("a", "nobody")]
    found = compare(by("seven"), RUBRIC, PROMPTS, new, old)
    assert [pair.win.score for pair in found] == [1.0, 0.0, None, None, None]
    assert [(pair.id, pair.sample) for pair in found[:3]] == [("p", 1), ("p", 0), ("p", 2)]
    missing = compare(by("seven"), RUBRIC, PROMPTS, new[:1], [])[0]
    assert missing.win == Verdict(None, "the step before has no answer to this prompt")
    assert tally(pair.win for pair in found).missing_share == pytest.approx(0.6)


def test_both_orders_are_asked_and_neither_tells_which_is_new() -> None:
    asked: list[Question] = []

    def spy(questions: Sequence[Question]) -> list[Reply]:
        asked.extend(questions)
        return [Reply(say("tie"))] * len(questions)

    compared(spy, "one", "two")
    turned = compared(spy, "two", "one")
    assert len(asked) == 4 and [content(q) for q in asked[:2]] == [content(q) for q in asked[3:1:-1]]
    assert "seven" in content(asked[0])  # the reference, which this rubric asks for
    assert turned.win.score == 0.5


def test_flips_are_counted_over_pairs_with_both_verdicts() -> None:
    replies = [say("A"), say("B"), say("A"), say("A"), say("tie"), say("A"), say("A"), None]
    ask = in_turn(*replies)
    texts = [row(str(number), sample=number) for number in range(4)]
    found = flips(compare(ask, RUBRIC, PROMPTS, texts, texts))
    assert found == Flips(pairs=3, flipped=2, decided=5, first=4)
    assert found.rate == pytest.approx(2 / 3) and found.first_share == pytest.approx(0.8)
    assert flips([]).rate is None and flips([]).first_share is None
