"""Each mechanical check sees its mistake and stays silent on correct prose."""

import random
from itertools import pairwise

import pytest

from eval.consistency import findings
from eval.grammar import grammar, mistakes, non_words, oddity
from eval.prose import parse

CORRECT = (
    "An hour ago, a unicorn came. He had had a very, very long day.",
    '"Go home!" he said. "I want to see you go... now."',
    "She saw him run. Did he go to the park? He did.",
    "It was his. They wanted to, but could not. He is the one I spoke of.",
    "Mom saw her dog's ball. I am sure that I can help you, too.",
    "Mr. Brown lived far, far away. He used to run. They let her go in.",
    "If he were here, we would be glad. Make sure she has food. Watch him jump!",
)


@pytest.mark.parametrize("text", CORRECT)
def test_correct_prose_has_no_mistakes(text: str) -> None:
    assert mistakes(parse(text)) == {}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("He ate a apple.", "a/an"),
        ("She saw an dog.", "a/an"),
        ("He was was sad.", "doubled word"),
        ("He didn't saw the dog.", "past after helper"),
        ("They wanted to went home.", "past after helper"),
        ("She could ran fast.", "past after helper"),
        ("They did wanted it.", "past after helper"),
        ("She go home.", "agreement"),
        ("They was sad.", "agreement"),
        ("Him went home.", "agreement"),
        ("The and was there.", "impossible pair"),
        ("the dog ran.", "small letter at start"),
        ("A dog and i ran.", "capital"),
        ("The dog ran The park.", "capital"),
        ('"Go home, he said.', "unbalanced quotes"),
        ("The dog ran to the", "unfinished sentence"),
        ("The dog , ran.", "stray punctuation"),
        ("The dog {ran}.", "odd character"),
    ],
)
def test_a_mistake_is_seen(text: str, kind: str) -> None:
    assert kind in mistakes(parse(text))


@pytest.mark.parametrize("word", ["shrugge", "darked", "drinked", "nowly", "friendfround", "huged", "catched"])
def test_a_non_word_is_seen(word: str) -> None:
    text = f"The dog {word} in the park."
    assert non_words(parse(text), frozenset()) == [word] and word in grammar(parse(text)).reason
    assert non_words(parse(text), frozenset({word})) == []


@pytest.mark.parametrize("word", ["parked", "drank", "slowly", "friendliness", "hugest", "bookshelves", "unties"])
def test_a_word_formed_from_a_listed_one_is_none(word: str) -> None:
    assert non_words(parse(f"The dog {word} in the park."), frozenset()) == []


def test_words_in_an_order_that_no_prose_has_are_odd() -> None:
    told = "The old man put his hat on the table and looked out of the window. Then he smiled at the girl."
    words = told.split()
    mixed = " ".join(random.Random(1).sample(words, len(words)))
    assert oddity(parse(told)) < 0.1 < 0.4 < oddity(parse(mixed))
    assert "odd sequences" in grammar(parse(mixed)).reason and "odd" not in grammar(parse(told)).reason


def test_the_score_falls_smoothly_with_the_mistakes() -> None:
    clean = "The dog ran to the park. " * 20
    scores = [grammar(parse(clean + "She go home. " * count)).score or 0 for count in range(5)]
    falls = [before - after for before, after in pairwise(scores)]
    assert scores[0] == 10 and all(0.3 < fall < 2.5 for fall in falls)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "A boy was sad. Sam ran. Then he and Sam ate fish. Later came a dog named Sam.",
            "Sam is introduced after",
        ),
        ("A boy named Tim ran. Tim lost her hat. Tim was sad. Mom came.", "Tim changes gender"),
        ("A boy ran. He saw the frog. He sat. It was a frog.", "'the frog' before 'a frog'"),
        ("A boy ran. Once upon a time, there was a dog.", "opens again in sentence 2"),
        ("A boy ran home fast. A boy ran home fast.", "1 sentences told again"),
        (
            "Then she looked at it again. A girl had a box. It was red. She loved it. She took it home.",
            "its first sentence is no opening",
        ),
        ("The dog ran. He sat. He ate. One day, a boy came. The boy saw the dog.", "begins only in sentence 4"),
    ],
)
def test_an_inconsistency_is_found(text: str, says: str) -> None:
    assert any(says in finding.evidence for finding in findings(parse(text)))


def test_a_consistent_story_has_no_findings() -> None:
    text = "There was a boy named Tim. He saw a frog. The frog ran. Tim lost his hat, and the frog found it."
    assert findings(parse(text)) == []
