"""Preferences that others have made, as they are: a file, a directory or hub id of a data set, or a step of pairs.

Their texts are nobody's here: control strings are removed from them, and what the evaluation asks or tells is dropped.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from posttrain.chain.paths import find_path
from posttrain.chain.stage import StageContext
from posttrain.errors import PosttrainError
from posttrain.rows import Row, dump_row
from posttrain.stages.data_source import file_rows, is_file_of_rows, source_rows
from posttrain.stages.leaks import REMOVED, TOLD, cleaned, without_asked, without_told
from posttrain.stages.pair_rows import Made, label_row, rules_of, said

if TYPE_CHECKING:
    from data_gen.pairing import Rules
    from posttrain.stages.pairs import PairsConfig

SIDES = ("chosen", "rejected", "completion")
REPEATED = "repeated"


def check_source(config: "PairsConfig", reference: str) -> None:
    """Refuse a local file with a row of no known form, before any step runs. Other names may be those of steps."""
    path = find_path(reference)
    if is_file_of_rows(path):
        for _ in _formed(file_rows(path), config, reference, Counter()):
            pass


def from_source(config: "PairsConfig", ctx: StageContext, held_out: Sequence[Row]) -> Made:
    """Its rows in our format, but for those that teach nothing, stand there twice, or that the evaluation knows."""
    source = ctx.inputs["source"]
    found = source_rows(source, config.split, config.subset, config.rows, ctx.work)
    dropped: Counter[str] = Counter()
    rows, removed = _cleaned(_formed(found, config, source.reference, dropped), ctx, len(found))
    rules = rules_of(config)
    rows = _sound(rows, lambda row: _fault(row, rules), dropped)
    seen: set[str] = set()
    rows = _sound(rows, lambda row: _repeated(row, seen), dropped)
    kept, leaked = without_asked(rows, [(row["prompt"], {}) for row in rows], held_out, config.near_duplicates)
    new = without_told(kept, held_out)
    counts = {**dropped, **leaked, TOLD: len(kept) - len(new)}
    if config.format == "paired" or _has_labels(found):
        return _made(new, "pairs" if config.format == "paired" else "answers", len(found), {REMOVED: removed, **counts})
    answers = [label for row in new for label in _labels(row)]
    counts = {name: 2 * count for name, count in counts.items()}  # of answers, too
    return _made(answers, "answers", 2 * len(found), {REMOVED: removed, **counts})


def _made(rows: list[Row], unit: str, asked: int, counts: dict[str, int]) -> Made:
    return Made(rows, [dump_row({"prompt": row["prompt"]}) for row in rows], unit, asked, counts, {})


def _labels(row: Row) -> list[Row]:
    """A pair as two answers with a label."""
    sides = (("chosen", True), ("rejected", False))
    return [
        label_row(
            f"{row['id']}/{side}", row["prompt"], row[side][0]["content"], label, row[f"score_{side}"], row["source"]
        )
        for side, label in sides
    ]


def _has_labels(rows: Sequence[Row]) -> bool:
    """Whether a source holds single answers: its first row says so."""
    return "completion" in rows[0]


def _formed(rows: Sequence[Row], config: "PairsConfig", reference: str, dropped: Counter[str]) -> Iterator[Row]:
    """Rows in our format; those that teach nothing are counted, one of no known form is an error."""
    from data_gen.preferences import Labelled, PreferenceError, read_labelled, read_preference

    read = read_labelled if config.format == "unpaired" and _has_labels(rows) else read_preference
    names: set[str] = set()
    for number, row in enumerate(rows):
        try:
            found = read(row)
        except PreferenceError as error:
            raise PosttrainError(f"{reference}, row {number + 1}: {error}.") from None
        if isinstance(found, str):
            dropped[found] += 1
            continue
        name = row["id"] if isinstance(row.get("id"), str) and row["id"] not in names else f"{number:06d}"
        names.add(name)
        if isinstance(found, Labelled):
            yield label_row(name, found.prompt, found.completion, found.label, None, found.source)
        else:
            sides = {"chosen": said(found.chosen), "rejected": said(found.rejected)}
            scores = {"score_chosen": found.score_chosen, "score_rejected": found.score_rejected}
            yield {"id": name, "prompt": found.prompt, **sides, **scores, "source": found.source}


def _cleaned(rows: Iterable[Row], ctx: StageContext, total: int) -> tuple[list[Row], int]:
    """The rows without control strings, and how many were removed."""
    from posttrain.lm.tokenizer import CHAT_TOKENS

    kept, removed = [], 0
    with ctx.progress(total, "rows") as tick:
        for row in rows:
            texts = {name: cleaned(row[name], CHAT_TOKENS) for name in ("prompt", *SIDES) if name in row}
            kept.append({**row, **{name: messages for name, (messages, _) in texts.items()}})
            removed += sum(count for _, count in texts.values())
            tick(min(len(kept), total))
    return kept, removed


def _sound(rows: Iterable[Row], fault: Callable[[Row], str | None], dropped: Counter[str]) -> list[Row]:
    """The rows without a fault; the others are counted by it."""
    kept = []
    for row in rows:
        found = fault(row)
        if found is None:
            kept.append(row)
        else:
            dropped[found] += 1
    return kept


def _fault(row: Row, rules: "Rules") -> str | None:
    from data_gen.pairing import LENGTHS, NEAR, TIE, lengths_match, near
    from data_gen.preferences import NO_ANSWER, NO_PROMPT

    if not row["prompt"][-1]["content"].strip():
        return NO_PROMPT
    texts = [row[name][0]["content"] for name in SIDES if name in row]
    if not all(text.strip() for text in texts):
        return NO_ANSWER
    if "label" in row:
        return None
    better, worse = row["score_chosen"], row["score_rejected"]
    if better is not None and worse is not None and (better <= worse or better - worse < rules.margin):
        return TIE
    one, other = texts
    if near(one, other, rules.near_duplicates):
        return NEAR
    ratio = rules.length_ratio
    return LENGTHS if ratio is not None and not lengths_match(one, other, ratio) else None


def _repeated(row: Row, seen: set[str]) -> str | None:
    key = dump_row({name: row.get(name) for name in ("prompt", *SIDES)})
    if key in seen:
        return REPEATED
    seen.add(key)
    return None
