"""Predictions of a fold's student with known utterances of the speaker."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn

from emodistill.corpora import Utterance, audio_duration_s
from emodistill.evaluation.known import Count, KnownPredictions, KnownResult, KnownTask, predict_known
from emodistill.labels import LabelSet
from emodistill.training.checkpoint_inference import classify_statistics, one_window_each


def predict_with_known(
    student: nn.Module,
    outputs: Mapping[str, Tensor],
    utterances: Sequence[Utterance],
    labels: LabelSet,
    seed: int,
    counts: Sequence[Count],
    draws: int,
) -> KnownResult:
    """Predict utterances with others of the speaker known.

    Any other of the utterances by a speaker may be known. Corpora that are pooled have other speakers.
    `outputs` are those of the student for the utterances: `logits` (rows, emotions) and `statistics` (rows,
    dim).
    """
    durations_s = [audio_duration_s(item) for item in utterances]
    is_neutral = np.array([item.emotion == "neutral" for item in utterances])
    task = KnownTask(
        [item.id for item in utterances], [item.speaker for item in utterances], np.arange(len(utterances)),
        outputs["logits"].double().softmax(dim=1).numpy(),
        one_window_each(outputs["statistics"], durations_s), np.eye(len(labels)),
        is_neutral if "neutral" in labels.names else None, seed,
    )  # fmt: skip
    return predict_known(task, partial(classify_statistics, student), counts, range(draws))


def known_table(
    result: KnownResult, utterances: Sequence[Utterance], labels: LabelSet, fold: str, corpus: str
) -> KnownPredictions:
    """The table `known.csv` of a fold. `corpus` is the name for utterances that name none."""
    return KnownPredictions(
        labels, tuple(item.id for item in utterances), (fold,) * len(utterances),
        tuple(item.corpus or corpus for item in utterances), tuple(item.speaker for item in utterances),
        tuple(item.emotion or "" for item in utterances), result.predicted, result.used,
    )  # fmt: skip
