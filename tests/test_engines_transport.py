"""How bytes reach an endpoint: every legal form of a reply is read, connections are kept, certificates are checked."""

import json
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from misbehaving_server import MEMORY, Call, Reply, Server, chat, good, serving

from posttrain.engines.endpoint import Answer, Endpoint, Failure, Request
from posttrain.engines.journal import Journal
from posttrain.engines.openai_engine import complete
from posttrain.engines.transport import Direct, Pooled, proxy_for, transport_for
from posttrain.errors import PosttrainError

ANSWER = json.dumps(chat("hello")).encode()
SHAPES = {
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (ANSWER[:9], ANSWER[9:]))
    + b"0\r\nTrailer: x\r\n\r\n",
    "until the end": b"HTTP/1.0 200 OK\r\n\r\n" + ANSWER,
    "hints first": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER),
    "close after": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER),
    "identity": b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: %d\r\n\r\n%b"
    % (len(ANSWER), ANSWER),
}


@pytest.fixture
def journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, Journal(Path(folder) / "journal.sqlite") as opened:
        yield opened


def asked(server: Server, journal: Journal, count: int = 1, url: str = "", retries: int = 0) -> list[Answer | Failure]:
    where = Endpoint(model="m", base_url=url or server.url, retries=retries, concurrency=2, deadline=20)
    return complete(where, [Request([{"role": "user", "content": f"question {n}"}]) for n in range(count)], journal)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_reply_is_read(journal: Journal, shape: str) -> None:
    end = "half-close" if shape in ("until the end", "close after") else ""
    with serving(lambda call: Reply(-1, SHAPES[shape], end=end)) as server:
        results = asked(server, journal, 4)
    assert [result.text for result in results if isinstance(result, Answer)] == ["hello"] * 4


@pytest.mark.parametrize("shape", SHAPES)
def test_a_reply_that_ends_early_is_none(journal: Journal, shape: str) -> None:
    """Negative control."""
    with serving(lambda call: Reply(-1, SHAPES[shape][:-9], end="half-close")) as server:
        (result,) = asked(server, journal)
    assert isinstance(result, Failure)


def test_connections_are_kept_and_a_closed_one_is_replaced(journal: Journal) -> None:
    with serving() as server:
        asked(server, journal, 30)
        assert server.accepted <= 2
    with serving(lambda call: good(call)._replace(end="half-close")) as server:  # closes without a word
        results = asked(server, journal, 30, retries=5)
        assert all(isinstance(result, Answer) for result in results)
        assert server.accepted >= 15


@pytest.mark.parametrize("size", [10**5, 10**6, 10**7])
def test_no_more_of_a_reply_is_read_than_its_limit(journal: Journal, size: int) -> None:
    chunk = b"%x\r\n%b\r\n" % (size, b" " * size)
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 2
    with serving(lambda call: Reply(-1, endless, end="stall")) as server:
        if size > 10**5:
            assert "longer than 294,912 bytes" in str(asked(server, journal))
        else:  # negative control: as long as it may be, it is waited for
            where = Endpoint(model="m", base_url=server.url, retries=0, deadline=0.3)
            assert "within 0.3 s" in str(complete(where, [Request([{"role": "user", "content": "x"}])], journal))


def test_a_proxy_is_used_for_other_hosts_and_never_for_loopback(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving() as proxy, serving() as server:
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        (result,) = asked(server, journal)
        assert isinstance(result, Answer) and (len(server.calls), len(proxy.calls)) == (1, 0)
        (result,) = asked(server, journal, url="http://models.example/v1")
        assert isinstance(result, Answer) and (len(server.calls), len(proxy.calls)) == (1, 1)
        assert proxy.calls[0].headers["host"] == "models.example"
        proxy.script = lambda call: Reply(body=b" " * 10**6)
        assert "longer than" in str(asked(server, journal, url="http://other.example/v1"))
        monkeypatch.setenv("no_proxy", "models.example")
        assert isinstance(transport_for("http://models.example/v1", 1, 1), Direct)
        assert isinstance(transport_for("http://other.example/v1", 1, 1), Pooled)
    monkeypatch.setenv("https_proxy", "socks5://user:secret@127.0.0.1:9")
    with pytest.raises(PosttrainError, match=r"https_proxy") as error:
        proxy_for("https://other.example/v1")
    assert "secret" not in str(error.value)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed certificates for 127.0.0.1 and for another host."""
    folder = tmp_path_factory.mktemp("certificates")
    for name, host in (("right", "IP:127.0.0.1"), ("wrong", "DNS:other.example")):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=x", "-addext", f"subjectAltName={host}"]
        command += ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("needs the openssl program, to make a certificate")
    return folder


def https_answer(
    certificates: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, shown: str, trusted: str
) -> Answer | Failure:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{shown}.pem", certificates / f"{shown}.key")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / f"{trusted}.pem"))
    with serving(good, context) as server:
        (result,) = asked(server, journal)
        assert len(server.calls) == isinstance(result, Answer)
    return result


def test_a_certificate_that_is_trusted_and_right_is_accepted(
    certificates: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(https_answer(certificates, journal, monkeypatch, "right", "right"), Answer)


@pytest.mark.parametrize(("shown", "trusted"), [("right", "wrong"), ("wrong", "wrong")])
def test_nothing_is_sent_to_who_has_no_right_certificate(
    certificates: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, shown: str, trusted: str
) -> None:
    result = https_answer(certificates, journal, monkeypatch, shown, trusted)
    assert isinstance(result, Failure) and "ertificate" in result.reason
    assert journal.spent("") == (1, 0, 0)


def test_a_call_that_was_never_sent_is_free(journal: Journal) -> None:
    with serving() as server:
        pass
    assert isinstance(asked(server, journal)[0], Failure) and journal.spent("") == (1, 0, 0)


def test_a_lost_call_may_have_been_billed(journal: Journal) -> None:
    def script(call: Call) -> Reply:
        return good(call)._replace(sent=40, end="reset")

    with serving(script) as server:
        assert isinstance(asked(server, journal)[0], Failure) and journal.spent("").tokens > 500
