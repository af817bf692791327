"""Three tokenizers, each with its template: ours, SentencePiece-style with byte fallback, and one for ChatML."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import STORIES260K
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from two_tokenizers import STORIES

from posttrain.lm.chat import ChatFormat
from posttrain.lm.models import add_chat_tokens, load_model, load_tokenizer

STORYTELLER = Path(__file__).parents[1] / "models" / "storyteller-1m"
NAMES = ("byte-level", "byte fallback", "ChatML")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "[gMASK]", "<｜tool▁sep｜>")
ORDINARY = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|fim_prefix|>")  # added, and not special
# ChatML, but that a system prompt is the beginning of the first request: nothing of the template is between the two.
CHATML = (
    "{%- for message in messages -%}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'system' -%}"
    "<|im_start|>{{ 'user' if message.role == 'system' else message.role }}{{ '\\n' }}{%- endif -%}"
    "{%- if message.role == 'assistant' -%}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{%- elif message.role == 'system' -%}{{ message.content }}"
    "{%- else -%}{{ message.content }}<|im_end|>{%- endif -%}"
    "{%- if message.role != 'system' -%}{{ '\\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\\n' }}{%- endif -%}"
)


class Tokenized(NamedTuple):
    """A chat format, and the strings of all its added tokens, special or not."""

    chat: ChatFormat
    controls: tuple[str, ...]


def chatml(ordinary: Sequence[str] = ORDINARY) -> Any:
    """Byte-level BPE with added tokens of both kinds; some match with the spaces round them, or in normalised text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        STORIES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    bpe.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    bpe.add_tokens(
        [AddedToken(text, normalized=True, lstrip=nth == 0, rstrip=nth == 2) for nth, text in enumerate(ordinary)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def with_byte_fallback() -> Any:
    if not STORIES260K.is_dir():
        pytest.skip("needs the stories260k model beside the project")
    tokenizer = load_tokenizer(STORIES260K)
    add_chat_tokens(load_model(STORIES260K), tokenizer)
    return tokenizer


@cache
def tokenized(name: str) -> Tokenized:
    """One of NAMES."""
    made = {"byte-level": lambda: load_tokenizer(STORYTELLER), "byte fallback": with_byte_fallback, "ChatML": chatml}
    tokenizer = made[name]()
    controls = tuple(sorted(str(token) for token in tokenizer.get_added_vocab()))
    return Tokenized(ChatFormat(tokenizer, name), controls)
