"""Kills a generate step that asks a counting endpoint, again and again, and looks for calls that were sent twice.

    python tests/killed_rows.py FOLDER SEED KILLS [blind]      # prints what it found as JSON

A kill comes at a random moment, or just before or after a commit of the journal. Answered means: committed to the
journal. `blind` is a journal that does not find its answers: that must be caught.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from killed_calls import Blind
from misbehaving_server import Call, Reply, chat, serving
from stage_context import context, run

from data_gen.story import tell
from posttrain.engines import wire  # noqa: F401  # imported once here, not in every child
from posttrain.engines.journal import Journal, Outcome
from posttrain.rows import Row, read_rows
from posttrain.stages import teaching_rows

SETTINGS: dict[str, Any] = {
    "rows": 60,
    "test_size": 6,
    "seed": 3,
    "teacher": "openai:double",
    "require_words": False,
}


def story_for(body: Any) -> str:
    """The honest answer: a story, a function of the messages alone."""
    said = json.dumps(body["messages"], sort_keys=True).encode()
    return tell(11, int.from_bytes(hashlib.sha256(said).digest()[:4], "big")).text


def told(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "out" / "train.jsonl").read_bytes(), (folder / "out" / "test.jsonl").read_bytes()


def rows_of(folder: Path) -> list[Row]:
    return [row for name in ("train", "test") for row in read_rows(folder / "out" / f"{name}.jsonl")]


def child(folder: Path, url: str, kind: type[Journal], fatal: tuple[int, bool] | None) -> None:
    """The step; dies at the `fatal` commit, before it or after it."""
    commits = 0

    class Fatal(kind):  # type: ignore[valid-type, misc]
        def write(self, entries: Any) -> list[Outcome]:
            nonlocal commits
            commits += 1
            if fatal == (commits, True):
                os.kill(os.getpid(), signal.SIGKILL)
            outcomes: list[Outcome] = super().write(entries)
            if fatal == (commits, False):
                os.kill(os.getpid(), signal.SIGKILL)
            return outcomes

    teaching_rows.Journal = Fatal  # type: ignore[misc]
    endpoint = {"base_url": url, "served_as": "double", "deadline": 20, "concurrency": 4}
    run("generate", context(folder), **SETTINGS, endpoint=endpoint)


def main(folder: Path, kills: int, rng: random.Random, kind: type[Journal]) -> dict[str, Any]:
    """Children until so many were killed, from nothing whenever one came to its end; then one to the end."""
    killed, repeated, last = 0, list[str](), False

    def script(call: Call) -> Reply:
        return Reply(body=json.dumps(chat(story_for(call.body))).encode(), delay=0.004)

    with serving(script) as server:
        while True:
            answered = _answered(folder)
            before = len(server.calls)
            pid = os.fork()
            if not pid:
                fatal = (rng.randint(1, 40), rng.random() < 0.5) if killed < kills and rng.random() < 0.7 else None
                child(folder, server.url, kind, fatal)
                os._exit(0)
            rng.random(), rng.random()  # the child's draws are not ours
            if killed < kills and rng.random() < 0.3:
                time.sleep(rng.uniform(0, 0.3))
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            time.sleep(0.02)  # calls of a dead child that are on their way
            repeated += [call.prompt for call in server.calls[before:] if call.prompt in answered]
            if os.WIFEXITED(status) and os.WEXITSTATUS(status):
                raise SystemExit("a child failed")
            ended = os.WIFEXITED(status)
            killed += not ended
            if ended and last:
                return {"kills": killed, "sent": len(server.calls), "repeated": repeated}
            if ended and killed < kills:
                shutil.rmtree(folder)
                folder.mkdir()
            last = killed >= kills


def _answered(folder: Path) -> set[str]:
    """The prompts whose answers the journal has, or that rows were made of."""
    from posttrain.engines.endpoint import Endpoint, Request, key_of

    if not (folder / "journal.sqlite").exists():
        return set()
    from data_gen.instructions import instruction_rows
    from posttrain.stages.teachers import TeacherEndpoint

    settings = TeacherEndpoint(base_url="http://127.0.0.1:1/v1", served_as="double")
    endpoint = Endpoint(model="double", **settings.model_dump())
    rows = instruction_rows(SETTINGS["seed"], 0, SETTINGS["rows"])
    keys = {key_of(endpoint, Request(row["messages"][:1])): row["messages"][0]["content"] for row in rows}
    with Journal(folder / "journal.sqlite") as journal:
        found = {keys[key] for key in journal.answers(list(keys))}
    out = folder / "out" / "train.jsonl"
    used = {row["messages"][0]["content"] for row in rows_of(folder)} if out.exists() else set()
    return found | used


if __name__ == "__main__":
    _, path, seed, count, *blind = sys.argv
    kind = Blind if blind == ["blind"] else Journal
    print(json.dumps(main(Path(path), int(count), random.Random(int(seed)), kind)))
