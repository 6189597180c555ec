"""Emotion while it is spoken: chunks of audio in, events out. Files go through the same stream, block by block.

    chunks → 16 kHz mono → speech or not, by hysteresis → segments of each stretch of speech (`segments.py`)

Nothing looks at more than a fixed stretch ahead, and every step works on absolute sample positions, so
how the audio was cut into chunks leaves no trace in the events.
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
from emodistill.inference.segmentation import (
    HOP_S,
    WINDOW_S,
    Segment,
    Stretch,
    WindowClassifier,
    WindowScorer,
    WindowUpdate,
)

__all__ = [
    "Detector",
    "DetectorStream",
    "Event",
    "Segment",
    "SpeechEnded",
    "SpeechStarted",
    "StreamingRecognizer",
    "WindowUpdate",
]  # fmt: skip

PAUSE_S = 0.22  # a silence as long as this ends a stretch; told within 0.7 s, as the detector needs 0.4 s
MIN_STRETCH_S = 0.2  # less is a click or a breath


@dataclass(frozen=True)
class SpeechStarted:
    """Speech was heard, and it lasts; `time_s` is where it began."""

    kind: ClassVar[str] = "speech_started"
    time_s: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class SpeechEnded:
    """Speech has been over for `PAUSE_S`; `time_s` is where it ended. Its segments came before."""

    kind: ClassVar[str] = "speech_ended"
    time_s: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(self.__dict__)


Event = SpeechStarted | WindowUpdate | Segment | SpeechEnded


class DetectorStream(Protocol):
    """Speech probabilities of frames of `FRAME_SAMPLES`, as `emodistill.audio.speech_activity.SpeechStream` gives them."""

    def push(self, waveform: Waveform) -> npt.NDArray[np.float32]:
        """The probabilities (frames,) that are now decided."""

    def finish(self) -> npt.NDArray[np.float32]:
        """The rest."""


class Detector(Protocol):
    """Anything that opens such streams."""

    def stream(self) -> DetectorStream:
        """A stream at its beginning."""


class StreamingRecognizer:
    """Emotions of a stream of any length, in bounded memory.

    Any chunking of the same samples gives the same events, and `emodistill.timeline` gives the same
    segments for a file of them. Not thread-safe; one recogniser may serve many streams.
    """

    def __init__(
        self,
        recognizer: WindowClassifier,
        rate_hz: int = SAMPLE_RATE,
        *,
        hop_s: float = HOP_S,
        window_s: float = WINDOW_S,
        detector: Detector | None = None,
    ) -> None:
        """Open a stream.

        Args:
            recognizer: judges the windows; its `emotions` and `min_confidence` hold for the segments.
            rate_hz: of the chunks.
            hop_s: from one window to the next.
            window_s: the length of a window, a whole number of hops.
            detector: of speech; None: the one that comes with the package.

        Raises:
            AudioError: a rate that is not above 0.
            ConfigError: a hop or window that does not fit.
        """
        self.recognizer = recognizer
        self._scorer = WindowScorer(recognizer, hop_s, window_s)
        self._mono = MonoStream(rate_hz)
        self._frames = (detector or SpeechDetector()).stream()
        self._rest = np.zeros(0, dtype=np.float32)  # less than a block
        self._num_frames = 0  # decided
        self._start = self._until = 0  # samples: the speech that is going on, with pauses below PAUSE_S
        self._speaking = False
        self._stretch: Stretch | None = None  # of that speech, once it is long enough to be speech
        self._finished = False

    @property
    def time_s(self) -> float:
        """How much audio has been taken in, at 16 kHz, in seconds."""
        return (self._scorer.num_samples + len(self._rest)) / SAMPLE_RATE

    def push(self, chunk: npt.ArrayLike) -> list[Event]:
        """What is new after a chunk: samples (n,) or (n, channels), int or float, of any length.

        Raises `AudioError` for NaN, Inf, another shape or number of channels, and after `finish`. Such a
        chunk is left out as a whole; events and audio before it are not lost, and the stream can go on.
        """
        return list(self._hear(self._mono.push(chunk)))

    def finish(self) -> list[Event]:
        """The events up to the end of the audio. Nothing can be pushed after it."""
        if self._finished:
            return []
        self._finished = True
        events = list(self._hear(self._mono.finish()))
        self._scorer.append(self._rest)
        for probability in (*self._frames.push(self._rest), *self._frames.finish()):
            events += self._frame(float(probability))
        self._rest = self._rest[:0]
        if self._speaking:
            events += self._end_speech()
        return events

    def _hear(self, piece: Waveform) -> Iterator[Event]:
        """Go on, in blocks of the absolute grid."""
        waveform = np.concatenate([self._rest, piece])
        whole = len(waveform) - len(waveform) % BLOCK_SAMPLES
        self._rest = waveform[whole:].copy()
        for start in range(0, whole, BLOCK_SAMPLES):
            block = waveform[start : start + BLOCK_SAMPLES]
            self._scorer.append(block)
            for probability in self._frames.push(block):
                yield from self._frame(float(probability))
            self._forget()

    def _frame(self, probability: float) -> Iterator[Event]:
        """Take in one frame: speech begins at SPEECH_ON, and goes on while above SPEECH_OFF."""
        begin = self._num_frames * SPEECH_FRAME_SAMPLES
        end = min(begin + SPEECH_FRAME_SAMPLES, self._scorer.num_samples)
        self._num_frames += 1
        going_on = self._speaking and self._until == begin
        if probability >= (SPEECH_OFF if going_on else SPEECH_ON):
            if not self._speaking:
                self._speaking, self._start = True, begin
            self._until = end
            yield from self._go_on()
        elif self._speaking and end - self._until >= round(PAUSE_S * SAMPLE_RATE):
            yield from self._end_speech()

    def _go_on(self) -> Iterator[Event]:
        if self._stretch is None and self._until - self._start >= round(MIN_STRETCH_S * SAMPLE_RATE):
            self._stretch = Stretch(self._scorer, self._start)
            yield SpeechStarted(self._start / SAMPLE_RATE)
        if self._stretch is not None:
            yield from self._stretch.reach(self._until)

    def _end_speech(self) -> Iterator[Event]:
        if self._stretch is not None:
            yield from self._stretch.close(self._until)
            yield SpeechEnded(self._until / SAMPLE_RATE)
        self._speaking, self._stretch = False, None

    def _forget(self) -> None:
        """Let go of the audio that no window can ask for any more."""
        needed = self._num_frames * SPEECH_FRAME_SAMPLES
        if self._speaking:  # what may yet be too short for speech has had no window so far
            needed = self._start
            if self._stretch is not None:
                needed = max(needed, self._until - self._scorer.window)
        self._scorer.forget(needed)
