"""Kills a process that asks a counting endpoint, again and again, and looks for calls that were sent though answered.

    python tests/killed_calls.py FOLDER SEED KILLS [MUTANT=KILLS ...]      # prints what it found, a JSON line for each

Each round forks a child that completes a list of requests. It is killed at a random moment, or just before or just
after a commit of the journal. Answered means: committed to the journal, or used by a child. `forget` is a journal
that does not write answers, `blind` one that does not find them: both must be caught.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from misbehaving_server import text_for

from posttrain.engines import wire  # noqa: F401  # imported once here, not in every child
from posttrain.engines.endpoint import Answer, Endpoint, Request, body_of, key_of
from posttrain.engines.journal import Journal, Outcome
from posttrain.engines.openai_engine import complete

SERVER = Path(__file__).with_name("misbehaving_server.py")
LISTED, BATCH = 60, 12


class Forgetful(Journal):
    """Uses an answer without writing it."""

    def _settle(self, done: Any) -> Outcome:
        if done.state == "answered":
            super()._settle(done._replace(state="refused"))
            return Outcome("settled", answer=done.answer)
        return super()._settle(done)


class Blind(Journal):
    """Writes answers and never finds them."""

    def answers(self, keys: Any) -> dict[str, str]:
        return {}

    def _claim(self, wish: Any) -> Outcome:
        self._stored = lambda key: None  # type: ignore[method-assign]
        try:
            return super()._claim(wish)
        finally:
            del self._stored


KINDS: dict[str, type[Journal]] = {"": Journal, "forget": Forgetful, "blind": Blind}


def listed(block: int) -> list[Request]:
    """The requests of one block of work."""
    return [Request([{"role": "user", "content": f"block {block}, question {n}"}]) for n in range(LISTED)]


def child(folder: Path, endpoint: Endpoint, block: int, kind: type[Journal], fatal: tuple[int, bool] | None) -> None:
    """Ask for everything, noting what was used; die at the `fatal` commit, before it or after it."""
    journal, write, commits = kind(folder / "journal.sqlite"), kind.write, 0

    def counted(entries: Any) -> list[Outcome]:
        nonlocal commits
        commits += 1
        if fatal == (commits, True):
            os.kill(os.getpid(), signal.SIGKILL)
        outcomes = write(journal, entries)
        if fatal == (commits, False):
            os.kill(os.getpid(), signal.SIGKILL)
        return outcomes

    journal.write = counted  # type: ignore[method-assign]
    requests = listed(block)
    with (folder / "used").open("a", buffering=1) as used:
        for start in range(0, LISTED, BATCH):
            batch = requests[start : start + BATCH]
            for request, answer in zip(batch, complete(endpoint, batch, journal, scope="kills"), strict=True):
                assert isinstance(answer, Answer) and answer.text == text_for(body_of(endpoint, request)), answer
                used.write(f"{request.messages[-1]['content']}\n")
    journal.close()


def forked(folder: Path, endpoint: Endpoint, block: int, kind: type[Journal], rng: random.Random | None) -> bool:
    """One child; True when it came to its end."""
    fatal = (rng.randint(1, 25), rng.random() < 0.5) if rng and rng.random() < 0.7 else None
    pid = os.fork()
    if not pid:
        try:
            child(folder, endpoint, block, kind, fatal)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    if rng and fatal is None:
        time.sleep(rng.uniform(0, 0.25))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a child failed")
    return os.WIFEXITED(status)


def answered(folder: Path, endpoint: Endpoint, block: int) -> set[str]:
    """The questions of a block that no process may send any more."""
    used = (folder / "used").read_text().splitlines() if (folder / "used").exists() else []
    keys = {key_of(endpoint, request): request.messages[-1]["content"] for request in listed(block)}
    with Journal(folder / "journal.sqlite") as journal:
        return {*used, *(keys[key] for key in journal.answers(list(keys)))}


def main(folder: Path, kills: int, rng: random.Random, kind: type[Journal]) -> dict[str, Any]:
    """Rounds until so many children were killed, and then the last list twice to the end."""
    server = subprocess.Popen([sys.executable, str(SERVER), "0.005"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    endpoint = Endpoint(model="double", base_url=f"http://127.0.0.1:{port}/v1", concurrency=4, deadline=20)
    block = killed = seen = whole = 0
    repeated: list[str] = []
    done: set[str] = set()
    try:
        while whole < 2:
            ended = forked(folder, endpoint, block, kind, rng if killed < kills else None)
            whole += killed == kills
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/quiet", timeout=30) as reply:
                asked: list[str] = json.load(reply)
            new, seen = asked[seen:], len(asked)
            repeated += [question for n, question in enumerate(new) if question in done or question in new[:n]]
            done = answered(folder, endpoint, block)
            killed += not ended
            block += ended and not whole
    finally:
        server.terminate()
        server.wait()
    everything = done >= {str(request.messages[-1]["content"]) for request in listed(block)}
    return {"kills": killed, "sent": seen, "answered": len(done), "repeated": repeated, "everything": everything}


if __name__ == "__main__":
    _, path, seed, *wanted = sys.argv
    for number, item in enumerate(wanted):
        mutant, _, count = item.rpartition("=")
        (Path(path) / str(number)).mkdir()
        print(json.dumps(main(Path(path) / str(number), int(count), random.Random(int(seed)), KINDS[mutant])))
