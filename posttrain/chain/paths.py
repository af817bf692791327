"""Paths in recipes: looked for here, then in the project's folder; identified by what they hold, not where."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

PROJECT = Path(__file__).resolve().parents[2]
ByContent = "posttrain: this path is identified by the content it names"


def find_path(path: str | Path) -> Path:
    """A path as given from here, else below the project's own folder; as given when neither exists."""
    given = Path(os.path.expanduser(path))
    if os.path.exists(given) or given.is_absolute() or not os.path.exists(PROJECT / given):
        return given
    return PROJECT / given


def _holding_something(path: Path) -> Path:
    found = find_path(path)
    if not os.path.exists(found):
        raise ValueError("the path of an existing file or directory is needed. Check the path")
    if found.is_file() and not found.stat().st_size:
        raise ValueError("this file is empty; one with content is needed. Check that it was written")
    return found


InputPath = Annotated[Path, ByContent, AfterValidator(_holding_something)]
