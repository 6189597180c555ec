"""A label track for Audacity: start, end and label of each segment, with tabs between them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import TimelineFormat, all_segments, label

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline


def to_audacity(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """One line for each segment, with times in seconds."""
    return "".join(
        f"{segment.start_s:.6f}\t{segment.end_s:.6f}\t{label(segment)}\n" for segment in all_segments(rows)
    )


FORMAT = TimelineFormat(
    name="audacity",
    title="Audacity",
    suffix=".txt",
    media_type="text/x-audacity-labels",
    to_text=to_audacity,
    holds_several=False,
    chosen_by_suffix=False,  # `-o notes.txt` writes the table
)
