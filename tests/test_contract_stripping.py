"""Stripping, proven: a fixed point that leaves no control string in any disguise, and natural text as it is."""

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from random import Random

import pytest
from attack_texts import UNSEEN, Message, disguised, nested, tried
from conftest import SHARED
from three_tokenizers import NAMES, Tokenized, tokenized

from data_gen.story import tell
from data_gen.strip import CHAT_PROTOCOLS, strip_control
from posttrain.lm.tokenizer import CHAT_TOKENS

Attack = Callable[[Random, Sequence[str]], str]
FOUND = {"tinystories": 4_042, "prompts": 2_000, "instruct": 8_800, "judge": 11_000}


@pytest.fixture(params=NAMES)
def one(request: pytest.FixtureRequest) -> Tokenized:
    return tokenized(request.param)


@cache
def seen(character: str) -> bool:
    hidden = unicodedata.category(character) in ("Cf", "Cc", "Cs") or character in UNSEEN
    tag_or_selector = "\U000e0000" <= character < "\U000e1000" or "\ufe00" <= character <= "\ufe0f"
    return character in "\t\n\r" or not (hidden or tag_or_selector)


def readings(text: str) -> list[str]:
    """The text, and how careless readers may fold it: unseen characters dropped before or after a normal form."""
    bare = "".join(filter(seen, text))
    folded = [unicodedata.normalize(form, source) for form in ("NFKC", "NFKD") for source in (text, bare)]
    return [text, *("".join(filter(seen, reading)) for reading in folded)]


@cache
def pattern(controls: tuple[str, ...]) -> re.Pattern[str]:
    """Control strings as they are written, and folded where they are written in look-alikes themselves."""
    written = {*controls, *CHAT_PROTOCOLS}
    folded = {unicodedata.normalize("NFKD", control) for control in written}
    return re.compile("|".join(map(re.escape, sorted(written | folded))))


def left_in(text: str, controls: tuple[str, ...]) -> bool:
    """Whether some reading of the text holds a control string."""
    return any(map(pattern(controls).search, readings(text)))


def single_pass(text: str, controls: Collection[str]) -> str:
    """Negative control: what is often done."""
    for control in (*controls, *CHAT_PROTOCOLS):
        text = text.replace(control, "")
    return text


def holds(one: Tokenized, cases: int) -> int:
    """The first content of so many conversations, and all as one text; returns how many conversations differ."""

    def check(messages: list[Message]) -> None:
        contents = [message["content"] for message in messages]
        for text in {contents[0], "".join(contents)}:
            stripped, count = strip_control(text, one.controls)
            assert not left_in(stripped, one.controls), text
            assert strip_control(stripped, one.controls) == (stripped, 0), text
            assert (stripped == text) == (count == 0), text

    return tried(cases, one.controls, check)


def test_nothing_is_left_and_stripping_twice_is_stripping_once(one: Tokenized) -> None:
    assert holds(one, 1_000) > 950


@pytest.mark.slow
def test_nothing_is_left_of_a_hundred_thousand_and_stripping_twice_is_stripping_once(one: Tokenized) -> None:
    assert holds(one, 100_000) > 95_000


@pytest.mark.parametrize("kind", [nested, disguised])
def test_a_single_pass_of_replacement_leaves_what_is_nested_or_disguised(kind: Attack, one: Tokenized) -> None:
    attacks = [kind(Random(seed), one.controls) for seed in range(300)]
    assert sum(left_in(single_pass(text, one.controls), one.controls) for text in attacks) > 100
    assert not any(left_in(strip_control(text, one.controls)[0], one.controls) for text in attacks)


def test_a_single_pass_over_the_folded_text_changes_what_it_should_not() -> None:
    text = "½ of the ﬁle, x² ≯ 3"
    assert single_pass(unicodedata.normalize("NFKC", text), ()) != text
    assert strip_control(text, ()) == (text, 0)


def test_a_nest_is_removed_however_deep_it_is() -> None:
    assert strip_control("<|us" * 20_000 + "er|>" * 20_000, ()) == ("", 20_000)


def strings(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def stories(count: int) -> list[str]:
    return [tell(3, number).text for number in range(count)]


def found(kind: str) -> list[str]:
    """Texts that people or models have written for readers."""
    paths = sorted((SHARED / "data" / kind).glob("*.json*"))
    if not paths:
        pytest.skip(f"needs the data '{kind}' beside the project")
    texts = (path.read_text(encoding="utf-8") for path in paths)
    values = (
        [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        for path, text in zip(paths, texts, strict=True)
    )
    return [text for value in values for text in strings(value)]


@pytest.mark.parametrize(
    ("kind", "fewest"),
    [*FOUND.items(), ("our stories", 1_000), pytest.param("our stories", 10_000, marks=pytest.mark.slow)],
)
def test_natural_text_comes_through_byte_for_byte(kind: str, fewest: int) -> None:
    texts = stories(fewest) if kind == "our stories" else found(kind)
    changed = [text for text in texts if strip_control(text, CHAT_TOKENS) != (text, 0)]
    assert len(texts) >= fewest and changed == []
