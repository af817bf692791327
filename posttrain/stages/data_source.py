"""Rows that others have published: a file, a directory, or a data set of the hub, as they stand there.

Parquet, JSON and JSON lines are read, packed or not, and never code. What the rows mean is for the stage to say.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.chain.stage import Input
from posttrain.errors import PosttrainError
from posttrain.rows import Row, parse_lines, read_rows

LINES, LIST = ".jsonl", ".json"


def is_file_of_rows(path: Path) -> bool:
    """Whether this is a file that `file_rows` reads."""
    return path.is_file() and path.suffix in (LINES, LIST)


def file_rows(path: Path) -> list[Row]:
    """Rows of a JSONL file, or of a file with one JSON list."""
    if path.suffix == LINES:
        return read_rows(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise PosttrainError(f"{path}: not JSON ({error}); a list of objects is allowed. Correct the file.") from None
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) for row in found):
        raise PosttrainError(
            f"{path}: a JSON {type(found).__name__}; a list of one object and more is allowed, [{{...}}, ...], or "
            "JSONL under the name .jsonl. Convert the file."
        )
    return list(parse_lines((json.dumps(row, ensure_ascii=False) for row in found), str(path)))


def source_rows(source: Input, split: str, subset: str | None, rows: int | None, work: Path) -> Sequence[Row]:
    """Rows of a source, or so many `rows` of them from all over; those of a data set are of one `split`.

    `subset` is its configuration or folder, `work` holds what the `datasets` library makes on the way.
    """
    from data_gen.pairing import spread

    if is_file_of_rows(source.path):
        found: Any = file_rows(source.path)
    elif (source.path / "train.jsonl").is_file() and (source.path / "test.jsonl").is_file():
        found = [*read_rows(source.path / "train.jsonl"), *read_rows(source.path / "test.jsonl")]  # held out anew
    else:
        found = _data_set(source, split, subset, work)
        return list(found if rows is None else found.select(spread(range(len(found)), rows)))
    return list(found if rows is None else spread(found, rows))


def _data_set(source: Input, split: str, subset: str | None, work: Path) -> Any:
    """One split as the `datasets` library reads it."""
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    from posttrain.hub.data_files import named_files
    from posttrain.hub.fetch import local_directory

    disable_progress_bars()  # the chain shows its own
    path = local_directory(source, subset, split)
    files = [path] if path.is_file() else named_files(path, subset, split)
    folder = subset is not None and (path / subset).is_dir()
    what: dict[str, Any] = {"path": str(path), **({"data_dir": subset} if folder else {"name": subset})}
    if files:
        reader = "parquet" if files[0].suffix == ".parquet" else "json"
        what = {"path": reader, "data_files": {split: [str(file) for file in files]}}
    try:
        return load_dataset(**what, split=split, cache_dir=str(work / "datasets"))
    except (ValueError, OSError, DatasetsError) as error:
        raise PosttrainError(
            f"{source.reference}: split '{split}' cannot be read ({str(error).splitlines()[0][:200]}); JSONL, JSON and "
            "Parquet are allowed. Name its split ('split'), and its configuration or folder ('subset')."
        ) from None
