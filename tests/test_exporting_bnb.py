"""An LLM.int8 export holds every linear layer but the head as int8, and plain transformers loads it back."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh import TRANSFORMERS, fresh_logits, machine_paths
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, set_seed

from posttrain.errors import PosttrainError
from posttrain.exporting import bnb_file
from posttrain.exporting.bnb_file import check_quantised, write
from posttrain.exporting.companions import stored_tensors
from posttrain.lm.models import load_model, load_tokenizer, save_model

IDS = list(range(4, 40))
CLOSE = 0.05  # largest difference of a logit to fp32, as a share of the largest logit


def logits(model: Any) -> torch.Tensor:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(torch.tensor([IDS])).logits[0].float()
    return found


def error(model_dir: Path, found: torch.Tensor) -> float:
    exact = logits(load_model(model_dir))
    return float((found - exact).abs().max() / exact.abs().max())


@pytest.fixture(scope="module")
def written(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("bnb") / "out"
    return out, write(tiny_chat_model, out, "tiny")


def test_what_is_loaded_back_is_close_to_fp32(written: tuple[Path, dict[str, Any]], tiny_chat_model: Path) -> None:
    assert 0 < error(tiny_chat_model, logits(AutoModelForCausalLM.from_pretrained(written[0]))) < CLOSE


@pytest.mark.slow
def test_a_fresh_process_has_equal_logits(written: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    here = logits(AutoModelForCausalLM.from_pretrained(written[0]))
    assert torch.equal(fresh_logits(TRANSFORMERS, written[0], IDS, tmp_path), here)


@pytest.mark.parametrize("damage", ["zeroed", "of another layer"])
def test_a_damaged_layer_is_not_close(damage: str, written: tuple[Path, dict[str, Any]], tiny_chat_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(written[0])
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    with torch.no_grad():
        if damage == "zeroed":
            first.v_proj.weight.zero_()
        else:
            first.v_proj.weight.copy_(second.v_proj.weight)
    assert error(tiny_chat_model, logits(model)) > CLOSE


def test_every_linear_layer_but_the_head_is_int8(written: tuple[Path, dict[str, Any]]) -> None:
    out, facts = written
    assert facts["quantised"] == 2 * 7  # q k v o gate up down
    assert facts["unquantised"] == ["model.embed_tokens"] and facts["tied"]
    assert sum(kind == "I8" for kind in stored_tensors(out).values()) == 14
    back = AutoModelForCausalLM.from_pretrained(out)
    assert back.lm_head.weight is back.model.embed_tokens.weight
    assert machine_paths(out, out.parent) == []


def test_a_layer_that_was_passed_over_is_noticed() -> None:
    check_quantised({"a", "b"}, {"a", "b"}, "model")
    with pytest.raises(PosttrainError, match="1 layers became int8, of 2 linear ones \\(first difference: b\\)"):
        check_quantised({"a", "b"}, {"a"}, "model")


def test_odd_widths_and_an_own_head_work(tiny_chat_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_chat_model)
    set_seed(3)
    sizes = dict(hidden_size=42, intermediate_size=37, num_hidden_layers=1, num_attention_heads=3, head_dim=14)
    config = LlamaConfig(**sizes, num_key_value_heads=1, vocab_size=len(tokenizer) + 3, tie_word_embeddings=False)
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path / "model")
    facts = write(tmp_path / "model", tmp_path / "out", "odd")
    assert facts["quantised"] == 7 and facts["unquantised"] == ["lm_head", "model.embed_tokens"] and not facts["tied"]
    assert 0 < error(tmp_path / "model", logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))) < CLOSE


def test_a_model_without_linear_layers_is_refused(tiny_chat_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_chat_model)
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=len(tokenizer))
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path / "model")
    with pytest.raises(PosttrainError, match="a gpt2 has no linear layers"):
        write(tmp_path / "model", tmp_path / "out", "gpt2")
    assert not (tmp_path / "out").exists()


def test_four_bits_are_refused(tiny_chat_model: Path, tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match=r"4 bits; 8 are allowed, because NF4 corrupts"):
        write(tiny_chat_model, tmp_path / "out", "tiny", bits=4)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_failed_export(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bnb_file, "linear_layers", lambda model: {"another"})
    with pytest.raises(PosttrainError, match="all of them are needed"):
        write(tiny_chat_model, tmp_path / "out", "tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_writing_says_nothing(tiny_chat_model: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from posttrain.exporting.bnb_file import write as w; "
    code += "w(Path(sys.argv[1]), Path(sys.argv[2]), 'tiny')"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tiny_chat_model), str(tmp_path / "out")],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("", "")
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["quantization_config"]
