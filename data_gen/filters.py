"""Keep the rows whose answer has the right length, is in the right language and scores well enough.

Each filter returns the rows that stay, in order, and counts: `kept`, and one for each reason to drop a row.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from data_gen.dedup import answer
from data_gen.generator import Row

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

DECISIVE = 100  # a likelihood ratio: "decisive" on the scale of Jeffreys (Theory of Probability, 1961)
WORDLESS = "zxx"  # "no linguistic content", such as 3x + 2: in no other language


def by_length(
    rows: Sequence[Row], min_words: int = 0, max_words: int | None = None
) -> tuple[list[Row], dict[str, int]]:
    """The rows whose answer has from `min_words` to `max_words` words, both included; a word ends at white space."""

    def problem(row: Row) -> str | None:
        words = len(answer(row).split())
        if words < min_words:
            return "too short"
        return "too long" if max_words is not None and words > max_words else None

    return _sorted_out(rows, [problem(row) for row in rows])


def by_language(rows: Sequence[Row], language: str) -> tuple[list[Row], dict[str, int]]:
    """The rows whose answer is not decisively in another language than `language` ("en"; any of `languages()`).

    A row goes where another language is more than 100 times as likely. So "Crocodile, zebra.", which could be several
    languages, stays, and "Mi nombre es John." goes. ValueError for a language that is not known.
    """
    if language not in languages():
        raise ValueError(f"language {language!r} is not known; known are {', '.join(languages())}. Choose one of them.")
    return _sorted_out(rows, [_other_language(answer(row), language) for row in rows])


def by_score(
    rows: Sequence[Row], score: Callable[[list[Row]], list[float | None]], minimum: float
) -> tuple[list[Row], dict[str, int]]:
    """The rows that score at least `minimum`; a row without a score is dropped and counted apart: it is not a zero."""

    def problem(value: float | None) -> str | None:
        if value is None:
            return "unscored"
        return None if value >= minimum else "low score"

    return _sorted_out(rows, [problem(value) for value in score(list(rows))])


@cache
def languages() -> tuple[str, ...]:
    """The codes of the languages that can be told apart, ISO 639: two letters, or three where there are none."""
    return tuple(sorted({*_identifier().labels} - {WORDLESS}))


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _other_language(text: str, language: str) -> str | None:
    """ "language fr" where a text is decisively French, None where it may well be in `language`."""
    likelihoods = dict(_identifier().rank(text))
    best = max(languages(), key=likelihoods.__getitem__)
    return f"language {best}" if likelihoods[best] > DECISIVE * likelihoods[language] else None


def _sorted_out(rows: Sequence[Row], problems: Sequence[str | None]) -> tuple[list[Row], dict[str, int]]:
    kept = [row for row, problem in zip(rows, problems, strict=True) if problem is None]
    return kept, {"kept": len(kept), **Counter(problem for problem in problems if problem)}
