"""The grid of an ablation: its cells, the files that they share, and equality with runs outside of a grid."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.config import load_recipe, recipe_toml, shipped_recipes
from emodistill.corpora import DEMO_CORPUS as DEMO
from emodistill.errors import ConfigError
from emodistill.evaluation.ablation_systems import ENSEMBLE, System, ensemble_predictions
from emodistill.evaluation.ablation_table import AblationTable, make_ablation_table, read_ablation
from emodistill.evaluation.compare import holm
from emodistill.evaluation.dev_scores import dev_score
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.evaluation.sweeps import choose_on_dev
from emodistill.labels import LabelSet
from emodistill.training import ablation as ablation_module
from emodistill.training import fold as fold_module
from emodistill.training.ablation import ablate
from emodistill.training.artifact_cache import ArtifactCache
from emodistill.training.cross_validation import crossval
from emodistill.training.grid import make_grid, parse_sweep

PARTS = [
    "full", "no-distillation", "prosodic-only", "linguistic-only", "embedding-level-only", "logit-level-only",
    "no-hard-label",
]  # fmt: skip


def quick(manifest: Path, **sections: Any) -> Any:
    """A recipe whose folds train in seconds."""
    return make.recipe(manifest, **{"protocol": {"kind": "k-fold", "folds": 3, "refit": False}, **sections})


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> tuple[Path, AblationTable, list[str]]:
    """A finished grid over two seeds, its table, and every stage that was trained for it."""
    out = tmp_path_factory.mktemp("ablation") / "grid"
    trained: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module.FoldRun, "_train_new", record_stages(trained))
        table = ablate(quick(manifest), out, [0, 1], ["distillation.temperature=1,2"])
    return out, table, trained


def record_stages(trained: list[str]) -> Any:
    """A replacement for `FoldRun._train_new` that appends each stage to a list."""
    train = fold_module.FoldRun._train_new

    def wrapped(self: Any, stage: Any, phase: Any, folder: Path, targets: Any) -> None:
        trained.append(f"{self.recipe.seed} {self.fold.name} {phase.name} {stage.name}")
        train(self, stage, phase, folder, targets)

    return wrapped


# --- the cells -----------------------------------------------------------------------------------


def test_each_cell_lacks_one_part_of_the_method(manifest: Path) -> None:
    cells = {cell.name: cell.recipe.distillation for cell in make_grid(make.recipe(manifest)).cells}
    assert list(cells) == PARTS
    assert cells["no-distillation"].teachers == ()
    assert cells["linguistic-only"].teachers == ("linguistic",)
    assert (cells["embedding-level-only"].alpha, cells["embedding-level-only"].beta) == (0, 1)
    assert (cells["logit-level-only"].alpha, cells["logit-level-only"].beta) == (1, 0)
    assert cells["no-hard-label"].gamma == 0


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_cell_without_hard_labels_uses_no_labels(name: str) -> None:
    recipe = load_recipe(name)
    if recipe.student is None or not recipe.distillation.teachers:
        with pytest.raises(ConfigError, match=r"this recipe has student = 'none'|the recipe has no teachers"):
            make_grid(recipe)
        return
    (cell,) = (cell.recipe for cell in make_grid(recipe).cells if cell.name == "no-hard-label")
    assert cell.distillation.gamma == 0
    assert cell.student is not None
    assert cell.student.probe is None
    assert cell.protocol.refit != "classifier"


def test_a_sweep_sets_any_field_and_shares_a_cell_of_the_same_recipe(manifest: Path) -> None:
    grid = make_grid(
        make.recipe(manifest),
        ["distillation.temperature=1,2,4", "student.layers=1,2", "distillation.weights.prosodic=0.5,1"],
        parts=False,
    )
    by_name = {cell.name: cell for cell in grid.cells}
    assert by_name["distillation.temperature=4"].recipe.distillation.temperature == 4
    assert by_name["distillation.temperature=2"].folder == by_name["student.layers=1"].folder == "full"
    assert by_name["student.layers=2"].recipe.student.layers == 2
    assert by_name["distillation.weights.prosodic=0.5"].recipe.distillation.weights == {"prosodic": 0.5}
    assert len(grid.distinct_cells) == len(grid.cells) - 2
    assert len({cell.folder for cell in grid.distinct_cells}) == len(grid.distinct_cells)


def test_sweeps_of_backbone_layers_and_weights_change_the_predictions(tmp_path: Path) -> None:
    manifest = make.corpus_folder(tmp_path / "corpus", 4, each=1)
    whisper = make.PRETRAINED["whisper"](tmp_path / "whisper")
    once = {"backbone": str(whisper), "layers": 2, "optim": {**make.OPTIM, "epochs": 1}}
    recipe = quick(manifest, student=once, distillation={"teachers": ["prosodic"]})
    sweeps = [
        f"student.backbone=compact,{whisper}", "student.layers=1,2", "distillation.weights.prosodic=0.2,5",
    ]  # fmt: skip
    ablate(recipe, tmp_path / "grid", sweeps=sweeps, parts=False)
    probabilities = {
        cell.name: read_predictions(cell / "seed-0" / "predictions.csv").probabilities
        for cell in sorted((tmp_path / "grid" / "cells").iterdir())
    }
    assert len(probabilities) == 5, "the full method, and four variants of it"
    for first, second in combinations(probabilities.values(), 2):
        assert np.abs(first - second).max() > 1e-6
    table = (tmp_path / "grid" / "ablation.md").read_text(encoding="utf-8")
    assert len(make.read_rows(tmp_path / "grid" / "sweeps.csv")) == 2 + 2 + 3, "values, and the own weight"
    for row in ("backbone=compact", "backbone=whisper", "layers=1", "layers=2", "prosodic=0.2", "prosodic=5"):
        assert f"{row} |" in table


def test_sweep_values_are_toml_or_text() -> None:
    assert parse_sweep("distillation.temperature=1,2.5") == ("distillation.temperature", [1, 2.5])
    assert parse_sweep("student.pool=[2,3],[2]") == ("student.pool", [[2, 3], [2]])
    assert parse_sweep("student.backbone=compact,/models/w") == ("student.backbone", ["compact", "/models/w"])
    assert parse_sweep("student.layers=none,2") == ("student.layers", ["none", 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweeps": ["temperature"]}, "bad sweep 'temperature', expected field=value,value"),
        ({"sweeps": ["seed=1,2"]}, "give --seeds 1,2"),
        ({"sweeps": ["distillation.temprature=1"]}, "did you mean 'temperature'"),
        ({"sweeps": ["distillation.temperature=-1"]}, "distillation.temperature = -1"),
        ({"sweeps": ["name.x=1"]}, "recipes have no such field"),
        ({"only": ["prosodic"]}, "bad cell 'prosodic'"),
    ],
)
def test_bad_grids_are_refused(manifest: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_grid(make.recipe(manifest), **options)


def test_cells_without_their_input_are_left_out(manifest: Path) -> None:
    grid = make_grid(make.recipe(manifest), has_transcripts=False)
    assert grid.left_out == {"linguistic-only": "no training utterance has a transcript"}
    assert "linguistic-only" not in [cell.name for cell in grid.cells]
    assert grid.cells[0].recipe.distillation.teachers == ("prosodic",)


def test_a_sweep_that_changes_the_folds_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'protocol.folds=4' changes the data or the folds"):
        ablate(make.recipe(manifest), tmp_path, sweeps=["protocol.folds=3,4"], parts=False)


# --- shared files, and the table -----------------------------------------------------------------------


def test_every_cell_predicts_what_its_recipe_does_alone(tmp_path: Path) -> None:
    """Byte for byte, on a part of the demo corpus, with and without the artifact cache, and after a refit."""
    rows = [{**row, "path": DEMO / row["path"]} for row in make.read_rows(DEMO / "utterances.csv")[::10]]
    recipe = make.recipe(make.write_rows(tmp_path / "utterances.csv", rows))
    only = ["no-distillation", "linguistic-only"]
    ablate(recipe, tmp_path / "grid", only=only)
    for cell in make_grid(recipe, only=only).distinct_cells:
        in_grid = cell.run_folder(tmp_path / "grid", 0)
        alone = tmp_path / "alone" / cell.folder
        crossval(load_recipe(in_grid / "recipe.toml"), alone)
        assert (alone / "recipe.toml").read_bytes() == (in_grid / "recipe.toml").read_bytes()
        tables = sorted(path.relative_to(alone) for path in alone.rglob("predictions*.csv"))
        assert len(tables) >= 2 + 2 * 3
        assert sorted(path.relative_to(in_grid) for path in in_grid.rglob("predictions*.csv")) == tables
        for table in tables:
            assert (alone / table).read_bytes() == (in_grid / table).read_bytes(), f"{cell.name}: {table}"


def test_shared_work_is_done_once(grid: tuple[Path, AblationTable, list[str]]) -> None:
    _, found, trained = grid
    assert [row.cell for row in found.rows[: len(PARTS)]] == PARTS
    teachers = [stage for stage in trained if not stage.endswith("student")]
    assert len(teachers) == len(set(teachers)) == 2 * 3 * 2  # seeds, folds, teachers
    students = [stage for stage in trained if stage.endswith("student")]
    assert len(students) == 2 * 3 * (len(PARTS) + 1)  # temperature 2 is the full method's


def test_an_edited_table_of_one_run_does_not_change_others(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for name in ("predictions-prosodic.csv", "model.safetensors"):
        (tmp_path / "one" / name).write_text("original")
    artifacts = ArtifactCache(tmp_path / "artifacts")
    artifacts.store("key", sorted((tmp_path / "one").iterdir()))
    (tmp_path / "one/predictions-prosodic.csv").write_text("edited")
    assert artifacts.fetch("key", tmp_path / "two")
    assert (tmp_path / "two/predictions-prosodic.csv").read_text() == "original"
    (tmp_path / "two/predictions-prosodic.csv").write_text("edited")
    assert (tmp_path / "artifacts/key/predictions-prosodic.csv").read_text() == "original"
    assert (tmp_path / "two/model.safetensors").samefile(tmp_path / "artifacts/key/model.safetensors")


def test_a_cell_is_a_complete_run_folder(grid: tuple[Path, AblationTable, list[str]]) -> None:
    out, _, _ = grid
    shared = [out / f"cells/{cell}/seed-1/fold-1/select/prosodic" for cell in ("full", "prosodic-only")]
    for name in ("model.safetensors", "model.json", "fit.json", "targets-in-sample.safetensors"):
        one, two = (folder / name for folder in shared)
        assert one.read_bytes() == two.read_bytes()
        assert one.stat().st_ino == two.stat().st_ino, "both names are one file on disk"
    assert not (out / "cells/no-distillation/seed-0/fold-1/select/prosodic").exists()


def test_the_table_agrees_with_the_predictions(grid: tuple[Path, AblationTable, list[str]]) -> None:
    out, found, _ = grid
    rows = {row["cell"]: row for row in make.read_rows(out / "ablation.csv")}
    assert list(rows) == [row.cell for row in found.rows]
    assert list(rows)[len(PARTS) :] == [
        *shown_cells(out), "prosodic teacher", "linguistic teacher", ENSEMBLE,
    ]  # fmt: skip
    scores = [
        json.loads((out / f"cells/no-distillation/seed-{seed}/scores.json").read_text()) for seed in (0, 1)
    ]
    folds = [fold["ua"] for item in scores for fold in item["models"]["student"]["test"]["by_fold"].values()]
    row = rows["no-distillation"]
    assert float(row["ua"]) == pytest.approx(np.mean(folds))
    assert float(row["ua_sd"]) == pytest.approx(np.std(folds, ddof=1))
    assert int(row["values"]) == 6
    assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
    pooled = [item["models"]["student"]["test"]["pooled"]["ua"] for item in scores]
    assert float(row["pooled_ua"]) == pytest.approx(np.mean(pooled))
    assert rows["full"]["difference"] == rows["distillation.temperature=2"]["difference"] == ""
    text = (out / "ablation.md").read_text()
    swept = make.read_rows(out / "sweeps.csv")
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert [table[0].split(" | ")[0] for table in tables] == ["| cell", "| model", "| cell"]
    assert [line.split(" | ")[0][2:] for line in tables[0][2:]] == list(rows)
    assert len(tables[-1][2:]) == len(swept)
    assert "bootstrap over 6 speakers" in text
    assert (out / "ablation.png").stat().st_size > 10_000


def test_a_killed_grid_continues_where_it_was(
    grid: tuple[Path, AblationTable, list[str]],
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _, _ = grid
    trained: list[str] = []
    record = record_stages(trained)

    def killed(self: Any, *arguments: Any) -> None:
        if len(trained) == 7:
            raise KeyboardInterrupt
        record(self, *arguments)

    recipe = quick(manifest)
    only = ["no-distillation", "linguistic-only"]
    with monkeypatch.context() as patch:
        patch.setattr(fold_module.FoldRun, "_train_new", killed)
        with pytest.raises(KeyboardInterrupt):
            ablate(recipe, tmp_path, only=only)
    with monkeypatch.context() as patch:
        patch.setattr(fold_module.FoldRun, "_train_new", record)
        ablate(recipe, tmp_path, only=only)
    students = [stage for stage in trained if stage.endswith("student")]
    assert len(trained) - len(students) == 3 * 2, "no teacher is trained twice"
    assert len(students) == 3 * 3, "and no student"
    for cell in ("full", *only):
        name = f"cells/{cell}/seed-0/predictions.csv"
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()

    monkeypatch.setattr(fold_module.FoldRun, "_train_new", None)  # a call would fail
    ablate(recipe, tmp_path, only=only)
    with pytest.raises(ConfigError, match="holds a run of another recipe"):
        ablate(quick(manifest, distillation={"temperature": 3.0}), tmp_path)


def test_earlier_seeds_stay_in_the_table(
    grid: tuple[Path, AblationTable, list[str]],
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "grid"
    shutil.copytree(grid[0], copy)
    before = (copy / "ablation.csv").read_bytes()
    capsys.readouterr()
    ablate(quick(manifest), copy, [0], ["distillation.temperature=1,2"])
    assert "also holds seeds 1, and this table has them too" in " ".join(capsys.readouterr().err.split())
    assert (copy / "ablation.csv").read_bytes() == before, "the table still covers seeds 0 and 1"
    shutil.rmtree(copy / "cells/full/seed-1/fold-1")  # then seed 1 is incomplete
    capsys.readouterr()
    found = ablate(quick(manifest), copy, [0], only=["no-distillation"])
    message = " ".join(capsys.readouterr().err.split())
    assert "cells that this table leaves out" in message
    assert "distillation.temperature=1" in message
    assert (copy / "ablation.csv").read_bytes() != before
    assert found.num_seeds == 1


def test_progress_shows_the_finished_folds_and_the_remaining_time(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ablation_module.GridProgress(total=4, done=1)
    progress.show("2 cells × 2 seeds × 1 folds")
    progress.count("full, seed 0, fold 1 done")
    shown = capsys.readouterr().err
    assert "1/4" in shown
    assert "2/4" in shown
    assert "left" in shown.splitlines()[-1]


def test_the_command_writes_a_table(manifest: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    recipe = quick(manifest, distillation={"teachers": ["prosodic"]})
    file.write_text(recipe_toml(recipe))
    arguments = [
        "ablate",
        str(file),
        "--cells",
        "no-distillation",
        "--out",
        str(tmp_path / "grid"),
        "--seeds",
    ]
    wide = {"COLUMNS": "200"}
    done = CliRunner().invoke(app, [*arguments, "3", "--over-folds"], env=wide, catch_exceptions=False)
    assert done.exit_code == 0
    assert "no-distillation" in done.stdout
    assert "UA over folds" in (tmp_path / "grid/ablation.md").read_text(encoding="utf-8")
    with (tmp_path / "grid/ablation.csv").open() as file_:
        assert [row["cell"] for row in csv.DictReader(file_)] == [
            "full",
            "no-distillation",
            "prosodic teacher",
        ]
    for format, suffix in (("latex", "tex"), ("csv", "csv"), ("json", "json")):
        done = CliRunner().invoke(app, [*arguments, "3", "--format", format], catch_exceptions=False)
        assert done.stdout == (tmp_path / f"grid/ablation.{suffix}").read_text(encoding="utf-8")
    assert r"\label{tab:ablation-" in (tmp_path / "grid/ablation.tex").read_text(encoding="utf-8")
    assert read_ablation(tmp_path / "grid/ablation.json").reference == "full"
    with pytest.raises(ConfigError, match="bad seed 'x'"):
        CliRunner().invoke(app, [*arguments, "x"], catch_exceptions=False)


# --- sweeps are chosen on dev -------------------------------------------------------------------


def shown_cells(out: Path) -> list[str]:
    """The swept cells of the fixture `grid` whose test scores may be shown: the chosen and the own one."""
    rows = make.read_rows(out / "sweeps.csv")
    return [row["cell"] for row in rows if row["chosen"] == "True" or row["own"] == "True"]


def test_a_sweep_is_chosen_on_dev_and_shows_test_for_the_chosen_value_alone(
    manifest: Path, tmp_path: Path
) -> None:
    recipe = quick(manifest, distillation={"teachers": []})
    sweeps = ["student.optim.lr=1e-9,3e-3,1e-2", "student.optim.epochs=1,3"]
    found = ablate(recipe, tmp_path, sweeps=sweeps, parts=False)
    assert found.sweeps is not None
    rows = make.read_rows(tmp_path / "sweeps.csv")
    assert [row["cell"] for row in rows] == [
        "student.optim.lr=1e-09", "student.optim.lr=0.003", "student.optim.lr=0.01", "full",
        "student.optim.epochs=1", "student.optim.epochs=3",
    ]  # fmt: skip
    for row in rows:
        folder = tmp_path / "cells" / (row["cell"] if row["own"] == "False" else "full") / "seed-0"
        dev = json.loads((folder / "scores.json").read_text())["models"]["student"]["dev"]
        assert float(row["dev_ua"]) == pytest.approx(dev["mean_over_folds"]["ua"]["mean"])
        assert float(row["dev_ua_sd"]) == pytest.approx(dev["mean_over_folds"]["ua"]["sd"])
    for field in ("student.optim.lr", "student.optim.epochs"):
        values = [row for row in rows if row["field"] == field]
        (chosen,) = (row for row in values if row["chosen"] == "True")
        assert float(chosen["dev_ua"]) == max(float(row["dev_ua"]) for row in values)
    expected = {"full", *shown_cells(tmp_path)}
    hidden = {row["cell"] for row in rows} - expected
    assert hidden, "otherwise this test shows nothing"
    with_test = {row["cell"] for row in make.read_rows(tmp_path / "ablation.csv")}
    assert with_test == expected
    table_of_test, table_of_dev = (tmp_path / "ablation.md").read_text().split("| cell | dev UA |")
    assert not any(f"| {cell} |" in table_of_test for cell in hidden)
    assert all(f"| {cell} |" in table_of_dev for cell in hidden)
    assert "chosen on dev among" in table_of_dev
    assert "dev speakers of a fold are test speakers of another fold" in table_of_dev
    assert (tmp_path / "sweeps.png").stat().st_size > 5_000

    all_shown = ablate(recipe, tmp_path, sweeps=sweeps, parts=False, show_test=True)
    assert {row.cell for row in all_shown.rows} == expected | hidden
    assert "is chosen on test" in " ".join((tmp_path / "ablation.md").read_text().split())


def test_of_equal_values_the_recipes_own_is_chosen_then_the_first() -> None:
    sweeps = {"x": {"x=1": [0.5, 0.7], "x=2": [0.6, 0.6], "x=3": [0.1, 0.2]}}
    assert choose_on_dev(("full", [0.6, 0.6]), sweeps, own_values=["x=2"]).chosen_cells == ("x=2",)
    assert choose_on_dev(("full", [0.6, 0.6]), sweeps).chosen_cells == ("full",)
    assert choose_on_dev(("full", [0.5, 0.6]), sweeps).chosen_cells == ("x=1",)


def test_the_dev_score_with_voices_is_the_mean_of_two(voice_run: Path) -> None:
    fold = next(voice_run.glob("fold-*"))
    tables = [read_predictions(fold / f"{name}-dev.csv") for name in ("predictions", "known-predictions")]
    assert dev_score(fold) == pytest.approx(np.mean([table.scores().ua for table in tables]))
    assert dev_score(fold, "weighted_f1") == pytest.approx(
        np.mean([table.scores().weighted_f1 for table in tables])
    )


# --- the statistics ------------------------------------------------------------------------------------

LABELS = LabelSet(("angry", "sad"))


def table(right: np.ndarray, speakers: int = 20) -> Predictions:
    """A table of predictions over two emotions, each right or wrong."""
    truth = np.arange(len(right)) % 2
    predicted = np.where(right, truth, 1 - truth)
    return Predictions(
        LABELS, tuple(f"u{i}" for i in range(len(right))), ("1",) * len(right),
        tuple(f"s{i // 2 % speakers}" for i in range(len(right))), tuple(LABELS.names[i] for i in truth),
        np.eye(2)[predicted] * 0.8 + 0.1,
    )  # fmt: skip


def test_real_differences_are_significant_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    base = [rng.random(400) < 0.7 for _ in range(3)]
    better = [values | (rng.random(400) < 0.4) for values in base]
    twin = [np.roll(values, 14) for values in base]  # as good, but right on other utterances
    found = make_ablation_table(
        [
            System("full", "parts", "full", [table(values) for values in better]),
            System("plain", "parts", "plain", [table(values) for values in base]),
            System("plain too", "parts", "twin", [table(values) for values in twin]),
            System("again", "x", "full", [table(values) for values in better]),
        ],
        reference="full", plain="plain", resamples=2000,
    )  # fmt: skip
    full, plain, twin_row, again = found.rows
    assert plain.ua == pytest.approx(np.mean([values.mean() for values in base]))
    assert plain.high is not None
    assert plain.high < 0
    assert plain.p_value is not None
    assert plain.p_value < 0.01
    assert twin_row.p_value is not None
    assert [plain.p_holm, twin_row.p_holm] == holm([plain.p_value, twin_row.p_value]), (
        "corrected for two comparisons, without the full method itself"
    )
    assert full.difference is None
    assert again.p_holm is None
    same = make_ablation_table(
        [System(n, "parts", n, [table(v) for v in t]) for n, t in (("a", base), ("b", twin))], "a"
    ).rows[1]
    assert same.low is not None
    assert same.high is not None
    assert same.low < 0 < same.high
    assert same.p_value is not None
    assert same.p_value > 0.05


def test_an_ensemble_multiplies_the_probabilities_that_there_are() -> None:
    one = table(np.ones(4, dtype=bool))
    two = one.take([0, 2])
    certain = np.array([[0.5, 0.5], [0.01, 0.99]])
    together = ensemble_predictions(one, [one, Predictions(**{**two.__dict__, "probabilities": certain})])
    np.testing.assert_allclose(together.probabilities[[0, 1, 3]], one.probabilities[[0, 1, 3]])
    expected = one.probabilities[2] * certain[1]
    np.testing.assert_allclose(together.probabilities[2], expected / expected.sum())


def test_the_gap_to_the_ensemble_that_distillation_closes() -> None:
    rights = {"plain": 0.5, "full": 0.75, ENSEMBLE: 0.9}
    found = [
        System(name, "parts", name, [table(np.arange(400) // 2 % 20 < 20 * share, speakers=400)])
        for name, share in rights.items()
    ]
    share = make_ablation_table(found, "full", "plain").closed_gap
    assert share is not None
    assert share.value == pytest.approx(0.25 / 0.4)
    assert share.low < share.value < share.high
    assert make_ablation_table(found[:2], "full", "plain").closed_gap is None


def test_the_predictions_of_a_grid_have_all_utterances(grid: tuple[Path, AblationTable, list[str]]) -> None:
    out, found, _ = grid
    full = [read_predictions(out / f"cells/full/seed-{seed}/predictions.csv") for seed in (0, 1)]
    assert len(full[0]) == len(full[1]) == 36
    assert found.num_seeds == 2


def test_the_table_shows_pooled_scores_and_the_means_over_folds_where_they_are_asked_for(
    grid: tuple[Path, AblationTable, list[str]],
) -> None:
    out, found, _ = grid
    rows = {row.cell: row for row in found.rows}
    full, other = rows["full"], rows["no-distillation"]
    assert other.difference == pytest.approx(other.pooled_ua - full.pooled_ua), "the figures that are shown"
    tables = [read_predictions(out / f"cells/no-distillation/seed-{seed}/predictions.csv") for seed in (0, 1)]
    pooled = [one.scores().ua for one in tables]
    assert other.pooled_ua == pytest.approx(np.mean(pooled))
    assert other.pooled_ua_sd == pytest.approx(np.std(pooled, ddof=1))
    by_fold = np.mean([[fold.scores().ua for fold in one.by_fold().values()] for one in tables], axis=0)
    assert other.ua_sd_folds == pytest.approx(np.std(by_fold, ddof=1)), "seeds and folds are told apart"
    assert other.detectable is not None
    assert other.detectable > 0
    pooled_text = f"| no-distillation | {100 * other.pooled_ua:.2f} ± {100 * (other.pooled_ua_sd or 0):.2f} |"
    assert pooled_text in found.markdown()
    assert "over folds |" not in found.markdown()
    with_folds = replace(found, over_folds=True).markdown()
    assert pooled_text in with_folds
    assert f"| {100 * other.ua:.2f} ± {100 * (other.ua_sd_folds or 0):.2f} |" in with_folds
    assert "mean over folds, as many papers state it" in with_folds


def test_cells_of_few_speakers_have_the_reason_in_place_of_the_interval() -> None:
    right = np.random.default_rng(0).random(40) < 0.6
    systems = [
        System("a", "parts", "a", [table(right, 3)]), System("b", "parts", "b", [table(~right, 3)]),
    ]  # fmt: skip
    found = make_ablation_table(systems, "a")
    assert "no interval: 3 speakers, 5 needed" in found.markdown()
    assert found.rows[1].p_holm is None
