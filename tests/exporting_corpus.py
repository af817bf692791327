"""What the tests of exported files ask them: answers to be scored, texts, conversations, prompts."""

from pathlib import Path
from typing import Any

from posttrain.exporting.measure import Corpus, Measured, Row, measure_here
from posttrain.lm.models import load_tokenizer
from posttrain.rows import read_rows

ROOT = Path(__file__).parents[1]
STORYTELLER = ROOT / "models" / "storyteller-1m"
TEXTS = (
    "Caf\u00e9 na\u00efve \u2014 \u201cquotes\u201d \u2026 \u65e5\u672c\u8a9e \U0001f600",
    "12345 3.14159 v2\n\n\tdef f(x): return x**2  # {}",
    "<|user|>Hi<|end|><|assistant|></s> [INST] <|im_start|>",
    "I'll we've  don't ",
)
TOP = 50
ENDS = 40  # tokens of a scored answer


def told(count: int) -> list[dict[str, Any]]:
    return list(read_rows(ROOT / "eval" / "prompts" / "tinystories.jsonl"))[:count]


def corpus_of(model_dir: Path, count: int = 6) -> Corpus:
    """Stories that people wrote, by the tokenizer and the chat template of a model directory (plain without one)."""
    tokenizer = load_tokenizer(model_dir)
    chats = tokenizer.chat_template is not None
    asked = [[{"role": "user", "content": row["prompt"]}] for row in told(count)]

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return found

    def prompt(chat: list[dict[str, str]]) -> list[int]:
        return ids(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))

    prompts = [prompt(chat) if chats else ids(chat[0]["content"]) for chat in asked]
    answers = [[*ids(row["reference"])[:ENDS], tokenizer.eos_token_id] for row in told(count)]
    conversations = [[*asked[0], {"role": "assistant", "content": "No."}, *asked[-1]], *asked[:2]] if chats else []
    rows = [Row(f"{at}", asks, says) for at, (asks, says) in enumerate(zip(prompts, answers, strict=True))]
    return Corpus(rows, list(TEXTS), conversations, prompts)


def here(name: str, path: Path, corpus: Corpus, new_tokens: int = 24) -> Measured:
    return measure_here(name, path, corpus, threads=1, top=TOP, new_tokens=new_tokens)
