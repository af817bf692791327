"""What a generator drafts: its source, and its rows with a journal file every CHUNK of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.chain.paths import find_path
from posttrain.chain.stage import Input, StageContext
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages.data_source import file_rows, is_file_of_rows
from posttrain.stages.data_source import source_rows as published
from posttrain.stages.splits import shown

if TYPE_CHECKING:
    from posttrain.stages.generate import GenerateConfig

CHUNK = 1_000  # rows a journal file: what a killed run does not make again


def check_source(reference: str, column: str) -> None:
    """Refuse a local file with a broken line or a row without its column. Another name may be a step's."""
    path = find_path(reference)
    if is_file_of_rows(path):
        for _ in _with_column(file_rows(path), column, reference):
            pass


def source_rows(source: Input, column: str, work: Path) -> list[Row]:
    """The rows of a file or data set (its train split), or those that a step made to train on."""
    trained = source.path / "train.jsonl"
    rows = read_rows(trained) if trained.is_file() else published(source, "train", None, None, work)
    return list(_with_column(rows, column, source.reference))


def _with_column(rows: Sequence[Row], column: str, where: str) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get(column), str):
            raise PosttrainError(
                f"{where}, row {number}: no '{column}'; a string is needed. Correct or delete the row."
            )
        yield row


def drafted(config: "GenerateConfig", ctx: StageContext) -> tuple[list[Row], dict[str, int]]:
    """All rows as they come from the generator, and what of the source could not be used."""
    generator, skip = config.made_by, config.skip
    source = source_rows(ctx.inputs["source"], str(generator.column), ctx.work) if config.source is not None else []
    draft = generator.draft(config.seed, source)
    total = config.rows
    if draft.total is not None:
        if draft.total <= skip:
            dropped = shown({name: count for name, count in draft.dropped.items() if name != "kept"})
            raise PosttrainError(
                f"{ctx.inputs['source'].reference}: {draft.total} texts can be used (dropped: {dropped}); more than "
                f"{skip}, those that are skipped, are needed. Give another source, or a smaller skip."
            )
        total = min(total, draft.total - skip)
    journal = ctx.work / "rows"
    journal.mkdir(exist_ok=True)
    rows: list[Row] = []
    with ctx.progress(total, "rows") as tick:
        for start in range(0, total, CHUNK):
            path = journal / f"rows-{start:07d}.jsonl"
            if not path.is_file():
                write_rows(path, draft.make(skip + start, skip + min(start + CHUNK, total)))
            rows += read_rows(path)
            tick(min(start + CHUNK, total))
    return rows, {name: count for name, count in draft.dropped.items() if name != "kept"}
