"""A table of audformat as CSV: the index of a row is the file with the start and end of the segment."""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import TimelineFormat
from emodistill.inference.segment_rows import to_table

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline

_INDEX = {"path": "file", "start_s": "start", "end_s": "end"}


def to_audformat(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """The rows of CSV, which `audformat.utils.read_csv` reads. Times are in seconds.

    A recording without segments has one row from 0 to its end, which is an empty field.
    """
    stream = io.StringIO()
    columns, lines = to_table(rows, emotions)
    start = columns.index("start_s")
    for line in lines:
        line[start] = line[start] or 0
    header = [_INDEX.get(name, name) for name in columns]
    csv.writer(stream, lineterminator="\n").writerows([header, *lines])
    return stream.getvalue()


FORMAT = TimelineFormat(
    name="audformat",
    title="audformat",
    suffix=".audformat",
    media_type="text/x-audformat",
    to_text=to_audformat,
    holds_several=True,
    holds_errors=True,
)
