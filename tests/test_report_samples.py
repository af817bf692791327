"""Completions side by side: which prompts, which words, and how far a step fell."""

import os
from pathlib import Path

import pytest
from chain_fakes import no_wait
from report_fakes import AXES, Run, whole_chain

from posttrain.report.samples import marked, shown_prompts
from posttrain.rows import read_rows, write_rows


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_wait)


def same(word: str) -> frozenset[str]:
    return frozenset({word})


def rescore(run: Run, step: str, prompt: str, axis: str, score: float | None) -> None:
    path = next(artifact.path for row, artifact in run.nodes if row["name"] == f"{step}.judge") / "verdicts.jsonl"
    rows = read_rows(path)
    for row in rows:
        if row["id"] == prompt:
            row["axes"][axis]["score"] = score
    write_rows(path, rows)


def test_prompts_are_chosen_by_their_order_and_not_by_their_scores(tmp_path: Path) -> None:
    run = whole_chain(tmp_path)
    rescore(run, "sft", "p23", "plot", 1.0)
    shown = shown_prompts(run.nodes, 20, run.prompts, same)
    assert ["".join(text for text, _ in prompt.prompt).split()[1] for prompt in shown] == [str(at) for at in range(20)]
    assert [cell.step for cell in shown[0].cells] == ["base", "sft"]


def test_a_prompt_that_one_step_did_not_answer_is_left_out(tmp_path: Path) -> None:
    run = whole_chain(tmp_path)
    path = next(artifact.path for row, artifact in run.nodes if row["name"] == "sft.samples") / "completions.jsonl"
    write_rows(path, [row for row in read_rows(path) if row["id"] != "p00"])
    assert len(shown_prompts(run.nodes, 24, None, same)) == 23


def test_the_worst_drop_is_against_the_step_before_on_the_axis(tmp_path: Path) -> None:
    run = whole_chain(tmp_path)
    rescore(run, "base", "p00", "plot", 8.0)
    rescore(run, "sft", "p00", "plot", 5.5)
    first, second = shown_prompts(run.nodes, 2, None, same)
    worst = first.worst(None)
    assert worst is not None and worst.axis == "plot" and worst.change == -2.5
    assert first.drop("plot") == first.drop(None) == 2.5 and first.drop("grammar") == 0.0
    assert second.drop(None) == 0.0  # it rose on every axis
    assert [verdict.change for verdict in first.cells[0].verdicts] == [None] * len(AXES)  # nothing before the base


def test_an_unscored_completion_neither_rose_nor_fell(tmp_path: Path) -> None:
    run = whole_chain(tmp_path)
    rescore(run, "sft", "p00", "plot", None)
    prompt = shown_prompts(run.nodes, 1, None, same)[0]
    assert prompt.drop("plot") is None and prompt.last("plot") is None and prompt.drop("grammar") == 0.0


def test_marks_keep_the_text_and_find_whole_words() -> None:
    text = "The fox's key, a monkey and “Foxes”. <b>fox</b>"
    pieces = marked(text, ["fox", "key"], lambda word: frozenset({word, word + "es"}))
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, is_word in pieces if is_word] == ["fox's", "key", "Foxes", "fox"]
    assert marked(text, [], same) == [(text, False)] and marked("", ["fox"], same) == []


def test_a_run_without_samples_shows_none(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add("rows", "generate", {})
    assert shown_prompts(run.nodes, 20, None, same) == []
