"""From a stretch of speech to its segments, hop by hop: windows, cells, and the course of emotions through them.

    windows that end at every hop → log-probabilities → mean over the windows that cover a cell of one hop
    → the course of emotions with the most evidence for its price → segments

All positions are samples at 16 kHz from the beginning of the audio.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.errors import ConfigError

HOP_S = 0.5  # from one window to the next
MIN_HOP_S = 0.1
WINDOW_S = 2.0  # what the model sees at once
CHANGE_COST = 1.5  # nats of evidence, summed over hops, that a change must bring (benchmarks/streaming.py)
MIN_RUN_CELLS = 2  # hops that an emotion lasts at least where it gives way to another within one stretch
MAX_UNDECIDED_CELLS = 16  # hops after which the better course is taken, undecided or not
MIN_PROBABILITY = 1e-3  # of a probability, so that one window alone cannot rule an emotion out

Values = npt.NDArray[np.float64]


class WindowClassifier(Protocol):
    """What segmentation needs of a recogniser; `emodistill.Recognizer` has it."""

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions in the order of the probabilities."""

    @property
    def min_confidence(self) -> float:
        """A segment with a lower confidence has no emotion."""

    def probabilities(self, waveform: Waveform, /) -> Values:
        """Return the probabilities (emotions,) of a waveform (samples,)."""


@dataclass(frozen=True)
class WindowUpdate:
    """What a window sounds like, averaged with the one before it in the same stretch of speech.

    During the first `window_s` of a stretch the windows are still growing; these updates are early
    guesses, and segments do not count them.
    """

    kind: ClassVar[str] = "update"
    start_s: float
    end_s: float
    probabilities: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**self.__dict__, "probabilities": dict(self.probabilities)}


@dataclass(frozen=True)
class Segment:
    """A closed segment. `emotion` is the most probable one, or None below the recogniser's `min_confidence`.

    A given segment that has no audio has neither emotion nor confidence nor probabilities.
    """

    kind: ClassVar[str] = "segment"
    start_s: float
    end_s: float
    emotion: str | None
    confidence: float | None  # the highest probability, 0 to 1
    probabilities: dict[str, float]
    speaker: str | None = None  # where segments were given with their speakers

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, keys in a fixed order; `speaker` only where there is one."""
        data: dict[str, Any] = {**self.__dict__, "probabilities": dict(self.probabilities)}
        if self.speaker is None:
            del data["speaker"]
        return data


class Windows:
    """Where the windows of a stretch lie whose end is not known yet, as spans (begin, end) of samples.

    One ends at every hop from the start on. A stretch shorter than a window has one that counts, all of it;
    otherwise those of full length count, the last of which ends where the stretch does.
    """

    def __init__(self, start: int, window: int, hop: int) -> None:
        self._start, self._window, self._hop = start, window, hop
        self._end = start  # of the last window

    def reach(self, until: int) -> Iterator[tuple[int, int]]:
        """Those that end by `until` and have not been given before; the first ones are still growing."""
        while self._end + self._hop <= until:
            self._end += self._hop
            yield max(self._start, self._end - self._window), self._end

    def last(self, end: int) -> tuple[int, int] | None:
        """The one that ends where the stretch does, unless a full one has."""
        if self._end == end and end - self._start >= self._window:
            return None
        return max(self._start, end - self._window), end


class WindowScorer:
    """The model over the recent past of one stream: log-probabilities of windows of it."""

    def __init__(
        self, recognizer: WindowClassifier, hop_s: float = HOP_S, window_s: float = WINDOW_S
    ) -> None:
        """Raises `ConfigError` for a hop below 0.1 s or a window that is no whole number of hops."""
        if not MIN_HOP_S <= hop_s < np.inf:
            raise ConfigError(f"bad hop_s {hop_s}, expected at least {MIN_HOP_S} s")
        if not 0 < window_s < np.inf:
            raise ConfigError(
                f"bad window_s {window_s}, expected a whole number of hops of {hop_s} s, e.g. {hop_s}"
            )
        self.hop, self.window = round(hop_s * SAMPLE_RATE), round(window_s * SAMPLE_RATE)  # samples
        if self.window % self.hop or not self.window:
            raise ConfigError(
                f"bad window_s {window_s}, expected a whole number of hops of {hop_s} s, "
                f"e.g. {max(1, round(window_s / hop_s)) * hop_s:g}"
            )
        self.num_samples = 0  # so far
        self._recognizer = recognizer
        self._blocks: deque[tuple[int, Waveform]] = deque()  # where each begins

    def append(self, block: Waveform) -> None:
        """Go on with a block (samples,)."""
        if len(block):
            self._blocks.append((self.num_samples, block))
            self.num_samples += len(block)

    def forget(self, before: int) -> None:
        """No window begins before this sample any more."""
        while self._blocks and self._blocks[0][0] + len(self._blocks[0][1]) <= before:
            self._blocks.popleft()

    def between(self, begin: int, end: int) -> Waveform:
        """The waveform from one sample to another."""
        parts = [
            block[max(0, begin - at) : end - at]
            for at, block in self._blocks
            if at < end and begin < at + len(block)
        ]
        return np.concatenate(parts)

    def __call__(self, begin: int, end: int) -> Values:
        """Log-probabilities (emotions,) of the waveform from one sample to another."""
        values = self._recognizer.probabilities(self.between(begin, end))
        return np.log(np.maximum(values, MIN_PROBABILITY))

    def probabilities(self, log_probabilities: Values) -> dict[str, float]:
        """Of a mean of log-probabilities (emotions,): by name, summing to 1."""
        values = np.exp(log_probabilities - log_probabilities.max())
        values /= values.sum()
        return dict(zip(self._recognizer.emotions, map(float, values), strict=True))

    def segment(self, begin: int, end: int, log_probabilities: Values, speaker: str | None = None) -> Segment:
        """A segment between two samples, abstaining where the recogniser would."""
        named = self.probabilities(log_probabilities)
        emotion = max(named, key=named.__getitem__)
        sure = named[emotion] >= self._recognizer.min_confidence
        return Segment(
            begin / SAMPLE_RATE, end / SAMPLE_RATE, emotion if sure else None, named[emotion], named, speaker
        )


class Stretch:
    """The windows, cells and segments of one stretch of speech.

    A cell is one hop. Its log-probabilities are the mean over the windows that cover it, so it is decided
    when the window that begins with it has been judged.
    """

    def __init__(self, scorer: WindowScorer, start: int) -> None:
        self._scorer, self._start = scorer, start
        self._windows = Windows(start, scorer.window, scorer.hop)
        self._per_window = scorer.window // scorer.hop  # cells
        # Windows of full length by the cell that they begin with, as many as can cover one cell.
        self._recent: deque[tuple[int, Values]] = deque(maxlen=self._per_window)
        self._before: Values | None = None  # of the last window
        self._num_cells = 0
        self._path = _Path(CHANGE_COST)
        self._undecided: deque[tuple[int, Values]] = deque()  # cells: where they end, log-probabilities
        self._run = _Run(start)

    def reach(self, until: int) -> Iterator[WindowUpdate | Segment]:
        """The speech goes on at least until this sample."""
        for begin, end in self._windows.reach(until):
            values = self._scorer(begin, end)
            yield self._update(begin, end, values)
            if end - begin == self._scorer.window:
                self._recent.append((self._num_cells, values))
                yield from self._cell(self._start + (self._num_cells + 1) * self._scorer.hop)

    def close(self, end: int) -> Iterator[WindowUpdate | Segment]:
        """The speech ended at this sample."""
        final: list[Values] = []
        if (last := self._windows.last(end)) is not None:
            final.append(self._scorer(*last))
            yield self._update(*last, final[0])
        while (begin := self._start + self._num_cells * self._scorer.hop) < end:
            yield from self._cell(min(begin + self._scorer.hop, end), final)
        yield from self._decide(self._path.finish())
        yield self._run.close(self._scorer)

    def _update(self, begin: int, end: int, values: Values) -> WindowUpdate:
        smoothed = values if self._before is None else (self._before + values) / 2
        self._before = values
        probabilities = self._scorer.probabilities(smoothed)
        return WindowUpdate(begin / SAMPLE_RATE, end / SAMPLE_RATE, probabilities)

    def _cell(self, end: int, final: Sequence[Values] = ()) -> Iterator[Segment]:
        """The next cell, which ends here: all windows that cover it have been judged."""
        covering = [values for cell, values in self._recent if cell > self._num_cells - self._per_window]
        values = np.mean([*covering, *final], axis=0)
        begin = self._start + self._num_cells * self._scorer.hop
        self._num_cells += 1
        self._undecided.append((end, values))
        yield from self._decide(self._path.push(values * ((end - begin) / self._scorer.hop)))

    def _decide(self, emotions: Sequence[int]) -> Iterator[Segment]:
        """The oldest cells are now known to be of these emotions."""
        for emotion in emotions:
            end, values = self._undecided.popleft()
            if self._run.emotion not in (None, emotion):
                yield self._run.close(self._scorer)
                self._run = _Run(self._run.end)
            self._run.extend(emotion, end, values)


class _Run:
    """Cells of one emotion, one after another."""

    def __init__(self, begin: int) -> None:
        self.begin = self.end = begin  # samples
        self.emotion: int | None = None
        self._sum: Values = np.zeros(0)

    def extend(self, emotion: int, end: int, values: Values) -> None:
        """Another cell, which ends at this sample."""
        self.emotion = emotion
        self._sum = values * (end - self.end) + (self._sum if self._sum.size else 0.0)
        self.end = end

    def close(self, scorer: WindowScorer) -> Segment:
        """The segment that these cells make."""
        return scorer.segment(self.begin, self.end, self._sum / (self.end - self.begin))


class _Path:
    """The course of emotions through the cells of a stretch that has the most evidence for its price.

    It maximises Σ log p(emotion of the cell) − cost · changes over the courses in which every emotion lasts
    at least `MIN_RUN_CELLS` cells (Viterbi's algorithm), and gives a cell's emotion as soon as no further
    cell can alter it. So the emotion of a segment is the one with the highest mean log-probability in it:
    any other would have made a better course.
    """

    def __init__(self, cost: float) -> None:
        self._cost = cost
        # State: (how many cells the emotion has lasted, at most MIN_RUN_CELLS; emotion), as one index.
        self._scores: Values | None = None  # (states,) of the best course that ends in each
        self._back: list[
            npt.NDArray[np.intp]
        ] = []  # of each undecided cell: state -> state of the cell before

    def push(self, gain: Values) -> list[int]:
        """Take in a cell by its log-probabilities (emotions,); returns the emotions now decided, in order."""
        num, last = len(gain), MIN_RUN_CELLS - 1
        if self._scores is None:
            scores = np.full((MIN_RUN_CELLS, num), -np.inf)
            scores[0] = gain
            back = np.zeros((MIN_RUN_CELLS, num), dtype=np.intp)  # never followed
        else:
            before = self._scores.reshape(MIN_RUN_CELLS, num)
            index = np.arange(MIN_RUN_CELLS * num).reshape(MIN_RUN_CELLS, num)
            scores, back = np.empty_like(before), np.empty_like(index)
            # Another emotion begins after the best that has lasted long enough, itself excepted.
            best = int(before[last].argmax())
            others = np.where(np.arange(num) == best, -np.inf, before[last])
            back[0] = index[last, best]
            back[0, best] = index[last, others.argmax()]
            scores[0] = before[last, best] - self._cost
            scores[0, best] = others.max() - self._cost
            scores[1:], back[1:] = before[:-1], index[:-1]
            stays = before[last] >= scores[last]
            scores[last] = np.where(stays, before[last], scores[last])
            back[last] = np.where(stays, index[last], back[last])
            scores += gain
        self._scores = scores.ravel()
        self._back.append(back.ravel())
        return self._decided(num)

    def finish(self) -> list[int]:
        """The emotions of the cells that are left, in order."""
        if self._scores is None or not self._back:
            return []
        num = len(self._scores) // MIN_RUN_CELLS
        whole = self._scores[-num:]  # an emotion may be shorter only where the whole stretch is
        best = (
            len(self._scores) - num + int(whole.argmax())
            if np.isfinite(whole).any()
            else int(self._scores.argmax())
        )
        return self._traced(best, len(self._back) - 1, num)

    def _decided(self, num: int) -> list[int]:
        assert self._scores is not None
        states = np.flatnonzero(np.isfinite(self._scores))
        for cell in range(len(self._back) - 1, 0, -1):
            if len(states) == 1:
                return self._traced(int(states[0]), cell, num)
            states = np.unique(self._back[cell][states])
        if len(states) == 1:
            return self._traced(int(states[0]), 0, num)
        if len(self._back) <= MAX_UNDECIDED_CELLS:
            return []
        # Take the course that is best now, and give up those that began otherwise.
        oldest = np.arange(len(self._scores))
        for back in self._back[:0:-1]:
            oldest = back[oldest]
        first = oldest[self._scores.argmax()]
        self._scores[oldest != first] = -np.inf
        return self._traced(int(first), 0, num)

    def _traced(self, state: int, cell: int, num: int) -> list[int]:
        """The emotions up to a cell whose state is known; these cells are let go."""
        emotions = [state % num]
        for back in self._back[cell:0:-1]:
            state = int(back[state])
            emotions.append(state % num)
        del self._back[: cell + 1]
        return emotions[::-1]
