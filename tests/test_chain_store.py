"""The store: readers verify, and whatever is damaged is put aside, said and made again. No torch."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chain_fakes import Quiet, contents, graph, raw_recipe, run, torn, visible, write_recipe
from disk_sweep import Shim

from posttrain.chain import store as store_module
from posttrain.chain.plan import plan_rows
from posttrain.chain.runner import read_run
from posttrain.chain.store import RECORD, Artifact, Store
from posttrain.errors import PosttrainError


def small(folder: Path) -> Path:
    return write_recipe(folder, raw_recipe(folder, judged=False))


def the_entry(path: Path, kind: str) -> Path:
    return next(entry for entry in visible(path.parent / "runs/store") if entry.name.startswith(kind))


def flip(file: Path, at: int = 0, bit: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= bit
    file.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit flips": (lambda entry: flip(entry / "model.txt", 3), "model.txt is changed"),
    "a file is cut": (lambda entry: os.truncate(entry / "model.txt", 2), "model.txt is changed"),
    "a file is zeroed": (lambda entry: (entry / "model.txt").write_bytes(b"\0" * 9), "model.txt is changed"),
    "a file is gone": (lambda entry: (entry / "model.txt").unlink(), "model.txt is missing"),
    "a file is new": (lambda entry: (entry / "adapter.bin").write_text("x"), "adapter.bin is not recorded"),
    "a file is renamed": (lambda entry: (entry / "model.txt").rename(entry / "m"), "m is not recorded"),
    "the record is gone": (lambda entry: (entry / RECORD).unlink(), f"its {RECORD} cannot be read"),
    "the record is empty": (lambda entry: (entry / RECORD).write_text(""), f"its {RECORD} cannot be read"),
    "the record is cut": (lambda entry: os.truncate(entry / RECORD, 99), f"its {RECORD} cannot be read"),
    "the record is a list": (lambda entry: (entry / RECORD).write_text("[]"), f"its {RECORD} cannot be read"),
    "a metric is changed": (
        lambda entry: (entry / RECORD).write_text((entry / RECORD).read_text().replace("0.5", "0.4")),
        f"its {RECORD} is changed",
    ),
    "the entry is a file": (lambda entry: [shutil.rmtree(entry), entry.write_text("x")], f"its {RECORD} cannot be"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_noticed_said_put_aside_and_repaired(name: str, tmp_path: Path) -> None:
    path = small(tmp_path)
    root = tmp_path / "runs/store"
    run(path)
    before = contents(root)
    hurt, said = DAMAGE[name]
    hurt(entry := the_entry(path, "sft"))
    recipe, nodes = graph(path)
    plan = {row["name"]: row["state"] for row in plan_rows(nodes, recipe.gates, Store(root))}
    assert plan == {"base": "cached", "rows": "cached", "sft": "to run"}
    assert not (root / "quarantine").exists()  # a plan changes nothing
    with pytest.raises(PosttrainError, match=f"{entry.name} no longer whole"):
        read_run(recipe.name, Store(root))
    screen = Quiet()
    assert [done.cached for done in run(path, screen=screen)] == [True, True, False]
    assert any(f"{entry.name}: damaged ({said}" in text for text in screen.said)
    assert contents(root) == before and torn(root) == []
    assert [place.name for place in (root / "quarantine").iterdir()] == [f"{entry.name}.0"]
    assert all(done.cached for done in run(path))


def test_a_reader_that_does_not_verify_misses_the_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the law above: with a reader that trusts what it finds, the second run is all cached."""
    path = small(tmp_path)
    run(path)
    flip(the_entry(path, "sft") / "model.txt")
    monkeypatch.setattr(store_module, "_verified", lambda entry, *_: Artifact(entry, store_module._read_record(entry)))
    assert all(done.cached for done in run(path))


def test_no_flipped_bit_of_a_record_changes_what_is_read(tmp_path: Path) -> None:
    path = small(tmp_path)
    run(path, rerun=frozenset())
    entry = the_entry(path, "base")
    data = (entry / RECORD).read_bytes()
    record = json.loads(data)
    store = Store(tmp_path / "runs/store")
    for at in range(0, len(data), 7):
        (entry / RECORD).write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        found = store.look("base", record["identity"])
        same = found is not None and found.record == {k: v for k, v in record.items() if k != store_module.OWN_DIGEST}
        assert found is None or same  # `1e-05` and `1E-05` are the same record
        (entry / RECORD).write_bytes(data)
    assert store.look("base", record["identity"]) is not None


def test_an_entry_of_another_identity_is_not_taken(tmp_path: Path) -> None:
    path = small(tmp_path)
    run(path)
    identity = graph(path)[1][0].identity
    entry = the_entry(path, "base")
    assert Store(entry.parent).find("base", identity[:12] + "0" * 52) is None
    assert not entry.exists()


def test_quarantined_entries_are_kept_apart(tmp_path: Path) -> None:
    path = small(tmp_path)
    for _ in range(3):
        run(path)
        flip(the_entry(path, "sft") / "model.txt")
    place = tmp_path / "runs/store/quarantine"
    run(path)
    shutil.rmtree(next(iter(sorted(place.iterdir()))))  # people tidy up
    flip(the_entry(path, "sft") / "model.txt")
    run(path)
    assert len(list(place.iterdir())) == 3


def test_listings_pass_over_what_is_damaged_or_unfinished(tmp_path: Path) -> None:
    path = small(tmp_path)
    run(path)
    root = tmp_path / "runs/store"
    assert [entry.record["kind"] for entry in Store(root).entries()].count("sft") == 1
    shutil.copytree(the_entry(path, "sft"), root / "sft-000000000000.partial")
    (the_entry(path, "base") / RECORD).write_text("{")
    assert sorted(entry.record["kind"] for entry in Store(root).entries()) == ["generate", "sft"]
    assert Store(tmp_path / "absent").entries() == []


def test_a_store_that_cannot_be_written_is_an_error_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path)
    calls = tmp_path / "calls"
    monkeypatch.setenv("CALLS", str(calls))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/store").write_text("a file")
    with pytest.raises(PosttrainError, match=r"runs/store: File exists; a directory that may be written is .*--store"):
        run(path)
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(PosttrainError, match=r"runs.*: Not a directory; .*--store"):
        run(path)
    (tmp_path / "runs").unlink()
    for number, words in ((errno.EROFS, "Read-only file system"), (errno.EACCES, "Permission denied")):
        with monkeypatch.context() as patch:

            def refuse(*_: Any, number: int = number, words: str = words, **__: Any) -> Any:
                raise OSError(number, words)

            patch.setattr(store_module.tempfile, "TemporaryFile", refuse)
            with pytest.raises(PosttrainError, match=rf"runs/store: {words}; .*--store"):
                run(path)
    assert not calls.exists()
    run(path)  # negative control
    assert "sft" in calls.read_text()


def test_errors_of_the_disk_that_nobody_expects_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), store_module.plain_disk_errors(tmp_path):
        raise OSError(errno.EIO, "Input/output error")


def flushed_in_order(log: list[tuple[str, Any]], entry: Path) -> bool:
    """Before the record gets its name every file was flushed; before the entry gets its, so was the record.

    A killed process cannot show a missing fsync, only a power cut could; so the order of operations is the law.
    """
    names = {file.stat().st_ino: file.name for file in [*entry.rglob("*"), entry, entry.parent]}
    seen = [
        (name, names.get(target) if name == "fsync" else Path(target[0 if name == "mkdir" else 1]).name)
        for name, target in log
    ]
    final = next(
        (at for at, (name, what) in enumerate(seen) if name in ("rename", "replace") and what == entry.name), -1
    )
    start = max((at for at in range(final) if seen[at] == ("mkdir", entry.name + ".partial")), default=0)
    making, after = seen[start:final], seen[final : final + 2]
    if ("replace", RECORD) not in making:
        return False
    record_at = making.index(("replace", RECORD))
    files = {("fsync", file.name) for file in entry.rglob("*") if file.name != RECORD}
    record_flushed = ("fsync", RECORD) in making[:record_at]
    directory_flushed = ("fsync", entry.name) in making[record_at:]
    return files <= set(making[:record_at]) and record_flushed and directory_flushed and after[1][1] == "store"


def logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    path = small(folder)
    shim = Shim()
    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "fsync", "mkdir"):
            patch.setattr(os, name, shim.wrap(name, getattr(os, name)))
        run(path)
    return all(flushed_in_order(shim.log, entry) for entry in visible(folder / "runs/store"))


def test_files_reach_the_disk_before_the_record_and_the_record_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logged(tmp_path / "whole", monkeypatch)
    with monkeypatch.context() as patch:  # mutant: files are not flushed
        patch.setattr(store_module, "_fsync", lambda path: None)
        assert not logged(tmp_path / "unflushed", monkeypatch)
    complete = Store.complete

    def record_first(self: Store, partial: Path, record: dict[str, Any]) -> Artifact:
        store_module.write_text(partial / RECORD, "{}")
        return complete(self, partial, record)

    with monkeypatch.context() as patch:  # mutant: the record is written before the files are flushed
        patch.setattr(Store, "complete", record_first)
        assert not logged(tmp_path / "record-first", monkeypatch)


def test_hashing_of_large_files_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(small(tmp_path))[-1]
    seen: list[tuple[Any, ...]] = []

    def progress(name: str) -> Any:
        @contextmanager
        def bar(total: int, unit: str) -> Iterator[Any]:
            seen.append((name, total, unit))
            yield lambda count, note="", total=None: seen.append((count,))

        return bar

    store = Store(tmp_path / "runs/store", progress=progress)
    assert store.look("sft", done.artifact.identity) and seen == []  # small files are hashed at once
    monkeypatch.setattr(store_module, "SHOWN_FROM", 1)
    monkeypatch.setattr(store_module, "MB", 1)
    assert store.look("sft", done.artifact.identity)
    size = (done.artifact.path / "model.txt").stat().st_size
    assert seen == [(done.artifact.path.name, size, "MB hashed"), (size,)]
