"""A rubric: the axes a judge scores, each with its written definition.

A rubric is a Markdown file so that people read and edit the same text a language-model judge is given:
a `# title`, an introduction, then one `## axis` section per axis.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

AXIS = re.compile(r"[a-z][a-z0-9_]*")
HEADING = re.compile(r"^(#{1,2})[ \t]+(.*?)[ \t]*$", re.MULTILINE)


class RubricError(ValueError):
    """A rubric that cannot be used, or an axis that it does not have."""


@dataclass(frozen=True)
class Rubric:
    """Title, introduction and axes (name to definition), in the order of the file."""

    title: str
    intro: str
    axes: Mapping[str, str]

    def definition(self, axis: str) -> str:
        """The text of one axis; an unknown one is an error that lists those there are."""
        if axis not in self.axes:
            raise RubricError(f"rubric '{self.title}': no axis '{axis}'; its axes are {', '.join(self.axes)}.")
        return self.axes[axis]


def _axes(title: str, sections: Sequence[tuple[str, str]]) -> dict[str, str]:
    axes: dict[str, str] = {}
    for name, definition in sections:
        if not AXIS.fullmatch(name):
            raise RubricError(
                f"rubric '{title}': axis '## {name}' is no valid name; use lower-case letters, digits and _."
            )
        if name in axes:
            raise RubricError(f"rubric '{title}': axis '{name}' is defined twice; keep one '## {name}' section.")
        if not definition:
            raise RubricError(f"rubric '{title}': axis '{name}' has no definition; write one under '## {name}'.")
        axes[name] = definition
    if not axes:
        raise RubricError(f"rubric '{title}': no axes; add at least one '## axis' section with its definition.")
    return axes


def load_rubric(text: str) -> Rubric:
    """Read a rubric from the text of its file; RubricError names what is wrong and what is allowed."""
    headings = list(HEADING.finditer(text))
    if not headings or headings[0].group(1) != "#" or not headings[0].group(2):
        raise RubricError("rubric: no '# title' first; start the file with '# name of the rubric'.")
    titles = [heading.group(2) for heading in headings if heading.group(1) == "#"]
    if len(titles) > 1:
        raise RubricError(f"rubric '{titles[0]}': a second title '# {titles[1]}'; axes are '## axis' sections.")
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    bodies = [text[heading.end() : end].strip() for heading, end in zip(headings, ends, strict=True)]
    sections = [(heading.group(2), body) for heading, body in zip(headings, bodies, strict=True)][1:]
    return Rubric(titles[0], bodies[0], MappingProxyType(_axes(titles[0], sections)))
