"""What the teachers of a step would be asked, at most, before anything is asked: for `plan` and `--dry-run`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from posttrain.chain.stage import Input, Planned, RemoteCalls
from posttrain.engines.budget import estimate
from posttrain.engines.journal import Journal
from posttrain.rows import Row
from posttrain.stages.drafting import source_rows
from posttrain.stages.remote_teaching import Question, requests_of
from posttrain.stages.teachers import shares

if TYPE_CHECKING:
    from posttrain.stages.generate import GenerateConfig

CHARACTERS = 2_000  # of a source's row that is not made yet


def teacher_calls(planned: Planned) -> RemoteCalls | None:
    """The calls to endpoints; None where there is none. No row is taken to be dropped before it is asked."""
    config: GenerateConfig = planned.config
    remote = {one.name: one.endpoint for one in config.asked if one.endpoint is not None}
    if not remote:
        return None
    generator = config.made_by
    assert generator.ask is not None
    parts = shares(config.asked, _rows(config, planned), config.seed)
    journal = Journal(planned.journal) if planned.journal.is_file() else None  # a plan leaves nothing behind
    try:
        found = []
        for name, endpoint in remote.items():
            questions = [Question(generator.ask(row), generator.schema(row)) for row in parts[name]]
            found.append(estimate(endpoint, requests_of(questions, schema=True), journal))
    finally:
        if journal is not None:
            journal.close()
    usd = [one.usd for one in found if one.usd is not None]
    return RemoteCalls(
        sum(one.requests for one in found),
        sum(one.answered for one in found),
        sum(one.prompt_tokens + one.completion_tokens for one in found),
        sum(usd) if len(usd) == len(found) else None,
        sum(map(len, parts.values())),
    )


def _rows(config: "GenerateConfig", planned: Planned) -> list[Row]:
    """The rows as they will be drafted; from stand-ins where the source is a step that has not run yet."""
    generator, column = config.made_by, str(config.made_by.column)
    source: list[Row] = []
    if "source" in planned.made:
        path = planned.made["source"]
        with TemporaryDirectory() as work:
            source = source_rows(Input(path, "", str(path)), column, Path(work))
    elif "source" in planned.awaited:
        count = min(config.rows + config.skip, planned.awaited["source"].rows)
        source = [{"id": f"{number}", column: f"{number} ".ljust(CHARACTERS, "x")} for number in range(count)]
    draft = generator.draft(config.seed, source)
    total = config.rows if draft.total is None else max(0, min(config.rows, draft.total - config.skip))
    return draft.make(config.skip, config.skip + total)
