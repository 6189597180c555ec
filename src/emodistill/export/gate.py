"""The second gate of an export: the exported model through the recogniser, against crossval's predictions.

The first gate (`check_parity`) gives torch and the graph the same waveforms. This one starts from the files,
so it also compares how training and the recogniser prepare audio: decoding, DC offset, trimming, pauses.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from emodistill.audio.recording import AudioSource
from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.console import with_progress
from emodistill.corpora import Utterance
from emodistill.errors import CorpusError, ModelError
from emodistill.evaluation.compare import mcnemar
from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.evaluation.predictions import Predictions
from emodistill.inference.recognizer import Recognizer

Answered = npt.NDArray[np.bool_]

# Training and the recogniser prepare audio by the same functions. What may still differ: a recording without
# speech, one of over 20 s, and int8, whose own gate lets 2 % of the emotions change.
MAX_UA_LOSS = 0.01
MIN_AGREEMENT = 0.95
SIGNIFICANCE = 0.05  # below this p-value a difference is not chance; a few utterances can differ by chance


def compare_with_recogniser(
    model: Path, crossval: Predictions, utterances: Mapping[str, Utterance], split: str = "test"
) -> tuple[Predictions, dict[str, float]]:
    """The predictions of an exported model through the recogniser, and the figures of `check_recogniser`.

    `crossval` holds the predictions after training; `utterances` has theirs by id. `split` names them in
    messages. Raises as the two functions below.
    """
    recognised, answered = predict_through_recogniser(Recognizer(model, threads=1), crossval, utterances)
    return recognised, check_recogniser(crossval, recognised, answered, split)


def predict_through_recogniser(
    recognizer: Recognizer, table: Predictions, utterances: Mapping[str, Utterance]
) -> tuple[Predictions, Answered]:
    """The recogniser's predictions for a table's utterances, and which have an emotion (utterances,).

    Each source is the file of an utterance, or its span of a longer file. Where the recogniser abstains (for
    example from silence), the row has probability 1 for a wrong emotion, so that it counts as wrong. Raises
    `CorpusError` for an utterance without a file, and `ModelError` for a file that cannot be read.
    """
    sources = (_source(utterances[name]) for name in table.utterances)
    predictions = recognizer.predict_all(sources, SAMPLE_RATE, jobs=os.cpu_count() or 1)
    probabilities = np.eye(len(table.labels))[(table.truth + 1) % len(table.labels)]
    answered = np.zeros(len(table), dtype=bool)
    for row, prediction in enumerate(with_progress(predictions, "recognise the utterances", len(table))):
        if prediction.error is not None:
            raise ModelError(
                f"'{table.utterances[row]}' cannot be recognised: {prediction.error}. Nothing was exported"
            )
        if prediction.emotion is not None:
            answered[row] = True
            probabilities[row] = [prediction.probabilities[name] for name in table.labels]
    return replace(table, probabilities=probabilities), answered


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
