"""A step's answers compared with those of the step before, pair by pair: the win rate beside the axes.

A judge that grades one answer at a time sees small changes badly; one that sees both answers at once sees them well,
and leans to a place and to length. So each pair is asked in both orders, and the length-controlled rate stands beside
the raw one.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from posttrain.chain.stage import Metrics
from posttrain.rows import Row
from posttrain.stages.judging import figures_of

if TYPE_CHECKING:
    from eval.asking import Ask
    from eval.pairwise import Comparison
    from eval.rubric import Rubric
    from posttrain.stages.judges import JudgeChoice


def compare_steps(
    choice: "JudgeChoice",
    rubric: "Rubric",
    asks: "Sequence[Ask]",
    prompts: Mapping[str, Row],
    new: Sequence[Row],
    old: Sequence[Row],
) -> tuple[list[Row], Metrics]:
    """Rows {id, sample, win, new_length, old_length, sides} and the figures of all pairs."""
    rows, pairs = compare_rows(choice, rubric, asks, prompts, new, old)
    return rows, _figures(rows, pairs)


def compare_rows(
    choice: "JudgeChoice",
    rubric: "Rubric",
    asks: "Sequence[Ask]",
    prompts: Mapping[str, Row],
    new: Sequence[Row],
    old: Sequence[Row],
) -> "tuple[list[Row], list[Comparison]]":
    """Rows as `compare_steps` has them, and the comparisons of every judge one after another.

    `win.score` is 1, 0.5 or 0 for the new answer, the mean of the families of a panel; None is unscored.
    """
    from eval.pairwise import compare
    from eval.panel import combine_panel
    from posttrain.stages.judges import asking_settings, members

    asked = members(choice)
    found = [
        compare(ask, rubric, prompts, new, old, asking_settings(choice, one))
        for one, ask in zip(asked, asks, strict=True)
    ]
    wins = [pairs[0].win for pairs in zip(*found, strict=True)]
    if len(asked) > 1:
        wins = [row["win"] for row in combine_panel(asked, [[{"win": pair.win} for pair in pairs] for pairs in found])]
    rows = [
        {
            "id": pairs[0].id,
            "sample": pairs[0].sample,
            "win": win._asdict(),
            "new_length": pairs[0].new_length,
            "old_length": pairs[0].old_length,
            "sides": {one.name: _sides(pair) for one, pair in zip(asked, pairs, strict=True)},
        }
        for win, pairs in zip(wins, zip(*found, strict=True), strict=True)
    ]
    return rows, [pair for pairs in found for pair in pairs]


def _sides(pair: "Comparison") -> Row:
    return {"new_first": pair.new_first._asdict(), "old_first": pair.old_first._asdict()}


def _figures(rows: Sequence[Row], pairs: "Sequence[Comparison]") -> Metrics:
    """No rate where more than 2 % of the pairs have no verdict: a failure must not look like a result."""
    from eval.gate import MOST_UNSCORED
    from eval.length_control import length_controlled
    from eval.pairwise import flips

    scored = [row for row in rows if row["win"]["score"] is not None]
    lean = flips(pairs)
    figures: Metrics = {
        "n_asked": len(rows),
        "n_scored": len(scored),
        "win_rate": None,
        "length_controlled": None,
        "flip_rate": None if lean.rate is None else round(lean.rate, 4),
        "first_share": None if lean.first_share is None else round(lean.first_share, 4),
    }
    if not scored or 1 - len(scored) / len(rows) > MOST_UNSCORED:
        return figures
    found = length_controlled(
        [row["win"]["score"] for row in scored],
        [row["id"] for row in scored],
        [row["new_length"] - row["old_length"] for row in scored],
    )
    controlled = None if found.controlled is None else figures_of(found.controlled)
    return {**figures, "win_rate": figures_of(found.raw), "length_controlled": controlled}
