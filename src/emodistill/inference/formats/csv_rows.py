"""CSV: one row for each segment."""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import TimelineFormat
from emodistill.inference.segment_rows import to_table

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline


def to_csv(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """The header and the rows of `to_table`; what a row does not have is an empty field."""
    stream = io.StringIO()
    columns, lines = to_table(rows, emotions)
    csv.writer(stream, lineterminator="\n").writerows([columns, *lines])
    return stream.getvalue()


FORMAT = TimelineFormat(
    name="csv",
    title="CSV",
    suffix=".csv",
    media_type="text/csv",
    to_text=to_csv,
    holds_several=True,
    holds_errors=True,
    in_static_page=True,
)
