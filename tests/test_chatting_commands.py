"""`posttrain chat` over a pipe and in a terminal, and `posttrain serve` asked by the `openai` client."""

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import openai
import pytest
from chat_fakes import finished_run

from posttrain.chain.paths import PROJECT
from posttrain.cli import main
from posttrain.errors import PosttrainError
from posttrain.lm.gguf import write_gguf

MODEL = PROJECT / "models/storyteller-1m"
FILE = "base_export/gguf-q8_0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_chat_model: Path) -> list[str]:
    """What names a finished run on the command line: a base that tells stories, its export, and a babbler."""
    folder = tmp_path_factory.mktemp("run")
    write_gguf(MODEL, folder / "storyteller-Q8_0.gguf", "q8_0")
    exports = {"base": {"gguf-q8_0": folder / "storyteller-Q8_0.gguf"}}
    recipe = finished_run(folder, {"babble": tiny_chat_model, "base": MODEL}, exports)
    return [str(recipe), "--store", str(folder / "runs/store")]


class Piped:
    """The command in this process, its input a pipe."""

    def __init__(self, run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.run, self.monkeypatch, self.capsys = run, monkeypatch, capsys

    def __call__(self, lines: Sequence[str], *options: str) -> tuple[list[str], str]:
        """The answers' texts, and the remarks."""
        out, remarks = self.text(lines, *options, "--json")
        return [json.loads(line)["text"] for line in out.splitlines()], remarks

    def text(self, lines: Sequence[str], *options: str) -> tuple[str, str]:
        self.monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
        self.monkeypatch.setattr(signal, "signal", lambda *_: None)
        main(["chat", *self.run, "--max-new-tokens", "8", *options])
        return self.capsys.readouterr()


@pytest.fixture
def piped(run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Piped:
    return Piped(run, monkeypatch, capsys)


def test_a_pipe_gets_answers_and_nothing_else(piped: Piped) -> None:
    answers, remarks = piped(["Tell a story.", "", "/help", "And then?"], "--greedy")
    assert len(answers) == 2 and all(answers)
    assert "is ready" in remarks and "/compare A B" in remarks
    assert remarks.count("tokens/s") == 2
    out, remarks = piped.text(["Tell a story.", "And then?"], "--greedy")
    assert out == "\n".join([*answers, ""]) and ">" not in out and remarks.count("tokens/s") == 2


def test_the_conversation_is_what_the_model_is_asked_with(piped: Piped) -> None:
    said = ["My cat is Zoe.", "And then?"]
    answers, _ = piped([*said, "/reset", *said, "/reset", said[1]], "--greedy")
    assert answers[:2] == answers[2:4] and answers[4] != answers[1]  # without the history it is another answer


def test_the_same_seed_gives_the_same_conversation_and_a_retry_another_answer(piped: Piped) -> None:
    lines = ["Tell a story.", "/retry", "And then?"]
    answers, _ = piped([*lines, "/reset", *lines, "/reset", "/set seed=4", lines[0]], "--seed", "3")
    assert answers[:3] == answers[3:6] and answers[0] not in (answers[1], answers[6])


def test_settings_change_on_the_way(piped: Piped) -> None:
    lines = [
        "/set temperature=0",
        "Tell a story.",
        "/retry",
        "/set max-new-tokens=3",
        "/retry",
        "/set beams=0",
        "/set x",
    ]
    answers, remarks = piped(lines)
    assert answers[0] == answers[1] and "the answer is the same again" in remarks
    assert answers[0].startswith(answers[2]) and len(answers[2]) < len(answers[0])
    assert "temperature=0.0" in remarks and "beams is '0'" in remarks and "NAME=VALUE is needed" in remarks


def test_steps_are_switched_and_compared(piped: Piped) -> None:
    lines = ["Tell a story.", f"/compare base {FILE}", "/step babble", "/retry", f"/step {FILE}", "/retry", "/step no"]
    answers, remarks = piped(lines, "--greedy")
    base, compared, compared_file, babble, file = answers
    assert compared == base and compared_file == file and babble not in (base, file)
    assert "babble answers from here on" in remarks and "no step 'no'" in remarks


def test_what_is_compared_stands_side_by_side_and_does_not_join_the_conversation(piped: Piped) -> None:
    drawn, _ = piped(["x", "/step base babble", "/compare babble"])  # two names: the same as /compare
    assert drawn[0] and drawn[1:3] == drawn[3:5] and len(drawn) == 5
    out, _ = piped.text(["x", "/compare babble"])
    assert "┃ base" in out and "┃ babble" in out and any(line.count("│") == 3 for line in out.splitlines())


def test_a_conversation_outgrows_its_context(piped: Piped) -> None:
    answers, remarks = piped(["word " * 150] * 4, "--greedy")
    assert len(answers) == 4 and "no longer fit its context of 512 tokens" in remarks
    answers, remarks = piped(["word " * 600, "Tell a story."], "--greedy")
    assert len(answers) == 1 and "Shorten it" in remarks


def test_what_cannot_be_is_said_before_anything_is_asked(piped: Piped) -> None:
    for options, message in {
        ("--system", "be kind"): "no system role",
        ("--greedy", "--temperature", "1"): "draws nothing",
        ("--step", "none"): "no step 'none'",
        ("--step", "babble", "--format", "gguf-q8_0"): "has no export of it",
        ("--top-p", "2"): "top_p is 2",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            piped(["x"], *options)
        out, err = piped.capsys.readouterr()
        assert stopped.value.code == 2 and not out and message in err and err.count("\n") == 1


def command(name: str, run: list[str], *options: str) -> list[str]:
    return [sys.executable, "-m", "posttrain", name, *run, *options]


def until(terminal: int, text: str) -> str:
    """What a terminal shows up to and with `text`."""
    shown = ""
    while text not in shown:
        assert select.select([terminal], [], [], 60)[0], shown
        shown += os.read(terminal, 1).decode(errors="replace")
    return shown


def test_in_a_terminal_ctrl_c_stays_and_ctrl_d_leaves(run: list[str]) -> None:
    ours, theirs = pty.openpty()
    talking = command("chat", run, "--format", "gguf-q8_0", "--max-new-tokens", "8")
    with subprocess.Popen(talking, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        try:
            assert "is ready" in until(ours, "\n> ")
            for _ in range(30):  # readline can miss one that comes before it waits
                os.kill(process.pid, signal.SIGINT)
                if select.select([ours], [], [], 2)[0]:
                    break
            until(ours, "Ctrl-D leaves, /help")
            os.write(ours, b"Tell a story.\n")
            assert "tokens/s" in until(ours, "tokens/s")
            until(ours, "> ")
            os.write(ours, b"\x04")
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            os.close(ours)


@contextlib.contextmanager
def serving(run: list[str], *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A server as its users start it, and what it says of itself."""
    started = command("serve", run, "--port", "0", "--json", *options)
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def answers(base_url: str) -> bool:
    try:
        with urlopen(f"{base_url}/models", timeout=5) as reply:
            return bool(reply.status == 200)
    except (URLError, ConnectionError):
        return False


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_the_openai_client_talks_to_a_served_step(run: list[str], sent: signal.Signals) -> None:
    with serving(run) as (process, told):  # the step's export is what is served
        assert told["model"] == "storyteller-Q8_0" and told["base_url"].startswith("http://127.0.0.1:")
        if sent == signal.SIGINT:
            ask(told)
        process.send_signal(sent)
        assert process.wait(timeout=60) == (-9 if sent == signal.SIGKILL else 0)
        assert process.stderr is not None
        assert ("stopped" in process.stderr.read()) == (sent != signal.SIGKILL)
        for _ in range(500):
            if not answers(told["base_url"]):
                return
            time.sleep(0.01)
        pytest.fail("llama.cpp goes on")


def ask(told: dict[str, Any]) -> None:
    client = openai.OpenAI(base_url=told["base_url"], api_key="none", max_retries=0)
    said = {"model": told["model"], "messages": [{"role": "user", "content": "Tell a story."}]}
    whole = client.chat.completions.create(**said, temperature=0, max_tokens=20).choices[0].message.content
    stream = client.chat.completions.create(**said, temperature=0, max_tokens=20, stream=True)
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == whole and len(pieces) > 5
    assert answers(told["base_url"])


def dry(run: list[str], capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    main(["serve", *run, "--port", "0", "--dry-run", *options])
    return capsys.readouterr()


def test_a_dry_run_says_what_would_be_served(run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out, err = dry(run, capsys)
    assert "storyteller-Q8_0.gguf at http://127.0.0.1:" in out and not err
    out, err = dry(run, capsys, "--step", "babble")
    assert "would serve tiny-babble" in out and "one is written first (gguf-f16" in err
    out, err = dry(run, capsys, "--engine", "vllm")
    assert out.startswith("vllm serve ") and "--served-model-name tiny-base --host 127.0.0.1 --port " in out
    assert (Path(out.split()[2]) / "config.json").is_file()


def test_serve_refuses_what_cannot_be(
    run: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for options, message in {
        ("--engine", "vllm"): "vllm: not installed",
        ("--engine", "vllm", "--format", "gguf-q8_0"): "vLLM takes a model directory",
        ("--host", "192.0.2.1"): "cannot listen there",
        ("--format", "gguf-f16"): "there is gguf-q8_0",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            main(["serve", *run, "--port", "0", *options])
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_vllm_is_run_where_it_is_installed(
    run: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "vllm"
    script.write_text('#!/bin/sh\necho "ran: $@"\nexit 7\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SystemExit) as stopped:
        main(["serve", *run, "--port", "0", "--engine", "vllm"])
    out, err = capfd.readouterr()
    assert stopped.value.code == 2 and "vllm ended by itself with code 7" in err
    assert "ran: serve " in out and "base URL: http://127.0.0.1:" in out


def test_a_model_without_an_export_is_written_as_a_file_first(tiny_chat_model: Path) -> None:
    from posttrain.chatting.serving import as_gguf

    with as_gguf(tiny_chat_model, "tiny-base") as file:
        assert file.name == "tiny-base-F16.gguf" and file.read_bytes()[:4] == b"GGUF"
    assert not file.parent.exists()


def test_a_taken_port_is_refused() -> None:
    import socket

    from posttrain.chatting.serving import Address

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PosttrainError, match="cannot listen there"):
        Address("127.0.0.1", taken.getsockname()[1]).check()
    assert Address("127.0.0.1", 0).check().port > 0
