"""The second gate of an export: the exported model through the recogniser, against crossval's predictions.

The first gate (`check_parity`) gives torch and the graph the same waveforms. This one starts from the files,
so it also compares how training and the recogniser prepare audio: decoding, DC offset, trimming, pauses.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from emodistill.audio.recording import AudioSource
from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.console import with_progress
from emodistill.corpora import Utterance
from emodistill.errors import CorpusError, ModelError
from emodistill.evaluation.compare import mcnemar
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.evaluation.predictions import Predictions
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer

Answered = npt.NDArray[np.bool_]

# Training and the recogniser prepare audio by the same functions. What may still differ: a recording without
# speech, one of over 20 s, and int8, whose own gate lets 2 % of the emotions change.
MAX_UA_LOSS = 0.01
MIN_AGREEMENT = 0.95
MAX_DIMENSION_CHANGE = 0.05  # mean absolute difference, on a scale from 0 to 1
SIGNIFICANCE = 0.05  # below this p-value a difference is not chance; a few utterances can differ by chance


class Recognised(NamedTuple):
    """What the recogniser predicts for the utterances of tables, and the figures of the gate."""

    emotions: Predictions | None  # None: the model predicts none
    dimensions: DimensionPredictions | None  # of the utterances with speech; None: the model predicts none
    figures: dict[str, float]


def compare_with_recogniser(
    model: Path,
    crossval: Predictions | None,
    utterances: Mapping[str, Utterance],
    split: str = "test",
    dimensions: DimensionPredictions | None = None,
) -> Recognised:
    """The predictions of an exported model through the recogniser, and the figures of the checks below.

    `crossval` and `dimensions` hold the predictions after training, as far as the model has them.
    `utterances` has theirs by id. `split` names them in messages. Raises as the functions below.
    """
    names = dict.fromkeys(name for table in (crossval, dimensions) if table for name in table.utterances)
    predictions = recognise(Recognizer(model, threads=1), list(names), utterances)
    emotions, of_head, figures = None, None, {}
    if crossval is not None:
        emotions, answered = emotions_of(crossval, predictions)
        figures = check_recogniser(crossval, emotions, answered, split)
    if dimensions is not None:
        of_head = dimensions_of(dimensions, predictions)
        figures |= check_dimensions(dimensions, of_head, split)
    return Recognised(emotions, of_head, figures)


def predict_through_recogniser(
    recognizer: Recognizer, table: Predictions, utterances: Mapping[str, Utterance]
) -> tuple[Predictions, Answered]:
    """The result of `emotions_of` for a table's utterances. Raises the errors of `recognise`."""
    return emotions_of(table, recognise(recognizer, table.utterances, utterances))


def recognise(
    recognizer: Recognizer, names: Sequence[str], utterances: Mapping[str, Utterance]
) -> dict[str, Prediction]:
    """The recogniser's prediction for each utterance, by id.

    Each source is the file of an utterance, or its span of a longer file. Raises `CorpusError` for an
    utterance without a file, and `ModelError` for a file that cannot be read.
    """
    sources = (_source(utterances[name]) for name in names)
    predictions = recognizer.predict_all(sources, SAMPLE_RATE, jobs=os.cpu_count() or 1)
    found: dict[str, Prediction] = {}
    for name, prediction in zip(
        names, with_progress(predictions, "recognise the utterances", len(names)), strict=True
    ):
        if prediction.error is not None:
            raise ModelError(f"'{name}' cannot be recognised: {prediction.error}. Nothing was exported")
        found[name] = prediction
    return found


def emotions_of(table: Predictions, predictions: Mapping[str, Prediction]) -> tuple[Predictions, Answered]:
    """The table with the recogniser's probabilities, and which rows have an emotion (utterances,).

    Where the recogniser abstains (for example from silence), the row has probability 1 for a wrong emotion,
    so that it counts as wrong.
    """
    probabilities = np.eye(len(table.labels))[(table.truth + 1) % len(table.labels)]
    answered = np.zeros(len(table), dtype=bool)
    for row, prediction in enumerate(predictions[name] for name in table.utterances):
        if prediction.emotion is not None:
            answered[row] = True
            probabilities[row] = [prediction.probabilities[name] for name in table.labels]
    return replace(table, probabilities=probabilities), answered


def dimensions_of(table: DimensionPredictions, predictions: Mapping[str, Prediction]) -> DimensionPredictions:
    """The table's rows with speech, with the recogniser's dimensions. Without speech there is no value."""
    kept = table.select([predictions[name].dimensions is not None for name in table.utterances])
    values = [
        [(predictions[name].dimensions or {})[one] for one in table.dimensions] for name in kept.utterances
    ]
    return replace(kept, predicted=np.array(values).reshape(kept.truth.shape))


def check_dimensions(
    crossval: DimensionPredictions, recognised: DimensionPredictions, split: str = "test"
) -> dict[str, float]:
    """Compare the recogniser's dimensions with crossval's; returns the figures.

    `recognised` has the rows of `crossval` with speech. The figures are dimension_utterances,
    dimension_unanswered (utterances without speech) and dimension_change (the largest mean absolute
    difference of a dimension). Raises `ModelError` where this difference is above `MAX_DIMENSION_CHANGE`. It
    also does where significantly more than a share of 1 − `MIN_AGREEMENT` has no value.
    """
    answered = set(recognised.utterances)
    before = crossval.select([name in answered for name in crossval.utterances])
    change = np.abs(before.predicted - recognised.predicted).mean(axis=0) if answered else np.ones(1)
    test = binomtest(len(recognised), len(crossval), MIN_AGREEMENT, alternative="less")
    num_unanswered = len(crossval) - len(recognised)
    if not change.max() <= MAX_DIMENSION_CHANGE or test.pvalue < SIGNIFICANCE:
        raise ModelError(
            f"the recogniser's dimensions differ from those of the trained model by {change.max():.3f} (mean "
            f"over {len(recognised)} {split} utterances, on a scale from 0 to 1), and {num_unanswered} "
            f"utterances have none. Expected: at most {MAX_DIMENSION_CHANGE:g}, and values for at least "
            f"{100 * MIN_AGREEMENT:g} %. Training and recogniser prepare audio differently, or the "
            "predictions are not of these weights: train the run again with this version. Nothing was "
            "exported"
        )
    return {
        "dimension_utterances": float(len(crossval)),
        "dimension_unanswered": float(num_unanswered),
        "dimension_change": float(change.max()),
    }


def check_recogniser(
    crossval: Predictions, recognised: Predictions, answered: Answered, split: str = "test"
) -> dict[str, float]:
    """Compare the recogniser's predictions with crossval's on the same rows; returns the figures.

    The figures are utterances, agreement (the share of equal emotions), ua_crossval, ua_recogniser and
    unanswered (utterances without an emotion). Raises `ModelError` with them in two cases:

    * UA is more than `MAX_UA_LOSS` lower, and McNemar's exact test has p < `SIGNIFICANCE`;
    * the agreement is below `MIN_AGREEMENT`, with p < `SIGNIFICANCE` in a one-sided binomial test.

    Both tests take utterances as independent, since the question is about these files, not other speakers.
    """
    num_equal = int(np.sum(answered & (crossval.predicted == recognised.predicted)))
    ua_before, ua = (unweighted_accuracy(table.truth, table.predicted) for table in (crossval, recognised))
    test = mcnemar(crossval, recognised)
    is_worse = ua_before - ua > MAX_UA_LOSS and test.p_value < SIGNIFICANCE
    agreement_test = binomtest(num_equal, len(crossval), MIN_AGREEMENT, alternative="less")
    num_unanswered = int(np.sum(~answered))
    figures = {
        "utterances": float(len(crossval)),
        "agreement": num_equal / len(crossval),
        "ua_crossval": ua_before,
        "ua_recogniser": ua,
        "unanswered": float(num_unanswered),
    }
    if is_worse or agreement_test.pvalue < SIGNIFICANCE:
        raise ModelError(
            f"the recogniser has UA {100 * ua:.1f} % on {len(crossval)} {split} utterances, the trained "
            f"model had {100 * ua_before:.1f} %. Of these, {test.only_reference} are correct in the trained "
            f"model alone and {test.only_run} in the recogniser alone (p = {test.p_value:.2g}). "
            f"{100 * figures['agreement']:.1f} % have the same emotion, and {num_unanswered} have none in "
            f"the recogniser. Expected: at most {100 * MAX_UA_LOSS:.1f} points less UA, and at least "
            f"{100 * MIN_AGREEMENT:g} % the same. Training and recogniser prepare audio differently, or the "
            "predictions are not of these weights: train the run again with this version. Nothing was "
            "exported"
        )
    return figures


def _source(utterance: Utterance) -> AudioSource:
    """The file of an utterance, or the waveform (samples,) of its span."""
    if utterance.path is None:
        raise CorpusError(f"utterance '{utterance.id}' has no audio, so the recogniser cannot classify it")
    if utterance.start_s is None and utterance.end_s is None:
        return utterance.path
    return load(utterance.path, utterance.start_s, utterance.end_s)
