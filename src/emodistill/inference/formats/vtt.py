"""WebVTT subtitles: a numbered cue `emotion 83 %` for each segment, with its speaker as the cue's voice.

Format: https://www.w3.org/TR/webvtt1/
"""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import (
    UNSURE,
    TimelineFormat,
    all_segments,
    clock,
    one_line,
    percent,
    words,
)

if TYPE_CHECKING:
    from emodistill.inference.segmentation import Segment
    from emodistill.inference.timelines import Timeline


def to_vtt(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """The header and one cue for each segment, with empty lines between them; cues may overlap.

    The words of a segment are on the line under its emotion.
    """
    cues = [
        f"{number}\n{clock(segment.start_s, '.')} --> {clock(segment.end_s, '.')}\n"
        f"{_voice(segment)}{segment.emotion or UNSURE}{percent(segment)}\n{_escape(words(segment))}"
        for number, segment in enumerate(all_segments(rows), start=1)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _voice(segment: "Segment") -> str:
    """The tag that names the speaker."""
    if segment.speaker is None:
        return ""
    return f"<v {_escape(one_line(segment.speaker))}>"


def _escape(text: str) -> str:
    """A text with `<`, `>`, `&` and `--` escaped.

    In a name, `--` and the `>` of the tag would be `-->`, which readers take for the times of a cue.
    """
    return html.escape(text, quote=False).replace("--", "-&#45;")


FORMAT = TimelineFormat(
    name="vtt",
    title="WebVTT",
    suffix=".vtt",
    media_type="text/vtt",
    to_text=to_vtt,
    holds_several=False,
    in_static_page=True,
)
