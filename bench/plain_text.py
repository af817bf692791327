"""Documents of plain text, the token rows they become, and what a model pays for each: a figure in bits per byte.

Paragraphs stand one newline apart, whatever a file has between them. A blank line is no detail: a model that has
learned from one convention pays several nats for every break of the other, and the students would be measured on that.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.statistics import Interval, bootstrap_totals
from posttrain.lm.nll import row_nll
from posttrain.lm.token_row import TokenRow

WORDS = 4  # of a paragraph's beginning, at most
SEEN = 3  # times that a beginning must have been met to say anything
SURE = 0.7  # of the paragraphs with such a beginning open a document
RUN = 10  # words in a row: what two texts have in common by copying


class Document(NamedTuple):
    """Token ids, the first of them given, and the UTF-8 bytes of the text that the others spell."""

    ids: list[int]
    size: int


class Borders(NamedTuple):
    """How often a found border is one, and how many of the borders are found."""

    precision: float
    recall: float


class Openings:
    """Which paragraphs begin a document, learned from documents: their first words decide, the most that are known."""

    def __init__(self, documents: Sequence[str]) -> None:
        self.opening: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        for document in documents:
            first, *others = document.split("\n")
            self.opening.update(_beginnings(first))
            for paragraph in (first, *others):
                self.seen.update(_beginnings(paragraph))

    def begins(self, paragraph: str) -> bool:
        """Whether a document begins here."""
        known = next((words for words in _beginnings(paragraph) if self.seen[words] >= SEEN), "")
        return self.opening[known] > SURE * self.seen[known]


def _beginnings(paragraph: str) -> list[str]:
    words = paragraph.split()[:WORDS]
    return [" ".join(words[:count]) for count in range(len(words), 0, -1)]


def tidy(text: str) -> str:
    """The text with its paragraphs one newline apart."""
    return re.sub(r"\s*\n\s*", "\n", text.strip())


def split(text: str, openings: Openings) -> list[str]:
    """The documents of a text that does not mark their borders; nothing is left out."""
    documents: list[list[str]] = []
    for paragraph in tidy(text).split("\n"):
        if not documents or openings.begins(paragraph):
            documents.append([])
        documents[-1].append(paragraph)
    return ["\n".join(document) for document in documents]


def border_quality(documents: Sequence[str]) -> Borders:
    """Openings learned from every second document, and tried on the others."""
    openings, others = Openings(documents[::2]), documents[1::2]
    right = sum(openings.begins(document.split("\n")[0]) for document in others)
    wrong = sum(openings.begins(paragraph) for document in others for paragraph in document.split("\n")[1:])
    return Borders(right / max(right + wrong, 1), right / len(others))


def most_shared(documents: Sequence[str], other: Sequence[str]) -> float:
    """The largest share of a document's runs of ten words that other documents have too: copies are near 1."""
    there = {run for document in other for run in _runs(document)}
    shares = [len(runs & there) / len(runs) for document in documents if (runs := _runs(document))]
    return max(shares, default=0.0)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[start:] for start in range(RUN)), strict=False))


def windows(name: str, ids: Sequence[int], length: int, context: int = 1) -> list[TokenRow]:
    """Rows of at most `length` tokens; together they supervise every token after the first exactly once.

    A further row begins with the `context` tokens before its first supervised one (1 <= context < length).
    """
    rows: list[TokenRow] = []
    done = 1
    while done < len(ids):
        start = max(0, done - context)
        end = min(start + length, len(ids))
        rows.append(TokenRow(f"{name}/{len(rows)}", list(ids[start:end]), [at >= done for at in range(start, end)]))
        done = end
    return rows


def document_nats(model: Any, documents: Sequence[Document], length: int) -> list[float]:
    """Nats of each whole document after its first token; behind `length` tokens, windows overlap by half."""
    rows = [windows(str(at), document.ids, length, length // 2) for at, document in enumerate(documents)]
    means = iter(row_nll(model, [row for document in rows for row in document]))
    return [sum(next(means) * sum(row.supervised) for row in document) for document in rows]


def bits_per_byte(nats: Sequence[float], sizes: Sequence[int]) -> Interval:
    """Bits of all documents over bytes of all documents, so a document weighs by its bytes, and its 95 % interval.

    A ratio of sums: the bootstrap draws whole documents, sums their bits and bytes, and divides. The difference of two
    models' nats goes in like the nats of one, which pairs the models by document.
    """
    totals = np.array([[value / math.log(2), size] for value, size in zip(nats, sizes, strict=True)])
    found = bootstrap_totals(totals, lambda sums: sums[:, 0] / sums[:, 1])
    assert found is not None, "documents have bytes"
    return found
