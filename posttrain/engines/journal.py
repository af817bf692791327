"""The one journal of all remote calls: what was answered is never asked again, by any step, process or time.

A row of `calls` is written before a request is sent. It is three things: the claim that keeps two processes from
sending the same request, the reservation of what the call may cost, and, once settled, what it did cost. A row of
`answers` is committed to the disk (synchronous=FULL) before the answer is used.

In flight: a claim holds while its process lives, and at most until its lease ends (twice the deadline and a minute).
Others wait for it, reading the journal. A process that was killed is known by its id, its birth and its namespace;
its calls become `lost`: they count at their full price, since the endpoint may have billed them, and are sent again
by whoever needs them. An answer that comes after its lease is kept if it is the first.

The file lies on a local disk (SQLite's write-ahead log needs shared memory). A `Journal` belongs to one process.
"""

import hashlib
import os
import platform
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from posttrain.engines.journal_file import damaged, failed, open_file

IN_FLIGHT = "state = 'in flight'"
MANY = 500  # variables in one statement


class Amount(NamedTuple):
    """What calls cost, or may cost, or may cost at most: calls, tokens (prompt and completion), US dollars."""

    requests: float = 0
    tokens: float = 0
    usd: float = 0.0

    def __add__(self, other: object) -> "Amount":
        assert isinstance(other, Amount)
        return Amount(*(mine + its for mine, its in zip(self, other, strict=True)))


class Claim(NamedTuple):
    """The wish to send a request now. `limit` is the budget of `scope`, all its processes and runs together."""

    key: str
    scope: str
    url: str
    worst: Amount
    limit: Amount | None
    lease: float  # seconds


class Settlement(NamedTuple):
    """What became of a call. `lost` keeps the reservation, `refused` costs nothing, `unsent` never happened."""

    call: int
    state: Literal["answered", "refused", "lost", "unsent"]
    answer: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: Amount = Amount()
    seconds: float = 0.0


class Outcome(NamedTuple):
    """`ours`: send it. `answered`: here it is. `taken`: another sends it. `full`: the budget is reserved by calls in
    flight. `over`: the budget is spent. `settled`: done, with the answer that stands."""

    state: Literal["ours", "answered", "taken", "full", "over", "settled"]
    call: int = 0
    answer: str = ""
    spent: Amount = Amount()


class Journal:
    """An open journal; a context manager. Its methods may be called from any thread of its process."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.db = open_file(path)
        self.owner = _owner()
        self.sums: dict[str, Amount] = {}  # spent by scope, within one transaction
        with self._transaction():
            self._bury_the_dead()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the last to close it folds the write-ahead log into it."""
        with self.lock:
            self.db.close()

    def answers(self, keys: Sequence[str]) -> dict[str, str]:
        """The stored answers among these keys."""
        found: dict[str, str] = {}
        with self._errors():
            for start in range(0, len(keys), MANY):
                some = keys[start : start + MANY]
                query = f"SELECT key, answer, digest FROM answers WHERE key IN ({','.join('?' * len(some))})"
                for key, answer, digest in self.db.execute(query, some):
                    found[key] = self._whole(key, answer, digest)
        return found

    def spent(self, scope: str) -> Amount:
        """What the calls of a scope cost so far, with what those in flight may cost."""
        with self._errors():
            return self._spent(scope)

    def write(self, entries: Sequence[Settlement | Claim]) -> list[Outcome]:
        """All entries in one transaction, on the disk when this returns. Settlements first cost least time."""
        with self._transaction():
            self.sums.clear()
            return [self._settle(entry) if isinstance(entry, Settlement) else self._claim(entry) for entry in entries]

    def _settle(self, done: Settlement) -> Outcome:
        self.sums.clear()
        if done.state == "unsent":
            self.db.execute("DELETE FROM calls WHERE id = ?", (done.call,))
            return Outcome("settled")
        cost = {} if done.state == "lost" else {"tokens": done.cost.tokens, "usd": done.cost.usd}
        row = done._asdict() | cost
        extra = "".join(f", {name} = :{name}" for name in cost)
        self.db.execute(
            "UPDATE calls SET state = :state, model = :model, prompt_tokens = :prompt_tokens, "
            f"completion_tokens = :completion_tokens, seconds = :seconds{extra} "
            f"WHERE id = :call AND ({IN_FLIGHT} OR :state = 'answered')",
            {name: value for name, value in row.items() if name != "cost"},
        )
        if done.state != "answered":
            return Outcome("settled")
        (key,) = self.db.execute("SELECT key FROM calls WHERE id = ?", (done.call,)).fetchone()
        self.db.execute(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)",
            (key, done.answer, _digest(key, done.answer), done.call),
        )
        return Outcome("settled", answer=self._stored(key) or "")

    def _claim(self, wish: Claim) -> Outcome:
        if (stored := self._stored(wish.key)) is not None:
            return Outcome("answered", answer=stored)
        if self._in_flight("key", wish.key):
            self._bury_the_dead()
            if self._in_flight("key", wish.key):
                return Outcome("taken")
        if wish.limit is not None:
            spent = self.sums.get(wish.scope) or self._spent(wish.scope)
            if any(map(exceeds, spent + wish.worst, wish.limit)):
                self._bury_the_dead()
                return Outcome("full" if self._in_flight("scope", wish.scope) else "over", spent=spent)
            self.sums[wish.scope] = spent + wish.worst
        now = time.time()
        cursor = self.db.execute(
            "INSERT INTO calls (key, scope, url, owner, state, sent, lease, tokens, usd) "
            "VALUES (?, ?, ?, ?, 'in flight', ?, ?, ?, ?)",
            (wish.key, wish.scope, wish.url, self.owner, now, now + wish.lease, wish.worst.tokens, wish.worst.usd),
        )
        return Outcome("ours", call=cursor.lastrowid or 0)

    def _stored(self, key: str) -> str | None:
        row = self.db.execute("SELECT answer, digest FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._whole(key, *row)

    def _whole(self, key: str, answer: str, digest: str) -> str:
        if _digest(key, answer) != digest:
            raise damaged(self.path, f"the answer {key[:12]} is not as it was written")
        return answer

    def _in_flight(self, column: Literal["key", "scope"], value: str) -> bool:
        query = f"SELECT 1 FROM calls WHERE {column} = ? AND {IN_FLIGHT} LIMIT 1"
        return self.db.execute(query, (value,)).fetchone() is not None

    def _spent(self, scope: str) -> Amount:
        return Amount(
            *self.db.execute(
                "SELECT count(*), total(tokens), total(usd) FROM calls WHERE scope = ?", (scope,)
            ).fetchone()
        )

    def _bury_the_dead(self) -> None:
        """Calls in flight whose process is gone or whose lease has ended are lost."""
        self.db.execute(f"UPDATE calls SET state = 'lost' WHERE {IN_FLIGHT} AND lease < ?", (time.time(),))
        owners = self.db.execute(f"SELECT DISTINCT owner FROM calls WHERE {IN_FLIGHT}").fetchall()
        for (owner,) in owners:
            if _is_dead(owner):
                self.db.execute(f"UPDATE calls SET state = 'lost' WHERE {IN_FLIGHT} AND owner = ?", (owner,))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with self.lock:
            try:
                yield
            except sqlite3.ProgrammingError:
                raise  # a mistake of ours, such as a closed journal
            except sqlite3.Error as error:
                raise failed(self.path, error) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise


def exceeds(amount: float, limit: float) -> bool:
    """Above the limit by more than a billionth: sums of cents are not exact."""
    return amount - limit > 1e-9 * max(limit, 1.0)


def _digest(key: str, answer: str) -> str:
    return hashlib.sha256(f"{key}\n{answer}".encode()).hexdigest()


def _owner() -> str:
    """This process, told apart from an earlier one with its number and from one in another container."""
    return f"{_place()}|{os.getpid()}|{_born(os.getpid())}"


def _place() -> str:
    try:
        return f"{platform.node()}|{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{platform.node()}|"


def _born(pid: int) -> str:
    """When a process started, in the kernel's ticks; "" for one that is gone, and where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _is_dead(owner: str) -> bool:
    """True only for a process of this place that is surely gone; for others the lease decides."""
    place, pid, born = owner.rsplit("|", 2)
    return place == _place() and born != "" and _born(int(pid)) != born
