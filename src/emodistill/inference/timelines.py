"""Emotion over time in recordings of any length, for the speech that is found or for given segments."""

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
from emodistill.inference.given_segments import GivenSegment, GivenSegments
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
class Trace:
    """What a picture of a timeline shows besides the segments.

    Attributes:
        envelope: (peaks,) the largest magnitude in every `ENVELOPE_SAMPLES`.
        updates: the update of each window; empty if segments were given.
    """

    envelope: npt.NDArray[np.float32]
    updates: tuple[WindowUpdate, ...]


@dataclass(frozen=True)
class Timeline:
    """The segments of one recording in order of time.

    If there are none, `reason` states why no speech was found, or `error` why the recording could not be
    read.
    """

    path: str  # empty if the source was not a path
    duration_s: float | None = None
    segments: tuple[Segment, ...] = ()
    summary: dict[str, float] = field(default_factory=dict)  # seconds of each emotion
    reason: Literal["silence", "no_speech", "too_short"] | None = None
    error: str | None = None
    trace: Trace | None = field(default=None, compare=False, repr=False)  # only with `traced`

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Timeline":
        """Return the timeline that `as_dict` wrote."""
        return cls(**{**data, "segments": tuple(Segment(**segment) for segment in data["segments"])})

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, keys in a fixed order, without `trace`.

        `Timeline.from_dict(timeline.as_dict())` equals the timeline.
        """
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
    """Return the emotions over time in one recording.

    The recording is decoded and classified block by block, so memory does not grow with its length.

    Args:
        source: a path, the bytes of a file, or an open binary file or pipe.
        recognizer: classifies the windows; its `emotions` and `min_confidence` hold for the segments.
        given: classify these segments instead of the speech that is found, each by the mean over its windows.
        hop_s: from one window to the next, at least 0.1.
        window_s: the length of a window, a whole number of hops.
        detector: finds the speech; None: the packaged one.
        traced: fill `trace`, which a picture needs.
        max_s: the longest recording that is accepted; longer ones are decoded no further.

    Raises:
        AudioError: the audio cannot be read, or a given segment begins after its end.
        AudioTooLongError: the audio is longer than `max_s`.
        ConfigError: the hop or the window is out of range, or a given segment does not end after its start.
    """
    source = decodable_source(source, "a path, the bytes of a file or a file opened in binary mode")
    name = str(source) if isinstance(source, (str, Path)) else ""
    envelope = _Envelope() if traced else None
    pieces = load_blocks(source, max_s)
    if envelope is not None:
        pieces = envelope.measure(pieces)
    segments: list[Segment] = []
    updates: list[WindowUpdate] = []

    def collect(events: Iterable[Event]) -> None:
        segments.extend(event for event in events if isinstance(event, Segment))
        updates.extend(event for event in events if traced and isinstance(event, WindowUpdate))

    reason: Literal["silence", "no_speech", "too_short"] | None = None
    if given is None:
        level = LevelMeter()
        stream = StreamingRecognizer(recognizer, hop_s=hop_s, window_s=window_s, detector=detector)
        for piece in pieces:
            level.add(piece)
            collect(stream.push(piece))
        collect(stream.finish())
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
    """Return the seconds of each emotion, in the order of `emotions`."""
    seconds = dict.fromkeys(emotions, 0.0)
    for segment in segments:
        if segment.emotion is not None:
            seconds[segment.emotion] += segment.end_s - segment.start_s
    return {emotion: round(length_s, 6) for emotion, length_s in seconds.items()}


def timelines(
    sources: Iterable[str | Path],
    recognizer: WindowClassifier,
    *,
    given: GivenSegments | None = None,
    jobs: int = 1,
    detector: Detector | None = None,
    traced: bool = False,
) -> Iterator[Timeline]:
    """Yield one timeline for each path, in order, with `jobs` threads.

    A recording that cannot be read, or that has no given segments, gives a timeline with its `error`.
    """
    shared_detector = detector or (SpeechDetector() if given is None else None)

    def timeline_of(source: str | Path) -> Timeline:
        try:
            segments = None if given is None else given.for_recording(source)
            return timeline(source, recognizer, given=segments, detector=shared_detector, traced=traced)
        except (AudioError, ConfigError) as error:
            return Timeline(str(source), error=str(error))

    yield from map_in_order(timeline_of, sources, jobs)


class _OpenSegment:
    """A given segment whose audio is being read: the mean log-probabilities of its windows so far."""

    def __init__(self, segment: GivenSegment, scorer: WindowScorer) -> None:
        self.start, self.end = round(segment.start_s * SAMPLE_RATE), round(segment.end_s * SAMPLE_RATE)
        self.speaker = segment.speaker
        self._scorer = scorer
        self._windows = Windows(self.start, scorer.window, scorer.hop)
        self._values: list[Values] = []

    @property
    def first_needed_sample(self) -> int:
        """The first sample that a window may still need."""
        return max(self.start, min(self._scorer.num_samples, self.end) - self._scorer.window)

    def extend(self) -> None:
        """Classify the windows of full length in the audio that was read so far."""
        for begin, end in self._windows.up_to(min(self._scorer.num_samples, self.end)):
            if end - begin == self._scorer.window:
                self._add_window(begin, end)

    def close(self) -> Segment:
        """Return the segment, if its audio is complete or the recording has ended."""
        self.extend()
        end = min(self.end, self._scorer.num_samples)
        last = self._windows.last(end)
        if last is not None and end - self.start >= MIN_UTTERANCE_S * SAMPLE_RATE:
            self._add_window(*last)
        if not self._values:
            return Segment(self.start / SAMPLE_RATE, end / SAMPLE_RATE, None, None, {}, self.speaker)
        return self._scorer.segment(self.start, end, np.mean(self._values, axis=0), self.speaker)

    def _add_window(self, begin: int, end: int) -> None:
        waveform = self._scorer.between(begin, end)
        if np.abs(waveform - waveform.mean()).max() >= SILENCE_PEAK:  # without the DC offset
            self._values.append(self._scorer.log_probabilities(begin, end))


def _score_given(
    pieces: Iterable[Waveform], scorer: WindowScorer, given: Sequence[GivenSegment], name: str
) -> list[Segment]:
    """Return the given segments in order of time. Each is closed as soon as its audio has been read."""
    for segment in given:
        segment.check()
    ordered = sorted(
        (_OpenSegment(segment, scorer) for segment in given), key=lambda part: (part.start, part.end)
    )
    coming = deque(ordered)
    opened: list[_OpenSegment] = []
    closed: dict[_OpenSegment, Segment] = {}
    for piece in pieces:
        scorer.append(piece)
        while coming and coming[0].start < scorer.num_samples:
            opened.append(coming.popleft())
        for part in opened:
            part.extend()
            if part.end <= scorer.num_samples:
                closed[part] = part.close()
        opened = [part for part in opened if part not in closed]
        scorer.forget(min((part.first_needed_sample for part in opened), default=scorer.num_samples))
    if coming:
        raise AudioError(
            f"{name or '<bytes>'}: a given segment begins at {coming[0].start / SAMPLE_RATE} s, the audio "
            f"ends at {scorer.num_samples / SAMPLE_RATE} s; were the segments made for another recording?"
        )
    closed |= {part: part.close() for part in opened}
    return [closed[part] for part in ordered]


class _Envelope:
    """The peaks of a waveform that arrives in pieces."""

    def __init__(self) -> None:
        self._peaks: list[Waveform] = []
        self._rest = np.zeros(0, dtype=np.float32)

    def measure(self, pieces: Iterable[Waveform]) -> Iterator[Waveform]:
        """Yield the same pieces, and measure their peaks."""
        for piece in pieces:
            yield piece
            magnitudes = np.abs(np.concatenate([self._rest, piece]))
            whole = len(magnitudes) - len(magnitudes) % ENVELOPE_SAMPLES
            self._peaks.append(magnitudes[:whole].reshape(-1, ENVELOPE_SAMPLES).max(axis=1))
            self._rest = magnitudes[whole:]

    def peaks(self) -> Waveform:
        """Return all peaks (peaks,), one for every `ENVELOPE_SAMPLES`."""
        last = self._rest.max(keepdims=True) if self._rest.size else self._rest
        return np.concatenate([*self._peaks, last])
