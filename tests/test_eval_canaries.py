"""Canaries: a judge that can tell good from bad passes them, and no other does; they are blind."""

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sabotaged_judges import SABOTAGED

from data_gen import canary_prompts
from data_gen.backtranslate import backtranslate_rows
from eval import canaries
from eval.canaries import GOLD, PROMPTS, TWIN, Blind, Canary, Check, checks, choose, grade, judge_blind, make, shuffled
from eval.gate import gate
from eval.story_rules import AXES, rule_judge
from eval.verdict import Judge, Tally, Verdict, unscored

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "tinystories" / "train.jsonl"
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@cache
def world() -> tuple[Row, ...]:
    return tuple(read(ROOT / "eval" / "prompts" / "tinystories.jsonl"))


@cache
def real() -> tuple[Row, ...]:
    """Real stories as references of requests that were derived from them."""
    if not REAL.exists():
        pytest.skip("needs ../shared/data/tinystories")
    rows, _ = backtranslate_rows([row["text"] for row in read(REAL)], 1)
    rows = random.Random(0).sample(rows, 600)
    return tuple(
        {**row, "prompt": row["messages"][0]["content"], "reference": row["messages"][1]["content"]} for row in rows
    )


def answers(prompts: Sequence[Row], count: int = 60) -> list[Row]:
    """Completions of a model that answers with a story for another prompt, two samples a prompt."""
    return [
        {
            "id": prompts[place // 2]["id"],
            "sample": place % 2,
            "text": prompts[-place - 1]["reference"],
            "stopped": True,
        }
        for place in range(count)
    ]


def judged(fit: Any, prompts: Sequence[Row], seed: int, training: Sequence[str] = ()) -> tuple[Blind, list[Check]]:
    chosen = choose(prompts, seed)
    made = make(chosen, seed)
    by_id = {row["id"]: row for row in prompts}
    found = judge_blind(fit, by_id, answers(prompts), training, chosen, made, seed=seed)
    return found, checks(made, found.canaries)


def failed(found: Sequence[Check]) -> set[str]:
    return {check.name for check in found if not check.ok}


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]


@pytest.mark.parametrize("source", [world, pytest.param(real, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_rule_judge_is_valid_whatever_the_seed(source: Any, seed: int) -> None:
    prompts, training = source()[:-50], [row["reference"] for row in source()[-50:]]
    _, found = judged(rule_judge, prompts, seed, training)
    assert not failed(found), found
    assert gate("plot", tally=Tally(9, 9, 5.0), canaries=found).outcome == "BASELINE"


@cache
def checks_of(name: str, seed: int) -> list[Check]:
    return judged(SABOTAGED[name], world(), seed)[1]


@pytest.mark.parametrize("name", SABOTAGED)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sabotaged_judge_is_invalid(name: str, seed: int) -> None:
    found = checks_of(name, seed)
    ruling = gate("plot", tally=Tally(9, 9, 5.0), canaries=found)
    assert ruling.outcome == "JUDGE INVALID", found


def test_each_kind_of_canary_sees_what_it_is_for() -> None:
    saw = {name: failed(checks_of(name, 0)) for name in SABOTAGED}
    assert "the same answer twice" in saw["earlier is better"] & saw["chance"]
    assert "asks for ten points" in saw["parrot"]
    assert {"empty answer", "null answer"} <= saw["shorter is better"]
    assert "sentences shuffled" in saw["longer is better"] & saw["bag of words"] & saw["anything but nothing"]
    assert saw["deaf to the prompt"] == {"answer to another prompt"}
    kinds = {check.name for check in checks_of("constant", 0)}
    assert kinds == set().union(*saw.values())  # each kind is failed by some judge


def test_canaries_change_no_verdict_on_a_completion() -> None:
    prompts, rows = world(), answers(world())
    by_id = {row["id"]: row for row in prompts}
    training = [row["reference"] for row in prompts[-50:]]
    alone = rule_judge(by_id, rows, training)(rows)
    assert judged(rule_judge, prompts, 0, training)[0].completions == alone
    strangers = [{**row, "id": f"{row['id']} of another file"} for row in prompts]
    chosen = choose(strangers, 0)
    mixed = judge_blind(rule_judge, by_id, rows, training, chosen, make(chosen, 0), seed=0)
    assert mixed.completions == alone


def spied(prompts: Sequence[Row], chosen: Sequence[Row]) -> tuple[list[list[Row]], dict[str, Any]]:
    """The parts in which a judge gets its rows, and what it was fitted on."""
    parts: list[list[Row]] = []
    given: dict[str, Any] = {}

    def fit(asked: Mapping[str, Any], completions: Sequence[Any], training: Sequence[str]) -> Judge:
        given.update(asked=asked, completions=list(completions), training=training)

        def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Verdict]]:
            parts.append([dict(row) for row in rows])
            return [dict.fromkeys(AXES, Verdict(float(len(row["text"])), "")) for row in rows]

        return judge

    by_id = {row["id"]: row for row in prompts}
    found = judge_blind(fit, by_id, answers(prompts), ["t"], chosen, make(chosen, 0), seed=0)
    texts = [row["text"] for row in answers(prompts)]
    assert [found["plot"].score for found in found.completions] == [len(text) for text in texts]
    assert [found["plot"].score for found in found.canaries] == [len(canary.text) for canary in make(chosen, 0)]
    return parts, given


@pytest.mark.parametrize("own", [True, False])
def test_a_judge_cannot_tell_a_canary_by_its_form_its_id_or_its_place(own: bool) -> None:
    prompts = world()
    others = [{**row, "id": f"x{number}", "messages": [], "extra": 1} for number, row in enumerate(prompts)]
    parts, given = spied(prompts, choose(prompts if own else others, 0))
    rows = [row for part in parts for row in part]
    assert len(rows) == 60 + 7 * PROMPTS and max(map(len, parts)) < len(rows)
    assert {tuple(row) for row in rows} == {("id", "text", "stopped")}
    assert all(len(row["id"]) == 5 and row["id"].isdigit() for row in rows)
    assert {tuple(asked) for asked in given["asked"].values()} == {canaries.ASKED}
    assert all(row["id"] in given["asked"] for row in rows)
    places = [place for place, row in enumerate(rows) if row in given["completions"]]
    assert min(places) < 40 and max(places) > len(rows) - 40  # all over the sequence
    assert given["training"] == ["t"]
    assert len(given["completions"]) == 60  # it is fitted on the completions alone


def test_a_request_of_another_file_with_the_same_id_is_not_mixed_up() -> None:
    """Rows of a data step are numbered, and so may the prompts be."""
    prompts = world()
    rows = [{"id": row["id"], "sample": 0, "text": row["reference"], "stopped": True} for row in prompts[:30]]
    turned = [{**row, "id": other["id"]} for row, other in zip(prompts, prompts[::-1], strict=True)]
    chosen = choose(turned, 0)
    made = make(chosen, 0)
    by_id = {row["id"]: row for row in prompts}
    found = judge_blind(rule_judge, by_id, rows, (), chosen, made, seed=0)
    assert found.completions == rule_judge(by_id, rows)(rows)
    assert not failed(checks(made, found.canaries))


def test_the_order_and_the_choice_follow_the_seed_alone() -> None:
    prompts = world()
    assert choose(prompts, 3) == choose(prompts, 3) != choose(prompts, 4)
    assert make(choose(prompts, 3), 3) == make(choose(prompts, 3), 3)
    parts, _ = spied(prompts, choose(prompts, 0))
    assert parts == spied(prompts, choose(prompts, 0))[0]


def test_only_prompts_with_words_and_a_story_carry_canaries() -> None:
    good = {"words": ["key"], "reference": "One. Two! Three? Four. Five. Six."}
    bad = [
        {**good, "words": []},
        {**good, "words": None},
        {"words": ["key"]},
        {**good, "reference": "One. Two. Three. Four. Five."},
        {**good, "reference": 3},
    ]
    rows = [{"id": str(number), **good} for number in range(PROMPTS)]
    assert {row["id"] for row in choose([*rows, *bad], 0)} == {row["id"] for row in rows}
    assert choose([*rows[1:], *bad], 0) == []


def test_shuffling_moves_sentences_and_keeps_everything_else() -> None:
    text = 'Tom ran. "Stop!" said Mia. Did he stop?\n\nHe did not. Mr. Bell came. It was late.'
    for seed in range(20):
        mixed = shuffled(text, random.Random(seed))
        assert mixed != text and len(mixed) == len(text) and mixed.count("\n\n") == 1
        assert sorted(mixed.split()) == sorted(text.split())
        assert '"Stop!" said Mia.' in mixed and "Mr. Bell came." in mixed


def canary_verdicts(**scores: float | None) -> tuple[list[Canary], list[dict[str, Verdict]]]:
    made = [Canary(kind.replace("_", " "), "p", "") for kind in scores]
    return made, [{"plot": unscored("x") if score is None else Verdict(score, "")} for score in scores.values()]


@pytest.mark.parametrize(
    ("gold", "twin", "bad", "passed"),
    [(9.0, 9.0, 8.9, (1, 1)), (9.0, 9.0, 9.0, (1, 0)), (9.0, 8.9, 1.0, (0, 1)), (9.0, 9.0, None, (1, 0)),
     (None, None, 1.0, (1, 0)), (9.0, None, 1.0, (0, 1)), (1.0, 1.0, 9.0, (1, 0))],
)  # fmt: skip
def test_a_tie_is_no_win_and_an_unscored_canary_is_no_pass(
    gold: float | None, twin: float | None, bad: float | None, passed: tuple[int, int]
) -> None:
    found = checks(*canary_verdicts(**{GOLD: gold, TWIN: twin, "bad": bad}))
    assert tuple(check.passed for check in found) == passed
    assert [check.ok for check in found] == [bool(count) for count in passed]


def test_a_noisy_judge_may_be_given_a_tolerance() -> None:
    noisy = canary_verdicts(**{GOLD: 9.0, TWIN: 8.5, "bad": 8.6})
    assert [check.passed for check in checks(*noisy)] == [0, 1]
    assert [check.passed for check in checks(*noisy, tie=0.5)] == [1, 0]


def test_the_share_needed_is_counted_in_prompts() -> None:
    made = make(choose(world(), 0), 0)
    verdicts = [{"plot": Verdict(9.0, "")} for _ in made]
    needed = {check.name: check.needed for check in checks(made, verdicts)}
    assert needed.pop("the same answer twice") == PROMPTS
    assert set(needed.values()) == {30} and len(needed) == 5


def test_a_grade_is_the_mean_of_the_scored_axes() -> None:
    assert grade({"a": Verdict(4.0, ""), "b": Verdict(8.0, ""), "c": unscored("x")}) == 6.0
    assert grade({"a": unscored("x")}) is None


def test_the_built_in_prompts_are_those_of_the_hand_written_stories() -> None:
    assert read(ROOT / "eval" / "prompts" / "canaries.jsonl") == canary_prompts.prompt_rows()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_built_in_stories_carry_canaries_that_the_rule_judge_passes(seed: int) -> None:
    chosen = choose(read(ROOT / "eval" / "prompts" / "canaries.jsonl"), seed)
    assert len(chosen) == PROMPTS
    made = make(chosen, seed)
    by_id = {row["id"]: row for row in world()}
    found = judge_blind(rule_judge, by_id, answers(world()), (), chosen, made, seed=seed)
    assert not failed(checks(made, found.canaries))
