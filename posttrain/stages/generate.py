"""generate: rows of a request and its answer, clean, counted, and saying where they come from.

A generator of `data_gen` drafts the rows; it answers them itself, or teachers do.

lessons:  {kind: generate, generator: instructions, rows: 3000}
taught:   {kind: generate, generator: instructions, rows: 3000, teacher: openai:gpt-4o-mini, budget: {usd: 2}}
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from data_gen.generator import TEMPLATES, Generator
from data_gen.generators import GENERATORS
from posttrain.chain.identity import HowNotWhat, sha256_file
from posttrain.chain.stage import InputPath, Metrics, Stage, StageContext, StepConfig
from posttrain.engines.budget import Budget, limit_of
from posttrain.engines.endpoint import api_key
from posttrain.rows import Row, read_rows
from posttrain.stages.data_card import Making, write_card
from posttrain.stages.drafting import check_source, drafted
from posttrain.stages.hygiene import HELD_OUT, ScoreFilters, fit, unleaked, well_scored, without_pii
from posttrain.stages.pair_scores import PairsJudge
from posttrain.stages.splits import shown, write_splits
from posttrain.stages.teacher_cost import teacher_calls
from posttrain.stages.teachers import TEACHER, Asked, TeacherEndpoint, Teachers, teachers
from posttrain.stages.teaching import SamplingSettings, check_template
from posttrain.stages.teaching_rows import Taught, answered, open_teachers

OF_A_TEACHER = ("sampling", "require_words", "endpoint", "budget")


def _known(name: str) -> str:
    if name not in GENERATORS:
        raise ValueError(f"{', '.join(GENERATORS)} is allowed. Choose one of these")
    return name


class GenerateConfig(StepConfig):
    """`instructions` tells new stories; `backtranslate` derives instructions from the `text` rows of `source`.

    A `teacher` answers in place of the generator, which for some generators is the only way.
    """

    kind: Literal["generate"]
    generator: Annotated[str, AfterValidator(_known)] = Field(
        "instructions", json_schema_extra={"enum": list(GENERATORS)}
    )
    rows: int = Field(3_000, ge=10, description="rows to make; fewer where the source ends earlier")
    skip: int = Field(0, ge=0, description="rows left to another step of the same seed or source")
    source: str | None = Field(None, description="what is read: JSONL, a data set, or a step that makes rows")
    teacher: Teachers | None = Field(
        None, description="who answers: a step, a directory, a hub id, openai:MODEL, or a list of these with weights"
    )
    endpoint: TeacherEndpoint = Field(TeacherEndpoint(), description="where a teacher openai:MODEL answers")
    budget: Annotated[Budget | None, HowNotWhat] = Field(
        None, description="of all calls of this recipe; no call is sent that might pass it"
    )
    sampling: SamplingSettings = Field(SamplingSettings(), description="of a teacher that is no endpoint")
    require_words: bool = Field(True, description="drop a teacher's answer that lacks a required word")
    hold_out: InputPath | None = Field(None, description="prompts that no row may equal; the judge's by default")
    decontaminate: tuple[InputPath, ...] = Field(
        (), description="prompt sets of which no row may hold much; by default all that the recipe names"
    )
    filters: ScoreFilters = ScoreFilters()
    judge: PairsJudge | None = Field(None, description="who scores for filters.min_score; the recipe's by default")
    near_duplicates: float = Field(0.8, gt=0, le=1, description="estimated Jaccard similarity that counts as equal")
    test_size: int = Field(100, ge=2, description="rows set aside to measure held-out answers on")
    parquet: bool = Field(False, description="write Parquet too; the data card then names these files")
    license: str | None = Field(None, description="of the rows, for the data card, by the hub's name: apache-2.0, say")

    @model_validator(mode="before")
    @classmethod
    def _without_idle_judge(cls, values: Any) -> Any:
        """The recipe offers its judge to every step of this kind; where it is not asked it is no part of the step."""
        offered = isinstance(values, dict) and isinstance(values.get("judge"), BaseModel)
        filters = (values.get("filters") or {}) if offered else {}
        if offered and isinstance(filters, dict) and filters.get("min_score") is None:
            return {**values, "judge": None}
        return values

    @property
    def asked(self) -> list[Asked]:
        return teachers(self.teacher, self.endpoint)

    @property
    def made_by(self) -> Generator:
        return GENERATORS[self.generator]

    @model_validator(mode="after")
    def _source_fits(self) -> "GenerateConfig":
        generator = self.made_by
        if generator.source_needed and self.source is None:
            raise ValueError(f"generator {self.generator} needs 'source': JSONL with a '{generator.column}' column")
        if generator.column is None and self.source is not None:
            others = [name for name, other in GENERATORS.items() if other.column]
            raise ValueError(f"generator {self.generator} takes no 'source'; use one of {', '.join(others)}")
        return self

    @model_validator(mode="after")
    def _judge_fits(self) -> "GenerateConfig":
        if (self.filters.min_score is None) != (self.judge is None):
            raise ValueError("filters.min_score and 'judge' go together. Add or delete one of them")
        return self

    @model_validator(mode="after")
    def _teacher_fits(self) -> "GenerateConfig":
        generator = self.made_by
        if self.asked and generator.ask is None:
            raise ValueError(f"generator {self.generator} has its answers already; delete 'teacher'")
        unanswered = not generator.answers or (self.source is not None and not generator.source_needed)
        if not self.asked and unanswered:
            raise ValueError(f"generator {self.generator} has no answers of its own here; add 'teacher'")
        idle = [name for name in OF_A_TEACHER if getattr(self, name) != type(self).model_fields[name].default]
        if not self.asked and idle:
            raise ValueError(f"{' and '.join(idle)}: for a teacher's answers, and there is none; add 'teacher'")
        remote = [one.endpoint is not None for one in self.asked]
        unread = {"sampling"} if all(remote) else set() if any(remote) else {"endpoint", "budget"}
        for name in unread & set(idle) if self.asked else ():
            where = "here" if name == "sampling" else "behind an endpoint"
            raise ValueError(f"{name}: for a teacher {where}, and there is none; delete it")
        if not isinstance(self.teacher, str) and "endpoint" in idle:
            raise ValueError("endpoint: of several teachers each has its own; move it into the list")
        return self


def check(config: GenerateConfig, where: str) -> None:
    """Refuse a source with a broken line, a directory that cannot be asked, or a budget without a price."""
    for one in config.asked:
        if one.endpoint is not None:
            limit_of(config.budget, one.endpoint)
    names = [config.teacher] if isinstance(config.teacher, str) else [one.model for one in config.teacher or ()]
    for one, name in zip(config.asked, names, strict=True):
        if one.endpoint is None and name is not None:
            check_template(name, f"{where}.{one.name}")
    if config.source is not None:
        check_source(config.source, str(config.made_by.column))


def ready(config: GenerateConfig) -> None:
    """Refuse an endpoint whose key is not set, before anything runs."""
    for one in config.asked:
        if one.endpoint is not None:
            api_key(one.endpoint)


def run(config: GenerateConfig, ctx: StageContext) -> Metrics:
    """train.jsonl and test.jsonl: {"id", "messages", "provenance", …}; every row that is dropped is counted.

    README.md beside them is the card of the data set; with `parquet` both are there as Parquet too.
    """
    from data_gen.holdout import drop_held_out

    opened = open_teachers(config, ctx)
    rows, unused = drafted(config, ctx)
    counts = Counter(unused)
    made = len(rows) + sum(unused.values())
    stripped = _strip(rows)
    prompts = read_rows(config.hold_out) if config.hold_out else []
    taught = Taught(rows, {}, {}, (0, 0, 0.0))
    if config.asked:
        rows, personal = without_pii([_unanswered(row) for row in rows], config.filters)  # before it leaves the machine
        rows, not_asked = drop_held_out(rows, prompts)
        taught = answered(config, opened, rows, ctx)
        counts.update({**personal, **taught.counts, HELD_OUT: not_asked})
        rows = taught.rows
    else:
        rows = [{**row, "provenance": _own(config)} for row in rows]
    rows, unfit = fit(rows, config.filters)
    rows, low, judged = well_scored(rows, config.filters, config.judge, ctx)
    rows, leaked, overlaps = unleaked(rows, config.near_duplicates, prompts, config.decontaminate, ctx)
    counts.update({**unfit, **low, **leaked})
    kept = write_splits(rows, config.test_size, counts, "generate", ctx.out)
    write_card(config, kept, Making(made, counts, overlaps, taught.spend), ctx)
    return {
        **_metrics(config, kept, {**counts, "control strings removed": stripped}, ctx),
        **taught.metrics,
        **({"share_kept": round(len(rows) / taught.metrics["answers"], 4)} if config.asked else {}),
        **judged,
        **({"overlaps": overlaps} if overlaps else {}),
    }


def _metrics(
    config: GenerateConfig, splits: Mapping[str, Sequence[Row]], counts: Mapping[str, int], ctx: StageContext
) -> Metrics:
    kept = len(splits["train"])
    by = ", ".join(_shown_teacher(config, one, ctx) for one in config.asked)
    summary = f"{kept:,} rows by {config.generator}{f', answered by {by}' if by else ''}"
    return {
        "summary": f"{summary}, {config.test_size} held out; dropped: {shown(counts)}",
        "rows": kept,
        "rows_held_out": config.test_size,
        "counts": dict(counts),
    }


def _shown_teacher(config: GenerateConfig, one: Asked, ctx: StageContext) -> str:
    return one.endpoint.model if one.endpoint is not None else ctx.inputs[one.name].reference


def _own(config: GenerateConfig) -> Row:
    return {"generator": config.generator, "teacher": None, "prompt_sha256": None, "seed": config.seed, "usd": 0.0}


def _unanswered(row: Row) -> Row:
    from data_gen.generator import own_request

    return {**row, "messages": own_request(row)}


def _strip(rows: Sequence[Row]) -> int:
    """Remove control strings from every text of a row, in place; returns how many its messages held.

    A teacher is asked of further fields too, and an endpoint takes control strings in a message as control.
    """
    from data_gen.strip import strip_control
    from posttrain.lm.tokenizer import CHAT_TOKENS

    total = 0
    for row in rows:
        for message in row["messages"]:
            message["content"], removed = strip_control(message["content"], CHAT_TOKENS)
            total += removed
        for name in [name for name, value in row.items() if isinstance(value, str)]:
            row[name], _ = strip_control(row[name], CHAT_TOKENS)
    return total


def _template(config: GenerateConfig) -> str | None:
    """The words of the questions decide the answers."""
    name = config.made_by.template
    return sha256_file(TEMPLATES / name) if name and config.asked else None


GENERATE = Stage(
    kind="generate",
    version=3,
    config=GenerateConfig,
    makes="rows",
    inputs={TEACHER: frozenset({"model"}), "source": frozenset({"rows"})},
    run=run,
    sources=(
        "posttrain/stages/generate.py",
        "posttrain/stages/drafting.py",
        "posttrain/stages/teaching.py",
        "posttrain/stages/teaching_rows.py",
        "posttrain/stages/remote_teaching.py",
        "posttrain/stages/hygiene.py",
        "posttrain/stages/splits.py",
        "posttrain/engines/transformers_engine.py",
        "posttrain/lm/chat.py",
        "posttrain/lm/models.py",
        "data_gen",
        "eval/words.py",
    ),
    outside=frozenset({TEACHER, "source"}),
    data_sets=frozenset({"source"}),
    check=check,
    ready=ready,
    remote=teacher_calls,
    also=_template,
)
