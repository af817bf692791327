"""What big models' repositories hold, at miniature: their tokenizers are read as published, their chats end."""

from pathlib import Path

import hub_models
import pytest
from stage_context import context, given, run
from transformers import AutoTokenizer

from posttrain.errors import PosttrainError
from posttrain.exporting.formats import write_format
from posttrain.lm.models import load_model, load_tokenizer

HARD = ["12345 v2 ", " a  b", "I'll don't\n\n\ty", "Caf\u00e9 \u65e5\u672c \U0001f600", "<think>\nx\n</think>"]


@pytest.mark.parametrize("name", ["gpt_neo", "smollm", "qwen2", "llama"])
def test_a_tokenizer_is_read_as_it_was_published(name: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    path = getattr(hub_models, name)(tmp_path / name)
    published, read = Tokenizer.from_file(str(path / "tokenizer.json")), load_tokenizer(path)
    texts = [*hub_models.TEXTS[:20], *HARD]
    expected = [published.encode(text, add_special_tokens=False).ids for text in texts]
    assert [read.encode(text, add_special_tokens=False) for text in texts] == expected
    read.save_pretrained(tmp_path / "saved")
    others = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert [others.encode(text, add_special_tokens=False) for text in texts] == expected, "and so by everybody else"
    if name == "llama":  # negative control
        rebuilt = AutoTokenizer.from_pretrained(path)
        assert [rebuilt.encode(text, add_special_tokens=False) for text in texts] != expected


@pytest.mark.parametrize(("name", "ends"), [("qwen2", ["<|endoftext|>", "<|im_end|>"]), ("smollm", ["<|end|>"])])
def test_generation_ends_where_the_chat_template_ends_an_answer(name: str, ends: list[str], tmp_path: Path) -> None:
    path = getattr(hub_models, name)(tmp_path / name)
    run("base", context(tmp_path, model=given(path)), model=str(path))
    model, tokenizer = load_model(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    found = model.generation_config.eos_token_id
    assert tokenizer.convert_ids_to_tokens(found if isinstance(found, list) else [found]) == ends
    before = load_model(path).generation_config.eos_token_id  # negative control
    assert tokenizer.convert_ids_to_tokens([before]) == ["<|endoftext|>"]


def test_gpt_neo_becomes_no_gguf_and_says_so(tmp_path: Path) -> None:
    path = hub_models.gpt_neo(tmp_path / "neo")
    with pytest.raises(PosttrainError, match=r"model_type gpt_neo; llama, qwen2, qwen3 are allowed in GGUF"):
        write_format("gguf-q8_0", path, tmp_path / "out", "neo")
    write_format("safetensors", path, tmp_path / "out", "neo")
    assert (tmp_path / "out" / "model.safetensors").is_file()
