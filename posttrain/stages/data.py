"""data: instruction rows that others have published, read as they are, cleaned and counted.

data: {kind: data, source: HuggingFaceTB/smol-smoltalk, rows: 20000}
stories: {kind: data, source: roneneldan/TinyStories, rows: 20000, backtranslate: true}

A step of its own, beside `generate`: nothing is written here, no teacher is asked, and what was read once is an
artifact that sft, distill and their judges share.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from posttrain.chain.paths import find_path
from posttrain.chain.stage import InputPath, Metrics, Stage, StageContext, StepConfig
from posttrain.errors import PosttrainError
from posttrain.rows import Row, dump_row, read_rows
from posttrain.stages.data_source import file_rows, is_file_of_rows, source_rows
from posttrain.stages.hygiene import OVERLAPPING, Filters, fit
from posttrain.stages.leaks import REMOVED, TOLD, cleaned, without_asked
from posttrain.stages.splits import shown, write_splits

REPEATED = "repeated"


class DataConfig(StepConfig):
    """Rows of `source` with messages, prompt and completion, or instruction and output."""

    kind: Literal["data"]
    source: str = Field(description="a file, a data set (its directory or hub id), or a step that makes rows")
    split: str = Field("train", description="of a data set that is no single file, such as train_sft")
    subset: str | None = Field(None, description="configuration or folder of such a data set")
    rows: int | None = Field(None, ge=1, description="rows to read, from all over; all by default")
    backtranslate: bool = Field(False, description="rows are stories under 'text': write the request for each")
    filters: Filters = Filters()
    hold_out: InputPath | None = Field(None, description="prompts that no row may equal; the judge's by default")
    decontaminate: tuple[InputPath, ...] = Field(
        (), description="prompt sets of which no row may hold much; by default all that the recipe names"
    )
    near_duplicates: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of requests that counts as equal")
    test_size: int = Field(100, ge=2, description="rows set aside to measure held-out answers on")


def check(config: DataConfig, where: str) -> None:
    """Refuse a local file with a row of no known form, before any step runs."""
    path = find_path(config.source)
    if is_file_of_rows(path):
        _read(config, file_rows(path), config.source, Counter())


def run(config: DataConfig, ctx: StageContext) -> Metrics:
    """train.jsonl and test.jsonl: {"id", "messages", "words", "source"}; every row that is dropped is counted."""
    from data_gen.contamination import contaminated
    from data_gen.holdout import drop_held_out

    source = ctx.inputs["source"]
    found = source_rows(source, config.split, config.subset, config.rows, ctx.work)
    counts: Counter[str] = Counter()
    rows = _read(config, found, source.reference, counts)
    rows, unfit = fit(_new(_clean(rows, ctx, counts), counts), config.filters)
    prompts = read_rows(config.hold_out) if config.hold_out else []
    talks = [(row["messages"], {"words": row["words"]}) for row in rows]
    rows, leaked = without_asked(rows, talks, prompts, config.near_duplicates)
    rows, told = drop_held_out(rows, prompts)
    uncontaminated, _ = contaminated(rows, {str(path): read_rows(path) for path in config.decontaminate})
    counts.update({**unfit, **leaked, TOLD: told, OVERLAPPING: len(rows) - len(uncontaminated)})
    rows = uncontaminated
    write_splits(rows, config.test_size, counts, "data", ctx.out)
    kept = len(rows) - config.test_size
    return {
        "summary": f"{kept:,} rows of {source.reference}, {config.test_size} held out; dropped: {shown(counts)}",
        "rows": kept,
        "rows_read": len(found),
        "rows_held_out": config.test_size,
        "counts": dict(counts),
    }


def _read(config: DataConfig, found: Sequence[Row], reference: str, counts: Counter[str]) -> list[Row]:
    """Rows in our form; what teaches nothing is counted, a row of no known form is an error."""
    if config.backtranslate:
        return _backtranslated(config, found, reference, counts)
    from data_gen.conversations import ConversationError, read_conversation

    rows: list[Row] = []
    names: set[str] = set()
    for number, row in enumerate(found):
        try:
            talk = read_conversation(row)
        except ConversationError as error:
            only = " A data set of stories under 'text' needs backtranslate: true." if "text" in row else ""
            raise PosttrainError(f"{reference}, row {number + 1}: {error}.{only}") from None
        if isinstance(talk, str):
            counts[talk] += 1
            continue
        name = row["id"] if isinstance(row.get("id"), str) and row["id"] not in names else f"{number:06d}"
        names.add(name)
        rows.append({"id": name, "messages": talk.messages, "words": [], "source": talk.source})
    return rows


def _backtranslated(config: DataConfig, found: Sequence[Row], reference: str, counts: Counter[str]) -> list[Row]:
    """Requests that these stories honour (data_gen/backtranslate.py)."""
    from data_gen.backtranslate import backtranslate_rows

    for number, row in enumerate(found, start=1):
        if not isinstance(row.get("text"), str):
            raise PosttrainError(
                f"{reference}, row {number}: no 'text'; a story is needed with backtranslate: true. Leave that out for "
                "rows that are conversations."
            )
    rows, dropped = backtranslate_rows([row["text"].strip() for row in found], config.seed)
    counts.update({name: count for name, count in dropped.items() if name != "kept"})
    return rows


def _clean(rows: Sequence[Row], ctx: StageContext, counts: Counter[str]) -> list[Row]:
    """The rows without control strings; those of which nothing is left are counted."""
    from data_gen.conversations import fault
    from posttrain.lm.tokenizer import CHAT_TOKENS

    kept = []
    with ctx.progress(len(rows), "rows") as tick:
        for number, row in enumerate(rows, start=1):
            messages, removed = cleaned(row["messages"], CHAT_TOKENS)
            counts[REMOVED] += removed
            wrong = fault(messages)
            if wrong is None:
                kept.append({**row, "messages": messages})
            else:
                counts[wrong] += 1
            tick(number)
    return kept


def _new(rows: Sequence[Row], counts: Counter[str]) -> list[Row]:
    """Each conversation once."""
    once = {dump_row({"messages": row["messages"]}): row for row in reversed(rows)}
    counts[REPEATED] = len(rows) - len(once)
    return list(reversed(once.values()))


DATA = Stage(
    kind="data",
    version=1,
    config=DataConfig,
    makes="rows",
    inputs={"source": frozenset({"rows"})},
    run=run,
    sources=("posttrain/stages/data.py", "posttrain/stages/data_source.py", "posttrain/stages/leaks.py", "data_gen"),
    outside=frozenset({"source"}),
    data_sets=frozenset({"source"}),
    check=check,
)
