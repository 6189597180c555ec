"""The emotions of successive cells of speech, as the path with the highest score (Viterbi's algorithm).

A cell is one hop of speech. The score of a path is Σ log p(emotion of the cell) − cost · (number of changes).
Each emotion lasts for a minimum number of cells.
"""

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


class EmotionPath:
    """The best path of emotions through cells that arrive one by one.

    A cell is decided once no later cell can change its emotion. The emotion of a run has the highest mean
    log-probability in it, because any other emotion would have given a higher score.

    A state is the pair (how many cells the emotion has lasted, at most `min_cells`; emotion), as one index.
    """

    def __init__(self, cost: float, min_cells: int, max_undecided: int | None = None) -> None:
        """Start without cells.

        Args:
            cost: nats of log-probability that a change must gain.
            min_cells: cells that an emotion lasts at least, if there is another one.
            max_undecided: with more undecided cells, the best path so far decides the oldest one.
        """
        self._cost, self._min_cells, self._max_undecided = cost, min_cells, max_undecided
        self._scores: Values | None = None  # (states,): of the best path that ends in each state
        # For each undecided cell: state -> state of the cell before, (states,).
        self._back: list[npt.NDArray[np.intp]] = []

    def push(self, log_probabilities: Values) -> list[int]:
        """Add a cell with its log-probabilities (emotions,); return the emotions now decided, in order."""
        num_emotions, last = len(log_probabilities), self._min_cells - 1
        if self._scores is None:
            scores = np.full((self._min_cells, num_emotions), -np.inf)
            scores[0] = log_probabilities
            back = np.zeros((self._min_cells, num_emotions), dtype=np.intp)  # never followed
        else:
            before = self._scores.reshape(self._min_cells, num_emotions)
            index = np.arange(self._min_cells * num_emotions).reshape(self._min_cells, num_emotions)
            scores, back = np.empty_like(before), np.empty_like(index)
            # A new emotion follows the best state that has lasted long enough. The best emotion itself
            # follows the second best, because a change must lead to another emotion.
            best = int(before[last].argmax())
            others = np.where(np.arange(num_emotions) == best, -np.inf, before[last])
            back[0] = index[last, best]
            back[0, best] = index[last, others.argmax()]
            scores[0] = before[last, best] - self._cost
            scores[0, best] = others.max() - self._cost
            scores[1:], back[1:] = before[:-1], index[:-1]
            stays = before[last] >= scores[last]
            scores[last] = np.where(stays, before[last], scores[last])
            back[last] = np.where(stays, index[last], back[last])
            scores += log_probabilities
        self._scores = scores.ravel()
        self._back.append(back.ravel())
        decided = self._shared(num_emotions)
        if not decided and self._max_undecided is not None and len(self._back) > self._max_undecided:
            return self.decide_oldest()
        return decided

    def decide_oldest(self) -> list[int]:
        """Return the emotions up to the oldest undecided cell by the best path so far; none without cells."""
        if self._scores is None or not self._back:
            return []
        oldest = np.arange(len(self._scores))
        for back in self._back[:0:-1]:
            oldest = back[oldest]
        first = oldest[self._scores.argmax()]
        self._scores[oldest != first] = -np.inf  # drop the paths that began otherwise
        return self._trace_back(int(first), 0, len(self._scores) // self._min_cells)

    def newest(self) -> int | None:
        """Return the emotion of the newest cell on the best path so far; None without cells.

        Later cells may change it.
        """
        if self._scores is None:
            return None
        return int(self._scores.argmax()) % (len(self._scores) // self._min_cells)

    def finish(self) -> list[int]:
        """Return the emotions of the remaining cells, in order, and start again without cells."""
        if self._scores is None or not self._back:
            self._scores = None
            return []
        num_emotions = len(self._scores) // self._min_cells
        long_enough = self._scores[-num_emotions:]  # none of them is finite if there are fewer cells
        best = (
            len(self._scores) - num_emotions + int(long_enough.argmax())
            if np.isfinite(long_enough).any()
            else int(self._scores.argmax())
        )
        self._scores = None
        return self._trace_back(best, len(self._back) - 1, num_emotions)

    def _shared(self, num_emotions: int) -> list[int]:
        """Return the emotions of the cells that all possible paths share, in order."""
        assert self._scores is not None
        states = np.flatnonzero(np.isfinite(self._scores))
        for cell in range(len(self._back) - 1, -1, -1):
            if len(states) == 1:
                return self._trace_back(int(states[0]), cell, num_emotions)
            states = np.unique(self._back[cell][states])
        return []

    def _trace_back(self, state: int, cell: int, num_emotions: int) -> list[int]:
        """Return the emotions up to a cell whose state is known, in order, and remove these cells."""
        emotions = [state % num_emotions]
        for back in self._back[cell:0:-1]:
            state = int(back[state])
            emotions.append(state % num_emotions)
        del self._back[: cell + 1]
        return emotions[::-1]
