"""Emotion while it is spoken: chunks of audio in, events out. A file goes through the same stream.

    chunks → 16 kHz mono → speech or not, with hysteresis → segments of each stretch of speech
    (`segmentation`)

No step looks ahead by more than a fixed length, and all steps work on absolute sample positions. So the
events do not depend on how the audio was cut into chunks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from emodistill.audio.speech_activity import (
    BLOCK_SAMPLES,
    SPEECH_FRAME_SAMPLES,
    SPEECH_OFF,
    SPEECH_ON,
    SpeechDetector,
)
from emodistill.audio.waveform import SAMPLE_RATE, MonoStream, Waveform
from emodistill.inference.adapted_windows import (
    STREAM_ADAPT,
    Adapt,
    check_adaptation,
    window_scorer,
)
from emodistill.inference.segmentation import Segment, SegmentTrack, Stretch, WindowScorer, WindowUpdate
from emodistill.inference.segmentation_options import (
    HOP_S,
    MIN_DURATION_S,
    SMOOTH_S,
    WINDOW_S,
    SegmentationOptions,
)
from emodistill.inference.voices import Voice
from emodistill.inference.window_classifier import WindowClassifier, check_emotions

PAUSE_S = 0.22  # a longer pause ends a stretch; the event comes within 0.7 s, as the detector needs 0.4 s
MIN_STRETCH_S = 0.2  # shorter sound is a click or a breath, and gives no event


@dataclass(frozen=True)
class SpeechStarted:
    """Speech started at `time_s`, and has lasted for `MIN_STRETCH_S`."""

    kind: ClassVar[str] = "speech_started"
    time_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class SpeechEnded:
    """Speech ended at `time_s`, `PAUSE_S` ago.

    Without smoothing, the events of its segments came before. With smoothing, some may come up to `smooth_s`
    later.
    """

    kind: ClassVar[str] = "speech_ended"
    time_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dict(self.__dict__)


Event = SpeechStarted | WindowUpdate | Segment | SpeechEnded


class DetectorStream(Protocol):
    """A stream of speech probabilities, one for each `SPEECH_FRAME_SAMPLES`; `SpeechStream` is one."""

    def push(self, waveform: Waveform) -> npt.NDArray[np.float32]:
        """Return the probabilities (frames,) that are known after this chunk (samples,)."""

    def finish(self) -> npt.NDArray[np.float32]:
        """Return the probabilities (frames,) of the last frames."""


class Detector(Protocol):
    """A speech detector; `emodistill.audio.SpeechDetector` is one."""

    def stream(self) -> DetectorStream:
        """Open a stream."""


class ScorerStream:
    """A stream of audio whose windows a scorer classifies: chunks in, events out, in bounded memory."""

    def __init__(
        self, scorer: WindowScorer, rate_hz: int = SAMPLE_RATE, detector: Detector | None = None
    ) -> None:
        """Open a stream. `rate_hz` and `detector` are those of `StreamingRecognizer`."""
        self._scorer, self._track = scorer, SegmentTrack(scorer)
        self._mono = MonoStream(rate_hz)
        self._detector = (detector or SpeechDetector()).stream()
        self._rest = np.zeros(0, dtype=np.float32)  # samples that are not yet a whole block
        self._num_frames = 0  # whose speech probability is known
        # The present stretch of speech, in samples. Pauses below PAUSE_S belong to it.
        self._start = self._until = 0
        self._speaking = False
        self._stretch: Stretch | None = None  # set once the speech is as long as MIN_STRETCH_S
        self._finished = False

    @property
    def time_s(self) -> float:
        """The length of the audio so far, at 16 kHz, in seconds."""
        return (self._scorer.num_samples + len(self._rest)) / SAMPLE_RATE

    def push(self, chunk: npt.ArrayLike) -> list[Event]:
        """Return the new events after a chunk: samples (n,) or (n, channels), int or float, of any length.

        The stream averages all channels, also silent ones, because it does not know which will make a sound.

        Raises `AudioError` for NaN, Inf, another shape or number of channels, and after `finish`. Such a
        chunk is left out as a whole. The events and the audio before it are kept, and the stream can
        continue.
        """
        return list(self._add_samples(self._mono.push(chunk)))

    def finish(self) -> list[Event]:
        """Close the stream, and return the events up to the end of the audio."""
        if self._finished:
            return []
        self._finished = True
        events = list(self._add_samples(self._mono.finish()))
        self._scorer.append(self._rest)
        for probability in (*self._detector.push(self._rest), *self._detector.finish()):
            events += self._add_frame(float(probability))
        self._rest = self._rest[:0]
        if self._speaking:
            events += self._end_speech()
        return [*events, *self._track.finish()]

    def _add_samples(self, piece: Waveform) -> Iterator[Event]:
        """Add samples at 16 kHz, in blocks of the absolute grid."""
        waveform = np.concatenate([self._rest, piece])
        whole_blocks = len(waveform) - len(waveform) % BLOCK_SAMPLES
        self._rest = waveform[whole_blocks:].copy()
        for start in range(0, whole_blocks, BLOCK_SAMPLES):
            block = waveform[start : start + BLOCK_SAMPLES]
            self._scorer.append(block)
            for probability in self._detector.push(block):
                yield from self._add_frame(float(probability))
            self._forget()

    def _add_frame(self, probability: float) -> Iterator[Event]:
        """Add a frame. Speech starts at SPEECH_ON, and continues down to SPEECH_OFF."""
        begin = self._num_frames * SPEECH_FRAME_SAMPLES
        end = min(begin + SPEECH_FRAME_SAMPLES, self._scorer.num_samples)
        self._num_frames += 1
        follows_speech = self._speaking and self._until == begin
        if probability >= (SPEECH_OFF if follows_speech else SPEECH_ON):
            if not self._speaking:
                self._speaking, self._start = True, begin
            self._until = end
            yield from self._continue_speech()
        elif self._speaking and end - self._until >= round(PAUSE_S * SAMPLE_RATE):
            yield from self._end_speech()
        if not self._speaking:
            yield from self._track.decide_before(end)

    def _continue_speech(self) -> Iterator[Event]:
        if self._stretch is None and self._until - self._start >= round(MIN_STRETCH_S * SAMPLE_RATE):
            self._stretch = Stretch(self._scorer, self._start, self._track)
            yield SpeechStarted(self._start / SAMPLE_RATE)
        if self._stretch is not None:
            yield from self._stretch.extend(self._until)

    def _end_speech(self) -> Iterator[Event]:
        if self._stretch is not None:
            yield from self._stretch.close(self._until)
            yield SpeechEnded(self._until / SAMPLE_RATE)
        self._speaking, self._stretch = False, None

    def _forget(self) -> None:
        """Drop the audio before the first sample that a window may still need."""
        needed = self._num_frames * SPEECH_FRAME_SAMPLES
        if self._speaking:
            # Speech that is not yet a stretch has had no window, so all of it may be needed.
            needed = self._start if self._stretch is None else self._stretch.first_needed_sample(self._until)
        self._scorer.forget(needed)


class StreamingRecognizer(ScorerStream):
    """Recognises the emotions of a stream of any length, in bounded memory.

    Any chunking of the same samples gives the same events, and `emodistill.timeline` gives the same segments
    for a file of them. A stream is not thread-safe, but one recogniser can serve many streams.
    """

    # Long: each parameter is an option.
    def __init__(
        self,
        recognizer: WindowClassifier,
        rate_hz: int,
        *,
        hop_s: float = HOP_S,
        window_s: float = WINDOW_S,
        smooth_s: float = SMOOTH_S,
        min_duration_s: float = MIN_DURATION_S,
        detector: Detector | None = None,
        voice: Voice | None = None,
        adapt: Adapt = "none",
    ) -> None:
        """Open a stream.

        Args:
            recognizer: classifies the windows, and answers for the segments.
            rate_hz: of the chunks, at least 2000.
            hop_s: from one window to the next, at least 0.1.
            window_s: the length of a window, a whole number of hops.
            smooth_s: how strongly changes of emotion are smoothed, 0 to 60. Segments come up to this much
                later. 0: each stretch of speech stands alone, and its segments come before it has ended.
            min_duration_s: the least speech of an emotion, if there is another one, 0 to 60.
            detector: finds the speech; None: the packaged one.
            voice: of the speaker, from `Recognizer.enrol`. All windows are compared with its usual.
            adapt: "running": each window is compared with the speech before it. "none": without a voice, or
                with `voice`.

        Raises:
            AudioError: the rate is below 2000 Hz.
            ConfigError: the hop is too short, or the window is not a whole number of hops. `smooth_s` or
                `min_duration_s` is out of range. `adapt` has another value, or there is a voice with it.
            ModelError: the model has no emotions or no voices, or the voice is one of another model.
        """
        check_emotions(recognizer)
        check_adaptation(recognizer, voice, adapt, STREAM_ADAPT)
        options = SegmentationOptions(hop_s, window_s, smooth_s, min_duration_s)
        super().__init__(window_scorer(recognizer, options, voice, adapt), rate_hz, detector)
        self.recognizer = recognizer
