"""Students that start from another model: an exported one, or a checkpoint."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import factories as make
import onnx
import pytest
import torch

import emodistill
from emodistill.corpora import read_manifest, write_manifest
from emodistill.errors import ConfigError, LeakError, ModelError
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import (
    METADATA,
    load_checkpoint,
    load_initial,
    read_exported,
    save_checkpoint,
)
from emodistill.models.student import Standardise, Student
from emodistill.training.cross_validation import crossval
from emodistill.training.stages import SpeechStage


def test_an_exported_student_has_the_weights_of_its_checkpoint(exported: Path, run: Path) -> None:
    checkpoint = read_exported(exported)
    original = load_checkpoint(next(run.glob("fold-*")) / "refit/student")
    assert checkpoint.labels == original.labels
    assert checkpoint.training_ids == original.training_ids
    state = checkpoint.model.state_dict()
    assert state.keys() == original.model.state_dict().keys()
    for name, value in original.model.state_dict().items():
        torch.testing.assert_close(state[name], value, atol=0, rtol=0)


def test_a_student_of_other_emotions_starts_from_an_exported_one(exported: Path, tmp_path: Path) -> None:
    same = make.corpus_folder(tmp_path / "corpus", emotions=("happy", "neutral", "sad"), each=2)
    still = {**make.OPTIM, "epochs": 1, "lr": 1e-9}
    with pytest.raises(LeakError, match="the initial student teacher was trained on held-out utterances"):
        crossval(make.recipe(same, student={"init": str(exported)}), tmp_path / "leak", max_folds=1)
    listed = tmp_path / "new.csv"
    corpus = read_manifest(same)
    renamed = tuple(replace(item, id=f"new-{item.id}") for item in corpus)  # other ids: other recordings
    write_manifest(replace(corpus, utterances=renamed), listed)
    recipe = make.recipe(
        listed, protocol={"refit": False}, augment={"views": 1, "noise_snr_db": None},
        distillation={"teachers": []},
        student={"init": str(exported), "width": 64, "layers": 3, "optim": still},
    )  # fmt: skip
    crossval(recipe, tmp_path / "run", max_folds=1)
    student = load_checkpoint(next((tmp_path / "run").glob("fold-*")) / "select/student")
    assert isinstance(student.model, Student)
    assert student.labels.names == ("happy", "sad", "neutral")
    assert student.model.classifier.out_features == 3
    before = read_exported(exported)
    assert set(before.training_ids) < set(student.training_ids), "the ids of the first training are kept"
    for (
        name,
        value,
    ) in (
        before.model.state_dict().items()
    ):  # the shape of the initial model, not of the recipe; training barely moved it
        if name.startswith("backbone."):
            torch.testing.assert_close(student.model.state_dict()[name], value, atol=1e-4, rtol=0)


def test_a_bad_initial_model_is_refused(exported: Path, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not a complete checkpoint: it has no model\.json"):
        load_initial(str(tmp_path))
    model = onnx.load(exported / "model.onnx")
    for weight in model.graph.initializer:
        if weight.name == "student.classifier.weight":
            weight.name = "folded_away"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        ModelError, match=r"holds no floating-point 'classifier\.weight': start from the checkpoint"
    ):
        read_exported(tmp_path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="does not hold the student's description: export it again"):
        read_exported(tmp_path)
    with pytest.raises(ConfigError, match="probe and init are two ways to start"):
        make.recipe(manifest, student={"backbone": "x", "frozen": 1, "probe": 0.5, "init": "bundled"})


def test_the_exported_file_describes_its_student(exported: Path) -> None:
    (entry,) = (item for item in onnx.load(exported / "model.onnx").metadata_props if item.key == METADATA)
    info = json.loads(entry.value)
    assert info["kind"] == "student"
    assert info["emotions"] == ["angry", "sad"]
    assert info["training_ids"]
    code = str(Path(emodistill.__file__).parent).encode()
    assert code not in (exported / "model.onnx").read_bytes(), (
        "the file holds no path of the machine that wrote it"
    )


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (1, 2), (2, 1)])
@torch.no_grad()
def test_a_student_starts_with_the_logits_of_its_initial_model(
    before: int, after: int, manifest: Path, models: dict[str, Path], own_cache: Path, tmp_path: Path
) -> None:
    corpus = read_manifest(manifest)
    labels = LabelSet.from_emotions(utterance.emotion or "" for utterance in corpus)
    whisper = {"backbone": str(models["whisper"]), "layers": 2, "pool": [1, 2]}

    def start(frozen: int, init: str | None) -> Student:
        recipe = make.recipe(
            manifest, student={**whisper, "frozen": frozen, "init": init}, augment={"views": 2}
        )
        assert recipe.student is not None
        stage = SpeechStage("student", recipe, labels, recipe.student, recipe.augment, {})
        model, _ = stage.initialise(corpus.utterances[:8])
        assert isinstance(model, Student)
        return model.eval()

    first = start(before, None)
    assert isinstance(first.norm, Standardise) == (before > 0)
    save_checkpoint(tmp_path / "first", first, labels, [])
    second = start(after, str(tmp_path / "first"))
    assert second.config.frozen == after
    waveform = torch.from_numpy(make.speech(1.0, 120))[None]
    torch.testing.assert_close(second(waveform).logits, first(waveform).logits)
    save_checkpoint(tmp_path / "second", second, labels, [])
    again = load_checkpoint(tmp_path / "second").model
    torch.testing.assert_close(again(waveform).logits, first(waveform).logits)


def test_an_exported_model_of_another_version_is_refused(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    (entry,) = (item for item in model.metadata_props if item.key == METADATA)
    info = json.loads(entry.value)
    info["config"]["no_such"] = 1
    entry.value = json.dumps(info)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        ModelError, match=r"model\.onnx' was written by another version: this one does not accept no_such"
    ):
        load_initial(str(tmp_path))


def test_a_checkpoint_of_another_version_is_refused(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(next(run.glob("fold-*")) / "refit/student", tmp_path / "student")
    info = json.loads((folder / "model.json").read_text())
    info["config"]["optim"]["no_such"] = 0.2
    (folder / "model.json").write_text(json.dumps(info))
    with pytest.raises(
        ModelError, match=r"written by another version: this one does not accept optim\.no_such"
    ):
        load_checkpoint(folder)
