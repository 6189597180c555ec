"""Scores, each defined once. UA is mean per-class recall, WA is plain accuracy; papers swap them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, f1_score

from emodistill.errors import EmodistillError
from emodistill.labels import LabelSet

Labels = npt.NDArray[np.int64] | Sequence[int]


def unweighted_accuracy(truth: Labels, predicted: Labels) -> float:
    """UA: the mean over the classes that occur in `truth` of the share of each that was recognised."""
    true, said = np.asarray(truth), np.asarray(predicted)
    if true.size == 0:
        raise EmodistillError("no utterances to score: expected at least one")
    return float(np.mean([np.mean(said[true == label] == label) for label in np.unique(true)]))


def weighted_accuracy(truth: Labels, predicted: Labels) -> float:
    """WA: the share of utterances that was recognised."""
    true, said = np.asarray(truth), np.asarray(predicted)
    if true.size == 0:
        raise EmodistillError("no utterances to score: expected at least one")
    return float(np.mean(true == said))


def weighted_f1(truth: Labels, predicted: Labels) -> float:
    """The mean over the classes that occur in `truth` of each one's F1, weighted by how often it occurs."""
    true = np.asarray(truth)
    return float(f1_score(true, predicted, labels=np.unique(true), average="weighted", zero_division=0))


@dataclass(frozen=True)
class Scores:
    """Scores of one set of predictions."""

    num_utterances: int
    ua: float
    wa: float
    macro_f1: float
    weighted_f1: float
    recall: dict[str, float]  # by emotion, for those that occur
    confusion: list[list[int]]  # rows: truth, columns: predicted, in the order of the label set

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `scores.json`."""
        return dict(self.__dict__)


def score(truth: Labels, predicted: Labels, labels: LabelSet) -> Scores:
    """All scores; `truth` and `predicted` are labels, indices into the label set."""
    true, said = np.asarray(truth), np.asarray(predicted)
    matrix = confusion_matrix(true, said, labels=range(len(labels)))
    counts = matrix.sum(axis=1)
    present = [index for index in range(len(labels)) if counts[index]]
    return Scores(
        num_utterances=len(true),
        ua=unweighted_accuracy(true, said),
        wa=weighted_accuracy(true, said),
        macro_f1=float(f1_score(true, said, labels=present, average="macro", zero_division=0)),
        weighted_f1=weighted_f1(true, said),
        recall={labels.names[index]: float(matrix[index, index] / counts[index]) for index in present},
        confusion=matrix.tolist(),
    )


def of_confusions(matrices: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float64]]:
    """UA, WA, macro and weighted F1 of many confusion matrices (…, emotions, emotions) at once, each (…,).

    `recall` is (…, emotions), NaN where an emotion does not occur. The same numbers as `score` gives.
    """
    counts = np.asarray(matrices, dtype=np.float64)
    truth, said, hits = counts.sum(axis=-1), counts.sum(axis=-2), np.diagonal(counts, axis1=-2, axis2=-1)
    occurs = truth > 0
    recall = np.divide(hits, truth, out=np.full_like(truth, np.nan), where=occurs)
    f1 = np.divide(2 * hits, truth + said, out=np.zeros_like(truth), where=truth + said > 0)
    total, present = truth.sum(axis=-1), occurs.sum(axis=-1)
    return {
        "ua": np.where(occurs, recall, 0.0).sum(axis=-1) / present,
        "wa": hits.sum(axis=-1) / total,
        "macro_f1": np.where(occurs, f1, 0.0).sum(axis=-1) / present,
        "weighted_f1": (f1 * truth).sum(axis=-1) / total,
        "recall": recall,
    }
