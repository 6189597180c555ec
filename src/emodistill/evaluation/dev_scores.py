"""The dev score of a fold, by which sweeps and trials are chosen. It reads no prediction of test."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from emodistill.errors import ModelError
from emodistill.evaluation.dimension_predictions import read_dimensions
from emodistill.evaluation.dimension_scores import mean_ccc
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
    utterances of the speaker. `ccc` is without a voice, because no table has dimensions with one. It is 0
    where it is defined for no dimension. Raises `ModelError` where a table is missing or was changed.
    """
    if measure == "ccc":
        path = fold / "dimensions-dev.csv"
        _check_table(path, fold)
        return mean_ccc(read_dimensions(path)) or 0.0
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


def _check_table(path: Path, fold: Path) -> None:
    """Raise `ModelError` where a table of a fold is missing or was changed."""
    if not path.is_file() or not is_unchanged(path):
        raise ModelError(
            f"'{path}' is missing, or was changed after its fold had finished: delete the tables of "
            f"'{fold}' and run the same command again; trained models stay"
        )
