"""From one stretch of speech to its segments.

    windows, one ending at every hop → log-probabilities
    → mean over the windows that cover a cell (one hop)
    → the path of emotions with the highest score (`emotion_path`) → segments

A stretch is continuous speech: the pauses in it are shorter than `streaming.PAUSE_S`. With smoothing, one
path goes through all stretches of a recording. All positions are samples at 16 kHz from the beginning of the
audio.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.inference.emotion_path import EmotionPath, Values
from emodistill.inference.prediction import OPTIONAL, DimensionsSource, Surety
from emodistill.inference.segmentation_options import HOP_S, SegmentationOptions
from emodistill.inference.window_classifier import WindowClassifier, WindowOutput

DEFAULT_OPTIONS = SegmentationOptions()
# Nats of log-probability, summed over cells of HOP_S, that a change of emotion must gain.
CHANGE_COST = 1.5
# More nats for each second of smooth_s, for windows without and with a voice: a voice gives sharper
# probabilities. All of them were chosen with benchmarks/conversations.py.
CHANGE_COST_PER_S = 0.75
VOICE_CHANGE_COST_PER_S = 1.5
MIN_RUN_CELLS = 2  # cells that an emotion lasts at least, if there is another one
# Without smoothing, the best path so far decides the oldest cell after this many cells.
MAX_UNDECIDED_CELLS = 16
MIN_PROBABILITY = 1e-3  # lower ones are raised to this, so that no single window can exclude an emotion


@dataclass(frozen=True)
class WindowUpdate:
    """The emotions of the latest window of a stretch, averaged with those of the window before it.

    Updates are early guesses. During the first `window_s` of a stretch the windows are shorter, and segments
    do not use these short windows.
    """

    kind: ClassVar[str] = "update"
    start_s: float
    end_s: float
    probabilities: dict[str, float]
    voice_utterances: int | None = None  # of the voice that the latest window was compared with
    dimensions: dict[str, float] | None = None  # such as arousal and valence, 0 to 1
    dimensions_from: DimensionsSource | None = None  # computed from the emotions, or by a head of the model
    emotion: str | None = None  # that a segment would have now, smoothed as segments are; None: not sure

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; `voice_utterances` and the fields after it are left out where None.

        `WindowUpdate(**update.as_dict())` equals the update.
        """
        return _plain_data(self, ("voice_utterances", "dimensions", "dimensions_from", "emotion"))


@dataclass(frozen=True)
class Segment:
    """A part of a recording with one emotion: the most probable one, or None where it is not sure enough.

    A given segment without audio has no emotion, no confidence and no probabilities.

    `voice_utterances` is the size of the voice that the segment was compared with; None: no voice. A running
    voice grows, and this is its size at the last window of the segment; 0: nothing was known yet.
    """

    kind: ClassVar[str] = "segment"
    start_s: float
    end_s: float
    emotion: str | None
    confidence: float | None  # the probability of the emotion, 0 to 1; without smoothing the highest one
    probabilities: dict[str, float]
    speaker: str | None = None  # of a given segment
    voice_utterances: int | None = None
    surety: Surety | None = None  # by how often such answers are right; None: not known
    dimensions: dict[str, float] | None = None  # such as arousal and valence, 0 to 1
    dimensions_from: DimensionsSource | None = None  # computed from the emotions, or by a head of the model
    channel: int | None = None  # of the recording, from 0; None: all channels mixed
    text: str | None = None  # of a given segment

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, keys in a fixed order; what is optional and None is left out.

        Optional are `speaker` and all fields after it. `Segment(**segment.as_dict())` equals the segment.
        """
        return _plain_data(self, ("speaker", "voice_utterances", *OPTIONAL, "text"))


def _plain_data(event: WindowUpdate | Segment, optional: Sequence[str]) -> dict[str, Any]:
    """Return the fields of an event for JSON, without the optional ones that are None."""
    data = {**event.__dict__, "probabilities": dict(event.probabilities)}
    return {name: value for name, value in data.items() if name not in optional or value is not None}


class WindowScore(NamedTuple):
    """The score of one window."""

    log_probabilities: Values  # (emotions,)
    voice_utterances: int | None = None  # of the voice that the window was compared with; None: no voice
    dimensions: Values | None = None  # (dimensions,) of a head, 0 to 1

    @classmethod
    def of(cls, output: WindowOutput, voice_utterances: int | None = None) -> "WindowScore":
        """Return the score of a window from what the model predicts for it."""
        return cls(log_probabilities(output.probabilities), voice_utterances, output.dimensions)


class Windows:
    """The windows of a stretch whose end is not known yet, as spans (begin, end) of samples.

    A window ends at every hop from the start on, and the last one ends with the stretch. The first windows
    are shorter. Only windows of full length count for segments, unless the whole stretch is shorter than a
    window.
    """

    def __init__(self, start: int, window: int, hop: int) -> None:
        self._start, self._window, self._hop = start, window, hop
        self._end = start  # of the last window

    def up_to(self, sample: int) -> Iterator[tuple[int, int]]:
        """Yield the windows that end at this sample or before it, each only once."""
        while self._end + self._hop <= sample:
            self._end += self._hop
            yield max(self._start, self._end - self._window), self._end

    def last(self, end: int) -> tuple[int, int] | None:
        """Return the window that ends with the stretch; None if a window of full length already does."""
        if self._end == end and end - self._start >= self._window:
            return None
        return max(self._start, end - self._window), end


class WindowScorer:
    """Keeps the recent audio of one stream, and runs the model on windows of it, without a voice.

    The subclasses in `adapted_windows` compare the windows with a voice.
    """

    change_cost_per_s: ClassVar[float] = CHANGE_COST_PER_S
    learns_voice: ClassVar[bool] = False  # whether the windows are compared with their own recording

    def __init__(self, recognizer: WindowClassifier, options: SegmentationOptions = DEFAULT_OPTIONS) -> None:
        """Start without audio."""
        self.options = options
        self.hop, self.window = (round(length * SAMPLE_RATE) for length in (options.hop_s, options.window_s))
        self.num_samples = 0  # received
        self._recognizer = recognizer
        self._blocks: deque[tuple[int, Waveform]] = deque()  # first sample, samples

    @property
    def num_emotions(self) -> int:
        """How many emotions the recogniser chooses from."""
        return len(self._recognizer.emotions)

    def append(self, block: Waveform) -> None:
        """Add the next block (samples,)."""
        if len(block):
            self._blocks.append((self.num_samples, block))
            self.num_samples += len(block)

    def forget(self, before: int) -> None:
        """Drop the blocks that end before this sample."""
        while self._blocks and self._blocks[0][0] + len(self._blocks[0][1]) <= before:
            self._blocks.popleft()

    def between(self, begin: int, end: int) -> Waveform:
        """Return the waveform between two samples, (end - begin,)."""
        parts = [
            block[max(0, begin - first) : end - first]
            for first, block in self._blocks
            if first < end and begin < first + len(block)
        ]
        return np.concatenate(parts)

    def score(self, begin: int, end: int, new_samples: int = 0) -> WindowScore:
        """Return the score of the window between two samples.

        `new_samples` is how much of the window no earlier window of its speech has contributed to a voice; 0:
        this window contributes nothing.
        """
        return WindowScore.of(self._recognizer.classify(self.between(begin, end)))

    def probabilities(self, log_probabilities: Values) -> dict[str, float]:
        """Return probabilities by emotion, summing to 1, for mean log-probabilities (emotions,)."""
        values = np.exp(log_probabilities - log_probabilities.max())
        values /= values.sum()
        return dict(zip(self._recognizer.emotions, map(float, values), strict=True))

    def _dimensions(self, score: WindowScore) -> dict[str, float] | None:
        """Return the dimensions of a head by name; None for a model without them."""
        if score.dimensions is None:
            return None
        return dict(zip(self._recognizer.dimensions, map(float, score.dimensions), strict=True))

    def segment(
        self, begin: int, end: int, score: WindowScore, speaker: str | None = None, chosen: int | None = None
    ) -> Segment:
        """Return the segment between two samples with its mean score.

        Its emotion is `chosen`, an index, or else the most probable one. It has none where it is not sure
        enough.
        """
        probabilities = self.probabilities(score.log_probabilities)
        emotion = None if chosen is None else self._recognizer.emotions[chosen]
        has_voice = score.voice_utterances is not None
        answer = self._recognizer.answer(
            probabilities, has_voice, emotion, self.learns_voice, self._dimensions(score)
        )
        return Segment(
            begin / SAMPLE_RATE,
            end / SAMPLE_RATE,
            probabilities=probabilities,
            speaker=speaker,
            voice_utterances=score.voice_utterances,
            **answer.__dict__,
        )

    def update(self, begin: int, end: int, score: WindowScore, chosen: int | None = None) -> WindowUpdate:
        """Return the update of the window between two samples with its score.

        Its emotion is `chosen`, an index, or else the most probable one.
        """
        probabilities = self.probabilities(score.log_probabilities)
        emotion = None if chosen is None else self._recognizer.emotions[chosen]
        has_voice = score.voice_utterances is not None
        answer = self._recognizer.answer(probabilities, has_voice, emotion, False, self._dimensions(score))
        return WindowUpdate(
            begin / SAMPLE_RATE, end / SAMPLE_RATE, probabilities, score.voice_utterances,
            answer.dimensions, answer.dimensions_from, answer.emotion,
        )  # fmt: skip


def log_probabilities(probabilities: Values) -> Values:
    """Return log-probabilities (emotions,), none below that of `MIN_PROBABILITY`."""
    return np.asarray(np.log(np.maximum(probabilities, MIN_PROBABILITY)))


def mean_score(scores: Sequence[WindowScore]) -> WindowScore:
    """Return the mean score of several windows in order of time, with the voice of the last one."""
    values = np.mean([score.log_probabilities for score in scores], axis=0)
    dimensions = [score.dimensions for score in scores if score.dimensions is not None]
    return WindowScore(
        values, scores[-1].voice_utterances, np.mean(dimensions, axis=0) if dimensions else None
    )


class SegmentTrack:
    """Makes segments of the cells of one recording or stream, in order of time.

    A segment ends where the emotion changes, or where the speech pauses.
    """

    def __init__(
        self, scorer: WindowScorer, smooth_s: float | None = None, max_wait_s: float | None = None
    ) -> None:
        """Start without cells.

        Args:
            scorer: of the cells. It also makes the segments, and its options hold.
            smooth_s: in place of that of the options.
            max_wait_s: how much later audio a cell waits for; None: `smooth_s`.
        """
        self._scorer, options = scorer, scorer.options
        smooth_s = options.smooth_s if smooth_s is None else smooth_s
        self._is_smooth = smooth_s > 0
        self._max_wait = round((smooth_s if max_wait_s is None else max_wait_s) * SAMPLE_RATE)
        min_cells = max(MIN_RUN_CELLS, math.ceil(round(options.min_duration_s / options.hop_s, 6)))
        cost = CHANGE_COST + scorer.change_cost_per_s * smooth_s
        self._path = EmotionPath(cost, min_cells, None if self._is_smooth else MAX_UNDECIDED_CELLS)
        self._undecided: deque[_Cell] = deque()
        self._run: _Run | None = None  # the decided cells that are no segment yet
        self._last: _Run | None = None  # the last segment
        self._forgetting = 1 / (smooth_s * SAMPLE_RATE) if self._is_smooth else 0.0  # for each sample
        self._fit, self._num_samples = 0.0, 0  # of all decided cells: log-probability times samples, samples
        self._emotions: set[int] = set()  # of all decided cells
        self._paused_at = -1  # the end of the last stretch that is over

    def add(self, begin: int, end: int, score: WindowScore) -> Iterator[Segment]:
        """Add the next cell; yield the segments that are now known."""
        yield from self.decide_before(begin)
        self._undecided.append(_Cell(begin, end, score))
        gains = score.log_probabilities * ((end - begin) / (HOP_S * SAMPLE_RATE))
        yield from self._add_decided(self._path.push(gains))

    def pause(self, end: int) -> Iterator[Segment]:
        """End a stretch at this sample; yield the segments that are now known, all of them if not smooth."""
        self._paused_at = end
        if not self._is_smooth:
            yield from self._add_decided(self._path.finish())
        elif not self._undecided:
            yield from self._close_run()

    def decide_before(self, begin: int) -> Iterator[Segment]:
        """Decide the cells that waited long enough, if the next cell begins at this sample or later."""
        while self._undecided and begin - self._undecided[0].end >= self._max_wait and self._is_smooth:
            yield from self._add_decided(self._path.decide_oldest())

    def finish(self) -> Iterator[Segment]:
        """Yield the remaining segments."""
        yield from self._add_decided(self._path.finish())

    def newest_emotion(self) -> int | None:
        """Return the emotion of the newest cell as far as it is known now; None without cells."""
        return self._path.newest()

    def is_mixed(self, least: float) -> bool:
        """Return whether the path has several emotions, with a mean log-probability of at least `least`."""
        return len(self._emotions) > 1 and self._fit / self._num_samples >= least

    def _add_decided(self, emotions: Sequence[int]) -> Iterator[Segment]:
        """Add the emotions of the oldest undecided cells."""
        for emotion in emotions:
            cell = self._undecided.popleft()
            self._fit += float(cell.score.log_probabilities[emotion]) * (cell.end - cell.begin)
            self._num_samples += cell.end - cell.begin
            self._emotions.add(emotion)
            if self._run is not None and (self._run.emotion != emotion or self._run.end != cell.begin):
                yield from self._close_run()
            if self._run is None:
                self._run = _Run(cell.begin, emotion, self._memory_of(emotion))
            self._run.extend(cell.end, cell.score, self._forgetting)
            if cell.end == self._paused_at:
                yield from self._close_run()

    def _memory_of(self, emotion: int) -> "_Mean | None":
        """Return the mean of the last segment, if it has the same emotion and the track is smooth."""
        return self._last.mean if self._is_smooth and self._last and self._last.emotion == emotion else None

    def _close_run(self) -> Iterator[Segment]:
        if self._run is not None:
            yield self._run.segment(self._scorer)
        self._run, self._last = None, self._run


class _Cell(NamedTuple):
    """One hop of speech, or the rest of a stretch: its first sample, its end, its score."""

    begin: int
    end: int
    score: WindowScore


class _Mean(NamedTuple):
    """The mean score of cells, with the voice of the last one, and the samples that it counts for."""

    score: WindowScore
    num_samples: float

    def with_earlier(self, earlier: WindowScore, num_samples: float) -> "_Mean":
        """Return the mean of this and an earlier score, which counts for so many samples."""
        (values, voice_utterances, dimensions), total = self.score, self.num_samples + num_samples
        own, other = self.num_samples / total, num_samples / total
        if dimensions is not None and earlier.dimensions is not None:
            dimensions = dimensions * own + earlier.dimensions * other
        values = values * own + earlier.log_probabilities * other
        return _Mean(WindowScore(values, voice_utterances, dimensions), total)


class _Run:
    """Consecutive cells of one emotion, which become one segment.

    With smoothing, its probabilities also count the segments of this emotion just before it: the less, the
    longer ago.
    """

    def __init__(self, begin: int, emotion: int, memory: _Mean | None) -> None:
        self.begin = self.end = begin  # samples
        self.emotion = emotion  # as an index
        self.mean = memory

    def extend(self, end: int, score: WindowScore, forgetting: float) -> None:
        """Add the next cell, which ends at this sample. The memory fades at this rate for each sample."""
        mean = _Mean(score, end - self.end)
        if self.mean is not None:
            old = self.mean.num_samples * math.exp(-mean.num_samples * forgetting)
            mean = mean.with_earlier(self.mean.score, old)
        self.mean, self.end = mean, end

    def segment(self, scorer: WindowScorer) -> Segment:
        """Return the segment of these cells."""
        assert self.mean is not None
        return scorer.segment(self.begin, self.end, self.mean.score, chosen=self.emotion)


class Stretch:
    """One stretch of speech that is not over yet: yields its window updates, and the track's segments.

    A cell is one hop. Its log-probabilities are the mean over the windows that cover it. So a cell is known
    once the window that begins with it has been classified.
    """

    def __init__(self, scorer: WindowScorer, start: int, track: SegmentTrack) -> None:
        self._scorer, self._start, self._track = scorer, start, track
        self._windows = Windows(start, scorer.window, scorer.hop)
        self._cells_per_window = scorer.window // scorer.hop
        # Windows of full length: the cell that they begin with, score. Older ones cover no new cell.
        self._recent: deque[tuple[int, WindowScore]] = deque(maxlen=self._cells_per_window)
        self._last: WindowScore | None = None  # of the last window
        self._covered = start  # the end of the last window that counts for segments
        self._num_cells = 0

    def extend(self, until: int) -> Iterator[WindowUpdate | Segment]:
        """Yield what is new if the speech continues at least until this sample."""
        for begin, end in self._windows.up_to(until):
            if end - begin < self._scorer.window:
                yield self._update(begin, end, self._scorer.score(begin, end))
                continue
            score = self._score(begin, end)
            yield self._update(begin, end, score)
            self._recent.append((self._num_cells, score))
            yield from self._add_cell(self._start + (self._num_cells + 1) * self._scorer.hop)

    def close(self, end: int) -> Iterator[WindowUpdate | Segment]:
        """Yield the rest, if the speech ended at this sample."""
        last_window: list[WindowScore] = []
        if (last := self._windows.last(end)) is not None:
            last_window.append(self._score(*last))
            yield self._update(*last, last_window[0])
        while (begin := self._start + self._num_cells * self._scorer.hop) < end:
            yield from self._add_cell(min(begin + self._scorer.hop, end), last_window)
        yield from self._track.pause(end)

    def first_needed_sample(self, until: int) -> int:
        """Return the first sample that a window may still need, if the speech continues after this sample."""
        return max(self._start, until - self._scorer.window)

    def _score(self, begin: int, end: int) -> WindowScore:
        """Return the score of a window that counts for segments."""
        new_samples, self._covered = end - self._covered, end
        return self._scorer.score(begin, end, new_samples)

    def _update(self, begin: int, end: int, score: WindowScore) -> WindowUpdate:
        smoothed = score if self._last is None else mean_score([self._last, score])
        self._last = score
        return self._scorer.update(begin, end, smoothed, self._track.newest_emotion())

    def _add_cell(self, end: int, last_window: Sequence[WindowScore] = ()) -> Iterator[Segment]:
        """Add the next cell, which ends at this sample. All windows that cover it are known."""
        covering = [score for cell, score in self._recent if cell > self._num_cells - self._cells_per_window]
        begin = self._start + self._num_cells * self._scorer.hop
        self._num_cells += 1
        yield from self._track.add(begin, end, mean_score([*covering, *last_window]))
