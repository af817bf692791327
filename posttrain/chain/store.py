"""The artifact store: nothing is visible under its final name until it is complete, and readers verify.

A step writes into `<name>.partial`; `artifact.json` (with the sha256 of every file) is written last, then the
directory is renamed. A crash leaves an entry absent, in progress or complete, never in between.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.chain.identity import sha256_file
from posttrain.errors import PosttrainError
from posttrain.rows import write_text

RECORD = "artifact.json"
WORK = ".work"


@dataclass(frozen=True)
class Artifact:
    """A complete store entry."""

    path: Path
    record: dict[str, Any]

    @property
    def identity(self) -> str:
        return str(self.record["identity"])


def entry_name(kind: str, identity: str) -> str:
    return f"{kind}-{identity[:12]}"


def _files(directory: Path) -> dict[str, str]:
    return {
        str(file.relative_to(directory)): sha256_file(file)
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.relative_to(directory).parts[0] not in (RECORD, WORK)
    }


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """A full or read-only disk is said plainly; any other OSError stays a bug with its traceback."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PosttrainError(
                f"{path}: the disk is full; free space is needed. Free some, then run the same command: "
                "finished steps and checkpoints are kept."
            ) from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise PosttrainError(
                f"{path}: cannot write here ({error.strerror}); a writable directory is needed. "
                "Choose another with --store DIR."
            ) from None
        raise


class Store:
    """Artifacts by content below one directory."""

    def __init__(self, root: Path, say: Callable[[str], None] = print) -> None:
        self.root = root
        self.say = say

    def check_writable(self) -> None:
        """Fail before any compute when the store cannot be written."""
        with plain_disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            write_text(self.root / f".writable-{os.getpid()}", "")
            (self.root / f".writable-{os.getpid()}").unlink()

    def find(self, kind: str, identity: str) -> Artifact | None:
        """The complete entry, verified; a damaged one is put in quarantine, said, and counts as absent."""
        path = self.root / entry_name(kind, identity)
        if not path.is_dir():
            return None
        try:
            record = json.loads((path / RECORD).read_text(encoding="utf-8"))
            expected = record["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return self._quarantine(path, f"its {RECORD} cannot be read")
        if record.get("identity") != identity:
            return self._quarantine(path, f"its {RECORD} names another identity")
        found = _files(path)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                state = "missing" if name not in found else "changed" if name in expected else "not recorded"
                return self._quarantine(path, f"{name} is {state}")
        return Artifact(path, record)

    def _quarantine(self, path: Path, reason: str) -> None:
        with plain_disk_errors(self.root):
            place = self.root / "quarantine"
            place.mkdir(exist_ok=True)
            number = len(list(place.iterdir()))
            path.rename(place / f"{path.name}.{number}")
        self.say(f"{path.name}: damaged ({reason}); moved to {place}, it is made again")

    def partial(self, kind: str, identity: str) -> Path:
        """The directory an entry is made in; only `.work` of an earlier try is kept."""
        path = self.root / (entry_name(kind, identity) + ".partial")
        (path / WORK).mkdir(parents=True, exist_ok=True)
        for entry in path.iterdir():
            if entry.name != WORK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return path

    def forget_partial(self, kind: str, identity: str) -> None:
        """Drop the checkpoints of an unfinished entry, so that --rerun starts from nothing."""
        shutil.rmtree(self.root / (entry_name(kind, identity) + ".partial"), ignore_errors=True)

    def complete(self, partial: Path, record: dict[str, Any]) -> Artifact:
        """Flush every file, write the record last, rename: from here on the entry exists."""
        shutil.rmtree(partial / WORK, ignore_errors=True)
        files = _files(partial)
        for name in files:
            _fsync(partial / name)
        record = {**record, "files": files}
        write_text(partial / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        _fsync(partial)
        final = self.root / partial.name.removesuffix(".partial")
        if final.exists():  # --rerun: the old entry gives way at the last moment
            shutil.rmtree(final)
        partial.rename(final)
        _fsync(self.root)
        return Artifact(final, record)

    @contextmanager
    def owned(self, kind: str, identity: str) -> Iterator[None]:
        """One process owns an entry at a time; a second one says whom it waits for."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / entry_name(kind, identity)).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "another process"
                self.say(f"{entry_name(kind, identity)}: being made by process {owner}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield

    def entries(self) -> list[Artifact]:
        """Every complete entry, newest first (read, not verified)."""
        found = []
        for path in self.root.glob(f"*/{RECORD}"):
            if not path.parent.name.endswith(".partial"):
                found.append(Artifact(path.parent, json.loads(path.read_text(encoding="utf-8"))))
        return sorted(found, key=lambda artifact: str(artifact.record.get("finished")), reverse=True)
