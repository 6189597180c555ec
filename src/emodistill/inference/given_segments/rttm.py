"""RTTM, the format of NIST for diarization: one line for each segment.

    SPEAKER file channel start duration <NA> <NA> speaker <NA> <NA>

Channels count from 1, but most diarizers write 1 for a mix too. So the channels count only where a recording
has segments of more than one.
"""

from collections.abc import Iterator

from emodistill.errors import ConfigError
from emodistill.inference.given_segments.base import GivenRow, SegmentsFormat

_TYPES = {
    "SPEAKER", "SPKR-INFO", "SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH",
    "FILLER", "EDIT", "IP", "SU", "CB", "A/P",
}  # fmt: skip


def recognises(text: str) -> bool:
    """Return whether the first line that is no comment begins with a type of RTTM."""
    for line in text.splitlines():
        fields = line.split()
        if fields and not fields[0].startswith(";;"):
            return fields[0] in _TYPES
    return False


def rows(text: str, name: str) -> Iterator[GivenRow]:
    """Yield the SPEAKER lines."""
    lines = [(number, line, line.split()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [line for line in lines if line[2] and line[2][0] == "SPEAKER"]
    several = {fields[1] for _, _, fields in lines if len(fields) > 2 and fields[2] not in ("1", "<NA>")}
    for number, line, fields in lines:
        try:
            start, length, speaker = float(fields[3]), float(fields[4]), fields[7]
            channel = int(fields[2]) - 1 if fields[1] in several else None
        except (IndexError, ValueError) as error:
            raise ConfigError(
                f"{name}, line {number}: expected SPEAKER file channel start duration <NA> <NA> speaker, "
                f"got '{line}'"
            ) from error
        yield GivenRow(
            f"line {number}",
            start,
            round(start + length, 9),  # because 0.1 + 0.2 should be 0.3
            None if speaker == "<NA>" else speaker,
            fields[1],
            channel,
        )


FORMAT = SegmentsFormat("RTTM", recognises, rows, names_are_free=True)
