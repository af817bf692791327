"""The artifact store: nothing is visible under its final name until it is complete, and readers verify.

A step writes into `<name>.partial`; `artifact.json` (with the sha256 of every file) is written last, then the
directory is renamed. A crash leaves an entry absent, in progress or complete, never in between.
"""

import errno
import fcntl
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.chain.identity import digest, sha256_file
from posttrain.chain.stage import Progress
from posttrain.errors import PosttrainError
from posttrain.rows import write_text

RECORD = "artifact.json"
WORK = ".work"
OWN_DIGEST = "record_sha256"
SHOWN_FROM = 500_000_000  # bytes from which hashing takes so long that it is shown
MB = 1_000_000


@dataclass(frozen=True)
class Artifact:
    """A complete store entry."""

    path: Path
    record: dict[str, Any]

    @property
    def identity(self) -> str:
        return str(self.record["identity"])


class _Damaged(Exception):
    """Why an entry cannot be used."""


def entry_name(kind: str, identity: str) -> str:
    return f"{kind}-{identity[:12]}"


def _files(directory: Path, watch: Progress | None = None) -> dict[str, str]:
    """sha256 of every file by its path in the directory; with progress where there is much to read."""
    files = [
        file
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.relative_to(directory).parts[0] not in (RECORD, WORK)
    ]
    size = sum(file.stat().st_size for file in files)
    if watch is None or size < SHOWN_FROM:
        return {str(file.relative_to(directory)): sha256_file(file) for file in files}
    done = 0
    with watch(size // MB, "MB hashed") as tick:

        def read(count: int) -> None:
            nonlocal done
            done += count
            tick(done // MB)

        return {str(file.relative_to(directory)): sha256_file(file, read) for file in files}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        intact = record.pop(OWN_DIGEST) == digest(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _Damaged(f"its {RECORD} cannot be read") from None
    if not intact:
        raise _Damaged(f"its {RECORD} is changed")
    return dict(record)


def _verified(path: Path, identity: str, watch: Progress | None) -> Artifact:
    """The entry, when every byte of it is as recorded."""
    record = _read_record(path)
    if record["identity"] != identity:
        raise _Damaged(f"its {RECORD} names another identity")
    expected, found = record["files"], _files(path, watch)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            state = "missing" if name not in found else "changed" if name in expected else "not recorded"
            raise _Damaged(f"{name} is {state}")
    return Artifact(path, record)


@contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """A full or read-only disk is said plainly; any other OSError stays a bug with its traceback."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PosttrainError(
                f"{path}: the disk is full; free space is needed. Free some, then run the same command: "
                "finished steps and checkpoints are kept."
            ) from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise PosttrainError(
                f"{where}: {error.strerror}; a place that may be read and written is needed. "
                "Change its permissions, or choose another with --store DIR."
            ) from None
        raise


class Store:
    """Artifacts by content below one directory."""

    def __init__(
        self,
        root: Path,
        say: Callable[[str], None] = print,
        progress: Callable[[str], Progress] | None = None,
    ) -> None:
        self.root = root
        self.say = say
        self.progress = progress  # how the hashing of large files is shown

    def _watch(self, path: Path) -> Progress | None:
        return self.progress(path.name) if self.progress else None

    def check_writable(self) -> None:
        """Fail before any compute when the store cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise PosttrainError(
                f"{self.root}: {error.strerror}; a directory that may be written is needed. "
                "Choose another with --store DIR."
            ) from None

    def look(self, kind: str, identity: str) -> Artifact | None:
        """The complete entry, verified. Changes nothing: a damaged one counts as absent."""
        try:
            path = self.root / entry_name(kind, identity)
            return _verified(path, identity, self._watch(path))
        except (_Damaged, FileNotFoundError):  # the latter: another process puts a new one in its place
            return None

    def find(self, kind: str, identity: str) -> Artifact | None:
        """As `look`, for the entry's owner: a damaged entry is put in quarantine, and said."""
        path = self.root / entry_name(kind, identity)
        if not os.path.lexists(path):
            return None
        try:
            return _verified(path, identity, self._watch(path))
        except _Damaged as damage:
            place = self._quarantine(path)
            self.say(f"{path.name}: damaged ({damage}); moved to {place}, it is made again")
            return None

    def _quarantine(self, path: Path) -> Path:
        places = (self.root / "quarantine" / f"{path.name}.{number}" for number in itertools.count())
        place = next(place for place in places if not os.path.lexists(place))
        place.parent.mkdir(exist_ok=True)
        return path.rename(place)

    def partial(self, kind: str, identity: str) -> Path:
        """The directory an entry is made in; only `.work` of an earlier try is kept."""
        path = self.root / (entry_name(kind, identity) + ".partial")
        (path / WORK).mkdir(parents=True, exist_ok=True)
        for entry in path.iterdir():
            if entry.name != WORK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return path

    def forget_partial(self, kind: str, identity: str) -> None:
        """Drop what an unfinished entry left: for --rerun, and where there is nothing to continue from."""
        shutil.rmtree(self.root / (entry_name(kind, identity) + ".partial"), ignore_errors=True)

    def complete(self, partial: Path, record: dict[str, Any]) -> Artifact:
        """Flush every file, write the record last, rename: from here on the entry exists."""
        record = {**record, "files": _files(partial, self._watch(partial))}
        for path in sorted(partial.rglob("*")):
            if path.relative_to(partial).parts[0] != WORK:
                _fsync(path)
        signed = {**record, OWN_DIGEST: digest(record)}
        write_text(partial / RECORD, json.dumps(signed, indent=1, ensure_ascii=False) + "\n")
        _fsync(partial)
        final = partial.with_suffix("")
        if final.exists():  # --rerun: the old entry gives way at the last moment
            final.rename(partial.with_suffix(".old"))
        partial.rename(final)
        _fsync(self.root)
        artifact = Artifact(final, record)
        self.clear_rests(artifact)
        return artifact

    def clear_rests(self, artifact: Artifact) -> None:
        """Delete what is of no use once an entry exists: its checkpoints, and the entry that it replaced."""
        for rest in (artifact.path / WORK, artifact.path.with_suffix(".old")):
            shutil.rmtree(rest, ignore_errors=True)

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
                owner = f"process {number}" if (number := file.read().strip()) else "another process"
                self.say(f"{entry_name(kind, identity)}: being made by {owner}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield

    def entries(self) -> list[Artifact]:
        """Every complete entry, newest first; the records are read, the files are not."""
        found = []
        for path in self.root.glob(f"*/{RECORD}"):
            if path.parent.suffix:  # .partial or .old
                continue
            try:
                found.append(Artifact(path.parent, _read_record(path.parent)))
            except _Damaged:
                continue  # a run finds it, says so, and makes it again
        return sorted(found, key=lambda artifact: str(artifact.record["finished"]), reverse=True)
