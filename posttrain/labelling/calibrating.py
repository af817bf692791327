"""`posttrain calibrate`: several judges against the same human labels, ranked, as a table or as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.labels import Labels, PairLabel, json_rows, read_labels
from eval.ranking import Row, as_json, calibration
from eval.ranking_table import cells, markdown, notes
from posttrain.chain.identity import sha256_file
from posttrain.labelling.endpoint_judge import Remote
from posttrain.labelling.judges import Asked, known_judges
from posttrain.labelling.pairs import ASKED
from posttrain.labelling.texts import plain_label_errors, read_text

SEED, LEVEL = 0, 0.95


class Calibration(NamedTuple):
    """The judges' rows, the best first, on the labels of one file; `notes` say how to read them."""

    file: Path
    labels: Labels
    rows: list[Row]
    notes: list[str]

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
        return "\n\n".join([self.head, markdown(self.rows), *self.notes])

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
        }


def calibrate(specs: Sequence[str], path: Path, remote: Remote) -> Calibration:
    """Judge the labelled rows with every judge named; what is wrong with a name or a file is said before any work."""
    text = read_text(path, "human labels")
    with plain_label_errors():
        labels = read_labels(text, str(path))
        judges = known_judges(specs, labels, asked(text, labels), remote)
        judged = {judge.name: judge.judge() for judge in judges}
        rows = calibration(
            labels,
            {name: found.verdicts for name, found in judged.items()},
            {name: found.spent for name, found in judged.items()},
            seed=SEED,
            level=LEVEL,
        )
    return Calibration(path, labels, rows, [found.note for found in judged.values() if found.note])


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
