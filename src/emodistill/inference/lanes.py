"""Lanes of a timeline: one waveform of a recording, a channel or the mix of all, on its way to segments.

A recording is decoded once for all of its lanes. A lane has its own speech detection, its own voice and its
own segments. Its memory does not grow with the recording, except by what the docstring of `timeline` names.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from emodistill.audio.recording import MIN_UTTERANCE_S, SILENCE_PEAK, LevelMeter
from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.errors import AudioError
from emodistill.inference import adapted_windows
from emodistill.inference.adapted_windows import Adapt, FirstPassScorer, KnownSpeech
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.segmentation import (
    Segment,
    SegmentTrack,
    Stretch,
    Windows,
    WindowScore,
    WindowScorer,
    WindowUpdate,
    mean_score,
)
from emodistill.inference.segmentation_options import MAX_SMOOTH_S, SMOOTH_S
from emodistill.inference.streaming import Detector, Event, ScorerStream, SpeechEnded, SpeechStarted

ENVELOPE_SAMPLES = SAMPLE_RATE // 20  # one peak of an envelope: 50 ms


class Lane(ABC):
    """The segments of one waveform that arrives in pieces.

    Attributes:
        channel: of the recording, from 0; None: all channels mixed.
        speaker: who speaks in the channel; None: unknown.
        level: of the waveform that was pushed.
        segments: known after `finish`, in order of time.
        updates: one for each window, if `traced`.
    """

    def __init__(self, scorer: WindowScorer, channel: int | None, speaker: str | None, traced: bool) -> None:
        self.scorer, self.channel, self.speaker, self.traced = scorer, channel, speaker, traced
        self.level = LevelMeter()
        self.segments: list[Segment] = []
        self.updates: list[WindowUpdate] = []
        self._envelope = Envelope() if traced else None

    @property
    def num_samples(self) -> int:
        """The length of the waveform so far."""
        return self.level.num_samples

    def push(self, piece: Waveform) -> None:
        """Add the next piece (samples,)."""
        self.level.add(piece)
        if self._envelope is not None:
            self._envelope.add(piece)
        self._read(piece)

    def finish(self) -> None:
        """Recognise the rest, and fill `segments`."""
        self.segments = [
            replace(
                segment,
                channel=self.channel,
                speaker=self.speaker if segment.speaker is None else segment.speaker,
            )
            for segment in self._segments()
        ]

    def envelope(self) -> Waveform:
        """Return the peaks (peaks,), one for every `ENVELOPE_SAMPLES`; none if not `traced`."""
        return np.zeros(0, dtype=np.float32) if self._envelope is None else self._envelope.peaks()

    @abstractmethod
    def _read(self, piece: Waveform) -> None:
        """Recognise the next piece (samples,)."""

    @abstractmethod
    def _segments(self) -> list[Segment]:
        """Return all segments; no piece follows."""


class SpeechLane(Lane):
    """A lane whose speech is found by a detector."""

    def __init__(
        self,
        scorer: WindowScorer,
        detector: Detector | None,
        channel: int | None = None,
        speaker: str | None = None,
        gain: float = 1.0,
        traced: bool = False,
    ) -> None:
        """Open a lane; the detector and the model get the waveform times `gain`."""
        super().__init__(scorer, channel, speaker, traced)
        self._stream = ScorerStream(scorer, detector=detector)
        self._gain = np.float32(gain)
        self._found: list[Segment] = []
        self._edges: list[int] = []  # of the stretches of speech, for a second pass

    def _read(self, piece: Waveform) -> None:
        self._keep(self._stream.push(piece if self._gain == 1 else piece * self._gain))

    def _segments(self) -> list[Segment]:
        self._keep(self._stream.finish())
        if isinstance(self.scorer, FirstPassScorer):
            smooth_s = self.scorer.options.smooth_s
            events, track = self._second_pass(self.scorer, smooth_s)
            if self.scorer.may_reject and smooth_s != SMOOTH_S:
                track = self._second_pass(self.scorer, SMOOTH_S)[1]  # MIXED_FIT was chosen with this value
            least = math.log(adapted_windows.MIXED_FIT / self.scorer.num_emotions)
            if not self.scorer.may_reject or track.is_mixed(least):
                self._found, self.updates = [], []
                self._keep(events)
        return self._found

    def _second_pass(self, scorer: FirstPassScorer, smooth_s: float) -> tuple[list[Event], SegmentTrack]:
        """Return the results of windows compared with the recording, and their track.

        The stretches of speech, and so the windows, stay as they are.
        """
        compared = scorer.second_pass(scorer.known)
        track = SegmentTrack(compared, smooth_s, MAX_SMOOTH_S)
        events: list[Event] = []
        for start, end in zip(self._edges[::2], self._edges[1::2], strict=True):
            stretch = Stretch(compared, start, track)
            found = (*stretch.extend(end), *stretch.close(end))
            events += [event for event in found if self.traced or isinstance(event, Segment)]
        return [*events, *track.finish()], track

    def _keep(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, (SpeechStarted, SpeechEnded)):
                self._edges.append(round(event.time_s * SAMPLE_RATE))
            elif isinstance(event, Segment):
                self._found.append(event)
            elif self.traced:
                self.updates.append(event)


class GivenLane(Lane):
    """A lane whose segments are given. Each is closed as soon as its audio has been read."""

    def __init__(
        self,
        scorer: WindowScorer,
        given: Sequence[GivenSegment],
        adapt: Adapt,
        recording: str,
        channel: int | None = None,
        speaker: str | None = None,
        traced: bool = False,
    ) -> None:
        """Open a lane; `recording` begins messages.

        Raises `ConfigError` for a given segment that does not end after its start.
        """
        super().__init__(scorer, channel, speaker, traced)
        for segment in given:
            segment.check()
        self._adapt, self._recording = adapt, recording
        self._parts = sorted(
            (_OpenSegment(segment, scorer) for segment in given), key=lambda part: (part.start, part.end)
        )
        self._coming = deque(self._parts)
        self._opened: list[_OpenSegment] = []

    def _read(self, piece: Waveform) -> None:
        self.scorer.append(piece)
        while self._coming and self._coming[0].start < self.scorer.num_samples:
            self._opened.append(self._coming.popleft())
        still_open: list[_OpenSegment] = []
        for part in self._opened:
            if part.end <= self.scorer.num_samples:
                part.close()
            else:
                part.extend()
                still_open.append(part)
        self._opened = still_open
        needed = (part.first_needed_sample for part in still_open)
        self.scorer.forget(min(needed, default=self.scorer.num_samples))

    def _segments(self) -> list[Segment]:
        if self._coming:
            raise AudioError(
                f"{self._recording}: a given segment begins at {self._coming[0].start / SAMPLE_RATE} s, the "
                f"audio ends at {self.scorer.num_samples / SAMPLE_RATE} s; were the segments made for "
                "another recording?"
            )
        for part in self._opened:
            part.close()
        if isinstance(self.scorer, FirstPassScorer):
            return _compare_with_speakers(self._parts, self.scorer, self._adapt)
        return [part.segment(part.scores) for part in self._parts]


class _OpenSegment:
    """A given segment whose audio is being read: the scores of its windows so far."""

    def __init__(self, segment: GivenSegment, scorer: WindowScorer) -> None:
        self.start, self.end = round(segment.start_s * SAMPLE_RATE), round(segment.end_s * SAMPLE_RATE)
        self.speaker = segment.speaker
        self.windows: list[tuple[int, int, int]] = []  # begin, end, samples that no earlier window covers
        self.scores: list[WindowScore] = []  # of these windows
        self._text = segment.text
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
            start_s, end_s = self.start / SAMPLE_RATE, self.end / SAMPLE_RATE
            return Segment(start_s, end_s, None, None, {}, self.speaker, text=self._text)
        segment = self._scorer.segment(self.start, self.end, mean_score(scores), self.speaker)
        return replace(segment, text=self._text)

    def _add_window(self, begin: int, end: int) -> None:
        new_samples, self._covered = end - self._covered, end
        waveform = self._scorer.between(begin, end)
        if np.abs(waveform - waveform.mean()).max() >= SILENCE_PEAK:  # without the DC offset
            self.windows.append((begin, end, new_samples))
            self.scores.append(self._scorer.score(begin, end, new_samples))


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


class Envelope:
    """The peaks of a waveform that arrives in pieces."""

    def __init__(self) -> None:
        self._peaks: list[npt.NDArray[np.float32]] = []
        self._rest = np.zeros(0, dtype=np.float32)

    def add(self, piece: Waveform) -> None:
        """Measure the next piece (samples,)."""
        magnitudes = np.abs(np.concatenate([self._rest, piece]))
        whole = len(magnitudes) - len(magnitudes) % ENVELOPE_SAMPLES
        self._peaks.append(magnitudes[:whole].reshape(-1, ENVELOPE_SAMPLES).max(axis=1))
        self._rest = magnitudes[whole:]

    def peaks(self) -> Waveform:
        """Return all peaks (peaks,), one for every `ENVELOPE_SAMPLES`."""
        last = self._rest.max(keepdims=True) if self._rest.size else self._rest
        return np.concatenate([*self._peaks, last])
