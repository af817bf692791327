"""JSON lines in and out: one object a line, errors that name file and line, files that appear whole."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError

Row = dict[str, Any]


def parse_lines(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Objects of JSON lines; blank lines are skipped, anything else that is not an object is an error."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
            if "\\u" in line:
                dump_row(row).encode()  # half a character, as in "\ud800", could never be written again
        except (ValueError, RecursionError) as error:
            raise PosttrainError(
                f"{name}, line {number}: not JSON ({error}); one JSON object a line is allowed. "
                "Correct or delete that line."
            ) from None
        if not isinstance(row, dict):
            raise PosttrainError(
                f"{name}, line {number}: a JSON {type(row).__name__}; an object {{...}} is allowed. "
                "Correct or delete that line."
            )
        yield row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def read_rows(path: Path) -> list[Row]:
    """All rows of a JSONL file; a missing or empty file is an error."""
    if not path.is_file():
        raise PosttrainError(f"{path}: no such file; a JSONL file is needed. Check the path.")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PosttrainError(
            f"{path}, line {line}: not UTF-8 text (byte {error.start}); UTF-8 JSONL is allowed. Convert the file."
        ) from None
    rows = list(parse_lines(text.split("\n"), str(path)))  # not splitlines: U+2028 may stand in a string
    if not rows:
        raise PosttrainError(f"{path}: holds no rows; at least one is needed. Check that it was written.")
    return rows


def dump_row(row: Row) -> str:
    """One row as one line, the same bytes for the same row."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows so that `path` is either absent or whole."""
    write_text(path, "".join(dump_row(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write text to a temporary name, flush it to the disk, then rename: never a half-written file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two processes may write the same file
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
