"""What needs no judge: do the answers stop, say anything, go round in circles, or leak the chat protocol?

A step is held to what its own model was before it: a base that never stops does not fail the step that teaches it to
stop by half. Shares are compared prompt by prompt, and a step fails only when the whole interval of the change lies
beyond the line, so that a true null fails in fewer than one of forty steps. The lines stand here and nowhere else.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, quantiles
from typing import Any

from eval.finding import Finding
from eval.loops import loop_share
from eval.novelty import RUN, Training
from eval.prose import parse
from eval.statistics import Interval, paired_difference

Row = Mapping[str, Any]  # {id, text, stopped}; text None: there is no answer
Flag = Callable[[Row], bool]

STOP_FALL = 0.05  # one answer in twenty more that runs on until it is cut: a reader of a few answers sees it
EMPTY_RISE = 0.02  # as many as may be unscored before there is no verdict at all
LOOP_RISE = 0.05  # as for stopping
LOOP = 0.2  # a fifth of the five-word runs said before; good stories stay below 0.05 (eval/loops.py)
LENGTH = 3.0  # a median answer three times as long or as short as it should be is another kind of text
COPIED = 0.5  # half of an answer's words stand in runs of eight words and more that the training rows have
COPIED_RISE = 0.1  # above what held-out references share with them by being of one kind
QUANTILES = (0.1, 0.5, 0.9)
CONTROL = re.compile(  # the shapes of the well-known chat protocols
    r"<\|[^\s<>|]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk|mask)>"
    r"|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|\[(?:PAD|UNK|CLS|SEP|MASK)\]"
)


def model_checks(
    after: Sequence[Row],
    before: Sequence[Row] | None,
    *,
    references: Sequence[str] = (),
    training: Sequence[str] = (),
    controls: Sequence[str] = (),
) -> list[Finding]:
    """The answers of a model beside those of the model before, to the same prompts.

    `controls` are the control strings of the model's own tokenizer. Without a step before nothing can fail: the first
    model is where a chain starts.
    """
    after, before = _answered(after), None if before is None else _answered(before)
    if not after:
        return [Finding("answers", 0.0, None, None, "no answers")]
    leaks = _leaks([row["text"] for row in after], controls)
    found = [
        _compared("stop by themselves", lambda row: bool(row["stopped"]), after, before, -STOP_FALL),
        _compared("empty", _is_empty, after, before, EMPTY_RISE),
        leaks if before is not None else leaks._replace(ok=None),
        _compared("loop", _loops, after, before, LOOP_RISE),
        _length(after, before, references),
    ]
    return [*found, *_copies(after, training, references)]


def length_check(after: Sequence[Row], before: Sequence[Row], most: float) -> Finding:
    """The mean length in words beside that of the model before, where a recipe says how far they may be apart."""
    now, was = (fmean(_words(_answered(rows)) or [0]) for rows in (after, before))
    change = now / was - 1 if was else float(now > 0)
    return Finding(
        "mean length", change, most, abs(change) <= most, f"{change:+.0%} words an answer (at most {most:.0%})"
    )


def row_checks(rows: Sequence[Row]) -> list[Finding]:
    """Rows that a model will learn from: none empty, no control tokens, none that goes round in circles."""
    rows = _answered(rows)
    if not rows:
        return [Finding("answers", 0.0, None, None, "no answers")]
    empty = sum(_is_empty(row) for row in rows)
    looping = sum(_loops(row) for row in rows) / len(rows)
    return [
        Finding("empty", empty / len(rows), 0.0, not empty, _count(empty, len(rows), "empty")),
        _leaks([row["text"] for row in rows], ()),
        Finding("loop", looping, LOOP_RISE, looping <= LOOP_RISE, f"{looping:.0%} loop"),
    ]


def _answered(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["text"] is not None]


def _is_empty(row: Row) -> bool:
    return not row["text"].strip()


def _loops(row: Row) -> bool:
    return loop_share(parse(row["text"])) >= LOOP


def _count(number: int, of: int, what: str) -> str:
    return f"{number} of {of} {what}" if number else f"none {what}"


def _compared(name: str, flag: Flag, after: Sequence[Row], before: Sequence[Row] | None, line: float) -> Finding:
    """The share of answers with a flag; fails when its change lies clearly beyond `line` (below it when negative)."""
    values = [float(flag(row)) for row in after]
    now = sum(values) / len(values)
    if not before:
        return Finding(name, now, None, None, f"{now:.0%} {name}")
    earlier = [float(flag(row)) for row in before]
    was = sum(earlier) / len(earlier)
    shown = f"{now:.0%} {name} (was {was:.0%})"
    if not {row["id"] for row in after} & {row["id"] for row in before}:
        return Finding(name, now, None, None, f"{shown}, on other prompts")
    change = paired_difference(values, [row["id"] for row in after], earlier, [row["id"] for row in before])
    limit = min(max(was + line, 0.0), 1.0)
    return Finding(name, now, limit, not _beyond(change, line), shown)


def _beyond(change: Interval, line: float) -> bool:
    return change.high < line if line < 0 else change.low > line


def _leaks(texts: Sequence[str], controls: Sequence[str]) -> Finding:
    """Answers that hold a control string of a chat protocol or of the model's own: there may be none."""
    own = [control for control in controls if control.strip()]
    first: str | None = None
    leaking = 0
    for text in texts:
        seen = unicodedata.normalize("NFKC", text)
        found = CONTROL.search(seen)
        literal = found.group() if found else next((control for control in own if control in text), None)
        leaking += literal is not None
        first = first or literal
    note = _count(leaking, len(texts), "with control tokens") + (f" ('{first}')" if first else "")
    return Finding("control tokens", leaking / len(texts), 0.0, not leaking, note)


def _words(rows: Sequence[Row]) -> list[int]:
    return [len(row["text"].split()) for row in rows]


def _length(after: Sequence[Row], before: Sequence[Row] | None, references: Sequence[str]) -> Finding:
    """Quantiles of the length in words; the median is held to that of the references, or of the step before."""
    words = sorted(_words(after))
    low, median, high = (_quantile(words, at) for at in QUANTILES)
    note = f"{low:.0f} / {median:.0f} / {high:.0f} words (10, 50, 90 %)"
    known = [len(text.split()) for text in references] or (_words(before) if before else [])
    if before is None or not known or not (usual := _quantile(sorted(known), 0.5)):
        return Finding("length", median, None, None, note, hard=False)
    ok = usual / LENGTH <= median <= usual * LENGTH
    limit = usual * LENGTH if median > usual else usual / LENGTH
    what = "references" if references else "before"
    return Finding("length", median, limit, ok, f"{note}, {what} {usual:.0f}", hard=False)


def _quantile(ordered: Sequence[int], at: float) -> float:
    if len(ordered) < 2:
        return float(ordered[0])
    return float(quantiles(ordered, n=10, method="inclusive")[round(at * 10) - 1])


def _copies(after: Sequence[Row], training: Sequence[str], references: Sequence[str]) -> list[Finding]:
    """How many answers are made of the training rows; references, which no row may equal, say how many must be."""
    if not training:
        return []
    rows = Training(training)
    share = _copied(rows, [row["text"] for row in after])
    fresh = _copied(rows, references) if references else None
    note = f"{share:.0%} half copied, in runs of {RUN} words, from the training rows"
    if fresh is None:
        return [Finding("copied", share, None, None, note, hard=False)]
    limit = min(fresh + COPIED_RISE, 1.0)
    return [Finding("copied", share, limit, share <= limit, f"{note} (references {fresh:.0%})", hard=False)]


def _copied(rows: Training, texts: Sequence[str]) -> float:
    return sum(rows.lookup(parse(text).words).share >= COPIED for text in texts) / len(texts)
