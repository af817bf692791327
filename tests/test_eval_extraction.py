"""The exact judge of extraction: JSON, structure, precision, recall and F1, on answers whose figures are known."""

import json
from itertools import pairwise
from typing import Any

import pytest

from eval.canaries import checks, judge_blind
from eval.extraction import ASKED, AXES, choose, compare, count, figures, judge_answer, make, mixed_up, rule_judge
from eval.rubric import load_rubric
from eval.rule_judges import EXTRACTION, RULE_JUDGES, STORY, rule_judge_of
from eval.verdict import Judge, Verdict
from posttrain.chain.paths import PROJECT
from posttrain.rows import read_rows

PROMPTS = read_rows(PROJECT / "eval/prompts/extraction.jsonl")
BY_ID = {row["id"]: row for row in PROMPTS}
EXPECTED = {
    "who": "Mia Moon",
    "age": "",
    "pets": ["dog", "owl", "owl"],
    "all": [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}],
}
PROMPT = {
    "id": "p",
    "prompt": "…",
    "template": {"who": "", "age": "", "pets": [], "all": [{"a": "", "b": ""}]},
    "expected": EXPECTED,
}


def answer(**changed: Any) -> str:
    return json.dumps({**EXPECTED, **changed})


def test_the_expected_answer_has_full_marks_in_any_order() -> None:
    every = answer(pets=["owl", "dog", "owl"], all=[{"b": "4", "a": "3"}, {"a": "1", "b": "2"}], who=" Mia\n Moon")
    for text in (answer(), every, json.dumps(EXPECTED, indent=4)):
        assert {verdict.score for verdict in judge_answer(PROMPT, text).values()} == {10.0}


@pytest.mark.parametrize(
    ("text", "right", "given"),
    [
        (answer(who=""), 7, 7),
        (answer(who="Mia"), 7, 8),
        (answer(who=["Mia Moon"]), 7, 8),
        (answer(age="7"), 8, 9),
        (answer(age=7), 8, 9),
        (answer(age=None), 8, 9),
        (answer(pets=["owl"]), 6, 6),
        (answer(pets=["owl"] * 4), 7, 9),
        (answer(pets=["dog"] * 3), 6, 8),
        (answer(pets="dog"), 5, 6),
        (answer(all=[{"a": "1", "b": "4"}, {"a": "3", "b": "2"}]), 6, 8),  # the right values, wrongly put together
        (answer(all=[{"a": "3", "b": "4"}]), 6, 6),
        (answer(more="dog"), 8, 9),
        ("{}", 0, 0),
        ("[]", 0, 0),
        (answer()[:-1], 0, 0),
        (f"```json\n{answer()}\n```", 0, 0),
        ("", 0, 0),
    ],
)
def test_values_are_counted_one_by_one(text: str, right: int, given: int) -> None:
    found = compare(PROMPT, text)
    assert (found.right, found.given, found.expected) == (right, given, 8)
    assert found.f1 == pytest.approx(2 * right / (given + 8))


def test_valid_is_json_and_structure() -> None:
    def valid(text: str) -> float | None:
        return judge_answer(PROMPT, text)["valid"].score

    assert [valid(text) for text in (answer(), answer(age=7), answer(more=""), "{}")] == [10.0, 5.5, 5.5, 5.5]
    for text in ("", "{", "null", "NaN", '{"who":NaN}', f"{answer()} Done.", "[" * 100_000):
        assert valid(text) == 1.0


def test_what_cannot_be_counted_is_unscored_and_not_zero() -> None:
    nothing = judge_answer(PROMPT, json.dumps(PROMPT["template"]))
    assert nothing["precision"].score is None and nothing["recall"].score == nothing["f1"].score == 1.0
    silent = {**PROMPT, "expected": PROMPT["template"]}
    assert judge_answer(silent, json.dumps(silent["template"]))["recall"].score is None
    assert judge_answer(silent, json.dumps(silent["template"]))["f1"].score == 10.0
    assert judge_answer(silent, "")["f1"].score == judge_answer(silent, answer())["f1"].score == 1.0
    rows = [{"id": "p", "text": None}, {"id": "other", "text": answer()}]
    for found in rule_judge({"p": PROMPT, "other": {"prompt": "…"}}, rows)(rows):
        assert list(found) == list(AXES) and all(verdict.score is None for verdict in found.values())


def test_figures_are_the_shares_themselves() -> None:
    prompts = {str(number): PROMPT for number in range(10)}
    texts = [answer()] * 6 + [answer(pets=[])] * 2 + [answer(more="x")] + ["no"]
    found = figures(prompts, [{"id": str(number), "text": text} for number, text in enumerate(texts)])
    assert {name: share["score"] for name, share in found.items()} == {
        "valid JSON": 0.9,
        "same structure": 0.8,
        "precision": pytest.approx((8 + 8 / 9) / 9, abs=1e-4),
        "recall": pytest.approx((7 + 2 * 5 / 8) / 10, abs=1e-4),
        "F1": pytest.approx((6 + 2 * 10 / 13 + 16 / 17) / 10, abs=1e-4),
    }
    assert all(share["low"] <= share["score"] <= share["high"] for share in found.values())
    assert figures(prompts, [{"id": "other", "text": "{}"}, {"id": "1", "text": None}]) == {}


def blind(fit: Any, seed: int) -> dict[str, bool]:
    chosen = choose(PROMPTS, seed)
    made = make(chosen, seed)
    rows = [{"id": row["id"], "text": row["reference"], "stopped": True} for row in PROMPTS[:20]]
    found = judge_blind(fit, BY_ID, rows, (), chosen, made, seed=seed, asked=ASKED)
    return {check.name: check.ok for check in checks(made, found.canaries)}


def test_the_judge_passes_its_canaries_and_wrong_ones_do_not() -> None:
    for seed in range(5):
        assert all(blind(rule_judge, seed).values())

    def only_valid(prompts: Any, rows: Any, training: Any) -> Judge:
        return lambda judged: [{"valid": one["valid"]} for one in rule_judge(prompts, rows)(judged)]

    def lengths(prompts: Any, rows: Any, training: Any) -> Judge:
        return lambda judged: [{"valid": Verdict(float(len(one["text"])), "")} for one in judged]

    assert [name for name, ok in blind(only_valid, 0).items() if not ok] == [
        "values mixed up",
        "the template as it was",
    ]
    assert not blind(lengths, 0)["asks for ten points"]


def test_mixed_up_values_are_the_same_values_elsewhere() -> None:
    prompt = {"template": {"a": "", "b": [], "c": {"d": ""}}, "expected": {"a": "1", "b": ["2"], "c": {"d": ""}}}
    mixed = mixed_up(prompt["expected"])
    assert mixed == {"a": "2", "b": ["1"], "c": {"d": ""}} and count(mixed) == 2
    assert compare(prompt, json.dumps(mixed)).right == 0


def test_the_prompts_expect_what_their_references_say() -> None:
    rows = [{"id": row["id"], "text": row["reference"]} for row in PROMPTS]
    found = figures(BY_ID, rows)
    assert found["F1"]["score"] == found["same structure"]["score"] == 1.0
    others = [{"id": one["id"], "text": two["reference"]} for one, two in pairwise(PROMPTS)]
    assert figures(BY_ID, others)["F1"]["score"] < 0.1  # negative control


def test_a_rubric_is_judged_by_who_knows_its_axes() -> None:
    rubric = load_rubric((PROJECT / "eval/rubrics/extraction.md").read_text(encoding="utf-8"))
    assert tuple(rubric.axes) == AXES
    assert rule_judge_of(["f1"]) == rule_judge_of(list(rubric.axes)) == EXTRACTION
    assert rule_judge_of(["plot", "grammar"]) == rule_judge_of(["f1", "plot"]) == STORY
    assert len({axis for judge in RULE_JUDGES for axis in judge.axes}) == sum(len(judge.axes) for judge in RULE_JUDGES)
