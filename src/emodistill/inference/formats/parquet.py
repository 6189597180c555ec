"""Parquet: the rows and columns of the CSV format, in typed columns.

Format: https://parquet.apache.org/docs/file-format/
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import TimelineFormat
from emodistill.inference.parquet_table import check_pyarrow, to_parquet
from emodistill.inference.segment_rows import to_table

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline


def to_bytes(rows: Sequence["Timeline"], emotions: Sequence[str]) -> bytes:
    """One row for each segment, as in the CSV format. What a row does not have is null."""
    return to_parquet(*to_table(rows, emotions))


FORMAT = TimelineFormat(
    name="parquet",
    title="Parquet",
    suffix=".parquet",
    media_type="application/vnd.apache.parquet",
    to_bytes=to_bytes,
    check=check_pyarrow,
    holds_several=True,
    holds_errors=True,
)
