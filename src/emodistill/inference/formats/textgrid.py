"""TextGrid, the annotation format of Praat, in its long form: a tier for each speaker."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import UNSURE, TimelineFormat, tiers

if TYPE_CHECKING:
    from emodistill.inference.segmentation import Segment
    from emodistill.inference.timelines import Timeline


def to_textgrid(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """One grid; in each tier, empty intervals fill the gaps between the segments."""
    (row,) = rows
    end_s = max([row.duration_s or 0.0, *(segment.end_s for segment in row.segments)])
    named = tiers(row.segments)
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "",
        "xmin = 0", f"xmax = {end_s!r}", "tiers? <exists>", f"size = {len(named)}", "item []:",
    ]  # fmt: skip
    for number, (name, segments) in enumerate(named, start=1):
        intervals = _intervals(segments, end_s)
        lines += [
            f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quote(name)}",
            "        xmin = 0", f"        xmax = {end_s!r}", f"        intervals: size = {len(intervals)}",
        ]  # fmt: skip
        for place, (start_s, stop_s, text) in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{place}]:", f"            xmin = {start_s!r}",
                f"            xmax = {stop_s!r}", f"            text = {_quote(text)}",
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _intervals(segments: Sequence["Segment"], end_s: float) -> list[tuple[float, float, str]]:
    """Intervals (start, end, label) without gaps from 0 to `end_s`; between segments the label is empty."""
    intervals: list[tuple[float, float, str]] = []
    reached_s = 0.0
    for segment in segments:
        if segment.start_s > reached_s:
            intervals.append((reached_s, segment.start_s, ""))
        intervals.append((segment.start_s, segment.end_s, segment.emotion or UNSURE))
        reached_s = segment.end_s
    if end_s > reached_s or not intervals:
        intervals.append((reached_s, end_s, ""))
    return intervals


FORMAT = TimelineFormat(
    name="textgrid",
    title="TextGrid",
    suffix=".TextGrid",
    media_type="text/x-textgrid",
    to_text=to_textgrid,
    holds_several=False,
    in_static_page=True,
)
