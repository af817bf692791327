"""What a model prefers on held-out pairs: log-probs of both answers, and implicit rewards against another model.

Pair by pair, so that the caller can put an interval round a mean. The reference is scored by the same function before
training, and costs no second model in memory.
"""

from collections.abc import Callable, Sequence
from statistics import correlation, mean
from typing import Any, NamedTuple

from posttrain.lm.preference.pairs import TokenPair


class PairLogps(NamedTuple):
    """Summed log-probs of a pair's answers, in nats, and how many tokens each sum is over."""

    id: str
    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int


class PairReward(NamedTuple):
    """Implicit rewards beta (log p - log p_ref) of a pair's answers (arXiv 2305.18290)."""

    id: str
    chosen: float
    rejected: float
    longer_by: int  # tokens that the chosen answer has more

    @property
    def margin(self) -> float:
        """By how much the chosen answer is preferred."""
        return self.chosen - self.rejected

    @property
    def right(self) -> float:
        """1 where the chosen answer has the greater reward, 0.5 where both have the same."""
        return 0.5 if self.margin == 0 else float(self.margin > 0)


class HeldOut(NamedTuple):
    """Means over held-out pairs."""

    pairs: int
    accuracy: float  # of the implicit rewards
    margin: float
    likelier: float  # share of pairs whose chosen answer has the greater log-prob a token, without a reference
    chosen_logp: float  # nats a token
    rejected_logp: float
    chosen_drop: float  # nats a token below the reference
    rejected_drop: float
    chosen_tokens: float
    rejected_tokens: float
    margin_and_length: float | None  # correlation of the margin with `longer_by`; None where one of them is constant


def sequence_logps(
    model: Any,
    sequences: Sequence[tuple[list[int], list[int]]],
    batch_size: int = 16,
    report: Callable[[int], None] | None = None,
) -> list[float]:
    """Summed log-prob of each answer after its prompt, in nats, in the model's own precision and the order given.

    `report` is told how many are done.
    """
    import torch

    order = sorted(range(len(sequences)), key=lambda at: len(sequences[at][0]) + len(sequences[at][1]))
    result = [0.0] * len(sequences)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            block = order[start : start + batch_size]
            width = max(len(sequences[at][0]) + len(sequences[at][1]) for at in block)
            ids = torch.zeros(len(block), width, dtype=torch.long)
            wanted = torch.zeros(len(block), width, dtype=torch.bool)
            for i, at in enumerate(block):
                prompt, answer = sequences[at]
                ids[i, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
                wanted[i, len(prompt) : len(prompt) + len(answer)] = True
            ids, wanted = ids.to(model.device), wanted.to(model.device)
            # Right padding needs no mask: a causal model never looks at what follows.
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            for at, found in zip(block, (-losses * wanted[:, 1:]).sum(1).tolist(), strict=True):
                result[at] = found
            if report is not None:
                report(start + len(block))
    return result


def pair_logps(
    model: Any, pairs: Sequence[TokenPair], batch_size: int = 16, report: Callable[[int], None] | None = None
) -> list[PairLogps]:
    """Log-probs of both answers of each pair; `report` is told how many answers are done."""
    sequences = [(pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    found = sequence_logps(model, sequences, batch_size, report)
    return [
        PairLogps(pair.id, chosen, rejected, len(pair.chosen), len(pair.rejected))
        for pair, chosen, rejected in zip(pairs, found[::2], found[1::2], strict=True)
    ]


def implicit_rewards(policy: Sequence[PairLogps], reference: Sequence[PairLogps], beta: float) -> list[PairReward]:
    """Rewards pair by pair; both lists are of the same pairs in the same order."""
    return [
        PairReward(
            new.id,
            beta * (new.chosen - old.chosen),
            beta * (new.rejected - old.rejected),
            new.chosen_tokens - new.rejected_tokens,
        )
        for new, old in zip(policy, reference, strict=True)
    ]


def held_out(policy: Sequence[PairLogps], reference: Sequence[PairLogps], beta: float) -> HeldOut:
    """The means; at least one pair is needed."""
    rewards = implicit_rewards(policy, reference, beta)
    chosen_tokens, rejected_tokens = sum(p.chosen_tokens for p in policy), sum(p.rejected_tokens for p in policy)
    (chosen, rejected), (chosen_before, rejected_before) = (
        (sum(p.chosen for p in logps) / chosen_tokens, sum(p.rejected for p in logps) / rejected_tokens)
        for logps in (policy, reference)
    )
    likelier = [p.chosen / p.chosen_tokens > p.rejected / p.rejected_tokens for p in policy]
    return HeldOut(
        pairs=len(rewards),
        accuracy=mean(reward.right for reward in rewards),
        margin=mean(reward.margin for reward in rewards),
        likelier=sum(likelier) / len(likelier),
        chosen_logp=chosen,
        rejected_logp=rejected,
        chosen_drop=chosen_before - chosen,
        rejected_drop=rejected_before - rejected,
        chosen_tokens=chosen_tokens / len(policy),
        rejected_tokens=rejected_tokens / len(policy),
        margin_and_length=_correlation([r.margin for r in rewards], [r.longer_by for r in rewards]),
    )


def _correlation(margins: Sequence[float], lengths: Sequence[int]) -> float | None:
    if len(set(margins)) < 2 or len(set(lengths)) < 2:
        return None
    return correlation(margins, lengths)
