"""sft: supervised fine-tuning on instruction rows, with LoRA or in full; loss on answers and their stop token."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from posttrain.chain.stage import Metrics, Progress, Stage, StageContext
from posttrain.errors import PosttrainError
from posttrain.stages.adapters import LoraSettings, save_adapter
from posttrain.stages.training import (
    TrainingConfig,
    check_context,
    check_dropped,
    read_conversations,
    render,
    trainer_settings,
    training_metrics,
)


class SFTConfig(TrainingConfig):
    """What training reads, and what only sft has."""

    kind: Literal["sft"]
    model: str
    data: str
    lora: LoraSettings = Field(LoraSettings(), description="the chat tokens' embeddings are trained beside it")
    full: bool = Field(False, description="train every weight instead of a LoRA")
    quantization: Literal["nf4"] | None = Field(
        None, description="QLoRA: the base is read in 4 bits while it is trained on"
    )
    learning_rate: float = Field(2e-3, gt=0)
    packing: bool | None = Field(None, description="rows end to end without padding; by default with flash attention")
    attn_implementation: str | None = Field(None, description="transformers' name, such as flash_attention_2")

    @model_validator(mode="after")
    def _quantized_has_adapter(self) -> "SFTConfig":
        if self.full and self.quantization is not None:
            raise ValueError("weights of 4 bits cannot be trained. Leave out 'full' or 'quantization'")
        return self


def check(config: SFTConfig, where: str) -> None:
    """Refuse `trainer` fields before any compute; transformers is imported only when there are some."""
    if config.trainer:
        from posttrain.lm.sft import check_trainer

        check_trainer(_settings(config), where)


def run(config: SFTConfig, ctx: StageContext) -> Metrics:
    """Train, save the adapter (or model) with its tokenizer, and measure held-out answers before and after."""
    import torch

    from posttrain.hub.fetch import local_directory
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.device import device
    from posttrain.lm.models import load_model, load_tokenizer, save_model
    from posttrain.lm.nll import row_nll
    from posttrain.lm.quantized import load_nf4
    from posttrain.lm.sft import add_lora, train

    path = local_directory(ctx.inputs["model"])
    tokenizer = load_tokenizer(path)
    chat = ChatFormat(tokenizer, str(path))
    rows, dropped = _token_rows(ctx.inputs["data"].path / "train.jsonl", chat, config.max_length, ctx.progress)
    held, _ = _token_rows(ctx.inputs["data"].path / "test.jsonl", chat, config.max_length, ctx.progress)
    check_dropped(config, len(rows), dropped, len(held))
    model = load_nf4(path) if config.quantization else load_model(path).to(device())
    check_context(config, model, ctx.inputs["model"].reference)
    if config.attn_implementation is not None:
        _set_attention(model, config.attn_implementation)
    torch.manual_seed(config.seed)  # the adapter's first values come from the global generator
    if not config.full:
        model = add_lora(model, **config.lora.model_dump(), train_token_ids=sorted(chat.control_ids))
    with ctx.progress(len(held), "held-out rows") as tick:
        before = row_nll(model, held, report=tick)  # a fresh adapter changes no logit
    with ctx.progress(0, "step") as tick:
        result = train(
            model,
            rows,
            settings=_settings(config),
            checkpoint_dir=ctx.work / "checkpoints",
            on_step=lambda step, steps, logs: tick(step, f"loss {logs['loss']:.2f}", steps),
        )
    with ctx.progress(len(held), "held-out rows") as tick:
        after = row_nll(model, held, report=tick)
    if config.full:
        save_model(model, tokenizer, ctx.out)
    else:
        save_adapter(model, tokenizer, ctx, path)
    return _metrics(config, rows, dropped, result, before, after)


def _set_attention(model: Any, name: str) -> None:
    try:
        model.set_attn_implementation(name)
    except (ImportError, ValueError, KeyError) as error:
        raise PosttrainError(
            f"sft.attn_implementation: {name} cannot be used here ({str(error).splitlines()[0][:160]}). "
            "Use sdpa, or leave it out."
        ) from None


def _token_rows(path: Path, chat: Any, max_length: int, progress: Progress) -> tuple[list[Any], int]:
    """Rendered rows that fit `max_length`, and how many did not."""
    rendered = render(read_conversations(path), chat, progress)
    kept = [row for row in rendered if len(row.input_ids) <= max_length]
    return kept, len(rendered) - len(kept)


def _settings(config: SFTConfig) -> Any:
    from dataclasses import replace

    return replace(trainer_settings(config), packing=config.packing)


def _metrics(
    config: SFTConfig, rows: list[Any], dropped: int, result: Any, before: list[float], after: list[float]
) -> Metrics:
    from eval.statistics import cluster_bootstrap

    names = [str(at) for at in range(len(before))]
    change = cluster_bootstrap([b - a for a, b in zip(before, after, strict=True)], names)
    means = sum(before) / len(before), sum(after) / len(after)
    kind = "QLoRA" if config.quantization else "LoRA"
    what = "full fine-tuning" if config.full else f"{kind} r={config.lora.r}"
    return {
        "summary": (
            f"{what} on {len(rows):,} rows, {result.supervised_tokens / 1e6:.2f}M supervised tokens, {dropped} rows "
            f"dropped, held-out {means[0]:.2f} → {means[1]:.2f} nats"
        ),
        "rows": len(rows),
        "rows_dropped_too_long": dropped,
        "rows_cut": 0,
        **training_metrics(result),
        "packing": result.packing,
        "held_out_nll": {
            "before": means[0],
            "after": means[1],
            "rows": len(before),
            "change": change._asdict(),
        },
    }


SFT = Stage(
    kind="sft",
    version=1,
    config=SFTConfig,
    makes="model",
    inputs={"model": frozenset({"model"}), "data": frozenset({"rows"})},
    run=run,
    sources=("posttrain/stages/sft.py", "posttrain/stages/adapters.py", "posttrain/stages/training.py", "posttrain/lm"),
    outside=frozenset({"model"}),
    check=check,
)
