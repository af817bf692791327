"""The page's server: this machine, this address, this token, and nothing of a step's name."""

import errno
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from label_fakes import ballot

from posttrain.labelling.label_file import LabelFile
from posttrain.labelling.server import MOST, Hall


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    """A server of six pairs that runs until the test ends."""
    with Hall(ballot(tmp_path / "v")) as made:
        runs = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        runs.start()
        yield made
        made.shutdown()
        runs.join(5)


def ask(hall: Hall, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent = {"Host": hall.host} | {name.replace("_", "-"): value for name, value in headers.items()}
    if method == "POST":
        sent = {"Origin": f"http://{hall.host}", "Content-Type": "application/json"} | sent
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    line = http.client.HTTPConnection("127.0.0.1", hall.server_port, timeout=5)
    line.request(method, path, data, sent)
    answer = line.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def act(hall: Hall, **what: Any) -> Any:
    code, _, content = ask(hall, "POST", f"/{hall.token}/ballot", what)
    assert code == 200
    return json.loads(content)


def test_a_page_and_a_ballot_are_served_and_name_no_step(hall: Hall) -> None:
    code, headers, page = ask(hall, "GET", f"/{hall.token}/")
    assert code == 200 and page.startswith(b"<!doctype html>")
    code, _, state = ask(hall, "GET", f"/{hall.token}/ballot")
    assert code == 200 and json.loads(state)["pair"].keys() == {"id", "prompt", "first", "second"}
    assert b"sft" not in page + state and b'"base"' not in page + state
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    assert hall.server_address[0] == "127.0.0.1" and len(hall.token) >= 32


def test_without_the_token_or_under_another_name_there_is_nothing(hall: Hall) -> None:
    vote = {"do": "a", "pair": hall.ballot.shown.id if hall.ballot.shown else ""}
    path = f"/{hall.token}/ballot"
    for wrong in ("/", "/ballot", f"/{hall.token}", f"/{hall.token[:-1]}x/", f"/{hall.token}/../{hall.token}/x"):
        assert ask(hall, "GET", wrong)[0] == 404
    assert ask(hall, "GET", path, Host="evil.example")[0] == 404
    assert ask(hall, "POST", f"/{'x' * len(hall.token)}/ballot", vote)[0] == 404
    assert ask(hall, "POST", path, vote, Origin="http://evil.example")[0] == 404
    assert ask(hall, "POST", path, vote, Content_Type="text/plain")[0] == 404  # what a form of another page can send
    assert ask(hall, "POST", path, vote, Host="evil.example")[0] == 404
    assert hall.ballot.voted == 0
    assert ask(hall, "POST", path, vote)[0] == 200 and hall.ballot.voted == 1  # negative control


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b'{"do": "a"}' + b" " * MOST])
def test_a_body_that_is_none_does_nothing(hall: Hall, body: bytes) -> None:
    assert ask(hall, "POST", f"/{hall.token}/ballot", body)[0] == 404
    assert hall.ballot.voted == 0


def test_a_vote_is_for_the_pair_it_names_and_counts_once(hall: Hall) -> None:
    first = hall.ballot.shown
    assert first is not None
    state = act(hall, do="a", pair=first.id)
    assert state["voted"] == 1 and state["pair"]["id"] != first.id
    again = act(hall, do="a", pair=first.id)
    assert again["voted"] == 1 and "already" in again["said"] and again["pair"] == state["pair"]
    assert act(hall, do="burn", pair=state["pair"]["id"])["voted"] == 1
    assert act(hall, do="undo")["pair"]["id"] == first.id and hall.ballot.voted == 0
    assert "nothing to undo" in act(hall, do="undo")["said"]


def test_many_at_once_are_one_vote(hall: Hall) -> None:
    first = hall.ballot.shown
    assert first is not None
    voters = [threading.Thread(target=act, args=(hall,), kwargs={"do": "a", "pair": first.id}) for _ in range(8)]
    for voter in voters:
        voter.start()
    for voter in voters:
        voter.join(5)
    assert hall.ballot.voted == 1


def test_quit_ends_the_server(tmp_path: Path) -> None:
    with Hall(ballot(tmp_path / "v")) as hall:
        runs = threading.Thread(target=hall.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        runs.start()
        assert act(hall, do="quit", pair=None)["over"] is True
        runs.join(5)
        assert not runs.is_alive()


def test_a_vote_that_cannot_be_saved_ends_the_server_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: LabelFile, row: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LabelFile, "append", full)
    with Hall(ballot(tmp_path / "v")) as hall:
        runs = threading.Thread(target=hall.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        runs.start()
        assert hall.ballot.shown is not None
        vote = {"do": "a", "pair": hall.ballot.shown.id}
        assert ask(hall, "POST", f"/{hall.token}/ballot", vote)[0] == 500
        runs.join(5)
        assert not runs.is_alive() and hall.failure is not None and hall.ballot.voted == 0
