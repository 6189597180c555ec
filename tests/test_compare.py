"""Paired comparison of runs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.errors import ModelError
from emodistill.evaluation.compare import compare_runs
from emodistill.evaluation.predictions import Predictions, read_predictions, write_predictions


def changed(run: Path, to: Path, probabilities: np.ndarray | None = None, skip: int = 0) -> Path:
    """A copy of a run with other predictions."""
    shutil.copytree(run, to)
    found = read_predictions(run / "predictions.csv")
    kept = found.select([index >= skip for index in range(len(found))])
    values = kept.probabilities if probabilities is None else probabilities
    made = Predictions(kept.labels, kept.utterances, kept.folds, kept.speakers, kept.emotions, values)
    write_predictions(made, to / "predictions.csv")
    return to


def test_a_run_does_not_differ_from_itself(run: Path) -> None:
    for found in compare_runs(run, run).values():
        assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_perfect_run_differs_by_what_the_other_lacks(run: Path, tmp_path: Path) -> None:
    found = read_predictions(run / "predictions.csv")
    perfect = np.eye(len(found.labels))[found.truth]
    differences = compare_runs(run, changed(run, tmp_path / "perfect", perfect))
    scores = found.scores()
    assert differences["ua"].value == pytest.approx(1 - scores.ua)
    assert differences["wa"].value == pytest.approx(1 - scores.wa)
    assert differences["ua"].low <= differences["ua"].value <= differences["ua"].high
    back = compare_runs(tmp_path / "perfect", run)["ua"]
    assert back.value == pytest.approx(-differences["ua"].value)
    assert (back.low, back.high) == pytest.approx((-differences["ua"].high, -differences["ua"].low))


def test_other_utterances_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="differ in row 2"):
        compare_runs(run, changed(run, tmp_path / "fewer", skip=1))


def test_the_table_shows_each_measure(run: Path) -> None:
    result = CliRunner().invoke(app, ["compare", str(run), str(run)])
    assert result.exit_code == 0
    assert "UA" in result.stdout
    assert "+0.00" in result.stdout
