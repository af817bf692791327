"""Text from data and models in a Markdown page: it is shown, and never read as Markdown."""

import re
from collections.abc import Sequence

from posttrain.report.markdown import plain, table

TICKS = re.compile(r"`+")


def fenced(text: str, language: str = "text") -> str:
    """A block of code with a fence that no line of the text can close."""
    longest = max((len(run) for run in TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def cell(text: str) -> str:
    """Text for a table."""
    return plain(text).replace("|", "\\|")


def rows_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts; columns that are empty in every row are left out."""
    kept = [at for at in range(len(head)) if any(row[at] for row in rows)]
    return "\n".join(table([[head[at] for at in kept], *([cell(row[at]) for at in kept] for row in rows)]))
