"""A bf16 export is the merged model cast once, whole or absent, and loads without us."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh import TRANSFORMERS, fresh_logits, machine_paths
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.errors import PosttrainError
from posttrain.exporting.companions import check_tied, load_merged, stored_tensors, whole_directory
from posttrain.exporting.safetensors_file import older_config, write
from posttrain.lm.models import load_model, load_tokenizer, save_model

IDS = list(range(4, 40))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([IDS])).logits[0].float()
    return found


@pytest.fixture
def adapter(tiny_chat_model: Path, tmp_path: Path) -> Path:
    """A LoRA whose B is not zero, beside its base."""
    model = get_peft_model(load_model(tiny_chat_model), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    path = tmp_path / "adapter"
    save_model(model, load_tokenizer(tiny_chat_model), path)
    settings = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = str(tiny_chat_model)
    (path / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def cast_once(model: Any) -> Any:
    """Parameters in bf16; the frequencies of rope stay in fp32, as a loaded model has them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model.eval()


def test_the_file_is_the_merged_model_cast_once(adapter: Path, tiny_chat_model: Path, tmp_path: Path) -> None:
    facts = write(adapter, tmp_path / "out", "tiny")
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert torch.equal(found, logits(cast_once(load_model(adapter))))
    assert not torch.equal(found, logits(cast_once(load_model(tiny_chat_model))))  # the adapter is in it
    assert facts["tied"] and facts["files"]["model.safetensors"] < 2 * facts["parameters"] + 5000


@pytest.mark.slow
def test_a_fresh_process_has_the_same_logits(adapter: Path, tmp_path: Path) -> None:
    write(adapter, tmp_path / "out", "tiny")
    here = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert torch.equal(fresh_logits(TRANSFORMERS, tmp_path / "out", IDS, tmp_path), here)


def test_a_tied_head_stays_tied(tiny_chat_model: Path, tmp_path: Path) -> None:
    facts = write(tiny_chat_model, tmp_path / "out", "tiny")
    assert "lm_head.weight" not in stored_tensors(tmp_path / "out") and len(stored_tensors(tmp_path / "out")) == 20
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert back.lm_head.weight is back.model.embed_tokens.weight and back.dtype == torch.bfloat16
    assert facts["tensors"] == 20 and set(stored_tensors(tmp_path / "out").values()) == {"BF16"}


def test_a_head_stored_beside_what_it_is_tied_to_is_refused(tiny_chat_model: Path) -> None:
    model, _ = load_merged(tiny_chat_model)
    check_tied(model, {"model.embed_tokens.weight"}, "model")
    with pytest.raises(PosttrainError, match=r"lm_head\.weight is stored beside the embeddings"):
        check_tied(model, {"model.embed_tokens.weight", "lm_head.weight"}, "model")


def test_everything_a_runtime_needs_stands_beside_the_weights(tiny_chat_model: Path, tmp_path: Path) -> None:
    write(tiny_chat_model, tmp_path / "out", "tiny")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == load_tokenizer(tiny_chat_model).chat_template
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == 0
    assert machine_paths(tmp_path / "out", tiny_chat_model, tmp_path) == []
    (tmp_path / "out" / "note").write_text(f"made in {tmp_path}", encoding="utf-8")
    assert machine_paths(tmp_path / "out", tiny_chat_model, tmp_path) == ["note"]


def test_older_readers_find_their_names_and_ours_read_the_same(tiny_chat_model: Path, tmp_path: Path) -> None:
    write(tiny_chat_model, tmp_path / "out", "tiny")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] and config["torch_dtype"] == "bfloat16"
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    ours, back = load_tokenizer(tiny_chat_model), load_tokenizer(tmp_path / "out")
    text = "<|user|>a\n dog<|end|><|assistant|>"
    assert back.encode(text) == ours.encode(text) and back.added_tokens_decoder == ours.added_tokens_decoder
    assert back.special_tokens_map == ours.special_tokens_map and back.all_special_ids == ours.all_special_ids


def test_a_scaled_rope_is_said_in_the_older_way() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}
    config = older_config({"dtype": "bfloat16", "rope_parameters": rope})
    assert config["rope_theta"] == 5e5 and config["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    assert "rope_scaling" not in older_config({"dtype": "bfloat16", "rope_parameters": {"rope_theta": 1e4}})


def test_a_stop_token_that_only_the_tokenizer_knows_is_written(tiny_chat_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_chat_model, tmp_path / "model")
    for name in ("generation_config.json", "config.json"):
        path = tmp_path / "model" / name
        settings = json.loads(path.read_text(encoding="utf-8")) | {"eos_token_id": 7}
        path.write_text(json.dumps(settings), encoding="utf-8")
    write(tmp_path / "model", tmp_path / "out", "tiny")
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == [7, 0]  # <|end|> of the template is 0


def test_weights_that_are_no_numbers_are_refused(tiny_chat_model: Path, tmp_path: Path) -> None:
    model = load_model(tiny_chat_model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    save_model(model, load_tokenizer(tiny_chat_model), tmp_path / "model")
    with pytest.raises(PosttrainError, match=r"layers\.1\.mlp\.up_proj\.weight holds infinite numbers or none"):
        write(tmp_path / "model", tmp_path / "out", "tiny")
    assert not (tmp_path / "out").exists()


def test_a_directory_is_absent_or_whole(tmp_path: Path) -> None:
    with pytest.raises(KeyError), whole_directory(tmp_path / "out") as folder:
        (folder / "half").write_text("x", encoding="utf-8")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with whole_directory(tmp_path / "out") as folder:
        (folder / "file").write_text("x", encoding="utf-8")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    with pytest.raises(PosttrainError, match="something is there already"), whole_directory(tmp_path / "out"):
        pass
