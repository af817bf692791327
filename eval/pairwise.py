"""Which of two answers is better: a step's against those of the step before, each pair asked in both orders.

Judges lean to a place: of the published verdicts of a strong judge, 12.9 % change when the answers change places
(lm-sys/FastChat issue 3911). So an answer wins only where it wins in both orders; two orders that disagree are a tie,
and how often they do is reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from eval.asking import Ask, Question, Reply, ask_all
from eval.grading_prompt import VERDICTS, Brief, Material, brief, comparing, material
from eval.grading_reply import clean, find
from eval.llm_judge import JudgeSettings
from eval.rubric import Rubric
from eval.verdict import Verdict, unscored

Row = Mapping[str, Any]
Outcome = Literal["new", "old", "tie"]
SCORE: dict[Outcome, float] = {"new": 1.0, "tie": 0.5, "old": 0.0}
BY_LETTER: dict[str, tuple[Outcome, Outcome]] = {"a": ("new", "old"), "b": ("old", "new"), "tie": ("tie", "tie")}
KEYS = ("verdict",)


class Side(NamedTuple):
    """What one order of the two answers gave: the winner, or None and why."""

    outcome: Outcome | None
    reason: str


class Comparison(NamedTuple):
    """One pair. `win.score` is 1 where the new answer wins, 0.5 for a tie, 0 where it loses; None is unscored.

    `new_first` and `old_first` are the two orders; lengths are in characters, for a length-controlled win rate.
    """

    id: str
    sample: int
    win: Verdict
    new_first: Side
    old_first: Side
    new_length: int
    old_length: int

    @property
    def flipped(self) -> bool | None:
        """Whether the verdict changed with the order; None when one order has none."""
        if self.new_first.outcome is None or self.old_first.outcome is None:
            return None
        return self.new_first.outcome != self.old_first.outcome


class Flips(NamedTuple):
    """Pairs with a verdict in both orders, those whose verdict changed, and how often the first place was preferred.

    `decided` counts single verdicts that are no tie, `first` those of them that went to the answer in the first place.
    """

    pairs: int
    flipped: int
    decided: int
    first: int

    @property
    def rate(self) -> float | None:
        """The share of pairs whose verdict changed with the order; None without pairs."""
        return self.flipped / self.pairs if self.pairs else None

    @property
    def first_share(self) -> float | None:
        """One half for a judge that does not mind the place; None when nothing was decided."""
        return self.first / self.decided if self.decided else None


def read_side(reply: Reply, shown: Sequence[str], *, new_first: bool) -> Side:
    """The winner that a reply names when A was the new answer, or the old one."""
    found = find(reply, KEYS, shown)
    if isinstance(found, str):
        return Side(None, found)
    letter = found.value["verdict"]
    outcomes = BY_LETTER.get(letter.strip().casefold()) if isinstance(letter, str) else None
    if outcomes is None:
        return Side(None, f"the verdict is none of {', '.join(VERDICTS)}")
    return Side(outcomes[0 if new_first else 1], clean(found.value.get("reason")))


def decide(new_first: Side, old_first: Side) -> Verdict:
    """1, 0.5 or 0 for the new answer: the verdict of both orders, a tie where they disagree."""
    one, other = new_first.outcome, old_first.outcome
    if one is None or other is None:
        lost = [
            f"{name} first: {side.reason}"
            for name, side in (("new", new_first), ("old", old_first))
            if not side.outcome
        ]
        return unscored("; ".join(lost))
    if one == other:
        return Verdict(SCORE[one], f"{one}: {new_first.reason}")
    return Verdict(
        SCORE["tie"],
        f"tie, as the orders disagree; new first: {one}, {new_first.reason}; old first: {other}, {old_first.reason}",
    )


def flips(comparisons: Sequence[Comparison]) -> Flips:
    """How far the order of the answers decided."""
    whole = [pair for pair in comparisons if pair.flipped is not None]
    placed = [
        (side.outcome, first) for pair in whole for side, first in ((pair.new_first, "new"), (pair.old_first, "old"))
    ]
    named = [outcome == first for outcome, first in placed if outcome != "tie"]
    return Flips(len(whole), sum(pair.flipped is True for pair in whole), len(named), sum(named))


def compare(
    ask: Ask,
    rubric: Rubric,
    prompts: Mapping[str, Row],
    new: Sequence[Row],
    old: Sequence[Row],
    settings: JudgeSettings | None = None,
) -> list[Comparison]:
    """Compare each new row with the old one of the same `id` and `sample`, in the order of the new rows.

    Two calls a pair. `votes` plays no part: the two orders are the two votes. A row without a counterpart, a text or a
    prompt is unscored.
    """
    chosen, told = settings or JudgeSettings(), brief(rubric)
    before = {_key(row): row for row in old}
    pairs = [_pair(told, prompts, row, before.get(_key(row))) for row in new]
    asked = [_both_orders(told, pair, chosen) if isinstance(pair, Material) else [] for pair in pairs]
    replies = iter(ask_all(ask, [question for part in asked for question in part]))
    rules = comparing(told, Material("", "", ["", ""]), chosen.salt, 0).messages[0]["content"]
    made = []
    for row, pair, questions in zip(new, pairs, asked, strict=True):
        shown = [rules, *(pair.texts if isinstance(pair, Material) else [])]
        sides = [read_side(next(replies), shown, new_first=place == 0) for place in range(len(questions))]
        one, other = sides or [Side(None, str(pair))] * 2
        win = unscored(pair) if isinstance(pair, str) else decide(one, other)
        made.append(Comparison(*_key(row), win, one, other, _length(row), _length(before.get(_key(row), {}))))
    return made


def _key(row: Row) -> tuple[str, int]:
    return str(row.get("id")), int(row.get("sample") or 0)


def _length(row: Row) -> int:
    text = row.get("text")
    return len(text) if isinstance(text, str) else 0


def _pair(told: Brief, prompts: Mapping[str, Row], new: Row, old: Row | None) -> Material | str:
    """The two answers, the new one first, or why they cannot be compared."""
    prompt = prompts.get(str(new.get("id")))
    if not prompt:
        return f"no prompt with id '{new.get('id')}'"
    if old is None:
        return "the step before has no answer to this prompt"
    texts = [row["text"] for row in (new, old) if isinstance(row.get("text"), str)]
    if len(texts) < 2:
        return "an answer has no text"
    return material(told, prompt, texts) or f"the prompt '{new.get('id')}' has no text"


def _both_orders(told: Brief, pair: Material, settings: JudgeSettings) -> list[Question]:
    turned = Material(pair.request, pair.reference, pair.answers[::-1])
    return [comparing(told, judged, settings.salt, settings.max_tokens) for judged in (pair, turned)]
