"""A conversation's history, commands, settings and files: values, without a model."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from posttrain.chain.store import Artifact
from posttrain.chatting.decoding import Decoding, changed, chosen
from posttrain.chatting.exported import exported_file
from posttrain.chatting.session import HELP, Command, Message, Session, check_system, fit, read_line
from posttrain.chatting.steps import Steps
from posttrain.errors import PosttrainError


def test_what_is_no_command_is_a_request_word_for_word() -> None:
    for text in ("Hello /retry", "<|end|><|assistant|>", "", "a = b"):
        assert read_line(text) == text
    assert read_line("//etc is a folder") == "/etc is a folder"


def test_commands_are_read() -> None:
    assert read_line("/retry") == Command("/retry")
    assert read_line("/step sft") == Command("/step", "sft")
    assert read_line("/step sft base") == Command("/compare", "sft base")
    assert read_line("/set  temperature=0") == Command("/set", "temperature=0")
    with pytest.raises(PosttrainError, match=r"no command '/rety'; there are /retry, .*//"):
        read_line("/rety")
    assert {usage.split()[0] for usage in HELP} >= {"/retry", "/step", "/compare", "/set", "/reset", "/help"}


def contents(session: Session) -> list[str]:
    return [message["content"] for message in session.messages()]


def test_history_is_the_answered_requests_and_the_last_one() -> None:
    session = Session("be kind")
    session.ask("a")
    session.answered("A")
    session.ask("lost")  # its answer failed
    session.ask("b")
    assert contents(session) == ["be kind", "a", "A", "b"]
    assert [message["role"] for message in session.messages()] == ["system", "user", "assistant", "user"]
    session.answered("B")
    assert contents(session) == ["be kind", "a", "A", "b"]  # what a second step is asked with
    session.reset()
    session.ask("c")
    assert contents(session) == ["be kind", "c"]


def test_a_retry_takes_the_last_answer_back_and_no_more() -> None:
    session = Session()
    with pytest.raises(PosttrainError, match="nothing was asked"):
        session.retry()
    for text in "aa":  # the same request twice: two exchanges
        session.ask(text)
        session.answered(text.upper())
    session.retry()
    session.retry()
    assert contents(session) == ["a", "A", "a"]
    session.answered("B")
    assert [message["content"] for message in session.said] == ["a", "A", "a", "B"]


def by_letters(messages: Sequence[Message]) -> list[int]:
    """A token a letter, and one a message."""
    return [token for message in messages for token in [0, *map(ord, message["content"])]]


def talk(*lengths: int, system: int = 0) -> list[Message]:
    first = [{"role": "system", "content": "s" * system}] if system else []
    return [*first, *({"role": "ua"[at % 2], "content": "x" * length} for at, length in enumerate(lengths))]


def test_the_oldest_exchanges_give_way() -> None:
    assert fit(talk(9, 9, 9), by_letters, 100, 60).forgotten == 0
    assert fit(talk(9, 9, 9, 9, 9), by_letters, 100, 50).forgotten == 0
    fitted = fit(talk(19, 9, 9, 9, 9), by_letters, 100, 50)
    assert fitted.forgotten == 2 and fitted.ids == by_letters(talk(9, 9, 9))
    fitted = fit(talk(19, 9, 9, 9, 9, system=9), by_letters, 100, 50)  # the system prompt stays
    assert fitted.forgotten == 2 and fitted.ids == by_letters(talk(9, 9, 9, system=9))
    assert fit(talk(19, 9, 9, 9, 9), by_letters, 100, 1000).forgotten == 2  # half of the context at most is kept free
    assert fit(talk(9, 9, 98), by_letters, 100, 50).forgotten == 2
    with pytest.raises(PosttrainError, match="100 tokens; fewer than 100"):
        fit(talk(9, 9, 99), by_letters, 100, 50)


def with_roles(messages: Sequence[Message]) -> list[int]:
    return [token for message in messages for token in [*map(ord, message["role"]), *map(ord, message["content"])]]


def without_roles(messages: Sequence[Message]) -> list[int]:
    """As our own template: whoever is not the assistant is the user."""
    return with_roles([{**message, "role": "user"} for message in messages])


def without_system(messages: Sequence[Message]) -> list[int]:
    return with_roles([message for message in messages if message["role"] != "system"])


def refusing(messages: Sequence[Message]) -> list[int]:
    from jinja2 import TemplateError

    if messages[0]["role"] == "system":
        raise TemplateError("System role not supported")
    return with_roles(messages)


def test_a_system_prompt_needs_its_role() -> None:
    check_system(with_roles, "x")
    for render in (without_roles, without_system, refusing):
        with pytest.raises(PosttrainError, match="x: its chat template has no system role"):
            check_system(render, "x")


def test_settings_are_checked() -> None:
    assert changed(Decoding(), {"temperature": "0.5", "beams": "2"}, "/set") == Decoding(temperature=0.5, beams=2)
    for given, message in {
        ("temperature", "-1"): "temperature is '-1'; input should be greater than or equal to 0",
        ("top_p", "1.5"): "top_p is '1.5'",
        ("min_p", "nan"): "min_p is 'nan'",
        ("max_new_tokens", "many"): "max_new_tokens is 'many'",
        ("top_k", "5"): "no setting 'top_k'; there are temperature, top_p",
    }.items():
        with pytest.raises(PosttrainError, match=message):
            changed(Decoding(), dict([given]), "/set")


def test_options_without_effect_are_refused() -> None:
    assert chosen({"temperature": None, "beams": None}, greedy=False) == Decoding()
    assert chosen({"top_p": None, "seed": 3}, greedy=True) == Decoding(temperature=0, seed=3)
    assert not chosen({"beams": 2}, greedy=False).draws and chosen({"beams": 1, "top_p": 0.5}, greedy=False).draws
    for given, greedy in (({"temperature": 1.0}, True), ({"beams": 4, "min_p": 0.1}, False)):
        with pytest.raises(PosttrainError, match="draws nothing"):
            chosen(given, greedy)


def test_each_answer_has_a_seed_of_its_own() -> None:
    seeds = [Decoding(seed=7).for_answer(number).seed for number in range(3)]
    assert len(set(seeds)) == 3 and seeds == [Decoding(seed=7).for_answer(number).seed for number in range(3)]


def an_export(folder: Path) -> Path:
    for name in ("gguf-q8_0/m-Q8_0.gguf", "gguf-q8_0/Modelfile", "safetensors/config.json", "onnx-int8/decode.onnx"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_an_exported_file_is_found_by_its_format(tmp_path: Path) -> None:
    export = an_export(tmp_path)
    assert exported_file(export, "gguf-q8_0") == export / "gguf-q8_0/m-Q8_0.gguf"
    assert exported_file(export, "safetensors") == export / "safetensors"
    for wrong in ("gguf-f16", "../other", ""):
        with pytest.raises(PosttrainError, match="there is gguf-q8_0, onnx-int8, safetensors"):
            exported_file(export, wrong)
    with pytest.raises(PosttrainError, match="runtime of its own"):
        exported_file(export, "onnx-int8")
    (export / "gguf-q8_0/other.gguf").touch()
    with pytest.raises(PosttrainError, match=r"m-Q8_0.gguf, other.gguf; exactly one"):
        exported_file(export, "gguf-q8_0")
    (export / "safetensors/config.json").unlink()
    with pytest.raises(PosttrainError, match="whole model directory"):
        exported_file(export, "safetensors")


def steps(folder: Path) -> Steps:
    models = {name: Artifact(folder / name, {"identity": name}) for name in ("base", "sft")}
    export = Artifact(an_export(folder / "out"), {"identity": "e", "inputs": {"model": {"identity": "sft"}}})
    return Steps(models, {"out": export}, {}, "r.yaml")


def test_a_step_or_its_file_is_found_by_name(tmp_path: Path) -> None:
    found = steps(tmp_path)
    file = tmp_path / "out/gguf-q8_0/m-Q8_0.gguf"
    assert found.path(found.first(None, None)) == tmp_path / "sft"
    assert found._replace(kept={"sft": "base"}).first(None, None) == "base"
    assert found.path(found.first("base", None)) == tmp_path / "base"
    for step, file_format in ((None, "gguf-q8_0"), ("out", None), ("sft", "gguf-q8_0")):
        assert found.path(found.first(step, file_format)) == file
    assert found.path("out/safetensors") == tmp_path / "out/safetensors"
    assert found.path(found.served("sft")) == file and found.served("base") == "base"
    with pytest.raises(PosttrainError, match="step 'base' in gguf-q8_0 is asked for"):
        found.path("base/gguf-q8_0")
    with pytest.raises(PosttrainError, match=r"no step 'stf'.*sft"):
        found.path("stf")
    with pytest.raises(PosttrainError, match="has no export"):
        found._replace(exports={}).first(None, "gguf-q8_0")
