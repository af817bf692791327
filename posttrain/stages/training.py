"""What every stage that trains on conversations shares: its settings, the rows it reads, and what it refuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from posttrain.chain.stage import Metrics, Progress, StepConfig
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows

if TYPE_CHECKING:
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.sft import SFTSettings
    from posttrain.lm.token_row import TokenRow


class TrainingConfig(StepConfig):
    """TRL's names; `trainer` passes any further field of transformers' TrainingArguments through."""

    learning_rate: float = Field(1e-3, gt=0)
    num_train_epochs: float = Field(1.0, gt=0)
    per_device_train_batch_size: int = Field(8, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: bool | None = Field(None, description="by default where this machine is faster with it")
    max_length: int = Field(512, ge=8, description="tokens; longer rows are dropped whole, never cut")
    max_dropped: float = Field(0.25, ge=0, le=1, description="share of dropped rows above which the step fails")
    save_steps: int = Field(200, ge=1, description="steps between checkpoints")
    trainer: dict[str, Any] = Field(default_factory=dict)


def trainer_settings(config: TrainingConfig) -> "SFTSettings":
    """The settings of a run, as training takes them."""
    from posttrain.lm.sft import SFTSettings

    return SFTSettings(
        learning_rate=config.learning_rate,
        epochs=config.num_train_epochs,
        batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        warmup_ratio=config.warmup_ratio,
        lr_scheduler_type=config.lr_scheduler_type,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16,
        seed=config.seed,
        save_every_steps=config.save_steps,
        trainer=config.trainer,
        kind=config.kind,
    )


def read_conversations(path: Path) -> list[Row]:
    """Rows whose `messages` end with an assistant's text; any other row is an error."""
    rows = read_rows(path)
    for number, row in enumerate(rows, start=1):
        _check_row(row, path, number)
    return rows


def render(rows: Sequence[Row], chat: "ChatFormat", progress: Progress) -> "list[TokenRow]":
    """Each conversation in the tokens of `chat`, after a look at whether it asks as it trains."""
    from posttrain.lm.chat import check_rendering

    check_rendering(chat, rows[0]["messages"])
    rendered = []
    with progress(len(rows), "rows rendered") as tick:
        for row in rows:
            rendered.append(chat.row(row["id"], row["messages"]))
            tick(len(rendered))
    return rendered


def check_dropped(config: TrainingConfig, kept: int, dropped: int, held: int) -> None:
    """Refuse to go on with too few of the rows."""
    if dropped > config.max_dropped * (kept + dropped):
        raise PosttrainError(
            f"data: {dropped:,} of {kept + dropped:,} rows are longer than max_length {config.max_length}; at most "
            f"{config.max_dropped:.0%} may be dropped (max_dropped). Raise one of the two, or shorten the rows."
        )
    if held < 2:
        raise PosttrainError(
            f"data: {held} held-out rows fit max_length {config.max_length}; at least 2 are needed. "
            "Raise max_length, or set more rows aside (test_size of the step that makes them)."
        )


def check_context(config: TrainingConfig, model: Any, reference: str) -> None:
    """Refuse rows longer than `model` can read."""
    context = model.config.get_text_config().max_position_embeddings
    if config.max_length > context:
        raise PosttrainError(
            f"{config.kind}.max_length: {config.max_length}; at most {context}, the context of {reference}, "
            f"is allowed. Set {config.kind}.max_length={context} or less."
        )


def training_metrics(result: Any) -> Metrics:
    """What a run of training came to, from a `TrainResult` or `AlignResult`."""
    return {
        "tokens": result.tokens,
        "supervised_tokens": result.supervised_tokens,
        "steps": result.steps,
        "tokens_per_second": round(result.tokens / max(result.seconds, 1e-9), 1),
        "loss": result.loss_curve[-1].loss,
        "loss_curve": [list(point) for point in result.loss_curve],
        "reference": None,
    }


def _check_row(row: Row, path: Path, number: int) -> None:
    messages = row.get("messages")
    shaped = isinstance(messages, list) and all(
        isinstance(message, dict) and {"role", "content"} <= message.keys() and isinstance(message["content"], str)
        for message in messages
    )
    if not shaped or not messages:
        raise PosttrainError(
            f"{path}, row {number}: no list of messages with 'role' and 'content'; one is needed. Correct the row."
        )
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise PosttrainError(
            f"{path}, row {number}: no assistant text at its end; an answer is needed. Correct or delete the row."
        )
