"""Scores of dimensions: CCC, Pearson's r, RMSE, and their intervals."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.dimension_scores import (
    NO_LABELS,
    SAME_LABELS,
    SAME_PREDICTIONS,
    concordance,
    mean_ccc,
    measure_pairs,
    score_dimension,
    score_dimensions,
    summarise_dimensions,
)

Floats = np.ndarray
UNIT = st.integers(0, 1000).map(lambda value: value / 1000)
PAIRS = st.lists(st.tuples(UNIT, UNIT), min_size=2, max_size=30).map(lambda rows: np.array(rows).T)


def varied(pairs: Floats) -> bool:
    return bool(np.ptp(pairs[0]) and np.ptp(pairs[1]))


def table(truth: Floats, predicted: Floats, speakers: int = 6, folds: int = 2) -> DimensionPredictions:
    """A table of one dimension; speakers and folds take turns."""
    count = len(truth)
    return DimensionPredictions(
        ("arousal",), tuple(f"u{row}" for row in range(count)),
        tuple(str(row % speakers % folds) for row in range(count)),
        tuple(f"s{row % speakers}" for row in range(count)), truth[:, None], predicted[:, None],
    )  # fmt: skip


def drawn(seed: int = 0, count: int = 120, noise: float = 0.15, **sizes: int) -> DimensionPredictions:
    random = np.random.default_rng(seed)
    truth = random.uniform(size=count)
    return table(truth, np.clip(truth + noise * random.normal(size=count), 0, 1), **sizes)


@given(PAIRS.filter(varied))
def test_scores_equal_their_formulas(pairs: Floats) -> None:
    truth, predicted = pairs
    found = measure_pairs(truth, predicted)
    covariance = np.cov(truth, predicted, ddof=0)
    ccc = 2 * covariance[0, 1] / (np.trace(covariance) + (truth.mean() - predicted.mean()) ** 2)
    assert found["ccc"] == pytest.approx(ccc, abs=1e-9)
    assert found["pearson"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1], abs=1e-7)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((truth - predicted) ** 2)), abs=1e-7)


@given(PAIRS.filter(varied))
def test_ccc_is_symmetric_and_at_most_the_size_of_pearsons_r(pairs: Floats) -> None:
    found = measure_pairs(*pairs)
    assert found["ccc"] is not None
    assert found["pearson"] is not None
    assert abs(found["ccc"]) <= abs(found["pearson"]) + 1e-9 <= 1 + 2e-9
    assert concordance(pairs[1], pairs[0]) == pytest.approx(found["ccc"], abs=1e-12)


@given(PAIRS.filter(varied), st.floats(0.1, 10), st.floats(-2, 2))
def test_pearsons_r_ignores_scale_and_shift_and_ccc_does_not(
    pairs: Floats, scale: float, shift: float
) -> None:
    truth, predicted = pairs
    found, moved = measure_pairs(truth, predicted), measure_pairs(truth, scale * predicted + shift)
    assert moved["pearson"] == pytest.approx(found["pearson"], abs=1e-6)
    assert concordance(truth, truth) == pytest.approx(1)
    shifted = concordance(truth, truth + 0.5)
    assert shifted is not None
    assert shifted < 1


@given(PAIRS, st.lists(st.booleans(), min_size=30, max_size=30))
def test_utterances_without_a_label_do_not_count(pairs: Floats, mask: list[bool]) -> None:
    keep = np.array(mask[: pairs.shape[1]])
    truth = np.where(keep, pairs[0], np.nan)
    expected = measure_pairs(pairs[0][keep], pairs[1][keep])
    assert measure_pairs(truth, pairs[1]) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)  # the first call loads scipy
@given(st.integers(0, 50), st.floats(0, 1), st.integers(5, 12))
def test_an_interval_holds_its_score(seed: int, noise: float, speakers: int) -> None:
    scores = score_dimension(drawn(seed, noise=noise, speakers=speakers), "arousal", resamples=200).scores
    for estimate in scores.values():
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high


def test_fewer_than_five_speakers_give_no_interval() -> None:
    estimate = score_dimension(drawn(speakers=4), "arousal").scores["ccc"]
    assert estimate is not None
    assert estimate.low is None
    assert estimate.no_interval == "no interval: 4 speakers, 5 needed"


@pytest.mark.parametrize(
    ("truth", "predicted", "undefined"),
    [
        (np.full(12, 0.5), np.linspace(0, 1, 12), {"ccc": SAME_LABELS, "pearson": SAME_LABELS}),
        (np.linspace(0, 1, 12), np.full(12, 0.3), {"pearson": SAME_PREDICTIONS}),
        (np.full(12, np.nan), np.full(12, 0.3), dict.fromkeys(("ccc", "pearson", "rmse"), NO_LABELS)),
    ],
)
def test_a_score_that_is_not_defined_is_none_with_its_reason(
    truth: Floats, predicted: Floats, undefined: dict[str, str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = score_dimensions("student", table(truth, predicted), resamples=50)
    score = scored.dimensions["arousal"]
    assert score.undefined == undefined
    assert {name for name, value in score.scores.items() if value is None} == set(undefined)
    for name in undefined:
        assert score.folds[name] is None
    assert (scored.mean_ccc is None) == ("ccc" in undefined)


def test_a_constant_prediction_has_ccc_0() -> None:
    assert concordance(np.linspace(0, 1, 12), np.full(12, 0.3)) == 0


def test_the_mean_ccc_is_over_dimensions_and_the_mean_over_folds_over_folds() -> None:
    one, two = drawn(1), drawn(2)
    both = DimensionPredictions(
        ("arousal", "valence"), one.utterances, one.folds, one.speakers,
        np.hstack([one.truth, two.truth]), np.hstack([one.predicted, two.predicted]),
    )  # fmt: skip
    cccs = [concordance(item.truth[:, 0], item.predicted[:, 0]) for item in (one, two)]
    assert mean_ccc(both) == pytest.approx(np.mean(np.array(cccs, dtype=float)))
    scored = score_dimensions("student", both, resamples=200)
    assert scored.mean_ccc is not None
    assert scored.mean_ccc.value == mean_ccc(both)
    folds = [concordance(part.truth[:, 0], part.predicted[:, 0]) for part in one.by_fold().values()]
    over_folds = summarise_dimensions(both)["mean_over_folds"]["arousal"]["ccc"]
    assert over_folds["mean"] == pytest.approx(np.mean(np.array(folds, dtype=float)))
    assert over_folds["folds"] == 2
