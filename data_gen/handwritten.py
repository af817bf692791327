"""The hand-written stories of `data_gen/authored/*.yaml`, with the same labels as the told ones.

They are prose that no plot file could tell: something to read aloud, and a measure of the story world beside
them. `data_gen/authored/` is data; a new story is a new entry in one of its files.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data_gen.story import Story
from data_gen.storyworld import FEATURES

AUTHORED = Path(__file__).parent / "authored"
SHORTEST, LONGEST = 100, 200  # words
KEYS = ("title", "words", "features", "characters", "summary", "text")
CLASSES = ("noun", "verb", "adjective")


class HandwrittenStory(NamedTuple):
    """A story and what it is called."""

    title: str
    story: Story


def fault(raw: Mapping[str, Any]) -> str | None:
    """What is wrong with an entry, what is allowed and what to do, or None."""
    if missing := [key for key in KEYS if key not in raw]:
        return f"no {', '.join(missing)}; an entry has {', '.join(KEYS)}. Add it."
    if unknown := [str(key) for key in raw if key not in KEYS]:
        return f"unknown {', '.join(unknown)}; an entry has {', '.join(KEYS)}. Remove it."
    if not all(isinstance(raw[key], str) for key in ("title", "summary", "text")):
        return "title, summary or text is no text; each is a text. Put it in quotes."
    for key in ("words", "features", "characters"):
        if not isinstance(raw[key], list) or not all(isinstance(item, str) for item in raw[key]):
            return f"{key} is {raw[key]!r}; it is a list of texts. Write it as [a, b], with quotes where needed."
    if strange := [name for name in raw["features"] if name not in FEATURES]:
        return f"unknown feature {', '.join(strange)}; known are {', '.join(FEATURES)}. Name one of those."
    if len(raw["words"]) != len(CLASSES):
        return f"{len(raw['words'])} words; a story is built on a {', a '.join(CLASSES)}. Name the three."
    count = len(raw["text"].split())
    if not SHORTEST <= count <= LONGEST:
        return f"{count} words of text; {SHORTEST} to {LONGEST} are allowed. Tell it shorter or longer."
    return None


def parse(where: str, raw: Any) -> HandwrittenStory:
    """One entry of the file `where`; ValueError names the file and the title."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: an entry is {raw!r}; it is a mapping of {', '.join(KEYS)}. Write it as such.")
    if problem := fault(raw):
        raise ValueError(f"{where}, {raw.get('title', 'a story without a title')!r}: {problem}")
    noun, verb, adjective = raw["words"]
    story = Story(
        text=raw["text"].strip(),
        words=(noun, verb, adjective),
        features=tuple(name for name in FEATURES if name in raw["features"]),
        characters=tuple(raw["characters"]),
        summary=raw["summary"],
    )
    return HandwrittenStory(raw["title"], story)


def read_stories(folder: Path) -> tuple[HandwrittenStory, ...]:
    """The stories of a folder's YAML files, in the order of their names; ValueError where one is not right."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ValueError(
                f"{path.name}: {type(entries).__name__}; a file is a list of stories. Begin each with '-'."
            )
        found += [parse(path.name, raw) for raw in entries]
    return tuple(found)


@cache
def handwritten() -> tuple[HandwrittenStory, ...]:
    """All hand-written stories, read once."""
    return read_stories(AUTHORED)
