"""`train --all`: the model that ships learns from everything, and claims no test score."""

import json
import math
import shutil
from pathlib import Path
from statistics import median
from typing import Any

import factories as make
import pytest

from emodistill.config import load_recipe, recipe_toml
from emodistill.corpora import read_manifest
from emodistill.errors import ConfigError, LeakError, ModelError
from emodistill.evaluation.calibration import fit_temperature
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import read_run
from emodistill.export import export_run
from emodistill.inference.model_card import read_card
from emodistill.models.checkpoint import load_checkpoint
from emodistill.training import fold as fold_module
from emodistill.training.all_data import chosen_epochs, train_all
from emodistill.training.cross_validation import crossval
from emodistill.training.evaluated_models import open_model
from emodistill.training.evaluation_run import evaluate
from emodistill.training.fit import FitResult


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, run: Path) -> tuple[Path, dict[str, Any]]:
    """The run folder of a model that is trained on all data after the crossval `run`, and its scores.json."""
    out = tmp_path_factory.mktemp("all") / "run-all"
    return out, train_all(load_recipe(run / "recipe.toml"), out, run)


@pytest.fixture(scope="module")
def exported_all(tmp_path_factory: pytest.TempPathFactory, shipped: tuple[Path, dict[str, Any]]) -> Path:
    """The folder of the exported model."""
    out = tmp_path_factory.mktemp("exported-all") / "model"
    export_run(shipped[0], out)
    return out


def test_every_model_learns_from_all_utterances_for_the_epochs_of_dev(
    shipped: tuple[Path, dict[str, Any]], run: Path
) -> None:
    out, scores = shipped
    chosen = chosen_epochs(read_run(run))
    assert set(chosen) == {"prosodic", "linguistic", "student"}
    everything = {row["id"] for row in make.read_rows(run / "utterances.csv")}
    spoken = {row["id"] for row in make.read_rows(run / "utterances.csv") if row["transcript"]}
    for name, values in chosen.items():
        folder = out / "fold-all/all" / name
        assert FitResult.read(folder / "fit.json").epochs == math.ceil(median(values))
        expected = spoken if name == "linguistic" else everything
        assert set(load_checkpoint(folder).training_ids) == expected
    assert scores["all_data"]["epochs_of_folds"] == chosen


def test_the_run_claims_no_test_score(shipped: tuple[Path, dict[str, Any]], run: Path) -> None:
    out, scores = shipped
    assert scores["models"] == {}
    crossval_scores = json.loads((run / "scores.json").read_text())
    assert scores["all_data"]["scores"] == crossval_scores["models"]
    assert scores["all_data"]["protocol"] == crossval_scores["protocol"]
    assert "No test speakers are left: scores are those of this crossval run" in scores["all_data"]["note"]
    with pytest.raises(ModelError, match="trained on all data and has no scores of its own"):
        read_run(out)


def test_the_card_says_where_its_scores_come_from(
    exported_all: Path, shipped: tuple[Path, dict[str, Any]], run: Path
) -> None:
    card = read_card(exported_all)
    test = read_predictions(run / "predictions.csv")
    assert list(card.scores) == ["crossval"]
    assert card.scores["crossval"]["ua"] == pytest.approx(test.scores().ua)
    assert card.scores_note == shipped[1]["all_data"]["note"]
    assert card.through_recogniser == {}
    assert card.data[0].utterances == {"train": len(test)}
    assert card.protocol == read_run(run).scores["protocol"]
    dev = read_predictions(run / "predictions-dev.csv")
    assert card.temperature == pytest.approx(fit_temperature(dev))
    assert "dev predictions of 6 speakers in the crossval run" in card.calibration_note
    assert not any(name.startswith("test_") for name in card.calibration)
    text = (exported_all / "README.md").read_text()
    assert "The model itself was not tested." in text
    assert "The scores of these weights" not in text
    assert "| crossval |" in text
    assert "| test |" not in text


def test_the_audit_knows_all_training_ids(
    exported_all: Path, shipped: tuple[Path, dict[str, Any]], manifest: Path, tmp_path: Path
) -> None:
    corpus = read_manifest(manifest)
    for model in (exported_all, shipped[0]):
        evaluated, _ = open_model(str(model))
        assert evaluated.known_ids == {item.id for item in corpus}
        with pytest.raises(LeakError):
            evaluate(evaluated, corpus, tmp_path / "evaluation", "all")


def test_a_killed_training_continues_and_other_epochs_are_refused(
    shipped: tuple[Path, dict[str, Any]], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(run / "recipe.toml")
    train = fold_module.FoldRun._train_new

    def killed(self: Any, stage: Any, *arguments: Any) -> None:
        if stage.name == "student":
            raise KeyboardInterrupt
        train(self, stage, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fold_module.FoldRun, "_train_new", killed)
        with pytest.raises(KeyboardInterrupt):
            train_all(recipe, tmp_path / "out", run)
    train_all(recipe, tmp_path / "out", run)
    name = "fold-all/all/student/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (shipped[0] / name).read_bytes()
    monkeypatch.setattr(fold_module.FoldRun, "_train_new", None)  # a call would fail
    train_all(recipe, tmp_path / "out", run)
    copy = shutil.copytree(run, tmp_path / "copy")
    for path in copy.glob("fold-*/select/student/fit.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "epochs": 7}))
    with pytest.raises(ConfigError, match="was trained for other epochs"):
        train_all(recipe, tmp_path / "out", copy)


def test_the_crossval_must_be_finished_and_of_the_same_recipe(
    run: Path, manifest: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(run / "recipe.toml")
    with pytest.raises(ConfigError, match=r"run of another recipe: student.dropout is .* with --epochs-from"):
        train_all(load_recipe(run / "recipe.toml", ["student.dropout=0.5"]), tmp_path / "out", run)
    with pytest.raises(ModelError, match="no run folder"):
        train_all(recipe, tmp_path / "out", tmp_path / "nothing")
    quick = make.recipe(manifest, distillation={"teachers": []}, protocol={"refit": False})
    crossval(quick, tmp_path / "part", folds=["1"])
    with pytest.raises(ModelError, match=r"is not finished: it lacks the folds 2, 3"):
        train_all(quick, tmp_path / "out", tmp_path / "part")
    assert not (tmp_path / "out").exists(), "nothing was trained"


def test_a_model_with_voices_is_calibrated_with_a_voice_too(
    voice_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_all(load_recipe(voice_run / "recipe.toml"), tmp_path / "all", voice_run)
    assert "protocol.refit = 'classifier' needs speakers" in " ".join(capsys.readouterr().err.split())
    export_run(tmp_path / "all", tmp_path / "model")
    card = read_card(tmp_path / "model")
    assert card.temperature_voice is not None
    assert card.voice_dim is not None
    assert "voice_utterances" in card.calibration


def test_int8_needs_labelled_utterances_of_other_speakers(
    shipped: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no utterances are left to check int8 on"):
        export_run(shipped[0], tmp_path / "model", precision="int8")


def test_the_command_runs_the_crossval_first(
    emodistill: make.CommandLine, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = make.recipe(manifest, distillation={"teachers": []}, protocol={"refit": False})
    Path("tiny.toml").write_text(recipe_toml(recipe))
    result = emodistill("train", "tiny.toml", "--all")
    assert result.code == 0, result.err
    assert Path("runs/tiny-seed0/scores.json").is_file()
    assert Path("runs/tiny-seed0-all/scores.json").is_file()
    assert "No test speakers are left" in " ".join(result.err.split())
    assert "emodistill export runs/tiny-seed0-all -o exported" in result.err
    result = emodistill("export", "runs/tiny-seed0-all", "-o", "exported")
    assert result.code == 0, result.err
    assert "The model itself was not tested." in " ".join(result.err.split())
    result = emodistill("scores", "runs/tiny-seed0-all")
    assert result.code == 2
    assert "Give the crossval run that its scores come from" in result.err
    for options in (("--all", "--fold", "1"), ("--epochs-from", "runs/tiny-seed0")):
        assert emodistill("train", "tiny.toml", *options).code == 2


def test_a_model_of_one_speaker_claims_no_unknown_speakers(tmp_path: Path) -> None:
    manifest = make.corpus_folder(tmp_path / "corpus", speakers=1, each=9)
    rows = [{**row, "session": int(row["id"][-1]) % 3} for row in make.read_rows(manifest)]
    recipe = make.recipe(
        make.write_rows(manifest, rows), distillation={"teachers": []},
        protocol={"kind": "leave-one-session-out", "refit": False, "allow": ["speaker"]},
    )  # fmt: skip
    crossval(recipe, tmp_path / "run")
    scores = train_all(recipe, tmp_path / "all", tmp_path / "run")
    assert "tested on utterances that they had not learned from" in scores["all_data"]["note"]
    assert scores["protocol"].endswith("LEAKS speaker BY DESIGN")
    export_run(tmp_path / "all", tmp_path / "model")
    assert "had not learned from the utterance" in read_card(tmp_path / "model").calibration_note
