"""Parquet of strangers, read with a limit: a small file may unpack to many gigabytes."""

from collections.abc import Iterable, Iterator
from typing import Any

from emodistill.inference.parquet_table import load_pyarrow

MAX_GROUP_BYTES = 2**30  # unpacked, of all columns of a group of rows
MAX_BATCH_BYTES = 2**28  # of the text of a batch of rows


def read_parquet(source: Any, batch_rows: int, columns: Iterable[str] | None = None) -> Iterator[Any]:
    """Yield the rows of a Parquet file in order, as tables of Arrow of at most `batch_rows` rows.

    `source` is a path or an open file; `columns` are those to read. Text comes as indices of its different
    values, so that a text that is repeated takes no memory.

    Raises `ValueError` for a group of rows that unpacks to over `MAX_GROUP_BYTES`, and for a batch with over
    `MAX_BATCH_BYTES` of text; and `ArrowException` or `OSError` for a file that is damaged.
    """
    arrow = load_pyarrow()
    schema = arrow.parquet.read_schema(source)
    if hasattr(source, "seek"):
        source.seek(0)
    texts = [field.name for field in schema if field.type in (arrow.string(), arrow.large_string())]
    file = arrow.parquet.ParquetFile(source, read_dictionary=texts)
    wanted = list(schema.names if columns is None else columns)
    _check_groups(file.metadata)
    for batch in file.iter_batches(batch_rows, columns=wanted):
        num_bytes = sum(map(_text_bytes, batch.columns))
        if num_bytes > MAX_BATCH_BYTES:
            raise ValueError(f"{len(batch)} rows hold {num_bytes} bytes, expected at most {MAX_BATCH_BYTES}")
        yield arrow.Table.from_batches([batch])


def plain_text(table: Any) -> Any:
    """Return a table whose text is text, instead of indices of its different values."""
    arrow = load_pyarrow()
    columns = [
        column.cast(column.type.value_type) if arrow.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    return arrow.Table.from_arrays(columns, names=table.column_names)


def _check_groups(metadata: Any) -> None:
    """Raise `ValueError` for a group of rows that is too large.

    The sizes of single columns are not asked for: where a footer is damaged, pyarrow 26 ends the process.
    """
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.total_byte_size > MAX_GROUP_BYTES:
            raise ValueError(
                f"{group.num_rows} rows unpack to {group.total_byte_size} bytes, expected at most "
                f"{MAX_GROUP_BYTES} in a group of rows; write it with smaller groups"
            )


def _text_bytes(column: Any) -> int:
    """Return the bytes of a column of a batch, with a text that is repeated counted each time."""
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        lengths = compute.binary_length(column.dictionary)
        return compute.sum(compute.take(lengths, column.indices)).as_py() or 0
    return int(column.nbytes)
