"""llama.cpp's server lives as long as its block, says nothing, repeats itself, and honours a JSON schema."""

import json
import subprocess
import sys
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from llamacpp_client import ask, chat

from posttrain.engines.llamacpp_engine import Running, serve
from posttrain.errors import PosttrainError
from posttrain.lm.gguf import write_gguf

SCHEMA = {
    "type": "object",
    "properties": {
        "grammar": {"type": "integer", "minimum": 1, "maximum": 10},
        "age_group": {"enum": ["A", "B", "C"]},
    },
    "required": ["grammar", "age_group"],
    "additionalProperties": False,
}
AS_JSON = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}
LONG = {"prompt": "Once", "n_predict": 400, "ignore_eos": True}


@pytest.fixture(scope="module")
def tiny_gguf(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_chat_model, path, "q8_0")
    return path


def ask_slots(server: Running) -> list[dict[str, Any]]:
    with urlopen(server.base_url + "/slots", timeout=60) as reply:
        slots: list[dict[str, Any]] = json.load(reply)
    return slots


def answers(server: Running) -> bool:
    try:
        with urlopen(server.base_url + "/health", timeout=5) as reply:
            return bool(json.load(reply) == {"status": "ok"})
    except (URLError, ConnectionError):
        return False


def test_the_server_is_ready_in_the_block_and_gone_after_it(tiny_gguf: Path) -> None:
    with serve(tiny_gguf, context=256) as server:
        assert answers(server)
        assert urlsplit(server.base_url).hostname == "127.0.0.1"
        assert ask(server, "/v1/completions", prompt="Once", max_tokens=1)["model"] == "tiny"
    assert not answers(server)


def test_an_exception_in_the_block_stops_the_server(tiny_gguf: Path) -> None:
    with pytest.raises(KeyError) as kept, serve(tiny_gguf, context=256) as server:  # its traceback stays alive
        raise KeyError("mine")
    assert kept.value.args == ("mine",)
    assert not answers(server)


def test_the_block_ends_while_a_request_is_answered(tiny_gguf: Path) -> None:
    lost: list[BaseException] = []

    def until_it_breaks(server: Running) -> None:
        try:
            while True:
                ask(server, "/completion", **LONG)
        except (OSError, HTTPException) as error:
            lost.append(error)

    with serve(tiny_gguf, context=512) as server:
        asking = threading.Thread(target=until_it_breaks, args=(server,))
        asking.start()
        while not ask_slots(server)[0]["is_processing"]:
            pass
    asking.join(timeout=60)
    assert not asking.is_alive() and len(lost) == 1


def test_the_server_ends_with_a_killed_owner(tiny_gguf: Path) -> None:
    code = (
        "import os, pathlib; from posttrain.engines.llamacpp_engine import serve\n"
        f"with serve(pathlib.Path({str(tiny_gguf)!r}), context=256) as server:\n"
        "    print(server.base_url, flush=True); os.kill(os.getpid(), 9)"
    )
    owner = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert owner.returncode == -9
    server = Running(owner.stdout.strip())
    for _ in range(500):
        if not answers(server):
            break
        time.sleep(0.01)
    assert not answers(server)


def test_nothing_is_said(tiny_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serve(tiny_gguf, context=256) as server:
        chat(server, "Hello", max_tokens=3)
        with pytest.raises(HTTPError):
            chat(server, "long " * 500)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_served_is_refused_with_the_reason(tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no GGUF" * 100)
    (tmp_path / "half.gguf").write_bytes(tiny_gguf.read_bytes()[:-4000])
    for name, reason in {"none": "No such file", "text": "magic", "half": "not within the file bounds"}.items():
        with pytest.raises(PosttrainError, match=reason), serve(tmp_path / f"{name}.gguf", context=256):
            pytest.fail("it was served")


def test_each_slot_has_the_context(tiny_gguf: Path) -> None:
    with serve(tiny_gguf, context=512, slots=2) as server:
        assert [slot["n_ctx"] for slot in ask_slots(server)] == [512, 512]


def test_a_seeded_request_is_repeatable(tiny_gguf: Path) -> None:
    settings = {"max_tokens": 40, "logprobs": True, "top_logprobs": 3}
    with serve(tiny_gguf, context=256) as server:
        first, second, other = (chat(server, "Tell me.", seed=seed, **settings) for seed in (5, 5, 6))
    with serve(tiny_gguf, context=256) as server:
        third = chat(server, "Tell me.", seed=5, **settings)
    assert first == second == third  # every logprob too
    assert other["message"] != first["message"]


def test_logprobs_are_those_of_the_model(tiny_gguf: Path) -> None:
    with serve(tiny_gguf, context=256) as server:
        said = chat(server, "Tell me.", max_tokens=5, temperature=0, logprobs=True, top_logprobs=5)
    for token in said["logprobs"]["content"]:
        tops = [top["logprob"] for top in token["top_logprobs"]]
        assert len(tops) == 5 and tops == sorted(tops, reverse=True)
        assert token["logprob"] == tops[0] < 0


def test_sampling_is_plain_unless_a_request_says_otherwise(tiny_gguf: Path) -> None:
    with serve(tiny_gguf, context=256) as server, urlopen(server.base_url + "/props", timeout=5) as reply:
        given = json.load(reply)["default_generation_settings"]["params"]
    assert (given["temperature"], given["top_p"], given["top_k"], given["min_p"]) == (1.0, 1.0, 0, 0.0)


def test_a_json_schema_is_enforced(tiny_gguf: Path) -> None:
    with serve(tiny_gguf, context=256) as server:
        for seed in range(5):
            said = chat(server, "Grade it.", max_tokens=200, seed=seed, response_format=AS_JSON)
            verdict = json.loads(said["message"]["content"])
            assert verdict.keys() == {"grammar", "age_group"} and said["finish_reason"] == "stop"
            assert verdict["grammar"] in range(1, 11) and verdict["age_group"] in "ABC"
        with pytest.raises(json.JSONDecodeError):
            json.loads(chat(server, "Grade it.", max_tokens=200, seed=0)["message"]["content"])
