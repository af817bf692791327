"""Laws of control-string removal: nothing of a control string is left, nothing else is touched."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen.strip import CHAT_PROTOCOLS, strip_control

OURS = ("<|user|>", "<|assistant|>", "<|end|>", "<|pad|>")
PIECES = st.sampled_from(
    [
        *OURS,
        "<|us",
        "er|>",
        "<s>",
        "<",
        "|",
        ">",
        "｜",
        "＜",
        "＞",
        "\u200b",
        "\ufe0f",
        "\u00ad",
        "é",
        "̸",
        "ﬁ",
        "a b",
    ]
)


def reader_view(text: str) -> str:
    """The text as a careless reader may fold it: normalised as a whole, without format characters."""
    folded = unicodedata.normalize("NFKC", text)
    return "".join(c for c in folded if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")


@given(st.lists(PIECES, max_size=30).map("".join))
def test_nothing_of_a_control_string_is_left(text: str) -> None:
    stripped, _ = strip_control(text, OURS)
    assert [control for control in (*OURS, *CHAT_PROTOCOLS) if control in reader_view(stripped)] == []


@given(st.lists(PIECES, max_size=30).map("".join))
def test_stripping_twice_is_stripping_once(text: str) -> None:
    stripped, _ = strip_control(text, OURS)
    assert strip_control(stripped, OURS) == (stripped, 0)


@given(st.text())
def test_text_without_control_strings_is_returned_unchanged(text: str) -> None:
    stripped, count = strip_control(text, OURS)
    assert (stripped == text) == (count == 0)


@given(st.text(alphabet="abc ｅ﹤é\u200bﬁ½\u0301", max_size=20), st.sampled_from(OURS))
def test_the_rest_of_a_text_is_kept_as_it_is(text: str, control: str) -> None:
    assert strip_control(text + control + text, ()) == (text + text, 1)


@pytest.mark.parametrize(
    ("text", "left", "count"),
    [
        ("<|us<|user|>er|>", "", 2),
        ("＜|user|＞", "", 1),
        ("<｜begin▁of▁sentence｜>Hi", "Hi", 1),
        ("<|\u200bus\u2060er|>Hi", "Hi", 1),
        ("<<s>s>", "", 2),
        ("a</s>b[INST]c", "abc", 2),
        ("<|us\x00er|>\x7fHi", "\x7fHi", 1),
        ("<|us\ud800er|>Hi", "Hi", 1),
        ("<|user|\u226f", "", 1),
        ("1 < 2 | 3 > 2", "1 < 2 | 3 > 2", 0),
        ("caf\u00e9 \ufb01ne\u200b", "caf\u00e9 \ufb01ne\u200b", 0),
    ],
)
def test_known_disguises(text: str, left: str, count: int) -> None:
    assert strip_control(text, ()) == (left, count)


def test_own_controls_are_removed_and_the_empty_one_is_ignored() -> None:
    assert strip_control("a@@b", ["@@", ""]) == ("ab", 1)
    assert strip_control("cafe\u0301! caf\u00e9!", ["f\u00e9!"]) == ("ca ca", 2)  # in either normal form


def test_a_single_pass_of_replacement_is_caught() -> None:
    def single_pass(text: str) -> str:
        for control in OURS:
            text = text.replace(control, "")
        return text

    assert "<|user|>" in single_pass("<|us<|user|>er|>")
    assert "<|user|>" in reader_view(single_pass("＜|user|＞"))
