"""Our own tokenizer: byte-level BPE with the chat tokens reserved as ids 0-3 before any training."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from posttrain.errors import PosttrainError

END, USER, ASSISTANT, PAD = "<|end|>", "<|user|>", "<|assistant|>", "<|pad|>"
CHAT_TOKENS = (END, USER, ASSISTANT, PAD)
GNARLY = (
    "Caf\u00e9 na\u00efve \u00fcber \u2014 \u201cquotes\u201d \u2026",
    "\u65e5\u672c\u8a9e \u4e2d\u6587 \ud55c\uad6d\uc5b4 "
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\U0001f600\U0001f469\u200d\U0001f680 e\u0301 \u00a0 \u200b \ufeff",
    "tabs\tand\r\nnewlines\n\n  spaces   end ",
    "\x00\x01\x7f <|us er|> {{ x }} </s> \\n",
)


class Fertility(NamedTuple):
    """How finely a tokenizer cuts: fewer tokens a word is cheaper."""

    tokens_per_word: float
    bytes_per_token: float


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE over `texts`: ids 0-3 are the chat tokens, all 256 bytes are in the alphabet."""
    if vocab_size < 256 + len(CHAT_TOKENS):
        raise PosttrainError(f"tokenizer.vocab_size: {vocab_size}; at least 260 is needed (4 chat tokens, 256 bytes).")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CHAT_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    check_tokenizer(tokenizer)
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that loses text or splits a chat token."""
    for position, token in enumerate(CHAT_TOKENS):
        ids = tokenizer.encode(token, add_special_tokens=False).ids
        if ids != [position]:
            raise PosttrainError(f"tokenizer: {token} becomes ids {ids}; [{position}] is needed. Train it again.")
    for text in GNARLY:
        for form in (text, unicodedata.normalize("NFD", text)):
            back = tokenizer.decode(tokenizer.encode(form, add_special_tokens=False).ids, skip_special_tokens=False)
            if back != form:
                raise PosttrainError(f"tokenizer: {form!r} comes back as {back!r}; the same text is needed.")


def fertility(tokenizer: Tokenizer, texts: Sequence[str]) -> Fertility:
    """Tokens a whitespace word and UTF-8 bytes a token over `texts`."""
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    tokens = sum(len(item.ids) for item in encoded)
    words = sum(len(text.split()) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    return Fertility(round(tokens / max(words, 1), 3), round(size / max(tokens, 1), 3))


def save_tokenizer(tokenizer: Tokenizer, template: str, context: int, path: Path) -> None:
    """Write the tokenizer as transformers loads it, with the chat template inside."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    fast.save_pretrained(path)
