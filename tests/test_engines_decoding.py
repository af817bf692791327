"""Our decoding loop writes what transformers' `generate` writes, and draws each row's tokens for itself."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoConfig, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config

from posttrain.engines import decoding
from posttrain.engines.decoding import choose, decode

IDS, STOPS, MOST = 50, frozenset({0, 1}), 90
SMALL: dict[str, Any] = {
    "vocab_size": IDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA = LlamaConfig(**SMALL, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1)
CONFIGS = {
    "llama": LLAMA,
    "qwen2": Qwen2Config(**SMALL, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2),
    "gpt-neo": GPTNeoConfig(**SMALL, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=8),
    "sliding window": MistralConfig(
        **SMALL, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2, sliding_window=8
    ),
}
PROMPTS = [[5 + (row * 7 + at) % 40 for at in range(3 + 2 * row)] for row in range(8)]


def model_of(config: PreTrainedConfig) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config).eval()


def greedy(model: Any) -> list[list[int]]:
    return decode(model, PROMPTS, STOPS, MOST, 0.0, torch.Generator())


def stock(model: Any) -> list[list[int]]:
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in PROMPTS])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in PROMPTS])
    made = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=MOST, do_sample=False, eos_token_id=[0, 1], pad_token_id=0
    )
    rows = []
    for tokens in made[:, width:].tolist():
        end = next((at for at, token in enumerate(tokens) if token in STOPS), len(tokens))
        rows.append(tokens[: end + 1])
    return rows


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_those_of_generate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "ROOM", 8)
    model = model_of(CONFIGS[name])
    made = greedy(model)
    assert made == stock(model)
    assert (
        len({len(row) for row in made}) > 2 and max(map(len, made)) > 2 * decoding.ROOM
    )  # rows end at different times


def test_a_cache_that_forgets_who_is_gone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: another row's keys after the batch has become smaller give other tokens."""
    model = model_of(LLAMA)
    monkeypatch.setattr(
        decoding.GrowingLayer,
        "batch_select_indices",
        lambda self, rows: (
            [setattr(self, name, getattr(self, name)[: len(rows)]) for name in ("keys", "values")]
            and setattr(self, "room", None)
        ),
    )
    assert greedy(model) != stock(model)


def sampled(model: Any, rows: list[list[int]] = PROMPTS) -> list[list[int]]:
    return decode(model, rows, STOPS, MOST, 1.0, torch.Generator().manual_seed(5))


def test_rows_that_leave_change_no_other_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(LLAMA)
    found = sampled(model)
    monkeypatch.setattr(decoding, "FEWER", -1.0)  # nobody leaves
    assert sampled(model) == found
    assert sampled(model, PROMPTS[::-1])[::-1] != found  # the control: draws go by the row's place


def test_draws_follow_the_distribution_at_its_temperature() -> None:
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -30.0])
    draws = torch.rand(40_000, generator=torch.Generator().manual_seed(1))

    def largest_gap(found: Tensor, temperature: float) -> float:
        share = torch.bincount(found, minlength=5) / len(found)
        return float((share - (logits / temperature).softmax(-1)).abs().max())

    for temperature in (0.5, 1.0, 2.0):
        found = choose(logits.expand(len(draws), -1), temperature, draws)
        assert largest_gap(found, temperature) < 0.01  # about four standard errors
        assert largest_gap(found, temperature * 1.2) > 0.02  # the control: a temperature that is a little off
    assert choose(logits[None], 0.0, draws[:1]).tolist() == [0]


def test_the_ends_of_the_unit_interval_name_ids_with_probability() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]])
    assert choose(logits, 1.0, torch.tensor([0.0])).tolist() == [1]
    assert choose(logits, 1.0, torch.tensor([1.0 - 2**-24])).tolist() == [2]


def test_nobody_goes_on_for_tokens_that_nobody_waits_for() -> None:
    model, calls = model_of(LLAMA), iter([False, False, True])
    with pytest.raises(decoding.Interrupted):
        decode(model, PROMPTS, STOPS, MOST, 0.0, torch.Generator(), lambda: next(calls))
    assert next(calls, None) is None  # asked before every token
