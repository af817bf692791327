"""A small Llama from scratch: packed uint16 tokens, bf16 autocast, checkpoints that resume to the same bytes.

The batch of step s is a function of (seed, s) and there is no dropout, so a checkpoint holds weights and
optimizer moments only, as safetensors.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field

from posttrain.chain.stage import Config, Tick

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


class Architecture(Config):
    """A Llama's shape, in the words of transformers' LlamaConfig."""

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 384
    max_position_embeddings: int = 512


class Pretraining(Config):
    """How a model is trained from scratch."""

    steps: int = Field(2000, ge=1)
    batch_size: int = Field(16, ge=1, description="sequences a step")
    sequence_length: int = Field(256, ge=8, description="tokens")
    learning_rate: float = Field(3e-3, gt=0)
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    checkpoint_every: int = Field(200, ge=1)


class Corpus(NamedTuple):
    """Packed ids of documents, `<|end|>` after each, and where each document starts."""

    ids: "NDArray[np.uint16]"
    starts: "NDArray[np.int64]"


def pack(tokenizer: "Tokenizer", texts: Iterable[str], end_id: int) -> Corpus:
    """Concatenate documents to one uint16 array, the end token after each."""
    parts: list[list[int]] = []
    for encoded in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        parts.append([*encoded.ids, end_id])
    flat = np.fromiter((token for part in parts for token in part), dtype=np.uint16)
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return Corpus(flat, np.concatenate([[0], ends[:-1]]).astype(np.int64))


def new_model(shape: Architecture, vocab_size: int, eos_id: int, pad_id: int, seed: int) -> "PreTrainedModel":
    """A randomly initialised Llama with tied embeddings.

    Weights start at 1/sqrt(hidden_size): at transformers' 0.02, meant for wide models, attention of a narrow one
    is uniform at first and copying from the context comes late.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **shape.model_dump(),
        vocab_size=vocab_size,
        initializer_range=shape.hidden_size**-0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
    )
    model: PreTrainedModel = LlamaForCausalLM(config)
    return model


def batch_at(corpus: Corpus, settings: Pretraining, seed: int, step: int) -> "torch.Tensor":
    """int64 token ids, shape (batch_size, sequence_length + 1), a pure function of (seed, step).

    A window begins with its document where that is near: a story cut off from its tags teaches nothing of them.
    """
    import torch

    length = settings.sequence_length
    at = np.random.default_rng([seed, step]).integers(0, len(corpus.ids) - length - 1, size=settings.batch_size)
    begins = corpus.starts[np.searchsorted(corpus.starts, at, side="right") - 1]
    at = np.where(at - begins < length, begins, at)
    rows = np.stack([corpus.ids[start : start + length + 1] for start in at])
    return torch.from_numpy(rows.astype(np.int64))


def rate_at(settings: Pretraining, step: int) -> float:
    """Linear warm-up, then cosine down to a tenth."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


def pretrain(
    model: "PreTrainedModel", corpus: Corpus, settings: Pretraining, seed: int, work: Path, tick: Tick
) -> list[tuple[int, float]]:
    """Train in place, continuing from the newest checkpoint in `work`. Returns (step, loss in nats a token)."""
    import torch

    from posttrain.lm.checkpoint import load_checkpoint, save_checkpoint
    from posttrain.lm.device import autocast

    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)
    start, curve = load_checkpoint(work, model, optimizer)
    model.train()
    for step in range(start, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(settings, step)
        batch = batch_at(corpus, settings, seed, step).to(model.device)
        with autocast(model.device.type):
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % 50 == 0 or done == settings.steps:
            curve.append((done, round(float(loss.detach()), 4)))
        tick(done, f"loss {curve[-1][1]:.2f}" if curve else "")
        if done % settings.checkpoint_every == 0 and done < settings.steps:
            save_checkpoint(work, model, optimizer, done, curve)
    return curve


def nll(model: "PreTrainedModel", ids: "NDArray[np.uint16]", length: int, most: int = 64) -> float:
    """Mean nats a token over up to `most` consecutive windows of `length`, in fp32."""
    import torch

    model.eval()
    losses = []
    with torch.no_grad():
        for start in range(0, min(len(ids) - length - 1, most * length), length):
            window = torch.from_numpy(ids[start : start + length + 1].astype(np.int64))[None].to(model.device)
            logits = model(input_ids=window[:, :-1], use_cache=False).logits.float()
            losses.append(float(torch.nn.functional.cross_entropy(logits[0], window[0, 1:])))
    return round(float(np.mean(losses)), 4) if losses else float("nan")
