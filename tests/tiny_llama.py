"""A random tiny Llama, rows for it, and one call that trains it: what the tests of training share."""

import hashlib
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from posttrain.lm.sft import SFTSettings, TrainResult, add_lora, train
from posttrain.lm.token_row import TokenRow

VOCABULARY, STOP = 64, 2
STEADY = SFTSettings(learning_rate=1e-2, batch_size=4, bf16=False, save_every_steps=3, epochs=2)


def llama(tied: bool = True) -> Any:
    set_seed(0)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return LlamaForCausalLM(
        LlamaConfig(**shape, num_key_value_heads=2, vocab_size=VOCABULARY, tie_word_embeddings=tied, eos_token_id=STOP)
    )


def with_lora(tied: bool = True, **kwargs: Any) -> Any:
    return add_lora(llama(tied), **{"r": 4, "lora_alpha": 8, "train_token_ids": [1, STOP], **kwargs})


def some_rows(count: int = 20, seed: int = 0) -> list[TokenRow]:
    rng, rows = random.Random(seed), []
    for i in range(count):
        ids = [rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(5, 30))]
        rows.append(TokenRow(f"{i:06d}", [*ids, STOP], [j >= len(ids) // 3 for j in range(len(ids) + 1)]))
    return rows


ROWS = some_rows()


def fit(model: Any, path: Path, settings: SFTSettings = STEADY, rows: list[TokenRow] = ROWS) -> TrainResult:
    return train(model, rows, settings=settings, checkpoint_dir=path, on_step=lambda step, steps, logs: None)


def logits(model: Any) -> Tensor:
    model.eval()
    with torch.no_grad():
        result: Tensor = model(input_ids=torch.arange(3, 23)[None]).logits
    return result


def weights_hash(model: Any, path: Path) -> str:
    model.save_pretrained(path)
    return hashlib.sha256(next(path.glob("*.safetensors")).read_bytes()).hexdigest()
