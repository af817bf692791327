"""samples: a model's completions of held-out prompts, and what their references cost it. Made once a model."""

import time
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from posttrain.chain.stage import InputPath, Metrics, Stage, StageContext, StepConfig
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages.held_out import reference_losses

TEMPLATE = 64  # tokens that a chat template puts round a request, and some more


class SamplesConfig(StepConfig):
    """The sampling part of a recipe's `judge:`."""

    kind: Literal["samples"]
    model: str | None
    format: str | None = Field(None, description="of an export: its file answers, in its own runtime")
    prompts: InputPath
    limit: int | None = None
    samples: int = 2
    max_new_tokens: int = 256
    temperature: float = 0.7
    block_size: int = Field(100, ge=1, description="rows sampled together; another size gives other bytes")


def run(config: SamplesConfig, ctx: StageContext) -> Metrics:
    """completions.jsonl: id, sample, prompt, text, stopped, tokens; ordered by prompt, then sample.

    Beside it held_out.jsonl (see `reference_losses`) and control.jsonl, the control strings of the model's tokenizer;
    of an exported file neither: its record has more.
    """
    if config.format is not None:
        return _of_file(config, config.format, ctx)
    from posttrain.engines.transformers_engine import Prompt, Sampling, sample
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.device import device
    from posttrain.lm.models import load_model, load_tokenizer

    path = ctx.inputs["model"].path
    tokenizer = load_tokenizer(path)
    chat = ChatFormat(tokenizer, str(path))
    model = load_model(path).to(device())
    rows = read_rows(config.prompts)[: config.limit]
    asked = {row["id"]: [{"role": "user", "content": row["prompt"]}] for row in rows}
    rendered = {key: chat.render(messages, add_generation_prompt=True).ids for key, messages in asked.items()}
    prompts = [Prompt(f"{key}/{i}", ids) for key, ids in rendered.items() for i in range(config.samples)]
    settings = Sampling(config.max_new_tokens, config.temperature, config.seed, config.block_size)
    started = time.perf_counter()
    with ctx.progress(len(prompts), "completions") as tick:

        def report(done: int, tokens: int) -> None:
            tick(done, f"{tokens / (time.perf_counter() - started):,.0f} tokens/s")

        found = sample(model, tokenizer, chat.stop_ids, prompts, settings, ctx.work / "blocks", report)
    seconds = time.perf_counter() - started
    made = [
        {"id": row["id"], "sample": i, "prompt": row["prompt"], **found[f"{row['id']}/{i}"]._asdict()}
        for row in rows
        for i in range(config.samples)
    ]
    write_rows(ctx.out / "completions.jsonl", made)
    write_rows(ctx.out / "control.jsonl", ({"text": text} for text in sorted(tokenizer.all_special_tokens)))
    losses = reference_losses(model, chat, rows, ctx.progress)
    if losses:
        write_rows(ctx.out / "held_out.jsonl", losses)
    return {**_metrics(made, seconds), "held_out": _held_out(losses)}


def _of_file(config: SamplesConfig, name: str, ctx: StageContext) -> Metrics:
    """The same prompts, asked of an exported file."""
    from posttrain.engines.threads import threads_for
    from posttrain.exporting.formats import format_of
    from posttrain.exporting.sampling import Asked, FileSampling, sample_file

    folder, rows = ctx.inputs["model"].path / name, read_rows(config.prompts)[: config.limit]
    asked = [
        Asked(f"{row['id']}/{i}", [{"role": "user", "content": row["prompt"]}])
        for row in rows
        for i in range(config.samples)
    ]
    longest = max(len(row["prompt"].encode()) for row in rows)  # bytes: a rare character is a token a byte of UTF-8
    how = FileSampling(
        config.max_new_tokens, config.temperature, config.seed, config.block_size,
        config.max_new_tokens + longest + TEMPLATE, threads_for(format_of(name).size(folder)),
    )  # fmt: skip
    started = time.perf_counter()
    with ctx.progress(len(asked), "completions") as tick:

        def report(done: int, tokens: int) -> None:
            tick(done, f"{tokens / (time.perf_counter() - started):,.0f} tokens/s")

        found = sample_file(name, folder, asked, how, ctx.work / "blocks", report)
    made = [
        {**found[f"{row['id']}/{i}"], "id": row["id"], "sample": i, "prompt": row["prompt"]}
        for row in rows
        for i in range(config.samples)
    ]
    write_rows(ctx.out / "completions.jsonl", made)
    return _metrics(made, time.perf_counter() - started)


def _held_out(losses: list[Row]) -> dict[str, Any]:
    """Means over the references, nats a token; None where there is none."""
    nats = [row["nats"] / row["tokens"] for row in losses]
    worth = [(row["nats_other"] - row["nats"]) / row["tokens"] for row in losses if row["nats_other"] is not None]
    return {
        "answers": len(losses),
        "nats_a_token": round(fmean(nats), 4) if nats else None,
        "own_prompt_worth": round(fmean(worth), 4) if worth else None,
    }


def _metrics(made: list[dict[str, Any]], seconds: float) -> Metrics:
    tokens = sum(row["tokens"] for row in made)
    stopped = sum(row["stopped"] for row in made) / len(made)
    rate = tokens / seconds
    return {
        "summary": f"{len(made)} completions, {stopped:.1%} stop by themselves, {rate:,.0f} tokens/s",
        "completions": len(made),
        "stopped": round(stopped, 4),
        "tokens": tokens,
        "tokens_per_second": round(rate, 1),
    }


SAMPLES = Stage(
    kind="samples",
    version=3,
    config=SamplesConfig,
    makes="samples",
    inputs={"model": frozenset({"model", "files"})},
    run=run,
    sources=(
        "posttrain/stages/samples.py",
        "posttrain/exporting",
        "posttrain/stages/held_out.py",
        "posttrain/engines",
        "posttrain/lm/chat.py",
        "posttrain/lm/models.py",
        "posttrain/lm/nll.py",
    ),
)
