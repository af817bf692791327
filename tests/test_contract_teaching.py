"""The boundary round a teacher: no row speaks as control where it is asked, and no answer brings control along."""

import json
from pathlib import Path

import pytest
from attack_texts import conversations
from misbehaving_server import Call, Reply, chat, serving
from stage_context import context, given, run
from test_contract_stripping import left_in
from three_tokenizers import NAMES, tokenized

from posttrain.engines.transformers_engine import Completion
from posttrain.errors import PosttrainError
from posttrain.rows import write_rows
from posttrain.stages.teaching import CONTROL, control_strings, fault

BRACKETS = ("[INST]", "[/INST]", "<|im_end|>", "<|eot_id|>", "</s>")


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_with_a_control_string_in_any_disguise_is_dropped(name: str) -> None:
    chat_format, controls = tokenized(name).chat, tokenized(name).controls
    dropped = 0
    for messages in conversations(3, controls, [], 300):
        for text in {message["content"] for message in messages}:
            found = fault(Completion(f"A cat. {text}", True, 9), (), control_strings(chat_format))
            assert found in (CONTROL, None) and (found == CONTROL or not left_in(text, controls)), text
            dropped += found == CONTROL
    assert dropped > 200 and fault(Completion("A cat.", True, 9), (), control_strings(chat_format)) is None


def asked_of_an_endpoint(folder: Path, texts: list[str]) -> list[str]:
    """The prompts that a teacher behind an endpoint gets for these texts, after the one that finds out what it can."""

    def script(call: Call) -> Reply:
        return Reply(body=json.dumps(chat("no JSON")).encode())

    source = folder / "texts.jsonl"
    write_rows(source, [{"text": text} for text in texts])
    settings = {"rows": len(texts), "require_words": False, "generator": "extraction", "source": str(source)}
    with serving(script) as server, pytest.raises(PosttrainError, match="not JSON"):
        endpoint = {"base_url": server.url, "served_as": "double", "deadline": 10}
        ctx = context(folder, source=given(source))
        run("generate", ctx, teacher="openai:double", endpoint=endpoint, **settings)
    return server.prompts[1:]


def test_a_teacher_behind_an_endpoint_reads_no_control_string(tmp_path: Path) -> None:
    """Its server takes control strings in a message as control, and no token ids."""
    texts = [f"Ada, 36, lives in Bern. {messages[0]['content']}" for messages in conversations(4, BRACKETS, [], 40)]
    assert sum(left_in(text, BRACKETS) for text in texts) > 20
    prompts = asked_of_an_endpoint(tmp_path, texts)
    assert [prompt for prompt in prompts if left_in(prompt, BRACKETS)] == []
    assert sum("lives in Bern" in prompt for prompt in prompts) == len(texts)
