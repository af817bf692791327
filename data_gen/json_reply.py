"""The JSON object in a model's reply, which may stand in prose, in a code fence, or after thinking aloud."""

import json
import re
from typing import Any

OPENING = re.compile(r'\{\s*["}]')


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_each_once)


def last_object(reply: str) -> dict[str, Any] | None:
    """The last JSON object that is part of no other one; None without any. A key given twice makes it no object."""
    found, start = None, 0
    while opening := OPENING.search(reply, start):
        try:
            found, start = DECODER.raw_decode(reply, opening.start())
        except (ValueError, RecursionError):
            start = opening.start() + 1
    return found
