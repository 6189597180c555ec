"""Intervals and p-values by bootstrap over speakers.

Utterances of one speaker depend on each other, so whole speakers are drawn. A draw takes as many speakers as
there are, with replacement (Bisani & Ney 2004). With few speakers the interval is too narrow: two speakers
allow only three different draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emodistill.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

FEW_SPEAKERS = 10  # with fewer, intervals are marked as too narrow


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval. `low` and `high` are None where there is only one speaker."""

    value: float
    low: float | None = None
    high: float | None = None


def draw_speakers(speakers: Sequence[str], resamples: int, seed: int = 0) -> tuple[Indices, Indices]:
    """How often each draw takes each speaker, (resamples, speakers), and the speaker of each row, (rows,)."""
    names, speaker_of_row = np.unique(np.asarray(speakers), return_inverse=True)
    picks = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    counts = np.zeros_like(picks)
    np.add.at(counts, (np.arange(resamples)[:, None], picks), 1)
    return counts, speaker_of_row


def bootstrap_confusions(predictions: Predictions, resamples: int, seed: int = 0) -> Floats:
    """The confusion matrix of each draw, (resamples, emotions, emotions); rows are the true emotions."""
    counts, speaker_of_row = draw_speakers(predictions.speakers, resamples, seed)
    size = len(predictions.labels)
    by_speaker = np.zeros((counts.shape[1], size, size))
    np.add.at(by_speaker, (speaker_of_row, predictions.truth, predictions.predicted), 1)
    return (counts @ by_speaker.reshape(len(by_speaker), -1)).reshape(-1, size, size)


def bootstrap_means(values: Floats, speakers: Sequence[str], resamples: int, seed: int = 0) -> Floats:
    """The mean over each draw, (resamples,), of a value for each utterance, (utterances,)."""
    counts, speaker_of_row = draw_speakers(speakers, resamples, seed)
    sums = np.bincount(speaker_of_row, weights=values)
    return np.asarray((counts @ sums) / (counts @ np.bincount(speaker_of_row)))


def percentile_interval(draws: Floats) -> tuple[float, float]:
    """The 95 % interval of a measure from its value on each draw. Draws where it is NaN are left out."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def two_sided_p_value(differences: Floats) -> float:
    """The p-value of "there is no difference" from the difference on each draw, (resamples,).

    It is twice the share of draws on the other side of zero, and at least 2 / (resamples + 1).
    """
    other_side = min(int(np.sum(differences <= 0)), int(np.sum(differences >= 0)))
    return min(1.0, 2 * (other_side + 1) / (len(differences) + 1))


def bootstrap_interval(
    predictions: Predictions,
    measure: Callable[[Predictions], float],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % interval of any measure.

    `bootstrap_confusions` is faster where the measure follows from a confusion matrix.
    """
    return bootstrap_interval_of_rows(
        predictions.speakers, lambda rows: measure(predictions.take(rows)), resamples, seed
    )


def bootstrap_interval_of_rows(
    speakers: Sequence[str], measure: Callable[[Indices], float], resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a measure that is computed from the indices of the drawn rows, (drawn,)."""
    counts, speaker_of_row = draw_speakers(speakers, resamples, seed)
    rows_of_speaker = [np.flatnonzero(speaker_of_row == speaker) for speaker in range(counts.shape[1])]
    values = [
        measure(
            np.concatenate(
                [np.tile(rows_of_speaker[speaker], times) for speaker, times in enumerate(draw) if times]
            )
        )
        for draw in counts
    ]
    return percentile_interval(np.array(values))
