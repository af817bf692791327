"""Where the plain values of a JSON object stand in its text, which Python's decoder does not tell."""

import json
import re

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
Path = tuple[str, ...]
Span = tuple[int, int]


def places(text: str, start: int, end: int) -> dict[Path, Span]:
    """The span of every number, string and word by the names that lead to it; what is in lists is passed over.

    `text[start:end]` is one valid JSON object.
    """
    found: dict[Path, Span] = {}
    fields: list[str | None] = []  # the field being read in each open object; None in a list
    tokens = list(TOKEN.finditer(text, start, end))
    followers = [token.group() for token in tokens[1:]] + [""]
    for token, follower in zip(tokens, followers, strict=True):
        sign = token.group()
        if sign in ("{", "["):
            fields.append(None)
        elif sign in ("}", "]"):
            fields.pop()
        elif follower == ":":
            fields[-1] = json.loads(sign, strict=False)
        elif sign not in (":", ",") and None not in fields:
            found[tuple(field for field in fields if field is not None)] = token.span()
    return found
