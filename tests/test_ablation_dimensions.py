"""Ablations of recipes with dimensions: CCC is the main measure where there are no emotions."""

from pathlib import Path

import factories as make
import numpy as np
import pytest
from factories_runs import invented_corpus, invented_run

from emodistill.evaluation.ablation_dimensions import AblationDimensions
from emodistill.evaluation.ablation_systems import (
    ENSEMBLE,
    System,
    ensemble_dimensions,
    system_tables,
    teacher_systems,
)
from emodistill.evaluation.ablation_table import AblationTable, make_ablation_table, read_ablation
from emodistill.evaluation.compare import compare_runs
from emodistill.evaluation.dev_scores import dev_score
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.dimension_scores import mean_ccc, measure_pairs
from emodistill.evaluation.latex import ablation_latex
from emodistill.evaluation.run import Run, read_run
from emodistill.report import write_report
from emodistill.training.ablation import ablate

DIMENSIONS = ("arousal", "valence")


@pytest.fixture(scope="module")
def grid(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AblationTable]:
    """A finished grid of dimensions alone over two seeds, with a sweep."""
    rows = make.read_rows(manifest)
    for number, row in enumerate(rows):
        row |= {"path": str(manifest.parent / row["path"]), "scale": "1..5"}
        row |= {"arousal": "4" if row["emotion"] == "angry" else "2", "valence": str(1 + number % 5)}
    labelled = make.write_rows(tmp_path_factory.mktemp("labelled") / "utterances.csv", rows)
    recipe = make.recipe(labelled, targets=list(DIMENSIONS), protocol={"refit": False})
    out = tmp_path_factory.mktemp("ablation") / "grid"
    sweeps = ["student.optim.lr=1e-9,1e-2"]
    only = ["no-distillation", "student.optim.lr=1e-09", "student.optim.lr=0.01"]
    return out, ablate(recipe, out, [0, 1], sweeps, only=only, over_folds=True)


def seeds(out: Path, cell: str) -> list[Path]:
    return [out / "cells" / cell / f"seed-{seed}" for seed in (0, 1)]


def test_ccc_is_the_main_measure_without_emotions(grid: tuple[Path, AblationTable]) -> None:
    out, table = grid
    rows = {row["cell"]: row for row in make.read_rows(out / "ablation.csv")}
    assert list(rows)[:2] == ["full", "no-distillation"]
    assert list(rows)[-3:] == ["prosodic teacher", "linguistic teacher", ENSEMBLE]
    columns = list(rows["full"])
    assert columns[:3] == ["cell", "group", "values"]
    assert columns[-len(AblationDimensions.columns()) :] == AblationDimensions.columns()
    assert not [name for name in columns if "ua" in name.split("_") or "wa" in name.split("_")]
    row = rows["no-distillation"]
    tables = [read_run(folder).dimension_table() for folder in seeds(out, "no-distillation")]
    cccs = [mean_ccc(one) for one in tables]
    assert float(row["ccc"]) == pytest.approx(np.mean(np.array(cccs, dtype=float)))
    assert float(row["ccc_sd"]) == pytest.approx(np.std(np.array(cccs, dtype=float), ddof=1))
    (compared,) = compare_runs([*seeds(out, "full"), *seeds(out, "no-distillation")])
    found = compared.differences["ccc"]
    for name in ("low", "high", "p_value", "detectable"):
        assert float(row[f"ccc_{name}"]) == pytest.approx(getattr(found, name))
    assert float(row["ccc_difference"]) == pytest.approx(found.value)
    assert int(row["values"]) == 6
    assert rows["full"]["ccc_difference"] == ""
    assert (table.measure, table.num_seeds, table.num_speakers) == ("ccc", 2, 6)
    text = (out / "ablation.md").read_text(encoding="utf-8")
    header = "| cell | CCC | difference | 95 % interval | detectable | p | p, Holm | CCC over folds |"
    assert text.startswith(header)
    assert "UA" not in text + (out / "ablation.tex").read_text(encoding="utf-8")
    assert read_ablation(out / "ablation.json") == table
    assert (out / "ablation.png").stat().st_size > 10_000


def test_a_sweep_of_dimensions_chooses_by_dev_ccc(grid: tuple[Path, AblationTable]) -> None:
    out, table = grid
    assert table.sweeps is not None
    rows = make.read_rows(out / "sweeps.csv")
    assert "dev_ua" not in rows[0]
    for row in rows:
        cell = "full" if row["own"] == "True" else row["cell"]
        folds = [fold for folder in seeds(out, cell) for fold in sorted(folder.glob("fold-*"))]
        scores = [dev_score(fold, "ccc") for fold in folds]
        assert float(row["dev_ccc"]) == pytest.approx(np.mean(scores))
        assert float(row["dev_ccc_sd"]) == pytest.approx(np.std(scores, ddof=1))
    (chosen,) = (row for row in rows if row["chosen"] == "True")
    assert float(chosen["dev_ccc"]) == max(float(row["dev_ccc"]) for row in rows)
    assert "| cell | dev CCC |" in (out / "ablation.md").read_text(encoding="utf-8")
    assert (out / "sweeps.png").stat().st_size > 5_000


def test_the_report_of_dimensions_alone_has_no_ua(grid: tuple[Path, AblationTable], tmp_path: Path) -> None:
    out, table = grid
    write_report([out], tmp_path / "r.html", num_errors=0)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    ablation = page.split("<main>")[1].split('id="run-1"')[0]
    assert 'aria-label="Differences to full in CCC"' in ablation
    assert "in CCC × 100, with its 95 % interval" in ablation
    assert "UA" not in ablation
    for row in table.dimension_rows():
        assert all(f">{cell}</td>" in ablation for cell in row[2:])


def test_pearson_and_rmse_stand_beside_ccc_for_each_dimension(grid: tuple[Path, AblationTable]) -> None:
    out, table = grid
    row = next(row for row in table.rows if row.cell == "no-distillation")
    assert row.dimensions is not None
    runs = [read_run(folder).dimension_table() for folder in seeds(out, "no-distillation")]
    for measure in ("ccc", "pearson", "rmse"):
        values = np.array(
            [
                [measure_pairs(one.truth[:, place], one.predicted[:, place])[measure] for place in (0, 1)]
                for one in runs
            ],
            dtype=float,
        )
        for place, name in enumerate(DIMENSIONS):
            figures = row.dimensions.by_dimension[name]
            assert getattr(figures, measure) == pytest.approx(values[:, place].mean())
            assert getattr(figures, f"{measure}_sd") == pytest.approx(values[:, place].std(ddof=1))
        assert getattr(row.dimensions, measure) == pytest.approx(values.mean())
        over_seeds = values.mean(axis=1).std(ddof=1)
        assert getattr(row.dimensions, f"{measure}_sd") == pytest.approx(over_seeds)
    text = table.markdown()
    assert "| cell | dimension | CCC | Pearson r | RMSE |" in text
    rmse = f"{row.dimensions.rmse:.3f} ± {row.dimensions.rmse_sd:.3f}"
    assert any(line.startswith("| no-distillation | mean |") and rmse in line for line in text.splitlines())


def invented(out: Path, quality: dict[str, float], targets: list[str]) -> dict[str, list[Run]]:
    corpus = invented_corpus(("angry", "happy", "sad"), 10, 2, DIMENSIONS)
    teachers = {"prosodic": 0.85, "linguistic": 0.9}
    return {
        name: [read_run(invented_run(out / name, value, teachers, corpus, targets=targets))]
        for name, value in quality.items()
    }


@pytest.mark.parametrize("targets", [list(DIMENSIONS), ["emotion", *DIMENSIONS]])
def test_the_ensemble_of_dimensions_is_the_mean_of_the_teachers(tmp_path: Path, targets: list[str]) -> None:
    runs = invented(tmp_path, {"full": 0.7, "plain": 0.5}, targets)
    systems = [System(name, "parts", name, *system_tables(found)) for name, found in runs.items()]
    table = make_ablation_table([*systems, *teacher_systems(runs["full"])], "full", "plain", resamples=300)
    assert table.measure == ("ua" if "emotion" in targets else "ccc")
    assert table.rows[-1].cell == ENSEMBLE
    ensemble = table.rows[-1].dimensions
    assert ensemble is not None
    run = runs["full"][0]
    one, two = (run.dimension_table(name) for name in ("prosodic", "linguistic"))
    mean = ensemble_dimensions(run.dimension_table(), [one, two])
    np.testing.assert_allclose(mean.predicted, (one.predicted + two.predicted) / 2)
    assert ensemble.ccc == mean_ccc(mean)
    assert ensemble.ccc_low is not None
    assert "the mean of the teachers' predictions" in table.markdown()
    assert ("Cell & UA & WA" in ablation_latex(table, runs["full"])) == ("emotion" in targets)
    if "emotion" not in targets:
        reference, plain = (row.dimensions for row in table.rows[:2])
        assert reference is not None
        assert plain is not None
        assert table.closed_gap is not None
        share = (reference.ccc - plain.ccc) / (ensemble.ccc - plain.ccc)
        assert table.closed_gap.value == pytest.approx(share)
        assert "of the CCC gap" in table.markdown()


def test_an_ensemble_has_no_dimensions_where_one_teacher_alone_predicts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = invented(tmp_path, {"full": 0.7}, ["emotion", *DIMENSIONS])["full"]
    monkeypatch.setattr(Run, "dimension_models", lambda _self, _split="test": ("student", "prosodic"))
    prosodic, linguistic, ensemble = teacher_systems([run])
    assert [len(item.dimensions) for item in (prosodic, linguistic, ensemble)] == [1, 0, 0]
    assert len(ensemble.tables) == 1


def test_an_ensemble_of_dimensions_is_over_the_predictions_that_there_are() -> None:
    truth = np.array([[0.1], [0.5], [0.9]])
    names = ("a", "b", "c")
    one = DimensionPredictions(("arousal",), names, ("1",) * 3, names, truth, np.full((3, 1), 0.2))
    two = one.take([1])
    two.predicted[:] = 0.6
    together = ensemble_dimensions(one, [one.take([0, 1]), two])
    assert together.utterances == ("a", "b"), "no model has the third"
    np.testing.assert_allclose(together.predicted, [[0.2], [0.4]])


def test_constant_predictions_have_no_pearson_and_equal_labels_no_ccc(tmp_path: Path) -> None:
    runs = invented(tmp_path, {"full": 0.7, "flat": 0.5}, list(DIMENSIONS))
    full, flat = (runs[name][0].dimension_table() for name in ("full", "flat"))
    flat.predicted[:] = 0.5
    systems = [System("full", "parts", "full", (), [full]), System("flat", "parts", "flat", (), [flat])]
    row = make_ablation_table(systems, "full", resamples=200).rows[1].dimensions
    assert row is not None
    assert (row.ccc, row.pearson) == (0.0, None)
    assert row.rmse is not None
    full.truth[:], flat.truth[:] = 0.5, 0.5
    table = make_ablation_table(systems, "full", resamples=200)
    assert [item.dimensions for item in table.rows] == [None, None]
    assert "or all labels are equal" in table.markdown()
    assert "nan" not in table.markdown().lower()
    table.write(tmp_path)
    assert read_ablation(tmp_path / "ablation.json") == table
