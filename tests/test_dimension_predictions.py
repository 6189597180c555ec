"""Tables of predicted dimensions: writing, reading, and what a reader refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emodistill.errors import ModelError
from emodistill.evaluation.dimension_predictions import (
    DimensionPredictions,
    read_dimensions,
    write_dimensions,
)
from emodistill.labels import DIMENSIONS

HEADER = "utterance,fold,speaker,arousal,predicted_arousal\n"
UNIT = st.floats(0, 1)
LABEL = st.one_of(UNIT, st.just(float("nan")))


@st.composite
def tables(draw: st.DrawFn) -> DimensionPredictions:
    chosen = draw(st.sets(st.sampled_from(DIMENSIONS), min_size=1))
    names = tuple(name for name in DIMENSIONS if name in chosen)
    count = draw(st.integers(0, 5))
    shape = (count, len(names))
    cells = count * len(names)
    truth = np.array(draw(st.lists(LABEL, min_size=cells, max_size=cells)), dtype=float).reshape(shape)
    predicted = np.array(draw(st.lists(UNIT, min_size=cells, max_size=cells)), dtype=float).reshape(shape)
    folds = tuple(str(row % 2) for row in range(count))
    return DimensionPredictions(
        names, tuple(f"u{row}" for row in range(count)), folds, ("anna",) * count, truth, predicted
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_reading_returns_what_was_written(tmp_path: Path, table: DimensionPredictions) -> None:
    path = tmp_path / "dimensions.csv"
    write_dimensions(table, path)
    read = read_dimensions(path)
    assert (read.dimensions, read.utterances, read.folds, read.speakers) == (
        table.dimensions, table.utterances, table.folds, table.speakers,
    )  # fmt: skip
    np.testing.assert_allclose(read.truth, table.truth, atol=5e-8)
    np.testing.assert_allclose(read.predicted, table.predicted, atol=5e-8)
    again = path.with_name("again.csv")
    write_dimensions(read, again)
    assert again.read_bytes() == path.read_bytes()


@given(tables().filter(len))
def test_joining_the_folds_returns_all_rows(table: DimensionPredictions) -> None:
    joined = DimensionPredictions.join(table.by_fold().values())
    order = [joined.utterances.index(name) for name in table.utterances]
    np.testing.assert_array_equal(joined.take(order).truth, table.truth)
    np.testing.assert_array_equal(joined.take(order).predicted, table.predicted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("utterance,fold,arousal,predicted_arousal\n", "lacks the column speaker"),
        ("utterance,fold,speaker,predicted_arousal\n", "lacks the column arousal"),
        ("utterance,fold,speaker,arousal\n", "lacks the column predicted_arousal"),
        ("utterance,fold,speaker\n", "lacks the column predicted_<dimension>"),
        ("utterance,fold,speaker,tension,predicted_tension\n", "column predicted_tension: .*arousal"),
        (HEADER + "a,1,x,0.5,0.5\nb,1,x,1.5,0.5\n", "row 3, column arousal: .* empty cell, got '1.5'"),
        (HEADER + "a,1,x,0.5,-0.1\n", "row 2, column predicted_arousal: expected a number from 0 to 1, got"),
        (HEADER + "a,1,x,0.5,nan\n", "row 2, column predicted_arousal"),
        (HEADER + "a,1,x,nan,0.5\n", "row 2, column arousal"),
        (HEADER + "a,1,x,0.5,\n", "row 2, column predicted_arousal"),
        (HEADER + "a,1,x,high,0.5\n", "row 2, column arousal: .* got 'high'"),
        (HEADER + "a,1,x\n", "row 2: the row has fewer cells"),
        (HEADER + "a,1,x,,0.5\na,2,x,,0.5\na,1,x,,0.5\n", "row 4: 'a' is already in row 2"),
        ("utterance\0", "lacks"),
    ],
)
def test_a_bad_table_is_refused_with_its_file_and_row(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "dimensions.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=f"{re.escape(str(path))}.*{message}"):
        read_dimensions(path)


def test_a_missing_table_means_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the run is not finished"):
        read_dimensions(tmp_path / "dimensions.csv")
