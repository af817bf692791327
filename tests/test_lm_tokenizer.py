"""The tokenizer keeps every text and reserves the chat tokens."""

import unicodedata

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from data_gen.story import tell
from posttrain.errors import PosttrainError
from posttrain.lm.tokenizer import CHAT_TOKENS, GNARLY, check_tokenizer, fertility, train_tokenizer

TEXTS = [tell(3, index).text for index in range(200)]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_tokenizer(TEXTS, 700)


def test_chat_tokens_are_ids_0_to_3_and_atomic(bpe: Tokenizer) -> None:
    for position, token in enumerate(CHAT_TOKENS):
        assert bpe.encode(token, add_special_tokens=False).ids == [position]
        assert position in bpe.encode(f"x{token}y", add_special_tokens=False).ids


def test_every_byte_and_gnarly_text_come_back_the_same(bpe: Tokenizer) -> None:
    for text in (*GNARLY, *(unicodedata.normalize("NFD", t) for t in GNARLY), "".join(map(chr, range(0x250)))):
        assert bpe.decode(bpe.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    lossy = Tokenizer(models.BPE(unk_token=None))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()
    lossy.add_special_tokens(list(CHAT_TOKENS))
    with pytest.raises(PosttrainError, match="comes back as"):
        check_tokenizer(lossy)


def test_a_tokenizer_without_reserved_ids_is_refused() -> None:
    with pytest.raises(PosttrainError, match="is needed"):
        check_tokenizer(Tokenizer(models.BPE()))
    with pytest.raises(PosttrainError, match="at least 260"):
        train_tokenizer(TEXTS, 100)


def test_a_larger_vocabulary_cuts_less_finely(bpe: Tokenizer) -> None:
    small, large = fertility(train_tokenizer(TEXTS, 300), TEXTS), fertility(bpe, TEXTS)
    assert large.tokens_per_word < small.tokens_per_word
    assert large.bytes_per_token > small.bytes_per_token
