"""The refitted classifier: it minimises its loss, stays near the old one, and holds out dev speakers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import torch
from torch import nn

from emodistill.config import AugmentConfig
from emodistill.distillation import hard_label_loss
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import read_run
from emodistill.features.augment import apply_channel
from emodistill.features.preparation import prepare_waveform
from emodistill.models.checkpoint import load_checkpoint
from emodistill.models.student import Student
from emodistill.training.cross_validation import crossval, prepare_run
from emodistill.training.refit import MAX_GROUPS, ClassifierInputs, fit_classifier, held_out_logits


def classifier_inputs(
    rows: int = 60, dim: int = 5, classes: int = 3, num_speakers: int = 3
) -> ClassifierInputs:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, dim, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    possible = torch.ones(rows, classes, dtype=torch.bool)
    possible[: rows // 3, 2] = labels[: rows // 3] == 2
    speakers = tuple(f"s{row % num_speakers:02}" for row in range(rows))
    return ClassifierInputs(inputs, labels, speakers, possible, torch.linspace(0.5, 1.5, rows))


def classifier(dim: int = 5, classes: int = 3) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(dim, classes)


@pytest.mark.parametrize("prior", [1e-3, 1e-1])
def test_the_refitted_classifier_is_the_minimum(prior: float) -> None:
    rows, before = classifier_inputs(), classifier()
    kept = before.weight.detach().clone()
    fitted = fit_classifier(before, rows, prior)
    loss = hard_label_loss(fitted(rows.inputs), rows.labels, possible=rows.possible, weights=rows.weights)
    (loss + prior * ((fitted.weight - before.weight.detach()) ** 2).sum()).backward()
    assert fitted.weight.grad is not None
    assert fitted.bias.grad is not None
    assert fitted.weight.grad.abs().max() < 1e-3
    assert fitted.bias.grad.abs().max() < 1e-3
    torch.testing.assert_close(before.weight.detach(), kept)


def test_a_strong_prior_keeps_the_weights() -> None:
    before = classifier()
    fitted = fit_classifier(before, classifier_inputs(), 1e6)
    torch.testing.assert_close(fitted.weight, before.weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_speakers", [3, MAX_GROUPS + 5])
def test_held_out_logits_do_not_depend_on_the_speakers_own_labels(num_speakers: int) -> None:
    data = classifier_inputs(num_speakers=num_speakers)
    rows = torch.arange(30, 60)
    assert held_out_logits(classifier(), data, rows, 1e-2).abs().sum(dim=1).min() > 0
    of_speaker = torch.tensor([speaker == "s01" for speaker in data.speakers])
    changed = replace(data, labels=torch.where(of_speaker, 0, data.labels), possible=None, weights=None)
    original = replace(data, possible=None, weights=None)
    one, two = (held_out_logits(classifier(), item, rows, 1e-2) for item in (original, changed))
    torch.testing.assert_close(one[of_speaker[30:]], two[of_speaker[30:]])
    assert (one[~of_speaker[30:]] - two[~of_speaker[30:]]).abs().max() > 1e-3


def test_a_fold_with_a_refitted_classifier(manifest: Path, tmp_path: Path) -> None:
    recipe = make.recipe(manifest, protocol={"kind": "k-fold", "folds": 3, "refit": "classifier"})
    crossval(recipe, tmp_path / "run", max_folds=1)
    run = read_run(tmp_path / "run")
    (name,) = run.scores["folds"]
    fold = run.protocol.fold(name)
    before, after = (
        load_checkpoint(tmp_path / f"run/fold-{name}/{phase}/student") for phase in ("select", "refit")
    )
    assert set(after.training_ids) == {*fold.train, *fold.dev}
    assert run.checkpoint_folder(name) == tmp_path / f"run/fold-{name}/refit/student"
    assert run.checkpoint_folder(name, "prosodic") == tmp_path / f"run/fold-{name}/select/prosodic"
    assert isinstance(after.model, Student)
    for key, value in before.model.state_dict().items():
        same = torch.equal(value, after.model.state_dict()[key])
        assert same == (not key.startswith("classifier.")), key
    folder = tmp_path / f"run/fold-{name}"
    assert len(read_predictions(folder / "predictions-dev.csv")) == len(fold.dev)
    written = {path.name: path.read_bytes() for path in folder.glob("predictions*.csv")}
    (folder / "predictions.csv").unlink()
    (folder / "predictions-dev.csv").unlink()
    crossval(recipe, tmp_path / "run", max_folds=1)
    assert {path.name: path.read_bytes() for path in folder.glob("predictions*.csv")} == written

    description = folder / "select/student/model.json"  # as if the student had started from another model
    info = json.loads(description.read_text())
    description.write_text(json.dumps({**info, "training_ids": [*info["training_ids"], "elsewhere/1"]}))
    shutil.rmtree(folder / "refit")
    (folder / "predictions.csv").unlink()
    crossval(recipe, tmp_path / "run", max_folds=1)
    assert "elsewhere/1" in load_checkpoint(folder / "refit/student").training_ids


def test_babble_in_a_fold_is_made_of_its_training_split_alone(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[bytes] = set()

    def record(waveform: np.ndarray, config: AugmentConfig, draw: int, name: str, voices: Any) -> np.ndarray:
        used.update(voice.tobytes() for voice in voices)
        return apply_channel(waveform, config, draw, name, voices)

    monkeypatch.setattr("emodistill.training.data.apply_channel", record)
    recipe = make.recipe(
        manifest, protocol={"kind": "k-fold", "folds": 3, "refit": "classifier"},
        augment={"views": 1, "fresh": True, "babble_snr_db": [0.0, 20.0]}, distillation={"teachers": []},
    )  # fmt: skip
    (fold,) = prepare_run(recipe, tmp_path / "run")[:1]
    fold.run()
    train, dev, test = (
        {prepare_waveform(item, recipe.audio).tobytes() for item in split}
        for split in (fold.train, fold.dev, fold.test)
    )
    assert used == train
    assert not used & (dev | test)
