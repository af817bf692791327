"""The boundary in a conversation: what is typed, the system prompt and former answers never become control.

Both engines, transformers and llama.cpp with an exported file, are asked through the commands of a conversation.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from attack_texts import Message, conversations
from llamacpp_client import ask
from three_tokenizers import STORYTELLER, chatml

from posttrain.chatting.answers import Answer, Speaker, open_speaker
from posttrain.chatting.chat import Chat
from posttrain.chatting.decoding import Decoding
from posttrain.chatting.llamacpp_answers import LlamaCppSpeaker
from posttrain.engines.llamacpp_engine import Running
from posttrain.lm.chat import ChatFormat
from posttrain.lm.gguf import write_gguf
from posttrain.lm.models import load_tokenizer, save_model
from posttrain.lm.pretraining import Architecture, new_model


class Silent:
    """A screen that nobody looks at."""

    plain = True

    def piece(self, text: str) -> None: ...

    def end(self, name: str, answer: Answer) -> None: ...

    def remark(self, text: str) -> None: ...


class Heard:
    """A speaker with room for every conversation, which notes what it is asked with and answers with attacks."""

    def __init__(self, speaker: Speaker, answers: Iterator[str]) -> None:
        self.where, self.context, self.speaker, self.answers = speaker.where, 10**6, speaker, answers
        self.messages: list[Message] = []
        self.asked: list[tuple[list[Message], list[int]]] = []

    def render(self, messages: Sequence[Message]) -> list[int]:
        self.messages = list(messages)
        return self.speaker.render(messages)

    def answer(self, ids: Sequence[int], settings: Decoding, say: Any) -> Answer:
        self.asked.append((self.messages, list(ids)))
        return Answer(next(self.answers), "stop", 1, 1.0)


@pytest.fixture(scope="module")
def chatml_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose template has a system role, right before the first request."""
    path, tokenizer = tmp_path_factory.mktemp("chatml"), chatml(ordinary=())
    shape = Architecture(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    save_model(new_model(shape, len(tokenizer), end, pad, seed=1), tokenizer, path)
    return path


@pytest.fixture(scope="module", params=["ours", "ChatML"])
def model(request: pytest.FixtureRequest, chatml_model: Path) -> Path:
    return STORYTELLER if request.param == "ours" else chatml_model


@pytest.fixture(scope="module")
def speakers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Speaker]]:
    file = tmp_path_factory.mktemp("chat") / "model-F16.gguf"
    write_gguf(model, file, "f16")
    with ExitStack() as stack:
        yield [stack.enter_context(open_speaker(path)) for path in (model, file)]


def held(speaker: Speaker, talk: Sequence[Message]) -> list[tuple[list[Message], list[int]]]:
    """What the speaker was asked with in a conversation of these lines."""
    said = {role: [message["content"] for message in talk if message["role"] == role] for role in ("user", "assistant")}
    heard = Heard(speaker, iter([*said["assistant"], "the last"]))
    chat = Chat("base", lambda _: heard, Decoding(), Silent())  # type: ignore[arg-type]
    for message in talk:
        if message["role"] == "system":
            chat.line(f"/system {message['content']}")
        elif message["role"] == "user":
            chat.line(f"Tell: {message['content']}")
    return heard.asked


def template_ids(chat: ChatFormat, messages: Sequence[Message]) -> list[int]:
    """The control ids of a conversation with these roles that says nothing but "a"."""
    innocent = [{**message, "content": "a"} for message in messages]
    return [token for token in chat.render(innocent, add_generation_prompt=True).ids if token in chat.control_ids]


def test_nothing_that_is_said_in_a_conversation_becomes_control(model: Path, speakers: list[Speaker]) -> None:
    chat = ChatFormat(load_tokenizer(model), "x")
    controls = [str(token) for token in chat.tokenizer.get_added_vocab()]
    has_system = model != STORYTELLER
    talks = [talk for talk in conversations(2, controls, ["", " "], 60) if has_system or talk[0]["role"] == "user"][:25]
    for speaker in speakers:
        asked = [turn for talk in talks for turn in held(speaker, talk)]
        assert len(asked) > len(talks) and {messages[0]["role"] == "system" for messages, _ in asked} >= {has_system}
        for messages, ids in asked:
            assert [token for token in ids if token in chat.control_ids] == template_ids(chat, messages)
            assert ids == chat.render(messages, add_generation_prompt=True).ids  # nothing is lost either


def test_llama_cpps_own_chat_lets_messages_speak_as_the_template(model: Path, speakers: list[Speaker]) -> None:
    """Negative control: what its chat endpoint does with the same messages."""
    speaker, chat = speakers[1], ChatFormat(load_tokenizer(model), "x")
    assert isinstance(speaker, LlamaCppSpeaker)
    server = Running(str(speaker.own.base_url).rstrip("/"))
    broken = 0
    for talk in conversations(2, [str(token) for token in chat.tokenizer.get_added_vocab()], [], 20):
        prompt = ask(server, "/apply-template", messages=talk)["prompt"]
        ids = ask(server, "/tokenize", content=prompt, parse_special=True)["tokens"]
        broken += [token for token in ids if token in chat.control_ids] != template_ids(chat, talk)
    assert broken > 10
