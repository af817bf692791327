"""The card of a data step: README.md, with which `datasets.load_dataset` reads the directory as it is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.chain.references import ENDPOINT
from posttrain.chain.stage import StageContext
from posttrain.rows import Row, write_text

if TYPE_CHECKING:
    from posttrain.stages.generate import GenerateConfig

OURS = "apache-2.0"  # the story world's, as all of this project


class Making(NamedTuple):
    """How the rows came about: drafted, dropped by reason, what evaluations share with them, calls, tokens, dollars."""

    made: int
    dropped: Mapping[str, int]
    overlaps: Sequence[Mapping[str, Any]]
    spend: tuple[int, int, float | None]


def write_card(
    config: "GenerateConfig", splits: Mapping[str, Sequence[Row]], making: Making, ctx: StageContext
) -> None:
    """Write README.md, and the splits as Parquet where the config says so. Nothing in it depends on where it ran."""
    from data_gen.card import Facts, Spend, Split, card
    from data_gen.tabular import columns, row_types, write_parquet

    types = row_types([row for rows in splits.values() for row in rows])
    ending = "parquet" if config.parquet else "jsonl"
    if config.parquet:
        for name, rows in splits.items():
            write_parquet(ctx.out / f"{name}.parquet", rows, types)
    teachers = _teachers(config, ctx)
    own = config.source is None and not teachers
    facts = Facts(
        name=f"{config.generator} rows",
        splits={name: Split(f"{name}.{ending}", len(rows)) for name, rows in splits.items()},
        generator=config.generator,
        teachers=teachers,
        seed=config.seed,
        made=making.made,
        dropped=making.dropped,
        sources={_source(config, ctx): sum(map(len, splits.values()))},
        licences={_source(config, ctx): OURS} if config.source is None else {},
        spend=Spend(*making.spend),
        example=splits["train"][0],
        columns=columns(types),
        licence=config.license or (OURS if own else None),
        language=config.filters.language,
        tags=("posttrain",),
        overlaps=making.overlaps,
    )
    write_text(ctx.out / "README.md", card(facts))


def _source(config: "GenerateConfig", ctx: StageContext) -> str:
    """What people may know of it: a file's name and not its folder; what a recipe calls a step says nothing here."""
    if config.source is None:
        return "posttrain's own texts"
    source = ctx.inputs["source"]
    if source.identity.startswith("hub:"):
        return source.identity.removeprefix("hub:datasets/")
    return source.path.name if source.path.is_file() else "rows of an earlier step"


def _teachers(config: "GenerateConfig", ctx: StageContext) -> list[str]:
    """A hub id or an endpoint's model by its name, others by the start of what their weights are."""
    found = []
    for one in config.asked:
        if one.endpoint is not None:
            found.append(f"{ENDPOINT}{one.endpoint.model}")
        else:
            identity = ctx.inputs[one.name].identity
            found.append(identity if identity.startswith("hub:") else f"a local model ({identity[:12]})")
    return found
