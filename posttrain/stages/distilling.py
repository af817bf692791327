"""What `distill` starts from: the pair of models, compared, and the rows in the tokens of both."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.chain.stage import Progress, StageContext
from posttrain.errors import PosttrainError
from posttrain.rows import Row
from posttrain.stages.training import check_context, read_conversations, render

if TYPE_CHECKING:
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.distillation.cross_tokenizer import AlignedRow
    from posttrain.lm.token_row import TokenRow
    from posttrain.stages.distill import DistillConfig

THINK, THOUGHT = "<think>", "</think>"


class Pair(NamedTuple):
    """Student and teacher on one device, the teacher in eval mode and frozen.

    `real_ids` is the size of their one vocabulary; None where each reads tokens of its own.
    """

    student: Any
    chat: "ChatFormat"
    teacher: Any
    teacher_chat: "ChatFormat"
    real_ids: int | None


class Examples(NamedTuple):
    """Rows in the tokens of the student and of the teacher (the same where they share a vocabulary)."""

    student: "list[TokenRow]"
    teacher: "list[TokenRow]"
    answer_bytes: list[int]  # of the supervised text, in UTF-8
    too_long: int
    unanswered: int  # nothing was left of an answer without its thinking
    aligned: "list[AlignedRow]"  # of cross_tokenizer


def load_pair(config: "DistillConfig", ctx: StageContext) -> Pair:
    """Load and compare: everything about the models that can be refused is refused here."""
    from posttrain.hub.fetch import local_directory
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.device import device
    from posttrain.lm.distillation.vocabularies import check_same_vocabulary
    from posttrain.lm.losses import check_plain_head
    from posttrain.lm.models import load_model, load_tokenizer

    path = local_directory(ctx.inputs["teacher"])
    start = local_directory(ctx.inputs["model"]) if config.model else path
    tokenizer, teacher_tokenizer = load_tokenizer(start), load_tokenizer(path)
    other = tokenizer.get_vocab() != teacher_tokenizer.get_vocab()
    separate = config.method == "cross_tokenizer" or (config.method == "sequence" and other)
    real_ids = None if separate else check_same_vocabulary(tokenizer, teacher_tokenizer)
    chat = ChatFormat(tokenizer, str(start))
    teacher = load_model(path).to(device()).eval().requires_grad_(False)
    student = load_model(start) if config.model else _new_student(config, teacher, tokenizer)
    student.to(device())
    check_context(config, student, ctx.inputs["model"].reference if config.model else "the student")
    if real_ids is not None:
        check_context(config, teacher, ctx.inputs["teacher"].reference)
        if tokenizer.chat_template != teacher_tokenizer.chat_template:
            ctx.say("the teacher has another chat template than the student, and reads what the student reads")
    if config.method != "sequence":
        check_plain_head(teacher)
    teacher_chat = ChatFormat(teacher_tokenizer, str(path)) if real_ids is None else chat
    return Pair(student, chat, teacher, teacher_chat, real_ids)


def _new_student(config: "DistillConfig", teacher: Any, tokenizer: Any) -> Any:
    """Random weights over the teacher's tokens, or some of the teacher's layers."""
    from posttrain.lm.distillation.layer_init import evenly_spaced, student_from_layers
    from posttrain.lm.pretraining import new_model

    if config.architecture is None:
        wanted, there = config.layers, teacher.config.get_text_config().num_hidden_layers
        return student_from_layers(teacher, evenly_spaced(wanted, there) if isinstance(wanted, int) else wanted or [])
    rows = max(tokenizer.get_vocab().values()) + 1
    model: Any = new_model(config.architecture, rows, tokenizer.eos_token_id, tokenizer.pad_token_id, config.seed)
    model.config.bos_token_id = model.generation_config.bos_token_id = tokenizer.bos_token_id
    tokenizer.model_max_length = config.architecture.max_position_embeddings
    return model


def read_examples(config: "DistillConfig", ctx: StageContext, pair: Pair, name: str) -> Examples:
    """The rows of one file that fit; the others are counted."""
    read = [_thoughtless(row) if config.think == "strip" else row for row in _read(ctx, name)]
    rows = [row for row in read if all(answer.strip() for answer in _answers(row))]
    if not rows:
        raise PosttrainError(
            f"data: {len(read):,} rows of {name}.jsonl, and no answer in them without its thinking; at least one is "
            "needed. Set think: keep, or make rows with answers."
        )
    aligned: list[AlignedRow] = []
    if config.method == "cross_tokenizer":
        ours, theirs, aligned = _aligned(rows, pair, ctx.progress)
    else:
        ours = render(rows, pair.chat, ctx.progress)
        theirs = ours if pair.real_ids is not None else render(rows, pair.teacher_chat, ctx.progress)
    most = pair.teacher.config.get_text_config().max_position_embeddings
    kept = [
        at
        for at in range(len(rows))
        if len(ours[at].input_ids) <= config.max_length and len(theirs[at].input_ids) <= most
    ]
    sizes = [sum(len(answer.encode()) for answer in _answers(row)) for row in rows]
    return Examples(
        [ours[at] for at in kept],
        [theirs[at] for at in kept],
        [sizes[at] for at in kept],
        too_long=len(rows) - len(kept),
        unanswered=len(read) - len(rows),
        aligned=[aligned[at] for at in kept] if aligned else [],
    )


def _aligned(
    rows: Sequence[Row], pair: Pair, progress: Progress
) -> "tuple[list[TokenRow], list[TokenRow], list[AlignedRow]]":
    """Each conversation in the tokens of both, and where they have read the same text of its answers."""
    from posttrain.lm.chat import check_rendering
    from posttrain.lm.distillation.cross_tokenizer import align, spell

    talks = {f"{row['id']} (number {number})": row["messages"] for number, row in enumerate(rows, start=1)}
    sides = []
    with progress(2, "tokenizers") as tick:
        for chat in (pair.chat, pair.teacher_chat):
            check_rendering(chat, rows[0]["messages"])
            sides.append(spell(chat, talks))
            tick(len(sides))
    ours, theirs = sides
    aligned = [align(a, b) for a, b in zip(ours, theirs, strict=True)]
    return [one.row for one in ours], [one.row for one in theirs], aligned


def _read(ctx: StageContext, name: str) -> list[Row]:
    return read_conversations(Path(ctx.inputs["data"].path) / f"{name}.jsonl")


def _answers(row: Row) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] == "assistant"]


def _thoughtless(row: Row) -> Row:
    """A row whose answers have lost a leading <think>…</think>; one that never ends is all there was."""
    return {**row, "messages": [_without_thinking(message) for message in row["messages"]]}


def _without_thinking(message: Row) -> Row:
    text = message["content"]
    if message["role"] != "assistant" or not text.lstrip().startswith(THINK):
        return message
    return {**message, "content": text.partition(THOUGHT)[2].lstrip()}
