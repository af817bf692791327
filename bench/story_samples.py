"""Stories sampled from small models, for what the rule judge is measured on.

`stories260k` without a prompt writes children's stories that are wrong in most of the ways a weak model is: words that
are none, things from nowhere, sentences that lead to nothing. At a low temperature it is plain and repetitive instead.
A chat model is asked for stories. Finished blocks are kept in the folder given, so that the same call reads them back.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.engines.transformers_engine import Prompt, Sampling, sample
from posttrain.lm.models import load_model, load_tokenizer

Row = dict[str, Any]  # id, text, stopped


def unprompted(model: Path, count: int, temperature: float, seed: int, kept: Path) -> list[Row]:
    """`count` stories from the start token on, whole softmax, to the end of the context."""
    tokenizer = load_tokenizer(model)
    stops = frozenset({tokenizer.bos_token_id, tokenizer.eos_token_id})  # either stood between the stories it learned
    prompts = [Prompt(f"s{number:05d}", [tokenizer.bos_token_id]) for number in range(count)]
    return _rows(model, tokenizer, stops, prompts, Sampling(10_000, temperature, seed, 100), kept)


def asked(model: Path, prompts: Sequence[Mapping[str, Any]], temperature: float, seed: int, kept: Path) -> list[Row]:
    """One answer of a chat model to each prompt, at most 256 tokens."""
    tokenizer = load_tokenizer(model)
    rendered = [
        Prompt(
            prompt["id"],
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt["prompt"]}], add_generation_prompt=True, return_dict=False
            ),
        )
        for prompt in prompts
    ]
    stops = frozenset({tokenizer.eos_token_id})
    return _rows(model, tokenizer, stops, rendered, Sampling(256, temperature, seed, 100), kept)


def _rows(
    model: Path, tokenizer: Any, stops: frozenset[int], prompts: Sequence[Prompt], how: Sampling, kept: Path
) -> list[Row]:
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:8]
    folder = kept / f"{model.name}-{weights}-{len(prompts)}-{how.temperature}-{how.seed}"
    found = sample(load_model(model), tokenizer, stops, prompts, how, folder, lambda rows, tokens: None)
    return [{"id": key, "text": done.text.strip(), "stopped": done.stopped} for key, done in sorted(found.items())]
