"""The dev score of a fold, by which sweeps and trials are chosen. It reads no prediction of test."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from emodistill.errors import ModelError
from emodistill.evaluation.bootstrap import Floats
from emodistill.evaluation.dimension_predictions import read_dimensions
from emodistill.evaluation.dimension_scores import concordance
from emodistill.evaluation.known import KNOWN_PREDICTIONS_DEV
from emodistill.evaluation.metrics import Labels, unweighted_accuracy, weighted_f1
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import is_unchanged

DEV_MEASURES: Mapping[str, Callable[[Labels, Labels], float]] = {  # of emotions, as in `OptimConfig.measure`
    "ua": unweighted_accuracy,
    "weighted_f1": weighted_f1,
}


def dev_score(fold: Path, measure: str = "ua") -> float:
    """Return the main model's dev score in a fold's folder, by a name of `OptimConfig.measure`.

    With voices, a score of emotions is the mean of two, as in training: without a voice, and with known
    utterances of the speaker. `ccc` is without a voice, because no table has dimensions with one. Raises
    `ModelError` where a table is missing or was changed.
    """
    if measure == "ccc":
        path = fold / "dimensions-dev.csv"
        _check_table(path, fold)
        dimensions = read_dimensions(path)
        return mean_concordance(dimensions.truth, dimensions.predicted)
    score = DEV_MEASURES[measure]
    paths = [fold / "predictions-dev.csv"]
    if (fold / KNOWN_PREDICTIONS_DEV).is_file():
        paths.append(fold / KNOWN_PREDICTIONS_DEV)
    values = []
    for path in paths:
        _check_table(path, fold)
        table = read_predictions(path)
        values.append(score(table.truth, table.predicted))
    return float(np.mean(values))


def mean_concordance(truth: Floats, predicted: Floats) -> float:
    """Return the mean of CCC over the dimensions in which it is defined; 0 if it is defined in none.

    Both are (utterances, dimensions), and a label is NaN where there is none.
    """
    pairs = zip(truth.T, predicted.T, strict=True)
    values = [value for pair in pairs if (value := concordance(*pair)) is not None]
    return float(np.mean(values)) if values else 0.0


def _check_table(path: Path, fold: Path) -> None:
    """Raise `ModelError` where a table of a fold is missing or was changed."""
    if not path.is_file() or not is_unchanged(path):
        raise ModelError(
            f"'{path}' is missing, or was changed after its fold had finished: delete the tables of "
            f"'{fold}' and run the same command again; trained models stay"
        )
