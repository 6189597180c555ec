"""Paired comparison of runs: the same utterances, the same folds, differences with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emodistill.errors import ModelError
from emodistill.evaluation.metrics import unweighted_accuracy, weighted_accuracy
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.evaluation.run import read_run

MEASURES: dict[str, Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], float]] = {
    "ua": unweighted_accuracy,
    "wa": weighted_accuracy,
}


@dataclass(frozen=True)
class Difference:
    """One measure of a run less the reference's, pooled over all test utterances."""

    reference: float
    run: float
    low: float  # 95 % interval of run - reference
    high: float

    @property
    def value(self) -> float:
        """run - reference."""
        return self.run - self.reference


def compare_runs(reference: Path, run: Path, resamples: int = 2000, seed: int = 0) -> dict[str, Difference]:
    """UA and WA of a run's student against a reference's, by paired bootstrap over speakers.

    Speakers, not utterances, are drawn with replacement (Bisani & Ney 2004), since a speaker's utterances
    are not independent; both runs are scored on the same draw. Raises `ModelError` where the runs differ
    in protocol or utterances, naming the first difference.
    """
    a, b = _tables(reference, run)
    truth, said_a, said_b = a.truth, a.predicted, b.predicted
    draws = _draws(a.speakers, resamples, seed)
    found = {}
    for name, measure in MEASURES.items():
        spread = [measure(truth[d], said_b[d]) - measure(truth[d], said_a[d]) for d in draws]
        low, high = np.percentile(spread, [2.5, 97.5])
        found[name] = Difference(measure(truth, said_a), measure(truth, said_b), float(low), float(high))
    return found


def interval(
    predictions: Predictions,
    measure: Callable[[Predictions], float],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % interval of a measure, by bootstrap over speakers as above.

    With few speakers it is too narrow: two of them can only be drawn in three ways.
    """
    spread = [measure(predictions.take(rows)) for rows in _draws(predictions.speakers, resamples, seed)]
    low, high = np.percentile(spread, [2.5, 97.5])
    return float(low), float(high)


def _draws(speakers: Sequence[str], resamples: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Rows (drawn,) of as many speakers as there are, drawn with replacement, `resamples` times."""
    names = np.array(speakers)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    rng = np.random.default_rng(seed)
    return [
        np.concatenate([members[index] for index in rng.integers(len(members), size=len(members))])
        for _ in range(resamples)
    ]


def _tables(reference: Path, run: Path) -> tuple[Predictions, Predictions]:
    one, two = read_run(reference), read_run(run)
    if one.protocol.hash != two.protocol.hash:
        raise ModelError(
            f"'{reference}' and '{run}' were not made under one protocol: {one.protocol.hash} "
            f"({one.protocol.description}) and {two.protocol.hash} ({two.protocol.description})"
        )
    a, b = read_predictions(reference / "predictions.csv"), read_predictions(run / "predictions.csv")
    for row, (x, y) in enumerate(zip(a.utterances, b.utterances, strict=False), start=2):
        if x != y:
            raise ModelError(f"the runs differ in row {row} of predictions.csv: '{x}' and '{y}'")
    if len(a) != len(b):
        raise ModelError(f"'{reference}' has {len(a)} predictions, '{run}' has {len(b)}: finish both")
    return a, b
