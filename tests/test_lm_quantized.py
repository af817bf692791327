"""A base in 4 bits: only the adapter learns, evaluation and saving change nothing, and narrow bases are refused."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_models
import pytest
import torch
from stage_context import checked
from tiny_llama import STEADY, fit

from posttrain.errors import PosttrainError
from posttrain.lm.models import load_model
from posttrain.lm.nll import row_nll
from posttrain.lm.quantized import load_nf4
from posttrain.lm.sft import add_lora
from posttrain.lm.token_row import TokenRow

ROWS = [TokenRow(str(n), [1, *range(300 + n, 320 + n), 2], [False, *[True] * 21]) for n in range(12)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_models.llama(tmp_path_factory.mktemp("models") / "llama")


def mean(model: Any) -> float:
    losses = row_nll(model, ROWS)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("bf16", [False, True])
def test_only_the_adapter_learns_and_saving_changes_nothing(base: Path, tmp_path: Path, bf16: bool) -> None:
    model = add_lora(load_nf4(base), r=4, lora_alpha=8, train_token_ids=[1, 2])
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert sum(p.dtype == torch.uint8 for p in frozen.values()) == 14, "seven matrices a layer are packed"
    before = mean(model)
    fit(model, tmp_path / "c", replace(STEADY, bf16=bf16), ROWS)
    after = mean(model)
    assert after < before - 0.1
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if not p.requires_grad)
    model.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    model.state_dict()
    assert mean(model) == after
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    whole = mean(load_model(tmp_path / "a"))
    assert abs(whole - after) < 0.1 and whole < mean(load_model(base)) - 0.1, (
        "merged into the whole base it does the same"
    )


def gradient(model: Any) -> torch.Tensor:
    """Of the loss with respect to the input embeddings, after an evaluation."""
    ids = torch.tensor([ROWS[0].input_ids])
    with torch.no_grad():
        model.eval()(input_ids=ids)
    seen = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    model.train()(inputs_embeds=seen, labels=ids).loss.backward()
    return torch.as_tensor(seen.grad).flatten()


def test_the_gradient_after_an_evaluation_is_that_of_the_whole_base(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.nn import Linear4bit

    monkeypatch.setattr("posttrain.lm.quantized.mixed_precision", lambda: False)
    whole, four = gradient(load_model(base)), gradient(load_nf4(base))
    assert float(torch.nn.functional.cosine_similarity(whole, four, dim=0)) > 0.9
    packing = load_nf4(base)  # negative control: with bitsandbytes' layout for inference
    for module in packing.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = Linear4bit(64, 64).support_avx512bf16_for_cpu
    if not Linear4bit(64, 64).support_avx512bf16_for_cpu:
        pytest.skip("this processor has no such layout")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = gradient(packing)
    assert float(torch.nn.functional.cosine_similarity(whole, wrong, dim=0)) < 0.9


def test_what_cannot_be_read_in_four_bits_is_refused(base: Path, tmp_path: Path) -> None:
    hub_models.smollm(tmp_path / "narrow")
    with pytest.raises(PosttrainError, match=r"layers\.0\.self_attn\.q_proj is 32 wide; multiples of 64 are allowed"):
        load_nf4(tmp_path / "narrow")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PosttrainError, match="an adapter on a base; a whole model is needed"):
        load_nf4(tmp_path)
    with pytest.raises(ValueError, match="weights of 4 bits cannot be trained"):
        checked("sft", model="m", data="d", quantization="nf4", full=True)
