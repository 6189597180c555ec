"""Which predictions the temperatures of an exported model are fitted on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from emodistill.corpora import Utterance
from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.known import KNOWN_PREDICTIONS, KNOWN_PREDICTIONS_DEV
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import Run, read_run
from emodistill.export import calibration_data as module
from emodistill.export.calibration_data import calibration_data
from emodistill.inference.model_card import read_card


def test_temperatures_come_from_dev_alone_and_with_known_utterances(
    voice_run: Path, exported_voice: Path
) -> None:
    run = read_run(voice_run)
    tables = calibration_data(run, "1")
    fold = run.protocol.fold("1")
    assert tables.known_fitted is not None
    assert tables.known_test is not None
    assert set(tables.fitted.utterances) == set(tables.known_fitted.utterances) == set(fold.dev)
    assert set(tables.test.utterances) == set(tables.known_test.utterances) == set(fold.test)
    assert (tables.fitted.probabilities != tables.known_fitted.probabilities).any()
    card = read_card(exported_voice)
    assert card.temperature_voice is not None
    assert {"ece_after", "voice_ece_after", "voice_test_ece_after"} <= set(card.calibration)


def test_temperatures_come_from_corpora_that_other_runs_left_out(
    voice_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(voice_run)
    fold = run.protocol.fold("1")
    strange = set(fold.test[::2])

    def with_corpora(folder: Path) -> Run:
        other = read_run(folder)
        other.__dict__["utterances"] = {
            name: Utterance(name, "s", "sad", corpus="strange" if name in strange else "heard")
            for name in (*fold.train, *fold.dev, *fold.test)
        }
        return other

    monkeypatch.setattr(module, "read_run", with_corpora)
    tables = calibration_data(run, "1", [voice_run])
    assert tables.known_fitted is not None
    assert set(tables.fitted.utterances) == set(tables.known_fitted.utterances) == strange
    assert tables.source is not None
    assert "strange" in tables.source
    assert "heard" not in tables.source
    with pytest.raises(ConfigError, match=r"two folds left out \['strange'\]"):
        calibration_data(run, "1", [voice_run, voice_run])
    everything = read_predictions(voice_run / "fold-1" / "predictions.csv")
    assert len(tables.test) == len(everything) > len(tables.fitted)


def test_a_run_that_heard_its_corpora_or_has_another_recipe_is_refused(voice_run: Path) -> None:
    run = read_run(voice_run)
    with pytest.raises(ConfigError, match="learned from all of its test corpora"):
        calibration_data(run, "1", [voice_run])
    other = replace(run, training_recipe=run.recipe.model_copy(update={"seed": 7}))
    with pytest.raises(ConfigError, match="has another recipe"):
        calibration_data(other, "1", [voice_run])


def test_an_edited_table_is_refused(voice_run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(voice_run, tmp_path / "run")
    table = copied / "fold-1" / KNOWN_PREDICTIONS
    table.write_text(table.read_text(encoding="utf-8").replace("0.", "0.0", 1), encoding="utf-8")
    with pytest.raises(ModelError, match="was changed after its fold had finished"):
        calibration_data(read_run(copied), "1")


@pytest.mark.parametrize("name", [KNOWN_PREDICTIONS, KNOWN_PREDICTIONS_DEV])
def test_a_run_without_the_table_of_known_utterances_says_what_to_do(
    name: str, voice_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name.removesuffix(".csv").replace("-", "_").upper(), "none.csv")
    with pytest.raises(ModelError, match="run the same command again"):
        calibration_data(read_run(voice_run), "1")
