"""What is sent and what it is filed under; no key is ever shown, stored, or sent to the wrong place."""

import logging
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from misbehaving_server import MEMORY, Call, Reply, good, serving, status
from pydantic import ValidationError

from posttrain.engines import reply as reply_module
from posttrain.engines.endpoint import (
    OPENAI,
    Endpoint,
    Failure,
    Request,
    api_key,
    body_of,
    is_local,
    key_of,
    normal_url,
)
from posttrain.engines.journal import Journal
from posttrain.engines.openai_engine import complete
from posttrain.engines.reply import LONGEST_WAIT, excerpt, retry_after
from posttrain.errors import PosttrainError

CANARY = "sk-canary-4f9d1c7be2a80356"
HELLO = Request([{"role": "user", "content": "hello"}])


@pytest.fixture
def journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, Journal(Path(folder) / "journal.sqlite") as opened:
        yield opened


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOME_KEY", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, CANARY)


def echo(call: Call) -> Reply:
    """An error that shows the request's headers, in JSON and with control characters, or an answer that does."""
    key = call.headers["authorization"]
    if "answer" in call.prompt:
        text = '{"model": "%s", "choices": [{"message": {"content": "you sent %s"}, "finish_reason": "%s"}]}'
        return Reply(body=(text % ((key.replace("k", "\\u006b"),) * 3)).encode())
    body = f'{{"error": {{"message": "\\u001b[31mkey {key.replace("k", chr(92) + "u006b")} is wrong"}}}}'
    return Reply(int(call.prompt), body.encode()) if call.prompt != "500" else Reply(500, f"<p>{key}".encode())


def everything_said(journal: Journal, caplog: pytest.LogCaptureFixture, prompt: str) -> str:
    """Every text that comes out of one call: result, error, log, file."""
    caplog.set_level(logging.DEBUG)
    request = Request([{"role": "user", "content": prompt}])
    with serving(echo) as server:
        where = Endpoint(model="m", base_url=server.url, api_key_env="SOME_KEY", retries=0)
        said = repr(where) + key_of(where, request)
        try:
            said += repr(complete(where, [request], journal))
        except PosttrainError as error:
            said += f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
        assert server.calls[0].headers["authorization"] == f"Bearer {CANARY}"
    files = [file.read_bytes() for file in journal.path.parent.iterdir()]
    return said + caplog.text + b"".join(files).decode("latin-1")


@pytest.mark.parametrize("prompt", ["401", "400", "500", "answer"])
def test_a_key_that_the_endpoint_repeats_is_seen_nowhere(
    journal: Journal, caplog: pytest.LogCaptureFixture, canary: None, prompt: str
) -> None:
    said = everything_said(journal, caplog, prompt)
    assert "[key]" in said and CANARY not in said and CANARY[3:] not in said and "\x1b" not in repr(said)


@pytest.mark.parametrize("prompt", ["401", "400", "500", "answer"])
def test_without_scrubbing_it_is_seen(
    journal: Journal, caplog: pytest.LogCaptureFixture, canary: None, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(reply_module, "scrub", lambda text, key: text)
    assert CANARY in everything_said(journal, caplog, prompt)


def test_openais_key_goes_to_openai_only(journal: Journal, canary: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {CANARY}")
    with serving() as server:
        complete(Endpoint(model="m", base_url=server.url), [HELLO], journal)
        headers = server.calls[0].headers
    assert headers["authorization"] == "Bearer none"
    assert CANARY not in str(headers) and "org-of-mine" not in str(headers)
    assert api_key(Endpoint(model="m")) == CANARY


def test_a_redirect_takes_no_key_elsewhere(journal: Journal, canary: None) -> None:
    with serving() as other:
        with serving(lambda call: status(307, Location=f"{other.url}/chat/completions")(call)) as server:
            where = Endpoint(model="m", base_url=server.url, api_key_env="SOME_KEY", retries=0)
            with pytest.raises(PosttrainError, match="HTTP 307"):
                complete(where, [HELLO], journal)
        assert other.calls == []


def test_a_missing_key_is_said_before_any_call(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PosttrainError, match="OPENAI_API_KEY is not set"):
        complete(Endpoint(model="gpt-4o-mini"), [HELLO], journal)
    assert journal.spent("") == (0, 0, 0)
    with serving() as server, pytest.raises(PosttrainError, match="NO_SUCH_KEY is not set"):
        complete(Endpoint(model="m", base_url=server.url, api_key_env="NO_SUCH_KEY"), [HELLO], journal)
    monkeypatch.setenv("SOME_KEY", f"{CANARY}\r\nX-Evil: 1")
    with pytest.raises(PosttrainError, match="no header can carry") as error:
        api_key(Endpoint(model="m", api_key_env="SOME_KEY"))
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_key_env", CANARY),
        ("api_key_env", "hf_abcdefgh"),
        ("base_url", f"http://user:{CANARY}@host/v1"),
        ("base_url", f"http://host/v1?key={CANARY}"),
        ("base_url", f"host/{CANARY}"),
        ("base_url", "http://[::1"),
        ("base_url", "http://ho st/v1"),
        ("base_url", "http://host:99999/v1"),
    ],
)
def test_a_key_in_the_wrong_field_is_refused_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(PosttrainError, match=name) as error:
        Endpoint.model_validate({"model": "m", name: value})
    assert value not in str(error.value) and CANARY not in str(error.value)


@pytest.mark.parametrize("field", ["model", "messages", "stream", "n", "max_tokens", "logprobs"])
def test_extra_fields_do_not_replace_settings(field: str) -> None:
    with pytest.raises(ValidationError, match="only fields that have no setting"):
        Endpoint.model_validate({"model": "m", "extra": {field: 1}})
    assert body_of(Endpoint(model="m", extra={"min_p": 0.1}), HELLO)["min_p"] == 0.1


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("HTTP://LocalHost:80/v1/", "http://localhost/v1"),
        ("https://API.openai.com:443/v1", OPENAI),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_has_one_spelling(given: str, normal: str) -> None:
    assert normal_url(given) == normal
    assert Endpoint(model="m", base_url=given) == Endpoint(model="m", base_url=normal)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://localhost/v1", True),
        ("http://192.168.1.4/v1", True),
        ("http://vllm:8000/v1", True),
        ("http://gpu.internal/v1", True),
        (OPENAI, False),
        ("http://8.8.8.8/v1", False),
    ],
)
def test_local_is_what_nobody_bills(url: str, local: bool) -> None:
    assert is_local(url) == local


CHANGES: list[dict[str, Any]] = [
    {"model": "other"},
    {"base_url": "http://127.0.0.1:2/v1"},
    {"max_tokens": 7},
    {"temperature": 0.5},
    {"temperature": None},
    {"top_p": 0.5},
    {"seed": 1},
    {"top_logprobs": 5},
    {"extra": {"min_p": 0.1}},
    {"served_as": "a file"},
]


def test_every_setting_that_changes_answers_changes_the_key_and_no_other_does() -> None:
    plain: dict[str, Any] = {"model": "m", "base_url": "http://127.0.0.1:1/v1"}
    keys = {key_of(Endpoint(**{**plain, **change}), HELLO) for change in [{}, *CHANGES]}
    schema = {"type": "json_schema"}
    other = [HELLO._replace(nth=1), HELLO._replace(max_tokens=9), HELLO._replace(response_format=schema)]
    keys |= {key_of(Endpoint(**plain), request) for request in [*other, HELLO._replace(messages=[])]}
    assert len(keys) == 1 + len(CHANGES) + 4
    how = {"deadline": 1, "retries": 1, "concurrency": 1, "api_key_env": "A", "price": {"input": 1, "output": 1}}
    assert key_of(Endpoint(**plain, **how), HELLO) == key_of(Endpoint(**plain), HELLO)
    assert {*how, "served_as", *(name for change in CHANGES for name in change)} == set(Endpoint.model_fields)


def test_a_server_whose_port_changes_keeps_its_answers(journal: Journal) -> None:
    for _ in range(2):
        with serving() as server:
            complete(Endpoint(model="m", base_url=server.url, served_as="sha256 of its file"), [HELLO], journal)
            calls = len(server.calls)
    assert calls == 0


def test_samples_of_a_seeded_prompt_have_seeds_of_their_own() -> None:
    seeded = Endpoint(model="m", seed=5)
    assert [body_of(seeded, HELLO._replace(nth=n))["seed"] for n in range(3)] == [5, 6, 7]


def test_half_a_character_in_a_prompt_is_refused_before_any_call(journal: Journal) -> None:
    with serving() as server:
        with pytest.raises(PosttrainError, match="no stable form"):
            complete(
                Endpoint(model="m", base_url=server.url), [Request([{"role": "user", "content": "\ud800"}])], journal
            )
        assert server.calls == []


def test_an_error_body_is_read_and_shown_in_part(journal: Journal) -> None:
    with serving(status(400, "é" * 3_000_000)) as server:
        (result,) = complete(Endpoint(model="m", base_url=server.url), [HELLO], journal)
    assert isinstance(result, Failure) and len(result.reason) < 400
    assert excerpt("a\x00b\r\n\tc\x1b[0m  d", None) == "a b c [0m d"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("99999", LONGEST_WAIT),
        ("1e400", LONGEST_WAIT),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("nan", None),
        ("soon", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_has_a_bound(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime(2026, 10, 21, 7, 28, 0, tzinfo=UTC)) == seconds


def test_the_client_retries_nothing_by_itself(journal: Journal) -> None:
    with serving(lambda call: status(500)(call) if call.number < 3 else good(call)) as server:
        (result,) = complete(Endpoint(model="m", base_url=server.url, retries=0), [HELLO], journal)
        assert isinstance(result, Failure) and len(server.calls) == 1
