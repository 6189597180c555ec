"""Calibration: golden values and properties of the measures, the fitted temperature, the card's fields."""

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from emodistill.errors import EmodistillError, MissingExtraError, ModelError
from emodistill.evaluation.calibration import (
    LEAST_PROBABILITY,
    TEMPERATURES,
    area_under_risk,
    brier_score,
    calibration_error,
    calibration_error_interval,
    card_fields,
    coverage_curve,
    error_if_calibrated,
    fit_temperature,
    negative_log_likelihood,
    plot_reliability,
    reliability,
    risk_coverage,
    temperature_fields,
    with_temperature,
)
from emodistill.evaluation.metrics import weighted_accuracy
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.inference.confidence import apply_temperature
from emodistill.inference.model_card import read_card
from emodistill.labels import LabelSet

LABELS = LabelSet(("angry", "happy", "sad", "neutral"))


def predictions_of(probabilities: np.ndarray, truth: np.ndarray, speakers: int = 5) -> Predictions:
    count = len(probabilities)
    return Predictions(
        LABELS, tuple(f"u{row}" for row in range(count)), ("1",) * count,
        tuple(f"s{row % speakers}" for row in range(count)), tuple(LABELS.names[label] for label in truth),
        probabilities,
    )  # fmt: skip


def calibrated_predictions(count: int, seed: int = 0, sharpness: float = 1.0) -> Predictions:
    """Predictions whose truth is drawn from their probabilities, before these are sharpened."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(4, 0.7), count)
    truth = (probabilities.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return predictions_of(apply_temperature(probabilities, 1 / sharpness), truth)


tables = st.builds(
    calibrated_predictions,
    st.integers(1, 60),
    st.integers(0, 10_000),
    st.floats(0.3, 4.0, allow_subnormal=False),
)
temperatures = st.floats(0.2, 8.0)


# --- temperature ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(tables, temperatures, temperatures)
def test_tempering_is_a_power_that_keeps_order(predictions: Predictions, one: float, two: float) -> None:
    probabilities = predictions.probabilities
    warmed = apply_temperature(probabilities, one)
    np.testing.assert_allclose(warmed.sum(axis=1), 1)
    np.testing.assert_array_equal(warmed.argmax(axis=1), probabilities.argmax(axis=1))
    np.testing.assert_allclose(
        apply_temperature(warmed, two), apply_temperature(probabilities, one * two), atol=1e-9
    )
    np.testing.assert_allclose(apply_temperature(probabilities, 1.0), probabilities, atol=1e-12)
    logits = np.log(np.maximum(probabilities, 1e-300)) / one
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(warmed, expected / expected.sum(axis=1, keepdims=True), atol=1e-9)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0, 3.0])
def test_the_fitted_temperature_undoes_sharpening(sharpness: float) -> None:
    predictions = calibrated_predictions(20_000, seed=3, sharpness=sharpness)
    temperature = fit_temperature(predictions)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    assert calibration_error(with_temperature(predictions, temperature)) < 0.015
    if sharpness != 1.0:
        assert calibration_error(predictions) > 0.05


@settings(max_examples=40, deadline=None)
@given(tables)
def test_no_temperature_is_likelier_than_the_fitted_one(predictions: Predictions) -> None:
    best = negative_log_likelihood(with_temperature(predictions, fit_temperature(predictions)))
    for temperature in np.geomspace(*TEMPERATURES, 25):
        assert best <= negative_log_likelihood(with_temperature(predictions, float(temperature))) + 1e-5


def test_a_perfect_and_a_useless_model_stay_within_bounds() -> None:
    right = predictions_of(np.tile([0.7, 0.1, 0.1, 0.1], (8, 1)), np.zeros(8, int))
    wrong = predictions_of(np.tile([0.7, 0.1, 0.1, 0.1], (8, 1)), np.ones(8, int))
    assert fit_temperature(right) == pytest.approx(TEMPERATURES[0], rel=1e-3)
    assert fit_temperature(wrong) == pytest.approx(TEMPERATURES[1], rel=1e-3)


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    predictions = predictions_of(np.array([[1.0, 0.0, 0.0, 0.0]] * 3), np.array([0, 0, 1]))
    assert negative_log_likelihood(predictions) == pytest.approx(-np.log(LEAST_PROBABILITY) / 3)
    assert np.isfinite(negative_log_likelihood(with_temperature(predictions, fit_temperature(predictions))))


# --- measures ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(tables)
def test_likelihood_is_that_of_scikit_learn(predictions: Predictions) -> None:
    assert negative_log_likelihood(predictions) == pytest.approx(
        log_loss(predictions.truth, predictions.probabilities, labels=range(4)), abs=1e-9
    )


def test_measures_by_hand() -> None:
    predictions = predictions_of(
        np.array([[0.6, 0.4, 0, 0], [0.7, 0.3, 0, 0], [0.2, 0.8, 0, 0], [0.1, 0.9, 0, 0]]),
        np.array([1, 0, 1, 1]),  # wrong at 0.6, right at 0.7, 0.8 and 0.9
    )
    # Residuals by rising confidence: -0.6, 0.3 | 0.2, 0.1. Each bin has one pair of speakers.
    assert calibration_error(predictions, bins=2) == 0, "the mean of -0.18 and 0.02 is negative"
    # All pairs: (sum² - sum of squares) / 12, where the sum is 0.
    assert calibration_error(predictions, bins=1) == 0
    assert brier_score(predictions) == pytest.approx((2 * 0.36 + 2 * 0.09 + 2 * 0.04 + 2 * 0.01) / 4)
    coverage, risk = risk_coverage(predictions)
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 0, 0, 0.25])
    assert area_under_risk(predictions) == pytest.approx(0.0625)
    low, high = reliability(predictions, bins=2)
    assert (low.confidence, low.accuracy, low.count) == (pytest.approx(0.65), 0.5, 2)
    assert (high.confidence, high.accuracy, high.low, high.high) == (pytest.approx(0.85), 1, None, None)
    assert [point.coverage for point in coverage_curve(predictions, 4)] == [1, 0.75, 0.5, 0.25]
    assert [point.accuracy for point in coverage_curve(predictions, 4)] == [0.75, 1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(0, 100), st.integers(1, 3))
def test_risk_does_not_depend_on_order(predictions: Predictions, seed: int, decimals: int) -> None:
    rounded = predictions_of(
        np.round(predictions.probabilities, decimals), predictions.truth
    )  # many equal confidences
    order = np.random.default_rng(seed).permutation(len(predictions))
    shuffled = predictions_of(rounded.probabilities[order], rounded.truth[order])
    for one, two in zip(risk_coverage(rounded), risk_coverage(shuffled), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-12)
    assert risk_coverage(rounded)[1][-1] == pytest.approx(
        1 - weighted_accuracy(rounded.truth, rounded.predicted)
    )


@settings(max_examples=60, deadline=None)
@given(tables)
def test_the_curve_of_a_card_holds_for_its_predictions(predictions: Predictions) -> None:
    curve = coverage_curve(predictions)
    least = predictions.probabilities.max(axis=1).min()
    assert (curve[0].min_confidence, curve[0].coverage) == (least, 1)
    assert len(curve) <= 20
    confidence, right = predictions.probabilities.max(axis=1), predictions.predicted == predictions.truth
    for point in curve:
        answered = confidence >= point.min_confidence
        assert point.coverage == pytest.approx(answered.mean())
        assert point.accuracy == pytest.approx(right[answered].mean())
    steps = [point.min_confidence for point in curve]
    assert steps == sorted(set(steps))


@settings(max_examples=30, deadline=None)
@given(tables, st.integers(1, 20))
def test_every_utterance_is_in_one_bin(predictions: Predictions, bins: int) -> None:
    found = reliability(predictions, bins, resamples=50)
    assert sum(item.count for item in found) == len(predictions)
    assert max(item.count for item in found) - min(item.count for item in found) <= 1
    for item in found:
        if item.low is not None and item.high is not None:
            assert 0 <= item.low <= item.accuracy <= item.high <= 1
    confidences = [item.confidence for item in found]
    assert confidences == sorted(confidences)


def test_intervals_are_over_speakers() -> None:
    predictions = calibrated_predictions(600, seed=1)
    alone = Predictions(
        predictions.labels,
        predictions.utterances,
        predictions.folds,
        ("one",) * 600,
        predictions.emotions,
        predictions.probabilities,
    )
    assert all(item.low is item.high is None for item in reliability(alone))
    many = reliability(predictions_of(predictions.probabilities, predictions.truth, speakers=60))
    assert all(item.low < item.accuracy < item.high for item in many)
    assert many == reliability(predictions_of(predictions.probabilities, predictions.truth, speakers=60)), (
        "equal each time"
    )


def test_an_empty_table_cannot_be_calibrated() -> None:
    empty = predictions_of(np.zeros((0, 4)), np.zeros(0, int))
    for measure in (fit_temperature, negative_log_likelihood, brier_score, calibration_error,
                    calibration_error_interval, error_if_calibrated, reliability,
                    risk_coverage, coverage_curve):  # fmt: skip
        with pytest.raises(EmodistillError, match="no utterances to calibrate on"):
            measure(empty)


# --- calibration error ---------------------------------------------------------------------------


def residuals_of(predictions: Predictions) -> np.ndarray:
    return (predictions.predicted == predictions.truth) - predictions.probabilities.max(axis=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 70))
def test_the_squared_calibration_error_is_a_mean_over_pairs_of_speakers(
    count: int, seed: int, bins: int, speakers: int
) -> None:
    table = calibrated_predictions(count, seed, sharpness=3.0)
    table = predictions_of(table.probabilities, table.truth, speakers)
    residuals, numerator, used = residuals_of(table), 0.0, 0
    order = np.argsort(table.probabilities.max(axis=1), kind="stable")
    for rows in np.array_split(order, max(1, min(bins, count // 2))):
        different = [(i, j) for i, j in permutations(rows, 2) if table.speakers[i] != table.speakers[j]]
        pairs = different or list(permutations(rows, 2))
        numerator += len(rows) * float(np.mean([residuals[i] * residuals[j] for i, j in pairs]))
        used += len(rows)
    expected = np.sqrt(max(0.0, numerator / used))
    assert calibration_error(table, bins) == pytest.approx(expected, abs=1e-7)


def test_with_a_speaker_for_each_utterance_it_is_the_estimator_of_kumar() -> None:
    rng = np.random.default_rng(5)
    confidence = np.repeat([0.4, 0.6, 0.8, 0.95], 25)  # equal within each of four bins
    right = rng.random(100) < confidence - 0.2
    probabilities = np.column_stack([confidence, *[(1 - confidence) / 3] * 3])
    table = predictions_of(probabilities, np.where(right, 0, 1), speakers=100)
    expected = 0.0
    for value in np.unique(confidence):
        accuracy = right[confidence == value].mean()
        expected += 0.25 * ((accuracy - value) ** 2 - accuracy * (1 - accuracy) / (25 - 1))
    assert calibration_error(table, bins=4) == pytest.approx(np.sqrt(expected))


@settings(max_examples=40, deadline=None)
@given(tables, st.integers(1, 12), st.integers(0, 50))
def test_the_interval_always_holds_the_estimate(predictions: Predictions, speakers: int, seed: int) -> None:
    table = predictions_of(predictions.probabilities, predictions.truth, speakers)
    low, high = calibration_error_interval(table, resamples=50, seed=seed)
    assert 0 <= low <= calibration_error(table) <= high <= 1


def overconfident_predictions(
    count: int, num_speakers: int, gap: float, rng: np.random.Generator
) -> tuple[Predictions, float]:
    """Predictions whose accuracy is a known function of confidence, and their true calibration error.

    The accuracy is confidence − 2 · gap · (confidence − ¼), the same for all speakers.
    """

    def accuracy(confidence: np.ndarray) -> np.ndarray:
        return confidence - 2 * gap * (confidence - 0.25)

    def draw(size: int) -> np.ndarray:
        return 0.26 + 0.74 * rng.beta(3, 1.5, size)

    confidence, population = draw(count), draw(20_000)
    right = rng.random(count) < accuracy(confidence)
    probabilities = np.column_stack([confidence, *[(1 - confidence) / 3] * 3])
    truth = float(np.sqrt(np.mean((accuracy(population) - population) ** 2)))
    return predictions_of(probabilities, np.where(right, 0, 1), num_speakers), truth


@pytest.mark.parametrize("gap", [0.0, 0.1, 0.2])
@pytest.mark.parametrize(("count", "num_speakers"), [(240, 24), (1000, 24)])
def test_the_interval_covers_the_truth_and_the_estimate_is_near_it(
    count: int, num_speakers: int, gap: float
) -> None:
    rng = np.random.default_rng(1)
    estimates, covered = [], []
    for _ in range(200):
        table, truth = overconfident_predictions(count, num_speakers, gap, rng)
        low, high = calibration_error_interval(table, resamples=200)
        estimates.append(calibration_error(table))
        covered.append(low <= truth <= high)
    # At 0 the interval starts at 0, so that it covers more. 200 draws have a standard error of 1.5 %.
    assert 0.9 <= np.mean(covered) <= (1.0 if gap < 0.15 else 0.99)
    assert np.median(estimates) == pytest.approx(truth, abs=0.02)


def test_a_calibrated_model_exceeds_the_chance_level_in_one_of_twenty_draws() -> None:
    rng = np.random.default_rng(2)
    errors, levels = [], []
    for _ in range(100):
        table, _ = overconfident_predictions(240, 12, 0.0, rng)
        errors.append(calibration_error(table))
        levels.append(error_if_calibrated(table, draws=100))
    assert 0.0 <= np.mean(np.array(errors) > np.array(levels)) <= 0.12
    assert 0.03 < np.mean(levels) < 0.12


def test_one_utterance_has_its_own_gap_as_calibration_error() -> None:
    table = predictions_of(np.array([[0.7, 0.1, 0.1, 0.1]]), np.array([1]))
    assert calibration_error(table) == pytest.approx(0.7)


# --- the card, and the plot ----------------------------------------------------------------------


def test_the_temperature_comes_from_dev_alone() -> None:
    dev, test = (
        calibrated_predictions(500, seed=1, sharpness=2),
        calibrated_predictions(500, seed=2, sharpness=2),
    )
    fields = card_fields(dev, test)
    assert fields["temperature"] == fit_temperature(dev) == card_fields(dev)["temperature"]
    figures = fields["calibration"]
    assert figures["nll_after"] < figures["nll_before"]
    assert figures["test_nll_before"] == negative_log_likelihood(test)
    assert figures["test_ece_after"] == calibration_error(with_temperature(test, fields["temperature"]))
    assert (figures["utterances"], figures["test_utterances"]) == (500, 500)
    assert fields["coverage"] == coverage_curve(with_temperature(dev, fields["temperature"]))
    assert fields["calibration_note"].startswith("Fitted on the 500 dev utterances of 5 speakers.")
    assert "weights before the refit" in card_fields(dev, refit=True)["calibration_note"]
    assert (
        "by a classifier that was fitted, for each dev speaker"
        in card_fields(dev, refit="classifier")["calibration_note"]
    )
    assert not any(name.startswith("test") for name in card_fields(dev)["calibration"])


def test_predictions_with_known_utterances_have_their_own_temperature() -> None:
    dev, test = (calibrated_predictions(500, seed=seed, sharpness=2) for seed in (1, 2))
    known_dev, known_test = (calibrated_predictions(500, seed=seed, sharpness=3) for seed in (3, 4))
    without, fields = card_fields(dev, test), card_fields(dev, test, known_dev, known_test)
    assert "temperature_voice" not in without
    assert fields["temperature"] == without["temperature"]
    assert fields["coverage"] == without["coverage"]
    assert fields["temperature_voice"] == fit_temperature(known_dev) > fields["temperature"]
    figures = fields["calibration"]
    assert figures.items() > without["calibration"].items()
    scaled = with_temperature(known_test, fields["temperature_voice"])
    assert figures["voice_test_ece_after"] == calibration_error(scaled)
    assert (figures["voice_utterances"], figures["voice_test_utterances"]) == (500, 500)
    assert figures["voice_nll_after"] < figures["voice_nll_before"]
    alone = temperature_fields(known_dev, known_test, voice=True)
    assert alone["temperature_voice"] == fields["temperature_voice"]
    assert alone["calibration"].items() < figures.items()


def test_an_export_is_calibrated_on_the_dev_predictions_of_its_fold(exported: Path, run: Path) -> None:
    card = read_card(exported)
    dev, test = (
        read_predictions(run / f"fold-{card.fold}" / name)
        for name in ("predictions-dev.csv", "predictions.csv")
    )
    expected = card_fields(dev, test, refit=True)
    assert card.temperature == pytest.approx(expected["temperature"])
    assert card.calibration == pytest.approx(expected["calibration"])
    assert card.calibration_note == expected["calibration_note"]
    assert card.coverage == expected["coverage"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_reliability_is_plotted(tmp_path: Path, suffix: str) -> None:
    predictions = calibrated_predictions(300, sharpness=2)
    path = tmp_path / f"new/folder/plot{suffix}"
    plot_reliability({"before": predictions, "after": with_temperature(predictions, 2.0)}, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" if suffix == ".png" else b"<svg" in path.read_bytes()
    with pytest.raises(ModelError, match=r"cannot plot to '.*plot\.txt': expected \.png"):
        plot_reliability({"before": predictions}, tmp_path / "plot.txt")


def test_plotting_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"emodistill\[plot\]"):
        plot_reliability({"x": calibrated_predictions(5)}, tmp_path / "plot.png")
