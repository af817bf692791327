"""A GGUF file holds the model it was made from: llama.cpp computes what transformers computes, or it is refused."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, dequantize
from llamacpp_client import exactly, furthest, greedy
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    set_seed,
)

from posttrain.errors import PosttrainError
from posttrain.lm import gguf
from posttrain.lm.gguf import check_architecture, write_gguf
from posttrain.lm.models import load_model, load_tokenizer, save_model

STORYTELLER = Path(__file__).parents[1] / "models" / "storyteller-1m"
PROMPTS = ("Once upon a time", "Lily and Tom", "She was sad because", " It was 3 o'clock")
IDS = list(range(4, 204))
SHAPE = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16
)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, biases, own head": LlamaConfig(**SHAPE, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "llama 3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 64}),
    "qwen2": Qwen2Config(**{**SHAPE, "head_dim": 8}, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=False),
}


def random_model(config: PretrainedConfig, tokenizer_of: Path, path: Path) -> Path:
    """A model whose weights, biases and norms all matter, with two rows more than its tokenizer has tokens."""
    tokenizer = load_tokenizer(tokenizer_of)
    config.vocab_size, config.max_position_embeddings = len(tokenizer) + 2, 512
    set_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    save_model(model, tokenizer, path)
    return path


def difference(model_dir: Path, tmp_path: Path) -> float:
    write_gguf(model_dir, tmp_path / "m.gguf", "f32")
    with exactly(tmp_path / "m.gguf") as server:
        return furthest(load_model(model_dir), server, IDS)


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


@pytest.fixture(params=["stories260k", "storyteller-1m"])
def real(request: pytest.FixtureRequest) -> Path:
    """A trained model."""
    if request.param == "storyteller-1m":
        return STORYTELLER
    path: Path = request.getfixturevalue("stories260k")
    return path


def test_llamacpp_says_the_same_tokens(real: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(real), load_tokenizer(real)
    write_gguf(real, tmp_path / "m.gguf", "f32")
    with exactly(tmp_path / "m.gguf") as server:
        for prompt in PROMPTS:
            ids = tokenizer.encode(prompt)
            with torch.inference_mode():
                made = model.generate(torch.tensor([ids]), max_new_tokens=60, do_sample=False, pad_token_id=0)
            said, told = made[0, len(ids) :].tolist(), greedy(server, ids, 60)
            assert told == said[: len(told)] and len(told) > 10
            assert said[len(told) :] in ([], [tokenizer.eos_token_id])
            assert furthest(model, server, ids) < 1e-3


def test_transformers_reads_the_same_weights_back(real: Path, tmp_path: Path) -> None:
    write_gguf(real, tmp_path / "m.gguf", "f32")
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    ours = load_model(real).state_dict()
    assert back.state_dict().keys() == ours.keys() and back.config.tie_word_embeddings
    assert all(torch.equal(back.state_dict()[key], ours[key]) for key in ours)


@pytest.mark.parametrize("name", MODELS)
def test_llamacpp_computes_what_transformers_computes(name: str, tiny_chat_model: Path, tmp_path: Path) -> None:
    assert difference(random_model(MODELS[name], tiny_chat_model, tmp_path / "model"), tmp_path) < 1e-3


@pytest.mark.parametrize(
    ("name", "function", "damage"),
    [
        ("llama", "interleave_halves", lambda values, heads: values),
        ("llama 3", "_rope_divisors", lambda model: np.ones(8, np.float32)),
    ],
)
def test_a_wrong_rope_is_noticed(
    name: str, function: str, damage: Any, tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, function, damage)
    assert difference(random_model(MODELS[name], tiny_chat_model, tmp_path / "model"), tmp_path) > 0.1


def test_a_tied_head_taken_for_an_untied_one_is_noticed(tiny_chat_model: Path, tmp_path: Path) -> None:
    path = random_model(MODELS["llama, biases, own head"], tiny_chat_model, tmp_path / "model")
    write_gguf(path, tmp_path / "m.gguf", "f32")
    assert "output.weight" in tensors(tmp_path / "m.gguf")
    model = load_model(path)
    model.lm_head.weight = model.model.embed_tokens.weight
    with exactly(tmp_path / "m.gguf") as server:
        assert furthest(model, server, IDS) > 0.1


def test_q8_0_is_within_half_a_step_of_the_weights(tiny_chat_model: Path, tmp_path: Path) -> None:
    path = random_model(MODELS["qwen3"], tiny_chat_model, tmp_path / "model")
    write_gguf(path, tmp_path / "f32.gguf", "f32")
    written = write_gguf(path, tmp_path / "q8.gguf", "q8_0")
    exact, coarse = tensors(tmp_path / "f32.gguf"), tensors(tmp_path / "q8.gguf")
    assert written.half == () and len(written.cast) == 2 + 2 * 7  # embeddings and head; q k v o gate up down
    assert set(written.cast) == {name for name, tensor in coarse.items() if tensor.tensor_type.name == "Q8_0"}
    for name in written.cast:
        blocks = exact[name].data.reshape(-1, 32)
        step = np.abs(blocks).max(axis=1, keepdims=True) / 127
        error = np.abs(dequantize(coarse[name].data, coarse[name].tensor_type).reshape(-1, 32) - blocks)
        assert (error <= 0.57 * step).all()  # half a step, and the float16 of the scale: 127 / 2048 of one
        assert error.max() > 0.4 * step.min()


def test_f16_is_the_weights_cast_once(tiny_chat_model: Path, tmp_path: Path) -> None:
    write_gguf(tiny_chat_model, tmp_path / "m.gguf")
    head = tensors(tmp_path / "m.gguf")["token_embd.weight"].data
    weights = load_model(tiny_chat_model).get_input_embeddings().weight.detach()
    assert head.dtype == np.float16 and np.array_equal(head, weights.half().numpy())
    assert not np.array_equal(head.astype(np.float32), weights.numpy())


def test_rows_that_are_no_multiple_of_a_block_stay_in_f16(tiny_chat_model: Path, tmp_path: Path) -> None:
    config = LlamaConfig(**{**SHAPE, "intermediate_size": 40})
    path = random_model(config, tiny_chat_model, tmp_path / "model")
    written = write_gguf(path, tmp_path / "m.gguf", "q8_0")
    assert written.half == ("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")
    assert {name: tensors(tmp_path / "m.gguf")[name].tensor_type.name for name in written.half} == {
        "blk.0.ffn_down.weight": "F16",
        "blk.1.ffn_down.weight": "F16",
    }
    with exactly(tmp_path / "m.gguf") as server:
        assert furthest(load_model(path), server, IDS) < 1.0


def test_the_file_says_what_it_is(tiny_chat_model: Path, tmp_path: Path) -> None:
    write_gguf(tiny_chat_model, tmp_path / "m.gguf", "q8_0", name="tiny")
    fields = {key: field.contents() for key, field in GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert {key.removeprefix("general."): value for key, value in fields.items() if key.startswith("general.")} == {
        "architecture": "llama",
        "type": "model",
        "name": "tiny",
        "size_label": "40K",
        "file_type": 7,
        "quantization_version": 2,
    }
    assert fields["llama.context_length"] == 512 and fields["llama.attention.key_length"] == 16


def test_the_same_model_gives_the_same_bytes(tiny_chat_model: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tiny_chat_model, tmp_path / name, "q8_0", name="tiny")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_file_is_absent_or_whole(tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any) -> None:
        raise OSError("28 requested and 5 written")  # as numpy says it, without a number

    monkeypatch.setattr(GGUFWriter, "write_tensors_to_file", short)
    with pytest.raises(OSError, match="no space left") as error:
        write_gguf(tiny_chat_model, tmp_path / "m.gguf")
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (GPT2Config(), "model_type gpt2; llama, qwen2, qwen3 are allowed"),
        (LlamaConfig(hidden_act="gelu"), "hidden_act gelu"),
        (LlamaConfig(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}), "rope_type yarn"),
        (Qwen3Config(rope_parameters=LLAMA3 | {"original_max_position_embeddings": 64}), "rope_type llama3 of a qwen3"),
        (Qwen2Config(use_sliding_window=True), "use_sliding_window True"),
        (LlamaConfig(quantization_config={"load_in_8bit": True}), "quantization_config"),
    ],
)
def test_another_architecture_is_refused_by_name(config: PretrainedConfig, found: str) -> None:
    with pytest.raises(PosttrainError, match=found):
        check_architecture(config, "model")


@pytest.mark.parametrize(
    ("value", "kind", "where"),
    [(float("nan"), "f32", "nan"), (float("inf"), "f32", "inf"), (70_000.0, "f16", "70000; at most 65504")],
)
def test_weights_that_would_not_survive_are_refused(
    value: float, kind: gguf.Kind, where: str, tiny_chat_model: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(tiny_chat_model), load_tokenizer(tiny_chat_model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    save_model(model, tokenizer, tmp_path / "model")
    with pytest.raises(PosttrainError, match=f"blk.1.ffn_up.weight holds {where}"):
        write_gguf(tmp_path / "model", tmp_path / "m.gguf", kind)
    write_gguf(tiny_chat_model, tmp_path / "m.gguf", kind)
