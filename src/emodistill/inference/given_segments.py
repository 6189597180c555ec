"""Segments that the user gives, for example the turns of speakers, read from RTTM or CSV."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.errors import ConfigError


@dataclass(frozen=True)
class GivenSegment:
    """A part of a recording that is classified as a whole, for example one turn of a speaker."""

    start_s: float
    end_s: float
    speaker: str | None = None
    channel: int | None = None  # of the recording, from 0; None: the one that the caller chooses
    text: str | None = None  # the words, which the result carries

    def check(self, where: str = "") -> None:
        """Raise `ConfigError` unless the segment ends after its start; `where` begins the message."""
        if not (math.isfinite(self.end_s) and 0 <= self.start_s < self.end_s):
            raise ConfigError(
                f"{where}bad segment from {self.start_s} s to {self.end_s} s, expected 0 ≤ start < end"
            )


@dataclass(frozen=True)
class GivenSegments:
    """The given segments of recordings, by the name of the recording; by None if the file has no names."""

    source: Path
    by_name: Mapping[str | None, tuple[GivenSegment, ...]]

    def for_recording(self, recording: str | Path) -> tuple[GivenSegment, ...]:
        """Return the segments of a recording.

        The name in the file may be the path of the recording, its file name, or its file name without suffix.
        Raises `ConfigError` if the file has no segments of it.
        """
        path = Path(recording)
        for name in (str(recording), path.name, path.stem, rttm_id(path), None):
            if name in self.by_name:
                return self.by_name[name]
        known = ", ".join(f"'{name}'" for name in list(self.by_name)[:5])
        raise ConfigError(
            f"{recording}: '{self.source}' has no segments of '{path.stem}'; it has segments of {known}"
        )


def read_segments(path: Path, num_recordings: int = 1) -> GivenSegments:
    """Return the segments in an RTTM file (its SPEAKER lines) or a CSV with `start_s,end_s[,speaker][,path]`.

    Raises `ConfigError` for a file that is missing or has another format, and for a segment that does not end
    after its start. With several recordings, each segment must name its recording.
    """
    if not path.is_file():
        raise ConfigError(f"no file '{path}': expected the segments as RTTM or CSV")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is neither RTTM nor CSV: it is not UTF-8 text") from error
    rows = _rttm_rows(text, path) if path.suffix.lower() == ".rttm" else _csv_rows(text, path)
    by_name: dict[str | None, list[GivenSegment]] = {}
    for line, name, start, end, speaker in rows:
        where = f"'{path}', line {line}: "
        try:
            segment = GivenSegment(float(start), float(end), speaker)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{where}expected a start and an end in seconds, got {start!r} and {end!r}"
            ) from error
        segment.check(where)
        by_name.setdefault(name, []).append(segment)
    if not by_name:
        raise ConfigError(f"'{path}' holds no segments")
    if None in by_name and num_recordings > 1:
        raise ConfigError(
            f"'{path}' does not name the recording of each segment, and there are {num_recordings} "
            "recordings: add a column path"
        )
    return GivenSegments(path, {name: tuple(segments) for name, segments in by_name.items()})


_Row = tuple[int, str | None, Any, Any, str | None]  # line, recording, start, end, speaker


def _rttm_rows(text: str, path: Path) -> Iterator[_Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start, length = float(fields[3]), float(fields[4])
            speaker = None if fields[7] == "<NA>" else fields[7]
        except (IndexError, ValueError) as error:
            raise ConfigError(
                f"'{path}', line {number}: expected SPEAKER file channel start duration <NA> <NA> speaker, "
                f"got '{line}'"
            ) from error
        # Rounded, because 0.1 + 0.2 should be 0.3.
        yield number, fields[1], start, round(start + length, 9), speaker


def _csv_rows(text: str, path: Path) -> Iterator[_Row]:
    lines = text.splitlines()
    head = lines[0] if lines else ""
    delimiter = ";" if ";" in head and "," not in head else ","
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    if "start_s" not in columns or "end_s" not in columns:
        raise ConfigError(
            f"'{path}': expected RTTM (*.rttm) or a CSV with the columns start_s,end_s[,speaker][,path], "
            f"got the columns {list(columns)}"
        )
    for row in reader:
        name, speaker = row.get("path") or None, row.get("speaker") or None
        yield reader.line_num, name, row["start_s"], row["end_s"], speaker


def rttm_id(path: str | Path) -> str:
    """Return the name of a recording in RTTM: its file name without suffix, with `_` for blanks."""
    return "_".join(Path(path).stem.split()) or "-"
