"""Two vocabularies are compared string by string; one that differs anywhere is refused before training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.vocabularies import check_same_vocabulary
from posttrain.lm.models import load_tokenizer

WORDS = {"<|end|>": 0, "<|user|>": 1, "<unk>": 2, "once": 3, "upon": 4, "a": 5, "time": 6}
BUNDLED = Path(__file__).parents[1] / "models" / "storyteller-1m"
Check = Callable[[Any, Any], int]


def tokenizer(
    words: Mapping[str, int] = WORDS,
    special: tuple[str, ...] = ("<|user|>",),
    added: tuple[str, ...] = (),
    eos: str = "<|end|>",
    pad: str | None = None,
) -> PreTrainedTokenizerFast:
    inner = Tokenizer(WordLevel(dict(words), unk_token="<unk>"))
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=eos,
        unk_token="<unk>",
        pad_token=pad,
        additional_special_tokens=list(special),
    )
    made.add_tokens([AddedToken(token, special=False) for token in added])
    return made


def exchanged(first: str, second: str) -> dict[str, int]:
    return {**WORDS, first: WORDS[second], second: WORDS[first]}


def sizes_only(student: Any, teacher: Any) -> int:
    """What most trainers check."""
    if len(student) != len(teacher):
        raise PosttrainError("vocabulary: sizes differ")
    return len(student)


def test_one_vocabulary_is_accepted_and_its_real_ids_are_counted() -> None:
    assert check_same_vocabulary(tokenizer(), tokenizer()) == 7
    assert check_same_vocabulary(tokenizer(), tokenizer(pad="<|user|>")) == 7, "padding is masked, so it may differ"
    added = tokenizer(added=("<think>",))
    assert check_same_vocabulary(added, tokenizer(added=("<think>",))) == 8


def assert_other_strings_are_refused(check: Check) -> None:
    refusal = "id 3 is for the student 'once' and for the teacher 'time'"
    with pytest.raises(PosttrainError, match=refusal) as error:
        check(tokenizer(), tokenizer(exchanged("once", "time")))
    assert "cross_tokenizer" in str(error.value)


def test_another_token_string_at_any_id_is_refused_with_the_first_id_and_both_strings() -> None:
    assert_other_strings_are_refused(check_same_vocabulary)
    words = list(WORDS)
    for i, word in enumerate(words[3:-1], start=3):
        with pytest.raises(PosttrainError, match=f"id {i} is for the student"):
            check_same_vocabulary(tokenizer(), tokenizer(exchanged(word, words[i + 1])))


def test_a_check_of_sizes_alone_would_let_other_strings_through() -> None:
    with pytest.raises(pytest.fail.Exception):
        assert_other_strings_are_refused(sizes_only)


def test_another_number_of_real_ids_is_refused_on_both_sides() -> None:
    longer = tokenizer({**WORDS, "there": 7})
    with pytest.raises(PosttrainError, match=r"id 7 is for the student no token .* 'there' \(7 and 8 tokens\)"):
        check_same_vocabulary(tokenizer(), longer)
    with pytest.raises(PosttrainError, match=r"id 7 is for the student 'there' and for the teacher no token"):
        check_same_vocabulary(longer, tokenizer())


def test_a_control_token_that_is_ordinary_for_the_other_is_refused() -> None:
    with pytest.raises(PosttrainError, match=r"id 1, '<\|user\|>', is a special control token for the student and an"):
        check_same_vocabulary(tokenizer(), tokenizer(special=()))
    with pytest.raises(PosttrainError, match="a special control token for the student and a control token for"):
        check_same_vocabulary(tokenizer(), tokenizer(special=(), added=("<|user|>",)))
    assert check_same_vocabulary(tokenizer(special=()), tokenizer(special=())) == 7


def test_another_stop_token_is_refused() -> None:
    other = tokenizer(eos="<|user|>", special=("<|end|>",))
    assert other.get_added_vocab() == tokenizer().get_added_vocab(), "the control tokens are the same"
    with pytest.raises(PosttrainError, match=r"eos_token is id 0, '<\|end\|>', for the student and id 1"):
        check_same_vocabulary(tokenizer(), other)


def test_real_tokenizers_agree_with_themselves_and_not_with_each_other(stories260k: Path) -> None:
    ours, theirs = load_tokenizer(BUNDLED), load_tokenizer(stories260k)
    for one in (ours, theirs):
        assert check_same_vocabulary(one, one) == len(one)
    with pytest.raises(PosttrainError, match="id 0 is for the student"):
        check_same_vocabulary(ours, theirs)
