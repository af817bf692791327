"""The reference language model is a proper distribution, owes nothing to the data it is tested on, and sees order."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from bench.reference import passages, places
from eval.novelty import Training
from eval.prose import parse
from eval.reference import FOLDER, START, STOP, Fluency, grams, lean, reference, surprises
from eval.tags import NAME, UNKNOWN, classes, tags

REAL = Path(__file__).parents[2] / "shared" / "data" / "tinystories" / "train.jsonl"
OPENING = "Once upon a time, there was a little goat named Pip."
MIDDLE = 'He looked at the fence and said, "That is too high for me."'
CLOSING = "From that day on, they were the best of friends."


def of(text: str) -> list[str]:
    story = parse(text)
    return tags(story.tokens[0], story)


@pytest.mark.parametrize("context", [(), ("THE",), (START, START), ("THE", "A"), ("OF", "HIS"), ("N", "never seen")])
def test_probabilities_after_any_context_sum_to_one(context: tuple[str, ...]) -> None:
    fluency = reference().fluency
    seen = set(fluency.followed[()])
    assert STOP in seen and START not in seen
    total = sum(fluency.probability(context, tag) for tag in (*seen, "never seen"))
    assert total == pytest.approx(1.0) and fluency.probability(context, "never seen") > 0


def test_smoothing_is_that_of_kneser_and_ney() -> None:
    counts = {("a", "b", "c"): 3, ("a", "b", "d"): 1, ("x", "b", "c"): 1, ("x", "y", "c"): 2}
    fluency = Fluency(counts)
    unigram = (2 - 0.75 + 0.75 * 2 * (1 / 3)) / 3  # c follows b and y; d follows b: three pairs
    bigram = (2 - 0.75 + 0.75 * 2 * unigram) / 3  # "b c" comes after a and x, "b d" after a
    assert fluency.probability(("a", "b"), "c") == pytest.approx((3 - 0.75 + 0.75 * 2 * bigram) / 4)
    assert fluency.probability(("never", "b"), "c") == pytest.approx(bigram)


def test_words_get_the_class_of_their_kind_and_ending() -> None:
    assert of("The old dogs were barking at Tim's red kite.") == [
        *("THE", "A", "NS", "WERE", "VG", "OF", NAME, "'S", "A", "N", "."),
    ]
    assert of("She quickly ran home and smiled.")[:3] == ["HE", "R", "VD"]
    assert of("He saw a frumious jabberwock.")[3:5] == [UNKNOWN, UNKNOWN]


def test_a_word_of_several_kinds_gets_the_one_its_place_asks_for() -> None:
    assert set(classes("smile")) == {"N", "V"}
    assert of("Her smile was big.")[1] == "N" and of("They smile a lot.")[1] == "V"
    assert of("He put it down.")[1] == "VD" and of("He can put it down.")[2] == "V"


def test_a_new_word_costs_nothing_and_a_wrong_order_does() -> None:
    plain, new = "The girl took the ball to the park.", "The plumber took the trombone to the glacier."
    assert sum(surprises(parse(new))) == pytest.approx(sum(surprises(parse(plain))))
    rng = random.Random(0)
    for _ in range(20):
        words = plain.strip(".").split()
        mixed = rng.sample(words, len(words))
        assert mixed == words or sum(surprises(parse(" ".join(mixed) + "."))) > sum(surprises(parse(plain))) + 2


def test_sentences_lean_to_the_place_where_they_stand() -> None:
    found = {text: grams(parse(text).tokens[0], parse(text)) for text in (OPENING, MIDDLE, CLOSING)}
    opens = {text: lean(found[text], reference().places.opening) for text in found}
    closes = {text: lean(found[text], reference().places.closing) for text in found}
    assert max(opens, key=lambda text: opens[text]) == OPENING and opens[OPENING] > 0.5 > 0 > opens[CLOSING]
    assert max(closes, key=lambda text: closes[text]) == CLOSING and closes[CLOSING] > 0.5 > 0 > closes[MIDDLE]
    assert lean(set(), reference().places.opening) == 0


def test_the_counts_are_small_and_in_plain_text() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(sizes) == {"classes.txt", "places.txt", "prose.txt"} and sum(sizes.values()) < 3_000_000


def test_what_is_counted_is_told_from_seeds_and_the_same_each_time() -> None:
    first, again = (Counter(passage.place for passage in passages()) for _ in range(2))
    assert first == again and all(first[place] > 60 for place in (0, 1, 2, None))
    story = parse(" ".join([OPENING, MIDDLE, MIDDLE, CLOSING]))
    assert places(story, None) == [0, 1, 2, 2] and places(story, 2) == [2] * 4


def test_the_reference_owes_nothing_to_the_stories_it_is_tested_on() -> None:
    if not REAL.exists():
        pytest.skip("needs ../shared/data/tinystories")
    real = Training([json.loads(line)["text"] for line in REAL.read_text(encoding="utf-8").splitlines()])
    lines = (FOLDER / "prose.txt").read_text(encoding="utf-8").splitlines()
    longest = {line: real.lookup(parse(line).words).longest for line in lines if line and line[0] not in "#["}
    assert len(longest) > 400
    assert {line: length for line, length in longest.items() if length > 10} == {}  # "once ... girl named" has ten
