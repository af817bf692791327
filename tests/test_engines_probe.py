"""An endpoint that takes a json_schema and ignores it is found out; one that does not answer is no finding."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from misbehaving_server import MEMORY, Call, Reply, Script, chat, serving, status

from posttrain.engines.budget import Budget, BudgetExceeded
from posttrain.engines.endpoint import Endpoint
from posttrain.engines.journal import Journal
from posttrain.engines.probe import EXPECTED, Probe, probe
from posttrain.errors import PosttrainError


@pytest.fixture
def journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, Journal(Path(folder) / "journal.sqlite") as opened:
        yield opened


def obedient(call: Call) -> Reply:
    schema = call.body["response_format"]["json_schema"]["schema"]
    forced = {name: rule["enum"][0] for name, rule in schema["properties"].items()}
    return Reply(body=json.dumps(chat(json.dumps(forced))).encode())


def saying(text: str) -> Script:
    return lambda call: Reply(body=json.dumps(chat(text)).encode())


def probed(script: Script, journal: Journal, calls: int = 1, top_logprobs: int = 0) -> Probe:
    with serving(script) as server:
        endpoint = Endpoint(model="m", base_url=server.url, retries=0, deadline=5, top_logprobs=top_logprobs)
        found = [probe(endpoint, journal) for _ in range(2)]
        refused = calls - 1
        assert found[0] == found[1] and len(server.calls) == 1 + 2 * refused  # an answer is never asked for twice
        return found[0]


def refusing(*fields: str) -> Script:
    """An obedient endpoint that knows none of these fields."""

    def script(call: Call) -> Reply:
        unknown = [name for name in fields if name in call.body]
        if unknown:
            return status(400, f"unknown field {unknown[0]}")(call)
        return obedient(call) if "response_format" in call.body else saying("Hello there!")(call)

    return script


def test_an_endpoint_that_obeys_is_found_with_one_call(journal: Journal) -> None:
    found = probed(obedient, journal, top_logprobs=5)
    assert found.schema and found.endpoint.top_logprobs == 5 and "logprobs" not in found.said


@pytest.mark.parametrize("text", ["Hello there!", "{}", json.dumps({**EXPECTED, "more": 1}), "[" * 100_000])
def test_an_endpoint_that_says_what_it_likes_is_found_out(journal: Journal, text: str) -> None:
    found = probed(saying(text), journal)
    assert not found.schema and "ignores json_schema" in found.said


def test_an_endpoint_that_refuses_a_schema_is_quoted_and_asked_without(journal: Journal) -> None:
    found = probed(refusing("response_format"), journal, calls=3, top_logprobs=5)
    assert not found.schema and found.endpoint.top_logprobs == 5 and "unknown field response_format" in found.said


def test_an_endpoint_that_refuses_logprobs_is_asked_without_and_keeps_its_schema(journal: Journal) -> None:
    found = probed(refusing("logprobs"), journal, calls=2, top_logprobs=5)
    assert found.schema and found.endpoint.top_logprobs == 0 and "refuses logprobs" in found.said


@pytest.mark.parametrize("code", [400, 422, 500])
def test_an_endpoint_that_refuses_everything_is_an_error_that_quotes_it(journal: Journal, code: int) -> None:
    with pytest.raises(PosttrainError, match=f"HTTP {code}.*no such model"):
        probed(status(code, "no such model"), journal)


def test_an_endpoint_that_is_overloaded_is_no_finding(journal: Journal) -> None:
    with pytest.raises(PosttrainError, match="503"):
        probed(status(503), journal)


def test_the_test_call_counts_against_the_budget(journal: Journal) -> None:
    with serving(obedient) as server:
        endpoint = Endpoint(model="m", base_url=server.url)
        with pytest.raises(BudgetExceeded):
            probe(endpoint, journal, "s", Budget(requests=0))
        assert server.calls == []
