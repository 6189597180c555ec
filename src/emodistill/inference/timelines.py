"""Emotion over time in recordings of any length: segments of the speech found in them, or of given ones."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from emodistill.audio.recording import MIN_UTTERANCE_S, SILENCE_PEAK, LevelMeter, decodable_source
from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load_blocks
from emodistill.errors import AudioError, ConfigError
from emodistill.inference.segmentation import (
    HOP_S,
    WINDOW_S,
    Segment,
    Values,
    WindowClassifier,
    Windows,
    WindowScorer,
    WindowUpdate,
)
from emodistill.inference.streaming import Detector, Event, StreamingRecognizer
from emodistill.inference.thread_map import map_in_order

ENVELOPE_SAMPLES = SAMPLE_RATE // 20  # one peak of a trace's envelope: 50 ms

TimelineSource = str | Path | bytes | bytearray | memoryview | BinaryIO


@dataclass(frozen=True)
class GivenSegment:
    """A segment that is to be judged as it is, e.g. one turn of a speaker."""

    start_s: float
    end_s: float
    speaker: str | None = None


@dataclass(frozen=True)
class Trace:
    """What there is to draw besides the segments.

    envelope: (peaks,) the largest magnitude in every `ENVELOPE_SAMPLES`.
    updates: what each window of the speech sounds like; none where segments were given.
    """

    envelope: npt.NDArray[np.float32]
    updates: tuple[WindowUpdate, ...]


@dataclass(frozen=True)
class Timeline:
    """Segments of one recording in order of time.

    Without any there is a `reason`, if speech was looked for, or an `error`, if the recording could not be read.
    """

    path: str
    duration_s: float | None = None
    segments: tuple[Segment, ...] = ()
    summary: dict[str, float] = field(default_factory=dict)  # emotion -> seconds, of all emotions
    reason: Literal["silence", "no_speech", "too_short"] | None = None  # why no segment was found
    error: str | None = None
    trace: Trace | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Timeline":
        """Return the timeline that `as_dict` wrote."""
        return cls(**{**data, "segments": tuple(Segment(**segment) for segment in data["segments"])})

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, keys in a fixed order. `trace` is not in it."""
        return {
            "path": self.path,
            "duration_s": self.duration_s,
            "segments": [segment.as_dict() for segment in self.segments],
            "summary": dict(self.summary),
            "reason": self.reason,
            "error": self.error,
        }


def timeline(
    source: TimelineSource,
    recognizer: WindowClassifier,
    *,
    given: Sequence[GivenSegment] | None = None,
    hop_s: float = HOP_S,
    window_s: float = WINDOW_S,
    detector: Detector | None = None,
    traced: bool = False,
    max_s: float | None = None,
) -> Timeline:
    """Emotion over time in one recording: a path, the bytes of a file, or an open binary file.

    The recording is decoded and judged block by block, so memory does not grow with its length.

    Args:
        source: what to read.
        recognizer: judges the windows; its `emotions` and `min_confidence` hold for the segments.
        given: judge these segments, each by the mean over the windows inside, instead of the speech found.
        hop_s: from one window to the next.
        window_s: the length of a window, a whole number of hops.
        detector: of speech; None: the one that comes with the package.
        traced: keep what `draw` needs.
        max_s: longer audio is refused as soon as that is known.

    Raises:
        AudioError: the audio cannot be read, or a given segment begins after its end.
        AudioTooLongError: it is longer than `max_s`.
        ConfigError: a hop or window that does not fit, or a given segment that is none.
    """
    source = decodable_source(source, "a path, the bytes of a file or a file opened in binary mode")
    name = str(source) if isinstance(source, (str, Path)) else ""
    envelope = _Envelope() if traced else None
    pieces = load_blocks(source, max_s)
    if envelope is not None:
        pieces = envelope.over(pieces)
    segments: list[Segment] = []
    updates: list[WindowUpdate] = []

    def sort(events: Iterable[Event]) -> None:
        segments.extend(event for event in events if isinstance(event, Segment))
        updates.extend(event for event in events if traced and isinstance(event, WindowUpdate))

    reason: Literal["silence", "no_speech", "too_short"] | None = None
    if given is None:
        level = LevelMeter()
        stream = StreamingRecognizer(recognizer, hop_s=hop_s, window_s=window_s, detector=detector)
        for piece in pieces:
            level.add(piece)
            sort(stream.push(piece))
        sort(stream.finish())
        duration_s = stream.time_s
        reason = None if segments else level.unusable_reason() or "no_speech"
    else:
        scorer = WindowScorer(recognizer, hop_s, window_s)
        segments = _score_given(pieces, scorer, given, name)
        duration_s = scorer.num_samples / SAMPLE_RATE
    summary = seconds_by_emotion(segments, recognizer.emotions)
    trace = None if envelope is None else Trace(envelope.peaks(), tuple(updates))
    return Timeline(name, duration_s, tuple(segments), summary, reason, trace=trace)


def seconds_by_emotion(segments: Iterable[Segment], emotions: Sequence[str]) -> dict[str, float]:
    """Seconds of each emotion, in the order of `emotions`."""
    summary = dict.fromkeys(emotions, 0.0)
    for segment in segments:
        if segment.emotion is not None:
            summary[segment.emotion] += segment.end_s - segment.start_s
    return {emotion: round(length_s, 6) for emotion, length_s in summary.items()}


def timelines(
    sources: Iterable[str | Path],
    recognizer: WindowClassifier,
    *,
    given: "GivenSegments | None" = None,
    jobs: int = 1,
    detector: Detector | None = None,
    traced: bool = False,
) -> Iterator[Timeline]:
    """One timeline per path, in order, `jobs` at a time; a path that cannot be read gives its `error`."""
    shared = detector or (SpeechDetector() if given is None else None)

    def timeline_of(source: str | Path) -> Timeline:
        try:
            turns = None if given is None else given.of(source)
            return timeline(source, recognizer, given=turns, detector=shared, traced=traced)
        except (AudioError, ConfigError) as error:
            return Timeline(str(source), error=str(error))

    yield from map_in_order(timeline_of, sources, jobs)


# --- given segments ------------------------------------------------------------------------------


@dataclass(frozen=True)
class GivenSegments:
    """The given segments of several recordings by name; by None where the file names no recording."""

    source: Path
    by_name: Mapping[str | None, tuple[GivenSegment, ...]]

    def of(self, recording: str | Path) -> tuple[GivenSegment, ...]:
        """Those of a recording, known by its path, its file name, or that without suffix.

        Raises `ConfigError` where there are none.
        """
        path = Path(recording)
        for name in (str(recording), path.name, path.stem, rttm_id(path), None):
            if name in self.by_name:
                return self.by_name[name]
        known = ", ".join(f"'{name}'" for name in list(self.by_name)[:5])
        raise ConfigError(
            f"{recording}: '{self.source}' has no segments of '{path.stem}'; it has those of {known}"
        )


def read_segments(path: Path, num_recordings: int = 1) -> GivenSegments:
    """Given segments out of RTTM (its SPEAKER lines), or a CSV with `start_s,end_s[,speaker][,path]`.

    Raises `ConfigError` for a file that is missing or neither, for a segment that does not end after its start,
    with the line, and for one that names no recording where there are several.
    """
    if not path.is_file():
        raise ConfigError(f"no segments '{path}': no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is neither RTTM nor CSV: it is not UTF-8 text") from error
    rows = _rttm_rows(text, path) if path.suffix.lower() == ".rttm" else _csv_rows(text, path)
    found: dict[str | None, list[GivenSegment]] = {}
    for number, name, start, end, speaker in rows:
        try:
            segment = GivenSegment(float(start), float(end), speaker)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"'{path}', line {number}: expected a start and an end in seconds, got {start!r} and {end!r}"
            ) from error
        try:
            _check_given(segment)
        except ValueError as error:
            raise ConfigError(f"'{path}', line {number}: {error}") from error
        found.setdefault(name, []).append(segment)
    if not found:
        raise ConfigError(f"'{path}' holds no segments")
    if None in found and num_recordings > 1:
        raise ConfigError(
            f"'{path}' does not say which of {num_recordings} recordings its segments are of: add a column path"
        )
    return GivenSegments(path, {name: tuple(segments) for name, segments in found.items()})


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
                f"'{path}', line {number}: expected SPEAKER file channel start duration <NA> <NA> speaker, got '{line}'"
            ) from error
        # Sums of decimal fractions: 0.1 + 0.2 is meant to be 0.3.
        yield number, fields[1], start, round(start + length, 9), speaker


def _csv_rows(text: str, path: Path) -> Iterator[_Row]:
    lines = text.splitlines()
    head = lines[0] if lines else ""
    reader = csv.DictReader(
        lines, delimiter=";" if ";" in head and "," not in head else ",", skipinitialspace=True
    )
    columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    if "start_s" not in columns or "end_s" not in columns:
        raise ConfigError(
            f"'{path}': expected RTTM (*.rttm) or a CSV with the columns start_s,end_s[,speaker][,path], "
            f"got the columns {list(columns)}"
        )
    for row in reader:
        yield (
            reader.line_num,
            row.get("path") or None,
            row["start_s"],
            row["end_s"],
            row.get("speaker") or None,
        )


def _check_given(segment: GivenSegment) -> None:
    if not (np.isfinite(segment.end_s) and 0 <= segment.start_s < segment.end_s):
        raise ValueError(
            f"bad segment from {segment.start_s} s to {segment.end_s} s, expected 0 ≤ start < end"
        )


def rttm_id(path: str | Path) -> str:
    """A recording's name in RTTM, whose fields end at blanks: its file name without suffix."""
    return "_".join(Path(path).stem.split()) or "-"


class _Turn:
    """A given segment that is being judged."""

    def __init__(self, segment: GivenSegment, scorer: WindowScorer) -> None:
        self.start, self.end = (round(at * SAMPLE_RATE) for at in (segment.start_s, segment.end_s))
        self.speaker = segment.speaker
        self._scorer = scorer
        self._windows = Windows(self.start, scorer.window, scorer.hop)
        self._values: list[Values] = []

    @property
    def needs(self) -> int:
        """The first sample that a window may still ask for."""
        return max(self.start, min(self._scorer.num_samples, self.end) - self._scorer.window)

    def reach(self) -> None:
        """The audio goes on."""
        for begin, end in self._windows.reach(min(self._scorer.num_samples, self.end)):
            if end - begin == self._scorer.window:
                self._hear(begin, end)

    def close(self) -> Segment:
        """Its audio is complete, or the recording ended."""
        self.reach()
        end = min(self.end, self._scorer.num_samples)
        last = self._windows.last(end)
        if last is not None and end - self.start >= MIN_UTTERANCE_S * SAMPLE_RATE:
            self._hear(*last)
        if not self._values:
            return Segment(self.start / SAMPLE_RATE, end / SAMPLE_RATE, None, None, {}, self.speaker)
        return self._scorer.segment(self.start, end, np.mean(self._values, axis=0), self.speaker)

    def _hear(self, begin: int, end: int) -> None:
        waveform = self._scorer.between(begin, end)
        if np.abs(waveform - waveform.mean()).max() >= SILENCE_PEAK:  # a DC offset is no sound
            self._values.append(self._scorer(begin, end))


def _score_given(
    pieces: Iterable[Waveform], scorer: WindowScorer, given: Sequence[GivenSegment], name: str
) -> list[Segment]:
    """The given segments in order of time; each as soon as its audio has been read."""
    for segment in given:
        try:
            _check_given(segment)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    coming = deque(
        sorted((_Turn(segment, scorer) for segment in given), key=lambda turn: (turn.start, turn.end))
    )
    order = list(coming)
    open_turns: list[_Turn] = []
    closed: dict[_Turn, Segment] = {}
    for piece in pieces:
        scorer.append(piece)
        while coming and coming[0].start < scorer.num_samples:
            open_turns.append(coming.popleft())
        for turn in open_turns:
            turn.reach()
            if turn.end <= scorer.num_samples:
                closed[turn] = turn.close()
        open_turns = [turn for turn in open_turns if turn not in closed]
        scorer.forget(min((turn.needs for turn in open_turns), default=scorer.num_samples))
    if coming:
        raise AudioError(
            f"{name or '<bytes>'}: a given segment begins at {coming[0].start / SAMPLE_RATE} s, the audio ends at "
            f"{scorer.num_samples / SAMPLE_RATE} s; were the segments made for another recording?"
        )
    closed |= {turn: turn.close() for turn in open_turns}
    return [closed[turn] for turn in order]


class _Envelope:
    """Peaks of a waveform, piece by piece."""

    def __init__(self) -> None:
        self._peaks: list[Waveform] = []
        self._rest = np.zeros(0, dtype=np.float32)

    def over(self, pieces: Iterable[Waveform]) -> Iterator[Waveform]:
        """Pass the pieces on, and listen."""
        for piece in pieces:
            yield piece
            waveform = np.abs(np.concatenate([self._rest, piece]))
            whole = len(waveform) - len(waveform) % ENVELOPE_SAMPLES
            self._peaks.append(waveform[:whole].reshape(-1, ENVELOPE_SAMPLES).max(axis=1))
            self._rest = waveform[whole:]

    def peaks(self) -> Waveform:
        """All of them (peaks,)."""
        last = self._rest.max(keepdims=True) if self._rest.size else self._rest
        return np.concatenate([*self._peaks, last])
