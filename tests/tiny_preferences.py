"""Pairs for the tiny Llama and one call that trains on them: what the tests of preference training share."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_llama import STOP, VOCABULARY, llama, with_lora

from posttrain.lm.preference.pairs import TokenPair
from posttrain.lm.preference.settings import PreferenceSettings
from posttrain.lm.preference.training import AlignResult, align
from posttrain.lm.sft import OnStep, SFTSettings

STEADY = SFTSettings(learning_rate=1e-2, batch_size=4, bf16=False, save_every_steps=100, epochs=2, kind="dpo")
DPO = PreferenceSettings(training=STEADY)


def some_pairs(count: int = 12, seed: int = 0) -> list[TokenPair]:
    """Chosen answers are of low ids, rejected ones of high ids: something that can be learnt."""
    rng, middle = random.Random(seed), VOCABULARY // 2

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(low, high) for _ in range(rng.randrange(3, 12))]

    return [
        TokenPair(f"{i:06d}", ids(3, VOCABULARY), [*ids(3, middle), STOP], [*ids(middle, VOCABULARY), STOP])
        for i in range(count)
    ]


PAIRS = some_pairs()


def plain_lora() -> Any:
    return with_lora(train_token_ids=[])


def moved() -> Any:
    """A model whose weights are not those it was made with, as after SFT."""
    model = llama()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def nothing(step: int, steps: int, logs: dict[str, float]) -> None:
    pass


def prefer(
    model: Any,
    path: Path,
    settings: PreferenceSettings = DPO,
    pairs: list[TokenPair] = PAIRS,
    on_step: OnStep = nothing,
    **training: Any,
) -> AlignResult:
    settings = replace(settings, training=replace(settings.training, **training))
    return align(model, pairs, settings=settings, checkpoint_dir=path, on_step=on_step)


def stop_at(last: int) -> Callable[[int, int, dict[str, float]], None]:
    def on_step(step: int, steps: int, logs: dict[str, float]) -> None:
        if step == last:
            raise KeyboardInterrupt

    return on_step


@torch.no_grad()
def naive(model: Any, prompt: list[int], answer: list[int]) -> float:
    """One sequence at a time without padding, token by token."""
    model.eval()
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].double()
    total = 0.0
    for at, token in enumerate(answer, start=len(prompt)):
        total += float(torch.log_softmax(logits[at - 1], -1)[token])
    return total
