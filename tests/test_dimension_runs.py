"""Runs with dimensions, with emotions beside them or alone: scores, comparison, report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories_runs import invented_corpus, invented_run
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.errors import ModelError
from emodistill.evaluation.ablation_dimensions import AblationDimensions
from emodistill.evaluation.ablation_systems import (
    System,
    system_tables,
    teacher_systems,
)
from emodistill.evaluation.ablation_table import make_ablation_table, read_ablation
from emodistill.evaluation.compare import compare_runs, holm
from emodistill.evaluation.dimension_scores import concordance, mean_ccc
from emodistill.evaluation.latex import ablation_latex
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run

EMOTIONS = ("angry", "happy", "sad")
DIMENSIONS = ("arousal", "valence")
BOTH = ["emotion", *DIMENSIONS]
VALUES = {"weak": 0.55, "strong": 0.9, "other": 0.56}


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


def test_a_run_does_not_differ_from_itself(both: Path) -> None:
    (comparison,) = compare_runs([both, both], resamples=200, grouped=False)
    assert list(comparison.differences) == ["ua", "wa", "ccc", "ccc_arousal", "ccc_valence"]
    for difference in comparison.differences.values():
        assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)


def test_the_difference_of_ccc_is_paired_and_corrected_by_measure(tmp_path: Path) -> None:
    folders = [
        make(tmp_path / name, value) for name, value in (("weak", 0.55), ("strong", 0.9), ("other", 0.56))
    ]
    found = compare_runs(folders, resamples=500)
    for comparison, folder in zip(found, folders[1:], strict=True):
        tables = [read_run(item).dimension_table() for item in (folders[0], folder)]
        for column, name in enumerate(DIMENSIONS):
            values = [concordance(table.truth[:, column], table.predicted[:, column]) for table in tables]
            difference = comparison.differences[f"ccc_{name}"]
            assert [difference.reference, difference.run] == values
            assert difference.low is not None
            assert difference.high is not None
            assert difference.low < difference.value < difference.high
        mean = [comparison.differences[f"ccc_{name}"].value for name in DIMENSIONS]
        assert comparison.differences["ccc"].value == pytest.approx(np.mean(mean))
    for name in found[0].differences:
        p_values = [item.differences[name].p_value or 0 for item in found]
        assert [item.differences[name].p_holm for item in found] == holm(p_values)
    strong = found[0].differences["ccc"]
    assert strong.p_holm is not None
    assert strong.p_holm < 0.01


def test_runs_are_compared_by_what_both_predict(both: Path, alone: Path, tmp_path: Path) -> None:
    (comparison,) = compare_runs([both, alone], resamples=100)
    assert list(comparison.differences) == ["ccc", "ccc_arousal", "ccc_valence"]
    assert comparison.mcnemar is None
    emotions = make(tmp_path / "emotions", targets=["emotion"])
    (comparison,) = compare_runs([both, emotions], resamples=100)
    assert list(comparison.differences) == ["ua", "wa"]
    with pytest.raises(ModelError, match="have no measure in common"):
        compare_runs([emotions, alone], resamples=100)


def test_seeds_of_runs_with_dimensions_are_one_group(tmp_path: Path) -> None:
    folders = [
        make(tmp_path / f"{name}-seed{seed}", value, list(DIMENSIONS), seed, student={"dropout": rate})
        for name, value, rate in (("a", 0.6, 0.1), ("b", 0.9, 0.2))
        for seed in (0, 1)
    ]
    (comparison,) = compare_runs(folders, resamples=200)
    assert comparison.run_seeds == (0, 1)
    assert comparison.differences["ccc"].run_sd is not None


@pytest.mark.parametrize("format", ["table", "csv", "json", "latex"])
def test_the_command_compares_dimensions(both: Path, alone: Path, tmp_path: Path, format: str) -> None:
    other = make(tmp_path / "other", 0.6, list(DIMENSIONS))
    shown = run("compare", alone, other, both, "--resamples", 200, "--format", format)
    assert "CCC" in shown.upper()
    assert "UA" not in shown
    assert "nan" not in shown.lower()


def test_constant_labels_have_no_ccc_and_no_nan(tmp_path: Path) -> None:
    corpus = invented_corpus(EMOTIONS, 6, 2, DIMENSIONS)
    flat = tuple(replace(item, arousal=None if item.arousal is None else 3.0) for item in corpus)
    folders = [
        invented_run(tmp_path / name, value, {}, replace(corpus, utterances=flat), targets=list(DIMENSIONS))
        for name, value in (("a", 0.6), ("b", 0.9))
    ]
    shown = run("scores", folders[0])
    assert "CCC is not defined, since all labels are equal" in " ".join(shown.split())
    compared = run("compare", *folders, "--ungrouped", "--resamples", 200)
    assert "CCC of arousal is not defined, since all labels are equal" in " ".join(compared.split())
    assert "nan" not in (shown + compared).lower()


def test_the_report_shows_dimensions_with_and_without_emotions(
    both: Path, alone: Path, tmp_path: Path
) -> None:
    other = make(tmp_path / "other", 0.6, list(DIMENSIONS))
    for name, folders in {"both": [both], "alone": [alone], "compared": [alone, other]}.items():
        out = tmp_path / f"{name}.html"
        run("report", *folders, "-o", out)
        page = out.read_text(encoding="utf-8")
        for dimension in DIMENSIONS:
            assert page.count(f"Predicted {dimension} over its label") == len(folders)
        assert ("Confusion and recall" in page) == (name == "both")
        assert ("Differences in CCC to the reference" in page) == (name == "compared")
        assert "nan" not in page.split("<main>")[1].lower().replace("dominance", "")


def test_an_ablation_has_the_mean_ccc_and_its_difference(tmp_path: Path) -> None:
    runs = {name: [read_run(make(tmp_path / name, value))] for name, value in VALUES.items()}
    systems = [System(name, "parts", name, *system_tables(found)) for name, found in runs.items()]
    table = make_ablation_table([*systems, *teacher_systems(runs["weak"])], "weak", resamples=300)
    reference, strong, other, teacher = (row.dimensions for row in table.rows)
    assert reference is not None
    assert reference.ccc_difference is None
    assert strong is not None
    assert other is not None
    assert teacher is not None
    expected = mean_ccc(runs["strong"][0].dimension_table())
    assert strong.ccc == expected
    assert strong.ccc_difference == pytest.approx(strong.ccc - reference.ccc)
    assert strong.ccc_low is not None
    assert strong.ccc_low > 0
    assert [strong.ccc_p_holm, other.ccc_p_holm] == holm([strong.ccc_p_value or 0, other.ccc_p_value or 0])
    assert teacher.ccc_p_holm is None
    table.write(tmp_path)
    assert read_ablation(tmp_path / "ablation.json").rows == table.rows
    header = (tmp_path / "ablation.csv").read_text().splitlines()[0].split(",")
    columns = AblationDimensions.columns()
    assert header[-len(columns) :] == columns
    assert "| CCC | CCC difference |" in (tmp_path / "ablation.md").read_text()
    latex = ablation_latex(table, runs["weak"]).split(r"\begin{table}")[-1]
    assert r"Cell & CCC & $\Delta$CCC & $p$" in latex
    assert rf"strong & \textbf{{{strong.ccc:.3f}}} & $+{strong.ccc_difference:.3f}$ &" in latex
    assert f"$[{strong.ccc_low:+.3f}, {strong.ccc_high:+.3f}]$" in latex
    assert "NaN" not in latex
