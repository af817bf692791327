"""The JSON object in a model's reply, which may stand in prose, in a code fence, or after thinking aloud."""

import json
from typing import Any


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_each_once)


def last_object(reply: str) -> dict[str, Any] | None:
    """The last JSON object that is part of no other one, whole or broken; None without any. In linear time.

    A key given twice makes it no object.
    """
    found, start = None, reply.find("{")
    while start >= 0:
        try:
            found, end = DECODER.raw_decode(reply, start)
        except json.JSONDecodeError as error:
            end = max(error.pos, start + 1)
        except ValueError:
            end = start + 1
        except RecursionError:
            return None
        start = reply.find("{", end)
    return found
