"""On-policy distillation: the student answers the rows' prompts itself, and the teacher judges every token of it.

A student that learns from given answers alone never sees the texts that its own mistakes lead to. So for a share of
the batches the answers are sampled from the student as it is, and the divergence from the teacher is taken at the
sampled positions. Source: Agarwal et al. 2024 (GKD, arXiv 2306.13649), algorithm 1.

A sample is a pure function of the student's weights, the seed, the step and the rows; the global generator is left as
it was, so that a run that is continued from a checkpoint draws what an uninterrupted one draws.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from posttrain.lm.distillation.objectives import Logits
from posttrain.lm.distillation.training import Batch, Objective, Place
from posttrain.lm.losses import IGNORED
from posttrain.lm.token_row import TokenRow


@dataclass(frozen=True)
class OwnAnswers:
    """How the student answers. `share` of the batches are its own; rows with answers never exceed `max_length`."""

    share: float
    max_new_tokens: int
    temperature: float
    stop_ids: frozenset[int]
    max_length: int
    seed: int

    def is_own(self, batch: int) -> bool:
        """Whether this batch of the run, counted from 0, is the student's: spread evenly, exactly the share."""
        return math.floor((batch + 1) * self.share) > math.floor(batch * self.share)

    def seed_of(self, batch: int, rows: Sequence[int]) -> int:
        """63 bits."""
        key = f"{self.seed} {batch} {list(rows)}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


class OnPolicy(Objective):
    """The divergence from the teacher on the student's own answers, and `logits`' whole loss on the rows'.

    What the student wrote is no truth to be learnt: its own batches have no cross entropy.
    """

    def __init__(self, logits: Logits, rows: Sequence[TokenRow], answers: OwnAnswers) -> None:
        self.teacher, self.given, self.answers = logits.teacher, logits, answers
        self.own = Logits(logits.teacher, replace(logits.settings, alpha=0.0), logits.real_ids)
        self.prompts = [prompt_of(row) for row in rows]

    def prepared(self, student: Any, batches: Sequence[Batch], place: Place) -> list[Batch]:
        numbers = range(place.step * place.batches, place.step * place.batches + len(batches))
        return [
            self._sampled(student, batch, number) if self.answers.is_own(number) else batch
            for number, batch in zip(numbers, batches, strict=True)
        ]

    def loss(self, student: Any, batch: Batch, items: Tensor) -> Tensor:
        return (self.own if "sampled" in batch else self.given).loss(student, batch, items)

    def _sampled(self, student: Any, batch: Batch, number: int) -> Batch:
        """The batch with answers of the student's own; `sampled` counts their tokens, stop tokens too."""
        rows = batch["rows"].tolist()
        prompts = [self.prompts[row] for row in rows]
        answers = sample(student, prompts, self.answers, self.answers.seed_of(number, rows))
        whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        width = -(-max(map(len, whole)) // 16) * 16  # as in `collate`: few shapes
        ids = torch.zeros(len(whole), width, dtype=torch.long)
        labels = torch.full_like(ids, IGNORED)
        for at, (prompt, row) in enumerate(zip(prompts, whole, strict=True)):
            ids[at, : len(row)] = torch.tensor(row)
            labels[at, len(prompt) : len(row)] = torch.tensor(row[len(prompt) :])
        made = {
            "input_ids": ids,
            "labels": labels,
            "tokens": torch.tensor([len(row) for row in whole]),
            "sampled": torch.tensor([len(answer) for answer in answers]),
        }
        return {**batch, **{name: tensor.to(batch["labels"].device) for name, tensor in made.items()}}


def prompt_of(row: TokenRow) -> list[int]:
    """Everything before the row's last answer."""
    edges = [at for at, (before, on) in enumerate(pairwise([False, *row.supervised])) if on and not before]
    return row.input_ids[: edges[-1]]


def sample(student: Any, prompts: Sequence[Sequence[int]], how: OwnAnswers, seed: int) -> list[list[int]]:
    """An answer to each prompt, its stop token included where it has one; prompts are left-padded to one length."""
    width = max(map(len, prompts))
    pad, context = min(how.stop_ids), student.config.get_text_config().max_position_embeddings
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    training = student.training
    student.eval()
    with torch.random.fork_rng(devices=[student.device] if student.device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        made = student.generate(
            input_ids=ids.to(student.device),
            attention_mask=mask.to(student.device),
            max_new_tokens=min(how.max_new_tokens, how.max_length - min(map(len, prompts)), context - width),
            do_sample=True,
            temperature=how.temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=sorted(how.stop_ids),
            pad_token_id=pad,
        )
    student.train(training)
    return [
        _answer(tokens, how.stop_ids, how.max_length - len(prompt))
        for prompt, tokens in zip(prompts, made[:, width:].tolist(), strict=True)
    ]


def _answer(tokens: list[int], stop_ids: frozenset[int], most: int) -> list[int]:
    """Up to the first stop token, and no longer than `most`."""
    end = next((at + 1 for at, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[: min(end, most)]
