"""Recipe extract: the judge's stage with exact scores, and the whole chain offline."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stage_context import checked, context, given, run

from posttrain.chain.paths import PROJECT
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


@pytest.mark.slow
def test_the_whole_chain_runs_offline(tmp_path: Path) -> None:
    small = [
        "generate.rows=300",
        "generate.test_size=20",
        "sft.num_train_epochs=0.2",
        "judge.limit=12",
        "gate.on_fail=warn",
    ]
    small += ["export.rows=4", "export.completions=2", "export.new_tokens=16"]
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
