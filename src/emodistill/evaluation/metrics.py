"""Scores, each defined once. UA is mean recall of the emotions, WA is accuracy; papers swap these names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.errors import EmodistillError
from emodistill.labels import LabelSet

Labels = npt.NDArray[np.int64] | Sequence[int]

SCORE_TITLES: Mapping[str, str] = {  # field of `Scores` -> its name in tables
    "ua": "UA", "wa": "WA", "macro_f1": "macro-F1", "weighted_f1": "weighted F1",
}  # fmt: skip


def unweighted_accuracy(truth: Labels, predicted: Labels) -> float:
    """UA: the recall of each emotion that occurs in `truth`, averaged over these emotions.

    Both arguments are labels (utterances,). Raises `EmodistillError` where they are empty.
    """
    true, guess = _as_arrays(truth, predicted)
    return float(np.mean([np.mean(guess[true == label] == label) for label in np.unique(true)]))


def weighted_accuracy(truth: Labels, predicted: Labels) -> float:
    """WA: the share of utterances whose predicted label is the true one.

    Both arguments are labels (utterances,). Raises `EmodistillError` where they are empty.
    """
    true, guess = _as_arrays(truth, predicted)
    return float(np.mean(true == guess))


def _as_arrays(truth: Labels, predicted: Labels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    true, guess = np.asarray(truth), np.asarray(predicted)
    if true.size == 0:
        raise EmodistillError("no utterances to score: expected at least one")
    return true, guess


ACCURACIES: Mapping[str, Callable[[Labels, Labels], float]] = {
    "ua": unweighted_accuracy,
    "wa": weighted_accuracy,
}


def weighted_f1(truth: Labels, predicted: Labels) -> float:
    """The F1 of each emotion that occurs in `truth`, averaged with its number of utterances as weight."""
    from sklearn.metrics import f1_score  # it takes a second to load

    true = np.asarray(truth)
    return float(f1_score(true, predicted, labels=np.unique(true), average="weighted", zero_division=0))


@dataclass(frozen=True)
class Scores:
    """All scores of one set of predictions, as shares from 0 to 1."""

    num_utterances: int
    ua: float
    wa: float
    macro_f1: float  # over the emotions that occur
    weighted_f1: float
    recall: dict[str, float]  # by emotion, for the emotions that occur
    confusion: list[list[int]]  # rows: true, columns: predicted, both in the order of the label set

    def as_dict(self) -> dict[str, Any]:
        """The scores as `scores.json` holds them."""
        return dict(self.__dict__)


def score(truth: Labels, predicted: Labels, labels: LabelSet) -> Scores:
    """All scores of predicted labels against the true ones, both (utterances,) and indices into `labels`."""
    from sklearn.metrics import confusion_matrix, f1_score  # they take a second to load

    true, guess = np.asarray(truth), np.asarray(predicted)
    matrix = confusion_matrix(true, guess, labels=range(len(labels)))
    counts = matrix.sum(axis=1)
    present = [index for index in range(len(labels)) if counts[index]]
    return Scores(
        num_utterances=len(true),
        ua=unweighted_accuracy(true, guess),
        wa=weighted_accuracy(true, guess),
        macro_f1=float(f1_score(true, guess, labels=present, average="macro", zero_division=0)),
        weighted_f1=weighted_f1(true, guess),
        recall={labels.names[index]: float(matrix[index, index] / counts[index]) for index in present},
        confusion=matrix.tolist(),
    )


def scores_of_confusions(matrices: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float64]]:
    """The scores of many confusion matrices (…, emotions, emotions), the same numbers as from `score`.

    Each of UA, WA, macro F1 and weighted F1 is (…,). `recall` is (…, emotions), with NaN for an emotion that
    does not occur.
    """
    counts = np.asarray(matrices, dtype=np.float64)
    num_true, num_predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    correct = np.diagonal(counts, axis1=-2, axis2=-1)
    occurs = num_true > 0
    recall = np.divide(correct, num_true, out=np.full_like(num_true, np.nan), where=occurs)
    both = num_true + num_predicted
    f1 = np.divide(2 * correct, both, out=np.zeros_like(num_true), where=both > 0)
    total, num_present = num_true.sum(axis=-1), occurs.sum(axis=-1)
    return {
        "ua": np.where(occurs, recall, 0.0).sum(axis=-1) / num_present,
        "wa": correct.sum(axis=-1) / total,
        "macro_f1": np.where(occurs, f1, 0.0).sum(axis=-1) / num_present,
        "weighted_f1": (f1 * num_true).sum(axis=-1) / total,
        "recall": recall,
    }
