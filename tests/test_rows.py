"""JSONL rows: a broken line is named, a cut file is noticed, a written file is whole."""

import os
from pathlib import Path

import pytest

from posttrain.errors import PosttrainError
from posttrain.rows import dump_row, read_rows, write_rows, write_text


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "é\u2028\n\x85 \\u"}, {"id": "b", "n": 1.5, "deep": [{"x": None}]}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    "line",
    [b'{"a": 1', b"[1]", b"3", b'"text"', b'{"a": NaN}', b"\xff{}", b'{"a": "\\ud800"}', b"[" * 9_000, b"9" * 5_000],
)
def test_a_broken_line_is_named_with_its_file_and_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"ok": 1}\n\n' + line + b'\n{"ok": 2}\n')
    with pytest.raises(PosttrainError) as error:
        read_rows(path)
    assert f"{path}, line 3: " in str(error.value)
    path.write_bytes(b'{"ok": 1}\r\n\n{"a": "\\u00e9 \\ud83d\\ude00"}\n')  # a whole pair of surrogates is a character
    assert len(read_rows(path)) == 2


def test_a_file_cut_inside_its_last_record_is_noticed_or_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"id": "0"}, {"id": "1", "text": "é {} \\ 12", "n": 12}])
    data, rows = path.read_bytes(), read_rows(path)
    start = data.index(b"\n") + 1
    for cut in range(start + 1, len(data)):
        path.write_bytes(data[:cut])
        try:
            assert read_rows(path) == rows and cut == len(data) - 1  # only the newline is gone
        except PosttrainError as error:
            assert "line 2" in str(error)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(PosttrainError, match="holds no rows"):
        read_rows(tmp_path / "rows.jsonl")
    with pytest.raises(PosttrainError, match="no such file"):
        read_rows(tmp_path / "absent.jsonl")


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_value_that_is_no_json_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_row({"loss": float("nan")})
    assert dump_row({"b": 1, "a": "é"}) == '{"b": 1, "a": "é"}'


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Each process has a temporary name of its own: here one stops between its write and its rename."""
    path, real = tmp_path / "run.json", os.getpid()
    write_text(path, "mine")
    (tmp_path / f"run.json.{real + 1}.tmp").write_text("theirs, half writ")
    write_text(path, "mine again")
    assert path.read_text() == "mine again" and (tmp_path / f"run.json.{real + 1}.tmp").exists()
