"""generate: instruction rows, clean and counted.

The story world tells both sides, an existing corpus gives the answers, or a teacher writes them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from posttrain.chain.stage import InputPath, Metrics, Stage, StageContext, StepConfig
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages.teaching import SamplingSettings, Written, check_template, open_teacher, write_answers

CHUNK = 1_000  # rows a journal file: what a killed run does not make again
OF_A_TEACHER = ("sampling", "require_words")


class GenerateConfig(StepConfig):
    """`instructions` tells new stories; `backtranslate` derives instructions from the `text` rows of `source`.

    A `teacher` answers the instructions in place of the story world.
    """

    kind: Literal["generate"]
    generator: Literal["instructions", "backtranslate"] = "instructions"
    rows: int = Field(3_000, ge=10, description="rows to make; backtranslate stops earlier when the source ends")
    skip: int = Field(0, ge=0, description="rows left to another step of the same seed or source")
    source: InputPath | None = Field(None, description="JSONL with a 'text' column, for backtranslate")
    teacher: str | None = Field(None, description="who answers: a step, a local directory or a hub id")
    sampling: SamplingSettings = SamplingSettings()
    require_words: bool = Field(True, description="drop a teacher's answer that lacks a required word")
    hold_out: InputPath | None = Field(None, description="prompts that no row may equal; the judge's by default")
    near_duplicates: float = Field(0.8, gt=0, le=1, description="estimated Jaccard similarity that counts as equal")
    test_size: int = Field(100, ge=2, description="rows set aside to measure held-out answers on")

    @model_validator(mode="after")
    def _source_fits(self) -> "GenerateConfig":
        if self.generator == "backtranslate" and self.source is None:
            raise ValueError("generator backtranslate needs 'source': a JSONL file with a 'text' column")
        if self.generator == "instructions" and self.source is not None:
            raise ValueError("generator instructions takes no 'source'; use generator: backtranslate")
        return self

    @model_validator(mode="after")
    def _teacher_fits(self) -> "GenerateConfig":
        if self.teacher is not None and self.generator != "instructions":
            raise ValueError(f"generator {self.generator} has its answers already; delete 'teacher'")
        idle = [name for name in OF_A_TEACHER if getattr(self, name) != type(self).model_fields[name].default]
        if self.teacher is None and idle:
            raise ValueError(f"{' and '.join(idle)}: for a teacher's answers, and there is none; add 'teacher'")
        return self


def check(config: GenerateConfig, where: str) -> None:
    """Refuse a source with a broken line, or a directory that cannot be asked, before any compute."""
    if config.teacher is not None:
        check_template(config.teacher, f"{where}.teacher")
    if config.source is not None:
        for _ in _texts(config.source):
            pass


def run(config: GenerateConfig, ctx: StageContext) -> Metrics:
    """train.jsonl and test.jsonl: {"id", "messages", "words", …}; every row that is dropped is counted."""
    from data_gen.dedup import deduplicate
    from data_gen.holdout import drop_held_out

    teacher = open_teacher(ctx.inputs["teacher"]) if config.teacher is not None else None
    rows, counts = _made(config, ctx)
    counts["control strings removed"] = _strip(rows)
    prompts = read_rows(config.hold_out) if config.hold_out else []
    written, not_asked = None, 0
    if teacher is not None:
        rows, not_asked = drop_held_out([_unanswered(row) for row in rows], prompts)
        written = write_answers(teacher, rows, config.sampling, config.seed, config.require_words, ctx)
        rows, counts = written.rows, counts | written.counts
    with ctx.progress(len(rows), "rows compared") as tick:
        rows, same = deduplicate(rows, config.near_duplicates, tick)
    rows, held = drop_held_out(rows, prompts)
    counts |= same | {"equal to a held-out prompt": not_asked + held}
    if len(rows) < 2 * config.test_size:
        raise PosttrainError(
            f"generate: {len(rows)} rows are left ({_shown(counts)}); at least {2 * config.test_size} are needed "
            "(twice test_size). Make more rows, give a larger source, or lower test_size."
        )
    every = len(rows) // config.test_size  # from all over: a corpus is rarely in random order
    held_out = set(range(0, every * config.test_size, every))
    write_rows(ctx.out / "test.jsonl", (row for at, row in enumerate(rows) if at in held_out))
    write_rows(ctx.out / "train.jsonl", (row for at, row in enumerate(rows) if at not in held_out))
    kept = len(rows) - config.test_size
    by = config.generator if teacher is None else f"{config.generator}, answered by {teacher.reference}"
    return {
        "summary": f"{kept:,} rows by {by}, {config.test_size} held out; dropped: {_shown(counts)}",
        "rows": kept,
        "rows_held_out": config.test_size,
        "counts": counts,
        **(_teacher_metrics(written, len(rows)) if written else {}),
    }


def _teacher_metrics(written: Written, left: int) -> Metrics:
    """What the teacher wrote, and the share of its answers that are left."""
    return {
        "answers": written.answers,
        "share_kept": round(left / written.answers, 4),
        "teacher_tokens": written.tokens,
        "tokens_per_second": written.tokens_per_second,
    }


def _unanswered(row: Row) -> Row:
    return {**row, "messages": row["messages"][:-1]}


def _shown(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count and name != "kept") or "none"


def _made(config: GenerateConfig, ctx: StageContext) -> tuple[list[Row], dict[str, int]]:
    """All rows as they come from the generator, a journal file every CHUNK rows."""
    make, total, counts = _generator(config)
    journal = ctx.work / "rows"
    journal.mkdir(exist_ok=True)
    rows: list[Row] = []
    with ctx.progress(total, "rows") as tick:
        for start in range(0, total, CHUNK):
            path = journal / f"rows-{start:07d}.jsonl"
            if not path.is_file():
                write_rows(path, make(start, min(start + CHUNK, total)))
            rows += read_rows(path)
            tick(min(start + CHUNK, total))
    return rows, counts


def _generator(config: GenerateConfig) -> tuple[Callable[[int, int], list[Row]], int, dict[str, int]]:
    """A function of (start, stop), how many rows there are, and what was dropped on the way."""
    skip = config.skip
    if config.source is None:
        from data_gen.instructions import instruction_rows

        return lambda start, stop: instruction_rows(config.seed, skip + start, skip + stop), config.rows, {}
    from data_gen.backtranslate import backtranslate_rows

    rows, counts = backtranslate_rows(list(_texts(config.source)), config.seed)
    if len(rows) <= skip:
        raise PosttrainError(
            f"{config.source}: {len(rows)} texts can be used ({_shown(counts)}); more than {skip}, those that are "
            "skipped, are needed. Give another source, or a smaller skip."
        )
    return lambda start, stop: rows[skip + start : skip + stop], min(config.rows, len(rows) - skip), counts


def _texts(source: Path) -> Iterator[str]:
    for number, row in enumerate(read_rows(source), start=1):
        text = row.get("text")
        if not isinstance(text, str):
            raise PosttrainError(f"{source}, row {number}: no 'text'; a string is needed. Correct or delete the row.")
        yield text


def _strip(rows: list[Row]) -> int:
    """Remove control strings from every text field, in place; returns how many were removed."""
    from data_gen.strip import strip_control
    from posttrain.lm.tokenizer import CHAT_TOKENS

    total = 0
    for row in rows:
        for message in row["messages"]:
            message["content"], removed = strip_control(message["content"], CHAT_TOKENS)
            total += removed
        if row.get("first_sentence"):
            row["first_sentence"], _ = strip_control(row["first_sentence"], CHAT_TOKENS)
    return total


GENERATE = Stage(
    kind="generate",
    version=2,
    config=GenerateConfig,
    makes="rows",
    inputs={"teacher": frozenset({"model"})},
    run=run,
    sources=(
        "posttrain/stages/generate.py",
        "posttrain/stages/teaching.py",
        "posttrain/engines/transformers_engine.py",
        "posttrain/lm/chat.py",
        "posttrain/lm/models.py",
        "data_gen",
        "eval/words.py",
    ),
    outside=frozenset({"teacher"}),
    check=check,
)
