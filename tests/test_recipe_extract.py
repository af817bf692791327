"""Recipe extract: the judge's stage with exact scores, and the whole chain offline."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from misbehaving_server import Call, Reply, chat, serving
from stage_context import checked, context, given, run

from data_gen.story import tell
from posttrain.chain.paths import PROJECT
from posttrain.engines.probe import EXPECTED
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows

RUBRIC, PROMPTS = PROJECT / "eval/rubrics/extraction.md", PROJECT / "eval/prompts/extraction.jsonl"
SETTINGS: dict[str, Any] = {"judged": "s", "rubric": RUBRIC, "prompts": PROMPTS, "canaries": PROMPTS, "axis": "f1"}


def judged(folder: Path, texts: Mapping[str, str], **settings: Any) -> dict[str, Any]:
    folder.mkdir()
    made = [{"id": key, "sample": 0, "text": text, "stopped": True} for key, text in texts.items()]
    write_rows(folder / "completions.jsonl", made)
    return run("judge", context(folder, judged=given(folder)), **{**SETTINGS, **settings})


def test_the_rule_judge_of_extraction_is_exact(tmp_path: Path) -> None:
    prompts = read_rows(PROMPTS)[:30]
    found = judged(tmp_path / "gold", {row["id"]: row["reference"] for row in prompts})
    assert found["judge"] == "rule (exact)" and found["verdict"] == "BASELINE" and found["words_used"] is None
    assert found["axes"]["f1"]["score"] == 10.0 and found["exact"]["F1"]["score"] == 1.0
    assert len(found["canaries"]) == 7 and all(check["ok"] for check in found["canaries"])
    empty = judged(tmp_path / "empty", {row["id"]: json.dumps(row["template"]) for row in prompts})
    assert empty["exact"]["same structure"]["score"] == 1.0 and empty["exact"]["recall"]["score"] == 0.0
    assert "precision" not in empty["exact"] and empty["axes"]["precision"]["score"] is None  # unscored is not zero


def test_rows_are_judged_by_what_is_known_of_them(tmp_path: Path) -> None:
    def messages(prompt: Row, answer: str) -> list[Row]:
        return [{"role": "user", "content": prompt["prompt"]}, {"role": "assistant", "content": answer}]

    prompts = read_rows(PROMPTS)
    answers = [row["reference"] for row in prompts]
    for name, given_answers in (("right", answers), ("wrong", [*answers[1:], answers[0]])):
        folder = tmp_path / name
        folder.mkdir()
        pairs = zip(prompts, given_answers, strict=True)
        write_rows(folder / "train.jsonl", ({**row, "messages": messages(row, answer)} for row, answer in pairs))
        found = run("judge", context(folder, judged=given(folder)), **SETTINGS, minimum=7.0, test=None)
        assert (found["axes"]["f1"]["score"] == 10.0) is (name == "right")


def test_the_canaries_of_extraction_are_no_stories() -> None:
    stories = PROJECT / "eval/prompts/tinystories.jsonl"
    with pytest.raises(PosttrainError, match="fewer than 40 rows with 'template' and 'expected'"):
        checked("judge", **{**SETTINGS, "prompts": stories, "canaries": stories})
    checked("judge", **SETTINGS)


def filling(template: Any, words: list[str]) -> Any:
    """A template with words of the text in every place."""
    if isinstance(template, dict):
        return {key: filling(value, words) for key, value in template.items()}
    if isinstance(template, list):
        return [filling(template[0] if template else "", words) for _ in range(2)]
    return words.pop()


def reading(call: Call) -> Reply:
    """A teacher that fills in templates, in a fence; of three questions in ten it makes something up, chats or adds."""
    if not call.prompt.startswith("Fill in a JSON template"):
        return Reply(body=json.dumps(chat(json.dumps(EXPECTED))).encode())
    template, text = call.prompt.partition("Template:\n")[2].split("\n\nText:\n")
    found, rng = json.loads(template), random.Random(call.prompt)
    filled = filling(found, rng.sample(text.split(), 30))
    said = f"Here it is:\n```json\n{json.dumps(filled, indent=1)}\n```\nI hope this helps."
    faults = ["I cannot.", json.dumps({**filled, "more": ""}), json.dumps(filling(found, ["Zanzibar"] * 30))]
    return Reply(body=json.dumps(chat(rng.choice(faults) if rng.random() < 0.3 else said)).encode())


def test_texts_of_a_source_are_read_by_a_teacher_and_what_they_do_not_say_is_dropped(tmp_path: Path) -> None:
    source = tmp_path / "stories.jsonl"
    write_rows(source, ({"text": tell(4, number).text} for number in range(60)))
    with serving(reading) as server:
        found = run(
            "generate",
            context(tmp_path, source=given(source)),
            generator="extraction",
            source=str(source),
            rows=60,
            test_size=5,
            teacher="openai:reader",
            endpoint={"base_url": server.url, "served_as": "double"},
        )
    rows = [row for name in ("train", "test") for row in read_rows(tmp_path / "out" / f"{name}.jsonl")]
    faults = {name: found["counts"][name] for name in ("not JSON", "another structure", "a value not in the text")}
    assert min(faults.values()) > 0 and len(rows) == 60 - sum(faults.values())
    for row in rows:
        answer = json.loads(row["messages"][1]["content"])
        assert answer.keys() == row["template"].keys() and "Zanzibar" not in row["messages"][1]["content"]
        assert row["provenance"]["teacher"] == "openai:reader" and "expected" not in row


def test_without_a_teacher_texts_of_a_source_have_no_answers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="generator extraction has no answers of its own here; add 'teacher'"):
        run("generate", context(tmp_path), generator="extraction", source="stories.jsonl")


@pytest.mark.slow
def test_the_whole_chain_runs_offline(tmp_path: Path) -> None:
    small = [
        "generate.rows=300",
        "generate.test_size=20",
        "sft.num_train_epochs=0.2",
        "judge.limit=12",
        "gate.on_fail=warn",
    ]
    small += ["export.rows=4", "export.completions=2", "export.new_tokens=16", "export.limits.d_nll_share=1"]
    small += ["export.limits.top1=0.5", "export.limits.top1_clear=0.5"]  # so little training leaves near-ties
    command = [sys.executable, "-m", "posttrain", "run", "extract", "--store", str(tmp_path / "store"), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *(part for text in small for part in ("--set", text))],
        cwd=PROJECT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    steps = {step["name"]: step for step in json.loads(done.stdout)["steps"]}
    assert {"base", "generate", "sft", "export"} <= steps.keys()
    assert steps["generate"]["judge"]["verdict"] == "PASS" and steps["generate"]["judge"]["exact"]["F1"]["score"] == 1.0
    assert all(steps[name]["judge"]["verdict"] != "JUDGE INVALID" for name in ("base", "sft", "export"))
    assert set(steps["sft"]["judge"]["exact"]) >= {"valid JSON", "same structure", "recall", "F1"}
