"""Uncertainty by drawing speakers: utterances of one speaker are not independent, speakers nearly are.

As many speakers as there are are drawn with replacement, again and again (Bisani & Ney 2004), and a measure's
spread over the draws is its uncertainty. With few speakers it is too narrow: two of them can only be drawn in
three ways.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from emodistill.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def speaker_draws(speakers: Sequence[str], resamples: int, seed: int = 0) -> tuple[Rows, Rows]:
    """How often each speaker is drawn, (resamples, speakers), and whose each row is, (rows,)."""
    names, whose = np.unique(np.asarray(speakers), return_inverse=True)
    picks = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    drawn = np.zeros_like(picks)
    np.add.at(drawn, (np.arange(resamples)[:, None], picks), 1)
    return drawn, whose


def drawn_confusions(predictions: Predictions, resamples: int, seed: int = 0) -> Floats:
    """Confusion matrices (resamples, emotions, emotions) of the draws; rows are the truth."""
    drawn, whose = speaker_draws(predictions.speakers, resamples, seed)
    size = len(predictions.labels)
    counts = np.zeros((drawn.shape[1], size, size))
    np.add.at(counts, (whose, predictions.truth, predictions.predicted), 1)
    return (drawn @ counts.reshape(len(counts), -1)).reshape(-1, size, size)


def drawn_means(values: Floats, speakers: Sequence[str], resamples: int, seed: int = 0) -> Floats:
    """Means (resamples,) of one value an utterance, (utterances,), over the draws."""
    drawn, whose = speaker_draws(speakers, resamples, seed)
    sums = np.bincount(whose, weights=values)
    return np.asarray((drawn @ sums) / (drawn @ np.bincount(whose)))


def bounds(spread: Floats) -> tuple[float, float]:
    """The 95 % interval of a measure's draws, those where it is not defined (NaN) left out."""
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return float(low), float(high)


def interval(
    predictions: Predictions,
    measure: Callable[[Predictions], float],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % interval of any measure; slower than `drawn_confusions` where that will do."""
    return interval_of_rows(
        predictions.speakers, lambda rows: measure(predictions.take(rows)), resamples, seed
    )


def interval_of_rows(
    speakers: Sequence[str], measure: Callable[[Rows], float], resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The same of a measure over drawn rows (drawn,)."""
    drawn, whose = speaker_draws(speakers, resamples, seed)
    members = [np.flatnonzero(whose == speaker) for speaker in range(drawn.shape[1])]
    return bounds(
        np.array(
            [
                measure(
                    np.concatenate([np.tile(members[who], times) for who, times in enumerate(row) if times])
                )
                for row in drawn
            ]
        )
    )
