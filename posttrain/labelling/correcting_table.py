"""The win rates of a run's two steps as a table and as JSON, with the sentences without which they mislead."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from eval.statistics import Interval
from posttrain.labelling.correcting import Rate
from posttrain.labelling.run_votes import RunVotes

NONE = "–"
HEAD = ["judge", "people alone, %", "judge alone, not corrected, %", "corrected, %", "trust", "labels saved"]
MEANING = (
    "People alone: the prompts with a vote. Judge alone: all pairs, but its interval leaves out that the judge may "
    "lean. Corrected: the judge on all pairs, less its error as measured on the prompts with a vote "
    "(prediction-powered inference); report this one."
)
RANDOM = (
    "It holds where the prompts with a vote are a random sample of all. 'posttrain label' draws their order by its "
    "seed; voting only on the pairs that one likes, or skipping the hard ones, breaks it."
)
TRUST = (
    "Trust: how far the judge counts, from 0 (people alone) to 1. Labels saved: about how many more prompts with a "
    "vote would be needed for an interval as narrow without the judge."
)


class WinRates(NamedTuple):
    """The rows of all judges, and the votes they rest on."""

    votes: RunVotes
    rows: list[Rate]

    @property
    def head(self) -> str:
        """`Win rate of sft over base: 400 pairs on 200 prompts, 40 prompts with a vote`."""
        steps, pairs = self.votes.steps, len(self.votes.pairs) + len(self.votes.same)
        return (
            f"Win rate of {steps.a} over {steps.b}: {pairs:,} pairs on {len(self.votes.prompts):,} prompts, "
            f"{len(self.votes.labelled):,} prompts with a vote"
        )

    def cells(self) -> list[list[str]]:
        """The table as texts, its head first."""
        return [HEAD, *map(_cells, self.rows)]

    def as_markdown(self) -> str:
        """For people."""
        head, *body = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in self.cells())
        table = "\n".join([head, "|" + "---|" * len(HEAD), *body])
        return "\n\n".join([self.head, table, "\n".join(self.remarks())])

    def remarks(self) -> list[str]:
        """What the figures mean and what they rest on, a sentence or two each."""
        same, without = len(self.votes.same), len(self.votes.prompts) - len(self.votes.labelled)
        found = [MEANING, RANDOM, TRUST]
        if same:
            found.append(
                f"{same:,} pairs are the same text twice: they count as ties, and nobody was asked about them."
            )
        if any(row.judge_alone and row.corrected is None for row in self.rows):
            found.append(f"{without} prompts have no vote: two are needed for a judge to add anything.")
        return [*found, *_gaps(self.votes, self.rows)]

    def as_json(self) -> dict[str, Any]:
        """For programs: rates and trust from 0 to 1, intervals as {mean, low, high}, what is undefined as null."""
        return {
            "steps": self.votes.steps._asdict(),
            "pairs": len(self.votes.pairs) + len(self.votes.same),
            "equal": len(self.votes.same),
            "prompts": len(self.votes.prompts),
            "labelled_pairs": len(self.votes.people),
            "labelled_prompts": len(self.votes.labelled),
            "judges": [{name: _plain(value) for name, value in row._asdict().items()} for row in self.rows],
            "notes": self.remarks(),
        }


def _cells(row: Rate) -> list[str]:
    return [
        row.judge,
        _percent(row.people),
        _percent(row.judge_alone),
        _percent(row.corrected),
        NONE if row.tuning is None else f"{row.tuning:.2f}",
        NONE if row.labels_saved is None else str(row.labels_saved),
    ]


def _gaps(votes: RunVotes, rows: Sequence[Rate]) -> list[str]:
    """Judges that did not judge every pair, or left some unscored."""
    found = []
    for row in rows:
        if row.judged < len(votes.pairs):
            found.append(
                f"{row.judge}: verdicts on {row.judged} of the {len(votes.pairs)} pairs that differ; all are needed "
                "for a rate of its own and for a correction."
            )
        elif row.unscored:
            found.append(
                f"{row.judge}: {row.unscored} of {row.judged} unscored; left out of the judge alone, ties to the "
                "correction, which takes off what that does."
            )
    return found


def _percent(interval: Interval | None) -> str:
    return NONE if interval is None else "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * part for part in interval))


def _plain(value: object) -> object:
    return value._asdict() if isinstance(value, Interval) else value
