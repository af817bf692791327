"""What the likelihood of held-out answers says: figures that come from the models, as numbers, and are compared here.

Two figures of each reference answer: its nats a token under its own prompt, and how much more it costs under another
prompt. The first says whether the model still knows the language of the task. The second says whether it reads what it
is asked: a step that is trained on answers shuffled among their prompts predicts stories better than before, with
a judge that may well prefer them, and the tie between prompt and answer is gone. Comparisons are paired by prompt and
made on equal tokens only; where the tokenizers of two steps differ there is none, and that is said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.finding import Finding
from eval.statistics import Interval, cluster_bootstrap

Row = Mapping[str, Any]  # {id, tokens, key, nats, nats_other}; key: a digest of the token ids; nats_other may be None

NLL_RISE = 0.2  # nats a token: perplexity a fifth higher; less is what a change of style costs
KEPT = 0.5  # of what the own prompt was worth before the step: half of it is lost by no change of style
ANSWERS, PROMPTS = "held-out answers", "own prompts"


def loss_checks(after: Sequence[Row], before: Sequence[Row] | None) -> list[Finding]:
    """The held-out answers of a model beside those of the model before, which is None for the first model."""
    if not after:
        return [_untold(ANSWERS, "no held-out answers: the prompts have no references"), _untold(PROMPTS)]
    now = f"held-out answers {_mean([_nats(row) for row in after]):.2f} nats a token"
    if before is None:
        return _first(after, now)
    earlier = {(row["id"], row["key"]): row for row in before}
    pairs = [(row, earlier[row["id"], row["key"]]) for row in after if (row["id"], row["key"]) in earlier]
    if len(pairs) < 2:
        why = "the step before cuts them into other tokens" if before else "the step before was not measured"
        return [_untold(ANSWERS, f"{now}, not comparable: {why}"), _untold(PROMPTS)]
    return [_answers(pairs), _prompts(pairs)]


def _untold(name: str, note: str = "what own prompts are worth is not measured") -> Finding:
    return Finding(name, None, None, None, note)


def _first(after: Sequence[Row], now: str) -> list[Finding]:
    gains = [_gain(row) for row in after if row["nats_other"] is not None]
    nats = _mean([_nats(row) for row in after])
    worth = _mean(gains) if gains else None
    told = _untold(PROMPTS) if worth is None else _untold(PROMPTS, f"own prompts worth {worth:.3f} nats a token")
    return [_untold(ANSWERS, now)._replace(value=nats), told._replace(value=worth)]


def _nats(row: Row) -> float:
    return float(row["nats"] / row["tokens"])


def _gain(row: Row) -> float:
    """Nats a token that another prompt costs more than the own one."""
    return float((row["nats_other"] - row["nats"]) / row["tokens"])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _interval(values: Sequence[float], pairs: Sequence[tuple[Row, Row]]) -> Interval:
    return cluster_bootstrap(values, [row["id"] for row, _ in pairs])


def _answers(pairs: Sequence[tuple[Row, Row]]) -> Finding:
    now, was = _mean([_nats(row) for row, _ in pairs]), _mean([_nats(row) for _, row in pairs])
    change = _interval([_nats(row) - _nats(old) for row, old in pairs], pairs)
    by = f"{change.mean:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
    shown = f"held-out answers {was:.2f} → {now:.2f} nats a token, {by}"
    return Finding(ANSWERS, now, was + NLL_RISE, change.low <= NLL_RISE, shown)


def _prompts(pairs: Sequence[tuple[Row, Row]]) -> Finding:
    """Fails when the own prompt was clearly worth something and clearly less than half of it is left."""
    both = [(row, old) for row, old in pairs if row["nats_other"] is not None and old["nats_other"] is not None]
    if len(both) < 2:
        return _untold(PROMPTS)
    now, was = _mean([_gain(row) for row, _ in both]), _interval([_gain(old) for _, old in both], both)
    shown = f"own prompts worth {now:.3f} nats a token (was {was.mean:.3f})"
    if was.low <= 0:
        return Finding(PROMPTS, now, None, None, f"{shown}, which was not told from nothing")
    left = _interval([_gain(row) - KEPT * _gain(old) for row, old in both], both)
    return Finding(PROMPTS, now, KEPT * was.mean, left.high >= 0, shown)
