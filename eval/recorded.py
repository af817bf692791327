"""What a judge said about labelled answers: its verdicts, made here or recorded elsewhere.

    {"id": "7", "winner": "a", "swapped": "tie", "reason": "..."}    on a pair; swapped: b was shown first
    {"id": "7", "score": 6.5, "reason": "..."}                       on one answer

and the published records of PandaLM (`idx`, `pandalm_result` or `gpt_result`). `winner` and `swapped` name the answers
as the label file does, whichever was shown first. **A reply that is no verdict is unscored**: it is counted, and
never becomes a tie, a loss or a number.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from eval.labels import TIE, LabelError, PairLabel, ScoreLabel, json_rows, number_of, winner_of

RESULT = "_result"  # ends PandaLM's field of the verdict; the same name with _reason holds its reason


class Pick(NamedTuple):
    """The better answer: 1 a, 2 b, 0 neither, None unscored; and why."""

    winner: int | None
    reason: str = ""


class PairVerdict(NamedTuple):
    """A judge on one pair: with a shown first, and, where it was asked twice, with b shown first."""

    id: str
    straight: Pick
    swapped: Pick | None = None

    @property
    def settled(self) -> Pick:
        """What both orders together say: a disagreement is a tie, an unscored order leaves the pair unscored."""
        if self.swapped is None or self.straight.winner is None:
            return self.straight
        if self.swapped.winner is None or self.swapped.winner == self.straight.winner:
            return self.swapped
        return Pick(TIE, "the verdict changed when the answers were swapped")


class ScoreVerdict(NamedTuple):
    """A judge on one answer: its score, None unscored; and why."""

    id: str
    score: float | None
    reason: str = ""


Verdicts = Sequence[PairVerdict] | Sequence[ScoreVerdict]
V = TypeVar("V", PairVerdict, ScoreVerdict)


def read_verdicts(text: str, name: str) -> Verdicts:
    """All verdicts of a recorded file's text, on pairs or on single answers; `name` is the file's in messages.

    LabelError for what is no JSON, a row without id or without any of the verdict's fields, and for both kinds in one
    file. A field that holds no verdict is unscored, with the reply in the reason.
    """
    verdicts = [_verdict(row, where) for where, row in json_rows(text, name)]
    pairs = [verdict for verdict in verdicts if isinstance(verdict, PairVerdict)]
    scores = [verdict for verdict in verdicts if isinstance(verdict, ScoreVerdict)]
    if pairs and scores:
        raise LabelError(f"{name}: {len(pairs)} verdicts on pairs, {len(scores)} scores; one kind a file. Split it.")
    return pairs or scores


def _verdict(row: Mapping[str, Any], where: str) -> PairVerdict | ScoreVerdict:
    key = row.get("id", row.get("idx"))
    results = [field for field in row if field.endswith(RESULT)]
    if key is None or not ("winner" in row or "score" in row or len(results) == 1):
        raise LabelError(
            f"{where}: fields {', '.join(row) or 'none'}; 'id' with 'winner' or 'score' is needed "
            "('idx' with one '..._result' in PandaLM's files). The forms are in eval/recorded.py."
        )
    reason = str(row.get("reason", ""))
    if "score" in row:
        score = number_of(row["score"])
        return ScoreVerdict(str(key), score, reason if score is not None else _no_verdict(row["score"], reason))
    if "winner" in row:
        swapped = _pick(row["swapped"], reason) if "swapped" in row else None
        return PairVerdict(str(key), _pick(row["winner"], reason), swapped)
    field = results[0]
    return PairVerdict(str(key), _pick(row[field], str(row.get(field.removesuffix(RESULT) + "_reason", ""))))


def _pick(value: object, reason: str) -> Pick:
    winner = winner_of(value)
    return Pick(winner, reason if winner is not None else _no_verdict(value, reason))


def _no_verdict(value: object, reason: str) -> str:
    return reason if value is None and reason else f"no verdict: {str(value)[:60]!r}"


def pair_verdicts(labels: Sequence[PairLabel], verdicts: Sequence[PairVerdict], judge: str) -> list[PairVerdict]:
    """The judge's verdicts in the order of the labels; unscored where it gave none.

    LabelError when a verdict is on no labelled pair, or two are on the same one: then the files do not belong together.
    """
    by_id = _by_id([label.id for label in labels], verdicts, judge)
    return [by_id.get(label.id, PairVerdict(label.id, Pick(None, "no verdict given"))) for label in labels]


def score_verdicts(labels: Sequence[ScoreLabel], verdicts: Sequence[ScoreVerdict], judge: str) -> list[ScoreVerdict]:
    """As `pair_verdicts`, for scores of single answers."""
    by_id = _by_id([label.id for label in labels], verdicts, judge)
    return [by_id.get(label.id, ScoreVerdict(label.id, None, "no verdict given")) for label in labels]


def _by_id(known: Sequence[str], verdicts: Sequence[V], judge: str) -> dict[str, V]:
    by_id = {verdict.id: verdict for verdict in verdicts}
    unknown = sorted(by_id.keys() - set(known))
    if unknown:
        raise LabelError(
            f"judge '{judge}': {len(unknown)} verdicts on rows that are not labelled, first '{unknown[0]}'; "
            "ids of the label file are allowed. Check that the two files belong together."
        )
    if len(by_id) < len(verdicts):
        raise LabelError(
            f"judge '{judge}': {len(verdicts) - len(by_id)} verdicts more than rows; one a row. Keep one of each."
        )
    return by_id
