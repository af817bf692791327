"""The journal: what was answered is never sent again, whoever is killed when, and damage is always noticed."""

import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from misbehaving_server import MEMORY

from posttrain.engines import journal as journal_module
from posttrain.engines import journal_file
from posttrain.engines.journal import Amount, Claim, Journal, Outcome, Settlement
from posttrain.errors import PosttrainError

DRIVER = Path(__file__).with_name("killed_calls.py")
COST = Amount(1, 50, 0.5)


def wish(key: str = "k", scope: str = "s", limit: Amount | None = None, lease: float = 60.0) -> Claim:
    return Claim(key, scope, "http://127.0.0.1/v1", Amount(1, 100, 1.0), limit, lease)


def answer(journal: Journal, key: str = "k", text: str = "hello", scope: str = "s") -> Outcome:
    """Claim and settle at once."""
    (claimed,) = journal.write([wish(key, scope)])
    (done,) = journal.write([Settlement(claimed.call, "answered", text, "m", 40, 10, COST, 0.1)])
    return done


def states(*outcomes: Outcome) -> list[str]:
    return [outcome.state for outcome in outcomes]


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:  # a kill loses nothing that the kernel has
        yield Path(folder) / "store" / "journal.sqlite"


def test_an_answer_is_found_by_every_later_claim_and_process(path: Path) -> None:
    with Journal(path) as journal:
        assert answer(journal).answer == "hello"
        assert journal.write([wish()]) == [Outcome("answered", answer="hello")]
    with Journal(path) as later:
        assert later.answers(["k", "other"]) == {"k": "hello"}
        assert states(*later.write([wish(), wish("other")])) == ["answered", "ours"]


def test_a_commit_is_on_the_disk_before_it_counts(path: Path) -> None:
    with Journal(path) as journal:
        assert journal.db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert journal.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_request_is_claimed_once(path: Path) -> None:
    with Journal(path) as one, Journal(path) as two:
        (mine,) = one.write([wish()])
        assert states(mine, *two.write([wish(), wish()])) == ["ours", "taken", "taken"]
        one.write([Settlement(mine.call, "lost")])
        assert states(*two.write([wish()])) == ["ours"]


def test_a_late_answer_counts_if_it_is_the_first(path: Path) -> None:
    with Journal(path) as slow, Journal(path) as quick:
        (late,) = slow.write([wish(lease=-1)])
        (early,) = quick.write([wish()])  # its lease is over
        assert early.state == "ours"
        assert slow.write([Settlement(late.call, "answered", "slow")])[0].answer == "slow"
        assert quick.write([Settlement(early.call, "answered", "quick")])[0].answer == "slow"
        assert quick.answers(["k"]) == {"k": "slow"}


def test_what_a_call_cost_is_counted_by_scope(path: Path) -> None:
    with Journal(path) as journal:
        answer(journal)
        (lost, refused, unsent, flying, _) = journal.write([wish(key) for key in "abcd"] + [wish("e", "elsewhere")])
        journal.write(
            [Settlement(lost.call, "lost"), Settlement(refused.call, "refused"), Settlement(unsent.call, "unsent")]
        )
        assert flying.state == "ours"
        assert journal.spent("s") == COST + Amount(1, 100, 1.0) + Amount(1) + Amount(1, 100, 1.0)
        assert journal.spent("elsewhere") == Amount(1, 100, 1.0)
        assert journal.spent("nowhere") == Amount()


@pytest.mark.parametrize("limit", [Amount(2, 1e9, 1e9), Amount(9, 200, 1e9), Amount(9, 1e9, 2.0)])
def test_a_budget_stops_the_call_that_may_pass_it(path: Path, limit: Amount) -> None:
    with Journal(path) as journal:
        first, second, third = journal.write([wish(key, limit=limit) for key in "abc"])
        assert states(first, second, third) == ["ours", "ours", "full"]  # calls in flight may turn out cheaper
        journal.write([Settlement(call.call, "lost") for call in (first, second)])
        (over,) = journal.write([wish("c", limit=limit)])
        assert over.state == "over" and over.spent == Amount(2, 200, 2.0)
        assert states(*journal.write([wish("c", "another", limit)])) == ["ours"]


def test_a_cheap_answer_gives_its_reservation_back(path: Path) -> None:
    limit = Amount(9, 150, 9.0)
    with Journal(path) as journal:
        (first, second) = journal.write([wish("a", limit=limit), wish("b", limit=limit)])
        assert states(first, second) == ["ours", "full"]
        journal.write([Settlement(first.call, "answered", "x", cost=COST)])
        assert states(*journal.write([wish("b", limit=limit)])) == ["ours"]


def test_without_the_check_a_budget_is_passed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the two above."""
    monkeypatch.setattr(journal_module, "exceeds", lambda amount, limit: False)
    with Journal(path) as journal:
        assert states(*journal.write([wish(key, limit=Amount(2, 200, 2.0)) for key in "abc"])) == ["ours"] * 3


CLAIM = """
import os, signal, sys
from pathlib import Path
from posttrain.engines.journal import Amount, Claim, Journal, Settlement
journal = Journal(Path(sys.argv[1]))
first, second = journal.write([Claim(key, "s", "u", Amount(1, 100, 1.0), None, 3600) for key in ("k", "answered")])
journal.write([Settlement(second.call, "answered", "kept", cost=Amount(1, 5, 0.1))])
print("claimed", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_its_answers_and_no_claim(path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "claimed\n"
    with Journal(path) as journal:
        assert states(*journal.write([wish()])) == ["taken"]  # it lives
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert states(*journal.write([wish()])) == ["ours"]
        assert journal.answers(["answered"]) == {"answered": "kept"}
        assert journal.spent("s") == Amount(3, 205, 2.1)  # the lost call at its full price


def test_only_a_process_that_is_surely_gone_is_dead() -> None:
    owner = journal_module._owner()
    place, pid, born = owner.rsplit("|", 2)
    assert not journal_module._is_dead(owner)
    assert not journal_module._is_dead(f"another-{place}|{pid}|1")  # of another machine or container
    if born:  # where there is a /proc
        assert journal_module._is_dead(f"{place}|{pid}|{int(born) - 1}")  # an earlier process of this number
        assert journal_module._is_dead(f"{place}|{2**22 + 1}|{born}")


def filled(path: Path, count: int = 60) -> dict[str, str]:
    """A closed journal of several pages."""
    texts = {f"key-{n}": f"answer {n} " * 20 for n in range(count)}
    with Journal(path) as journal:
        claimed = journal.write([wish(key) for key in texts])
        done = zip(claimed, texts.values(), strict=True)
        journal.write([Settlement(call.call, "answered", text, cost=COST) for call, text in done])
    return texts


def noticed(path: Path, texts: dict[str, str]) -> bool:
    """Opening and reading says that something is wrong; False where every answer is as it was."""
    try:
        with Journal(path) as journal:
            found = journal.answers(list(texts))
    except PosttrainError as error:
        assert str(path) in str(error)
        return True
    assert found == texts, "an answer was lost or changed in silence"
    return False


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "cut by a page": lambda data: data[:-4096],
    "zeroed": lambda data: bytes(len(data)),
    "text": lambda data: b"not a database " * 500,
    "a page zeroed": lambda data: data[:4096] + bytes(4096) + data[8192:],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_said_and_left_alone(path: Path, name: str) -> None:
    texts = filled(path)
    damaged = DAMAGE[name](path.read_bytes())
    path.write_bytes(damaged)
    assert noticed(path, texts)
    assert path.read_bytes() == damaged
    with pytest.raises(PosttrainError, match=r"Nothing was deleted|Move it away"):
        Journal(path)


def flips(path: Path, texts: dict[str, str], step: int) -> int:
    """One bit flipped at every `step`-th byte of the part with content; how many were noticed."""
    data, count = path.read_bytes(), 0
    for at in range(0, len(data), step):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        count += noticed(path, texts)
    return count


def test_no_flipped_bit_changes_or_loses_an_answer_in_silence(path: Path) -> None:
    texts = filled(path)
    assert flips(path, texts, 397) > 20


def test_without_digests_a_flipped_bit_changes_an_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    texts = filled(path)
    monkeypatch.setattr(Journal, "_whole", lambda self, key, text, digest: text)
    with pytest.raises(AssertionError, match="in silence"):
        flips(path, texts, 397)


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE photos (id)")
    with pytest.raises(PosttrainError, match="another program"):
        Journal(path)


def test_a_full_disk_is_said_and_what_was_answered_is_kept(path: Path) -> None:
    with Journal(path) as journal:
        answer(journal)
        journal.db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(PosttrainError, match=r"full; .* make room"):
            answer(journal, "b", "x" * 100_000)
        assert journal.answers(["k", "b"]) == {"k": "hello"}


def test_a_journal_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PosttrainError, match="journal must be readable and writable"):
        Journal(tmp_path / "file" / "journal.sqlite")


def test_a_journal_appears_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "SCHEMA", journal_file.SCHEMA + "no SQL")
    with pytest.raises(PosttrainError):
        Journal(path)
    assert not path.exists()
    monkeypatch.undo()
    Journal(path).close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["journal.sqlite"]


def test_processes_that_make_it_at_the_same_moment_share_it(path: Path) -> None:
    code = "import sys; from pathlib import Path; from posttrain.engines.journal import Journal\n"
    code += "journal = Journal(Path(sys.argv[1])); sys.exit(len(journal.answers(['k'])))"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    with Journal(path) as journal:
        assert states(*journal.write([wish()])) == ["ours"]


def test_a_journal_that_another_process_made_first_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = journal_file._connect

    def slowly(draft: Path) -> sqlite3.Connection:
        monkeypatch.undo()
        with Journal(path) as other:
            answer(other)
        return connect(draft)

    monkeypatch.setattr(journal_file, "_connect", slowly)
    with Journal(path) as journal:
        assert journal.answers(["k"]) == {"k": "hello"}


def killed(seed: int, *wanted: str) -> list[dict[str, Any]]:
    """What the driver found, one for each `[mutant=]kills`."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        command = [sys.executable, str(DRIVER), folder, str(seed), *wanted]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=DRIVER.parents[1])
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_no_answered_call_is_repeated_when_the_process_is_killed_and_a_bad_journal_is_caught() -> None:
    """The last two are the negative control: a journal that does not write answers, and one that does not find them."""
    found, forgetful, blind = killed(3, "4", "forget=0", "blind=0")
    assert found["repeated"] == [] and found["everything"] and found["kills"] == 4
    assert forgetful["repeated"] and blind["repeated"]


@pytest.mark.slow
def test_no_answered_call_is_repeated_over_sixty_kills() -> None:
    (found,) = killed(11, "60")
    assert found["repeated"] == [] and found["everything"] and found["kills"] == 60
