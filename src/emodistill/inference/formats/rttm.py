"""Rich Transcription Time Marked, the format of NIST for diarization: one `SPEAKER` line for each segment."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import TimelineFormat, label
from emodistill.inference.given_segments import rttm_id

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline


def to_rttm(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """Lines whose speaker field is the emotion, or speaker/emotion; blanks in names become `_`.

    Channels count from 1, as RTTM wants.
    """
    lines = []
    for row in rows:
        for segment in row.segments:
            confidence = "<NA>" if segment.confidence is None else f"{segment.confidence:.4f}"
            times = f"{segment.start_s:.3f} {segment.end_s - segment.start_s:.3f}"
            speaker = label(segment, between="/", blank="_")
            lines.append(
                f"SPEAKER {rttm_id(row.path)} {(segment.channel or 0) + 1} {times} <NA> <NA> {speaker} "
                f"{confidence} <NA>\n"
            )
    return "".join(lines)


FORMAT = TimelineFormat(
    name="rttm",
    title="RTTM",
    suffix=".rttm",
    media_type="text/x-rttm",
    to_text=to_rttm,
    holds_several=True,
)
