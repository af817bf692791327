"""How much a change of the weights changes greedy texts: rounding to a format, or noise, always computed in fp32.

    python -m bench.greedy_ties runs/tinystories/sft [--prompts 40] [--new-tokens 64]

One line a change: its size as a share of the weights' own standard deviation, and in how many prompts the greedy text
stays the same to the last token. Where a model has many near-ties, a change too small for any score is seen here.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from posttrain.engines.decoding import decode
from posttrain.lm.chat import ChatFormat
from posttrain.lm.models import load_model, load_tokenizer
from posttrain.rows import read_rows

BLOCK = 32  # weights with a scale of their own in Q8_0
PROMPTS = Path("eval/prompts/tinystories.jsonl")


def rounded(kind: GGMLQuantizationType) -> Callable[[torch.Tensor], torch.Tensor]:
    """Matrices as a GGUF file of this type holds them; vectors stay in fp32 there."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        if weight.ndim < 2 or weight.shape[1] % BLOCK:
            return weight
        held = dequantize(quantize(weight.numpy(), kind), kind)
        return torch.from_numpy(held.reshape(weight.shape).copy())

    return change


def noisy(share: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Normal noise of this share of the weights' standard deviation."""
    generator = torch.Generator().manual_seed(0)
    return lambda weight: weight + share * weight.std() * torch.randn(weight.shape, generator=generator)


CHANGES = {
    "f16": rounded(GGMLQuantizationType.F16),
    "bf16": rounded(GGMLQuantizationType.BF16),
    "q8_0": rounded(GGMLQuantizationType.Q8_0),
    "noise 1e-4": noisy(1e-4),
    "noise 1e-3": noisy(1e-3),
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("model", type=Path)
    asked.add_argument("--prompts", type=int, default=40)
    asked.add_argument("--new-tokens", type=int, default=64)
    options = asked.parse_args()
    tokenizer, model = load_tokenizer(options.model), load_model(options.model).float().eval()
    chat = ChatFormat(tokenizer, str(options.model))
    prompts = [
        chat.render([{"role": "user", "content": row["prompt"]}], add_generation_prompt=True).ids
        for row in read_rows(PROMPTS)[: options.prompts]
    ]

    def greedy() -> list[Any]:
        return decode(model, prompts, chat.stop_ids, options.new_tokens, 0.0, torch.Generator())

    first, weights = greedy(), {name: value.detach().clone() for name, value in model.named_parameters()}
    for name, change in CHANGES.items():
        errors = []
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(change(weights[key]))
                if parameter.ndim > 1:
                    errors.append(float((parameter - weights[key]).std() / weights[key].std()))
        same = sum(one == other for one, other in zip(greedy(), first, strict=True)) / len(first)
        print(f"{name:<12} change {sum(errors) / len(errors):.1e} of the weights' deviation, same text {same:.0%}")


if __name__ == "__main__":
    main()
