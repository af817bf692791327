"""An exported GGUF file is what its readers expect: names, matrices, Ollama's recipe, and other programs read it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting_corpus import STORYTELLER
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from transformers import AutoModelForCausalLM

from posttrain.errors import PosttrainError
from posttrain.exporting.gguf_file import write
from posttrain.exporting.ollama import go_template
from posttrain.lm import gguf
from posttrain.lm.chat import TEMPLATE
from posttrain.lm.models import load_model, load_tokenizer, save_model

CHAT = [
    {"role": "system", "content": "Be  kind. "},
    {"role": "user", "content": 'Say "a".\n'},
    {"role": "assistant", "content": "{{ a }}"},
    {"role": "user", "content": ""},
]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def in_go(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template makes of the words that are used here: range, if eq, else if eq, else, end."""
    opening, rest = template.split("{{- range .Messages }}")
    body, prompt = rest.rsplit("{{ end }}", 1)
    found = re.fullmatch(
        r'\{\{ if eq \.Role "(\w+)" \}\}(.*)\{\{ else if eq \.Role "(\w+)" \}\}(.*)\{\{ else \}\}(.*)\{\{ end \}\}',
        body,
        re.S,
    )
    assert found and not opening.strip()
    first, one, second, two, other = found.groups()
    texts = [{first: one, second: two}.get(message["role"], other) for message in messages]
    said = [text.replace("{{ .Content }}", m["content"]) for text, m in zip(texts, messages, strict=True)]
    return "".join(said) + prompt


def rendered_by(template: str, bos: str = "") -> Callable[[list[dict[str, str]], bool], str]:
    tokenizer = load_tokenizer(STORYTELLER)
    tokenizer.chat_template = template
    return lambda messages, asking: (
        bos + str(tokenizer.apply_chat_template(messages, add_generation_prompt=asking, tokenize=False))
    )


@pytest.mark.parametrize("template", [TEMPLATE, CHATML])
@pytest.mark.parametrize("bos", ["", "<s>"])
def test_ollamas_template_writes_what_the_chat_template_writes(template: str, bos: str) -> None:
    render = rendered_by(template, bos)
    made = go_template(render, bos)
    assert made is not None and bos + in_go(made, CHAT) == render(CHAT, True)
    assert in_go(made.replace("<|end|>", "").replace("<|im_end|>", ""), CHAT) != render(CHAT, True).removeprefix(bos)


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE.replace("message.content", "message.content | trim"),
        "{% if messages[0].role != 'system' %}<|user|>You are kind.{% endif %}" + TEMPLATE,
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE,
        TEMPLATE.replace("{{ message.content }}", "{{ message.content }}{{ loop.index }}"),
        TEMPLATE.replace("<|user|>", "{{ '{{' }}"),
        "{{ messages | length }}",
    ],
)
def test_a_template_that_does_more_than_wrapping_is_left_to_ollama(template: str) -> None:
    assert go_template(rendered_by(template), "") is None


def test_the_directory_is_what_people_expect(tmp_path: Path) -> None:
    facts = write(STORYTELLER, tmp_path / "out", "story", "q8_0")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "Modelfile",
        "llama.cpp.md",
        "story-Q8_0.gguf",
    ]
    assert facts == {
        "file": "story-Q8_0.gguf",
        "architecture": "llama",
        "quantised": 1 + 7 * 4,
        "kept_in_f16": [],
        "stops": ["<|end|>"],
        "ollama_template": True,
    }
    recipe = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    assert recipe.startswith('FROM ./story-Q8_0.gguf\nTEMPLATE """{{- range .Messages }}')
    assert 'PARAMETER stop "<|end|>"\nPARAMETER temperature 1\n' in recipe and "PARAMETER num_ctx 512\n" in recipe
    commands = (tmp_path / "out" / "llama.cpp.md").read_text(encoding="utf-8")
    assert "llama-cli --model story-Q8_0.gguf" in commands and "llama-server --model story-Q8_0.gguf" in commands


def test_a_model_without_a_template_gets_none(tiny_chat_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_chat_model), load_tokenizer(tiny_chat_model)
    tokenizer.chat_template = None
    save_model(model, tokenizer, tmp_path / "model")
    assert write(tmp_path / "model", tmp_path / "out", "m", "f16")["ollama_template"] is False
    assert "TEMPLATE" not in (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")


def blocks(path: Path) -> dict[str, tuple[Any, Any]]:
    """Values and scales [blocks, 32] and [blocks, 1] of each Q8_0 tensor."""
    found = {}
    for tensor in GGUFReader(path).tensors:
        if tensor.tensor_type == GGMLQuantizationType.Q8_0:
            raw = np.asarray(tensor.data).reshape(-1, 34)
            values = dequantize(tensor.data, tensor.tensor_type).reshape(-1, 32)
            found[tensor.name] = (values, raw[:, :2].copy().view(np.float16).astype(np.float32))
    return found


def beyond_half_a_step(path: Path, weights: dict[str, Any]) -> int:
    """Q1: how many weights are further from their rounded value than half of their block's scale (and its own cast)."""
    found = 0
    for name, (values, scales) in blocks(path).items():
        exact = weights[name].reshape(-1, 32)
        cast = np.abs(exact).max(1, keepdims=True) * 2.0**-11  # the scale is a float16
        found += int((np.abs(values - exact) > scales / 2 + cast + 1e-7).sum())
    return found


def exact_weights(model_dir: Path, path: Path) -> dict[str, Any]:
    gguf.write_gguf(model_dir, path, "f32")
    return {tensor.name: np.asarray(tensor.data) for tensor in GGUFReader(path).tensors}


def test_every_weight_is_within_half_a_step_of_its_block(tiny_chat_model: Path, tmp_path: Path) -> None:
    weights = exact_weights(tiny_chat_model, tmp_path / "f32.gguf")
    file = tmp_path / "out" / write(tiny_chat_model, tmp_path / "out", "m", "q8_0")["file"]
    assert len(blocks(file)) == 1 + 7 * 2 and beyond_half_a_step(file, weights) == 0


def test_a_scale_a_row_instead_of_a_block_is_noticed(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = exact_weights(tiny_chat_model, tmp_path / "f32.gguf")
    whole = gguf.gguf.quantize

    def coarse(values: Any, kind: Any) -> Any:
        if kind != GGMLQuantizationType.Q8_0:
            return whole(values, kind)
        step = np.abs(values).max() / 127 * 2
        return whole((np.round(values / step) * step).astype(np.float32), kind)

    monkeypatch.setattr(gguf.gguf, "quantize", coarse)
    file = tmp_path / "out" / write(tiny_chat_model, tmp_path / "out", "m", "q8_0")["file"]
    assert beyond_half_a_step(file, weights) > 100


def test_a_matrix_passed_over_is_refused_and_nothing_stays(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast = gguf._cast

    def forgetful(name: str, values: Any, kind: gguf.Kind, where: str) -> GGMLQuantizationType:
        return GGMLQuantizationType.F32 if name == "blk.1.attn_v.weight" else cast(name, values, kind, where)

    monkeypatch.setattr(gguf, "_cast", forgetful)
    with pytest.raises(PosttrainError, match="14 matrices in F16 or Q8_0; 15 are expected"):
        write(tiny_chat_model, tmp_path / "out", "m", "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_file_name_is_refused(tiny_chat_model: Path, tmp_path: Path) -> None:
    for name in ("../m", "a/b", "", ".m", "a b"):
        with pytest.raises(PosttrainError, match="are allowed in a file name"):
            write(tiny_chat_model, tmp_path / "out", name, "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_other_programs_read_the_file(tiny_chat_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / write(tiny_chat_model, tmp_path / "out", "m", "f16")["file"]
    command = [sys.executable, "-m", "gguf.scripts.gguf_dump", str(file)]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "general.architecture = 'llama'" in dumped and "tokenizer.chat_template" in dumped
    assert "blk.1.ffn_down.weight" in dumped and "F16" in dumped
    back = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ours = load_model(tiny_chat_model).state_dict()
    assert back.state_dict().keys() == ours.keys()
    assert all(torch.equal(back.state_dict()[key], ours[key].half().float()) for key in ours if ours[key].ndim == 2)
