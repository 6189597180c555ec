"""Scores against scikit-learn and by hand; `predictions.csv` in, out, and refused when edited."""

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
from emodistill.evaluation.predictions import Predictions, join, read_predictions, write_predictions
from emodistill.labels import LabelSet

LABELS = LabelSet(("angry", "happy", "sad", "neutral"))


def test_ua_and_wa_by_hand() -> None:
    truth, said = [0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2, 0]
    assert unweighted_accuracy(truth, said) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert weighted_accuracy(truth, said) == pytest.approx(4 / 7)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true:UserWarning")
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, said = (np.array(column) for column in zip(*pairs, strict=True))
    found, present = score(truth, said, LABELS), sorted(set(truth.tolist()))
    assert found.num_utterances == len(pairs)
    assert found.ua == pytest.approx(balanced_accuracy_score(truth, said))
    assert found.wa == pytest.approx(accuracy_score(truth, said))
    assert found.confusion == confusion_matrix(truth, said, labels=range(4)).tolist()
    recalls = recall_score(truth, said, labels=present, average=None)
    assert found.recall == pytest.approx(
        {LABELS.names[label]: value for label, value in zip(present, recalls, strict=True)}
    )
    for kind in ("macro", "weighted"):
        expected = f1_score(truth, said, labels=present, average=kind, zero_division=0)
        assert getattr(found, f"{kind}_f1") == pytest.approx(expected)


def test_nothing_to_score_is_an_error() -> None:
    for measure in (unweighted_accuracy, weighted_accuracy):
        with pytest.raises(EmodistillError, match="no utterances to score"):
            measure([], [])


# --- predictions.csv -----------------------------------------------------------------------------


def some(count: int = 6, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(4), count)
    return Predictions(
        LABELS, tuple(f"u{seed}-{row}, \"q\" é" for row in range(count)), tuple("12"[row % 2] for row in range(count)),
        ("s",) * count, tuple(LABELS.names[row % 4] for row in range(count)), probabilities,
    )  # fmt: skip


def test_predictions_round_trip(tmp_path: Path) -> None:
    made, path = some(), tmp_path / "predictions.csv"
    write_predictions(made, path)
    found = read_predictions(path)
    assert (found.labels, found.utterances, found.folds) == (made.labels, made.utterances, made.folds)
    assert (found.speakers, found.emotions) == (made.speakers, made.emotions)
    np.testing.assert_allclose(found.probabilities, made.probabilities, atol=5e-8)
    before = path.read_bytes()
    write_predictions(found, path)
    assert path.read_bytes() == before, "what was read is written as the same bytes"
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.csv"]
    with path.open(encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert header == [
        "utterance", "fold", "speaker", "emotion", "predicted", "p_angry", "p_happy", "p_sad", "p_neutral",
    ]  # fmt: skip


def test_ties_after_rounding_are_read_as_they_were_written(tmp_path: Path) -> None:
    probabilities = np.array([[0.3, 0.300000004, 0.2, 0.199999996]])
    made = Predictions(LABELS, ("a",), ("1",), ("s",), ("sad",), probabilities)
    write_predictions(made, tmp_path / "p.csv")
    assert read_predictions(tmp_path / "p.csv").predicted.tolist() == [0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4).filter(lambda row: sum(row) > 0), min_size=1, max_size=5))
def test_near_ties_are_read_as_they_were_written(rows: list[tuple[float, ...]]) -> None:
    probabilities = np.array(rows) / np.array(rows).sum(axis=1, keepdims=True)
    count = len(rows)
    made = Predictions(
        LABELS, tuple(map(str, range(count))), ("1",) * count, ("s",) * count, ("sad",) * count, probabilities
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.csv"
        write_predictions(made, path)
        assert len(read_predictions(path)) == count


def test_edited_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(some(), path)
    text = path.read_text(encoding="utf-8")
    row = text.splitlines()[2].split(",")
    said = row[-5]
    other = next(name for name in LABELS if name != said)

    def edited(old: str, new: str) -> None:
        lines = text.splitlines(keepends=True)
        lines[2] = lines[2].replace(old, new)
        path.write_text("".join(lines), encoding="utf-8")

    edited(f",{said},0", f",{other},0")
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


def test_tables_are_joined_and_taken_apart() -> None:
    one, two = some(4, 0), some(3, 1)
    both = join([one, two])
    assert both.utterances == one.utterances + two.utterances
    parts = both.by_fold()
    assert list(parts) == ["1", "2"]
    assert sum(map(len, parts.values())) == 7
    assert all(set(part.folds) == {name} for name, part in parts.items())
    np.testing.assert_array_equal(both.predicted, both.probabilities.argmax(axis=1))
    assert [LABELS.names[label] for label in both.truth] == list(both.emotions)
    assert both.scores().num_utterances == 7
