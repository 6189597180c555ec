"""The dev score of a fold, by which sweeps and trials are chosen. It reads no prediction of test."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from emodistill.errors import ModelError
from emodistill.evaluation.known import KNOWN_PREDICTIONS_DEV
from emodistill.evaluation.metrics import Labels, unweighted_accuracy, weighted_f1
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import is_unchanged

DEV_MEASURES: Mapping[str, Callable[[Labels, Labels], float]] = {  # as in `OptimConfig.measure`
    "ua": unweighted_accuracy,
    "weighted_f1": weighted_f1,
}


def dev_score(fold: Path, measure: str = "ua") -> float:
    """Return the main model's dev score in a fold's folder, as a share.

    With voices it is the mean of two scores, as in training: without a voice, and with known utterances of
    the speaker. Raises `ModelError` where a table is missing or was changed.
    """
    score = DEV_MEASURES[measure]
    paths = [fold / "predictions-dev.csv"]
    if (fold / KNOWN_PREDICTIONS_DEV).is_file():
        paths.append(fold / KNOWN_PREDICTIONS_DEV)
    values = []
    for path in paths:
        if not path.is_file() or not is_unchanged(path):
            raise ModelError(
                f"'{path}' is missing, or was changed after its fold had finished: delete the tables of "
                f"'{fold}' and run the same command again; trained models stay"
            )
        table = read_predictions(path)
        values.append(score(table.truth, table.predicted))
    return float(np.mean(values))
