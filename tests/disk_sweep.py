"""A run stopped at every operation on the disk, by a kill or a full disk, and then continued.

python tests/disk_sweep.py FOLDER kill|full|rename-first EVERY
"""

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chain_fakes import contents, no_wait, raw_recipe, run, torn, visible, write_recipe

from posttrain.chain import store as store_module
from posttrain.chain.identity import digest
from posttrain.chain.store import RECORD, Store
from posttrain.errors import PosttrainError
from posttrain.rows import write_text


class Shim:
    """Counts operations on the disk and, at the k-th, kills the process or says that the disk is full."""

    def __init__(self, at: int = 0, when: str = "count") -> None:
        self.count, self.at, self.when = 0, at, when
        self.log: list[tuple[str, Any]] = []

    def install(self) -> None:
        for name in ("replace", "rename", "fsync", "mkdir", "symlink", "unlink", "rmdir"):
            setattr(os, name, self.wrap(name, getattr(os, name)))
        opened = io.open

        def counting_open(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            handle = opened(file, mode, *arguments, **keywords)
            return handle if set(mode) <= set("rbt") else _Written(handle, self)

        io.open = counting_open  # type: ignore[assignment]

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.reach(name, arguments, None)
            result = real(*arguments, **keywords)
            if self.count == self.at and self.when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    def reach(self, name: str, arguments: tuple[Any, ...], half: Callable[[], None] | None) -> None:
        self.count += 1
        target = os.fstat(arguments[0]).st_ino if name == "fsync" else [str(argument) for argument in arguments]
        self.log.append((name, target))
        if self.count != self.at:
            return
        if self.when == "half" and half is not None:
            half()
        if self.when in ("before", "half"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.when == "full" and name not in ("unlink", "rmdir"):
            raise OSError(errno.ENOSPC, "No space left on device")


class _Written:
    def __init__(self, file: Any, shim: Shim) -> None:
        self.file, self.shim = file, shim

    def write(self, text: Any) -> Any:
        def half() -> None:
            self.file.write(text[: len(text) // 2])
            self.file.flush()

        self.shim.reach("write", (self.file.name,), half)
        result = self.file.write(text)
        if self.shim.count == self.shim.at and self.shim.when == "after":
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def in_child(path: Path, shim: Shim | None) -> int:
    """Run the recipe in a child process: 0 done, 2 a plain error, -9 killed, 1 anything else."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        if shim is not None:
            shim.install()
        run(path)
        os._exit(0)
    except PosttrainError:
        os._exit(2)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)


def rename_first(self: Store, partial: Path, record: dict[str, Any]) -> store_module.Artifact:
    """The mutant: an entry gets its final name before its record is written."""
    record = {**record, "files": store_module._files(partial)}
    final = partial.rename(partial.with_suffix(""))
    write_text(final / RECORD, json.dumps({**record, "record_sha256": digest(record)}))
    return store_module.Artifact(final, record)


def two_steps(folder: Path) -> Path:
    """The recipe of a sweep: a step with a journal, and one before it."""
    raw = raw_recipe(folder, judged=False)
    del raw["steps"]["base"]
    raw["steps"]["sft"]["model"] = str(folder / "rubric.md")
    return write_recipe(folder, raw)


def operations(folder: Path) -> list[str]:
    """The names of all operations of an undisturbed run, counted in a child."""
    path, child = two_steps(folder), os.fork()
    if not child:
        shim = Shim()
        shim.install()
        run(path)
        names = [name for name, _ in shim.log]
        Path(folder / "operations").write_text(json.dumps(names))
        os._exit(0)
    os.waitpid(child, 0)
    return list(json.loads((folder / "operations").read_text()))


def sweep(folder: Path, how: str, every: int) -> dict[str, Any]:
    """Stop a run at every operation, or at every n-th, run it again, and compare with a run that was left alone.

    What a kill after the k-th operation leaves is what a kill before the next one leaves, so each k is stopped
    before; writes are stopped in their middle too, and the last operation after.
    """
    if how == "rename-first":
        Store.complete = rename_first  # type: ignore[method-assign]
    os.fsync = no_wait  # a killed process loses nothing that it gave to the kernel
    names = operations(folder / "reference")
    expected = contents(folder / "reference/runs/store")
    stops = [(at, "full" if how == "full" else "before") for at in range(1, len(names) + 1)]
    if how == "full":
        stops = [(at, when) for at, when in stops if names[at - 1] not in ("unlink", "rmdir")]
    if how == "rename-first":
        stops = stops[:20]  # the first entry shows it
    if how == "kill":
        stops += [(at, "half") for at, name in enumerate(names, start=1) if name == "write"] + [(len(names), "after")]
    stops, bad = stops[::every], []
    stopped = sum(_stop_and_continue(folder / f"{at}-{when}", at, when, expected, bad) for at, when in stops)
    return {"operations": len(names), "stopped": stopped, "bad": bad}


def _stop_and_continue(place: Path, at: int, when: str, expected: dict[str, str], bad: list[str]) -> int:
    root = place / "runs/store"
    path = two_steps(place)
    code = in_child(path, Shim(at, when))
    if code not in ((0, 2) if when == "full" else (0, -9)):
        bad.append(f"{place.name}: exit {code}")
    bad += [f"{place.name}: {name} is visible and torn" for name in torn(root)]
    there = {entry.name.split("-")[0] for entry in visible(root)}
    os.environ["CALLS"] = str(place / "calls")
    again = in_child(path, None)
    del os.environ["CALLS"]
    made = set((place / "calls").read_text().split()) if (place / "calls").exists() else set()
    if again or contents(root) != expected or (root / "quarantine").exists():
        bad.append(f"{place.name}: the run after it exits {again} or ends with other files")
    if made & there:
        bad.append(f"{place.name}: {made & there} was complete and is made again")
    return int(code != 0)


if __name__ == "__main__":
    print(json.dumps(sweep(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
