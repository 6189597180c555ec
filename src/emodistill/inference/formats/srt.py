"""SubRip subtitles: a numbered block `speaker: emotion 83 %` for each segment."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import TimelineFormat, all_segments, clock, label, percent, words

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline


def to_srt(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """Blocks with an empty line between them; times have a comma before the milliseconds.

    The words of a segment are on the line under its emotion.
    """
    blocks = [
        f"{number}\n{clock(segment.start_s, ',')} --> {clock(segment.end_s, ',')}\n"
        f"{label(segment)}{percent(segment)}\n{words(segment)}"
        for number, segment in enumerate(all_segments(rows), start=1)
    ]
    return "\n".join(blocks)


FORMAT = TimelineFormat(
    name="srt",
    title="SRT",
    suffix=".srt",
    media_type="application/x-subrip",
    to_text=to_srt,
    holds_several=False,
    in_static_page=True,
)
