"""Pairs that a language model chooses: by its grades, or answer against answer in both orders."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judging_server import Grade, judging
from misbehaving_server import Call, Reply, Script, serving, status
from pairs_stage import FEW, bytes_of, rows_of, rows_step, text_of, usable, written
from scripted_judges import FENCE
from stage_context import context, given, run

from posttrain.chain.stage import Planned
from posttrain.engines.budget import BudgetExceeded
from posttrain.errors import PosttrainError
from posttrain.stages import STAGES
from posttrain.stages.pair_cost import pair_calls

RIGHT = {"test_size": 2, "min_rows": 2, "sampling": {"max_new_tokens": 12}, "samples": 3}


def vowels(request: str, answer: str) -> float:
    """A judge with a taste that a test can check: 1 to 10 by the number of vowels."""
    return float(min(10, 1 + sum(letter in "aeiou" for letter in answer)))


READER = judging(vowels)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"id": f"{n}", "prompt": f"Say {n}."} for n in range(16)]
    return rows_step(tmp_path_factory.mktemp("prompts"), rows=rows)


def judged(folder: Path, url: str, model: Path, prompts: Path, stop_after: int | None = None, **more: Any) -> Any:
    """Pairs by the judge at `url`; one journal for all folders of a test."""
    endpoint = {"base_url": url, "retries": 3, "concurrency": 8, "deadline": 60, **more.pop("endpoint", {})}
    ctx = context(folder, stop_after, model=given(model), prompts=given(prompts))
    ctx = replace(ctx, journal=folder.parent / "journal.sqlite")
    judge = {"judge": "openai:m", "endpoint": endpoint, **more.pop("judge", {})}
    return run("pairs", ctx, **{**FEW, **RIGHT, "judge": judge, **more})


def test_its_grades_choose_and_nothing_is_asked_twice(faulty: Path, prompts: Path, tmp_path: Path) -> None:
    with serving(READER) as server:
        found = judged(tmp_path / "a", server.url, faulty, prompts)
        calls = len(server.calls)
        again = judged(tmp_path / "b", server.url, faulty, prompts)
        assert len(server.calls) == calls == found["remote_calls"] and again["remote_calls"] == 0
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    left = usable(tmp_path / "a")
    for row in rows_of(tmp_path / "a"):
        grades = [vowels("", answer["text"]) for answer in left[row["id"]]]
        assert (row["score_chosen"], row["score_rejected"]) == (max(grades), min(grades))
        assert row["source"] == "scores by openai:m" and vowels("", text_of(row, "chosen")) == max(grades)
    assert "enforces json_schema" in found["judge_notes"][0] and found["cost_usd"] == 0


def test_answer_against_answer_the_winner_of_both_orders_is_chosen(faulty: Path, prompts: Path, tmp_path: Path) -> None:
    with serving(READER) as server:
        found = judged(tmp_path / "a", server.url, faulty, prompts, by="pairwise")
    left = usable(tmp_path / "a")
    for row in rows_of(tmp_path / "a"):
        grades = [vowels("", answer["text"]) for answer in left[row["id"]]]
        assert vowels("", text_of(row, "chosen")) == max(grades) > vowels("", text_of(row, "rejected"))
        assert 1 >= row["score_chosen"] > row["score_rejected"] >= 0 and row["source"] == "pairwise by openai:m"
    assert found["comparisons"] == sum(len(rows) * (len(rows) - 1) // 2 for rows in left.values())
    assert found["flip_rate"] == 0.0 and found["margin"] == 0.0


def test_a_judge_that_prefers_a_place_chooses_nothing(faulty: Path, prompts: Path, tmp_path: Path) -> None:
    """Two orders that disagree are a tie."""

    def first(call: Call) -> Reply:
        return Reply(body=READER(call).body.replace(b'\\"B\\"', b'\\"A\\"').replace(b'\\"tie\\"', b'\\"A\\"'))

    with (
        serving(first) as server,
        pytest.raises(PosttrainError, match=r"0 rows are left .* of 16 prompts \(.*\d+ ties"),
    ):
        judged(tmp_path / "a", server.url, faulty, prompts, by="pairwise")


def test_a_panel_is_the_mean_of_its_families(faulty: Path, prompts: Path, tmp_path: Path) -> None:
    def by_model(call: Call) -> Reply:
        grade: Grade = vowels if call.body["model"] == "reader" else lambda request, answer: 10.0
        return judging(grade)(call)

    with serving(by_model) as server:
        models = [{"model": name, "base_url": server.url} for name in ("reader", "kind")]
        judged(tmp_path / "a", server.url, faulty, prompts, judge={"judge": "panel", "panel": models})
    for row in rows_of(tmp_path / "a"):
        assert row["score_chosen"] == (10 + vowels("", text_of(row, "chosen"))) / 2
        assert row["source"] == "scores by openai:reader+openai:kind"


def test_a_budget_stops_before_the_call_and_keeps_what_was_answered(
    faulty: Path, prompts: Path, tmp_path: Path
) -> None:
    with serving(READER) as server:
        with pytest.raises(BudgetExceeded, match=r"budget\.requests of r"):
            judged(tmp_path / "a", server.url, faulty, prompts, judge={"budget": {"requests": 9}})
        assert len(server.calls) == 9 and not (tmp_path / "a/out/train.jsonl").exists()
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a/out/.work/answers").iterdir()}
        judged(tmp_path / "a", server.url, faulty, prompts)
        assert len({json.dumps(call.body) for call in server.calls}) == len(server.calls)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        judged(tmp_path / "b", server.url, faulty, prompts)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_stopped_judge_ends_with_the_same_bytes(faulty: Path, prompts: Path, tmp_path: Path) -> None:
    with serving(READER) as server:
        judged(tmp_path / "whole/a", server.url, faulty, prompts)
    with serving(READER) as server:
        for stop in (4, 12, 20):
            with pytest.raises(KeyboardInterrupt):
                judged(tmp_path / "cut/a", server.url, faulty, prompts, stop_after=stop)
        judged(tmp_path / "cut/a", server.url, faulty, prompts)
    assert bytes_of(tmp_path / "cut/a") == bytes_of(tmp_path / "whole/a")


@pytest.mark.parametrize("by", ["scores", "pairwise"])
def test_a_judge_that_fails_makes_no_pairs_of_the_rest(by: str, faulty: Path, prompts: Path, tmp_path: Path) -> None:
    def failing(lost: str) -> Script:
        return lambda call: status(400)(call) if lost in call.prompt else READER(call)

    with serving(failing("Say 3.")) as server, pytest.raises(PosttrainError, match=r"have no score \(.*HTTP 400"):
        judged(tmp_path / "a", server.url, faulty, prompts, by=by)
    with serving(failing("Say 99.")) as server:
        judged(tmp_path / "b", server.url, faulty, prompts, by=by)  # negative control


def test_a_key_that_is_not_set_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = STAGES["pairs"]
    assert stage.ready is not None
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = stage.config.model_validate({"kind": "pairs", **FEW, "judge": {"judge": "openai:m"}})
    with pytest.raises(PosttrainError, match="OPENAI_API_KEY is not set"):
        stage.ready(config)
    stage.ready(stage.config.model_validate({"kind": "pairs", **FEW}))


def test_no_answer_that_cannot_be_chosen_is_paid_for(faulty: Path, prompts: Path, tmp_path: Path) -> None:
    with serving(READER) as server:
        judged(tmp_path / "a", server.url, faulty, prompts)
        fenced = [part for prompt in server.prompts for part in FENCE.findall(prompt)]
    asked = {json.loads(text) for label, _, text in fenced if label == "ANSWER"}
    left = {row["text"] for rows in usable(tmp_path / "a").values() for row in rows if len(rows) > 1}
    assert asked == left < {row["text"] for row in written(tmp_path / "a").values()}


@pytest.mark.parametrize("by", ["scores", "pairwise"])
def test_an_estimate_is_an_upper_bound_of_the_calls(by: str, faulty: Path, prompts: Path, tmp_path: Path) -> None:
    with serving(READER) as server:
        judge = {"judge": "openai:m", "endpoint": {"base_url": server.url}}
        config = STAGES["pairs"].config.model_validate({"kind": "pairs", **FEW, **RIGHT, "by": by, "judge": judge})
        planned = Planned(config, {"prompts": prompts, "model": faulty}, {}, tmp_path / "journal.sqlite")
        known = pair_calls(planned)
        assert server.calls == [] and not planned.journal.exists()
        found = judged(tmp_path / "a", server.url, faulty, prompts, by=by)
    assert known is not None and known.calls == 16 * 3 * (1 if by == "scores" else 2)
    assert found["remote_calls"] - 1 <= known.calls and found["remote_tokens"] < known.tokens
    rows = STAGES["generate"].config.model_validate({"kind": "generate", "rows": 10})
    awaited = pair_calls(Planned(config, {}, {"prompts": rows}, planned.journal))
    assert awaited is not None and awaited.calls == known.calls * 10 // 16
    without = config.model_copy(update={"judge": None})
    assert pair_calls(Planned(without, {}, {"prompts": rows}, planned.journal)) is None
