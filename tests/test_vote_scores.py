"""Scores against listeners' votes, and of listeners against listeners."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from emodistill.corpora import Utterance
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.vote_scores import (
    VOTE_TITLES,
    cross_entropy,
    entropy,
    js_distance,
    kl_divergence,
    score_halves,
    score_votes,
    split_votes,
    vote_measures,
)
from emodistill.evaluation.vote_tables import show_votes
from emodistill.labels import LabelSet

LABELS = LabelSet(("angry", "happy", "sad"))


def distributions(seed: int, rows: int = 6) -> np.ndarray:
    values = np.random.default_rng(seed).dirichlet([0.4] * 3, rows)
    values[0] = [1, 0, 0]
    return values


def table_of(probabilities: np.ndarray) -> Predictions:
    rows = range(len(probabilities))
    return Predictions(
        LABELS, tuple(f"u{row}" for row in rows), ("1",) * len(rows), tuple(f"s{row % 6}" for row in rows),
        ("angry",) * len(rows), probabilities,
    )  # fmt: skip


def utterances_of(votes: list[str | None]) -> Mapping[str, Utterance]:
    return {f"u{row}": Utterance(f"u{row}", "s", "angry", votes=text) for row, text in enumerate(votes)}


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50)
def test_divergences_are_zero_for_equal_distributions_alone(seed: int) -> None:
    q, p = distributions(seed), distributions(seed + 1)[::-1]
    assert kl_divergence(q, q) == pytest.approx(0, abs=1e-5)
    assert js_distance(q, q) == pytest.approx(0, abs=1e-6)
    assert (kl_divergence(q, p) >= 0).all()
    assert cross_entropy(q, p) == pytest.approx(kl_divergence(q, p) + entropy(q), abs=1e-6)
    assert js_distance(q, p) == pytest.approx(js_distance(p, q))
    different = np.abs(q - p).max(axis=1) > 1e-3
    assert (kl_divergence(q, p)[different] > 0).all()
    assert (js_distance(q, p)[different] > 0).all()
    assert (js_distance(q, p) <= 1).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50)
def test_js_is_a_metric(seed: int) -> None:
    a, b, c = (distributions(seed + step) for step in range(3))
    assert (js_distance(a, c) <= js_distance(a, b) + js_distance(b, c) + 1e-9).all()


def test_js_of_distributions_without_a_common_emotion_is_1() -> None:
    assert js_distance(np.array([[1.0, 0, 0]]), np.array([[0, 0.5, 0.5]])) == pytest.approx(1)


def test_the_measures_by_hand() -> None:
    q, p = np.array([[0.5, 0.5, 0], [1, 0, 0]]), np.array([[0.25, 0.75, 0], [0.5, 0.5, 0]])
    found = vote_measures(table_of(p), q, 10)
    of_first = -0.5 * np.log(0.25) - 0.5 * np.log(0.75)
    assert found["cross_entropy"][0] == pytest.approx((of_first + np.log(2)) / 2, abs=1e-6)
    assert found["kl"][0] == pytest.approx((of_first - np.log(2) + np.log(2)) / 2, abs=1e-6)
    # Bins: 0.25 has share 0.5, 0.75 has 0.5, the two 0.5 have 1 and 0, and the two 0 have 0.
    assert found["calibration"][0] == pytest.approx((0.25 + 0.25) / 6)
    assert found.keys() == VOTE_TITLES.keys()


def test_draws_of_one_speaker_are_the_value() -> None:
    q, p = distributions(1), distributions(2)
    table = replace(table_of(p), speakers=("s",) * len(p))
    for value, draws in vote_measures(table, q, 5).values():
        assert draws == pytest.approx([value] * 5)


@given(counts=st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=8))
@settings(max_examples=50)
def test_a_half_is_a_part_of_the_votes(counts: list[list[int]]) -> None:
    votes = np.array(counts, dtype=float)
    half = split_votes(votes, np.random.default_rng(0))
    assert (half <= votes).all()
    assert (half.sum(axis=1) == votes.sum(axis=1) // 2).all()


def test_unanimous_listeners_have_no_distance_from_each_other() -> None:
    counts = np.eye(3)[[0, 1, 2, 0, 1, 2]] * [[2], [3], [4], [5], [9], [10]]
    found = score_halves(table_of(np.full((6, 3), 1 / 3)), counts)
    assert found is not None
    assert found.listeners.value == 0
    assert found.model.value > 0.3
    perfect = score_halves(table_of(counts / counts.sum(axis=1, keepdims=True)), counts)
    assert perfect is not None
    assert perfect.model.value == 0


def test_halves_of_many_listeners_are_close_and_of_few_are_not() -> None:
    shares = np.tile([0.6, 0.3, 0.1], (60, 1))
    few, many = (score_halves(table_of(shares), np.round(shares * size)) for size in (10, 1000))
    assert few is not None
    assert many is not None
    assert many.listeners.value < 0.05 < few.listeners.value
    assert many.model.value < many.listeners.value  # a perfect model is closer than another half
    for halves in (few, many):
        assert halves.model_cross_entropy.value < halves.listeners_cross_entropy.value


def test_utterances_with_one_vote_or_fractions_have_no_halves() -> None:
    assert score_halves(table_of(np.full((2, 3), 1 / 3)), np.array([[1.0, 0, 0], [0.5, 1.5, 0]])) is None


def test_the_order_of_votes_changes_nothing() -> None:
    votes = ['{"angry": 3, "sad": 2}', '{"happy": 1, "sad": 4}'] * 3
    others = ['{"sad": 2, "angry": 3}', '{"sad": 4, "happy": 1}'] * 3
    table = table_of(distributions(3))
    found = score_votes({"student": table}, None, utterances_of([*votes]))
    assert found is not None
    assert found == score_votes({"student": table}, None, utterances_of([*others]))


def test_votes_outside_of_the_label_set_and_utterances_without_votes_are_left_out() -> None:
    table = table_of(distributions(4))
    votes = ['{"angry": 3, "bored": 9}', '{"bored": 2}', None, None, None, None]
    found = score_votes({"student": table}, None, utterances_of([*votes]))
    assert found is not None
    assert (found.num_utterances, found.votes_each, found.entropy.value) == (1, 3, 0)
    assert score_votes({"student": table}, None, utterances_of([None] * 6)) is None


def test_the_tables_show_models_bins_and_listeners() -> None:
    table = table_of(distributions(5))
    votes = utterances_of(['{"angry": 3, "sad": 2}'] * 6)
    found = score_votes({"student": table, "prosodic": table}, table, votes)
    assert found is not None
    found = score_votes({"student": table, "prosodic": table}, table, votes, table)
    assert found is not None
    assert found.fitted is not None
    assert found.temperatures.keys() == {"1"}
    assert found.fitted.figures["kl"].value <= found.models[0].figures["kl"].value + 1e-6
    console = Console(width=160, record=True)
    show_votes(found, console)
    text = console.export_text()
    for part in (
        "student, after scaling",
        "prosodic",
        "JS distance",
        "half of the votes (2.0 each)",
    ):
        assert part in text
