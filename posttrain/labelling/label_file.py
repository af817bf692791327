"""The file of votes: at every moment a label file that `posttrain calibrate` reads (eval/labels.py).

    {"id": "p000/0", "prompt": "...", "a": "...", "b": "...", "votes": ["a"], "steps": {"a": "sft", "b": "base"},
     "shown_first": "b", "words": ["sleep", "engine"]}

A vote is one line, on the disk before the next pair is shown; taking it back cuts the line off. A line that a kill left
half-written is cut off when the file is opened again. One process votes into a file at a time.
"""

import errno
import fcntl
import json
import os
from io import FileIO
from pathlib import Path
from types import TracebackType

from posttrain.errors import PosttrainError
from posttrain.labelling.pairs import Pair, Steps
from posttrain.rows import Row, dump_row, parse_lines

START = b'{"id": "'  # how each of our lines begins
FIELDS = {"id", "prompt", "a", "b", "votes", "steps"}


class LabelFile:
    """An open file of votes; a context manager. `rows` are the votes in it, oldest first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = _open(path)
        try:
            self.rows, self.ends = _read(self.file, path)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> "LabelFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def append(self, row: Row) -> None:
        """Write one vote; when this returns it is on the disk. What fails to be written leaves no half line."""
        line = dump_row(row).encode() + b"\n"
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self.file.fileno())
        except OSError:
            self._cut(self.end)
            raise
        self.rows.append(row)
        self.ends.append(self.end + len(line))

    def take_back(self) -> None:
        """Cut the last vote off."""
        self._cut(self.ends[-2] if len(self.ends) > 1 else 0)
        os.fsync(self.file.fileno())
        self.rows.pop()
        self.ends.pop()

    @property
    def end(self) -> int:
        """Where the last vote's line ends, in bytes."""
        return self.ends[-1] if self.ends else 0

    def _cut(self, size: int) -> None:
        self.file.truncate(size)
        self.file.seek(size)


def _open(path: Path) -> FileIO:
    """The file, made where it is missing, and locked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise PosttrainError(
            f"{path}: {error.strerror}; a file that may be read and written is needed. Name another with --out FILE."
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise PosttrainError(
            f"{path}: somebody votes into it now; one at a time is allowed. Finish there, or name another file with "
            "--out FILE."
        ) from None
    return file


def _read(file: FileIO, path: Path) -> tuple[list[Row], list[int]]:
    """The votes and where their lines end; a half-written last line is cut off, anything else wrong is an error.

    Nothing is changed before all that stays has been read.
    """
    file.seek(0)
    data = file.read()
    start = data.rfind(b"\n") + 1
    last = data[start:]
    half = bool(last) and not _is_json(last)
    if half and not (last.startswith(START) or START.startswith(last)):
        raise _foreign(path, "the last line is no vote, whole or half")
    kept = data[:start] if half else data
    rows = _rows(kept, path)
    if half:
        file.truncate(start)
    elif last:  # all of it but the line's end
        file.write(b"\n")
        kept += b"\n"
    file.seek(0, os.SEEK_END)
    return rows, [at + 1 for at, byte in enumerate(kept) if byte == ord("\n")]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _foreign(path: Path, found: str) -> PosttrainError:
    return PosttrainError(
        f"{path}: {found}; only votes of 'posttrain label', one a line, are allowed. Name another file with --out FILE."
    )


def _rows(data: bytes, path: Path) -> list[Row]:
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    try:
        rows = list(parse_lines((line.decode("utf-8") for line in lines), str(path)))
    except UnicodeDecodeError:
        raise _foreign(path, "holds what is not UTF-8 text") from None
    if len(rows) < len(lines):
        raise _foreign(path, "has blank lines")
    for number, row in enumerate(rows, start=1):
        if FIELDS - row.keys():
            raise _foreign(path, f"row {number} has the fields {', '.join(row) or 'none'}")
    return rows


def label_row(pair: Pair, winner: str, steps: Steps, a_was_first: bool) -> Row:
    """A vote as a row: `winner` is 'a', 'b' or 'tie', by step and not by place."""
    return {
        "id": pair.id,
        "prompt": pair.prompt,
        "a": pair.a,
        "b": pair.b,
        "votes": [winner],
        "steps": {"a": steps.a, "b": steps.b},
        "shown_first": "a" if a_was_first else "b",
        **pair.asked,
    }
