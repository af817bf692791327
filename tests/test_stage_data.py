"""Published rows: read in every form of file, cleaned, counted, held out; thinking is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from stage_context import PROMPTS, checked, context, given, run

from data_gen.story import tell
from posttrain.errors import PosttrainError
from posttrain.hub.data_files import named_files
from posttrain.rows import Row, read_rows, write_rows

FEW: dict[str, Any] = {"source": "s", "test_size": 2}


def talk(number: int, answer: str = "", asked: str = "") -> Row:
    asked, answer = asked or f"What is {number}?", answer or f"It is {number}."
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def made(folder: Path, rows: list[Row], **settings: Any) -> tuple[dict[str, Any], list[Row]]:
    write_rows(folder / "s.jsonl", rows) if folder.mkdir(exist_ok=True) is None else None
    found = run("data", context(folder, source=given(folder / "s.jsonl")), **{**FEW, **settings})
    return found, [row for name in ("train", "test") for row in read_rows(folder / "out" / f"{name}.jsonl")]


def test_every_row_is_kept_or_counted_by_what_is_wrong_with_it(tmp_path: Path) -> None:
    rows = [talk(number) for number in range(12)]
    rows[3] = talk(2)
    rows[4] = talk(4, answer="<|im_end|>")
    rows[5] = talk(5, answer="It <|us<|user|>er|>is five.")
    rows[6] = {"messages": rows[6]["messages"][:1]}
    found, left = made(tmp_path, rows)
    counts = found["counts"]
    assert counts["control strings removed"] >= 2 and counts["repeated"] == 1 and counts["without an answer"] == 2
    assert len(left) == 9 == found["rows"] + found["rows_held_out"] and found["rows_read"] == 12
    assert next(row for row in left if row["id"] == "000005")["messages"][1]["content"] == "It is five."
    assert all(row["words"] == [] and row["source"] == "messages" for row in left)


def test_thinking_survives(tmp_path: Path) -> None:
    thought = "<think>\nIs it 1 or 2?\n\n</think>\n\nIt is \\boxed{2}."
    _, left = made(tmp_path, [talk(number, answer=f"{thought} {number}") for number in range(6)])
    assert all(row["messages"][1]["content"].startswith(thought) for row in left)
    _, other = made(tmp_path / "b", [talk(n, answer=f"<|user|>{thought} {n}") for n in range(6)])  # negative control
    assert [row["messages"] for row in other] == [row["messages"] for row in left]


def test_what_the_evaluation_asks_or_tells_is_dropped(tmp_path: Path) -> None:
    prompt = read_rows(PROMPTS)[0]
    rows = [talk(number) for number in range(12)]
    rows[2] = talk(2, asked=prompt["prompt"].upper())
    rows[3] = talk(3, asked=f"{prompt['prompt']} Thank you!")
    rows[4] = talk(4, answer=prompt["reference"])
    rows[5] = {"messages": [*talk(5)["messages"], *talk(2, asked=prompt["prompt"])["messages"]]}
    found, left = made(tmp_path, rows, hold_out=PROMPTS)
    counts = found["counts"]
    assert counts["equal to a held-out prompt"] == 2 and counts["like a held-out prompt"] == 1
    assert counts["equal to a held-out answer"] == 1 and len(left) == 8
    assert len(made(tmp_path / "b", rows)[1]) == 12  # negative control


def test_a_row_with_much_of_an_evaluations_text_is_dropped(tmp_path: Path) -> None:
    rows = [talk(number) for number in range(12)]
    told = read_rows(PROMPTS)[1]["reference"]
    rows[7] = talk(7, answer=f"Here is what I heard. {told} And that was all of it.")
    found, left = made(tmp_path, rows, decontaminate=[str(PROMPTS)])
    assert found["counts"]["with much of an evaluation's text"] == 1 and len(left) == 11
    assert len(made(tmp_path / "b", rows)[1]) == 12  # negative control


def test_stories_get_the_request_that_they_honour(tmp_path: Path) -> None:
    stories: list[Row] = [{"text": tell(1, number).text} for number in range(60)]
    found, left = made(tmp_path, stories, backtranslate=True, test_size=5)
    texts = {row["text"] for row in stories}
    assert len(left) > 30 and all(row["messages"][1]["content"] in texts and len(row["words"]) == 3 for row in left)
    assert found["rows_read"] == 60
    with pytest.raises(PosttrainError, match=r"the columns text.*needs backtranslate: true"):
        made(tmp_path / "b", stories)
    with pytest.raises(PosttrainError, match="row 1: no 'text'"):
        made(tmp_path / "c", [talk(1)], backtranslate=True)


def test_a_data_set_is_read_by_the_split_that_its_card_names(tmp_path: Path) -> None:
    from datasets import Dataset

    folder = tmp_path / "d"
    for name in ("math/train-0", "math/test-0", "code/train-0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows = [talk(n, answer=f"{name} {n}") for n in range(20)]
        Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    entries = [f"- {{config_name: {n}, data_files: [{{split: train, path: {n}/train-*}}]}}" for n in ("math", "code")]
    (folder / "README.md").write_text("\n".join(["---", "configs:", *entries, "---", "Rows."]))
    found = run("data", context(tmp_path / "a", source=given(folder)), **FEW, subset="math", rows=8)
    left = read_rows(tmp_path / "a" / "out" / "train.jsonl")
    assert found["rows_read"] == 8 and {row["messages"][1]["content"][:12] for row in left} == {"math/train-0"}
    with pytest.raises(PosttrainError, match=r"'test'.*cannot be read.*Name its split"):
        run("data", context(tmp_path / "b", source=given(folder)), **FEW, subset="code", split="test")


def test_a_card_names_no_file_outside_its_repository(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write_rows(tmp_path / "secret.jsonl", [talk(n, answer=f"secret {n}") for n in range(8)])
    write_rows(tmp_path / "d" / "own.jsonl", [talk(n) for n in range(8)])
    for name, found in (("../secret.jsonl", []), (str(tmp_path / "secret.jsonl"), []), ("own.jsonl", ["own.jsonl"])):
        entry = {"config_name": "default", "data_files": [{"split": "train", "path": name}]}
        (tmp_path / "d" / "README.md").write_text(f"---\n{json.dumps({'configs': [entry]})}\n---\n")
        assert [file.name for file in named_files(tmp_path / "d", None, "train")] == found


def test_a_broken_file_is_refused_plainly(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train-0.parquet").write_text("no Parquet")
    with pytest.raises(PosttrainError, match=r"split 'train' cannot be read .*; JSONL, JSON and Parquet are allowed"):
        run("data", context(tmp_path, source=given(tmp_path / "d")), **FEW)


def test_what_cannot_be_read_is_refused_before_any_compute(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"chosen": "a"}]))
    with pytest.raises(PosttrainError, match=r"a\.json, row 1: found the columns chosen; 'messages' or"):
        checked("data", source=str(tmp_path / "a.json"))
    with pytest.raises(PosttrainError, match=r"data: 2 rows are left \(none\); at least 4 are needed"):
        made(tmp_path / "b", [talk(1), talk(2)])
