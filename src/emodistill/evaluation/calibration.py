"""Calibration of confidences: temperature, calibration error, reliability, risk and coverage.

The functions take `Predictions`. Tables have seven decimals, so where a logarithm is needed, a probability of
0 counts as half of the last decimal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.errors import EmodistillError, MissingExtraError, ModelError
from emodistill.evaluation.bootstrap import (
    Estimate,
    Floats,
    Indices,
    draw_speakers,
    make_estimate,
    percentile_interval,
)
from emodistill.evaluation.predictions import Predictions
from emodistill.files import atomic_write
from emodistill.inference.confidence import apply_temperature
from emodistill.inference.model_card import AccuracyPoint, CoveragePoint, why_no_interval

BINS = 15  # of the calibration error and of reliability, with equal numbers of utterances
LEAST_PROBABILITY = 5e-8  # smaller ones are written as 0
TEMPERATURES = (0.1, 10.0)  # bounds of a fit; beyond them the model is perfect or useless, and no fit helps


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions with their logits divided by a temperature; the predicted emotions stay the same."""
    return replace(
        predictions, probabilities=apply_temperature(_positive(predictions.probabilities), temperature)
    )


def fit_temperature(predictions: Predictions, shares: Floats | None = None) -> float:
    """The temperature, within `TEMPERATURES`, with the smallest negative log-likelihood of the true emotions.

    With `shares` of votes (utterances, emotions) it has the smallest cross entropy with these. Guo et al.
    2017, "On Calibration of Modern Neural Networks", section 4.2. The loss is convex in 1 / temperature, so
    the search finds the minimum. Raises `EmodistillError` where there are no utterances.
    """
    _check_not_empty(predictions)
    low, high = (1 / temperature for temperature in reversed(TEMPERATURES))
    from scipy.optimize import minimize_scalar  # it takes half a second to load

    def loss(inverse: float) -> float:
        scaled = with_temperature(predictions, 1 / inverse)
        if shares is None:
            return negative_log_likelihood(scaled)
        return -float((shares * np.log(_positive(scaled.probabilities))).sum(axis=1).mean())

    result = minimize_scalar(
        loss,
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(1 / result.x)


def negative_log_likelihood(predictions: Predictions) -> float:
    """The mean over utterances of −log p(true emotion), in nats."""
    _check_not_empty(predictions)
    return float(np.mean(log_losses(predictions)))


def log_losses(predictions: Predictions) -> Floats:
    """−log p(true emotion) of each utterance, in nats, (utterances,)."""
    p_true = predictions.probabilities[np.arange(len(predictions)), predictions.truth]
    return np.asarray(-np.log(_positive(p_true)))


def brier_score(predictions: Predictions) -> float:
    """The mean over utterances of Σ_k (p_k − [k is true])², from 0 to 2 (Brier 1950)."""
    _check_not_empty(predictions)
    return float(np.mean(squared_errors(predictions)))


def squared_errors(predictions: Predictions) -> Floats:
    """Σ_k (p_k − [k is true])² of each utterance, (utterances,)."""
    one_hot = np.eye(len(predictions.labels))[predictions.truth]
    return np.asarray(np.sum((predictions.probabilities - one_hot) ** 2, axis=1))


def confidences(predictions: Predictions) -> tuple[Floats, Floats]:
    """The confidence of each prediction and whether it is correct (1 or 0), each (utterances,)."""
    _check_not_empty(predictions)
    return (
        np.asarray(predictions.probabilities.max(axis=1), dtype=np.float64),
        (predictions.predicted == predictions.truth).astype(np.float64),
    )


def calibration_error(predictions: Predictions, bins: int = BINS) -> float:
    """The root mean square gap between confidence and accuracy, from 0 to 1, debiased.

    The utterances are sorted by confidence and put in bins of equal size. With a residual r = [correct] −
    confidence, the squared error is

        Σ_b n_b / n · mean of r_i · r_j over pairs i, j of different speakers in bin b

    This is the debiased estimator of Kumar, Liang & Ma 2019, "Verified Uncertainty Calibration" (arXiv
    1909.10155, section 5). Theirs takes all pairs i ≠ j, and the confidence is equal within a bin. It holds
    for the L2 error alone. An L1 error, the usual ECE, has no unbiased estimator: near 0 it stays too high.

    Pairs of one speaker are left out, because accuracy differs between speakers. A bin with one speaker has
    no other pairs, so it uses them. Chance can make the mean negative, which gives 0. Raises
    `EmodistillError` where there are no utterances.
    """
    return _PairSums.of(*confidences(predictions), _speaker_numbers(predictions), bins).error_of_all()


def calibration_error_interval(
    predictions: Predictions, bins: int = BINS, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of `calibration_error`, by bootstrap over speakers; it always holds the estimate.

    The bins stay those of all utterances. A speaker that is drawn several times is still one speaker, so that
    its utterances form no pairs. Therefore the draws of the squared error have the estimate as their mean,
    and the percentiles need no correction but that for few speakers. In simulations with 12 speakers or more,
    the interval covers the truth in at least 89 % of cases. With 6 speakers it covers it in at least 81 %.
    """
    sums = _PairSums.of(*confidences(predictions), _speaker_numbers(predictions), bins)
    counts, _ = draw_speakers(predictions.speakers, resamples, seed)
    low, high = percentile_interval(sums.error(counts.astype(np.float64)), counts.shape[1])
    estimate = sums.error_of_all()
    return min(low, estimate), max(high, estimate)


def calibration_error_estimate(predictions: Predictions) -> Estimate:
    """`calibration_error` with its interval, or with the reason why there is none."""
    value = calibration_error(predictions)
    reason = why_no_interval(len(set(predictions.speakers)))
    if reason is not None:
        return Estimate(value, no_interval=reason)
    return Estimate(value, *calibration_error_interval(predictions))


def error_if_calibrated(predictions: Predictions, draws: int = 400, seed: int = 0) -> float:
    """The calibration error that a perfectly calibrated model exceeds by chance in 5 % of draws.

    The simulated model has the confidences and speakers of `predictions`. In each draw, every prediction is
    correct with the probability that its confidence states.
    """
    confidence, _ = confidences(predictions)
    rng = np.random.default_rng(seed)
    simulated = (rng.random((draws, len(confidence))) < confidence).astype(np.float64)
    speakers = _speaker_numbers(predictions)
    errors = [_PairSums.of(confidence, correct, speakers, BINS).error_of_all() for correct in simulated]
    return float(np.quantile(errors, 0.95))


@dataclass(frozen=True)
class _PairSums:
    """Sums of the residuals of each speaker in each bin, from which the mean over pairs follows.

    Each is (speakers, bins).
    """

    residuals: Floats
    squares: Floats  # of residuals
    counts: Floats

    @classmethod
    def of(cls, confidence: Floats, correct: Floats, speakers: Indices, bins: int) -> "_PairSums":
        """The sums from confidence, correctness (1 or 0) and speaker number of utterances; (utterances,)."""
        num_bins = max(1, min(bins, len(confidence) // 2))  # a bin of one utterance has no pair
        bin_of_row = np.zeros(len(confidence), dtype=np.int64)
        for number, rows in enumerate(_bins(confidence, num_bins)):
            bin_of_row[rows] = number
        shape = (int(speakers.max()) + 1, num_bins)
        cells = speakers * num_bins + bin_of_row

        def sums(values: Floats) -> Floats:
            totals = np.bincount(cells, weights=values, minlength=shape[0] * shape[1])
            return totals.astype(np.float64).reshape(shape)

        residual = correct - confidence
        return cls(sums(residual), sums(residual**2), sums(np.ones_like(residual)))

    def error_of_all(self) -> float:
        """The calibration error of all utterances."""
        return float(self.error(np.ones((1, len(self.counts))))[0])

    def error(self, weights: Floats) -> Floats:
        """The calibration error of each draw, (draws,).

        `weights` (draws, speakers) is how often a draw takes each speaker. A bin without a pair is left out
        of the draw, and a draw without any pair is NaN. A single utterance has its own gap as error.
        """
        if self.counts.sum() == 1:
            return np.full(len(weights), np.abs(self.residuals).sum())
        products = (weights @ self.residuals) ** 2 - weights**2 @ self.residuals**2
        pairs = (weights @ self.counts) ** 2 - weights**2 @ self.counts**2
        drawn = (weights > 0).astype(np.float64)
        is_alone = drawn @ (self.counts > 0) == 1
        products = np.where(is_alone, drawn @ (self.residuals**2 - self.squares), products)
        pairs = np.where(is_alone, drawn @ (self.counts**2 - self.counts), pairs)
        sizes = np.where(pairs > 0, weights @ self.counts, 0.0)
        means = products / np.where(pairs > 0, pairs, 1.0)
        with np.errstate(invalid="ignore"):
            squared = (sizes * means).sum(axis=1) / sizes.sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


@dataclass(frozen=True)
class ReliabilityBin:
    """Accuracy of utterances with similar confidence."""

    confidence: float  # mean
    accuracy: float
    low: float | None  # 95 % interval of the accuracy; None: too few speakers
    high: float | None
    count: int


def reliability(
    predictions: Predictions, bins: int = BINS, resamples: int = 1000, seed: int = 0
) -> tuple[ReliabilityBin, ...]:
    """Confidence and accuracy in bins of equal numbers of utterances, by rising confidence.

    Intervals are by bootstrap over speakers. A bin keeps its utterances in all draws, and a draw without any
    of them does not count.
    """
    confidence, correct = confidences(predictions)
    rng = np.random.default_rng(seed)
    names, speaker_of_row = np.unique(predictions.speakers, return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    reliability_bins = []
    for rows in _bins(confidence, bins):
        weights = counts[:, speaker_of_row[rows]].astype(np.float64)
        total = weights.sum(axis=1)
        accuracies = (weights @ correct[rows])[total > 0] / total[total > 0]
        accuracy = make_estimate(float(correct[rows].mean()), accuracies, len(names))
        reliability_bins.append(
            ReliabilityBin(
                confidence=float(confidence[rows].mean()),
                accuracy=accuracy.value,
                low=accuracy.low,
                high=accuracy.high,
                count=len(rows),
            )
        )
    return tuple(reliability_bins)


def risk_coverage(predictions: Predictions) -> tuple[Floats, Floats]:
    """Coverage k / n and error rate of the k most confident predictions, for k = 1 … n, each (utterances,).

    El-Yaniv & Wiener 2010. Predictions of equal confidence count with their mean error rate, so that the
    order of rows does not matter.
    """
    return risk_by_coverage(*confidences(predictions))


def risk_by_coverage(confidence: Floats, correct: Floats) -> tuple[Floats, Floats]:
    """Coverage and risk, from each prediction's confidence and correctness (1 or 0); all (utterances,)."""
    values, group = np.unique(-confidence, return_inverse=True)
    wrong = np.bincount(group, weights=1 - correct, minlength=len(values)) / np.bincount(group)
    risk = np.cumsum(wrong[np.sort(group)]) / np.arange(1, len(group) + 1)
    return np.arange(1, len(group) + 1) / len(group), risk


def area_under_risk(predictions: Predictions) -> float:
    """AURC: the mean risk over all coverages (Geifman, Uziel & El-Yaniv 2019), 0 without errors."""
    return float(np.mean(risk_coverage(predictions)[1]))


def coverage_curve(predictions: Predictions, points: int = 20) -> tuple[CoveragePoint, ...]:
    """A model card's risk–coverage curve: about `points` rising thresholds. The first answers everything."""
    confidence, correct = confidences(predictions)
    quantiles = np.quantile(confidence, np.arange(1, points) / points, method="higher")
    return tuple(
        CoveragePoint(
            min_confidence=float(threshold),
            coverage=float(np.mean(confidence >= threshold)),
            accuracy=float(np.mean(correct[confidence >= threshold])),
        )
        for threshold in np.unique([confidence.min(), *quantiles])
    )


# The names are keys of `card.json` and of `emodistill scores --format json`.
CALIBRATION_MEASURES: dict[str, Callable[[Predictions], float]] = {
    "ece": calibration_error,
    "nll": negative_log_likelihood,
    "brier": brier_score,
    "aurc": area_under_risk,
}


# What predicts dev, by `protocol.refit`: the final model was trained on dev, so it can't.
DEV_PREDICTOR: Mapping[bool | str, str] = {
    True: "the weights before the refit on train and dev",
    "classifier": "a classifier that was fitted, for each dev speaker, on train and the other dev speakers",
}


def accuracy_by_confidence(predictions: Predictions) -> tuple[AccuracyPoint, ...]:
    """The accuracy of predictions by their confidence, as it never falls: a point for each of up to 22 bins.

    The bins hold 5 % of the utterances each; the surest 5 % are cut once more, into 2.5, 1.5 and 1 %.
    Isotonic regression then makes the accuracy of the bins monotone (Barlow et al. 1972). Raises
    `EmodistillError` where there are no utterances.
    """
    from sklearn.isotonic import isotonic_regression

    confidence, correct = confidences(predictions)
    order = np.argsort(confidence, kind="stable")
    edges = np.round(np.array([*np.arange(0, 1, 0.05), 0.975, 0.99]) * len(order)).astype(int)
    parts = [part for part in np.split(order, np.unique(edges)[1:]) if part.size]
    accuracy = isotonic_regression(
        [correct[part].mean() for part in parts], sample_weight=[len(part) for part in parts]
    )
    return tuple(
        AccuracyPoint(confidence=float(confidence[part].mean()), accuracy=float(value))
        for part, value in zip(parts, accuracy, strict=True)
    )


def card_fields(
    fitted: Predictions,
    test: Predictions | None = None,
    known_fitted: Predictions | None = None,
    known_test: Predictions | None = None,
    source: str | None = None,
    refit: bool | str = False,
) -> dict[str, Any]:
    """The calibration fields of a `Card`: temperatures, their figures and the risk–coverage curve.

    Temperature and curve come from `fitted` alone. Figures of `test`, where it is given, show whether they
    hold for other speakers.

    Args:
        fitted: predictions of dev, or of corpora that were left out, without a voice.
        known_fitted: the same with known utterances of the speaker. They give `temperature_voice`. None: it
            stays unset, and the recogniser uses `temperature` with a voice too.
        known_test: the same of test, for the figures.
        source: a sentence that says what `fitted` is. None: dev of the run.
        refit: the recipe's `protocol.refit`: whether the exported weights were trained on dev as well.
    """
    fields = temperature_fields(fitted, test)
    note = source or f"Fitted on the {len(fitted)} dev utterances of {len(set(fitted.speakers))} speakers."
    note += " The ece is a debiased root mean square gap between confidence and accuracy."
    if refit and source is None:
        note += f" The refit then trained on dev too, so dev was predicted by {DEV_PREDICTOR[refit]}."
    if known_fitted is not None:
        with_voice = temperature_fields(known_fitted, known_test, voice=True)
        fields = {**with_voice, **fields, "calibration": fields["calibration"] | with_voice["calibration"]}
        note += " Figures that begin with voice are of predictions with known utterances of the speaker."
    return {
        **fields,
        "calibration_note": note,
        **_card_curves(fitted, fields["temperature"]),
        **({} if known_fitted is None else _card_curves(known_fitted, fields["temperature_voice"], "_voice")),
    }


def _card_curves(table: Predictions, temperature: float, suffix: str = "") -> dict[str, Any]:
    scaled = with_temperature(table, temperature)
    return {
        f"coverage{suffix}": coverage_curve(scaled),
        f"accuracy{suffix}": accuracy_by_confidence(scaled),
    }


def temperature_fields(
    fitted: Predictions, test: Predictions | None = None, voice: bool = False
) -> dict[str, Any]:
    """A temperature that is fitted on one table, as the fields of a `Card`, with its figures.

    The field is `temperature`, or with `voice` `temperature_voice`. The figures are in `calibration`: each of
    `CALIBRATION_MEASURES` before and after scaling, and the number of utterances. Those of `test` begin with
    test_. With `voice`, all begin with voice_.
    """
    temperature = fit_temperature(fitted)
    figures: dict[str, float] = {}
    for split, table in (("", fitted), ("test_", test)):
        if table is None:
            continue
        prefix = f"voice_{split}" if voice else split
        after = with_temperature(table, temperature)
        figures[f"{prefix}utterances"] = float(len(table))
        for name, measure in CALIBRATION_MEASURES.items():
            figures[f"{prefix}{name}_before"] = measure(table)
            figures[f"{prefix}{name}_after"] = measure(after)
    return {"temperature_voice" if voice else "temperature": temperature, "calibration": figures}


def plot_reliability(tables: Mapping[str, Predictions], path: Path, bins: int = BINS) -> None:
    """Plot accuracy over confidence, and risk over coverage, to .png, .svg or .pdf: a line for each table.

    Raises `MissingExtraError` without matplotlib and `ModelError` for another suffix.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ModelError(f"cannot plot to '{path}': expected .png, .svg or .pdf")
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1, label="calibrated")
    for name, table in tables.items():
        reliability_bins = reliability(table, bins)
        accuracy = np.array([item.accuracy for item in reliability_bins])
        interval = [
            [0.0 if item.low is None else item.accuracy - item.low for item in reliability_bins],
            [0.0 if item.high is None else item.high - item.accuracy for item in reliability_bins],
        ]
        left.errorbar(
            [item.confidence for item in reliability_bins], accuracy, interval, marker="o", markersize=4,
            linewidth=1.2, elinewidth=0.8, capsize=2,
            label=f"{name} (calibration error {100 * calibration_error(table, bins):.1f} %)",
        )  # fmt: skip
        coverage, risk = (100 * values for values in risk_coverage(table))
        right.plot(coverage, risk, linewidth=1.5, label=f"{name} (AURC {100 * area_under_risk(table):.1f} %)")
    left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="Reliability")
    right.set(xlabel="answered (%)", ylabel="wrong among these (%)", xlim=(0, 100), title="Risk and coverage")
    right.set_ylim(bottom=0)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)


def _bins(confidence: Floats, bins: int) -> list[Indices]:
    """The indices of rows by rising confidence, in up to `bins` parts whose sizes differ by at most one."""
    order = np.argsort(confidence, kind="stable")
    return [part for part in np.array_split(order, bins) if part.size]


def _speaker_numbers(predictions: Predictions) -> Indices:
    """The speaker of each utterance as a number from 0, (utterances,)."""
    return np.asarray(np.unique(np.asarray(predictions.speakers), return_inverse=True)[1], dtype=np.int64)


def _positive(probabilities: Floats) -> Floats:
    return np.where(probabilities == 0, LEAST_PROBABILITY, probabilities)


def _check_not_empty(predictions: Predictions) -> None:
    if not len(predictions):
        raise EmodistillError("no utterances to calibrate on: expected at least one")
