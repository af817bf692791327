"""Laws of back-translation: a request is honoured by the text that it was made from."""

import json
from pathlib import Path

import pytest

from data_gen.backtranslate import backtranslate_rows, named_hero, visible_features
from data_gen.story import tell
from data_gen.storyworld import load_world, read_yaml

TEXTS = [tell(21, index).text for index in range(400)]
CORPUS = Path(__file__).parents[2] / "shared" / "data" / "tinystories" / "train.jsonl"
BASES = load_world().verbs


def is_honoured(row: dict) -> bool:  # type: ignore[type-arg]
    """Whether the answer has the words, the hero and the first sentence of the row."""
    answer = row["messages"][1]["content"]
    has_words = all(word in answer or BASES.get(word, word) in answer for word in row["words"])
    hero, opening = row["hero"] or "", row["first_sentence"] or ""
    return has_words and hero in answer and answer.startswith(opening)


def test_every_row_is_honoured_by_its_text() -> None:
    rows, counts = backtranslate_rows(TEXTS, 1)
    assert counts["kept"] == len(rows) > 350
    assert [row for row in rows if not is_honoured(row)] == []
    assert {row["messages"][1]["content"] for row in rows} <= set(TEXTS)


def test_a_row_with_another_text_is_caught() -> None:
    rows, _ = backtranslate_rows(TEXTS, 1)
    swapped = {**rows[0], "messages": [rows[0]["messages"][0], rows[1]["messages"][1]]}
    assert not is_honoured(swapped)


def test_required_words_are_neither_stop_words_nor_names() -> None:
    world = load_world()
    refused = set(read_yaml("stop_words.yaml")) | {name.lower() for name in (*world.girls, *world.boys)}
    rows, _ = backtranslate_rows(TEXTS, 1)
    assert [word for row in rows for word in row["words"] if word in refused] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A cat sat.", "too short"),
        ("The cat sat on a mat. " * 100, "too long"),
        ("buy now " * 30, "no sentences"),
        ("The cat sat on a mat. " * 12 + 'He said, "No.', "unbalanced quotes"),
    ],
)
def test_unusable_texts_are_dropped_and_counted(text: str, reason: str) -> None:
    rows, counts = backtranslate_rows([*TEXTS[:20], text], 1)
    assert counts[reason] == 1
    assert len(rows) == counts["kept"] == 20


def test_features_are_named_only_when_they_are_plain_to_see() -> None:
    assert visible_features('"Hi," said Tom. "Hello," said Mia. Tom learned that it is good to share.') == [
        "dialogue",
        "moral value",
    ]
    assert visible_features('He learned a song and read the word "calm" aloud.') == []


def test_a_hero_is_a_name_that_comes_back() -> None:
    assert named_hero("A girl named Lily ran. Lily fell. Lily cried.") == "Lily"
    assert named_hero("A girl named Lily ran. She fell.") is None


def test_rows_depend_on_the_text_and_the_seed() -> None:
    rows, _ = backtranslate_rows(TEXTS, 1)
    assert backtranslate_rows(TEXTS, 1)[0] == rows
    assert backtranslate_rows(TEXTS, 2)[0] != rows


@pytest.mark.skipif(not CORPUS.exists(), reason="the shared corpus is not here")
def test_most_of_a_real_corpus_is_kept() -> None:
    texts = [json.loads(line)["text"] for line in CORPUS.read_text(encoding="utf-8").splitlines()[:1000]]
    rows, counts = backtranslate_rows(texts, 1)
    assert counts["kept"] > 900
    assert sum(counts.values()) == len(texts)
    assert [row for row in rows if not is_honoured(row)] == []
