"""A small Llama from scratch: packed uint16 tokens, bf16 autocast, checkpoints that resume to the same bytes.

The batch of step s is a function of (seed, s) and there is no dropout, so a checkpoint holds weights and
optimizer moments only, as safetensors.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from posttrain.chain.stage import Config, Tick

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


PACKED_AT_ONCE = 2_000  # documents


class Architecture(Config):
    """A Llama's shape, in the words of transformers' LlamaConfig."""

    hidden_size: int = Field(128, ge=2)
    num_hidden_layers: int = Field(4, ge=1)
    num_attention_heads: int = Field(4, ge=1)
    intermediate_size: int = Field(384, ge=1)
    max_position_embeddings: int = Field(512, ge=8)

    @model_validator(mode="after")
    def _heads_fit(self) -> "Architecture":
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice num_attention_heads "
                f"{self.num_attention_heads}: every head has the same, even size"
            )
        return self


class Pretraining(Config):
    """How a model is trained from scratch."""

    steps: int = Field(2000, ge=1)
    batch_size: int = Field(16, ge=1, description="sequences a step")
    sequence_length: int = Field(256, ge=8, description="tokens")
    learning_rate: float = Field(0.02, gt=0, description="of the matrices, which Muon trains")
    embedding_learning_rate: float = Field(5e-3, gt=0, description="of embeddings and norms, which AdamW trains")
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    checkpoint_every: int = Field(200, ge=1)


class Corpus(NamedTuple):
    """Packed ids of documents, `<|end|>` after each, and where each document starts."""

    ids: "NDArray[np.uint16]"
    starts: "NDArray[np.int64]"


def pack(tokenizer: "Tokenizer", texts: list[str], end_id: int, tick: Tick | None = None) -> Corpus:
    """Concatenate documents to one uint16 array, the end token after each."""
    parts: list[NDArray[np.uint16]] = []
    for start in range(0, len(texts), PACKED_AT_ONCE):  # an Encoding takes a hundred times the memory of its ids
        for encoded in tokenizer.encode_batch(texts[start : start + PACKED_AT_ONCE], add_special_tokens=False):
            parts.append(np.array([*encoded.ids, end_id], dtype=np.uint16))
        if tick is not None:
            tick(len(parts))
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return Corpus(np.concatenate(parts), np.concatenate([[0], ends[:-1]]).astype(np.int64))


def new_model(shape: Architecture, vocab_size: int, eos_id: int, pad_id: int, seed: int) -> "PreTrainedModel":
    """A randomly initialised Llama with tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from posttrain.lm.quiet import quiet_libraries

    quiet_libraries()
    torch.manual_seed(seed)
    config = LlamaConfig(
        **shape.model_dump(),
        vocab_size=vocab_size,
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
    """Share of the learning rate at a step: linear warm-up, then cosine down to a tenth."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * share))


def optimizers(model: "PreTrainedModel", settings: Pretraining) -> list["torch.optim.Optimizer"]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms (Jordan et al. 2024)."""
    import torch

    embedding = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.dim() == 2 and p is not embedding]
    others = [p for p in model.parameters() if p.dim() != 2 or p is embedding]
    return [
        torch.optim.Muon(matrices, lr=settings.learning_rate, weight_decay=settings.weight_decay),
        torch.optim.AdamW(others, lr=settings.embedding_learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def pretrain(
    model: "PreTrainedModel", corpus: Corpus, settings: Pretraining, seed: int, work: Path, tick: Tick
) -> list[tuple[int, float]]:
    """Train in place, continuing from the newest checkpoint in `work`. Returns (step, loss in nats a token)."""
    import torch

    from posttrain.lm.causal_blocks import causal_blocks
    from posttrain.lm.checkpoint import load_checkpoint, save_checkpoint
    from posttrain.lm.device import autocast, has_fast_bf16
    from posttrain.lm.losses import dense_cross_entropy

    kind = model.device.type
    trained = optimizers(model, settings)
    start, curve = load_checkpoint(work, model, trained)
    rates = [(group, group["lr"]) for optimizer in trained for group in optimizer.param_groups]
    model.train()
    with causal_blocks(model, active=kind == "cpu" and has_fast_bf16(kind)):
        for step in range(start, settings.steps):
            for group, rate in rates:
                group["lr"] = rate * rate_at(settings, step)
            batch = batch_at(corpus, settings, seed, step).to(model.device)
            with autocast(kind):
                loss = dense_cross_entropy(model, batch[:, :-1], batch[:, 1:])
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            for optimizer in trained:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done = step + 1
            if done % 50 == 0 or done == settings.steps:
                curve.append((done, round(float(loss.detach()), 4)))
            tick(done, f"loss {curve[-1][1]:.2f}" if curve else "")
            if done % settings.checkpoint_every == 0 and done < settings.steps:
                save_checkpoint(work, model, trained, done, curve)
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
