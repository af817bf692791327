"""Is the data what it says it is: does every answer belong to its prompt, and has no evaluation prompt been trained on?

A shuffled column, an off-by-one, a wrong join: each text is fine, and a model learns from them that prompts do not
matter. So answers must use the words that their own prompts require more than they use those of other prompts. Where
rows name no required words nothing can be told, and that is said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.finding import Finding
from eval.statistics import cluster_bootstrap
from eval.words import share_used

Entry = Mapping[str, Any]  # {prompt, answer, words?}
ROWS = 400  # from all over the data; the interval of 400 rows is about ±0.03 wide, own and other differ by 0.9
FEWEST = 20  # rows with required words of which anything can be said


def own_words(rows: Sequence[Entry]) -> Finding:
    """Required words that answers use of their own prompt, beside those of the next row's: it must be more."""
    name = "answers fit prompts"
    asked = [row for row in rows if row.get("words")]
    chosen = asked[:: max(1, len(asked) // ROWS)][:ROWS]
    if len(chosen) < FEWEST:
        return Finding(name, None, None, None, f"{len(chosen)} training rows name words, {FEWEST} tell something")
    own, other = [], []
    for row, beside in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True):
        free = [word for word in beside["words"] if word not in row["words"]]
        if free:
            own.append(share_used(row["answer"], row["words"]))
            other.append(share_used(row["answer"], free))
    if len(own) < FEWEST:
        return Finding(name, None, None, None, "training rows all name the same words")
    change = cluster_bootstrap([a - b for a, b in zip(own, other, strict=True)], [str(at) for at in range(len(own))])
    shown = f"training answers use {_mean(own):.0%} of their prompts' words, {_mean(other):.0%} of other prompts'"
    return Finding(name, change.mean, 0.0, change.low > 0, shown)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def seen_prompts(prompts: Sequence[Entry], rows: Sequence[Entry]) -> Finding:
    """Evaluation prompts {prompt, reference?} whose request or reference is a training row's: there may be none."""
    requests = {_plain(row["prompt"]) for row in rows}
    answers = {_plain(row["answer"]) for row in rows}
    seen = sum(
        _plain(prompt["prompt"]) in requests or _plain(prompt.get("reference") or "") in answers for prompt in prompts
    )
    note = f"{seen} of {len(prompts)} evaluation prompts" if seen else "no evaluation prompt"
    share = seen / len(prompts) if prompts else 0.0
    return Finding("prompts seen in training", share, 0.0, not seen, f"{note} in the training rows")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
