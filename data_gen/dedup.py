"""Remove repeated rows: exact copies, and near copies found by MinHash and confirmed by counting.

Near copies inflate a data set and leak between its parts. Candidates come from locality-sensitive hashing
(datasketch); the exact Jaccard similarity of their word 5-grams decides, so a removed row is really similar.
Rows of one story world share plots and phrases by nature; 5-grams keep them apart by the words that differ.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

SHINGLE = 5  # words
PERMUTATIONS = 128
REPORTED = 100  # rows between two reports
WEIGHTS = (0.1, 0.9)  # a false candidate costs one count, a missed one stays in the data


def answer(row: dict[str, Any]) -> str:
    """The text of a row that is compared: what the assistant says last."""
    return str(row["messages"][-1]["content"])


def normalised(text: str) -> str:
    """Without the differences that no reader counts: case and white space."""
    return " ".join(text.casefold().split())


def shingles(text: str) -> frozenset[bytes]:
    """All runs of five words; the whole text where it is shorter."""
    words = re.findall(r"\w+", text.casefold())
    starts = range(max(1, len(words) - SHINGLE + 1))
    return frozenset(" ".join(words[start : start + SHINGLE]).encode() for start in starts)


def jaccard(first: frozenset[bytes], second: frozenset[bytes]) -> float:
    """Shared shingles as a share of all."""
    return len(first & second) / len(first | second)


def deduplicate(
    rows: Sequence[dict[str, Any]], threshold: float = 0.8, report: Callable[[int], None] = lambda done: None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows without later copies, in order, and the counts `kept`, `exact`, `near`; `report` hears how far it is."""
    from datasketch import MinHash, MinHashLSH  # it brings scipy, which takes a while

    distinct: dict[str, dict[str, Any]] = {}
    for row in rows:
        distinct.setdefault(normalised(answer(row)), row)
    candidates = list(distinct.values())
    sets = [shingles(answer(row)) for row in candidates]
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=WEIGHTS)
    kept = []
    for place, sketch in enumerate(MinHash.generator(sets, num_perm=PERMUTATIONS)):
        if all(jaccard(sets[place], sets[other]) < threshold for other in index.query(sketch)):
            index.insert(place, sketch)
            kept.append(candidates[place])
        if place % REPORTED == 0:
            report(place)
    counts = {"kept": len(kept), "exact": len(rows) - len(distinct), "near": len(distinct) - len(kept)}
    return kept, counts
