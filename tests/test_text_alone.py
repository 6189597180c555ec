"""A teacher that is trained and scored alone, with `student = "none"`: text needs no audio."""

import json
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from transformers import AutoModel

from emodistill.config import Recipe, load_recipe, parse_recipe, recipe_toml
from emodistill.corpora import Corpus, read_corpus, write_manifest
from emodistill.errors import ConfigError, LeakError, ModelError
from emodistill.evaluation.predictions import read_predictions
from emodistill.export import export_run
from emodistill.models.checkpoint import load_checkpoint
from emodistill.protocol.folds import read_protocol
from emodistill.training.cross_validation import crossval
from emodistill.training.fit import FitResult


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest without audio, whose published splits share speakers."""
    rows = [
        {"id": f"{split}_{emotion}_{number}", "speaker": f"s{number % 4}", "emotion": emotion,
         "transcript": make.WORDS[emotion][number % 3], "split": split}
        for split in ("train", "dev", "test") for emotion in make.EMOTIONS for number in range(6)
    ]  # fmt: skip
    return make.write_rows(tmp_path_factory.mktemp("text") / "utterances.csv", rows)


def recipe(text: Path, **sections: Any) -> Recipe:
    data: dict[str, Any] = {
        "student": "none", "distillation": {"teachers": ["linguistic"]},
        "protocol": {"kind": "published", "allow": ["speaker"], "refit": False},
    }  # fmt: skip
    return make.recipe(text, **{**data, **sections})


def test_a_text_corpus_is_trained_and_scored_and_its_leak_is_marked(
    text: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    optim = {**make.OPTIM, "epochs": 4, "measure": "weighted_f1"}
    scores = crossval(recipe(text, linguistic={"encoder": str(models["bert"]), "optim": optim}), tmp_path)
    assert set(scores["models"]) == {"linguistic"}
    assert scores["protocol"].endswith("LEAKS speaker BY DESIGN")
    table = read_predictions(tmp_path / "predictions.csv")
    assert table.utterances == read_protocol(tmp_path / "protocol.json").folds[0].test
    scored = json.loads((tmp_path / "scores.json").read_text())["models"]["linguistic"]["test"]["pooled"]
    assert scored["weighted_f1"] == pytest.approx(f1_score(table.truth, table.predicted, average="weighted"))
    assert not (tmp_path / "predictions-linguistic.csv").exists()
    folder = tmp_path / "fold-published/select"
    assert [path.name for path in folder.iterdir()] == ["linguistic"]
    assert not list(folder.glob("linguistic/targets*"))

    fitted = FitResult.read(folder / "linguistic/fit.json")
    by_epoch = [row["dev_weighted_f1"] for row in fitted.history]
    assert fitted.epochs == int(np.argmax(by_epoch)) + 1, "the epoch is chosen by the measure of the recipe"
    dev = read_predictions(tmp_path / "predictions-dev.csv")
    assert dev.scores().weighted_f1 == pytest.approx(by_epoch[fitted.epochs - 1])
    assert dev.scores().ua == pytest.approx(fitted.dev_ua)
    with pytest.raises(ModelError, match="has no student to export"):
        export_run(tmp_path, tmp_path / "exported")


def test_a_split_that_shares_speakers_is_refused_unless_allowed(text: Path, tmp_path: Path) -> None:
    with pytest.raises(LeakError, match="speakers in both train and dev"):
        crossval(recipe(text, protocol={"kind": "published"}), tmp_path)


def test_a_student_is_refused_on_text_and_the_message_says_what_to_set(text: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no utterance of train has the audio that a student needs; .*student=none"
    ):
        crossval(recipe(text, student={"backbone": "compact"}), tmp_path)
    with pytest.raises(
        ConfigError, match="no utterance of train has the audio that the prosodic teacher needs"
    ):
        crossval(recipe(text, distillation={"teachers": ["prosodic"]}), tmp_path / "prosodic")


def test_without_a_student_there_is_one_teacher(manifest: Path) -> None:
    for teachers in ([], ["prosodic", "linguistic"]):
        with pytest.raises(ConfigError, match="trains one teacher alone: name it in distillation"):
            make.recipe(manifest, student="none", distillation={"teachers": teachers})


def test_a_recipe_without_student_is_read_back_from_its_file(tmp_path: Path) -> None:
    loaded = load_recipe("meld-text")
    (tmp_path / "recipe.toml").write_text(recipe_toml(loaded))
    assert load_recipe(tmp_path / "recipe.toml") == loaded
    assert loaded.student is None
    assert parse_recipe({"name": "x"}).student is not None


def test_a_prosodic_teacher_alone_equals_that_of_a_whole_run(
    manifest: Path, run: Path, tmp_path: Path
) -> None:
    """A teacher is the same, whichever models are trained with it."""
    data = {"student": "none", "distillation": {"teachers": ["prosodic"]}}
    crossval(make.recipe(manifest, **data), tmp_path)
    alone, beside = tmp_path / "predictions.csv", run / "predictions-prosodic.csv"
    assert alone.read_bytes() == beside.read_bytes()


def test_frozen_layers_of_a_text_encoder_do_not_change(
    text: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    encoder = {"encoder": str(models["bert"]), "optim": {**make.OPTIM, "lr": 0.1}}
    crossval(recipe(text, linguistic={**encoder, "frozen": 1}), tmp_path)
    before = AutoModel.from_pretrained(models["bert"]).state_dict()
    after = load_checkpoint(tmp_path / "fold-published/select/linguistic").model.encoder.state_dict()
    for name, value in before.items():
        if "pooler" not in name:
            frozen = name.startswith(("embeddings.", "encoder.layer.0."))
            assert torch.equal(after[name], value) == frozen, name
    with pytest.raises(ModelError, match=r"linguistic.frozen = 3, but .* has 2 layers"):
        crossval(recipe(text, linguistic={**encoder, "frozen": 3}), tmp_path / "three")


def test_a_pretrained_encoder_learns_real_lines(minilm: Path, tmp_path: Path) -> None:
    """MiniLM on some lines of MELD with the shipped recipe; the leak of the official split is marked."""
    folder = make.DATA / "text/meld"
    if not folder.is_dir():
        pytest.skip(f"no MELD in {folder}")
    corpus = read_corpus("meld", folder)
    few = tuple(u for u in corpus if u.emotion in ("happy", "sad"))[::12]
    write_manifest(Corpus("meld", few), tmp_path / "utterances.csv")
    settings = [
        f"corpus.manifest={tmp_path / 'utterances.csv'}", f"linguistic.encoder={minilm}", "runtime.threads=1",
        "linguistic.optim.epochs=2", "linguistic.optim.batch_size=16",
    ]  # fmt: skip
    scores = crossval(load_recipe("meld-text", settings), tmp_path / "run")
    assert scores["protocol"].endswith("LEAKS speaker BY DESIGN")
    assert scores["models"]["linguistic"]["test"]["pooled"]["ua"] > 0.6
    with pytest.raises(LeakError, match="speakers in both train and dev"):
        crossval(load_recipe("meld-text", [*settings, "protocol.allow=[]"]), tmp_path / "not allowed")
