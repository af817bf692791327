"""What an exported file lost: its measurements beside those of the fp32 model, on the same answers, texts and prompts.

The damage that exports are known for (a wrong rope, a lost head, a missing template, a channel that swallows its
block's scale) shows in these figures; there is no special case for any of it.
"""

from collections.abc import Sequence
from math import exp, log
from typing import NamedTuple

from eval.statistics import Interval, cluster_bootstrap
from posttrain.errors import PosttrainError
from posttrain.exporting.measure import Measured, ScoredRow
from posttrain.exporting.runtime import Scored

CLEAR = 0.1  # nats by which the reference prefers its first token to its second: below it, a choice is nearly a toss
LEAST = 1e-7  # probabilities below it are rounding of float32 logits


class Ratios(NamedTuple):
    """The file's figure divided by the reference's."""

    size: float
    load: float
    peak_memory: float
    prefill: float  # tokens a second
    decode: float  # tokens a second


class Figures(NamedTuple):
    """How far a file is from its reference: means over answer tokens, intervals over rows, which are the clusters."""

    nll: float  # of the reference, nats a token
    d_nll: Interval  # nats a token that the file adds
    d_nll_share: float  # the same as a share of `nll`
    kl: Interval  # nats, KL(reference || file): see `divergence`
    top1: float  # share of tokens at which both find the same one likeliest
    top1_clear: float | None  # the same where the reference's choice is clear; None where it never is
    tokenizer: float  # share of texts and conversations with the same ids
    greedy: float  # share of prompts with the same completion, its end included
    ratios: Ratios


def compare(reference: Measured, file: Measured) -> Figures:
    """The figures of a file measured on the same corpus as its reference."""
    pairs = _pairs(reference, file)
    clusters = [row for row, _, _ in pairs]
    nll = -sum(ours.logprob for _, ours, _ in pairs) / len(pairs)
    d_nll = cluster_bootstrap([ours.logprob - theirs.logprob for _, ours, theirs in pairs], clusters)
    clear = [_same_first(ours, theirs) for _, ours, theirs in pairs if _lead(ours) >= CLEAR]
    return Figures(
        nll=nll,
        d_nll=d_nll,
        d_nll_share=d_nll.mean / nll,
        kl=cluster_bootstrap([divergence(ours, theirs) for _, ours, theirs in pairs], clusters),
        top1=_share([_same_first(ours, theirs) for _, ours, theirs in pairs], "tokens"),
        top1_clear=_share(clear, "tokens") if clear else None,
        tokenizer=_share(_same_ids(reference, file), "texts"),
        greedy=_share([a == b for a, b in zip(reference.greedy, file.greedy, strict=True)], "prompts"),
        ratios=Ratios(
            size=file.size_bytes / reference.size_bytes,
            load=file.load_seconds / reference.load_seconds,
            peak_memory=file.peak_mb / reference.peak_mb,
            prefill=file.prefill.tokens_per_second / reference.prefill.tokens_per_second,
            decode=file.decode.tokens_per_second / reference.decode.tokens_per_second,
        ),
    )


def tuned_kl(base: Measured, tuned: Measured) -> float:
    """Mean KL(tuned || base) over the answers, nats a token: how far tuning has moved the model, in the lists' tops.

    For the fp32 pair and for (base in fp32, exported file) it is the same number; an adapter that was lost on the way
    leaves nearly 0 of it.
    """
    pairs = _pairs(tuned, base)
    return sum(divergence(ours, theirs) for _, ours, theirs in pairs) / len(pairs)


def divergence(p: Scored, q: Scored) -> float:
    """KL(p || q) in nats from the lists: over the ids that both hold, those that only p lists, and all others.

    Merging outcomes can only lower a KL (data processing inequality, Cover & Thomas 2006, section 2.8), and an id that
    q does not list has at most the probability of q's last: so this is a lower bound, exact where the lists hold the
    whole vocabulary.
    """
    theirs = dict(q.top)
    common = [(logprob, theirs[token]) for token, logprob in p.top if token in theirs]
    alone = [exp(logprob) for token, logprob in p.top if token not in theirs]
    left_q = max(1 - sum(exp(logprob) for _, logprob in common), LEAST)
    rest = max(1 - sum(exp(logprob) for logprob, _ in common) - sum(alone), 0.0)
    left = sum(alone) + rest
    # Of q's remainder, the ids that p lists get what makes the KL least: p's own share, if they can have as much.
    most = max(min(len(alone) * exp(q.top[-1][1]), left_q * sum(alone) / max(left, LEAST)), LEAST) if alone else 0.0
    merged = [(sum(alone), most), (rest, max(left_q - most, LEAST))]
    return sum(exp(ours) * (ours - other) for ours, other in common) + sum(
        mine * log(mine / other) for mine, other in merged if mine > LEAST
    )


def _pairs(reference: Measured, file: Measured) -> list[tuple[str, Scored, Scored]]:
    """(row, token of the reference, token of the file), only of the same rows."""
    ours, theirs = _shape(reference.rows), _shape(file.rows)
    if ours != theirs or not ours:
        raise PosttrainError(
            f"measurements: {len(ours)} and {len(theirs)} scored rows that are not the same; the same corpus, with at "
            "least one row, is needed. Measure both files again."
        )
    return [
        (row.id, one, other)
        for row, same in zip(reference.rows, file.rows, strict=True)
        for one, other in zip(row.tokens, same.tokens, strict=True)
    ]


def _shape(rows: Sequence[ScoredRow]) -> list[tuple[str, int]]:
    return [(row.id, len(row.tokens)) for row in rows]


def _same_first(ours: Scored, theirs: Scored) -> bool:
    return ours.top[0][0] == theirs.top[0][0]


def _lead(scored: Scored) -> float:
    """Nats between the likeliest token and the next; a list of one has no next."""
    return scored.top[0][1] - scored.top[1][1] if len(scored.top) > 1 else 0.0


def _same_ids(reference: Measured, file: Measured) -> list[bool]:
    ours, theirs = [*reference.encoded, *reference.rendered], [*file.encoded, *file.rendered]
    return [one == other for one, other in zip(ours, theirs, strict=True)]


def _share(same: Sequence[bool], what: str) -> float:
    if not same:
        raise PosttrainError(f"measurements: no {what}; at least one is needed. Give the corpus some.")
    return sum(same) / len(same)
