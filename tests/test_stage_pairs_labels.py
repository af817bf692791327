"""Unpaired preferences: each answer with a label from its score, for KTO."""

from pathlib import Path
from typing import Any

import pytest
from pairs_stage import bytes_of, paired, rows_of, rows_step, scored, text_of, written

from posttrain.errors import PosttrainError

FREE: dict[str, Any] = {"format": "unpaired", "min_rows": 1, "test_size": 2}


def test_answers_are_labelled_by_the_median_of_their_scores(faulty: Path, prompt_rows: Path, tmp_path: Path) -> None:
    found = paired(tmp_path, faulty, prompt_rows, **FREE)
    rows, scores = rows_of(tmp_path), scored(tmp_path, prompt_rows)
    every = sorted(score for texts in scores.values() for score in texts.values())
    assert found["threshold"] == pytest.approx(every[len(every) // 2], abs=0.2)
    for row in rows:
        assert [*row] == ["id", "prompt", "completion", "label", "score", "source"]
        own = scores[row["id"].split("/")[0]][text_of(row, "completion")]
        assert row["score"] == pytest.approx(own, abs=1e-3) and row["label"] == (row["score"] >= found["threshold"])
    assert 0.4 <= found["desirable"] <= 0.7 and {row["label"] for row in rows} == {True, False}
    assert found["score_desirable"]["score"] > found["threshold"] > found["score_undesirable"]["score"]
    assert len({row["id"] for row in rows}) == len(rows)


def test_every_answer_is_a_row_or_counted_and_a_prompt_is_held_out_whole(
    faulty: Path, prompt_rows: Path, tmp_path: Path
) -> None:
    found = paired(tmp_path, faulty, prompt_rows, **FREE, margin=0.2)
    assert found["counts"]["ties"] > 0
    assert sum(found["counts"].values()) + len(rows_of(tmp_path)) == len(written(tmp_path)) == found["answers"] == 60
    assert found["summary"].startswith(f"{len(rows_of(tmp_path))} labelled answers of 60 answers, margin >= 0.2, ")
    train, test = ({key.split(b"/")[0] for key in part.split(b'"id": "')[1:]} for part in bytes_of(tmp_path))
    assert not train & test and len(test) == 2


def test_a_threshold_above_all_scores_is_refused_with_the_numbers(
    faulty: Path, prompt_rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(PosttrainError, match=r"0% of \d+ answers are desirable; 5% to 95% is allowed"):
        paired(tmp_path / "a", faulty, prompt_rows, **FREE, threshold=9.9, max_one_sided=0.95)
    assert paired(tmp_path / "b", faulty, prompt_rows, **FREE, threshold=9.9)["desirable"] == 0.0  # where that is meant


def test_by_constraints_what_meets_them_all_is_desirable(faulty: Path, tmp_path: Path) -> None:
    easy = rows_step(tmp_path / "p", rows=[{"id": f"{n}", "prompt": f"Say {n}."} for n in range(20)])
    paired(tmp_path / "a", faulty, easy, **FREE, by="constraints", judge=None)
    stopped = {row["text"]: row["stopped"] for row in written(tmp_path / "a").values()}
    rows = rows_of(tmp_path / "a")
    assert {row["label"] for row in rows} == {True, False}
    assert all(row["label"] == stopped[text_of(row, "completion")] for row in rows)
