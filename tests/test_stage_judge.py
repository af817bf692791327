"""The judge stage: verdicts on files, paired with the step before; unscored is not zero."""

from pathlib import Path
from typing import Any

import pytest
from stage_context import PROMPTS, RUBRIC, context, given, run

from posttrain.chain.stage import Input
from posttrain.rows import read_rows, write_rows


def judged(tmp_path: Path, texts: dict[str, str | None], **inputs: Input) -> dict[str, Any]:
    folder = tmp_path / "samples"
    folder.mkdir(exist_ok=True)
    made = [
        {"id": key, "sample": 0, "prompt": "p", "text": text, "stopped": True, "tokens": 1}
        for key, text in texts.items()
    ]
    write_rows(folder / "completions.jsonl", made)
    ctx = context(tmp_path, judged=given(folder), **inputs)
    return run("judge", ctx, judged="s", rubric=RUBRIC, prompts=PROMPTS)


def test_the_judge_prefers_the_reference_and_pairs_with_the_step_before(tmp_path: Path) -> None:
    prompts = read_rows(PROMPTS)[:20]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    other = judged(
        tmp_path / "a", {p["id"]: q["reference"] for p, q in zip(prompts, prompts[1:] + prompts[:1], strict=True)}
    )
    assert other["verdict"] == "BASELINE"
    before = {"previous": given(tmp_path / "a" / "out")}
    better = judged(tmp_path / "b", {p["id"]: p["reference"] for p in prompts}, **before)
    assert better["verdict"] == "PASS" and better["changes"]["instruct"]["low"] > 0
    assert better["words_used"]["share"] > 0.9 > other["words_used"]["share"]
    (tmp_path / "c").mkdir()
    back = judged(
        tmp_path / "c",
        {p["id"]: q["reference"] for p, q in zip(prompts, prompts[1:] + prompts[:1], strict=True)},
        previous=given(tmp_path / "b" / "out"),
    )
    assert back["verdict"] == "FAIL"


def test_unscored_is_not_zero(tmp_path: Path) -> None:
    prompts = read_rows(PROMPTS)[:20]
    texts: dict[str, str | None] = {p["id"]: p["reference"] for p in prompts}
    full = judged(tmp_path, texts)
    (tmp_path / "n").mkdir()
    missing = judged(tmp_path / "n", {**texts, prompts[0]["id"]: None})
    assert (missing["n_scored"], missing["n_asked"]) == (19, 20)
    assert missing["axes"]["instruct"]["score"] == pytest.approx(full["axes"]["instruct"]["score"], abs=0.3)
    assert missing["verdict"] == "INCONCLUSIVE"
    verdicts = read_rows(tmp_path / "n" / "out" / "verdicts.jsonl")
    assert verdicts[0]["axes"]["instruct"]["score"] is None
