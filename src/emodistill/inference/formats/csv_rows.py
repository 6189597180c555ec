"""CSV: one row for each segment."""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import TimelineFormat
from emodistill.inference.prediction_rows import OPTIONAL_COLUMNS, optional_fields

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline


def to_csv(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """A header and one row for each segment.

    A recording without segments has one row with its `reason` or `error`. There is a column
    `voice_utterances` if a segment has a value for it.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    segments = [segment for row in rows for segment in row.segments]
    voices = ["voice_utterances"] if any(part.voice_utterances is not None for part in segments) else []
    columns = [*voices, *(f"p_{name}" for name in emotions), *OPTIONAL_COLUMNS, "text"]
    writer.writerow(
        ["path", "start_s", "end_s", "speaker", "emotion", "confidence", "reason", "error", *columns]
    )
    for row in rows:
        if row.reason or row.error:
            writer.writerow([row.path, *[""] * 5, row.reason or "", row.error or "", *[""] * len(columns)])
        for segment in row.segments:
            values = [segment.speaker, segment.emotion, segment.confidence, None, None]
            values += [segment.voice_utterances for _ in voices]
            values += [segment.probabilities.get(name) for name in emotions]
            fields = ["" if value is None else value for value in values]
            optional = [*optional_fields(segment), segment.text or ""]
            writer.writerow([row.path, segment.start_s, segment.end_s, *fields, *optional])
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
