"""Preferences as they are: read in every form, cleaned, counted, and held out by prompt."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED
from pairs_stage import bytes_of, rows_of, text_of
from stage_context import PROMPTS, checked, context, given, run

from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows

FEW: dict[str, Any] = {"source": "s", "test_size": 3, "min_rows": 1, "max_one_sided": 1}
WORDS = "one two three four five six seven eight nine ten eleven twelve".split()


def hh(number: int, chosen: str = "a fine answer about it all", rejected: str = "no") -> Row:
    asked = f"\n\nHuman: What is {WORDS[number % 12]} and {number}?\n\nAssistant: "
    return {"chosen": asked + chosen, "rejected": asked + rejected}


def trl(number: int, **more: Any) -> Row:
    return {"prompt": f"What is {number}?", "chosen": f"It is {number}.", "rejected": "I do not know it.", **more}


def sourced(folder: Path, source: Path, **settings: Any) -> dict[str, Any]:
    return run("pairs", context(folder, source=given(source)), **{**FEW, **settings})


def written(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif path.suffix == ".parquet":
        from datasets import Dataset

        Dataset.from_list([dict(row) for row in rows]).to_parquet(path)
    else:
        write_rows(path, rows)
    return path


def test_the_form_of_the_file_changes_nothing(tmp_path: Path) -> None:
    rows = [hh(number) for number in range(10)]
    made = [
        sourced(tmp_path / f"{n}", written(tmp_path / "d" / name, rows))
        for n, name in enumerate(("a.jsonl", "a.json", "a.jsonl.gz", "a.parquet"))
    ]
    assert all(found == made[0] for found in made)
    assert {bytes_of(tmp_path / f"{n}") for n in range(4)} == {bytes_of(tmp_path / "0")}
    first = rows_of(tmp_path / "0")[0]
    assert first["source"] == "hh" and first["score_chosen"] is None
    assert first["prompt"] == [{"role": "user", "content": "What is two and 1?"}]
    assert text_of(first, "chosen") == "a fine answer about it all" and made[0]["score_chosen"]["score"] is None


def test_a_split_and_a_folder_of_a_data_set_are_named(tmp_path: Path) -> None:
    for name in ("train", "test"):
        written(tmp_path / "d" / "helpful" / f"{name}.jsonl.gz", [hh(n, name) for n in range(12)])
        written(tmp_path / "d" / "harmless" / f"{name}.jsonl.gz", [hh(n, f"harmless {name}") for n in range(12)])
    sourced(tmp_path / "a", tmp_path / "d", split="test", subset="harmless")
    assert {text_of(row, "chosen") for row in rows_of(tmp_path / "a")} == {"harmless test"}
    with pytest.raises(PosttrainError, match="split 'none' cannot be read"):
        sourced(tmp_path / "b", tmp_path / "d", split="none", subset="harmless")


def test_every_row_is_a_pair_or_counted_by_what_is_wrong_with_it(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    rows = [trl(number) for number in range(20)]
    rows[3] = trl(2)
    rows[4] = trl(4, rejected=" ")
    rows[5] = trl(5, prompt="<|im_start|>")
    rows[6] = trl(6, chosen=long, rejected=f"{long} and")
    rows[7] = trl(7, score_chosen=5, score_rejected=5.0)
    rows[8] = trl(8, score_chosen=5, score_rejected=7)
    rows[9] = trl(9, rejected="It is <|us<|user|>er|>nothing.")
    rows[10] = trl(10, score_chosen=9, score_rejected=2)
    found = sourced(tmp_path / "a", written(tmp_path / "s.jsonl", rows))
    counts = found["counts"]
    assert counts["control strings removed"] == 3
    assert counts["repeated"] == counts["without an answer"] == counts["without a prompt"] == 1
    assert counts["near-duplicates"] == 1 and counts["ties"] == 2
    left = rows_of(tmp_path / "a")
    assert sum(counts.values()) - 3 + len(left) == 20 and "of 20 pairs" in found["summary"]
    by_id = {row["id"]: row for row in left}
    assert text_of(by_id["000009"], "rejected") == "It is nothing."
    assert (by_id["000010"]["score_chosen"], by_id["000010"]["score_rejected"]) == (9.0, 2.0)
    with pytest.raises(
        PosttrainError, match=r"0 rows are left to train on, beside 1 .* of 20 pairs \(.*14 of unlike lengths"
    ):
        sourced(tmp_path / "b", tmp_path / "s.jsonl", match_lengths=1)
    assert sourced(tmp_path / "c", tmp_path / "s.jsonl", margin=8)["counts"]["ties"] == 3


def test_what_the_evaluation_asks_or_tells_is_dropped(tmp_path: Path) -> None:
    prompt = read_rows(PROMPTS)[0]
    rows = [trl(number) for number in range(12)]
    rows[2] = trl(2, prompt=prompt["prompt"].upper())
    rows[3] = trl(3, prompt=f"{prompt['prompt']} Thank you!")
    rows[4] = trl(4, rejected=prompt["reference"])
    talk = [("user", "Hello!"), ("assistant", "Hi."), ("user", prompt["prompt"]), ("assistant", "No."), ("user", "Oh?")]
    rows[5] = trl(5, prompt=[{"role": role, "content": text} for role, text in talk])
    source = written(tmp_path / "s.jsonl", rows)
    counts = sourced(tmp_path / "a", source, hold_out=PROMPTS)["counts"]
    assert counts["equal to a held-out prompt"] == 2 and counts["like a held-out prompt"] == 1
    assert counts["equal to a held-out answer"] == 1
    kept = {row["id"] for row in rows_of(tmp_path / "a")}
    assert kept == {f"{n:06d}" for n in range(12)} - {"000002", "000003", "000004", "000005"}
    sourced(tmp_path / "b", source)
    assert len(rows_of(tmp_path / "b")) == 12  # negative control


def test_all_pairs_of_a_prompt_are_held_out_together(tmp_path: Path) -> None:
    rows = [trl(number // 4, rejected=f"No. {number}", chosen=f"Yes. {number}") for number in range(40)]
    found = sourced(tmp_path / "a", written(tmp_path / "s.jsonl", rows))
    train, test = (read_rows(tmp_path / "a" / "out" / name) for name in ("train.jsonl", "test.jsonl"))
    asked = [{row["prompt"][0]["content"] for row in part} for part in (train, test)]
    assert len(asked[1]) == 3 and not asked[0] & asked[1] and found["rows_held_out"] == len(test) == 12
    assert {json.dumps(row["prompt"]) for row in read_rows(written(tmp_path / "t.jsonl", test))} == {
        json.dumps([{"role": "user", "content": f"What is {n}?"}]) for n in (0, 3, 6)
    }


def test_pairs_become_labels_and_pairs_of_a_step_are_read_again(tmp_path: Path) -> None:
    rows = [trl(number, id=f"r{number}", source="people") for number in range(12)]
    sourced(tmp_path / "a", written(tmp_path / "s.jsonl", rows))
    found = sourced(tmp_path / "b", tmp_path / "a" / "out", format="unpaired")
    labels = rows_of(tmp_path / "b")
    assert found["desirable"] == 0.5 and len(labels) == 24 and {row["source"] for row in labels} == {"people"}
    assert {row["id"] for row in labels} == {f"r{n}/{side}" for n in range(12) for side in ("chosen", "rejected")}
    assert all(row["label"] == row["id"].endswith("/chosen") for row in labels)
    one = [{"prompt": f"{n}?", "completion": f"{n}.", "label": n % 2 == 0} for n in range(12)]
    sourced(tmp_path / "c", written(tmp_path / "u.jsonl", one), format="unpaired")
    assert sum(row["label"] for row in rows_of(tmp_path / "c")) == 6
    with pytest.raises(PosttrainError, match=r"u\.jsonl, row 1: found 'completion' and 'label'.*format: unpaired"):
        sourced(tmp_path / "d", tmp_path / "u.jsonl")


def test_only_so_many_rows_are_read_from_all_over(tmp_path: Path) -> None:
    source = written(tmp_path / "s.jsonl", [trl(number) for number in range(40)])
    assert "10 pairs of 10 pairs" in sourced(tmp_path / "a", source, rows=10)["summary"]
    assert {row["prompt"][0]["content"] for row in rows_of(tmp_path / "a")} == {
        f"What is {n}?" for n in range(0, 40, 4)
    }


def test_a_source_that_cannot_be_read_is_refused_before_any_compute(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"chosen": 1}')
    with pytest.raises(PosttrainError, match=r"a\.json: a JSON dict; a list of one object"):
        checked("pairs", source=str(tmp_path / "a.json"))
    written(tmp_path / "b.jsonl", [trl(1), {"text": "a"}])
    with pytest.raises(PosttrainError, match=r"b\.jsonl, row 2: found the columns text; 'chosen' and 'rejected'"):
        checked("pairs", source=str(tmp_path / "b.jsonl"))
    checked("pairs", source=str(written(tmp_path / "c.jsonl", [trl(1)])))
    with pytest.raises(ValueError, match="'samples' is read by nothing with a 'source'"):
        checked("pairs", source=str(tmp_path / "c.jsonl"), samples=9)
    with pytest.raises(ValueError, match="'split' is read by nothing without a 'source'"):
        checked("pairs", model="m", prompts="p", by="constraints", split="test")


def test_a_real_list_of_preferences_becomes_pairs(tmp_path: Path) -> None:
    source = SHARED / "data" / "instruct" / "preference-1100.json"
    if not source.is_file():
        pytest.skip("needs the preference data beside the project")
    found = run("pairs", context(tmp_path, source=given(source)), source="s")
    rows = rows_of(tmp_path)
    counted = sum(count for name, count in found["counts"].items() if name != "control strings removed")
    assert len(rows) + counted == 1100 and len(rows) > 900 and found["rows_held_out"] >= 50
    assert 0.05 <= found["chosen_longer"] <= 0.95
