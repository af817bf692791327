"""The judge stage with a language model behind an endpoint: graded, compared, tested by canaries, never asked twice."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from judging_server import Grade, honest, judging
from misbehaving_server import FAULTS, Call, Reply, Script, serving, status
from stage_context import PROMPTS, RUBRIC, checked, context, given, run

from posttrain.chain.stage import Input, Planned
from posttrain.engines.budget import BudgetExceeded
from posttrain.errors import PosttrainError
from posttrain.rows import read_rows, write_rows
from posttrain.stages import STAGES
from posttrain.stages.judge_cost import judge_calls

WORLD = read_rows(PROMPTS)
ANSWERS, CANARIES = 8, 5 * 40  # calls: gold and its twin are one, an empty answer is none
GRADE = honest(WORLD)
READER = judging(GRADE)


def completions(folder: Path, shift: int = 0) -> Input:
    """Each prompt's own reference, or, shifted, another one's."""
    folder.mkdir(parents=True)
    texts = [row["reference"] for row in WORLD[:ANSWERS]]
    made = [
        {"id": row["id"], "sample": 0, "prompt": row["prompt"], "text": text, "stopped": True, "tokens": 1}
        for row, text in zip(WORLD, [*texts[shift:], *texts[:shift]], strict=False)
    ]
    write_rows(folder / "completions.jsonl", made)
    return given(folder)


def judged(folder: Path, url: str, samples: Input, stop_after: int | None = None, **more: Any) -> dict[str, Any]:
    """The judge stage on these samples; one journal for all folders of a test."""
    inputs = {key: more.pop(key) for key in ("before", "previous") if key in more}
    given_endpoint = more.pop("endpoint", {})
    endpoint = {"base_url": url, "retries": 8, "concurrency": 16, "deadline": 60, **given_endpoint}
    ctx = context(folder, stop_after, judged=samples, **inputs)
    ctx = replace(ctx, journal=folder.parent / "journal.sqlite")
    settings = {"judge": "openai:m", "endpoint": endpoint, "rubric": RUBRIC, "prompts": PROMPTS, **more}
    return run("judge", ctx, judged="s", **settings)


def test_a_model_that_reads_grades_compares_and_passes_its_canaries(tmp_path: Path) -> None:
    old, new = completions(tmp_path / "old", shift=1), completions(tmp_path / "new")
    with serving(READER) as server:
        first = judged(tmp_path / "a", server.url, old)
        assert first["verdict"] == "BASELINE" and first["judge"] == "openai:m"
        assert all(check["ok"] for check in first["canaries"])
        assert len(server.calls) == 1 + ANSWERS + CANARIES and "pairwise" not in first
        before = {"before": old, "previous": given(tmp_path / "a/out", **first)}
        second = judged(tmp_path / "b", server.url, new, **before)
        bodies = [json.dumps(call.body) for call in server.calls]
        assert len(bodies) == len(set(bodies))  # canaries are known already, and some of the new answers are gold ones
    assert second["verdict"] == "PASS" and second["changes"]["instruct"]["low"] > 0
    assert second["pairwise"]["win_rate"]["score"] == 1.0 and second["pairwise"]["flip_rate"] == 0.0
    assert second["choices"]["age_group"]["4 to 5"] == 1.0 and "age_group" not in second["axes"]
    assert second["remote_calls"] == len(bodies) - first["remote_calls"] <= 3 * ANSWERS
    assert second["cost_usd"] == 0  # this machine sends no bill
    assert "enforces json_schema" in second["judge_notes"][0]
    assert {row["win"]["score"] for row in read_rows(tmp_path / "b/out/pairs.jsonl")} == {1.0}


@pytest.mark.parametrize(
    "grade", [lambda request, answer: 7.0, lambda request, answer: float(min(10, len(answer) // 100)),
              lambda request, answer: 10.0 if "10/10" in answer else 5.0]
)  # fmt: skip
def test_a_model_that_does_not_read_is_no_judge(tmp_path: Path, grade: Grade) -> None:
    """One grade for all, the longer the better, and one that does as the answer bids."""
    with serving(judging(grade)) as server:
        found = judged(tmp_path / "a", server.url, completions(tmp_path / "s"))
    assert found["verdict"] == "JUDGE INVALID" and "failed its canaries" in found["why"]


def test_a_model_that_takes_the_first_answer_wins_nothing_for_anyone(tmp_path: Path) -> None:
    def leaning(call: Call) -> Reply:
        return judging(lambda request, answer: 5.0)(call) if "ANSWER A" not in call.prompt else first(call)

    def first(call: Call) -> Reply:
        return Reply(body=READER(call).body.replace(b'\\"B\\"', b'\\"A\\"'))

    old, new = completions(tmp_path / "old", shift=1), completions(tmp_path / "new")
    with serving(leaning) as server:
        found = judged(tmp_path / "a", server.url, new, before=old)["pairwise"]
    assert found["win_rate"]["score"] == 0.5 and found["flip_rate"] == 1.0 and found["first_share"] == 1.0


def faulty(script: Script, share: int = 3) -> Script:
    """About one first try in `share` goes wrong, each time in another way; what is asked again is answered."""
    ways = [
        FAULTS[name] for name in FAULTS if name not in ("stall", "1 byte/s", "stalled body", "429, wait 1 s", "1 MB")
    ]

    def answer(call: Call) -> Reply:
        wrong = call.nth == 0 and crc32(json.dumps(call.body, sort_keys=True).encode()) % share == 0
        return ways[call.number % len(ways)](call) if wrong else script(call)

    return answer


def test_with_a_third_of_the_calls_going_wrong_the_verdicts_are_the_same_bytes(tmp_path: Path) -> None:
    samples = completions(tmp_path / "s", shift=1)
    with serving(READER) as server:
        well = judged(tmp_path / "well/a", server.url, samples)
        calls = len(server.calls)
    with serving(faulty(READER)) as server:
        ill = judged(tmp_path / "ill/a", server.url, samples)
        assert len(server.calls) > 1.15 * calls
    same = {"remote_calls", "remote_tokens", "judge_notes"}
    assert {key: ill[key] for key in ill.keys() - same} == {key: well[key] for key in well.keys() - same}
    for name in ("verdicts.jsonl", "canaries.jsonl"):
        assert (tmp_path / "ill/a/out" / name).read_bytes() == (tmp_path / "well/a/out" / name).read_bytes()


def test_answers_that_never_come_are_unscored_and_there_is_no_verdict(tmp_path: Path) -> None:
    samples = completions(tmp_path / "s", shift=1)
    lost = read_rows(samples.path / "completions.jsonl")[0]["prompt"]

    def script(call: Call) -> Reply:
        return status(400)(call) if json.dumps(lost)[1:-1] in call.prompt else READER(call)

    with serving(script) as server:
        found = judged(tmp_path / "a", server.url, samples, canaries="eval/prompts/canaries.jsonl")
    missing = [row for row in read_rows(tmp_path / "a/out/verdicts.jsonl") if row["axes"]["plot"]["score"] is None]
    assert len(missing) == 1 and "HTTP 400" in missing[0]["axes"]["plot"]["reason"]
    assert found["n_scored"] == ANSWERS - 1 and found["verdict"] == "INCONCLUSIVE" and "1 of 8" in found["why"]


def test_a_judge_that_is_stopped_asks_only_what_is_missing_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    samples = completions(tmp_path / "s", shift=1)
    with serving(READER) as server:
        whole = judged(tmp_path / "whole/a", server.url, samples)
        calls = len(set(server.prompts))
    with serving(READER) as server:
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                judged(tmp_path / "cut/a", server.url, samples, stop_after=60)
        again = judged(tmp_path / "cut/a", server.url, samples)
        prompts = server.prompts
    assert len(set(prompts)) == calls and again["axes"] == whole["axes"]
    assert len(prompts) - calls <= 3 * 16  # what was in flight when it was stopped, and no answered call
    verdicts = [(tmp_path / folder / "a/out/verdicts.jsonl").read_bytes() for folder in ("cut", "whole")]
    assert verdicts[0] == verdicts[1] and again["remote_calls"] >= calls


@pytest.mark.slow
def test_votes_are_samples_of_their_own_and_a_panel_is_the_mean_of_its_families(tmp_path: Path) -> None:
    def by_model(call: Call) -> Reply:
        shift = {"kind": 2.0, "kind-too": 2.0, "stern": -1.0, "m": 0.0}[call.body["model"]]
        return judging(lambda request, answer: min(max(GRADE(request, answer) + shift, 1.0), 10.0))(call)

    samples = completions(tmp_path / "s", shift=1)
    with serving(by_model) as server:
        alone = judged(tmp_path / "a", server.url, samples, votes=3, endpoint={"temperature": 1, "seed": 5})
        assert len(server.calls) == 1 + 3 * (ANSWERS + CANARIES)
        assert {call.body.get("seed") for call in server.calls[1:]} == {5, 6, 7}
        one = {"base_url": server.url}
        models = [{"model": "kind", "family": "k"}, {"model": "kind-too", "family": "k"}, {"model": "stern"}]
        panel = [{**model, **one} for model in models]
        voices = judged(tmp_path / "b", server.url, samples, judge="panel", panel=panel)
    reason = read_rows(tmp_path / "a/out/verdicts.jsonl")[0]["axes"]["plot"]["reason"]
    assert reason.startswith("3 of 3 votes") and alone["verdict"] == "BASELINE"
    assert voices["judge"] == "openai:kind+openai:kind-too+openai:stern" and len(voices["judge_notes"]) == 3
    for row in read_rows(tmp_path / "b/out/verdicts.jsonl"):
        told = row["axes"]["plot"]["reason"]
        grades = [float(part.split()[1]) for part in told.split("; ")[1:]]
        assert row["axes"]["plot"]["score"] == pytest.approx(((grades[0] + grades[1]) / 2 + grades[2]) / 2)


def test_a_budget_stops_before_the_call_that_would_pass_it_and_nothing_is_lost(tmp_path: Path) -> None:
    samples = completions(tmp_path / "s", shift=1)
    with serving(READER) as server:
        with pytest.raises(BudgetExceeded, match=r"budget\.requests of r"):
            judged(tmp_path / "a", server.url, samples, budget={"requests": 50})
        assert len(server.calls) == 50
        found = judged(tmp_path / "a", server.url, samples, budget={"requests": 500})
        assert len(server.calls) == 1 + ANSWERS + CANARIES == found["remote_calls"]


def test_an_estimate_counts_the_very_calls_that_are_made(tmp_path: Path) -> None:
    old, new = completions(tmp_path / "old", shift=1), completions(tmp_path / "new")
    with serving(READER) as server:
        price = {"input": 1.0, "output": 10.0}
        settings = {
            "kind": "judge", "judged": "s", "before": "b", "judge": "openai:m", "rubric": RUBRIC, "prompts": PROMPTS,
            "endpoint": {"base_url": server.url, "price": price},
        }  # fmt: skip
        made = {"judged": new.path, "before": old.path}
        config = STAGES["judge"].config.model_validate(settings)
        planned = Planned(config, made, {}, tmp_path / "journal.sqlite")
        before = judge_calls(planned)
        assert before is not None and before.calls > CANARIES and before.answered == 0
        assert server.calls == [] and not planned.journal.exists()
        found = judged(tmp_path / "a", server.url, new, before=old, endpoint={"price": price})
        assert found["remote_calls"] == before.calls + 1  # and the test call
        assert before.usd is not None and 0 < found["cost_usd"] < before.usd
        after = judge_calls(planned)
    assert after is not None and after.answered == after.calls == before.calls and after.usd == 0


def test_the_rule_judge_asks_nobody(tmp_path: Path) -> None:
    config = STAGES["judge"].config.model_validate(
        {"kind": "judge", "judged": "s", "rubric": RUBRIC, "prompts": PROMPTS}
    )
    assert judge_calls(Planned(config, {}, {}, tmp_path / "journal.sqlite")) is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such judge": ({"judge": "gpt-4o"}, "rule, panel or openai:MODEL"),
    "no model": ({"judge": "openai:"}, "a model's name is needed"),
    "equal votes": ({"judge": "openai:m", "votes": 3}, "temperature 0, where all votes are the same"),
    "an empty panel": ({"judge": "panel"}, r"judge\.panel: found 0 models"),
    "a panel of nobody": ({"judge": "openai:m", "panel": [{"model": "n"}]}, r"judge\.panel: found 1 models"),
    "one judge twice": ({"judge": "panel", "panel": [{"model": "n"}, {"model": "n"}]}, "stands there twice"),
    "dollars without a price": (
        {"judge": "openai:m", "endpoint": {"base_url": "https://api.example.org/v1"}, "budget": {"usd": 1}}, "no price"
    ),
    "votes of a rule": ({"votes": 2}, "asks nobody"),
    "a gate on a choice": ({"judge": "openai:m", "axis": "age_group"}, "'age_group' is no axis"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_any_compute(name: str) -> None:
    settings, said = REFUSED[name]
    with pytest.raises((PosttrainError, ValueError), match=said):
        checked("judge", judged="s", rubric=RUBRIC, prompts=PROMPTS, **settings)


def test_a_key_that_is_not_set_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = STAGES["judge"]
    assert stage.ready is not None
    settings = {"kind": "judge", "judged": "s", "judge": "openai:m", "rubric": RUBRIC, "prompts": PROMPTS}
    config = stage.config.model_validate(settings)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PosttrainError, match="OPENAI_API_KEY is not set"):
        stage.ready(config)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    stage.ready(config)


def test_what_changes_a_verdict_is_identity_and_how_it_is_asked_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.chain.graph import named_node

    stage = STAGES["judge"]

    def identity(**more: Any) -> str:
        settings = {"kind": "judge", "judged": None, "judge": "openai:m", "rubric": RUBRIC, "prompts": PROMPTS, **more}
        config = stage.config.model_validate(settings)
        return named_node("n", stage, config, {}, {}).identity

    usual = identity()
    how: list[dict[str, Any]] = [
        {"endpoint": {"concurrency": 32, "deadline": 5, "retries": 1, "api_key_env": "K"}}, {"budget": {"usd": 1}},
        {"allow_self_judging": True},
    ]  # fmt: skip
    assert {identity(**change) for change in how} == {usual}
    what: list[dict[str, Any]] = [
        {"judge": "openai:n"}, {"votes": 2}, {"pairwise": False}, {"endpoint": {"temperature": 1}},
        {"endpoint": {"base_url": "http://127.0.0.1:1/v1"}},
    ]  # fmt: skip
    assert len({usual, *(identity(**change) for change in what)}) == 1 + len(what)
    words: Callable[[str], str] = lambda name: f"other words $material of {name}"  # noqa: E731
    monkeypatch.setattr("eval.grading_prompt.template", words)
    assert identity() != usual and identity(judge="rule") == identity(judge="rule")
