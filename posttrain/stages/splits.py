"""What a data step leaves: rows to train on, rows held out from all over, and the words that count the others."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from posttrain.errors import PosttrainError
from posttrain.rows import Row, write_rows


def write_splits(
    rows: Sequence[Row], test_size: int, counts: Mapping[str, int], kind: str, out: Path
) -> dict[str, list[Row]]:
    """Write train.jsonl and test.jsonl; too few rows are an error with what was dropped."""
    if len(rows) < 2 * test_size:
        raise PosttrainError(
            f"{kind}: {len(rows)} rows are left ({shown(counts)}); at least {2 * test_size} are needed (twice "
            "test_size). Make or read more rows, give a larger source, or lower test_size."
        )
    every = len(rows) // test_size  # from all over: a source is rarely in random order
    held_out = set(range(0, every * test_size, every))
    splits = {
        "train": [row for at, row in enumerate(rows) if at not in held_out],
        "test": [row for at, row in enumerate(rows) if at in held_out],
    }
    for name, part in splits.items():
        write_rows(out / f"{name}.jsonl", part)
    return splits


def shown(counts: Mapping[str, int]) -> str:
    """`3 cut, 12 exact`."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"
