"""Scores against scikit-learn and by hand; `predictions.csv` is written, read, and refused if edited."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, recall_score

from emodistill.errors import EmodistillError, ModelError
from emodistill.evaluation.metrics import score, unweighted_accuracy, weighted_accuracy
from emodistill.evaluation.predictions import (
    Predictions,
    read_predictions,
    write_predictions,
)
from emodistill.labels import LabelSet

LABELS = LabelSet(("angry", "happy", "sad", "neutral"))


def test_ua_and_wa_by_hand() -> None:
    truth, predicted = [0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2, 0]
    assert unweighted_accuracy(truth, predicted) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert weighted_accuracy(truth, predicted) == pytest.approx(4 / 7)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true:UserWarning")
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    scores, present = score(truth, predicted, LABELS), sorted(set(truth.tolist()))
    assert scores.num_utterances == len(pairs)
    assert scores.ua == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert scores.wa == pytest.approx(accuracy_score(truth, predicted))
    assert scores.confusion == confusion_matrix(truth, predicted, labels=range(4)).tolist()
    recalls = recall_score(truth, predicted, labels=present, average=None)
    assert scores.recall == pytest.approx(
        {LABELS.names[label]: value for label, value in zip(present, recalls, strict=True)}
    )
    for kind in ("macro", "weighted"):
        expected = f1_score(truth, predicted, labels=present, average=kind, zero_division=0)
        assert getattr(scores, f"{kind}_f1") == pytest.approx(expected)


def test_an_empty_table_cannot_be_scored() -> None:
    for measure in (unweighted_accuracy, weighted_accuracy):
        with pytest.raises(EmodistillError, match="no utterances to score"):
            measure([], [])


# --- predictions.csv -----------------------------------------------------------------------------


def random_predictions(count: int = 6, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(4), count)
    return Predictions(
        LABELS, tuple(f"u{seed}-{row}, \"q\" é" for row in range(count)),
        tuple("12"[row % 2] for row in range(count)),
        ("s",) * count, tuple(LABELS.names[row % 4] for row in range(count)), probabilities,
    )  # fmt: skip


def test_predictions_round_trip(tmp_path: Path) -> None:
    table, path = random_predictions(), tmp_path / "predictions.csv"
    write_predictions(table, path)
    found = read_predictions(path)
    assert (found.labels, found.utterances, found.folds) == (table.labels, table.utterances, table.folds)
    assert (found.speakers, found.emotions) == (table.speakers, table.emotions)
    np.testing.assert_allclose(found.probabilities, table.probabilities, atol=5e-8)
    before = path.read_bytes()
    write_predictions(found, path)
    assert path.read_bytes() == before, "reading and writing again gives the same bytes"
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.csv"]
    with path.open(encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert header == [
        "utterance", "fold", "speaker", "emotion", "predicted", "p_angry", "p_happy", "p_sad", "p_neutral",
    ]  # fmt: skip


def test_a_tie_after_rounding_keeps_the_written_prediction(tmp_path: Path) -> None:
    probabilities = np.array([[0.3, 0.300000004, 0.2, 0.199999996]])
    table = Predictions(LABELS, ("a",), ("1",), ("s",), ("sad",), probabilities)
    write_predictions(table, tmp_path / "p.csv")
    assert read_predictions(tmp_path / "p.csv").predicted.tolist() == [0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4).filter(lambda row: sum(row) > 0), min_size=1, max_size=5))
def test_every_written_near_tie_can_be_read(rows: list[tuple[float, ...]]) -> None:
    probabilities = np.array(rows) / np.array(rows).sum(axis=1, keepdims=True)
    count = len(rows)
    table = Predictions(
        LABELS, tuple(map(str, range(count))), ("1",) * count, ("s",) * count, ("sad",) * count, probabilities
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.csv"
        write_predictions(table, path)
        assert len(read_predictions(path)) == count


def test_edited_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(random_predictions(), path)
    text = path.read_text(encoding="utf-8")
    row = text.splitlines()[2].split(",")
    predicted = row[-5]
    other = next(name for name in LABELS if name != predicted)

    def edited(old: str, new: str) -> None:
        lines = text.splitlines(keepends=True)
        lines[2] = lines[2].replace(old, new)
        path.write_text("".join(lines), encoding="utf-8")

    edited(f",{predicted},0", f",{other},0")
    with pytest.raises(
        ModelError, match=rf"row 3: predicted is '{other}', but the most probable .* edited\?"
    ):
        read_predictions(path)
    edited(row[-1], "much")
    with pytest.raises(ModelError, match=r"predictions\.csv', row 3: a probability is not a number"):
        read_predictions(path)
    path.write_text(text.replace(",predicted,", ",guess,"), encoding="utf-8")
    with pytest.raises(ModelError, match=r"is not a predictions table: it lacks \['predicted'\]"):
        read_predictions(path)
    path.write_text("utterance,fold,speaker,emotion,predicted\n", encoding="utf-8")
    with pytest.raises(ModelError, match="it lacks p_<emotion>"):
        read_predictions(path)
    with pytest.raises(ModelError, match=r"no predictions '.*': the run is not finished"):
        read_predictions(tmp_path / "nothing.csv")


def test_tables_are_joined_and_divided_by_fold() -> None:
    one, two = random_predictions(4, 0), random_predictions(3, 1)
    both = Predictions.join([one, two])
    assert both.utterances == one.utterances + two.utterances
    parts = both.by_fold()
    assert list(parts) == ["1", "2"]
    assert sum(map(len, parts.values())) == 7
    assert all(set(part.folds) == {name} for name, part in parts.items())
    np.testing.assert_array_equal(both.predicted, both.probabilities.argmax(axis=1))
    assert [LABELS.names[label] for label in both.truth] == list(both.emotions)
    assert both.scores().num_utterances == 7
