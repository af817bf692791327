"""The judges' ranking as a Markdown table for people, with the sentences that say how to read it."""

import math
from collections.abc import Sequence

from eval.ranking import LONGEST, PairRow, Row, ScoreRow
from eval.statistics import Interval

NONE = "–"


def markdown(rows: Sequence[Row]) -> str:
    """The table of `eval.ranking.calibration`, best first, intervals in brackets; no rows give an empty text."""
    return _table(cells(rows)) + "\n\n" + notes(rows) if rows else ""


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table's head and a row of texts for each judge, for whoever draws it otherwise."""
    pairs = [row for row in rows if isinstance(row, PairRow)]
    if pairs:
        return [PAIR_HEAD, *map(_pair_cells, pairs)]
    return [SCORE_HEAD, *(_score_cells(row) for row in rows if isinstance(row, ScoreRow))]


def notes(rows: Sequence[Row]) -> str:
    """The sentences that say how to read it, one a line."""
    pairs = [row for row in rows if isinstance(row, PairRow)]
    return _pair_notes(pairs) if pairs else _score_notes([row for row in rows if isinstance(row, ScoreRow)])


PAIR_HEAD = [
    "judge",
    "scored",
    "accuracy, %",
    "κ",
    "macro F1, %",
    "longer wins, %",
    "above it, pp",
    "flips on swap, %",
    "position bias, pp",
    "length bias, pp",
    "verdicts/s",
    "cost, $",
]
SCORE_HEAD = ["judge", "scored", "Spearman", "Pearson", "error", "bias", "length alone", "verdicts/s", "cost, $"]


def _pair_cells(row: PairRow) -> list[str]:
    return [
        row.judge,
        f"{row.scored} of {row.asked}",
        _percent(row.accuracy),
        _interval(row.kappa, "{:.2f}"),
        _percent(row.f1),
        _number(None if row.longest_accuracy is None else 100 * row.longest_accuracy, "{:.1f}"),
        _percent(row.over_longest, "{:+.1f}"),
        _percent(row.flip_rate),
        _percent(row.position_bias, "{:+.1f}"),
        _percent(row.length_bias, "{:+.1f}"),
        _number(row.verdicts_per_second, "{:.1f}"),
        _number(row.usd, "{:.2f}"),
    ]


def _score_cells(row: ScoreRow) -> list[str]:
    plain = row.judge != LONGEST  # a length is no score: its distance to scores says nothing
    return [
        row.judge,
        f"{row.scored} of {row.asked}",
        _number(row.spearman, "{:.2f}"),
        _interval(row.pearson, "{:.2f}"),
        _interval(row.error, "{:.2f}") if plain else NONE,
        _interval(row.bias, "{:+.2f}") if plain else NONE,
        _number(row.longest_spearman, "{:.2f}"),
        _number(row.verdicts_per_second, "{:.1f}"),
        _number(row.usd, "{:.2f}"),
    ]


def _pair_notes(rows: Sequence[PairRow]) -> str:
    notes = [
        'Ranked by accuracy with the unscored taken for wrong; intervals over prompts. "Longer wins" is on '
        "the pairs that the judge scored; a bias is what the judge adds to people's, or to one half in both orders."
    ]
    first = rows[0]
    if first.human_agreement is not None:
        kappa = _interval(first.human_kappa, "{:.2f}")
        notes.append(f"Two people agree on {_percent(first.human_agreement)} % of pairs, κ {kappa}.")
    if first.no_winner:
        notes.append(f"{first.no_winner} of {first.asked} pairs have no human winner and count for nobody.")
    return "\n".join([*notes, *_unscored(rows)])


def _score_notes(rows: Sequence[ScoreRow]) -> str:
    notes = [
        "Ranked by Spearman's correlation with people's mean score. \"Length alone\" is that of the answer's length."
    ]
    if rows[0].human_spearman is not None:
        notes.append(f"Two people: {rows[0].human_spearman:.2f}.")
    return "\n".join([*notes, *_unscored(rows)])


def _unscored(rows: Sequence[Row]) -> list[str]:
    return [
        f"{_name(row.judge)}: {row.asked - row.scored} of {row.asked} unscored ({100 * row.unscored_share:.1f} %)."
        for row in rows
        if row.scored < row.asked
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(map(_name, row))} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _name(judge: str) -> str:
    return judge.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)


def _percent(interval: Interval | None, form: str = "{:.1f}") -> str:
    return _interval(Interval(*(100 * part for part in interval)) if interval else None, form)


def _interval(interval: Interval | None, form: str) -> str:
    if interval is None:
        return NONE
    if not math.isfinite(interval.low):
        return f"{form.format(interval.mean)} [one prompt]"
    return f"{form.format(interval.mean)} [{form.format(interval.low)}, {form.format(interval.high)}]"
