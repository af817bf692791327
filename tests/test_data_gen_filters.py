"""Laws of the filters: what is asked for stays in order, what goes is counted by its reason."""

import json
from pathlib import Path

import pytest

from data_gen.filters import by_language, by_length, by_score, languages
from data_gen.generator import Row
from data_gen.instructions import instruction_rows

STORIES = Path(__file__).parents[2] / "shared/data/tinystories/train.jsonl"
FOREIGN = {
    "de": "Der kleine Hund lief in den Garten und fand dort einen roten Ball.",
    "fr": "Il était une fois une petite fille qui aimait jouer dans la forêt.",
    "es": "El gato se sentó en la ventana y miró los pájaros del jardín.",
    "it": "La bambina prese il suo ombrello e uscì a giocare sotto la pioggia.",
    "nl": "De jongen gaf zijn moeder een bloem omdat zij verdrietig was.",
    "pl": "Mały chłopiec znalazł w lesie stary klucz i zaniósł go do domu.",
    "ru": "Маленькая девочка нашла в лесу старый ключ и отнесла его домой.",
    "tr": "Küçük köpek bahçeye koştu ve orada kırmızı bir top buldu.",
    "ja": "小さな犬は庭に走って行って、赤いボールを見つけました。",
    "zh": "小狗跑到花园里，找到了一个红色的球。",
    "ar": "ركض الكلب الصغير إلى الحديقة ووجد هناك كرة حمراء.",
}
SHORT = [
    "Yes!",
    "A sun, a cat.",
    "Crocodile, elephant, zebra.",
    "Omnivore",
    "2 × 3 × 5 × 7.",
    "Lily laughed.",
    '{"width":"13"}',
    "1, 4, 9, 16",
    "",
]


def rows_of(texts: list[str]) -> list[Row]:
    return [{"id": str(at), "messages": [{"role": "assistant", "content": text}]} for at, text in enumerate(texts)]


def test_both_bounds_of_length_are_included() -> None:
    rows = rows_of(["one", "one two", "one  two\n\nthree", "one two three four"])
    assert by_length(rows, 2, 3) == (rows[1:3], {"kept": 2, "too short": 1, "too long": 1})
    assert by_length(rows) == (rows, {"kept": 4})


def test_other_languages_go_and_are_named() -> None:
    rows = rows_of([*FOREIGN.values(), *SHORT])
    kept, counts = by_language(rows, "en")
    assert kept == rows[len(FOREIGN) :]
    assert counts == {"kept": len(SHORT), **{f"language {code}": 1 for code in FOREIGN}}


@pytest.mark.parametrize("code", FOREIGN)
def test_any_language_can_be_the_one_that_stays(code: str) -> None:
    english = "Once upon a time, a little dog ran into the garden and found a red ball."
    kept, counts = by_language(rows_of([FOREIGN[code], english]), code)
    assert [row["id"] for row in kept] == ["0"]
    assert counts == {"kept": 1, "language en": 1}


def test_the_likeliest_language_alone_would_drop_short_english() -> None:
    from data_gen.filters import _identifier

    assert [text for text in SHORT if _identifier().classify(text)[0] != "en"] != []


def test_an_unknown_language_is_refused() -> None:
    assert {"en", *FOREIGN} <= set(languages())
    with pytest.raises(ValueError, match="language 'english' is not known; known are"):
        by_language([], "english")


def test_our_own_stories_are_english() -> None:
    rows = instruction_rows(5, 0, 100)
    assert by_language(rows, "en") == (rows, {"kept": 100})


@pytest.mark.skipif(not STORIES.is_file(), reason="the shared data are absent")
def test_real_stories_are_kept() -> None:
    texts = [json.loads(line)["text"] for line in STORIES.read_text(encoding="utf-8").splitlines()]
    kept, _ = by_language(rows_of(texts[::4]), "en")
    assert len(kept) >= 0.999 * len(texts[::4])


def test_no_score_is_not_a_low_score() -> None:
    rows = rows_of(["a", "b", "c", "d"])
    scores: list[float | None] = [5.0, None, 4.9, 0.0]
    assert by_score(rows, lambda asked: scores, 5) == ([rows[0]], {"kept": 1, "unscored": 1, "low score": 2})
    assert by_score(rows, lambda asked: scores, 0)[1] == {"kept": 3, "unscored": 1}


def test_a_score_for_each_row_is_needed() -> None:
    with pytest.raises(ValueError, match="zip"):
        by_score(rows_of(["a", "b"]), lambda asked: [1.0], 0)
