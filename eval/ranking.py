"""Which judge can be trusted with what? Every judge against the same human labels, in one table.

On pairs the best is the one that agrees with people on most of all pairs, what it left unscored taken for wrong; on
scores the one with the highest rank correlation. "Longer wins" stands in the table as a judge of its own, and beside
each judge on the very rows that it scored: a judge that is not clearly above it has not shown that it reads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from eval.agreement import accuracy_over, agreement, human_agreement, vote_agreement
from eval.bias import bias, longest
from eval.labels import LabelError, Labels, PairLabel, ScoreLabel
from eval.recorded import PairVerdict, ScoreVerdict, Verdicts, pair_verdicts, score_verdicts
from eval.score_agreement import by_length, human_spearman, score_agreement
from eval.statistics import Interval

LONGEST = "longest"


class Spent(NamedTuple):
    """What a judge's verdicts took: wall-clock seconds, and US dollars where they have a price."""

    seconds: float | None = None
    usd: float | None = None


class PairRow(NamedTuple):
    """One judge on pairs. Shares from 0 to 1 (`position_bias`, `length_bias`, `over_longest` and kappa from -1); None:
    undefined or not measured. `no_winner` counts the pairs on which people have none, which no share counts.
    """

    judge: str
    asked: int
    scored: int
    no_winner: int
    unscored_share: float
    accuracy: Interval | None
    accuracy_at_worst: Interval | None
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None
    kappa: Interval | None
    longest_accuracy: float | None  # of "longer wins", on the pairs that this judge scored
    over_longest: Interval | None
    vote_agreement: Interval | None  # with one person's vote; beside it, of one person with another
    human_agreement: Interval | None
    human_kappa: Interval | None
    both_orders: int
    flip_rate: Interval | None
    position_bias: Interval | None
    longer_share: Interval | None
    human_longer_share: Interval | None
    length_bias: Interval | None
    length_correlation: float | None
    verdicts_per_second: float | None
    usd: float | None


class ScoreRow(NamedTuple):
    """One judge on single answers: correlations from -1 to 1, `error` and `bias` in points of the scale."""

    judge: str
    asked: int
    scored: int
    unscored_share: float
    pearson: Interval | None
    spearman: float | None
    error: Interval | None
    bias: Interval | None
    longest_spearman: float | None  # of the answer's length with people's scores, on the answers this judge scored
    human_spearman: float | None
    length_correlation: float | None
    verdicts_per_second: float | None
    usd: float | None


Row = PairRow | ScoreRow
R = TypeVar("R", PairRow, ScoreRow)


def calibration(
    labels: Labels,
    verdicts_by_judge: Mapping[str, Verdicts],
    spent: Mapping[str, Spent] | None = None,
    *,
    seed: int = 0,
    level: float = 0.95,
) -> list[Row]:
    """A row for each judge, the best first, and one for "longer wins" (`longest`) unless a judge has that name.

    Verdicts are matched to labels by id; a label without a verdict is unscored. LabelError where the files do not
    belong together, for verdicts of the wrong kind, and without labels. `spent` gives the judges' time and cost.
    """
    pairs = [label for label in labels if isinstance(label, PairLabel)]
    answers = [label for label in labels if isinstance(label, ScoreLabel)]
    if bool(pairs) == bool(answers):
        raise LabelError(f"calibration: {len(pairs)} pairs, {len(answers)} scores; labels of one kind are needed.")
    costs = spent or {}
    if pairs:
        rows = [
            _pair_row(pairs, judge, pair_verdicts(pairs, verdicts, judge), costs.get(judge, Spent()), seed, level)
            for judge, verdicts in _of_kind(PairVerdict, verdicts_by_judge, longest(pairs)).items()
        ]
        return list(_ranked(rows, lambda row: row.accuracy_at_worst.mean if row.accuracy_at_worst else None))
    scored = [
        _score_row(answers, judge, score_verdicts(answers, verdicts, judge), costs.get(judge, Spent()), seed, level)
        for judge, verdicts in _of_kind(ScoreVerdict, verdicts_by_judge, by_length(answers)).items()
    ]
    return list(_ranked(scored, lambda row: row.spearman))


V = TypeVar("V", PairVerdict, ScoreVerdict)


def _of_kind(kind: type[V], by_judge: Mapping[str, Verdicts], baseline: Sequence[V]) -> dict[str, list[V]]:
    """The judges' verdicts with the baseline among them; a judge with verdicts of the other kind is an error."""
    found = {judge: [verdict for verdict in every if isinstance(verdict, kind)] for judge, every in by_judge.items()}
    for judge, verdicts in found.items():
        if len(verdicts) < len(by_judge[judge]):
            needed = "verdicts on pairs ('winner')" if kind is PairVerdict else "scores ('score')"
            raise LabelError(f"judge '{judge}': verdicts of the other kind; these labels need {needed}.")
    return {LONGEST: list(baseline), **found}


def _ranked(rows: Sequence[R], figure: Callable[[R], float | None]) -> list[R]:
    """Highest figure first, rows without one last, equals by name."""
    worth = {row.judge: figure(row) for row in rows}

    def place(row: R) -> tuple[float, str]:
        found = worth[row.judge]
        return (math.inf if found is None else -found, row.judge)

    return sorted(rows, key=place)


def _missing(asked: int, scored: int) -> float:
    return (asked - scored) / asked if asked else 0.0


def _rate(asked: int, seconds: float | None) -> float | None:
    return asked / seconds if seconds else None


def _pair_row(
    labels: Sequence[PairLabel], judge: str, verdicts: Sequence[PairVerdict], cost: Spent, seed: int, level: float
) -> PairRow:
    agreed = agreement(labels, verdicts, seed=seed, level=level)
    leaning = bias(labels, verdicts, seed=seed, level=level)
    people = human_agreement(labels, seed=seed, level=level)
    read = [(one, verdict) for one, verdict in zip(labels, verdicts, strict=True) if verdict.settled.winner is not None]
    beside = agreement([label for label, _ in read], longest([label for label, _ in read]), seed=seed, level=level)
    return PairRow(
        judge=judge,
        asked=len(labels),
        scored=len(read),
        no_winner=len(labels) - agreed.asked,
        unscored_share=_missing(len(labels), len(read)),
        accuracy=agreed.accuracy,
        accuracy_at_worst=agreed.accuracy_at_worst,
        precision=agreed.precision,
        recall=agreed.recall,
        f1=agreed.f1,
        kappa=agreed.kappa,
        longest_accuracy=beside.accuracy.mean if beside.accuracy else None,
        over_longest=accuracy_over(labels, verdicts, longest(labels), seed=seed, level=level),
        vote_agreement=vote_agreement(labels, verdicts, seed=seed, level=level),
        human_agreement=people.agreement if people else None,
        human_kappa=people.kappa if people else None,
        both_orders=leaning.both_orders,
        flip_rate=leaning.flips,
        position_bias=leaning.position,
        longer_share=leaning.longer,
        human_longer_share=leaning.humans_longer,
        length_bias=leaning.length,
        length_correlation=leaning.length_correlation,
        verdicts_per_second=_rate(len(read), cost.seconds),
        usd=cost.usd,
    )


def _score_row(
    labels: Sequence[ScoreLabel], judge: str, verdicts: Sequence[ScoreVerdict], cost: Spent, seed: int, level: float
) -> ScoreRow:
    agreed = score_agreement(labels, verdicts, seed=seed, level=level)
    read = [label for label, verdict in zip(labels, verdicts, strict=True) if verdict.score is not None]
    return ScoreRow(
        judge=judge,
        asked=agreed.asked,
        scored=agreed.scored,
        unscored_share=_missing(agreed.asked, agreed.scored),
        pearson=agreed.pearson,
        spearman=agreed.spearman,
        error=agreed.error,
        bias=agreed.bias,
        longest_spearman=score_agreement(read, by_length(read), seed=seed, level=level).spearman,
        human_spearman=human_spearman(labels),
        length_correlation=agreed.length_correlation,
        verdicts_per_second=_rate(agreed.scored, cost.seconds),
        usd=cost.usd,
    )


def as_json(row: Row) -> dict[str, Any]:
    """The row with every interval as {mean, low, high}; a bound that is not finite, and what is undefined, is None."""
    return {name: _plain(value) for name, value in row._asdict().items()}


def _plain(value: object) -> object:
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
