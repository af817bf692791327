"""A grown model has the logits of the smaller one, and every new weight can learn."""

from pathlib import Path

import pytest
import torch
from stage_context import context, given, run
from tiny_llama import llama
from transformers import GPT2Config, GPT2LMHeadModel

from posttrain.errors import PosttrainError
from posttrain.lm.growth import Growth, grown
from posttrain.lm.models import load_model, parameters

IDS = torch.arange(24).reshape(2, 12) + 4
DEEPER, WIDER = Growth(num_hidden_layers=5), Growth(intermediate_size=200)
SHAPES = [DEEPER, WIDER, Growth(num_hidden_layers=6, intermediate_size=131)]
BUNDLED = Path(__file__).parents[1] / "models/storyteller-1m"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_logits_stay(shape: Growth) -> None:
    small = llama().eval()
    large = grown(small, shape, seed=3).eval()
    assert parameters(large) > parameters(small)
    with torch.no_grad():
        assert torch.allclose(large(IDS).logits, small(IDS).logits, atol=1e-5)
        large.model.layers[1].mlp.down_proj.weight.add_(0.1)  # the control: what is not silent is heard
        assert not torch.allclose(large(IDS).logits, small(IDS).logits, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_weight_moves_within_two_steps(shape: Growth) -> None:
    large = grown(llama(), shape, seed=3)
    before = {name: weight.detach().clone() for name, weight in large.named_parameters()}
    optimizer = torch.optim.SGD(large.parameters(), lr=0.5)
    for _ in range(2):  # the first step opens the silent outputs, the second reaches what stands behind them
        large(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert [name for name, weight in large.named_parameters() if torch.equal(weight, before[name])] == []


def test_what_new_neurons_look_at_is_drawn_by_the_seed() -> None:
    one, same, other = (grown(llama(), WIDER, seed).state_dict() for seed in (1, 1, 2))
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


def test_less_is_refused_and_another_kind_of_model_too() -> None:
    with pytest.raises(PosttrainError, match=r"grow\.num_hidden_layers: found 1; the model has"):
        grown(llama(), Growth(num_hidden_layers=1), seed=0)
    with pytest.raises(PosttrainError, match="found a gpt2 model"):
        grown(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=50)), Growth(), seed=0)


def test_the_base_stage_grows_a_model_and_saves_it_in_half_the_bytes(tmp_path: Path) -> None:
    made = {}
    for dtype in ("float32", "bfloat16"):
        ctx = context(tmp_path / dtype, model=given(BUNDLED))
        grow = {"num_hidden_layers": 6}
        found = run("base", ctx, model="m", grow=grow, dtype=dtype)
        assert found["reference"] is None and "grown" in found["summary"]
        made[dtype] = (ctx.out / "model.safetensors").stat().st_size
        with torch.no_grad():
            logits = load_model(ctx.out)(IDS).logits
        assert torch.allclose(logits, load_model(BUNDLED)(IDS).logits, atol=1e-4)
    assert made["float32"] > 1.9 * made["bfloat16"]


def test_a_new_model_cannot_be_grown() -> None:
    with pytest.raises(ValueError, match="they need 'model'"):
        run("base", None, architecture={}, grow={"num_hidden_layers": 6})  # type: ignore[arg-type]
