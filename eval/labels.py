"""What people said: files of human labels, read as they are.

A judge is worth what its agreement with people is worth, and that needs their votes. One object a row, as JSON
lines or one JSON list:

    {"id": "7", "prompt": "...", "a": "...", "b": "...", "votes": ["a", "tie", "a"]}    a pair; or "label": "a"
    {"id": "7", "prompt": "...", "text": "...", "scores": [7, 6.5]}                     one answer; or "score": 7

and the published forms of PandaLM (`response1`, `annotator1` to `annotator3`: 0 tie, 1, 2) and LLMBar (`output_1`,
`label`). "a", 1 and "1" are the same vote, so are "b" and 2, "tie" and 0. Further fields are left alone.
Rows with the same prompt are one cluster of the statistics.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

TIE, A, B = 0, 1, 2
WINNERS = {"tie": TIE, "0": TIE, "a": A, "1": A, "b": B, "2": B}
ALLOWED = "'a' or 1, 'b' or 2, 'tie' or 0"


class LabelError(ValueError):
    """A file of labels or verdicts that cannot be used: what is wrong, and in which row."""


class PairLabel(NamedTuple):
    """Two answers to a prompt and what each person said: 0 tie, 1 a is better, 2 b."""

    id: str
    prompt: str
    a: str
    b: str
    votes: tuple[int, ...]

    @property
    def winner(self) -> int | None:
        """The vote that most people cast; None when two are cast equally often, which is no label and not a tie.

        (PandaLM's own script takes the first annotator's vote then. In its test set this never happens.)
        """
        first, *others = Counter(self.votes).most_common(2)
        return None if others and others[0][1] == first[1] else first[0]


class ScoreLabel(NamedTuple):
    """One answer to a prompt and the score that each person gave it."""

    id: str
    prompt: str
    text: str
    scores: tuple[float, ...]

    @property
    def score(self) -> float:
        """The mean of the people's scores, in their units."""
        return sum(self.scores) / len(self.scores)


Labels = Sequence[PairLabel] | Sequence[ScoreLabel]
T = TypeVar("T", PairLabel, ScoreLabel)


def winner_of(value: object) -> int | None:
    """0 tie, 1, 2 for any way of writing a vote; None for what is no vote."""
    return WINNERS.get(str(value).strip().lower())


def number_of(value: object) -> float | None:
    """The finite number that a value is; None for text, true, nan and whatever else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def json_rows(text: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of JSON lines or of one JSON list, each with where it stands, for messages."""
    try:
        if text.lstrip().startswith("["):
            rows = [(f"{name}, row {number}", row) for number, row in enumerate(json.loads(text), start=1)]
        else:
            lines = enumerate(text.split("\n"), start=1)
            rows = [(f"{name}, line {number}", json.loads(line)) for number, line in lines if line.strip()]
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{name}: not JSON ({error}); one object a line or one list is allowed. Correct it.") from None
    for where, row in rows:
        if not isinstance(row, dict):
            raise LabelError(f"{where}: a JSON {type(row).__name__}; an object {{...}} is allowed. Correct it.")
    if not rows:
        raise LabelError(f"{name}: holds no rows; at least one is needed. Check that it was written.")
    return rows


def read_labels(text: str, name: str) -> Labels:
    """All labels of a file's text, pairs or scores; `name` is the file's in messages.

    LabelError for what is no JSON, a row without the fields above, a vote that is none, an id given twice, and for
    pairs and scores in one file.
    """
    labels = [_label(row, number, where) for number, (where, row) in enumerate(json_rows(text, name))]
    pairs = [label for label in labels if isinstance(label, PairLabel)]
    scores = [label for label in labels if isinstance(label, ScoreLabel)]
    if pairs and scores:
        raise LabelError(f"{name}: {len(pairs)} pairs and {len(scores)} scores; one kind a file. Split it.")
    return _unique(pairs, name) or _unique(scores, name)


def _unique(labels: list[T], name: str) -> list[T]:
    twice = [key for key, count in Counter(label.id for label in labels).items() if count > 1]
    if twice:
        raise LabelError(f"{name}: id '{twice[0]}' is given twice; each row has its own. Rename one.")
    return labels


def _label(row: Mapping[str, Any], number: int, where: str) -> PairLabel | ScoreLabel:
    """One row of whichever form; a row without an id is known by its place, from 0."""
    key = str(row.get("id", row.get("idx", number)))
    if "response1" in row:
        prompt = "\n".join(part for part in (_text(row, "instruction", where), _text(row, "input", where)) if part)
        votes = [value for field, value in sorted(row.items()) if field.startswith("annotator")]
        return PairLabel(key, prompt, *_texts(row, "response1", "response2", where), _votes(votes, where))
    if "output_1" in row:
        answers = _texts(row, "output_1", "output_2", where)
        return PairLabel(key, _text(row, "input", where), *answers, _votes([row.get("label")], where))
    prompt = _text(row, "prompt", where)
    if "text" in row:
        return ScoreLabel(key, prompt, _text(row, "text", where), _scores(_several(row, "scores", "score"), where))
    return PairLabel(key, prompt, *_texts(row, "a", "b", where), _votes(_several(row, "votes", "label"), where))


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if isinstance(value, bool | int | float):
        return json.dumps(value)  # six answers of PandaLM's file are a bare true
    if not isinstance(value, str):
        raise LabelError(f"{where}: '{field}' is {_shown(value)}; text is needed. The forms are in eval/labels.py.")
    return value


def _texts(row: Mapping[str, Any], first: str, second: str, where: str) -> tuple[str, str]:
    return _text(row, first, where), _text(row, second, where)


def _several(row: Mapping[str, Any], many: str, one: str) -> list[object]:
    """The list under `many`, or the single value under `one`."""
    values = row.get(many)
    return values if isinstance(values, list) else [row.get(one) if many not in row else values]


def _votes(values: Sequence[object], where: str) -> tuple[int, ...]:
    votes = [winner_of(value) for value in values]
    for vote, value in zip(votes, values, strict=True):
        if vote is None:
            raise LabelError(f"{where}: a vote {_shown(value)}; {ALLOWED} is allowed. Correct or delete the row.")
    if not votes:
        raise LabelError(f"{where}: no votes; at least one is needed. Delete the row.")
    return tuple(vote for vote in votes if vote is not None)


def _scores(values: Sequence[object], where: str) -> tuple[float, ...]:
    scores = [number_of(value) for value in values]
    for score, value in zip(scores, values, strict=True):
        if score is None:
            raise LabelError(f"{where}: a score {_shown(value)}; a number is allowed. Correct or delete the row.")
    if not scores:
        raise LabelError(f"{where}: no scores; at least one is needed. Delete the row.")
    return tuple(score for score in scores if score is not None)


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:60]
