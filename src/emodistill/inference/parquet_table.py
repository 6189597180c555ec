"""Parquet: a table with the columns of the CSV format, and with a type for each column.

This module imports nothing heavy: the command line reads the registries of formats before it knows the
command.
"""

import io
from collections.abc import Iterable, Sequence
from typing import Any

from emodistill.errors import MissingExtraError
from emodistill.files import UNENCODABLE
from emodistill.labels import DIMENSIONS

# Columns whose type does not depend on their values; a column of text needs no entry.
_TYPES = {
    "start_s": "double", "end_s": "double", "confidence": "double", **dict.fromkeys(DIMENSIONS, "double"),
    "abstained": "bool", "voice_utterances": "int64", "channel": "int64", "row": "int64",
}  # fmt: skip


def to_parquet(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return the bytes of a Parquet file with the table of `to_table`."""
    return table_bytes(to_table(columns, rows))


def to_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    """Return a table of Arrow. A row has one value for each of `columns`; None is a null.

    The types of the columns are always the same, so that the files of two runs can be read together. Raises
    `MissingExtraError` without pyarrow.
    """
    arrow = load_pyarrow()
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    fields = [arrow.field(name, arrow.type_for_alias(column_type(name))) for name in columns]
    arrays = [
        arrow.array([valid_text(value) for value in column], field.type)
        for column, field in zip(values, fields, strict=True)
    ]
    return arrow.Table.from_arrays(arrays, schema=arrow.schema(fields))


def table_bytes(table: Any) -> bytes:
    """Return the bytes of a Parquet file with a table of Arrow."""
    content = io.BytesIO()
    load_pyarrow().parquet.write_table(table, content)
    return content.getvalue()


def column_type(name: str) -> str:
    """Return the type of a column by its name: double, bool, int64 or string."""
    return "double" if name.startswith("p_") else _TYPES.get(name, "string")


def load_pyarrow() -> Any:
    """Return the package pyarrow with its module `parquet`. Raises `MissingExtraError` if it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "Parquet") from error
    return pyarrow


def check_pyarrow() -> None:
    """Raise `MissingExtraError` without pyarrow, before any recording is read."""
    load_pyarrow()


def valid_text(value: Any) -> Any:
    r"""Return a value with a file name that is not valid text as \udcXX, as in the other formats."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", UNENCODABLE).decode("utf-8")
