"""export: the model as files that people run, each measured by itself in the runtime that they will have.

export: {kind: export, model: sft, formats: [gguf-q8_0, onnx-int8]}

The artifact holds a directory a format. What a file lost stands in the record beside the fp32 model it was made from.
"""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from posttrain.chain.stage import InputPath, Metrics, Stage, StageContext, StepConfig
from posttrain.engines.threads import threads_for
from posttrain.errors import PosttrainError
from posttrain.exporting.limits import Limits, losses
from posttrain.rows import write_text
from posttrain.stages.export_corpus import corpus_of, references, untuned

if TYPE_CHECKING:
    from posttrain.exporting.compare import Figures
    from posttrain.exporting.measure import Corpus, Measured

MB = 1e6
TOP = 64  # likeliest ids of each scored token: enough for a tight bound of the KL, and small enough to be sent


class ExportConfig(StepConfig):
    """Files of one model. The first of `formats` is the one that the report names first."""

    kind: Literal["export"]
    model: str = Field(description="a step, a directory or a hub id")
    formats: tuple[str, ...] = Field(("gguf-q8_0",), min_length=1)
    name: str = Field("model", description="of the files")
    measured_on: InputPath | None = Field(None, description="rows {prompt, reference}; the judge's prompts by default")
    rows: int = Field(40, ge=2, description="references that are scored")
    completions: int = Field(20, ge=1, description="prompts completed greedily, which speed is measured on")
    new_tokens: int = Field(64, ge=2, description="of each greedy completion")
    limits: Limits = Field(Limits(), description="beyond them the step is an error")

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        from posttrain.exporting.formats import EXPORTS

        for name in formats:
            if name not in EXPORTS:
                raise ValueError(f"{', '.join(EXPORTS)} are allowed, found '{name}'. Correct that one")
        if len(set(formats)) < len(formats):
            raise ValueError("each format once is allowed. Delete the second")
        return formats

    @field_validator("name")
    @classmethod
    def _a_file_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("letters, digits, '.', '_' and '-' are allowed in a file name. Write another one")
        return name


def check(config: ExportConfig, where: str) -> None:
    """Refuse an export of which nothing could be measured, before anything runs."""
    references(config, where)


def run(config: ExportConfig, ctx: StageContext) -> Metrics:
    """A directory a format, and for each of them what it takes, how fast it is and what it lost."""
    from posttrain.exporting.compare import compare, tuned_kl
    from posttrain.exporting.formats import REFERENCE, format_of
    from posttrain.hub.fetch import local_directory

    source = local_directory(ctx.inputs["model"])
    corpus, base = corpus_of(config, source), untuned(source)
    threads = threads_for(format_of(REFERENCE).size(source))  # the same for every file of the comparison
    facts: dict[str, Metrics] = {}
    found: dict[str, Measured] = {}
    with ctx.progress(1 + 2 * len(config.formats) + (base is not None), "files") as tick:
        done = 0

        def step(note: str) -> None:
            nonlocal done
            done += 1
            tick(done, note)

        found[REFERENCE] = _measured(REFERENCE, source, corpus, threads, config, ctx)
        step("fp32 measured")
        before = None
        if base is not None:
            before = _measured(
                REFERENCE, base, corpus._replace(prompts=corpus.prompts[:1]), threads, config, ctx, "base"
            )
            step("base measured")
        for name in config.formats:
            facts[name] = _written(name, source, config, ctx)
            step(f"{name} written")
            found[name] = _measured(name, ctx.out / name, corpus, threads, config, ctx)
            step(f"{name} measured")
    reference = found[REFERENCE]
    figures = {name: compare(reference, found[name]) for name in config.formats}
    tuned = {name: None if before is None else round(tuned_kl(before, one), 6) for name, one in found.items()}
    rows = {name: {**_sizes(one), "tuned_kl": tuned[name]} for name, one in found.items()}
    for name, one in figures.items():
        rows[name] |= _losses(one) | {"facts": facts[name]}
        _check(config, name, one)
    return {
        "summary": "; ".join(_told(name, rows[name]) for name in config.formats),
        "formats": rows,
        "threads": threads,
        "scored_tokens": sum(len(row.tokens) for row in reference.rows),
    }


def _written(name: str, source: Path, config: ExportConfig, ctx: StageContext) -> Metrics:
    """The writer's facts. They are kept last: a directory without them is what a killed run left, and is made again."""
    from posttrain.exporting.formats import write_format

    kept = ctx.work / f"facts-{name}.json"
    if not kept.is_file():
        if (ctx.out / name).exists():
            shutil.rmtree(ctx.out / name)
        write_text(kept, json.dumps(write_format(name, source, ctx.out / name, config.name)))
    facts: Metrics = json.loads(kept.read_text(encoding="utf-8"))
    return facts


def _measured(
    name: str, path: Path, corpus: "Corpus", threads: int, config: ExportConfig, ctx: StageContext, kept: str = ""
) -> "Measured":
    """Measured once, also by a run that is killed in between."""
    from pydantic import TypeAdapter

    from posttrain.exporting.measure import Measured, measure

    file, adapter = ctx.work / f"measured-{kept or name}.json", TypeAdapter(Measured)
    if file.is_file():
        return adapter.validate_json(file.read_bytes())
    found = measure(name, path, corpus, threads=threads, top=TOP, new_tokens=config.new_tokens)
    write_text(file, adapter.dump_json(found).decode())
    return found


def _check(config: ExportConfig, name: str, figures: "Figures") -> None:
    """A file that is not the same model any more is no export."""
    if beyond := losses(figures, config.limits):
        raise PosttrainError(
            f"export: {name} is not the model that it was made from: {'; '.join(beyond)}. Choose another format, or "
            "widen export.limits where that is meant."
        )


def _sizes(one: "Measured") -> Metrics:
    """What a file takes, and how fast it is."""
    return {
        "bytes": one.size_bytes,
        "load_seconds": round(one.load_seconds, 3),
        "idle_mb": round(one.idle_mb, 1),
        "peak_mb": round(one.peak_mb, 1),
        "prefill_tokens_per_second": round(one.prefill.tokens_per_second, 1),
        "decode_tokens_per_second": round(one.decode.tokens_per_second, 1),
        "decode_ms": round(one.decode.milliseconds, 1),
        "decode_tokens": one.decode.tokens,
        "ms_per_token": round(one.decode.ms_per_token, 3),
    }


def _losses(figures: "Figures") -> Metrics:
    """How far a file is from the fp32 model."""
    change = figures.d_nll
    return {
        "ratio": {key: round(value, 4) for key, value in figures.ratios._asdict().items()},
        "nll": round(figures.nll, 5),
        "d_nll": {"score": round(change.mean, 6), "low": round(change.low, 6), "high": round(change.high, 6)},
        "d_nll_share": round(figures.d_nll_share, 6),
        "kl": round(figures.kl.mean, 6),
        "top1": round(figures.top1, 5),
        "top1_clear": None if figures.top1_clear is None else round(figures.top1_clear, 5),
        "tokenizer": round(figures.tokenizer, 5),
        "greedy": round(figures.greedy, 4),
    }


def _told(name: str, row: Metrics) -> str:
    return (
        f"{name} {row['bytes'] / MB:.1f} MB ({row['ratio']['size']:.2f} of fp32), held-out loss "
        f"{row['d_nll_share']:+.2%}, {row['ratio']['decode']:.1f} times as fast"
    )


EXPORT = Stage(
    kind="export",
    version=1,
    config=ExportConfig,
    makes="files",
    inputs={"model": frozenset({"model"})},
    run=run,
    sources=(
        "posttrain/stages/export.py",
        "posttrain/stages/export_corpus.py",
        "posttrain/exporting",
        "posttrain/lm/gguf.py",
        "posttrain/lm/gguf_vocabulary.py",
    ),
    outside=frozenset({"model"}),
    check=check,
    test="non_inferior",
)
