"""Segments as rows: the columns of CSV, of Parquet and of data frames."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from emodistill.inference.prediction_rows import LAST_COLUMNS, OPTIONAL_COLUMNS, last_values, optional_values

if TYPE_CHECKING:
    from emodistill.inference.segmentation import Segment


class Recognised(Protocol):
    """What rows need of a recording; a `Timeline` has it."""

    @property
    def path(self) -> str: ...
    @property
    def segments(self) -> Sequence["Segment"]: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def error(self) -> str | None: ...


def to_table(rows: Sequence[Recognised], emotions: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Return the names of the columns, and one row of values for each segment.

    A recording without segments has one row with its `reason` or `error`. The `reason` of a segment below the
    least confidence is `low_confidence`; a given segment without audio has none. There is a column
    `voice_utterances` if a segment has a value for it. A value that a row does not have is None.
    """
    segments = [segment for row in rows for segment in row.segments]
    voices = ["voice_utterances"] if any(part.voice_utterances is not None for part in segments) else []
    more = [*voices, *(f"p_{name}" for name in emotions), *OPTIONAL_COLUMNS, "text", *LAST_COLUMNS]
    lines: list[list[Any]] = []
    for row in rows:
        if row.reason or row.error:
            lines.append([row.path, *[None] * 5, row.reason, row.error, *[None] * len(more)])
        for segment in row.segments:
            values = [segment.start_s, segment.end_s, segment.speaker, segment.emotion, segment.confidence]
            values += [_reason(segment), None, *(segment.voice_utterances for _ in voices)]
            values += [segment.probabilities.get(name) for name in emotions]
            values += [*optional_values(segment), segment.text, *last_values(segment)]
            lines.append([row.path, *values])
    columns = ["path", "start_s", "end_s", "speaker", "emotion", "confidence", "reason", "error", *more]
    return columns, lines


def _reason(segment: "Segment") -> str | None:
    return "low_confidence" if segment.emotion is None and segment.confidence is not None else None
