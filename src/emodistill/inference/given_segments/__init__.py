"""Segments that the user gives: the turns of speakers, from a diarizer, a transcriber or a table.

To add a file format: a module with a `SegmentsFormat`, and its entry in `SEGMENT_FORMATS`.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from emodistill.errors import ConfigError
from emodistill.inference.given_segments.base import (
    GivenRow,
    GivenSegment,
    GivenSegments,
    SegmentsFormat,
    channel_number,
    rttm_id,
    seconds,
)
from emodistill.inference.given_segments.csv_table import FORMAT as CSV
from emodistill.inference.given_segments.pyannote import FORMAT as PYANNOTE
from emodistill.inference.given_segments.rttm import FORMAT as RTTM
from emodistill.inference.given_segments.whisperx import FORMAT as WHISPERX

__all__ = ["SEGMENT_FORMATS", "GivenSegment", "GivenSegments", "parse_segments", "read_segments", "rttm_id"]

# The first format that recognises a text reads it.
SEGMENT_FORMATS: tuple[SegmentsFormat, ...] = (WHISPERX, PYANNOTE, RTTM, CSV)
MAX_FILE_BYTES = 2**28  # whisperX writes 1 or 2 MB for an hour


def read_segments(path: Path, num_recordings: int = 1) -> GivenSegments:
    """Return the segments in a file of one of `SEGMENT_FORMATS`. The content decides the format.

    `-` is standard input. Raises `ConfigError` for a file that is missing or has over `MAX_FILE_BYTES`, for a
    terminal, and as `parse_segments`.
    """
    from emodistill.inference.sources import STANDARD_INPUT, ensure_no_terminal  # they load numpy

    if str(path) == STANDARD_INPUT:
        ensure_no_terminal("segments", "emodistill timeline call.wav --segments - < call.rttm")
        name, content = "standard input", sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    elif not path.exists() or path.is_dir():
        raise ConfigError(f"no file '{path}': expected the segments as {_expected()}")
    else:
        name = f"'{path}'"
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{name} has over {MAX_FILE_BYTES} bytes, expected segments of recordings")
    return parse_segments(content, name, num_recordings)


def parse_segments(content: bytes | str, name: str, num_recordings: int = 1) -> GivenSegments:
    """Return the segments in the content of a file; `name` is what messages call it.

    Raises `ConfigError` for another format, and for a segment that does not end after its start; the message
    names the line, or the index in JSON. With several recordings, each segment must name its recording.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name} holds no segments: it is not UTF-8 text, expected {_expected()}"
        ) from error
    format = next((each for each in SEGMENT_FORMATS if each.recognises(text)), None)
    if format is None:
        raise ConfigError(f"{name} has none of the known formats{_json_error(text)}: expected {_expected()}")
    by_name: dict[str | None, list[GivenSegment]] = {}
    for row in format.rows(text, name):
        by_name.setdefault(row.recording, []).append(_segment(row, f"{name}, {row.where}: "))
    if not by_name:
        raise ConfigError(f"{name} holds no segments")
    if None in by_name and num_recordings > 1:
        raise ConfigError(
            f"{name} does not name the recording of each segment, and there are {num_recordings} recordings: "
            "give one recording, or a CSV with a column path"
        )
    serves_any = format.names_are_free and num_recordings == 1 and len(by_name) == 1
    segments = {recording: tuple(parts) for recording, parts in by_name.items()}
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return GivenSegments(name, hashlib.sha256(raw).hexdigest(), segments, serves_any)


def _segment(row: GivenRow, where: str) -> GivenSegment:
    try:
        start_s, end_s = seconds(row.start), seconds(row.end)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}expected a start and an end as seconds, m:ss or hh:mm:ss, got {row.start!r} and "
            f"{row.end!r}"
        ) from error
    try:
        channel = channel_number(row.channel)
    except ValueError as error:
        raise ConfigError(f"{where}expected a channel from 0 on, got {row.channel!r}") from error
    segment = GivenSegment(start_s, end_s, row.speaker, channel, row.text)
    segment.check(where)
    return segment


def _json_error(text: str) -> str:
    """Return why a text is no JSON, for a message; empty if it is."""
    try:
        json.loads(text)
    except ValueError as error:
        return f", and is no JSON ({error})"
    except RecursionError:
        return ", and its JSON is nested too deeply"
    return ""


def _expected() -> str:
    def joined(texts: Iterable[str]) -> str:
        *first, last = texts
        return f"{', '.join(first)} or {last}"

    return joined(format.title for format in SEGMENT_FORMATS[::-1])
