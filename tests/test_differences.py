"""Intervals, p-values and smallest detectable differences: their properties, and coverage in simulations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.evaluation.bootstrap import (
    bootstrap_confusions,
    draw_speakers,
    make_estimate,
    percentile_interval,
)
from emodistill.evaluation.differences import Difference, make_difference
from emodistill.evaluation.metrics import scores_of_confusions
from emodistill.evaluation.predictions import Predictions
from emodistill.inference.model_card import MIN_SPEAKERS
from emodistill.labels import LabelSet

LABELS = LabelSet(("angry", "happy", "sad"))


def predictions(seed: int, num_speakers: int, count: int = 60) -> Predictions:
    """Predictions with unequal numbers of utterances of speakers and emotions."""
    rng = np.random.default_rng(seed)
    speakers = rng.integers(num_speakers, size=count) ** 2 // num_speakers
    truth = (rng.integers(3, size=count) + speakers) % 3
    return Predictions(
        LABELS, tuple(f"u{i}" for i in range(count)), ("1",) * count, tuple(f"s{i}" for i in speakers),
        tuple(LABELS.names[label] for label in truth), rng.dirichlet(np.ones(3), count),
    )  # fmt: skip


def random_difference(
    seed: int, num_speakers: int, seeds: int, gap: float = 0.0, effect: float = 0.05, seed_sd: float = 0.02
) -> Difference:
    """The difference of two systems whose speakers have accuracies around 0.7 and 0.7 + `gap`."""
    rng = np.random.default_rng(seed)
    accuracy = 0.7 + 0.1 * rng.standard_normal(num_speakers)

    def system(shift: float, spread: float) -> np.ndarray:
        speakers = accuracy + shift + spread * rng.standard_normal(num_speakers)
        models = seed_sd * rng.standard_normal((seeds, 1))
        return speakers + models + 0.02 * rng.standard_normal((seeds, num_speakers))

    reference, run = system(0.0, 0.0), system(gap, effect)
    counts, _ = draw_speakers([f"{i:04}" for i in range(num_speakers)], 400, seed)
    draws = counts @ (run - reference).mean(axis=0) / num_speakers
    return make_difference(reference.mean(axis=1), run.mean(axis=1), draws, num_speakers)


# --- properties -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from(["ua", "wa", "macro_f1", "weighted_f1"]))
def test_an_interval_holds_its_own_estimate_or_says_why_there_is_none(
    seed: int, num_speakers: int, measure: str
) -> None:
    table = predictions(seed, num_speakers)
    num_drawn = len(set(table.speakers))
    value = getattr(table.scores(), measure)
    draws = scores_of_confusions(bootstrap_confusions(table, 200, seed))[measure]
    found = make_estimate(value, draws, num_drawn)
    if num_drawn < MIN_SPEAKERS:
        assert found.low is found.high is None
        assert found.no_interval == (
            f"no interval: {num_drawn} speaker{'s' if num_drawn > 1 else ''}, {MIN_SPEAKERS} needed"
        )
    else:
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
        assert found.no_interval is None


@settings(deadline=None)
@given(st.floats(-1, 1), st.integers(MIN_SPEAKERS, 40))
def test_an_estimate_outside_of_all_its_draws_is_held_too(value: float, num_speakers: int) -> None:
    draws = np.random.default_rng(0).uniform(0.2, 0.4, 100)
    found = make_estimate(value, draws, num_speakers)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= value <= found.high


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(MIN_SPEAKERS, 30), st.integers(1, 5), st.floats(-0.3, 0.3))
def test_interval_p_value_and_detectable_difference_agree(
    seed: int, num_speakers: int, seeds: int, gap: float
) -> None:
    found = random_difference(seed, num_speakers, seeds, gap)
    assert found.low is not None
    assert found.high is not None
    assert found.p_value is not None
    assert found.detectable is not None
    assert found.low <= found.value <= found.high
    assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)
    half = (found.high - found.low) / 2
    assert half < found.detectable < 2 * half


@settings(deadline=None)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_the_order_of_seeds_does_not_matter(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    reference, run, draws = rng.random(4), rng.random(4), rng.random(50)
    one = make_difference(reference, run, draws, 8)
    other = make_difference(reference[order], run, draws, 8)
    for name, value in vars(one).items():
        assert vars(other)[name] == (None if value is None else pytest.approx(value)), name


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(MIN_SPEAKERS, 20), st.integers(1, 4))
def test_equal_runs_have_no_difference(seed: int, num_speakers: int, seeds: int) -> None:
    values = np.random.default_rng(seed).random(seeds)
    found = make_difference(values, values, np.zeros(50), num_speakers)
    assert (found.value, found.p_value) == (0, 1)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0 <= found.high
    assert (found.low == found.high) == (seeds == 1), "several seeds differ among each other"


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 4))
def test_exchanged_systems_give_the_opposite(seed: int, first: int, second: int) -> None:
    rng = np.random.default_rng(seed)
    reference, run, draws = rng.random(first), rng.random(second), rng.random(50)
    one = make_difference(reference, run, draws, 9)
    other = make_difference(run, reference, -draws, 9)
    assert (one.low, one.high, one.p_value, one.detectable) == pytest.approx(
        (-(other.high or 0), -(other.low or 0), other.p_value, other.detectable)
    )


@settings(deadline=None)
@given(st.integers(1, MIN_SPEAKERS - 1))
def test_few_speakers_give_neither_interval_nor_p_value(num_speakers: int) -> None:
    found = make_difference(np.array([0.5]), np.array([0.7]), np.full(50, 0.2), num_speakers)
    assert found.value == pytest.approx(0.2)
    assert found.low is found.high is found.p_value is found.detectable is None
    assert found.no_interval is not None
    assert f"{MIN_SPEAKERS} needed" in found.no_interval


# --- by hand --------------------------------------------------------------------------------------


def test_one_seed_has_the_standard_error_over_speakers_alone() -> None:
    draws = np.array([0.0, 0.1] * 50)
    found = make_difference(np.array([0.5]), np.array([0.55]), draws, 11)
    error = np.std(draws, ddof=1) * np.sqrt(11 / 10)
    assert found.high == pytest.approx(0.05 + 2.2281 * error, abs=1e-5)  # t(0.975, 10)
    assert found.detectable == pytest.approx((2.2281 + 0.8791) * error, abs=1e-4)  # t(0.8, 10)
    assert found.reference_sd is None


def test_seeds_add_their_variance() -> None:
    reference, run = np.array([0.50, 0.52]), np.array([0.60, 0.66, 0.63])
    found = make_difference(reference, run, np.full(50, 0.12), 11)
    # Speakers add nothing here. The sums of squares over seeds are 0.0002 and 0.0018, with 1 + 2 degrees.
    error = np.sqrt((0.0002 + 0.0018) / 3 * (1 / 2 + 1 / 3))
    assert found.high == pytest.approx(0.12 + 3.1824 * error, abs=1e-5)  # t(0.975, 3)
    assert (found.reference_sd, found.run_sd) == pytest.approx((np.sqrt(0.0002), np.sqrt(0.0018 / 2)))
    with_one = make_difference(reference[:1], run, np.full(50, 0.13), 11)
    assert with_one.high == pytest.approx(0.13 + 4.3027 * np.sqrt(0.0018 / 2 * (1 + 1 / 3)), abs=1e-5)
    assert with_one.reference_sd is None


def test_a_difference_that_all_speakers_share_has_the_p_value_of_the_sign_test() -> None:
    found = make_difference(np.array([0.5]), np.array([0.75]), np.full(50, 0.25), 6)
    assert found.p_value == 2 / 2**6


def test_percentiles_are_expanded_for_few_speakers() -> None:
    draws = np.random.default_rng(0).standard_normal(100_000)
    assert percentile_interval(draws) == pytest.approx((-1.96, 1.96), abs=0.03)
    # √(n / (n − 1)) · t(0.975, n − 1)
    assert percentile_interval(draws, 12) == pytest.approx((-2.299, 2.299), abs=0.03)
    assert percentile_interval(draws, 1000) == pytest.approx((-1.963, 1.963), abs=0.03)


# --- simulations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_speakers", "seeds"), [(6, 1), (12, 3), (24, 3), (60, 5)])
def test_about_95_of_100_intervals_cover_the_true_difference(num_speakers: int, seeds: int) -> None:
    rounds, seed_sd = 400, 0.02 if seeds > 1 else 0.0
    found = [
        random_difference(number, num_speakers, seeds, gap=0.03, seed_sd=seed_sd) for number in range(rounds)
    ]
    covered = np.mean([(item.low or 0) <= 0.03 <= (item.high or 0) for item in found])
    assert 0.91 <= covered <= 0.99


def test_a_detectable_difference_is_found_in_about_80_of_100_experiments() -> None:
    nulls = [random_difference(number, 24, 1, seed_sd=0.0) for number in range(100)]
    size = float(np.median([item.detectable or 0 for item in nulls]))
    found = [random_difference(1000 + number, 24, 1, gap=size, seed_sd=0.0) for number in range(400)]
    p_values = [item.p_value or 0 for item in found]
    assert 0.72 <= np.mean(np.array(p_values) < 0.05) <= 0.88


def test_intervals_of_ua_cover_the_truth_with_few_speakers() -> None:
    """Six speakers with unlike accuracies and numbers of utterances: plain percentiles cover it in 84 %."""
    rng = np.random.default_rng(0)
    rounds, covered = 300, 0
    large = 1 / (1 + np.exp(-0.4 - np.sqrt(0.89) * rng.standard_normal(200_000)))
    for number in range(rounds):
        ability = 0.4 + 0.8 * rng.standard_normal((6, 1)) + 0.5 * rng.standard_normal((6, 4))
        utterances = rng.integers(2, 20, size=(6, 4))
        correct = rng.binomial(utterances, 1 / (1 + np.exp(-ability)))
        counts, _ = draw_speakers([f"s{i}" for i in range(6)], 1000, number)
        draws = ((counts @ correct) / (counts @ utterances)).mean(axis=1)
        found = make_estimate(float((correct.sum(axis=0) / utterances.sum(axis=0)).mean()), draws, 6)
        covered += (found.low or 0) <= large.mean() <= (found.high or 0)
    assert 0.9 <= covered / rounds <= 0.99
