"""What the evaluation asks or tells, kept out of preferences; and texts of others, without control strings."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from posttrain.rows import Row

Message = dict[str, str]
T = TypeVar("T")

REMOVED = "control strings removed"  # a count of no rows
EQUAL, LIKE, TOLD = "equal to a held-out prompt", "like a held-out prompt", "equal to a held-out answer"


def cleaned(messages: Sequence[Message], controls: Collection[str]) -> tuple[list[Message], int]:
    """Messages without control strings in any disguise, and how many were removed."""
    from data_gen.strip import strip_control

    found, total = [], 0
    for message in messages:
        text, removed = strip_control(message["content"], controls)
        found.append({**message, "content": text})
        total += removed
    return found, total


def without_asked(
    items: Sequence[T], conversations: Sequence[tuple[Sequence[Message], Row]], held_out: Sequence[Row], alike: float
) -> tuple[list[T], dict[str, int]]:
    """The items of whose conversations no user's turn is asked, or nearly, by the evaluation; and how many others.

    A conversation comes with what is known of its request (`words`, `reference`); `alike` is the Jaccard similarity of
    word 5-grams from which two requests are nearly the same.
    """
    from data_gen.holdout import drop_held_out, drop_near_requests

    turns: list[dict[str, Any]] = []
    for place, (messages, about) in enumerate(conversations):
        asked = [message["content"] for message in messages if message["role"] == "user"]
        turns += [{**about, "prompt": text, "place": place, "turn": len(turns) + nth} for nth, text in enumerate(asked)]
    other, _ = drop_held_out(turns, held_out)
    unlike, _ = drop_near_requests(other, held_out, alike)
    same = _places(turns, other)
    near = _places(other, unlike) - same
    kept = [item for place, item in enumerate(items) if place not in same | near]
    return kept, {EQUAL: len(same), LIKE: len(near)}


def _places(turns: Iterable[Row], kept: Iterable[Row]) -> set[int]:
    left = {turn["turn"] for turn in kept}
    return {turn["place"] for turn in turns if turn["turn"] not in left}


def without_told(rows: Sequence[Row], held_out: Sequence[Row]) -> list[Row]:
    """The rows none of whose answers is a reference of the evaluation."""
    from data_gen.holdout import held_out_keys

    keys = {key for prompt in held_out for key in held_out_keys(prompt)}

    def is_new(row: Row) -> bool:
        sides = [row[name] for name in ("chosen", "rejected", "completion") if name in row]
        return all(keys.isdisjoint(held_out_keys({"messages": [row["prompt"][-1], *side]})) for side in sides)

    return [row for row in rows if is_new(row)]
