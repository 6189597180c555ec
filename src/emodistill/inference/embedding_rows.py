"""Embeddings as files: the table of formats that `embed` writes.

This module imports nothing heavy: the command line reads the table before it knows the command.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emodistill.files import UNENCODABLE
from emodistill.inference.parquet_table import check_pyarrow, load_pyarrow, table_bytes

if TYPE_CHECKING:
    from emodistill.inference.embedding import Embedding

# The columns of every format before the vectors, with their types.
COLUMNS: Mapping[str, str] = {
    "path": "string", "id": "string", "start_s": "double", "end_s": "double", "speaker": "string",
    "channel": "int64", "emotion": "string", "confidence": "double", "reason": "string", "error": "string",
    "label": "string",
}  # fmt: skip
PREFIX = "embedding_"  # of the column of a vector, before its name


@dataclass(frozen=True)
class EmbeddingFormat:
    """A format for embeddings.

    Attributes:
        name: the value of `--format`; with a dot before it, the suffix that chooses the format.
        to_bytes: returns the file for rows and the size of each vector by name.
        check: raises `MissingExtraError` if a package that the format needs is missing.
    """

    name: str
    to_bytes: Callable[[Sequence["Embedding"], Mapping[str, int]], bytes]
    check: Callable[[], None] | None = None


def to_parquet(rows: Sequence["Embedding"], dims: Mapping[str, int]) -> bytes:
    """The table of `to_table`, as a Parquet file."""
    return table_bytes(to_table(rows, dims))


def to_table(rows: Sequence["Embedding"], dims: Mapping[str, int]) -> Any:
    """Return a table of Arrow with one row for each embedding.

    A vector is a list of float32 of fixed size, and null where there is none. Raises `MissingExtraError`
    without pyarrow.
    """
    arrow = load_pyarrow()
    arrays = [
        arrow.array([_text(getattr(row, name)) for row in rows], arrow.type_for_alias(kind))
        for name, kind in COLUMNS.items()
    ]
    for name, dim in dims.items():
        vectors = [row.vectors[name].tolist() if name in row.vectors else None for row in rows]
        arrays.append(arrow.array(vectors, arrow.list_(arrow.float32(), dim)))
    return arrow.Table.from_arrays(arrays, names=[*COLUMNS, *(f"{PREFIX}{name}" for name in dims)])


def to_npz(rows: Sequence["Embedding"], dims: Mapping[str, int]) -> bytes:
    """One array for each column; vectors are float32 (rows, dim).

    A missing number is NaN, a missing channel -1, and a missing text is empty.
    """
    import numpy as np

    from emodistill.inference.embedding import matrix

    missing: dict[str, tuple[Any, Any]] = {
        "double": (np.nan, np.float64), "int64": (-1, np.int64), "string": ("", np.str_),
    }  # fmt: skip
    arrays: dict[str, Any] = {}
    for name, kind in COLUMNS.items():
        empty, dtype = missing[kind]
        values = [empty if (value := getattr(row, name)) is None else _text(value) for row in rows]
        arrays[name] = np.array(values, dtype=dtype)
    for name, dim in dims.items():
        arrays[f"{PREFIX}{name}"] = matrix(rows, name, dim)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def to_csv(rows: Sequence["Embedding"], dims: Mapping[str, int]) -> bytes:
    """A header, then one line for each row, with one column for each number of a vector."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = [f"{PREFIX}{name}_{index}" for name, dim in dims.items() for index in range(dim)]
    writer.writerow([*COLUMNS, *numbers])
    for row in rows:
        values = [getattr(row, name) for name in COLUMNS]
        for name, dim in dims.items():
            values += map(str, row.vectors[name]) if name in row.vectors else [""] * dim
        writer.writerow(values)
    return text.getvalue().encode("utf-8", UNENCODABLE)


def _text(value: Any) -> Any:
    r"""Return a value with a file name that is not valid text as \udcXX, as in the other outputs."""
    return value.encode("utf-8", UNENCODABLE).decode("utf-8") if isinstance(value, str) else value


EMBEDDING_FORMATS: Mapping[str, EmbeddingFormat] = {
    format.name: format
    for format in (
        EmbeddingFormat("parquet", to_parquet, check=check_pyarrow),
        EmbeddingFormat("npz", to_npz),
        EmbeddingFormat("csv", to_csv),
    )
}
