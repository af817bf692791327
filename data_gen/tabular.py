"""Rows as columns with a type each: a Parquet file, and what the data card says of them.

JSON lines have no types, so `datasets` guesses: from the first split, which fails where a field is null in all of it
and a text in the next, and from the look of a text, which makes a date of "2024-05-01". The types in the card settle
the first; Parquet settles both.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_gen.generator import Row

if TYPE_CHECKING:
    import pyarrow


def row_types(rows: Sequence[Row]) -> "pyarrow.Schema":
    """A column for every key of any row, and the type that holds all its values, null where a row lacks it.

    Give it the rows of all splits. Where no one type gives the values back as they are, as with objects of different
    keys, the type is JSON: `datasets` reads it as `Json()`, others as a text.
    """
    import pyarrow

    return pyarrow.schema(
        [(name, _type([row.get(name) for row in rows])) for name in dict.fromkeys(key for row in rows for key in row)]
    )


def _type(values: list[Any]) -> "pyarrow.DataType":
    import pyarrow

    try:
        array = pyarrow.array(values)
    except pyarrow.ArrowException:  # values of several types
        return pyarrow.json_()
    return array.type if array.to_pylist() == values and "struct<>" not in str(array.type) else pyarrow.json_()


def write_parquet(path: Path, rows: Sequence[Row], types: "pyarrow.Schema") -> None:
    """Write rows of these types; the same rows give the same bytes."""
    import pyarrow
    from pyarrow import parquet

    arrays = []
    for field in types:
        values = [row.get(field.name) for row in rows]
        if field.type == pyarrow.json_():
            values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        arrays.append(pyarrow.array(values, field.type))
    parquet.write_table(pyarrow.table(arrays, types), path, compression="zstd")


def columns(types: "pyarrow.Schema") -> list[dict[str, Any]]:
    """The types as `datasets` writes its features in the header of a data card."""
    return [{"name": field.name, **_feature(field.type)} for field in types]


def _feature(kind: "pyarrow.DataType") -> dict[str, Any]:
    """One type: {"dtype": "string"}, {"list": …}, {"struct": [{"name": …, …}, …]}."""
    import pyarrow

    if kind == pyarrow.json_():
        return {"dtype": "json"}
    if pyarrow.types.is_struct(kind):
        return {"struct": columns(kind)}
    if pyarrow.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    return {"dtype": "float64" if pyarrow.types.is_floating(kind) else str(kind)}
