"""Keep evaluation prompts out of training data: drop rows that ask for, or tell, the same.

A row leaks when its required words are those of an evaluation prompt, or when its request or its story is one
that the evaluation uses. Held-out keys are compared as hashes of normalised text.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from data_gen.dedup import shingles

SAME_REQUEST = 3  # required words that make two requests the same one


def digest(kind: str, *parts: str) -> str:
    """A hash that does not depend on case and white space."""
    content = [kind, *(" ".join(part.casefold().split()) for part in parts)]
    return sha256(json.dumps(content).encode()).hexdigest()


def request_text(entry: dict[str, Any]) -> str:
    """What the user says, in an instruction row or an evaluation prompt."""
    return str(entry["prompt"] if "prompt" in entry else entry["messages"][0]["content"])


def story_text(entry: dict[str, Any]) -> str | None:
    """The story of an instruction row, or the reference of an evaluation prompt where it has one."""
    return entry.get("reference") if "prompt" in entry else entry["messages"][-1]["content"]


def held_out_keys(entry: dict[str, Any]) -> set[str]:
    """The hashes by which an entry is recognised: its word set, its request and its story."""
    keys = {digest("request", request_text(entry))}
    if story := story_text(entry):
        keys.add(digest("story", story))
    words = sorted(set(entry.get("words") or ()))
    if len(words) >= SAME_REQUEST:
        keys.add(digest("words", *words))
    return keys


def drop_held_out(
    rows: Sequence[dict[str, Any]], prompts: Iterable[dict[str, Any]]
) -> tuple[list[dict[str, Any]], int]:
    """The rows that share no key with any prompt, and how many were dropped."""
    held_out = {key for prompt in prompts for key in held_out_keys(prompt)}
    kept = [row for row in rows if held_out.isdisjoint(held_out_keys(row))]
    return kept, len(rows) - len(kept)


def drop_near_requests(
    rows: Sequence[dict[str, Any]], prompts: Iterable[dict[str, Any]], threshold: float
) -> tuple[list[dict[str, Any]], int]:
    """The rows whose request is unlike that of any prompt, and how many were dropped.

    Two requests are alike when the Jaccard similarity of their word 5-grams is `threshold` or more.
    """
    asked = [shingles(request_text(prompt)) for prompt in prompts]
    places: dict[bytes, list[int]] = {}
    for place, grams in enumerate(asked):
        for gram in grams:
            places.setdefault(gram, []).append(place)

    def alike(row: dict[str, Any]) -> bool:
        mine = shingles(request_text(row))
        shared = Counter(place for gram in mine for place in places.get(gram, ()))
        return any(count >= threshold * (len(mine | asked[place])) for place, count in shared.items())

    kept = [row for row in rows if not alike(row)]
    return kept, len(rows) - len(kept)
