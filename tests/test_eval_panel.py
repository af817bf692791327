"""Panels: families have one voice each, who is missing is named, and no model judges itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from eval.panel import Member, SelfJudging, missing_by_axis, panel, refuse_self_judging, same_model
from eval.verdict import Judge, Verdict, unscored


def giving(score: float | None) -> Judge:
    verdict = unscored("timeout") if score is None else Verdict(score, f"I say {score:g}")

    def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Verdict]]:
        return [{"plot": verdict} for _ in rows]

    return judge


def together(*members: tuple[str, str, float | None]) -> Verdict:
    return panel([Member(name, family, giving(score)) for name, family, score in members])([{"id": "p"}])[0]["plot"]


def test_a_panel_is_the_mean_of_families_not_of_models() -> None:
    assert together(("a1", "a", 2.0), ("a2", "a", 4.0), ("a3", "a", 6.0), ("b1", "b", 8.0)).score == 6.0
    assert together(("a1", "a", 2.0), ("b1", "b", 8.0)).score == 5.0


def test_who_is_missing_is_left_out_and_named() -> None:
    found = together(("a1", "a", 2.0), ("a2", "a", None), ("b1", "b", None), ("c1", "c", 8.0))
    assert found.score == 5.0
    assert found.reason.startswith("2 of 3 families; a1 2 (I say 2); c1 8 (I say 8)")
    assert "2 of 4 judges without a score: a2 (timeout), b1 (timeout)" in found.reason


def test_a_panel_without_any_score_is_unscored() -> None:
    found = together(("a1", "a", None), ("b1", "b", None))
    assert found.score is None and "0 of 2 families" in found.reason and "timeout" in found.reason


def test_a_panel_needs_members_with_names_of_their_own() -> None:
    for members in ([], [Member("a", "a", giving(1.0)), Member("a", "b", giving(1.0))]):
        with pytest.raises(ValueError, match="each under a name of its own"):
            panel(members)


def test_a_member_that_loses_a_row_is_an_error() -> None:
    judges = [Member("a", "a", giving(1.0)), Member("b", "b", lambda rows: [])]
    with pytest.raises(ValueError, match="shorter"):
        panel(judges)([{"id": "p"}])


def test_missing_verdicts_are_counted_by_axis() -> None:
    rows = [{"plot": unscored("x"), "grammar": Verdict(1.0, "")}, {"plot": unscored("x"), "grammar": unscored("y")}]
    assert missing_by_axis(rows) == {"plot": 2, "grammar": 1}


@pytest.mark.parametrize(
    ("one", "other"),
    [("gpt-4o-mini", "openai:gpt-4o-mini"), ("openai:gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
     ("Org/Model-7B@abc123", "model-7b"), ("models/storyteller-1m/", "openai:storyteller-1m.gguf"),
     ("claude-x-20250101", "claude-x"), ("sha256ofweights", "sha256ofweights")],
)  # fmt: skip
def test_one_model_under_two_names_is_one_model(one: str, other: str) -> None:
    assert same_model(one, other) and same_model(other, one)
    with pytest.raises(SelfJudging, match="is the model that is judged"):
        refuse_self_judging(["openai:other", one], ["base", other])
    refuse_self_judging([one], [other], allowed=True)


@pytest.mark.parametrize(
    ("one", "other"), [("gpt-4o", "gpt-4o-mini"), ("org/model-7b", "org/model-70b"), ("", ""), ("a/b", "b/a")]
)
def test_different_models_may_judge_each_other(one: str, other: str) -> None:
    assert not same_model(one, other)
    refuse_self_judging([one], [other])
