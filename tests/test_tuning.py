"""A search on dev: its space, its trials, what it writes, and that it never predicts test."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import factories as make
import pytest

from emodistill.config import load_recipe, parse_recipe, read_space, recipe_toml
from emodistill.errors import ConfigError, MissingExtraError
from emodistill.evaluation.dev_scores import dev_score
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run
from emodistill.training import fold as fold_module
from emodistill.training.cross_validation import crossval
from emodistill.training.search_space import make_space
from emodistill.training.trials import TuneResult
from emodistill.training.tuning import crossval_best, tune

SPACE = {
    "student.optim.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "student.layers": {"low": 1, "high": 2},
    "distillation.distance": ["cosine", "mse"],
}
NUM_TRIALS = 4


def quick(manifest: Path, **sections: Any) -> Any:
    """A recipe whose trials train in a second."""
    once = {"prosodic": {"optim": {**make.OPTIM, "epochs": 1}}, "distillation": {"teachers": ["prosodic"]}}
    return make.recipe(manifest, **{**once, "tune": {"trials": NUM_TRIALS, "space": SPACE}, **sections})


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> tuple[Path, TuneResult, set[str]]:
    """A finished search, its result, and "fold split" of each utterance that a model predicted."""
    out = tmp_path_factory.mktemp("tune") / "search"
    predicted: set[str] = set()
    infer = fold_module.FoldRun._infer

    def recorded(self: Any, stage: Any, model: Any, utterances: Any) -> Any:
        ids = {item.id for item in utterances}
        for split in ("train", "dev", "test"):
            predicted.update([split] if ids & set(self.fold.split(split)) else [])
        return infer(self, stage, model, utterances)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module.FoldRun, "_infer", recorded)
        result = tune(quick(manifest), out)
    return out, result, predicted


# --- the space -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("student.optim.lr=1e-4..1e-2:log", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("student.dropout=0.1..0.6:0.1", {"low": 0.1, "high": 0.6, "step": 0.1}),
        ("student.layers=1..4", {"low": 1, "high": 4}),
        ("distillation.distance=cosine, mse", ["cosine", "mse"]),
        ("student.pool=[1, 2],[2]", [[1, 2], [2]]),
        ("augment.speed=0.0,0.1", [0.0, 0.1]),
    ],
)
def test_a_space_is_read_from_the_command_line(option: str, expected: Any) -> None:
    assert list(read_space([option]).values()) == [expected]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("student.layers", "expected FIELD=LOW..HIGH"),
        ("student.layers=4..1", "low below high"),
        ("student.optim.lr=0..1:log", "log needs low above 0"),
        ("student.layers=1..x", "expected numbers with .. between"),
        ("student.layers=1..4:9", "at most high - low"),
    ],
)
def test_a_bad_space_is_refused(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_space([option])


def test_a_recipe_declares_a_space_with_or_without_quotes(manifest: Path, tmp_path: Path) -> None:
    text = recipe_toml(make.recipe(manifest)).replace('tune = "none"\n', "")
    quoted = '[tune.space]\n"student.optim.lr" = {low = 1e-4, high = 1e-2, log = true}\n'
    for number, section in enumerate((quoted, quoted.replace('"', ""))):
        (tmp_path / f"{number}.toml").write_text(f"{text}\n{section}")
    one, two = (load_recipe(tmp_path / f"{number}.toml") for number in (0, 1))
    assert one == two
    assert one.tune is not None
    assert list(one.tune.space) == ["student.optim.lr"]
    (tmp_path / "2.toml").write_text(recipe_toml(one))
    assert load_recipe(tmp_path / "2.toml") == one
    with pytest.raises(ConfigError, match="a range has low, high, log, step, got low, hihg"):
        parse_recipe(make.recipe_data(manifest, tune={"space": {"student.layers": {"low": 1, "hihg": 2}}}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"student.optim.epoch": [1]}, "did you mean 'epochs'"),
        ({"studnt.layers": [1]}, "did you mean 'student'"),
        ({"student.dropout": {"low": 0.1, "high": 1.5}}, "student.dropout = 1.5"),
        ({"student.layers": {"low": 0.5, "high": 2}}, "student.layers = 0.5"),
        ({"distillation.distance": ["cosine", "cosnie"]}, "did you mean 'cosine'"),
        ({"protocol.folds": [3, 4]}, "would change the data, the folds or the seed"),
        ({"seed": [1, 2]}, "would change the data, the folds or the seed"),
        ({"name.x": [1]}, "would change the data"),
        ({}, "nothing to search: give --space"),
    ],
)
def test_a_field_that_cannot_be_searched_is_refused_before_training(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(fold_module.FoldRun, "_train_new", None)  # a call would fail
    with pytest.raises(ConfigError, match=message):
        tune(make.recipe(manifest), tmp_path / "search", space, trials=1)
    assert not (tmp_path / "search").exists()


def test_whole_numbers_are_searched_where_the_field_takes_nothing_else(manifest: Path) -> None:
    space = {
        "student.layers": {"low": 1, "high": 4}, "student.dropout": {"low": 0, "high": 0.5},
        "distillation.alpha": {"low": 1, "high": 4}, "student.frozen": {"low": 0, "high": 4},
    }  # fmt: skip
    assert [item.whole for item in make_space(make.recipe(manifest), space)] == [True, False, False, True]


# --- the trials ----------------------------------------------------------------------------------


def test_no_trial_predicts_or_writes_test(search: tuple[Path, TuneResult, set[str]]) -> None:
    out, _, predicted = search
    assert predicted == {"train", "dev"}
    tables = sorted({path.name for path in out.rglob("*.csv")})
    assert tables == [
        "metrics.csv", "predictions-dev.csv", "predictions-prosodic-dev.csv", "trials.csv", "utterances.csv",
    ]  # fmt: skip
    assert not list(out.rglob("refit/*")), "dev needs no refit"


def test_the_score_of_a_trial_is_its_mean_dev_score(search: tuple[Path, TuneResult, set[str]]) -> None:
    out, result, _ = search
    rows = make.read_rows(out / "trials.csv")
    assert len(rows) == NUM_TRIALS
    trained = [row for row in rows if row["state"] == "complete"]
    assert len(trained) >= 3
    for row in trained:
        folds = sorted((out / "trials" / f"{int(row['number']):03d}").glob("fold-*"))
        assert len(folds) == 3
        assert float(row["dev_score"]) == pytest.approx(sum(map(dev_score, folds)) / 3)
        recipe = load_recipe(folds[0].parent / "recipe.toml")
        assert recipe.student is not None
        assert recipe.student.optim.lr == float(row["student.optim.lr"])
        assert recipe.student.layers == int(row["student.layers"])
        assert recipe.distillation.distance == row["distillation.distance"]
    best = max(trained, key=lambda row: float(row["dev_score"]))
    assert result.best == int(best["number"])


def test_the_first_trial_has_the_recipes_own_values(search: tuple[Path, TuneResult, set[str]]) -> None:
    _, result, _ = search
    assert result.rows[0].values == {
        "student.optim.lr": 3e-3, "student.layers": 1, "distillation.distance": "cosine",
    }  # fmt: skip


def test_teachers_are_shared_and_only_the_best_trial_keeps_its_models(
    search: tuple[Path, TuneResult, set[str]],
) -> None:
    out, result, _ = search
    teachers = [path.parent for path in (out / "artifacts").glob("*/model.json")]
    assert len(teachers) == 3, "one for each fold"
    kept = {path.relative_to(out / "trials").parts[0] for path in (out / "trials").rglob("model.json")}
    assert kept == {f"{result.best:03d}"}
    assert (out / "trials/001/fold-1/select/student/fit.json").is_file()
    assert (out / "tune.png").stat().st_size > 10_000


def test_the_number_of_trials_stands_in_the_scores_of_the_best_recipe(
    search: tuple[Path, TuneResult, set[str]], tmp_path: Path
) -> None:
    out, result, _ = search
    best = load_recipe(out / "best.toml")
    assert best == result.recipe
    tried = len([row for row in result.rows if row.state == "complete"])
    copy = shutil.copytree(out, tmp_path / "search")
    with pytest.MonkeyPatch.context() as patch:
        trained: list[str] = []
        train = fold_module.FoldRun._train_new

        def recorded(self: Any, stage: Any, phase: Any, *arguments: Any) -> None:
            trained.append(phase.name)
            train(self, stage, phase, *arguments)

        patch.setattr(fold_module.FoldRun, "_train_new", recorded)
        scores, run = crossval_best(result, copy)
    assert set(trained) == {"refit"}, "the models that dev chose are those of the best trial"
    assert scores["tuned"]["trials"] == tried
    assert f"chosen on dev among {tried} trials" in scores["tuned"]["note"]
    assert scores == json.loads((run / "scores.json").read_text())
    assert any(f"among {tried} trials" in note for note in score_run(read_run(run)).notes)
    folds = scores["models"]["student"]["dev"]["mean_over_folds"]["ua"]["mean"]
    assert folds == pytest.approx(scores["tuned"]["dev_score"])
    alone = crossval(best, tmp_path / "alone")
    assert alone["sha256"] == scores["sha256"]


def test_a_killed_search_ends_as_one_that_was_not(
    search: tuple[Path, TuneResult, set[str]],
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, num_trained = fold_module.FoldRun._train_new, 0

    def killed(self: Any, stage: Any, *arguments: Any) -> None:
        nonlocal num_trained
        num_trained += stage.name == "student"
        if num_trained in (2, 7):
            num_trained += 1
            raise KeyboardInterrupt
        train(self, stage, *arguments)

    monkeypatch.setattr(fold_module.FoldRun, "_train_new", killed)
    recipe = quick(manifest)
    for _ in range(2):  # in the first trial, and in a later one
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, tmp_path / "search")
    result = tune(recipe, tmp_path / "search")
    whole = search[1]
    assert [(row.values, row.dev_score, row.state) for row in result.rows] == [
        (row.values, row.dev_score, row.state) for row in whole.rows
    ]
    assert (tmp_path / "search/best.toml").read_bytes() == (search[0] / "best.toml").read_bytes()

    monkeypatch.setattr(fold_module.FoldRun, "_train_new", None)  # a call would fail
    assert tune(recipe, tmp_path / "search") == result
    with pytest.raises(ConfigError, match=r"holds another search: the space or prune"):
        tune(recipe, tmp_path / "search", {"student.dropout": [0.1, 0.2]})
    with pytest.raises(ConfigError, match=r"holds another search: the section or field audio"):
        tune(quick(manifest, audio={"max_s": 5.0}), tmp_path / "search")


def test_trials_can_be_pruned_and_contradictions_are_no_error(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    class SecondTrial(optuna.pruners.BasePruner):
        """Prunes the second trial after its first fold."""

        def prune(self, study: Any, trial: Any) -> bool:
            return trial.number == 1

    monkeypatch.setattr(optuna.pruners, "MedianPruner", SecondTrial)
    # A probe needs frozen layers, and this backbone has none that can be frozen.
    space = {"student.optim.lr": {"low": 1e-3, "high": 1e-2}, "student.probe": ["none", 0.5]}
    recipe = quick(manifest, distillation={"teachers": []}, tune={"trials": 6})
    result = tune(recipe, tmp_path / "search", space, prune=True)
    states = [row.state for row in result.rows]
    assert states[1] in ("pruned", "invalid")
    assert "invalid" in states
    assert all(row.folds == 1 for row in result.rows if row.state == "pruned")
    tuned = result.recipe.tuned
    assert tuned is not None
    assert (tuned.trials, tuned.pruned) == (
        sum(state in ("complete", "pruned") for state in states), states.count("pruned"),
    )  # fmt: skip
    assert result.rows[result.best - 1].state == "complete"


# --- the command ---------------------------------------------------------------------------------


def test_the_command_searches_and_cross_validates(
    emodistill: make.CommandLine, manifest: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.toml"
    recipe = quick(manifest, distillation={"teachers": []}, tune=None, protocol={"refit": False})
    file.write_text(recipe_toml(recipe))
    arguments = ["tune", file, "--space", "student.dropout=0.1..0.3", "-o", tmp_path / "search"]
    result = emodistill(*arguments, "--trials", 2, "--crossval")
    assert result.code == 0
    assert "chosen on dev among 2 trials" in " ".join(result.out.split())
    assert "No trial predicted test." in " ".join(result.out.split())
    assert "tune: 2 trials × 3 folds" in result.err
    assert "the space lacks" not in result.err
    with (tmp_path / "search/trials.csv").open() as rows:
        assert [row["state"] for row in csv.DictReader(rows)] == ["complete", "complete"]
    assert (tmp_path / "search/crossval-2/scores.json").is_file()
    outside = ["tune", file, "--space", "student.dropout=0.6,0.7", "--trials", 1, "-o", tmp_path / "outside"]
    assert "the space lacks the recipe's own student.dropout = " in emodistill(*outside).err
    result = emodistill("tune", file, "--space", "student.dropuot=0.1..0.3", "-o", tmp_path / "other")
    assert result.code == 2
    assert "did you mean 'dropout'" in result.err


def test_without_optuna_the_extra_is_named(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'emodistill\[tune\]'"):
        tune(quick(manifest), tmp_path)
