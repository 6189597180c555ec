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
from emodistill.inference.adapted_windows import (
    Adapt,
    FirstPassScorer,
    KnownSpeech,
    check_adaptation,
    window_scorer,
)
from emodistill.inference.given_segments import GivenSegment, GivenSegments
from emodistill.inference.segmentation import (
    HOP_S,
    WINDOW_S,
    Segment,
    Stretch,
    WindowClassifier,
    Windows,
    WindowScore,
    WindowScorer,
    WindowUpdate,
    mean_score,
)
from emodistill.inference.streaming import Detector, Event, ScorerStream, SpeechEnded, SpeechStarted
from emodistill.inference.thread_map import map_in_order
from emodistill.inference.voices import Voice

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
    speakers: dict[str, dict[str, float]] | None = None  # the summary of each speaker; None: no speakers

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Timeline":
        """Return the timeline that `as_dict` wrote."""
        return cls(**{**data, "segments": tuple(Segment(**segment) for segment in data["segments"])})

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, keys in a fixed order, without `trace`.

        `speakers` is left out where it is None. `Timeline.from_dict(timeline.as_dict())` equals the timeline.
        """
        data: dict[str, Any] = {
            "path": self.path,
            "duration_s": self.duration_s,
            "segments": [segment.as_dict() for segment in self.segments],
            "summary": dict(self.summary),
            "reason": self.reason,
            "error": self.error,
        }
        if self.speakers is not None:
            data["speakers"] = {name: dict(summary) for name, summary in self.speakers.items()}
        return data


# Long: each parameter is an option, and the docstring describes all of them.
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
    voice: Voice | None = None,
    adapt: Adapt = "none",
) -> Timeline:
    """Return the emotions over time in one recording.

    The recording is decoded and classified block by block, so memory does not grow with its length. With
    `adapt="recording"`, and with `adapt` for given segments, the statistics of all windows are kept too: for
    an hour about 30 kB times `Recognizer.voice_dim`. The model still runs once for each window.

    With `adapt`, the windows are compared with a voice that is learned from the recording itself, without
    labels. Do not use it where a speaker has one emotion only: this emotion is then the usual. Among given
    segments, each speaker has a voice of their own; segments without a speaker share one. A given segment is
    never compared with itself. So a speaker's only segment has no voice, and `voice_utterances` is 0.

    Args:
        source: a path, the bytes of a file, or an open binary file or pipe.
        recognizer: classifies the windows; its `emotions` and `min_confidence` hold for the segments.
        given: classify these segments instead of the speech that is found, each by the mean over its windows.
        hop_s: from one window to the next, at least 0.1.
        window_s: the length of a window, a whole number of hops.
        detector: finds the speech; None: the packaged one.
        traced: fill `trace`, which a picture needs.
        max_s: the longest recording that is accepted; longer ones are decoded no further.
        voice: of the speaker, from `Recognizer.enrol`. All windows are compared with its usual.
        adapt: "none": without a voice, or with `voice`. "recording": all windows are compared with the mean
            over the speech of the recording; a given segment with the speaker's other segments, without those
            that overlap it. "running": each window is compared with the speech before it, as in a stream; a
            given segment with the speaker's segments that end before it starts.

    Raises:
        AudioError: the audio cannot be read, or a given segment begins after its end.
        AudioTooLongError: the audio is longer than `max_s`.
        ConfigError: the hop or the window is out of range, or a given segment does not end after its start.
            `adapt` has another value, or there is a voice together with `adapt`.
        ModelError: the model has no voices, or the voice is one of another model.
    """
    check_adaptation(recognizer, voice, adapt)
    # A given segment may be compared with segments that end while it is read, so there are two passes.
    passes: Adapt = "recording" if given is not None and adapt != "none" else adapt
    scorer = window_scorer(recognizer, hop_s, window_s, voice, passes)
    source = decodable_source(source, "a path, the bytes of a file or a file opened in binary mode")
    name = str(source) if isinstance(source, (str, Path)) else ""
    envelope = _Envelope() if traced else None
    pieces = load_blocks(source, max_s)
    if envelope is not None:
        pieces = envelope.measure(pieces)
    segments: list[Segment] = []
    updates: list[WindowUpdate] = []
    level = LevelMeter()
    if given is None:
        for event in _recognise_speech(pieces, scorer, detector, level):
            if isinstance(event, Segment):
                segments.append(event)
            elif traced and isinstance(event, WindowUpdate):
                updates.append(event)
    else:
        segments = _score_given(pieces, scorer, given, name, adapt)
    reason: Literal["silence", "no_speech", "too_short"] | None = None
    if not segments and given is None:
        reason = level.unusable_reason() or "no_speech"
    summary = seconds_by_emotion(segments, recognizer.emotions)
    trace = None if envelope is None else Trace(envelope.peaks(), tuple(updates))
    return Timeline(name, scorer.num_samples / SAMPLE_RATE, tuple(segments), summary, reason, trace=trace)


def _recognise_speech(
    pieces: Iterable[Waveform], scorer: WindowScorer, detector: Detector | None, level: LevelMeter
) -> Iterator[Event]:
    """Yield the events of the speech in a recording; `level` measures the recording."""

    def first_pass() -> Iterator[Event]:
        stream = ScorerStream(scorer, detector=detector)
        for piece in pieces:
            level.add(piece)
            yield from stream.push(piece)
        yield from stream.finish()

    if isinstance(scorer, FirstPassScorer):
        yield from _second_pass(first_pass(), scorer)
    else:
        yield from first_pass()


def _second_pass(events: Iterable[Event], scorer: FirstPassScorer) -> Iterator[Event]:
    """Yield the window updates and segments of a recording that is compared with all of its speech.

    `events` are those of the first pass. The stretches of speech, and so the windows, stay as they are.
    """
    edges = [
        round(event.time_s * SAMPLE_RATE)
        for event in events
        if isinstance(event, (SpeechStarted, SpeechEnded))
    ]
    compared = scorer.second_pass(scorer.known)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        stretch = Stretch(compared, start)
        yield from stretch.extend(end)
        yield from stretch.close(end)


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
    voice: Voice | None = None,
    adapt: Adapt = "none",
) -> Iterator[Timeline]:
    """Yield one timeline for each path, in order, with `jobs` threads.

    A recording that cannot be read, or that has no given segments, gives a timeline with its `error`. Raises
    the errors of `timeline` for `voice` and `adapt`.
    """
    check_adaptation(recognizer, voice, adapt)
    shared_detector = detector or (SpeechDetector() if given is None else None)

    def timeline_of(source: str | Path) -> Timeline:
        try:
            segments = None if given is None else given.for_recording(source)
            return timeline(
                source, recognizer, given=segments, detector=shared_detector, traced=traced, voice=voice,
                adapt=adapt,
            )  # fmt: skip
        except (AudioError, ConfigError) as error:
            return Timeline(str(source), error=str(error))

    yield from map_in_order(timeline_of, sources, jobs)


class _OpenSegment:
    """A given segment whose audio is being read: the scores of its windows so far."""

    def __init__(self, segment: GivenSegment, scorer: WindowScorer) -> None:
        self.start, self.end = round(segment.start_s * SAMPLE_RATE), round(segment.end_s * SAMPLE_RATE)
        self.speaker = segment.speaker
        self.windows: list[tuple[int, int, int]] = []  # begin, end, samples that no earlier window covers
        self.scores: list[WindowScore] = []  # of these windows
        self._scorer = scorer
        self._windows = Windows(self.start, scorer.window, scorer.hop)
        self._covered = self.start  # the end of the last window

    @property
    def first_needed_sample(self) -> int:
        """The first sample that a window may still need."""
        return max(self.start, min(self._scorer.num_samples, self.end) - self._scorer.window)

    def extend(self) -> None:
        """Classify the windows of full length in the audio that was read so far."""
        for begin, end in self._windows.up_to(min(self._scorer.num_samples, self.end)):
            if end - begin == self._scorer.window:
                self._add_window(begin, end)

    def close(self) -> None:
        """Classify the last window, if the segment's audio is complete or the recording has ended."""
        self.extend()
        self.end = min(self.end, self._scorer.num_samples)
        last = self._windows.last(self.end)
        if last is not None and self.end - self.start >= MIN_UTTERANCE_S * SAMPLE_RATE:
            self._add_window(*last)

    def segment(self, scores: Sequence[WindowScore]) -> Segment:
        """Return the segment with the mean of these scores of its windows."""
        if not scores:
            return Segment(self.start / SAMPLE_RATE, self.end / SAMPLE_RATE, None, None, {}, self.speaker)
        return self._scorer.segment(self.start, self.end, mean_score(scores), self.speaker)

    def _add_window(self, begin: int, end: int) -> None:
        new_samples, self._covered = end - self._covered, end
        waveform = self._scorer.between(begin, end)
        if np.abs(waveform - waveform.mean()).max() >= SILENCE_PEAK:  # without the DC offset
            self.windows.append((begin, end, new_samples))
            self.scores.append(self._scorer.score(begin, end, new_samples))


def _score_given(
    pieces: Iterable[Waveform], scorer: WindowScorer, given: Sequence[GivenSegment], name: str, adapt: Adapt
) -> list[Segment]:
    """Return the given segments in order of time."""
    parts = _read_given(pieces, scorer, given, name)
    if isinstance(scorer, FirstPassScorer):
        return _compare_with_speakers(parts, scorer, adapt)
    return [part.segment(part.scores) for part in parts]


def _read_given(
    pieces: Iterable[Waveform], scorer: WindowScorer, given: Sequence[GivenSegment], name: str
) -> list[_OpenSegment]:
    """Return the given segments in order of time. Each is closed as soon as its audio has been read."""
    for segment in given:
        segment.check()
    ordered = sorted(
        (_OpenSegment(segment, scorer) for segment in given), key=lambda part: (part.start, part.end)
    )
    coming = deque(ordered)
    opened: list[_OpenSegment] = []
    for piece in pieces:
        scorer.append(piece)
        while coming and coming[0].start < scorer.num_samples:
            opened.append(coming.popleft())
        still_open: list[_OpenSegment] = []
        for part in opened:
            if part.end <= scorer.num_samples:
                part.close()
            else:
                part.extend()
                still_open.append(part)
        opened = still_open
        scorer.forget(min((part.first_needed_sample for part in opened), default=scorer.num_samples))
    if coming:
        raise AudioError(
            f"{name or '<bytes>'}: a given segment begins at {coming[0].start / SAMPLE_RATE} s, the audio "
            f"ends at {scorer.num_samples / SAMPLE_RATE} s; were the segments made for another recording?"
        )
    for part in opened:
        part.close()
    return ordered


def _compare_with_speakers(
    parts: Sequence[_OpenSegment], scorer: FirstPassScorer, adapt: Adapt
) -> list[Segment]:
    """Return the given segments, each compared with other segments of its speaker, as `timeline` describes.

    `scorer` has scored all windows of the segments.
    """
    speech = [scorer.speech_of(part.windows) for part in parts]
    weighted = np.array([known.weighted for known in speech])  # (segments, dim)
    num_samples = np.array([known.num_samples for known in speech], dtype=np.int64)
    starts, ends = np.array([part.start for part in parts]), np.array([part.end for part in parts])
    speakers = list(dict.fromkeys(part.speaker for part in parts))
    speaker_ids = np.array([speakers.index(part.speaker) for part in parts])
    segments = []
    for part, speaker_id in zip(parts, speaker_ids, strict=True):
        others = ends <= part.start
        if adapt == "recording":
            others |= starts >= part.end
        others &= speaker_ids == speaker_id
        known = KnownSpeech(others @ weighted, int(num_samples[others].sum()))
        compared = scorer.second_pass(known)
        segments.append(part.segment([compared.score(begin, end) for begin, end, _ in part.windows]))
    return segments


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
