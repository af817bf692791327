"""An endpoint that takes a json_schema and ignores it is found out; one that does not answer is no finding."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from misbehaving_server import MEMORY, Call, Reply, Script, chat, serving, status

from posttrain.engines.endpoint import Endpoint
from posttrain.engines.journal import Journal
from posttrain.engines.schema_probe import EXPECTED, Probe, honours_json_schema
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


def probed(script: Script, journal: Journal) -> Probe:
    with serving(script) as server:
        endpoint = Endpoint(model="m", base_url=server.url, retries=0, deadline=5)
        found = [honours_json_schema(endpoint, journal) for _ in range(2)]
        assert found[0] == found[1]
        assert len(server.calls) == 1 or not found[0].honoured
        return found[0]


def test_an_endpoint_that_obeys_is_found_with_one_call(journal: Journal) -> None:
    assert probed(obedient, journal).honoured


@pytest.mark.parametrize("text", ["Hello there!", "{}", json.dumps({**EXPECTED, "more": 1}), "[" * 100_000])
def test_an_endpoint_that_says_what_it_likes_is_found_out(journal: Journal, text: str) -> None:
    found = probed(saying(text), journal)
    assert not found.honoured and "ignores json_schema" in found.said


@pytest.mark.parametrize("code", [400, 422, 500])
def test_an_endpoint_that_refuses_is_quoted(journal: Journal, code: int) -> None:
    found = probed(status(code, "unknown field response_format"), journal)
    assert not found.honoured and "unknown field" in found.said


def test_an_endpoint_that_is_overloaded_is_no_finding(journal: Journal) -> None:
    with pytest.raises(PosttrainError, match="503"):
        probed(status(503), journal)
