"""The judge stage: verdicts on files, paired with the step before; canaries among them; unscored is not zero."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sabotaged_judges import SABOTAGED
from stage_context import PROMPTS, RUBRIC, context, given, run

from eval.canaries import Fit
from eval.story_rules import AXES, rule_judge
from eval.verdict import Judge, Verdict, unscored
from posttrain.chain.stage import Input
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages.judge import JudgeConfig, check, judge_with

CONFIG = JudgeConfig(kind="judge", judged="s", rubric=RUBRIC, prompts=PROMPTS)
BEST = {row["prompt"]: row["reference"] for path in (PROMPTS, CONFIG.canaries) for row in read_rows(path)}


def knowing(prompts: Mapping[str, Any], completions: Sequence[Any], training: Sequence[str]) -> Judge:
    """A quick judge that may be trusted: it knows the references, and has no opinion of the plot."""

    def grades(row: Mapping[str, Any]) -> dict[str, Verdict]:
        if row["text"] is None:
            return dict.fromkeys(AXES, unscored("no text"))
        best = row["text"] == BEST[prompts[row["id"]]["prompt"]]
        return {axis: Verdict(5.0 if axis == "plot" else 9.0 if best else 2.0, "") for axis in AXES}

    return lambda rows: [grades(row) for row in rows]


def samples(folder: Path, texts: Mapping[str, str | None]) -> Input:
    folder.mkdir(parents=True, exist_ok=True)
    row = {"sample": 0, "prompt": "p", "stopped": True, "tokens": 1}
    write_rows(folder / "completions.jsonl", ({"id": key, "text": text, **row} for key, text in texts.items()))
    return given(folder)


def instruction(key: str, prompt: Row) -> Row:
    messages = [{"role": "user", "content": prompt["prompt"]}, {"role": "assistant", "content": prompt["reference"]}]
    return {**prompt, "id": key, "messages": messages}


def rows(folder: Path, made: Sequence[Row]) -> Input:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", made)
    return given(folder)


def judged(
    folder: Path, texts: Mapping[str, str | None], fit: Fit = knowing, config: JudgeConfig = CONFIG, **inputs: Input
) -> dict[str, Any]:
    ctx = context(folder, judged=samples(folder / "samples", texts), **inputs)
    return judge_with(fit, config, ctx)


def references(count: int = 20) -> dict[str, str | None]:
    return {prompt["id"]: prompt["reference"] for prompt in read_rows(PROMPTS)[:count]}


def others(count: int = 20) -> dict[str, str | None]:
    """Each prompt's answer is the next one's."""
    texts = list(references(count).values())
    return dict(zip(references(count), [*texts[1:], *texts[:1]], strict=True))


def test_the_judge_prefers_the_reference_and_pairs_with_the_step_before(tmp_path: Path) -> None:
    other = judged(tmp_path / "a", others(), rule_judge)
    assert other["verdict"] == "BASELINE"
    better = judged(tmp_path / "b", references(), rule_judge, previous=given(tmp_path / "a" / "out", **other))
    assert better["verdict"] == "PASS" and better["changes"]["instruct"]["low"] > 0
    assert better["words_used"]["share"] > 0.9 > other["words_used"]["share"]
    back = judged(tmp_path / "c", others(), rule_judge, previous=given(tmp_path / "b" / "out", **better))
    assert back["verdict"] == "FAIL"


def test_the_stage_as_a_chain_calls_it_judges_by_rules(tmp_path: Path) -> None:
    ctx = context(tmp_path, judged=samples(tmp_path / "samples", references()))
    found = run("judge", ctx, judged="s", rubric=RUBRIC, prompts=PROMPTS)
    assert found == judged(tmp_path / "again", references(), rule_judge)
    assert found["judge"] == "rule (a proxy)"


def test_unscored_is_not_zero(tmp_path: Path) -> None:
    full = judged(tmp_path / "full", references())
    missing = judged(tmp_path, {**references(), next(iter(references())): None})
    assert (missing["n_scored"], missing["n_asked"]) == (19, 20)
    assert missing["axes"]["instruct"]["score"] == pytest.approx(full["axes"]["instruct"]["score"], abs=0.3)
    assert missing["verdict"] == "INCONCLUSIVE"
    verdicts = read_rows(tmp_path / "out" / "verdicts.jsonl")
    assert verdicts[0]["axes"]["instruct"]["score"] is None


@pytest.mark.parametrize("name", SABOTAGED)
def test_a_sabotaged_judge_is_reported_invalid_whatever_its_figures(name: str, tmp_path: Path) -> None:
    found = judged(tmp_path, references(), SABOTAGED[name])
    assert found["verdict"] == "JUDGE INVALID" and found["summary"].startswith("JUDGE INVALID: ")
    failed = [check for check in found["canaries"] if not check["ok"]]
    assert failed and all(f"{c['name']} {c['passed']} of {c['asked']}" in found["why"] for c in failed)


def test_an_invalid_judge_of_the_step_before_proves_no_change(tmp_path: Path) -> None:
    before = judged(tmp_path / "a", others(), SABOTAGED["constant"])
    after = judged(tmp_path / "b", references(), previous=given(tmp_path / "a" / "out", **before))
    assert after["verdict"] == "JUDGE INVALID" and "(the step before)" in after["why"]
    assert all(check["ok"] for check in after["canaries"])  # its own judge is sound
    fair = judged(tmp_path / "c", others())
    again = judged(tmp_path / "d", references(), previous=given(tmp_path / "c" / "out", **fair))
    assert again["verdict"] == "PASS"  # negative control


def test_canaries_leave_the_verdicts_alone_and_lie_beside_them(tmp_path: Path) -> None:
    found = judged(tmp_path, others(), rule_judge)
    verdicts = read_rows(tmp_path / "out" / "verdicts.jsonl")
    prompts = {row["id"]: row for row in read_rows(PROMPTS)}
    asked = [{"id": key, "text": text, "stopped": True} for key, text in others().items()]
    alone = rule_judge(prompts, asked)(asked)
    assert [row["id"] for row in verdicts] == [row["id"] for row in asked]
    assert [row["axes"] for row in verdicts] == [
        {axis: verdict._asdict() for axis, verdict in row.items()} for row in alone
    ]
    canaries = read_rows(tmp_path / "out" / "canaries.jsonl")
    assert {tuple(row) for row in canaries} == {("kind", "id", "text", "axes")}
    assert {row["text"] for row in canaries if row["kind"] == "gold"} <= {row["reference"] for row in prompts.values()}
    assert sum(check["asked"] for check in found["canaries"]) * 7 == len(canaries) * 6
    assert [list(check) for check in found["canaries"]] == [["name", "asked", "passed", "needed", "ok"]] * 6


def seen(folder: Path, config: JudgeConfig, **inputs: Input) -> tuple[list[Row], list[str]]:
    """The rows that a judge step hands over, and the training answers."""
    handed: list[Row] = []
    trained: list[str] = []

    def fit(prompts: Mapping[str, Any], completions: Sequence[Any], training: Sequence[str]) -> Judge:
        trained.extend(training)
        judge = knowing(prompts, completions, training)

        def watched(part: Sequence[Mapping[str, Any]]) -> Any:
            handed.extend(dict(row) for row in part)
            return judge(part)

        return watched

    judge_with(fit, config, context(folder, **inputs))
    return handed, trained


def test_rows_of_a_data_step_are_judged_among_canaries_too(tmp_path: Path) -> None:
    made = [instruction(f"{number:06d}", prompt) for number, prompt in enumerate(read_rows(PROMPTS)[:60])]
    write_rows(tmp_path / "p.jsonl", read_rows(PROMPTS)[60:])  # a row may be no prompt
    held_to = CONFIG.model_copy(update={"prompts": tmp_path / "p.jsonl", "minimum": 7.0})
    given_rows = rows(tmp_path / "rows", made)
    handed, _ = seen(tmp_path / "a", held_to, judged=given_rows)
    assert {(tuple(row), len(row["id"])) for row in handed} == {(("id", "text", "stopped"), 5)}
    assert len(handed) == 60 + 280
    found = judge_with(knowing, held_to, context(tmp_path / "b", judged=given_rows))
    assert found["verdict"] == "PASS" and found["n_asked"] == 60
    bad = judge_with(SABOTAGED["longer is better"], held_to, context(tmp_path / "c", judged=given_rows))
    assert bad["verdict"] == "JUDGE INVALID"


def test_prompts_without_references_are_helped_out_by_the_built_in_stories(tmp_path: Path) -> None:
    bare = [{"id": row["id"], "prompt": row["prompt"], "words": row["words"]} for row in read_rows(PROMPTS)]
    write_rows(tmp_path / "p.jsonl", bare)
    config = CONFIG.model_copy(update={"prompts": tmp_path / "p.jsonl"})
    found = judged(tmp_path / "a", references(), config=config)
    assert all(check["ok"] for check in found["canaries"]) and found["verdict"] == "BASELINE"
    built_in = {row["reference"] for row in read_rows(CONFIG.canaries)}
    canaries = read_rows(tmp_path / "a" / "out" / "canaries.jsonl")
    assert {row["text"] for row in canaries if row["kind"] == "gold"} <= built_in
    assert judged(tmp_path / "b", references(), SABOTAGED["parrot"], config)["verdict"] == "JUDGE INVALID"
    with pytest.raises(PosttrainError, match=r"p\.jsonl: fewer than 40 rows with 'words' and a 'reference'"):
        check(config.model_copy(update={"canaries": tmp_path / "p.jsonl"}), "r.yaml: judge")


def test_copies_of_the_training_rows_are_known_to_the_judge(tmp_path: Path) -> None:
    prompts = read_rows(PROMPTS)[:40]
    training = rows(tmp_path / "rows", [instruction(f"{n:06d}", prompt) for n, prompt in enumerate(prompts[:20])])
    answers = samples(tmp_path / "samples", references(40))
    _, trained = seen(tmp_path / "s", CONFIG, judged=answers, training=training)
    assert trained == [prompt["reference"] for prompt in prompts[:20]]
    assert seen(tmp_path / "n", CONFIG, judged=answers)[1] == []
    judge_with(rule_judge, CONFIG, context(tmp_path / "b", judged=answers, training=training))
    scores = [row["axes"]["creativity"]["score"] for row in read_rows(tmp_path / "b" / "out" / "verdicts.jsonl")]
    assert max(scores[:20]) < min(scores[20:])


def test_progress_is_told_while_it_judges(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        judge_with(knowing, CONFIG, context(tmp_path, 100, judged=samples(tmp_path / "samples", references())))
    judge_with(knowing, CONFIG, context(tmp_path, 301, judged=samples(tmp_path / "samples", references())))


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    judged(tmp_path / "a", references())
    judged(tmp_path / "b", references())
    for name in ("verdicts.jsonl", "canaries.jsonl"):
        assert (tmp_path / "a/out" / name).read_bytes() == (tmp_path / "b/out" / name).read_bytes()


def checks_of(found: Mapping[str, Any]) -> dict[str, Row]:
    return {check["name"]: check for check in found["checks"]}


def compared(folder: Path, after: Mapping[str, str | None], before: Mapping[str, str | None], **inputs: Input) -> Any:
    """The judge on a step, as the chain calls it: with the samples and the verdicts of the step before."""
    first = judged(folder / "a", before)
    previous = given(folder / "a" / "out", **first)
    return judged(folder / "b", after, before=given(folder / "a" / "samples"), previous=previous, **inputs)


def test_the_record_says_every_check_with_its_figure_and_its_line(tmp_path: Path) -> None:
    found = compared(tmp_path, references(), others())
    assert found["verdict"] == "PASS" and found["test"] == "superior" and found["prompts"] == 20
    checks = checks_of(found)
    assert [*checks] == [
        "stop by themselves", "empty", "control tokens", "loop", "length", "held-out answers", "own prompts"
    ]  # fmt: skip
    assert all(check.keys() == {"name", "value", "limit", "ok", "note", "hard"} for check in checks.values())
    assert checks["stop by themselves"]["ok"] and checks["held-out answers"]["ok"] is None
    assert found["p_values"]["instruct"] <= 0.001 < 0.05 < found["p_values"]["plot"]


def test_a_leaked_control_token_fails_a_step_that_the_judge_prefers(tmp_path: Path) -> None:
    leaking = {key: f"{text}<|user|>" if key == "p003" else text for key, text in references().items()}
    found = compared(tmp_path, leaking, others())
    assert found["verdict"] == "FAIL" and found["changes"]["instruct"]["low"] > 0
    assert "not left to the judge: 1 of 20 with control tokens ('<|user|>')" in found["why"]


def test_the_control_strings_of_the_models_own_tokenizer_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "b" / "samples"
    folder.mkdir(parents=True)
    write_rows(folder / "control.jsonl", [{"text": "Once"}])
    found = compared(tmp_path, references(), others())
    assert checks_of(found)["control tokens"]["ok"] is False


def test_held_out_losses_are_compared_with_the_step_before(tmp_path: Path) -> None:
    def losses(folder: Path, own: float, other: float) -> None:
        folder.mkdir(parents=True)
        rows = [{"id": key, "tokens": 100, "key": key, "nats": own, "nats_other": other} for key in references()]
        write_rows(folder / "held_out.jsonl", rows)

    losses(tmp_path / "a" / "samples", 40.0, 42.0)
    losses(tmp_path / "b" / "samples", 35.0, 35.1)
    found = compared(tmp_path, references(), others())
    assert found["verdict"] == "FAIL" and "own prompts worth 0.001 nats a token (was 0.020)" in found["why"]
    assert checks_of(found)["held-out answers"] == {
        "name": "held-out answers", "value": 0.35, "limit": 0.6, "ok": True, "hard": True,
        "note": "held-out answers 0.40 → 0.35 nats a token, -0.05 [-0.05, -0.05]",
    }  # fmt: skip
    losses(tmp_path / "c" / "a" / "samples", 40.0, 42.0)
    losses(tmp_path / "c" / "b" / "samples", 35.0, 60.0)
    assert compared(tmp_path / "c", references(), others())["verdict"] == "PASS"  # negative control


def test_a_model_of_shuffled_rows_fails_whatever_its_answers(tmp_path: Path) -> None:
    prompts = read_rows(PROMPTS)[100:200]
    made = [instruction(f"{number:06d}", prompt) for number, prompt in enumerate(prompts)]
    mixed = [
        {**row, "messages": [row["messages"][0], other["messages"][1]]}
        for row, other in zip(made, [*made[1:], *made[:1]], strict=True)
    ]
    found = compared(tmp_path / "s", references(), others(), training=rows(tmp_path / "mixed", mixed))
    assert found["verdict"] == "FAIL" and not checks_of(found)["answers fit prompts"]["ok"]
    good = compared(tmp_path / "g", references(), others(), training=rows(tmp_path / "made", made))
    assert good["verdict"] == "PASS"  # negative control
    held_to = CONFIG.model_copy(update={"minimum": 1.0, "prompts": CONFIG.canaries})
    for folder, outcome in (("mixed", "FAIL"), ("made", "PASS")):
        ctx = context(tmp_path / f"rows-{folder}", judged=given(tmp_path / folder))
        assert judge_with(knowing, held_to, ctx)["verdict"] == outcome


def test_an_evaluation_prompt_among_the_training_rows_is_a_fail(tmp_path: Path) -> None:
    prompts = read_rows(PROMPTS)
    made = [instruction(f"{number:06d}", prompt) for number, prompt in enumerate(prompts[100:150])]
    seen_one = [*made, instruction("x", prompts[0])]
    found = compared(tmp_path / "s", references(), others(), training=rows(tmp_path / "rows", seen_one))
    assert found["verdict"] == "FAIL" and "1 of 20 evaluation prompts in the training rows" in found["why"]


def test_a_margin_lets_a_step_lose_a_little(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"test": "non_inferior", "margin": 0.3})
    first = judged(tmp_path / "a", references())
    same = judged(tmp_path / "b", references(), config=config, previous=given(tmp_path / "a" / "out", **first))
    assert same["verdict"] == "PASS" and same["margin"] == 0.3 and "not worse than the step before" in same["why"]
    strict = judged(tmp_path / "c", references(), previous=given(tmp_path / "a" / "out", **first))
    assert strict["verdict"] == "INCONCLUSIVE"


def test_the_worst_that_missing_scores_could_hide_is_recorded(tmp_path: Path) -> None:
    assert judged(tmp_path / "a", references())["worst_case"] is None
    missing = judged(tmp_path / "b", {**references(), "p003": None})
    worst = missing["worst_case"]
    assert worst["missing"] == 1 and worst["score"] < missing["axes"]["instruct"]["score"]
