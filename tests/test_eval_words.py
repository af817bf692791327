"""A required word counts in any inflected form, and only as a whole word."""

import pytest

from eval.spelling import known
from eval.words import share_used, uses


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("She ran home.", "run"),
        ("He is running", "run"),
        ("Two KEYS.", "key"),
        ("It was the best day", "good"),
        ("They swam", "swimming"),
        ("The leaves fell", "leaf"),
        ("He left", "leave"),
        ("The bird flies", "fly"),
        ("Sam's dog", "sam"),
        ("He jumped", "jumping"),
        ("They travelled", "travel"),
        ("She tried", "try"),
        ("happier than ever", "happy"),
        ("He hopped", "hop"),
        ("it was dying", "die"),
        ("an ice cream", "ice cream"),
        ("a well-known cat", "know"),
        ("They were building a house", "build"),
        ("It’s fun", "it"),
        ("She leaned on him", "lean"),
        ("The dog squatted", "squat"),
        ("He zigzagged home", "zigzag"),
        ("He snuck out", "sneak"),
    ],
)
def test_an_inflected_form_is_a_use(text: str, word: str) -> None:
    assert uses(text, word)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("A monkey.", "key"),
        ("A quiet evening", "even"),
        ("He was hoping", "hop"),
        ("My teacher", "teach"),
        ("A seed", "see"),
        ("The letter", "let"),
        ("It stared", "star"),
        ("A thing", "the"),
        ("icy roads", "ice"),
        ("cream on ice", "ice cream"),
        ("", "run"),
        ("anything", "!"),
        ("He drinked it", "drink"),
    ],
)
def test_a_look_alike_is_no_use(text: str, word: str) -> None:
    assert not uses(text, word)


def test_the_share_used_counts_each_asked_word_once() -> None:
    assert share_used("The key ran out. The keys!", ["key", "run", "calm"]) == pytest.approx(2 / 3)
    assert share_used("Anything", []) == 1.0


def test_known_words_include_derived_ones_and_invented_ones_are_not_known() -> None:
    assert all(known(word) for word in ("carefully", "slippery", "a", "running", "mommy", "easily", "unhappy"))
    assert all(known(word) for word in ("bookshelves", "learned", "learnt", "parked", "friendliness", "afterwards"))
    assert not any(known(word) for word in ("chaches", "shrugge", "feafasty", "blide", "keeped"))
    assert not any(known(word) for word in ("darked", "drinked", "nowly", "friendfround", "catched", "takeing"))
