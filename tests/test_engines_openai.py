"""The remote engine before an endpoint that misbehaves: an answer is right or missing, and asked for once."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from misbehaving_server import FAULTS, MEMORY, Call, Reply, Server, chat, good, serving, status, text_for

from posttrain.engines import openai_engine
from posttrain.engines.endpoint import Answer, Endpoint, Failure, Request, Usage, body_of
from posttrain.engines.journal import Journal
from posttrain.engines.openai_engine import complete
from posttrain.errors import PosttrainError


@pytest.fixture
def journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, Journal(Path(folder) / "journal.sqlite") as opened:
        yield opened


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; none is made."""
    asked: list[float] = []
    pause = asyncio.sleep

    async def at_once(seconds: float) -> None:
        asked.append(seconds)
        await pause(0)

    defaults = complete.__defaults__ or ()
    monkeypatch.setattr(complete, "__defaults__", (*defaults[:-1], at_once))
    return asked


def endpoint(server: Server, **settings: object) -> Endpoint:
    return Endpoint.model_validate({"model": "m", "base_url": server.url, "deadline": 10, **settings})


def ask(text: str, nth: int = 0) -> Request:
    return Request([{"role": "user", "content": text}], nth=nth)


def numbered(count: int) -> list[Request]:
    return [ask(f"question {n}") for n in range(count)]


def honest(where: Endpoint, requests: list[Request]) -> list[str]:
    return [text_for(body_of(where, request)) for request in requests]


def texts(results: list[Answer | Failure]) -> list[str | None]:
    return [result.text if isinstance(result, Answer) else None for result in results]


def test_answers_come_in_order_and_each_request_is_sent_once(journal: Journal) -> None:
    with serving() as server:
        where = endpoint(server)
        requests = [*numbered(20), *numbered(20), ask("question 3", nth=1)]
        results = complete(where, requests, journal)
        assert texts(results) == honest(where, requests)
        assert sorted(server.prompts) == sorted([*(f"question {n}" for n in range(20)), "question 3"])
        assert complete(where, requests, journal) == results
        assert len(server.calls) == 21


def test_a_journal_that_does_not_write_is_caught_by_the_second_run(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(Journal, "_stored", lambda self, key: None)
    monkeypatch.setattr(Journal, "answers", lambda self, keys: {})
    monkeypatch.setattr(openai_engine, "load_answer", lambda text: Answer(text, "", "", Usage(None, None), None))
    with serving() as server:
        for _ in range(2):
            complete(endpoint(server), numbered(3), journal)
        assert len(server.calls) > 3


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_is_a_failure_with_a_reason(journal: Journal, waits: list[float], name: str) -> None:
    endless = name in ("stall", "stalled body", "1 byte/s")
    with serving(FAULTS[name]) as server:
        where = endpoint(server, deadline=0.2 if endless else 30, retries=2)
        (result,) = complete(where, [ask("x")], journal)
        assert isinstance(result, Failure) and server.url in result.reason and "3 tries" in result.reason
        assert ("within 0.2 s" in result.reason) == endless
        assert journal.spent("").requests == 3 and (endless or len(server.calls) == 3)
        assert not journal.answers([row[0] for row in journal.db.execute("SELECT key FROM calls")])
    assert len([wait for wait in waits if wait > 0]) >= 2


def faulty(call: Call) -> Reply:
    """Three calls of ten go wrong, in every way."""
    rng = random.Random(f"{call.prompt} {call.nth}")
    return rng.choice(list(FAULTS.values()))(call) if rng.random() < 0.3 else good(call)


def test_with_three_faults_in_ten_calls_all_answers_are_those_without(journal: Journal, waits: list[float]) -> None:
    with serving(faulty) as server:
        where = endpoint(server, deadline=0.5, retries=12, concurrency=16)
        requests = numbered(120)
        assert texts(complete(where, requests, journal)) == honest(where, requests)
        sent = len(server.calls)
        assert 140 < sent <= journal.spent("").requests
        assert texts(complete(where, requests, journal)) == honest(where, requests)
        assert len(server.calls) == sent


def test_without_tries_the_same_faults_leave_gaps(journal: Journal) -> None:
    """Negative control."""
    with serving(faulty) as server:
        results = complete(endpoint(server, deadline=0.5, retries=0, concurrency=16), numbered(40), journal)
        assert None in texts(results) and any(texts(results))


def test_a_slow_reply_that_ends_before_the_deadline_is_an_answer(journal: Journal) -> None:
    with serving(lambda call: good(call)._replace(rate=5000)) as server:
        assert isinstance(complete(endpoint(server), [ask("x")], journal)[0], Answer)


def test_tries_wait_longer_and_longer_with_jitter_and_obey_retry_after(journal: Journal, waits: list[float]) -> None:
    with serving(status(503)) as server:
        complete(endpoint(server, retries=6), [ask("x")], journal)
    assert [wait <= 0.5 * 2**n for n, wait in enumerate(waits)] == [True] * 6 and len(set(waits)) == 6
    waits.clear()
    with serving(status(429, Retry_After="7")) as server:
        complete(endpoint(server, retries=1), [ask("y")], journal)
    assert 7 <= waits[0] <= 7.5


def test_a_pause_that_one_call_is_told_holds_for_all(journal: Journal, waits: list[float]) -> None:
    def script(call: Call) -> Reply:
        return status(429, Retry_After="50")(call) if call.number == 0 else good(call)

    with serving(script) as server:
        complete(endpoint(server, concurrency=1), numbered(4), journal)
    assert len([wait for wait in waits if wait > 40]) > 1


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_refused_request_costs_no_other_answer_and_no_second_try(journal: Journal, code: int) -> None:
    def script(call: Call) -> Reply:
        return status(code, '{"error": {"message": "too long"}}')(call) if "3" in call.prompt else good(call)

    with serving(script) as server:
        results = complete(endpoint(server), numbered(6), journal)
        assert [isinstance(result, Answer) for result in results] == [True] * 3 + [False] + [True] * 2
        assert results[3].status == code and "too long" in results[3].reason  # type: ignore[union-attr]
        assert len(server.calls) == 6


@pytest.mark.parametrize(
    ("code", "body", "do"),
    [
        (401, "", "api_key_env"),
        (403, "", "key that may use"),
        (404, "", "Check base_url"),
        (402, "", "Pay"),
        (429, '{"error": {"code": "insufficient_quota"}}', "credit"),
        (307, "", "redirects"),
    ],
)
def test_what_no_request_can_pass_stops_the_run_and_keeps_the_answers(
    journal: Journal, code: int, body: str, do: str
) -> None:
    def script(call: Call) -> Reply:
        elsewhere = {"Location": f"http://127.0.0.1:{server.port}/v1/other"}
        return good(call) if call.number < 5 else Reply(code, body.encode(), elsewhere)

    with serving(script) as server:
        where = endpoint(server, concurrency=2)
        with pytest.raises(PosttrainError, match=f"{server.url}: HTTP {code}.*{do}"):
            complete(where, numbered(40), journal)
        assert len(server.calls) < 12
        server.script = good
        assert None not in texts(complete(where, numbered(40), journal))
        assert len(server.calls) < 12 + 35 + 1


def test_an_endpoint_that_never_answers_is_not_asked_everything(journal: Journal, waits: list[float]) -> None:
    with serving(status(500)) as server:
        with pytest.raises(PosttrainError, match="32 requests failed and none was answered"):
            complete(endpoint(server, retries=1), numbered(500), journal)
        assert len(server.calls) < 150


def test_nobody_listens(journal: Journal, waits: list[float]) -> None:
    with serving() as server:
        where = endpoint(server, retries=1)
    (result,) = complete(where, [ask("x")], journal)
    assert isinstance(result, Failure) and "2 tries" in result.reason
    assert journal.spent("") == (2, 0, 0)  # what was never sent is not charged


def reply(**changes: object) -> Reply:
    return Reply(body=json.dumps({**chat("hello"), **changes}).encode())


def test_what_an_answer_says_of_itself_is_given_on(journal: Journal) -> None:
    pair = {"token": "8", "logprob": -0.1, "top_logprobs": [{"token": "8", "logprob": -0.1}, {"token": "9"}]}
    choices = chat("8", "length", logprobs={"content": [pair]})["choices"]
    with serving(lambda call: reply(choices=choices)._replace(headers={"Content-Type": "text/html"})) as server:
        (result,) = complete(endpoint(server, top_logprobs=2), [ask("x")], journal)
        assert server.calls[0].body["top_logprobs"] == 2 and server.calls[0].body["logprobs"] is True
    assert isinstance(result, Answer) and result.finish_reason == "length" and result.model == "double-2"
    assert result.usage == (7, 3)
    assert result.logprobs == (("8", -0.1, (("8", -0.1), ("9", -9999.0))),)
    (again,) = complete(endpoint(server, top_logprobs=2), [ask("x")], journal)
    assert again == result


@pytest.mark.parametrize(
    ("message", "text", "reason"),
    [({"content": None}, "", "stop"), ({"content": None, "refusal": "I cannot"}, "I cannot", "refusal")],
)
def test_an_answer_without_content_is_an_answer(
    journal: Journal, message: dict[str, str], text: str, reason: str
) -> None:
    with serving(lambda call: reply(choices=[{"message": message, "finish_reason": "stop"}])) as server:
        (result,) = complete(endpoint(server), [ask("x")], journal)
    assert isinstance(result, Answer) and (result.text, result.finish_reason) == (text, reason)


def test_no_more_calls_run_at_once_than_allowed(journal: Journal) -> None:
    with serving(lambda call: good(call)._replace(delay=0.02)) as server:
        complete(endpoint(server, concurrency=5), numbered(40), journal)
        assert server.most == 5


def test_two_that_want_the_same_requests_send_each_once(journal: Journal) -> None:
    with serving(lambda call: good(call)._replace(delay=0.01)) as server:
        where, found = endpoint(server, concurrency=4), []

        def run() -> None:
            with Journal(journal.path) as own:
                found.append(texts(complete(where, numbered(30), own)))

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [honest(where, numbered(30))] * 3
        assert len(server.calls) == 30


def test_an_interrupted_run_keeps_its_answers_and_claims_nothing(journal: Journal) -> None:
    def tick(done: int, note: str = "") -> None:
        if done == 10:
            signal.raise_signal(signal.SIGINT)

    with serving() as server:
        where = endpoint(server, concurrency=4)
        with pytest.raises(KeyboardInterrupt):
            complete(where, numbered(30), journal, tick=tick)
        sent = len(server.calls)
        kept = journal.db.execute("SELECT count(*) FROM answers").fetchone()[0]
        assert kept >= 10
        assert texts(complete(where, numbered(30), journal)) == honest(where, numbered(30))
        assert len(server.calls) == sent + 30 - kept


def test_an_answer_is_in_the_file_before_anyone_is_told_of_it(journal: Journal) -> None:
    told: list[tuple[int, int]] = []
    with serving() as server, Journal(journal.path) as reader:

        def tick(done: int, note: str = "") -> None:
            told.append((done, reader.db.execute("SELECT count(*) FROM answers").fetchone()[0]))

        complete(endpoint(server), numbered(30), journal, tick=tick)
    assert [done for done, _ in told] == list(range(1, 31))
    assert all(stored >= done for done, stored in told)


def test_progress_counts_what_the_journal_had(journal: Journal) -> None:
    seen: list[tuple[int, str]] = []
    with serving(lambda call: status(400)(call) if "5" in call.prompt else good(call)) as server:
        where = endpoint(server)
        complete(where, numbered(2), journal)
        complete(where, numbered(6), journal, tick=lambda done, note="": seen.append((done, note)))
    assert [done for done, _ in seen] == [2, 3, 4, 5, 6]
    assert seen[0][1] == "2 from the journal" and seen[-1][1] == "1 failed"


def test_the_engine_is_imported_without_its_client() -> None:
    code = "import sys, posttrain.engines.openai_engine; print({'openai', 'httpx2', 'torch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
