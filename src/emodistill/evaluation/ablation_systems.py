"""The systems of an ablation: students, teachers, and the teachers' ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emodistill.evaluation.bootstrap import Floats
from emodistill.evaluation.cost import TOGETHER
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.run import Run

TEACHERS, ORACLES = "teachers", "oracles"  # groups of systems that are no students
ENSEMBLE = TOGETHER
LEAST_PROBABILITY = 1e-7  # before a logarithm: the last decimal of predictions.csv


@dataclass(frozen=True)
class System:
    """A student, teacher, ensemble or oracle that was scored on the full method's test utterances."""

    name: str
    group: str  # "parts", a swept field, `TEACHERS` or `ORACLES`
    recipe_key: str  # equal for systems of one recipe
    tables: Sequence[Predictions]  # one for each seed; empty: it predicts no emotions
    dimensions: Sequence[DimensionPredictions] = ()  # one for each seed; empty: it predicts none

    @property
    def pooled(self) -> Predictions:
        """The predictions of emotions of all seeds in one table."""
        return Predictions.join(self.tables)


def system_tables(
    runs: Sequence[Run], model: str | None = None
) -> tuple[list[Predictions], list[DimensionPredictions]]:
    """The tables of a model (default: the main one) in runs with several seeds: emotions, and dimensions.

    A list is empty where the model predicts none.
    """
    has_emotions = all(run.has_emotions for run in runs)
    has_dimensions = all((model or run.main_model) in run.dimension_models() for run in runs)
    return (
        [run.table(model) for run in runs] if has_emotions else [],
        [run.dimension_table(model) for run in runs] if has_dimensions else [],
    )


def teacher_systems(runs: Sequence[Run]) -> list[System]:
    """The teachers of a method, from one run for each seed, and their ensemble if there are several.

    The ensemble predicts emotions, or dimensions, where several teachers predict them.
    """
    found = {name: system_tables(runs, name) for name in runs[0].models if name != runs[0].main_model}
    systems = [
        System(f"{name} teacher", TEACHERS, f"{name} teacher", *tables) for name, tables in found.items()
    ]
    emotions = [tables for tables, _ in found.values() if tables]
    dimensions = [tables for _, tables in found.values() if tables]
    by_seed = list(enumerate(runs))
    ensembles = [
        ensemble_predictions(run.table(), [tables[seed] for tables in emotions])
        for seed, run in (by_seed if len(emotions) > 1 else [])
    ]
    means = [
        ensemble_dimensions(run.dimension_table(), [tables[seed] for tables in dimensions])
        for seed, run in (by_seed if len(dimensions) > 1 else [])
    ]
    if ensembles or means:
        systems.append(System(ENSEMBLE, TEACHERS, ENSEMBLE, ensembles, means))
    return systems


def ensemble_predictions(reference: Predictions, tables: Sequence[Predictions]) -> Predictions:
    """The normalised product of several models' probabilities, for the utterances of `reference`.

    This is Bayes' rule if the models' inputs are independent given the emotion and all emotions have the same
    prior. If a model has no prediction for an utterance, the product is over the other models. If no model
    has one, the utterance is left out.
    """
    log_products: dict[tuple[str, str], Floats] = {}
    for table in tables:
        for row, key in enumerate(zip(table.folds, table.utterances, strict=True)):
            log_probabilities = np.log(np.maximum(table.probabilities[row], LEAST_PROBABILITY))
            log_products[key] = log_products.get(key, 0.0) + log_probabilities
    keys = list(zip(reference.folds, reference.utterances, strict=True))
    predicted = reference.take([row for row, key in enumerate(keys) if key in log_products])
    logits = np.array([log_products[key] for key in keys if key in log_products])
    products = np.exp(logits - logits.max(axis=1, keepdims=True))
    return replace(predicted, probabilities=products / products.sum(axis=1, keepdims=True))


def ensemble_dimensions(
    reference: DimensionPredictions, tables: Sequence[DimensionPredictions]
) -> DimensionPredictions:
    """The mean of several models' predictions, for the utterances of `reference`.

    All tables have the same dimensions. If a model has no prediction for an utterance, the mean is over the
    other models. If no model has one, the utterance is left out.
    """
    predictions: dict[tuple[str, str], list[Floats]] = {}
    for table in tables:
        for row, key in enumerate(zip(table.folds, table.utterances, strict=True)):
            predictions.setdefault(key, []).append(table.predicted[row])
    keys = list(zip(reference.folds, reference.utterances, strict=True))
    kept = reference.take([row for row, key in enumerate(keys) if key in predictions])
    means = [np.mean(predictions[key], axis=0) for key in keys if key in predictions]
    return replace(kept, predicted=np.array(means))
