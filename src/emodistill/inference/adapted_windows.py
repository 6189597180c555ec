"""Windows that are compared with a voice: a given one, or one that is learned from the recording itself.

The voice of a recording is the mean of the statistics of its speech. A window counts by the seconds that no
earlier window covers, so windows that overlap count no speech twice. The voice is shrunk by `shrinkage`, with
one utterance for each `UTTERANCE_S` of speech.

There are three ways to learn it:

- `recording`: in two passes. The first one runs the model on each window and keeps the statistics, not the
  audio. The second one compares all windows with the mean, and runs the head of the model alone.
- `auto`: as `recording`, if the recording then evidently has several emotions; otherwise without a voice.
- `running`: in one pass. A window is compared with the speech before it, that is with the windows that end
  where it begins, or earlier. This is what a stream can do.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.errors import ConfigError, one_of
from emodistill.inference.model_card import Card
from emodistill.inference.segmentation import VOICE_CHANGE_COST_PER_S, WindowScore, WindowScorer
from emodistill.inference.segmentation_options import SegmentationOptions
from emodistill.inference.voices import (
    UTTERANCE_S,
    Vector,
    Voice,
    check_voice,
    ensure_voices,
    shrinkage,
)
from emodistill.inference.window_classifier import WindowClassifier, WindowOutput

Adapt = Literal["none", "auto", "recording", "running"]
ADAPT: tuple[Adapt, ...] = ("none", "auto", "recording", "running")  # of a timeline
# With "auto", a recording is compared with its own speech if this makes its emotions probable: their
# geometric mean over time is at least this many times chance. Where one emotion fills a recording, this
# emotion is the usual. What is left is noise, which no smooth path of emotions fits.
MIXED_FIT = 1.3
STREAM_ADAPT: tuple[Adapt, ...] = ("none", "running")


@runtime_checkable
class VoiceClassifier(WindowClassifier, Protocol):
    """What windows with a voice need of a recogniser; `emodistill.Recognizer` has it."""

    @property
    def card(self) -> Card:
        """The description of the model."""

    def classify(self, waveform: Waveform, shrunk: Vector | None = None, /) -> WindowOutput:
        """Return what the model predicts for a waveform (samples,). The model subtracts `shrunk` (dim,)."""

    def classify_statistics(self, statistics: Vector, shrunk: Vector | None = None, /) -> WindowOutput:
        """Return what the head of the model predicts for statistics (windows, dim)."""


@dataclass(frozen=True)
class KnownSpeech:
    """The speech that a voice of a recording is made of."""

    weighted: npt.NDArray[np.float64]  # the sum of statistics times samples, (dim,)
    num_samples: int = 0

    @classmethod
    def none(cls, dim: int) -> "KnownSpeech":
        """Return no speech, for statistics of `dim` numbers."""
        return cls(np.zeros(dim))

    def with_window(self, statistics: Vector, num_samples: int) -> "KnownSpeech":
        """Return this speech and that of one window: its statistics (parts, dim), and the samples it adds."""
        mean = statistics.mean(axis=0, dtype=np.float64)
        return KnownSpeech(self.weighted + num_samples * mean, self.num_samples + num_samples)

    @property
    def voice_utterances(self) -> int:
        """How many utterances the speech counts for, rounded; 0 only without speech."""
        return max(1, round(self._utterances)) if self.num_samples else 0

    def shrunk(self) -> Vector | None:
        """Return what the model subtracts, (dim,); None without speech."""
        if not self.num_samples:
            return None
        mean = self.weighted / self.num_samples
        return np.asarray(shrinkage(self._utterances) * mean, dtype=np.float32)

    @property
    def _utterances(self) -> float:
        return self.num_samples / SAMPLE_RATE / UTTERANCE_S


class VoiceScorer(WindowScorer):
    """Compares all windows with a given voice."""

    change_cost_per_s = VOICE_CHANGE_COST_PER_S

    def __init__(self, recognizer: VoiceClassifier, options: SegmentationOptions, voice: Voice) -> None:
        super().__init__(recognizer, options)
        self._classifier, self._voice = recognizer, voice

    def score(self, begin: int, end: int, new_samples: int = 0) -> WindowScore:
        """Return the score of the window between two samples."""
        output = self._classifier.classify(self.between(begin, end), self._voice.shrunk())
        return WindowScore.of(output, self._voice.utterances)


class RunningScorer(WindowScorer):
    """Compares each window with the speech before it. It takes the windows in order of time."""

    change_cost_per_s = VOICE_CHANGE_COST_PER_S
    learns_voice = True

    def __init__(self, recognizer: VoiceClassifier, options: SegmentationOptions) -> None:
        super().__init__(recognizer, options)
        assert recognizer.card.voice_dim is not None
        self._classifier = recognizer
        self._past = KnownSpeech.none(recognizer.card.voice_dim)
        # Windows that the next ones may still overlap: their end, statistics, new samples.
        self._recent: deque[tuple[int, Vector, int]] = deque()

    def score(self, begin: int, end: int, new_samples: int = 0) -> WindowScore:
        """Return the score of the window between two samples, and keep its statistics for later ones."""
        while self._recent and self._recent[0][0] <= begin:
            _, earlier, num_samples = self._recent.popleft()
            self._past = self._past.with_window(earlier, num_samples)
        output = self._classifier.classify(self.between(begin, end), self._past.shrunk())
        assert output.statistics is not None
        if new_samples:
            self._recent.append((end, output.statistics, new_samples))
        return WindowScore.of(output, self._past.voice_utterances)


class FirstPassScorer(WindowScorer):
    """Scores windows without a voice, and keeps their statistics for a second pass."""

    learns_voice = True  # It also makes the given segments of the second pass.

    def __init__(
        self, recognizer: VoiceClassifier, options: SegmentationOptions, may_reject: bool = False
    ) -> None:
        """Start without audio. With `may_reject`, the second pass counts only if `is_mixed` accepts it."""
        super().__init__(recognizer, options)
        assert recognizer.card.voice_dim is not None
        self.may_reject = may_reject
        self.classifier = recognizer
        self.statistics: dict[tuple[int, int], Vector] = {}  # span of samples -> (parts, dim)
        self.known = KnownSpeech.none(recognizer.card.voice_dim)  # the speech of all windows so far

    def score(self, begin: int, end: int, new_samples: int = 0) -> WindowScore:
        """Return the score of the window between two samples, and keep its statistics."""
        output = self.classifier.classify(self.between(begin, end))
        assert output.statistics is not None
        self.statistics[begin, end] = output.statistics
        if new_samples:
            self.known = self.known.with_window(output.statistics, new_samples)
        return WindowScore.of(output)

    def speech_of(self, windows: Iterable[tuple[int, int, int]]) -> KnownSpeech:
        """Return the speech of some windows of this pass: begin, end, and the samples that each adds."""
        assert self.classifier.card.voice_dim is not None
        known = KnownSpeech.none(self.classifier.card.voice_dim)
        for begin, end, new_samples in windows:
            known = known.with_window(self.statistics[begin, end], new_samples)
        return known

    def second_pass(self, known: KnownSpeech) -> "SecondPassScorer":
        """Return the scorer that compares the same windows with known speech."""
        return SecondPassScorer(self, known)


class SecondPassScorer(WindowScorer):
    """Compares the windows of a first pass with known speech. It runs the head of the model alone."""

    change_cost_per_s = VOICE_CHANGE_COST_PER_S
    learns_voice = True

    def __init__(self, first_pass: FirstPassScorer, known: KnownSpeech) -> None:
        super().__init__(first_pass.classifier, first_pass.options)
        self._first_pass = first_pass
        self._shrunk, self._voice_utterances = known.shrunk(), known.voice_utterances

    def score(self, begin: int, end: int, new_samples: int = 0) -> WindowScore:
        """Return the score of a window of the first pass."""
        statistics = self._first_pass.statistics[begin, end]
        output = self._first_pass.classifier.classify_statistics(statistics, self._shrunk)
        return WindowScore.of(output, self._voice_utterances)


def window_scorer(
    recognizer: WindowClassifier, options: SegmentationOptions, voice: Voice | None, adapt: Adapt
) -> WindowScorer:
    """Return the scorer of the windows of one recording or stream; for `recording`, that of the first pass.

    `check_adaptation` has checked the voice and `adapt`.
    """
    if voice is None and adapt == "none":
        return WindowScorer(recognizer, options)
    assert isinstance(recognizer, VoiceClassifier)
    if voice is not None:
        return VoiceScorer(recognizer, options, voice)
    if adapt == "running":
        return RunningScorer(recognizer, options)
    return FirstPassScorer(recognizer, options, may_reject=adapt == "auto")


def check_adaptation(
    recognizer: WindowClassifier, voice: Voice | None, adapt: str, allowed: Sequence[str] = ADAPT
) -> None:
    """Raise an error if a recogniser cannot compare windows in this way.

    Raises:
        ConfigError: another `adapt` than those allowed, a voice together with `adapt`, or a recogniser that
            has no methods for voices.
        ModelError: the model has no voices, or the voice is one of another model.
    """
    if adapt not in allowed:
        hint = "; a stream cannot know the whole recording" if adapt in ADAPT else ""
        raise ConfigError(one_of("adapt", adapt, allowed) + hint)
    if voice is None and adapt == "none":
        return
    if voice is not None and adapt != "none":
        raise ConfigError(
            f"a voice and adapt '{adapt}' exclude each other: windows are compared with the given voice, or "
            "with one that is learned from the recording; give one of them"
        )
    if not isinstance(recognizer, VoiceClassifier):
        raise ConfigError(
            f"expected an emodistill.Recognizer for a voice or adapt '{adapt}', got "
            f"{type(recognizer).__module__}.{type(recognizer).__qualname__}"
        )
    if voice is not None:
        check_voice(voice, recognizer.card)
    ensure_voices(recognizer.card)
