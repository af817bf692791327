"""The journal's file: made whole under its name, checked when it is opened, never repaired by deleting."""

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

from posttrain.errors import PosttrainError

APPLICATION, VERSION = 0x706F7374, 1  # "post"
SCHEMA = f"""
BEGIN;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, scope TEXT NOT NULL, url TEXT NOT NULL, owner TEXT NOT NULL,
    state TEXT NOT NULL, sent REAL NOT NULL, lease REAL NOT NULL, tokens REAL NOT NULL, usd REAL NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER, seconds REAL, model TEXT
);
CREATE TABLE answers (
    key TEXT PRIMARY KEY, answer TEXT NOT NULL, digest TEXT NOT NULL, call INTEGER NOT NULL REFERENCES calls (id)
);
CREATE INDEX by_scope ON calls (scope, tokens, usd);
CREATE UNIQUE INDEX in_flight ON calls (key) WHERE state = 'in flight';
COMMIT;
"""
BROKEN = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")
WAIT = 60.0  # seconds for another process's commit


def damaged(path: Path, found: str) -> PosttrainError:
    """The error for a journal that is not as it was written."""
    return PosttrainError(
        f"{path}: damaged ({found}); the journal of all answered calls is needed whole. Nothing was deleted: put a "
        "copy of the file back, or move it and its -wal file away: what it holds will be asked, and paid, again."
    )


def unusable(path: Path, found: str) -> PosttrainError:
    """The error for a journal that cannot be read or written now."""
    return PosttrainError(
        f"{path}: {found}; the journal must be readable and writable before a call may be sent. What was answered is "
        "kept: make room or allow writing, and run again."
    )


def failed(path: Path, error: sqlite3.Error) -> PosttrainError:
    """Which of the two an error of SQLite is."""
    broken = error.sqlite_errorname.startswith(BROKEN)
    return damaged(path, str(error)) if broken else unusable(path, str(error))


def open_file(path: Path) -> sqlite3.Connection:
    """A checked connection without implicit transactions; the file is made where there is none."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
        if not path.stat().st_size:
            raise damaged(path, "the file is empty")
        db = _connect(path)
        try:
            _check(db, path)
        except BaseException:
            db.close()
            raise
        return db
    except sqlite3.Error as error:
        raise failed(path, error) from None
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from None


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    db.text_factory = lambda data: data.decode("utf-8", errors="replace")  # damage shows in the digest
    db.execute("PRAGMA synchronous = FULL")
    return db


def _make(path: Path) -> None:
    """Under another name first, so that a killed process leaves no journal rather than half of one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    draft.unlink(missing_ok=True)
    db = _connect(draft)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA)
    finally:
        db.close()
    with contextlib.suppress(FileExistsError):  # another process was first
        os.link(draft, path)
    draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check(db: sqlite3.Connection, path: Path) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION or version != VERSION:
        raise PosttrainError(
            f"{path}: a database of another program or version ({application:#x}, {version}); a journal of version "
            f"{VERSION} is allowed. Move it away."
        )
    (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise damaged(path, found)
