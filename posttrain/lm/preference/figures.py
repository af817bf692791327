"""What a step of preference training shows: log-probs a token, implicit rewards, and whether length is what is learnt.

The implicit reward of an answer is beta (log p - log p_start), with the log-probs summed over its tokens
(Rafailov et al. 2023, DPO, arXiv 2305.18290). A step is made of several batches, so sums are kept until it ends.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from torch import Tensor

from posttrain.lm.preference.pairs import TokenAnswer, TokenPair

SUMS = (
    *(f"{side}_{what}" for side in ("chosen", "rejected") for what in ("rows", "tokens", "logps", "gain")),
    *("right", "judged", "longer_gain", "uneven"),
)


class AlignPoint(NamedTuple):
    """One optimizer step. None: the step held no such answer, or (the last) no pair of unequal lengths."""

    step: int
    loss: float
    rewards_margin: float | None  # mean reward of the chosen answers less that of the rejected ones
    rewards_accuracy: float  # share of pairs whose chosen answer has the greater reward
    chosen_logp: float | None  # nats a token
    rejected_logp: float | None
    chosen_drop: float | None  # nats a token that the chosen answers of this step have lost since the start
    longer_margin: float | None  # mean reward of the longer answer less that of the shorter one


class Lengths(NamedTuple):
    """Tokens of the answers, which a preference may be about without anybody having meant it."""

    chosen: float | None
    rejected: float | None
    chosen_longer: float | None  # share of pairs; of single answers None


def lengths(rows: Sequence[TokenPair] | Sequence[TokenAnswer]) -> Lengths:
    """Mean lengths; a good answer counts as chosen."""
    pairs = [row for row in rows if isinstance(row, TokenPair)]
    chosen = [len(pair.chosen) for pair in pairs]
    rejected = [len(pair.rejected) for pair in pairs]
    for row in rows:
        if isinstance(row, TokenAnswer):
            (chosen if row.label else rejected).append(len(row.completion))
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs) if pairs else None
    return Lengths(mean(chosen) if chosen else None, mean(rejected) if rejected else None, longer)


def pair_sums(logps: Tensor, start: Tensor, lengths: Tensor) -> dict[str, float]:
    """Sums over a batch of pairs; all three [2 x pairs], the chosen answers first. Log-probs are sums over tokens."""
    gain = logps - start
    (chosen, rejected), (long, short) = gain.chunk(2), lengths.chunk(2)
    margin, longer = chosen - rejected, (long - short).sign()
    sums = _sides(logps, gain, lengths, len(margin))
    sums["right"] = float((margin > 0).sum())
    sums["judged"] = float(len(margin))
    sums["longer_gain"] = float((margin * longer).sum())
    sums["uneven"] = float(longer.abs().sum())
    return sums


def answer_sums(logps: Tensor, start: Tensor, lengths: Tensor, labels: Tensor) -> dict[str, float]:
    """Sums over a batch of single answers; an answer is right where its reward has the sign of its label."""
    order = labels.long().argsort(descending=True)
    gain = logps - start
    sums = _sides(logps[order], gain[order], lengths[order], int(labels.sum()))
    sums["right"] = float(((gain > 0) == labels.bool()).logical_and(gain != 0).sum())
    sums["judged"] = float(len(labels))
    return sums


def _sides(logps: Tensor, gain: Tensor, lengths: Tensor, chosen: int) -> dict[str, float]:
    sums = {}
    for side, rows in (("chosen", slice(None, chosen)), ("rejected", slice(chosen, None))):
        sums[f"{side}_rows"] = float(len(logps[rows]))
        sums[f"{side}_tokens"] = float(lengths[rows].sum())
        sums[f"{side}_logps"] = float(logps[rows].double().sum())
        sums[f"{side}_gain"] = float(gain[rows].double().sum())
    return sums


def step_figures(sums: Mapping[str, float], beta: float) -> dict[str, Any]:
    """The figures of an `AlignPoint`, but step and loss."""

    def share(what: str, of: str) -> float | None:
        return sums[what] / sums[of] if sums[of] else None

    gains = share("chosen_gain", "chosen_rows"), share("rejected_gain", "rejected_rows")
    drop, longer = share("chosen_gain", "chosen_tokens"), share("longer_gain", "uneven")
    return {
        "rewards_margin": None if gains[0] is None or gains[1] is None else beta * (gains[0] - gains[1]),
        "rewards_accuracy": share("right", "judged"),
        "chosen_logp": share("chosen_logps", "chosen_tokens"),
        "rejected_logp": share("rejected_logps", "rejected_tokens"),
        "chosen_drop": None if drop is None else -drop,
        "longer_margin": None if longer is None else beta * longer,
    }


def curve(history: Sequence[Mapping[str, Any]]) -> list[AlignPoint]:
    """The steps in a trainer's log."""
    return [AlignPoint(**{name: entry[name] for name in AlignPoint._fields}) for entry in history if "loss" in entry]
