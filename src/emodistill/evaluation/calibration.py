"""How far a confidence can be trusted: temperature, calibration error, reliability, risk and coverage.

Pure functions over `Predictions`. Tables keep seven decimals, so a probability of 0 is taken as half of the
last one wherever a logarithm is needed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from emodistill.errors import EmodistillError, MissingExtraError, ModelError
from emodistill.evaluation.predictions import Predictions
from emodistill.inference.model_card import CoveragePoint
from emodistill.inference.recognizer import tempered

BINS = 15  # of the calibration error and the reliability table, with equally many utterances each
LEAST_PROBABILITY = 5e-8  # what is written as 0
TEMPERATURES = (0.1, 10.0)  # what a fit may find: beyond lies a perfect or a useless model, not a better fit

Floats = npt.NDArray[np.float64]


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """The same predictions with their logits divided by a temperature; no prediction changes."""
    return replace(predictions, probabilities=tempered(_positive(predictions.probabilities), temperature))


def fit_temperature(predictions: Predictions) -> float:
    """The temperature, in `TEMPERATURES`, with the least negative log-likelihood of the truth.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. The likelihood is convex in
    1 / temperature, so what is found is the minimum. Raises `EmodistillError` where there are no utterances.
    """
    _some(predictions)
    low, high = (1 / temperature for temperature in reversed(TEMPERATURES))
    found = minimize_scalar(
        lambda inverse: negative_log_likelihood(with_temperature(predictions, 1 / inverse)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(1 / found.x)


def negative_log_likelihood(predictions: Predictions) -> float:
    """The mean of −log p(truth), in nats."""
    _some(predictions)
    return float(np.mean(log_losses(predictions)))


def log_losses(predictions: Predictions) -> Floats:
    """−log p(truth) of each utterance, in nats, (utterances,)."""
    of_truth = predictions.probabilities[np.arange(len(predictions)), predictions.truth]
    return np.asarray(-np.log(_positive(of_truth)))


def brier_score(predictions: Predictions) -> float:
    """The mean over utterances of Σ_k (p_k − [k is the truth])², 0 to 2 (Brier 1950)."""
    _some(predictions)
    return float(np.mean(squared_errors(predictions)))


def squared_errors(predictions: Predictions) -> Floats:
    """Σ_k (p_k − [k is the truth])² of each utterance, (utterances,)."""
    wanted = np.eye(len(predictions.labels))[predictions.truth]
    return np.asarray(np.sum((predictions.probabilities - wanted) ** 2, axis=1))


def confidences(predictions: Predictions) -> tuple[Floats, Floats]:
    """Confidence of each answer and whether it is right (1 or 0), each (utterances,)."""
    _some(predictions)
    return (
        np.asarray(predictions.probabilities.max(axis=1), dtype=np.float64),
        (predictions.predicted == predictions.truth).astype(np.float64),
    )


def calibration_error(predictions: Predictions, bins: int = BINS) -> float:
    """ECE: the mean gap between confidence and accuracy over bins of equally many utterances.

    Σ_b n_b / n · |accuracy_b − confidence_b| (Naeini et al. 2015), with equal-mass bins, which are less biased
    than equally wide ones (Roelofs et al. 2022). Even a calibrated model has some, more with fewer utterances.
    """
    return calibration_gap(*confidences(predictions), bins)


def calibration_gap(confidence: Floats, right: Floats, bins: int = BINS) -> float:
    """The same of confidences and whether each was right (1 or 0), each (utterances,)."""
    gaps = [abs(float(np.sum(right[rows] - confidence[rows]))) for rows in _bins(confidence, bins)]
    return sum(gaps) / len(confidence)


def gap_if_calibrated(confidence: Floats, bins: int = BINS, draws: int = 200, seed: int = 0) -> float:
    """The median calibration error of a model with these very confidences that is perfectly calibrated."""
    rng = np.random.default_rng(seed)
    rights = (rng.random((draws, len(confidence))) < confidence).astype(np.float64)
    return float(np.median([calibration_gap(confidence, right, bins) for right in rights]))


@dataclass(frozen=True)
class ReliabilityBin:
    """Utterances of about equal confidence."""

    confidence: float  # mean
    accuracy: float
    low: float  # 95 % interval of the accuracy
    high: float
    count: int


def reliability(
    predictions: Predictions, bins: int = BINS, resamples: int = 1000, seed: int = 0
) -> tuple[ReliabilityBin, ...]:
    """Confidence and accuracy by bins of equally many utterances, rising, with bootstrap intervals.

    Speakers are drawn with replacement, since utterances of one are not independent; the bins stay.
    """
    confidence, right = confidences(predictions)
    rng = np.random.default_rng(seed)
    names, speaker = np.unique(predictions.speakers, return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    found = []
    for rows in _bins(confidence, bins):
        weights = drawn[:, speaker[rows]].astype(np.float64)
        total = weights.sum(axis=1)
        spread = (weights @ right[rows])[total > 0] / total[total > 0]
        low, high = np.percentile(spread, [2.5, 97.5])
        found.append(
            ReliabilityBin(
                confidence=float(confidence[rows].mean()),
                accuracy=float(right[rows].mean()),
                low=float(low),
                high=float(high),
                count=len(rows),
            )
        )
    return tuple(found)


def risk_coverage(predictions: Predictions) -> tuple[Floats, Floats]:
    """Coverage k / n and risk of the k most confident answers, each (utterances,), for k = 1 … n.

    El-Yaniv & Wiener 2010. Answers of equal confidence count with their mean risk, so that order does not matter.
    """
    return risk_by_coverage(*confidences(predictions))


def risk_by_coverage(confidence: Floats, right: Floats) -> tuple[Floats, Floats]:
    """The same of confidences and whether each was right (1 or 0), each (utterances,)."""
    values, group = np.unique(-confidence, return_inverse=True)
    wrong = np.bincount(group, weights=1 - right, minlength=len(values)) / np.bincount(group)
    risk = np.cumsum(wrong[np.sort(group)]) / np.arange(1, len(group) + 1)
    return np.arange(1, len(group) + 1) / len(group), risk


def area_under_risk(predictions: Predictions) -> float:
    """AURC: the mean risk over all coverages (Geifman, Uziel & El-Yaniv 2019); 0 is perfect."""
    return float(np.mean(risk_coverage(predictions)[1]))


def coverage_curve(predictions: Predictions, points: int = 20) -> tuple[CoveragePoint, ...]:
    """The risk–coverage curve as a card keeps it: about `points` confidences, rising; the first answers all."""
    confidence, right = confidences(predictions)
    at = np.quantile(confidence, np.arange(1, points) / points, method="higher")
    return tuple(
        CoveragePoint(
            min_confidence=float(least),
            coverage=float(np.mean(confidence >= least)),
            accuracy=float(np.mean(right[confidence >= least])),
        )
        for least in np.unique([confidence.min(), *at])
    )


CALIBRATION_MEASURES: dict[str, Callable[[Predictions], float]] = {
    "ece": calibration_error,
    "nll": negative_log_likelihood,
    "brier": brier_score,
    "aurc": area_under_risk,
}


# After a refit dev is no longer held out: who judged it, by `protocol.refit`.
JUDGED_BY: Mapping[bool | str, str] = {
    True: "the weights before they were trained again on train and dev together",
    "classifier": "a classifier that was fitted, for each speaker, on train and the other dev speakers",
}


def card_fields(
    dev: Predictions, test: Predictions | None = None, refit: bool | str = False
) -> dict[str, Any]:
    """Temperature, its figures and the curve of abstention, as fields of a `Card`.

    The temperature and the curve come from dev alone; the figures of test, where there are any, say how well
    that carries over. `refit` is the recipe's: whether the exported weights have since heard dev as well.
    """
    temperature = fit_temperature(dev)
    figures: dict[str, float] = {"utterances": float(len(dev))}
    for prefix, table in (("", dev), ("test_", test)):
        if table is None:
            continue
        after = with_temperature(table, temperature)
        for name, measure in CALIBRATION_MEASURES.items():
            figures[f"{prefix}{name}_before"] = measure(table)
            figures[f"{prefix}{name}_after"] = measure(after)
    if test is not None:
        figures["test_utterances"] = float(len(test))
    note = f"Fitted on the {len(dev)} dev utterances of {len(set(dev.speakers))} speakers."
    if refit:
        note += f" The model has since learned from dev as well; there it was judged by {JUDGED_BY[refit]}."
    return {
        "temperature": temperature,
        "calibration": figures,
        "calibration_note": note,
        "coverage": coverage_curve(with_temperature(dev, temperature)),
    }


def draw_reliability(tables: Mapping[str, Predictions], path: Path, bins: int = BINS) -> None:
    """Draw accuracy over confidence and risk over coverage, a line for each named table, to .png, .svg or .pdf.

    Raises `MissingExtraError` without matplotlib and `ModelError` for another suffix.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ModelError(f"cannot draw to '{path}': expected .png, .svg or .pdf")
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1, label="calibrated")
    for name, table in tables.items():
        found = reliability(table, bins)
        accuracy = np.array([item.accuracy for item in found])
        reach = [
            np.maximum(0, accuracy - [item.low for item in found]),
            np.maximum(0, [item.high for item in found] - accuracy),
        ]
        left.errorbar(
            [item.confidence for item in found], accuracy, reach, marker="o", markersize=4, linewidth=1.2,
            elinewidth=0.8, capsize=2, label=f"{name} (ECE {100 * calibration_error(table, bins):.1f} %)",
        )  # fmt: skip
        coverage, risk = risk_coverage(table)
        label = f"{name} (AURC {100 * area_under_risk(table):.1f} %)"
        right.plot(100 * coverage, 100 * risk, linewidth=1.5, label=label)
    left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="Reliability")
    right.set(xlabel="answered (%)", ylabel="of these wrong (%)", xlim=(0, 100), title="Risk and coverage")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _bins(confidence: Floats, bins: int) -> list[npt.NDArray[np.int64]]:
    """Rows by rising confidence in up to `bins` parts of equal size (or one more)."""
    order = np.argsort(confidence, kind="stable")
    return [part for part in np.array_split(order, bins) if part.size]


def _positive(probabilities: Floats) -> Floats:
    return np.where(probabilities == 0, LEAST_PROBABILITY, probabilities)


def _some(predictions: Predictions) -> None:
    if not len(predictions):
        raise EmodistillError("no utterances to calibrate on: expected at least one")
