"""What a set of preferences comes to: how many rows, how far the sides are apart, and whether length gives them away.

A model trained on pairs whose better side is nearly always the longer one learns length. So a set that is too small or
too one-sided is refused, with its numbers.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from posttrain.chain.stage import Metrics
from posttrain.errors import PosttrainError
from posttrain.rows import Row
from posttrain.stages.judging import figures_of
from posttrain.stages.leaks import REMOVED
from posttrain.stages.pair_rows import Made

if TYPE_CHECKING:
    from posttrain.stages.pairs import PairsConfig

GROUPS = 2_000  # prompts are bootstrapped in at most so many groups: as good an interval, and bounded memory


def check_size(config: "PairsConfig", made: Made, used: int) -> None:
    """Refuse a set that is too small; `used` rows of it would be trained on."""
    if used >= config.min_rows:
        return
    raise PosttrainError(
        f"pairs: {used:,} rows are left to train on, beside {len(made.rows) - used:,} held out, of {made.asked:,} "
        f"{made.unit} ({dropped(made)}); at least {config.min_rows:,} are needed (min_rows). {_more(config)}"
    )


def _more(config: "PairsConfig") -> str:
    if config.source is not None:
        return "Give more preferences, or lower min_rows or test_size."
    return "Ask more prompts (rows), each more often (samples), lower margin, or lower min_rows or test_size."


def dropped(made: Made) -> str:
    """`60 ties, 20 near-duplicates`."""
    found = [f"{count:,} {name}" for name, count in made.counts.items() if count and name != REMOVED]
    return ", ".join(found) or "nothing dropped"


def check_sides(config: "PairsConfig", made: Made) -> None:
    """Refuse a set in which length tells the sides apart, or nearly all labels are the same."""
    most = config.max_one_sided
    share = _one_side(config, made.rows)
    if 1 - most <= share <= most:
        return
    allowed = f"{1 - most:.0%} to {most:.0%} is allowed (max_one_sided)"
    if config.format == "unpaired":
        raise PosttrainError(
            f"pairs: {share:.0%} of {len(made.rows):,} answers are desirable; {allowed}, as one side alone teaches "
            "nothing. Set a threshold between the scores, or leave it out for their median."
        )
    raise PosttrainError(
        f"pairs: in {share:.0%} of {len(made.rows):,} pairs the chosen answer is the longer one; {allowed}, as a model "
        "would learn length from them. Match the lengths (match_lengths: true), or set max_one_sided to 1 where that "
        "is meant."
    )


def _one_side(config: "PairsConfig", rows: Sequence[Row]) -> float:
    if config.format == "unpaired":
        return sum(row["label"] is True for row in rows) / len(rows)
    return chosen_longer(rows)


def chosen_longer(rows: Sequence[Row]) -> float:
    """The share of pairs whose chosen side has more characters; equal lengths count half."""
    gaps = _gaps(rows, len)
    return sum((gap > 0) + (gap == 0) / 2 for gap in gaps) / len(rows)


def _gaps(rows: Sequence[Row], measure: Callable[[str], int]) -> list[int]:
    """Chosen less rejected, of every pair."""
    return [measure(_text(row, "chosen")) - measure(_text(row, "rejected")) for row in rows]


def _text(row: Row, side: str) -> str:
    return str(row[side][-1]["content"])


def _words(text: str) -> int:
    return len(text.split())


def pair_metrics(config: "PairsConfig", made: Made, held_out: int) -> Metrics:
    """Counts, mean scores with their intervals over prompts, and the balance of lengths or of labels."""
    figures, words = (_of_pairs if config.format == "paired" else _of_labels)(made)
    what = "pairs" if config.format == "paired" else "labelled answers"
    margin = f", margin >= {made.metrics['margin']:g}" if made.metrics.get("margin") else ""
    return {
        "summary": (
            f"{len(made.rows):,} {what} of {made.asked:,} {made.unit}{margin}, {held_out:,} held out; "
            f"dropped: {dropped(made)}; {words}"
        ),
        "rows": len(made.rows) - held_out,
        "rows_held_out": held_out,
        "unit": made.unit,
        "counts": made.counts,
        **figures,
        **made.metrics,
    }


def _of_pairs(made: Made) -> tuple[Metrics, str]:
    rows, prompts = made.rows, made.prompts
    gap = _interval(_gaps(rows, _words), prompts)
    longer = gap["score"] or 0.0
    figures = {
        "score_chosen": _interval([row["score_chosen"] for row in rows], prompts),
        "score_rejected": _interval([row["score_rejected"] for row in rows], prompts),
        "length_words": gap,
        "length_characters": _interval(_gaps(rows, len), prompts),
        "chosen_longer": round(chosen_longer(rows), 4),
    }
    return figures, f"chosen {abs(longer):.1f} words {'longer' if longer >= 0 else 'shorter'}"


def _of_labels(made: Made) -> tuple[Metrics, str]:
    found: Metrics = {"desirable": round(sum(row["label"] for row in made.rows) / len(made.rows), 4)}
    for label, name in ((True, "desirable"), (False, "undesirable")):
        rows = [(row, key) for row, key in zip(made.rows, made.prompts, strict=True) if row["label"] is label]
        keys = [key for _, key in rows]
        found[f"score_{name}"] = _interval([row["score"] for row, _ in rows], keys)
        found[f"words_{name}"] = _interval([_words(_text(row, "completion")) for row, _ in rows], keys)
    return found, f"{found['desirable']:.0%} desirable"


def _interval(values: Sequence[float | None], prompts: Sequence[str]) -> dict[str, float | None]:
    """The mean with its interval over prompts; all None where a value is missing, or with fewer than two prompts."""
    from eval.statistics import cluster_bootstrap

    known = [value for value in values if value is not None]
    number = {prompt: str(at % GROUPS) for at, prompt in enumerate(dict.fromkeys(prompts))}
    if len(known) < len(values) or len(number) < 2:
        return figures_of(None)
    return figures_of(cluster_bootstrap(known, [number[prompt] for prompt in prompts]))
