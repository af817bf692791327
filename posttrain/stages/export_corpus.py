"""What the files of an export are asked: held-out answers to be scored, texts to be cut, prompts to be completed."""

from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.chain.recipe import checked_prompts
from posttrain.errors import PosttrainError
from posttrain.rows import Row

if TYPE_CHECKING:
    from posttrain.exporting.measure import Corpus
    from posttrain.stages.export import ExportConfig

TEXTS = (  # beside the references: what tokenizers are known to cut in different ways
    "Caf\u00e9 na\u00efve \u2014 \u201cquotes\u201d \u2026 \u65e5\u672c\u8a9e \U0001f600",
    "12345 3.14159 v2\n\n\tdef f(x): return x**2  # {}",
    "I'll we've  don't ",
)


def references(config: "ExportConfig", where: str) -> list[Row]:
    """The rows that are scored; each has an id of its own and a prompt."""
    if config.measured_on is None:
        raise PosttrainError(
            f"{where}.measured_on: found nothing; a file of rows with 'prompt' and 'reference' is needed. Name one, or "
            "add 'judge:' to the recipe, whose prompts are then taken."
        )
    rows = checked_prompts(config.measured_on)
    told = [row for row in rows if isinstance(row.get("reference"), str) and row["reference"].strip()][: config.rows]
    if len(told) < 2:
        raise PosttrainError(
            f"{where}.measured_on: {config.measured_on} has {len(told)} rows with a 'reference'; at least 2 are needed "
            "to measure what a file loses. Name another file."
        )
    return told


def corpus_of(config: "ExportConfig", source: Path) -> "Corpus":
    """References under their prompts, by the tokenizer and the chat template of the model (plain without one).

    Rows that do not fit the model's context are left out.
    """
    from posttrain.exporting.measure import Corpus
    from posttrain.exporting.measure import Row as Scored
    from posttrain.lm.models import load_tokenizer

    tokenizer = load_tokenizer(source)
    told = references(config, "export")
    chats = tokenizer.chat_template is not None
    asked = [[{"role": "user", "content": row["prompt"]}] for row in told]

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    def prompt(chat: list[dict[str, str]]) -> list[int]:
        if not chats:
            return ids(chat[0]["content"])
        return ids(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))

    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    prompts = [prompt(chat) for chat in asked]
    rows = [
        Scored(row["id"], before, [*ids(row["reference"]), *end]) for row, before in zip(told, prompts, strict=True)
    ]
    context = _context(source)
    rows = [row for row in rows if len(row.prompt) + len(row.answer) < context]
    if len(rows) < 2:
        raise PosttrainError(
            f"export: {len(rows)} references of {config.measured_on} fit the model's context of {context} tokens; at "
            "least 2 are needed to measure what a file loses. Name shorter ones in measured_on, or more rows."
        )
    texts = [row["reference"] for row in told] + list(TEXTS)
    return Corpus(rows, texts, asked if chats else [], [row.prompt for row in rows[: config.completions]])


def untuned(source: Path) -> Path | None:
    """The model below all adapters; None where there is none."""
    from posttrain.lm.models import root_of

    path = root_of(source)
    return None if path == source else path


def _context(source: Path) -> int:
    from transformers import AutoConfig

    from posttrain.lm.models import root_of

    return int(AutoConfig.from_pretrained(root_of(source)).get_text_config().max_position_embeddings)
