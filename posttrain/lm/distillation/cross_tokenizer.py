"""Universal logit distillation: a teacher with another tokenizer teaches where both have read the same characters.

Each side renders the same conversation with its own template and tokens. Where an answer's first c characters end a
token on both sides, both models predict what follows the same text, and the two distributions are compared. Their
vocabularies have nothing in common, so what is compared is how they are spread: probabilities sorted, the smaller
vocabulary filled up with zeros (Boizard et al. 2024, arXiv 2402.12030).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from posttrain.errors import PosttrainError
from posttrain.lm.chat import ChatFormat, Message, content_encoder
from posttrain.lm.losses import Scored
from posttrain.lm.token_row import TokenRow

NOWHERE = -1


class SpelledRow(NamedTuple):
    """A training row, and how many characters of its answers stand before each token.

    `NOWHERE` at tokens that are not supervised, that begin inside a character, or that the template wrote, save
    the one after an answer. Answers count on: one character lies between the end of one and the start of the next.
    """

    row: TokenRow
    messages: tuple[tuple[str, str], ...]  # role and content
    spelled: list[int]


class AlignedRow(NamedTuple):
    """One conversation in the tokens of both, and the tokens (their indices, rising) that are predicted alike."""

    id: str
    student_ids: list[int]
    teacher_ids: list[int]
    student_tokens: list[int]
    teacher_tokens: list[int]
    supervised: int  # tokens of the student's row; len(student_tokens) of them are aligned


class AlignedBatch(NamedTuple):
    """Right-padded ids [rows, length] of each side, and bool [rows, length - 1]: where an aligned token comes next.

    Both masks mark as many positions in every row, so the marked positions of both sides pair up in order.
    """

    student_ids: Tensor
    student_positions: Tensor
    teacher_ids: Tensor
    teacher_positions: Tensor


class RealIds(NamedTuple):
    """Each tokenizer's highest id + 1; rows of an output head from there on are padding and are not compared."""

    student: int
    teacher: int


def spell(chat: ChatFormat, conversations: Mapping[str, Sequence[Message]]) -> list[SpelledRow]:
    """Each conversation (by its row's id) in one model's tokens, with the characters before each token."""
    encoder = content_encoder(chat.tokenizer.backend_tokenizer)
    return [_spelled(chat, encoder, name, messages) for name, messages in conversations.items()]


def prefix_lengths(offsets: Sequence[tuple[int, int]], size: int) -> list[int]:
    """Characters before each token of a text of `size` characters, and after the last one; from tokenizers' offsets.

    Tokens that share a character, as the byte pieces of one do, have `NOWHERE` from the second on.
    """
    found, read = [], 0
    for start, end in offsets:
        found.append(read if start >= read else NOWHERE)
        read = max(read, end)
    return [*found, size]


def align(student: SpelledRow, teacher: SpelledRow) -> AlignedRow:
    """The tokens before which both have read the same characters of the same answers. Other texts are an error."""
    if student.messages != teacher.messages:
        raise PosttrainError(
            f"row {student.row.id}: the student has {_shown(student)}, the teacher's row {teacher.row.id} has "
            f"{_shown(teacher)}; the same conversation is needed. Render both from the same data."
        )
    ours, theirs = _tokens_by_prefix(student), _tokens_by_prefix(teacher)
    shared = sorted(ours.keys() & theirs.keys())
    return AlignedRow(
        student.row.id,
        student.row.input_ids,
        teacher.row.input_ids,
        [ours[length] for length in shared],
        [theirs[length] for length in shared],
        sum(student.row.supervised[1:]),
    )


def aligned_share(rows: Sequence[AlignedRow]) -> float:
    """Share of the student's supervised tokens that the teacher helps to predict."""
    return sum(len(row.student_tokens) for row in rows) / sum(row.supervised for row in rows)


def collate(rows: Sequence[AlignedRow]) -> AlignedBatch:
    """A batch of rows. No mask: causal rows never see the padding on their right."""
    student, teacher = (
        pad_sequence([torch.tensor(ids) for ids in side], batch_first=True)
        for side in ([row.student_ids for row in rows], [row.teacher_ids for row in rows])
    )
    return AlignedBatch(
        student,
        _marked(student, [row.student_tokens for row in rows]),
        teacher,
        _marked(teacher, [row.teacher_tokens for row in rows]),
    )


def sorted_distance(*, teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Scored:
    """Sum over positions of Σ_k |p(k) - q(k)|, k-th largest against k-th largest, and its slope for the student.

    p = softmax(teacher / T), q = softmax(student / T), each [positions, its own vocabulary]. With r the rank of token
    i and s_i = sign(q_i - p(r)), the derivative is q_i (s_i - Σ_j q_j s_j) / T. There is no factor T².
    Source: Boizard et al. 2024: the Wasserstein distance in closed form, every move at one cost.
    """
    q, p = (
        torch.softmax(logits.detach() / temperature, -1, _precise(logits))
        for logits in (student_logits, teacher_logits)
    )
    ranked, order = q.sort(descending=True)
    expected = p.sort(descending=True).values
    missing = ranked.shape[1] - expected.shape[1]
    gap = nn.functional.pad(ranked, (0, max(-missing, 0))) - nn.functional.pad(expected, (0, max(missing, 0)))
    sign = torch.zeros_like(q).scatter_(1, order, gap[:, : q.shape[1]].sign())
    slope = q * (sign - (q * sign).sum(-1, keepdim=True)) / temperature
    return Scored(gap.abs().sum(), slope)


def _precise(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _spelled(chat: ChatFormat, encoder: Tokenizer, name: str, messages: Sequence[Message]) -> SpelledRow:
    row = chat.row(name, messages)
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    runs = _runs(row.supervised)
    if len(runs) != len(answers):
        raise _unspelled(chat, name, f"{len(runs)} supervised stretches for {len(answers)} answers")
    spelled, read = [NOWHERE] * len(row.input_ids), 0
    for (start, stop), answer in zip(runs, answers, strict=True):
        encoded = encoder.encode(answer, add_special_tokens=False)
        ids = row.input_ids[start:stop]
        at = next((i for i in range(len(ids)) if ids[i : i + len(encoded.ids)] == encoded.ids), None)
        if at is None:
            raise _unspelled(chat, name, f"a supervised stretch without the tokens of its answer {answer[:40]!r}")
        lengths = prefix_lengths(encoded.offsets, len(answer))[: len(ids) - at]
        for i, length in enumerate(lengths, start + at):
            spelled[i] = NOWHERE if length == NOWHERE else read + length
        read += len(answer) + 1
    return SpelledRow(row, tuple((message["role"], message["content"]) for message in messages), spelled)


def _unspelled(chat: ChatFormat, name: str, found: str) -> PosttrainError:
    return PosttrainError(
        f"row {name}: {chat.where} renders {found}; each answer whole, between template text, is needed. Correct its "
        "chat template, or drop the row."
    )


def _runs(supervised: Sequence[bool]) -> list[tuple[int, int]]:
    """Start and end of each stretch of supervised tokens."""
    edges = [i for i, (a, b) in enumerate(pairwise([False, *supervised, False])) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _tokens_by_prefix(row: SpelledRow) -> dict[int, int]:
    """Characters read -> the token that comes next (the last of several, where tokens spell nothing).

    Token 0 is left out: nothing predicts it.
    """
    return {length: i for i, length in enumerate(row.spelled) if length != NOWHERE and i > 0}


def _marked(ids: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    marked = torch.zeros_like(ids[:, 1:], dtype=torch.bool)
    for row, after in enumerate(tokens):
        marked[row, [token - 1 for token in after]] = True
    return marked


def _shown(row: SpelledRow) -> str:
    return repr([content for _, content in row.messages])[:80]
