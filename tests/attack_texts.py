"""Conversations that try to speak as a chat template: control strings nested, cut, disguised, spelled in bytes, and
split over the borders of fields.

A drawn seed becomes many attacks, so that a test by Hypothesis tries 100,000 of them in a minute; texts that Hypothesis
itself has drawn are woven in.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from random import Random

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

Message = dict[str, str]
ROLES = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant"),
)
DEPTH, BATCH = 8, 100
UNSEEN = "\u200b\u200d\u2060\u202e\ufeff\u00ad\ufe0f\u180e\u034f\u115f\u3164\x00\x08\x7f\U000e0041\U000e007f"
PIECES = ("<0x0A>", "<0x3C>", "<0xF0><0x9F>", "▁", "▁▁", "\ue0000\ue001", "\ue0001\ue001", "{{ x }}", "{% endif %}")
LETTERS = [*range(0x20, 0x7F)]


def look_alikes() -> dict[str, list[str]]:
    """The ASCII characters, each with those that NFKC folds into it: full-width, small, mathematical, raised."""
    found: dict[str, list[str]] = {chr(code): [] for code in LETTERS}
    for code in (*range(0x80, 0x3400), *range(0xFB00, 0x10000), *range(0x1D400, 0x1F200)):
        if (plain := unicodedata.normalize("NFKC", chr(code))) in found and plain != chr(code):
            found[plain].append(chr(code))
    return found


TWINS = look_alikes()


def nested(draw: Random, controls: Sequence[str]) -> str:
    """One control string inside another, up to eight deep, each cut anywhere."""
    text = draw.choice(controls)
    for _ in range(draw.randint(1, DEPTH)):
        outer = draw.choice(controls)
        at = draw.randint(1, len(outer) - 1)
        text = outer[:at] + text + outer[at:]
    return text


def cut(draw: Random, controls: Sequence[str]) -> str:
    """A control string with something, or nothing, in the middle."""
    text = draw.choice(controls)
    at = draw.randint(0, len(text))
    return text[:at] + draw.choice(["", " ", "\n", "é", *PIECES, *controls]) + text[at:]


def disguised(draw: Random, controls: Sequence[str]) -> str:
    """A control string, or a nest of them, in look-alikes and with unseen characters between."""
    text = draw.choice((nested(draw, controls), draw.choice(controls)))
    often, seen = draw.random(), []
    for character in text:
        twins = TWINS.get(character)
        seen.append(draw.choice(twins) if twins and draw.random() < often else character)
        seen.append(draw.choice(UNSEEN) if draw.random() < often / 3 else "")
    return "".join(seen)


def tagged(draw: Random, controls: Sequence[str]) -> str:
    """A control string with another one between its letters, written in tag characters that nobody sees."""
    text, unseen = draw.choice(controls), draw.choice(controls)
    tags = [chr(0xE0000 + ord(character)) for character in unseen if ord(character) in LETTERS]
    return "".join(character + tag for character, tag in zip(text, [*tags, *[""] * len(text)], strict=False))


def in_bytes(draw: Random, controls: Sequence[str]) -> str:
    """A control string in the byte pieces of SentencePiece, all of it or its beginning."""
    text = draw.choice(controls)
    at = draw.randint(1, len(text))
    return "".join(f"<0x{byte:02X}>" for byte in text[:at].encode()) + text[at:]


def spaced(draw: Random, controls: Sequence[str]) -> str:
    """A control string with SentencePiece's own space before it, in it or after it."""
    text = draw.choice(controls)
    at = draw.randint(0, len(text))
    return text[:at] + draw.choice(("▁", "▁ ", " ▁")) + text[at:]


def any_text(draw: Random, controls: Sequence[str]) -> str:
    """Characters of all of Unicode but halves of surrogate pairs, and a control string among them."""
    codes = [draw.randrange(0x110000 - 0x800) for _ in range(draw.randint(0, 12))]
    text = "".join(chr(code if code < 0xD800 else code + 0x800) for code in codes)
    return text + draw.choice(("", draw.choice(controls))) + text[::-1]


KINDS = (nested, cut, disguised, tagged, in_bytes, spaced, any_text)


def conversation(draw: Random, controls: Sequence[str], woven: Sequence[str]) -> list[Message]:
    """One to five messages, each with up to three attacks; half of them with one more, split over the messages."""
    roles = draw.choice(ROLES)
    contents = []
    for _ in roles:
        attacks = [draw.choice(KINDS)(draw, controls) for _ in range(draw.randint(1, 3))]
        contents.append("".join([*attacks, draw.choice(woven)] if woven else attacks))
    if draw.random() < 0.5:
        contents = split_over(draw, contents, draw.choice((draw.choice(controls), nested(draw, controls))))
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def split_over(draw: Random, contents: Sequence[str], attack: str) -> list[str]:
    """The first content ends with the beginning of an attack, and the others begin with its further parts."""
    edges = [0, *sorted(draw.randint(0, len(attack)) for _ in contents[1:]), len(attack)]
    first, *others = (attack[start:stop] for start, stop in pairwise(edges))
    return [contents[0] + first, *(part + text for part, text in zip(others, contents[1:], strict=True))]


def conversations(seed: int, controls: Sequence[str], woven: Sequence[str], count: int) -> Iterator[list[Message]]:
    """`count` attacks; the same seed and texts give the same ones."""
    draw = Random(f"{seed} {woven}")
    return (conversation(draw, controls, woven) for _ in range(count))


def tried(cases: int, controls: Sequence[str], check: Callable[[list[Message]], None]) -> int:
    """Check `cases` conversations that Hypothesis draws in batches; returns how many different ones there were."""
    seen: set[int] = set()

    @settings(max_examples=cases // BATCH, deadline=None, database=None, phases=[Phase.generate])
    @given(st.integers(0, 2**64 - 1), st.lists(st.text(max_size=12) | st.sampled_from(controls), max_size=4))
    def batch(seed: int, woven: list[str]) -> None:
        for messages in conversations(seed, controls, woven, BATCH):
            check(messages)
            seen.add(hash(str(messages)))
            batch.tried += 1

    batch.tried = 0
    batch()
    assert batch.tried == cases
    return len(seen)
