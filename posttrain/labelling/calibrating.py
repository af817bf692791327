"""`posttrain calibrate`: several judges against the same human labels, ranked, as a table or as JSON.

Where the labels are votes on a run, the judges judge all of its pairs, and the labels correct their win rates.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.bias import longest
from eval.labels import Labels, PairLabel, json_rows, read_labels
from eval.ranking import LONGEST, Row, Spent, as_json, calibration
from eval.ranking_table import cells, markdown, notes
from eval.recorded import PairVerdict
from posttrain.chain.identity import sha256_file
from posttrain.labelling.correcting import win_rates
from posttrain.labelling.correcting_table import WinRates
from posttrain.labelling.endpoint_judge import Remote
from posttrain.labelling.judges import Asked, Judged, known_judges
from posttrain.labelling.pairs import ASKED
from posttrain.labelling.run_votes import Run, RunVotes, run_votes
from posttrain.labelling.texts import plain_label_errors, read_text

SEED, LEVEL = 0, 0.95
CHANGED = (
    "The file of prompts is not the one that the run was sampled with: what a prompt asks for is not known for all "
    "pairs, so the rule judge checks it in none."
)


class Calibration(NamedTuple):
    """The judges' rows, the best first, on the labels of one file; `notes` say how to read them.

    `win_rate` is there where the labels are votes on a run that was named.
    """

    file: Path
    labels: Labels
    rows: list[Row]
    notes: list[str]
    win_rate: WinRates | None = None

    @property
    def head(self) -> str:
        """`999 pairs on 170 prompts in human.json`."""
        kind = "pairs" if isinstance(self.labels[0], PairLabel) else "answers"
        return f"{len(self.labels):,} {kind} on {self.prompts:,} prompts in {self.file}"

    @property
    def prompts(self) -> int:
        """Clusters of the intervals."""
        return len({label.prompt for label in self.labels})

    def as_markdown(self) -> str:
        """For people."""
        rates = [self.win_rate.as_markdown()] if self.win_rate else []
        return "\n\n".join([self.head, markdown(self.rows), *self.notes, *rates])

    def cells(self) -> list[list[str]]:
        """The table as texts, its head first."""
        return cells(self.rows)

    def remarks(self) -> list[str]:
        """How to read the table, a sentence or two each."""
        return [*notes(self.rows).splitlines(), *self.notes]

    def as_json(self) -> dict[str, Any]:
        """For programs: shares from 0 to 1, intervals as {mean, low, high}, what is undefined as null."""
        return {
            "labels": {
                "file": str(self.file),
                "sha256": sha256_file(self.file),
                "kind": "pairs" if isinstance(self.labels[0], PairLabel) else "scores",
                "rows": len(self.labels),
                "prompts": self.prompts,
            },
            "level": LEVEL,
            "seed": SEED,
            "judges": [as_json(row) for row in self.rows],
            "notes": self.notes,
            "win_rate": self.win_rate.as_json() if self.win_rate else None,
        }


def calibrate(specs: Sequence[str], path: Path, remote: Remote, run: Run | None = None) -> Calibration:
    """Judge the labelled rows with every judge named; what is wrong with a name or a file is said before any work.

    With the run that the labels are votes on, all of its pairs are judged, once, and both tables rest on that.
    """
    text = read_text(path, "human labels")
    with plain_label_errors():
        labels = read_labels(text, str(path))
        asks = asked(text, labels)
        votes = None if run is None else run_votes(run, path, text, labels)
        given, known = (labels, asks) if votes is None else (votes.labels(), votes.asked())
        judges = known_judges(specs, given, known, remote)
        judged = {judge.name: judge.judge() for judge in judges}
        on_labels = judged if votes is None else {name: _on_labels(found, votes) for name, found in judged.items()}
        rows = calibration(
            labels,
            {name: found.verdicts for name, found in on_labels.items()},
            {name: found.spent for name, found in on_labels.items()},
            seed=SEED,
            level=LEVEL,
        )
    notes = [found.note for found in judged.values() if found.note]
    if votes is None:
        return Calibration(path, labels, rows, notes)
    notes += _run_notes(votes, asks)
    return Calibration(path, labels, rows, notes, WinRates(votes, win_rates(votes, _ranked(rows, judged, votes))))


def _on_labels(found: Judged, votes: RunVotes) -> Judged:
    """The verdicts on the labelled pairs, with the time of that share; the cost is that of all."""
    verdicts = [verdict for verdict in _on_pairs(found) if verdict.id in votes.people]
    seconds = found.spent.seconds
    share = len(votes.people) / len(votes.pairs)
    return Judged(verdicts, Spent(None if seconds is None else seconds * share, found.spent.usd))


def _on_pairs(found: Judged) -> list[PairVerdict]:
    return [verdict for verdict in found.verdicts if isinstance(verdict, PairVerdict)]


def _ranked(rows: Sequence[Row], judged: Mapping[str, Judged], votes: RunVotes) -> dict[str, list[PairVerdict]]:
    """Every judge's verdicts on the run's pairs, in the order of the first table."""
    found = {LONGEST: longest(votes.labels())} | {name: _on_pairs(one) for name, one in judged.items()}
    return {row.judge: found[row.judge] for row in rows}


def _run_notes(votes: RunVotes, asks: Asked) -> list[str]:
    notes = [f"Judges were given all {len(votes.pairs):,} pairs of the run that differ; a cost is that of all of them."]
    here = votes.asked()
    return notes + [CHANGED] * any(asks[key] != here[key] for key in votes.people)


def asked(text: str, labels: Labels) -> Asked:
    """What the prompts ask for, where `posttrain label` has written it beside them: words, features and so on."""
    ids = [label.id for label in labels]
    return {key: _kept(row) for key, (_, row) in zip(ids, json_rows(text, "labels"), strict=True)}


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ASKED if _is_sound(name, row.get(name))}


def _is_sound(name: str, value: object) -> bool:
    """A label file is anybody's: what is not of the right type was not asked."""
    if name in ("words", "features"):
        return isinstance(value, list) and bool(value) and all(isinstance(part, str) for part in value)
    return isinstance(value, str) and bool(value)
