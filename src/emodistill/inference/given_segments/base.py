"""Given segments, and the description of a format that holds them."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.errors import ConfigError, without_control

_CHANNEL = re.compile("[0-9]{1,3}")


@dataclass(frozen=True)
class GivenSegment:
    """A part of a recording that is classified as a whole, for example one turn of a speaker."""

    start_s: float
    end_s: float
    speaker: str | None = None
    channel: int | None = None  # of the recording, from 0; None: the one that the caller chooses
    text: str | None = None  # the words, which the result carries

    def __post_init__(self) -> None:
        """Replace control characters of speaker and text, because a terminal would obey them."""
        for name in ("speaker", "text"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, without_control(value))

    def check(self, where: str = "") -> None:
        """Raise `ConfigError` for a segment that cannot be; `where` begins the message.

        It must end after its start, and a channel is at least 0.
        """
        if not (math.isfinite(self.end_s) and 0 <= self.start_s < self.end_s):
            raise ConfigError(
                f"{where}bad segment from {self.start_s} s to {self.end_s} s, expected 0 ≤ start < end"
            )
        if self.channel is not None and self.channel < 0:
            raise ConfigError(f"{where}expected a channel from 0 on, got {self.channel}")


@dataclass(frozen=True)
class GivenSegments:
    """The given segments of recordings, by the name of the recording; by None if the file has no names.

    Attributes:
        source: the file, as messages call it.
        sha256: of its content.
        by_name: name of a recording -> its segments.
        serves_any: the segments are those of the one recording at hand, whatever its name.
    """

    source: str
    sha256: str
    by_name: Mapping[str | None, tuple[GivenSegment, ...]]
    serves_any: bool = False

    def for_recording(self, recording: str | Path) -> tuple[GivenSegment, ...]:
        """Return the segments of a recording.

        The name in the file may be the path of the recording, its file name, or its file name without suffix.
        Raises `ConfigError` if the file has no segments of it.
        """
        path = Path(recording)
        for name in (str(recording), path.name, path.stem, rttm_id(path), None):
            if name in self.by_name:
                return self.by_name[name]
        if self.serves_any:
            (segments,) = self.by_name.values()
            return segments
        known = ", ".join(f"'{name}'" for name in list(self.by_name)[:5])
        raise ConfigError(
            f"{recording}: {self.source} has no segments of '{path.stem}'; it has segments of {known}"
        )


@dataclass(frozen=True)
class GivenRow:
    """One segment as a file states it; `where` is its line or index."""

    where: str
    start: Any
    end: Any
    speaker: str | None = None
    recording: str | None = None
    channel: Any = None
    text: str | None = None


@dataclass(frozen=True)
class SegmentsFormat:
    """A file format for given segments.

    Attributes:
        title: what messages call the format.
        recognises: whether a text has this format.
        rows: the reader. It gets the text, and the name of the file for messages, and yields its segments.
            It raises `ConfigError` for a damaged file.
        names_are_free: the names of recordings need not be file names. So a file about one recording serves
            the one recording at hand.
    """

    title: str
    recognises: Callable[[str], bool]
    rows: Callable[[str, str], Iterator[GivenRow]]
    names_are_free: bool = False


def rttm_id(path: str | Path) -> str:
    """Return the name of a recording in RTTM: its file name without suffix, with `_` for blanks."""
    return "_".join(Path(path).stem.split()) or "-"


def text_or_none(value: Any) -> str | None:
    """Return a value as text without blanks around it; None for None and for empty text.

    JSON can hold halves of a sign, which no output can: each becomes `?`.
    """
    return None if value is None else str(value).strip().encode("utf-8", "replace").decode() or None


def seconds(value: Any) -> float:
    """Return the seconds of a time: a number, or text as seconds, `m:ss` or `hh:mm:ss`.

    The last part may have decimals. Raises `ValueError` for other text, and `TypeError` for other types.

    >>> seconds(" 83.25 "), seconds("1:23.25"), seconds("01:01:23"), seconds("0:00,5")
    (83.25, 83.25, 3683.0, 0.5)
    """
    if isinstance(value, bool):
        raise TypeError("expected a time, got a boolean")
    if not isinstance(value, str):
        return _finite(value)
    *larger, last = value.strip().replace(",", ".").split(":")
    total = float(last)
    if not larger:
        return total
    if len(larger) > 2 or not all(part.isdecimal() for part in larger) or not 0 <= total < 60:
        raise ValueError(f"bad time '{value}'")
    if len(larger) == 2 and int(larger[1]) >= 60:
        raise ValueError(f"bad time '{value}'")
    for place, part in enumerate(reversed(larger), start=1):
        total += _finite(int(part)) * 60**place
    return round(total, 6)


def channel_number(value: Any) -> int | None:
    """Return the number of a channel from 0 on: a whole number, or text of one; None for None.

    Raises `ValueError` for anything else.

    >>> channel_number(" 1 "), channel_number(0)
    (1, 0)
    """
    if value is None:
        return None
    if isinstance(value, (bool, float)) or not _CHANNEL.fullmatch(str(value).strip()):
        raise ValueError(f"bad channel {value!r}")
    return int(value)


def _finite(value: Any) -> float:
    """Return a number as a float. Raises `ValueError` for one that is too large, and `TypeError`."""
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("the number is too large") from error
