"""What the loopback hub holds: repositories, their commits and branches, and large files that were uploaded."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

LFS_SUFFIXES = (".safetensors", ".gguf", ".onnx", ".onnx_data", ".parquet", ".bin", ".pt")
LFS_FROM = 10_000_000  # bytes from which the hub takes any file as a large one
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class Stored(NamedTuple):
    """The content of one file."""

    data: bytes
    lfs: bool

    @property
    def blob(self) -> str:
        """The name git gives it; of a large file that is the name of the pointer."""
        data = pointer(self.data) if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.data).hexdigest() if self.lfs else self.blob


def pointer(data: bytes) -> bytes:
    """The text that git holds in place of a large file."""
    oid = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()


def is_large(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size >= LFS_FROM)


class Commit(NamedTuple):
    oid: str
    parent: str | None
    title: str
    files: Mapping[str, Stored]


class Refused(Exception):
    """An answer that is no success: status, the hub's code for the reason, and words."""

    def __init__(self, status: int, words: str, code: str | None = None) -> None:
        super().__init__(words)
        self.status, self.words, self.code = status, words, code


@dataclass
class Repository:
    """Commits by their id, and branches that name some of them."""

    id: str
    type: str  # "model" or "dataset"
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def head(self, revision: str) -> Commit:
        """The commit that a branch or a commit id names."""
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def add(self, branch: str, title: str, files: Mapping[str, Stored], oid: str | None = None) -> Commit:
        """A new commit on top of a branch."""
        parent = self.branches.get(branch)
        oid = oid or hashlib.sha1(f"{self.type} {self.id} {parent} {next(self._numbers)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, dict(files))
        self.branches[branch] = oid
        return self.commits[oid]

    def branch(self, name: str, start: str | None) -> None:
        if name in self.branches:
            raise Refused(409, f"Reference already exists: {name}")
        self.branches[name] = self.head(start or "main").oid

    def history(self, revision: str) -> list[Commit]:
        """Commits of a branch, oldest first."""
        found: list[Commit] = []
        oid: str | None = self.branches.get(revision)
        while oid is not None:
            found.insert(0, self.commits[oid])
            oid = found[0].parent
        return found


def committed(repository: Repository, branch: str, lines: Iterable[Any], large: Mapping[str, bytes]) -> Commit:
    """Apply the lines of a commit: all of them, or none."""
    import base64

    header, *operations = lines
    head = repository.head(branch)
    if branch not in repository.branches:
        raise Refused(400, "a commit goes on top of a branch")
    parent = header["value"].get("parentCommit")
    if parent is not None and parent != head.oid:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for operation in operations:
        value = operation["value"]
        path = value["path"]
        match operation["key"]:
            case "file":
                files[path] = Stored(base64.b64decode(value["content"]), lfs=False)
            case "lfsFile":
                if value["oid"] not in large:
                    raise Refused(400, f"LFS pointer pointed to a file that does not exist: {path}")
                files[path] = Stored(large[value["oid"]], lfs=True)
            case "deletedFile":
                if path not in files:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                del files[path]
            case "deletedFolder":
                files = {name: stored for name, stored in files.items() if not name.startswith(f"{path.rstrip('/')}/")}
            case other:
                raise Refused(400, f"unknown operation {other}")
    return repository.add(branch, header["value"]["summary"], files)


def tree(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The entries below a folder ("" for all), as the hub lists them."""
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, stored in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = prefix + "/".join(parts[:depth])
            entries.setdefault(name, folder_entry(name))
        if recursive or len(parts) == 1:
            entries[path] = file_entry(path, stored)
    if prefix and not entries:
        raise Refused(404, f"{folder} does not exist", "EntryNotFound")
    return list(entries.values())


def paths_info(commit: Commit, paths: Iterable[str]) -> list[dict[str, Any]]:
    """Those of some paths that exist, as files or folders."""
    found = []
    for path in paths:
        if path in commit.files:
            found.append(file_entry(path, commit.files[path]))
        elif any(name.startswith(f"{path}/") for name in commit.files):
            found.append(folder_entry(path))
    return found


def folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


def file_entry(path: str, stored: Stored) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(stored.data), "oid": stored.blob}
    if stored.lfs:
        pointed = len(pointer(stored.data))
        entry["lfs"] = {"oid": stored.etag, "size": len(stored.data), "pointerSize": pointed}
    return entry


def in_folder(folder: Path) -> dict[str, Stored]:
    """Files of a directory, as a commit holds them."""
    return {
        path.relative_to(folder).as_posix(): Stored(data, is_large(path.name, len(data)))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for data in (path.read_bytes(),)
    }
