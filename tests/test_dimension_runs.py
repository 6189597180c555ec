"""Runs with dimensions, with emotions beside them or alone: scores, comparison, report."""

import json
from pathlib import Path

import numpy as np
import pytest
from factories_runs import invented_corpus, invented_run
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.errors import ModelError
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run

EMOTIONS = ("angry", "happy", "sad")
DIMENSIONS = ("arousal", "valence")
BOTH = ["emotion", *DIMENSIONS]


def make(
    out: Path, accuracy: float = 0.8, targets: list[str] | None = None, seed: int = 0, **more: object
) -> Path:
    corpus = invented_corpus(EMOTIONS, 10, 2, DIMENSIONS)
    return invented_run(out, accuracy, {"prosodic": 0.5}, corpus, seed=seed, targets=targets or BOTH, **more)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("runs") / "both")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("runs") / "alone", targets=list(DIMENSIONS))


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": "220"}).invoke(app, [str(item) for item in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_student_and_teachers_are_scored_by_dimension(both: Path) -> None:
    scores = score_run(read_run(both), resamples=200)
    assert scores.dimensions is not None
    assert [item.model for item in scores.dimensions.models] == ["student", "prosodic"]
    student, teacher = (item.dimensions["arousal"] for item in scores.dimensions.models)
    assert student.num_utterances == len(read_run(both).table()) - 10  # each speaker has one without labels
    better, worse = student.scores["ccc"], teacher.scores["ccc"]
    assert better is not None
    assert worse is not None
    assert better.value > worse.value
    assert set(scores.dimensions.groups) == {"speaker", "gender", "language", "corpus"}
    assert scores.models[0].scores["ua"].value > 0.5


def test_a_run_with_dimensions_alone_has_no_emotions(alone: Path) -> None:
    assert not (alone / "predictions.csv").exists()
    opened = read_run(alone)
    assert (opened.has_emotions, opened.has_dimensions) == (False, True)
    scores = score_run(opened, resamples=100)
    assert scores.models == ()
    assert "No utterance has a duration, so there are no scores by duration." in scores.notes


@pytest.mark.parametrize("name", ["both", "alone"])
def test_the_command_shows_dimensions(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    shown = run("scores", folder)
    assert "CCC" in shown
    assert "arousal" in shown
    assert ("UA" in shown) == (name == "both")
    assert "nan" not in shown.lower().replace("dominance", "")
    data = json.loads(run("scores", folder, "--format", "json"))
    model = data["dimensions"]["models"][0]
    estimate = model["dimensions"]["valence"]["scores"]["ccc"]
    assert estimate["low"] <= estimate["value"] <= estimate["high"]
    rows = run("scores", folder, "--format", "csv")
    assert "dimensions.models.student.dimensions.valence.scores.ccc.value" in rows


def test_a_changed_label_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    path = folder / "dimensions.csv"
    lines = path.read_text().splitlines()
    cells = lines[2].split(",")
    lines[2] = ",".join([*cells[:3], "0.1234567", *cells[4:]])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        ModelError, match=r"dimensions.csv', row 3: .* has arousal 0.123457, but utterances.csv"
    ):
        read_run(folder).dimension_table()


def test_a_lost_row_and_a_changed_prediction_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    path = folder / "dimensions.csv"
    text = path.read_text()
    path.write_text("".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(ModelError, match="was changed after the run was scored"):
        read_run(folder).dimension_table()
    path.write_text(text[: text.rindex(",") + 1] + "0.5000000\n")
    with pytest.raises(ModelError, match="was changed after the run was scored: row"):
        read_run(folder).dimension_table()


def test_the_scores_file_has_dimensions_beside_emotions(both: Path) -> None:
    test = json.loads((both / "scores.json").read_text())["models"]["student"]["test"]
    assert {"emotions", "pooled", "mean_over_folds", "by_fold", "dimensions"} == set(test)
    table = read_run(both).dimension_table()
    known = ~np.isnan(table.truth[:, 0])
    assert test["dimensions"]["pooled"]["arousal"]["num_utterances"] == known.sum()
