"""What must not leave this machine, looked for in all that would go: keys and passwords, personal data, paths.

Texts are read as people would: the strings of JSON without their escapes, line by line. In weights and other binary
files the secrets of this environment and its paths are looked for.
"""

import io
import json
import mmap
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.hub.release import File

BINARY = (".safetensors", ".gguf", ".onnx", ".data", ".model")
VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")  # pieces of words: no text of anybody
SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)  # of environment variables
SHORTEST_SECRET = 12  # characters; a shorter value, such as "EMPTY" or "none", may be a word of a text
PLACE = "path of this machine"
SECRETS = ("password", "key", "secret of this environment")


class Leak(NamedTuple):
    """A finding, shown as it may be seen."""

    file: str
    line: int | None
    kind: str
    shown: str

    @property
    def is_secret(self) -> bool:
        return self.kind in SECRETS

    def __str__(self) -> str:
        return f"{self.file}{f', line {self.line}' if self.line else ''}: {self.kind} {self.shown}"


def leaks(files: Iterable[File]) -> list[Leak]:
    """Everything found, file by file."""
    own, places = _own_secrets(), _places()
    return [leak for file in files for leak in (_in_bytes if _is_binary(file) else _in_text)(file, own, places)]


def _is_binary(file: File) -> bool:
    return file.name.endswith(BINARY)


def _own_secrets() -> list[str]:
    """Values that only this environment has: its token of the hub, and variables that are named like a secret."""
    from huggingface_hub import get_token

    named = (value for name, value in os.environ.items() if SECRET_NAME.search(name))
    return sorted({value for value in (get_token(), *named) if value and len(value) >= SHORTEST_SECRET})


def _places() -> list[str]:
    """Directories whose names say something of this machine."""
    found = {str(Path.cwd()), str(Path.home()), tempfile.gettempdir()}
    return sorted(f"{place.rstrip('/')}/" for place in found if place != "/")


def _in_bytes(file: File, own: Sequence[str], places: Sequence[str]) -> Iterator[Leak]:
    data = _bytes(file.content)
    for value in own:
        if data.find(value.encode()) >= 0:
            yield Leak(file.name, None, SECRETS[-1], f"{value[:3]}…")
    for place in places:
        if data.find(place.encode()) >= 0:
            yield Leak(file.name, None, PLACE, place)


def _bytes(content: Path | bytes) -> "mmap.mmap | bytes":
    """Of a file without reading it into memory."""
    if isinstance(content, bytes) or not content.stat().st_size:
        return content if isinstance(content, bytes) else b""
    with content.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _in_text(file: File, own: Sequence[str], places: Sequence[str]) -> Iterator[Leak]:
    from data_gen.pii import find, masked

    for line, text in _texts(file):
        for value in own:
            if value in text:
                yield Leak(file.name, line, SECRETS[-1], f"{value[:3]}…")
        for place in places:
            if place in text:
                yield Leak(file.name, line, PLACE, place)
        if file.name.split("/")[-1] not in VOCABULARY:
            for found in find(text):
                yield Leak(file.name, line, found.kind, masked(text, found))


def _texts(file: File) -> Iterator[tuple[int | None, str]]:
    """Texts with the number of their line, of JSON the strings."""
    with io.BytesIO(file.content) if isinstance(file.content, bytes) else file.content.open("rb") as opened:
        if file.name.endswith(".json"):
            yield from ((None, found) for found in _strings(json.load(opened)))
            return
        for number, line in enumerate(opened, start=1):
            text = line.decode("utf-8", errors="replace")
            if file.name.endswith(".jsonl"):
                yield from ((number, found) for found in _strings(json.loads(text)))
            else:
                yield number, text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value if isinstance(value, list) else [*value, *value.values()]:
            yield from _strings(part)
