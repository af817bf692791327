"""Rows and their teachers: each row is asked of one of them, and its answer kept where nothing is wrong with it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from posttrain.chain.stage import Metrics, StageContext
from posttrain.engines.journal import Journal
from posttrain.rows import Row
from posttrain.stages.asking import Account
from posttrain.stages.remote_teaching import Question, endpoint_answers
from posttrain.stages.teachers import TEACHER, Asked, shares
from posttrain.stages.teaching import FAULTS, Replies, Teacher, Told, fault, local_answers, open_teacher

if TYPE_CHECKING:
    from posttrain.stages.generate import GenerateConfig


def open_teachers(config: "GenerateConfig", ctx: StageContext) -> dict[str, Teacher]:
    """Those that are here, by their inputs' names, without their weights."""
    return {one.name: open_teacher(ctx.inputs[one.name]) for one in config.asked if one.endpoint is None}


class Taught(NamedTuple):
    """Rows with answers, in their order; how many have none, by reason; what asking came to.

    `spend` is what endpoints took for these answers, whenever they were made: calls, tokens, dollars if known.
    """

    rows: list[Row]
    counts: dict[str, int]
    metrics: Metrics
    spend: tuple[int, int, float | None]


def answered(config: "GenerateConfig", opened: Mapping[str, Teacher], rows: Sequence[Row], ctx: StageContext) -> Taught:
    """Ask each row of its teacher, and keep the answers with which nothing is wrong."""
    parts = shares(config.asked, rows, config.seed)
    with Journal(ctx.journal) as journal:
        account = Account(journal, ctx)
        made = {one.name: _ask(config, one, opened, parts[one.name], journal, ctx) for one in config.asked}
        priced = all(told.usd is not None for found in made.values() for told in found.replies.values())
        remote = [made[one.name] for one in config.asked if one.endpoint is not None]
        spent = account.spent(priced) if remote else {}
    by_row = {row["id"]: found for name, found in made.items() for row in parts[name]}
    counts: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
    kept = []
    for row in rows:
        result = _read(config, row, by_row[row["id"]])
        if isinstance(result, str):
            counts[result] += 1
        else:
            kept.append(result)
    speeds = [found.tokens_per_second for found in made.values() if found.tokens_per_second is not None]
    metrics = {
        "answers": len(rows),
        "teacher_tokens": sum(found.tokens for found in made.values()),
        "tokens_per_second": speeds[0] if len(made) == 1 and speeds else None,
    }
    return Taught(kept, dict(counts), {**metrics, **spent}, _spend(remote))


def _spend(remote: Sequence[Replies]) -> tuple[int, int, float | None]:
    told = [one for replies in remote for one in replies.replies.values() if one.completion is not None]
    usd = [one.usd for one in told if one.usd is not None]
    return len(told), sum(one.tokens for one in told), round(sum(usd), 6) if len(usd) == len(told) else None


def _ask(
    config: "GenerateConfig",
    one: Asked,
    opened: Mapping[str, Teacher],
    rows: Sequence[Row],
    journal: Journal,
    ctx: StageContext,
) -> Replies:
    generator = config.made_by
    assert generator.ask is not None  # the config has seen to it
    if one.endpoint is not None:
        asked = {row["id"]: Question(generator.ask(row), generator.schema(row)) for row in rows}
        return endpoint_answers(one.endpoint, asked, journal, config.budget, ctx)
    said = {row["id"]: generator.ask(row) for row in rows}
    folder = one.name.replace(TEACHER, "answers")
    return local_answers(opened[one.name], said, config.sampling, config.seed, ctx, folder)


def _read(config: "GenerateConfig", row: Row, replies: Replies) -> Row | str:
    """The answered row, or the first fault of the answer."""
    from data_gen.generator import Rejected

    told: Told = replies.replies[row["id"]]
    if told.completion is None:
        return str(told.fault)
    wrong = fault(told.completion, row["words"] if config.require_words else (), replies.controls)
    if wrong is not None:
        return wrong
    read = config.made_by.read(row, told.completion.text)
    if isinstance(read, Rejected):
        return read.reason
    provenance = {"generator": config.generator, "teacher": replies.identity, "prompt_sha256": told.prompt_sha256}
    return {**read, "provenance": {**provenance, "seed": config.seed, "usd": told.usd}}
