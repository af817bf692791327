"""LoRA: what it adds, changes and saves."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_llama import fit, llama, logits, with_lora
from transformers import AutoModelForCausalLM

from posttrain.errors import PosttrainError
from posttrain.lm.sft import SFTSettings


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 8 / 4), (True, 8 / 2)])
def test_merging_adds_scaled_b_times_a(use_rslora: bool, scale: float) -> None:
    model = with_lora(use_rslora=use_rslora, train_token_ids=[])
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b)
    before, expected = layer.base_layer.weight.clone(), scale * (b @ a)
    merged = model.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged - before, expected, atol=1e-5, rtol=1e-5)
    assert (merged - before - expected / 2).abs().max() > 1e-2


@pytest.mark.parametrize("tied", [True, False])
def test_a_fresh_adapter_changes_no_logit_and_a_step_changes_the_adapter_alone(tied: bool, tmp_path: Path) -> None:
    model = with_lora(tied)
    assert torch.equal(logits(model), logits(llama(tied)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, tmp_path, SFTSettings(learning_rate=2e-4, batch_size=20, warmup_ratio=0.0, bf16=False))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("lora_B" in name or "trainable_tokens_delta" in name for name in changed)
    assert any("trainable_tokens_delta" in name for name in changed)
    assert not torch.equal(logits(model), logits(llama(tied)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("use_dora", [False, True])
def test_a_merged_model_and_a_reloaded_adapter_give_the_trained_logits(
    tied: bool, use_dora: bool, tmp_path: Path
) -> None:
    model = with_lora(tied, use_dora=use_dora)
    fit(model, tmp_path / "c")
    trained = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    reloaded = PeftModel.from_pretrained(llama(tied), str(tmp_path / "adapter"))
    assert (logits(reloaded) - trained).abs().max() <= 1e-6
    merged = model.merge_and_unload()
    assert (logits(merged) - trained).abs().max() <= 1e-4
    assert (logits(merged) - logits(llama(tied))).abs().max() > 1e-2
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    same = again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert same == tied and ("lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")) == tied
    assert (logits(again) - logits(merged)).abs().max() <= 1e-6


@pytest.mark.parametrize("targets", [["q_proj", "nonsense"], ["nonsense"], r".*\.nonsense"])
def test_a_target_that_matches_no_module_is_an_error_that_names_the_modules(targets: Any) -> None:
    with pytest.raises(PosttrainError, match=r"nonsense' matches no module .* q_proj"):
        with_lora(target_modules=targets)
    assert with_lora(target_modules=["q_proj", "v_proj"]).peft_config


RELOAD = """
import sys, torch
sys.path[:0] = [{tests!r}, {root!r}]
import tiny_llama as t
from peft import PeftModel
torch.save(t.logits(PeftModel.from_pretrained(t.llama(), sys.argv[1])), sys.argv[2])
"""


@pytest.mark.slow
def test_a_saved_adapter_gives_the_same_logits_in_a_fresh_process(tmp_path: Path) -> None:
    model = with_lora()
    fit(model, tmp_path / "c")
    model.save_pretrained(tmp_path / "adapter")
    here = Path(__file__).parent
    code = RELOAD.format(tests=str(here), root=str(here.parent))
    command = [sys.executable, "-c", code, str(tmp_path / "adapter"), str(tmp_path / "logits.pt")]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    fresh = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert (fresh - logits(model)).abs().max() <= 1e-6
    assert (fresh - logits(llama())).abs().max() > 1e-2
