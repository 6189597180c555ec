"""The bundled model: complete, small, with a complete card and the score that the card states."""

import sys
from collections.abc import Callable
from pathlib import Path

import factories as make
import numpy as np
import pytest

from emodistill import Recognizer, cli
from emodistill.config import recipe_toml
from emodistill.corpora import read_corpus
from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.inference.card_writer import card_markdown
from emodistill.inference.model_card import BUNDLED, MODEL_FILES, read_card
from emodistill.models.checkpoint import load_initial
from emodistill.protocol import FIXED_SPLITS

SEVEN = ("angry", "happy", "sad", "neutral", "fearful", "disgusted", "surprised")


@pytest.fixture(scope="module")
def bundled() -> Recognizer:
    return Recognizer()


def test_it_is_small_and_its_card_is_complete(bundled: Recognizer) -> None:
    assert sum((BUNDLED / name).stat().st_size for name in (*MODEL_FILES, "README.md")) <= 16e6
    card = bundled.card
    assert card.emotions == SEVEN
    assert (card.backbone, card.precision) == ("openai/whisper-tiny.en", "fp16")
    assert {source.name for source in card.data} == {"ravdess", "nemo", "ased", "urdu", "crema-d"}
    assert all(source.licence != "not stated" for source in card.data)
    for corpus in ("ravdess", "nemo", "ased", "crema-d"):
        found = card.scores[f"{corpus}/test"]
        assert found["ua_low"] <= found["ua"] <= found["ua_high"]
    assert {"ece_before", "ece_after", "test_ece_after", "voice_ece_after"} <= card.calibration.keys()
    assert "CREMA-D" in card.licence
    assert "OpenAI" in (BUNDLED / "WHISPER-LICENSE.txt").read_text(encoding="utf-8")
    assert len(card.coverage) >= 10
    assert "non-commercial" in card.licence
    assert (BUNDLED / "README.md").read_text(encoding="utf-8") == card_markdown(card)


def test_gain_and_silence_around_speech_change_nothing(bundled: Recognizer) -> None:
    sound = make.speech(1.5)
    around = np.concatenate([np.zeros(16_000), sound, np.zeros(8_000)]).astype(np.float32)
    first = bundled.predict(sound, make.RATE)
    for other in (0.1 * sound, around):
        prediction = bundled.predict(other, make.RATE)
        assert prediction.emotion == first.emotion
        for name in SEVEN:
            assert prediction.probabilities[name] == pytest.approx(first.probabilities[name], abs=0.05)


def test_it_can_be_trained_further() -> None:
    found = load_initial("bundled")
    assert found.labels.names == SEVEN
    assert len(found.training_ids) == 10473 + 2314, "train, and dev by the final training"
    assert not {"ravdess/03-01-01-01-01-01-01", "ravdess/03-01-01-01-01-01-03"} & set(found.training_ids)


@pytest.mark.skipif(not (make.DATA / "corpora/ravdess").is_dir(), reason="no RAVDESS")
def test_its_score_is_that_of_its_card(bundled: Recognizer) -> None:
    speakers = FIXED_SPLITS["five-corpora"]["test"]
    test = {name.partition("/")[2] for name in speakers if name.startswith("ravdess/")}
    corpus = [u for u in read_corpus("ravdess", make.DATA / "corpora/ravdess", "seven") if u.speaker in test]
    assert len(corpus) == 480
    predictions = list(bundled.predict_all([u.path for u in corpus if u.path is not None], jobs=2))
    assert all(item.emotion is not None for item in predictions), "every recording of the corpus is speech"
    truth = [SEVEN.index(u.emotion or "") for u in corpus]
    predicted = [SEVEN.index(item.emotion or "") for item in predictions]
    expected = bundled.card.scores["ravdess/test"]["ua"]  # it is through the recogniser, too
    assert unweighted_accuracy(truth, predicted) == pytest.approx(expected, abs=1e-3)


def test_its_recipe_trains_on_other_recordings(tmp_path: Path, command: Callable[..., None]) -> None:
    manifest = make.corpus_folder(tmp_path / "corpus", 3, emotions=("happy", "neutral", "sad"), each=1)
    make.PRETRAINED["whisper"](tmp_path / "whisper")
    small = {
        "corpus.manifest": manifest, "protocol.kind": "k-fold", "protocol.folds": 3,
        "student.backbone": tmp_path / "whisper", "student.layers": 2, "student.frozen": 2,
        "student.pool": [1, 2], "prosodic.optim.epochs": 1, "student.optim.epochs": 1,
        "runtime.threads": 1, "runtime.workers": 1,
    }  # fmt: skip
    settings = [part for name, value in small.items() for part in ("--set", f"{name}={value}")]
    command("train", "bundled", *settings, "-o", tmp_path / "run")
    command("export", tmp_path / "run", "-o", tmp_path / "model")
    found = Recognizer(tmp_path / "model", threads=1)
    assert found.emotions == ("happy", "sad", "neutral")
    prediction = found.predict(make.speech(1.5), make.RATE)
    assert set(prediction.teachers or {}) == set(
        Recognizer().predict(make.speech(1.5), make.RATE).teachers or {}
    )


def test_it_can_be_trained_on_other_emotions(tmp_path: Path, command: Callable[..., None]) -> None:
    manifest = make.corpus_folder(tmp_path / "corpus", 3, emotions=("happy", "neutral", "sad"), each=1)
    once = {"backbone": "compact", "optim": {**make.OPTIM, "epochs": 1}}
    recipe = make.recipe(manifest, student=once, distillation={"teachers": []}, protocol={"refit": False})
    (tmp_path / "own.toml").write_text(recipe_toml(recipe), encoding="utf-8")
    command("train", tmp_path / "own.toml", "--init", "bundled", "-o", tmp_path / "run")
    command("export", tmp_path / "run", "-o", tmp_path / "model")
    card = read_card(tmp_path / "model")
    assert card.emotions == ("happy", "sad", "neutral")
    assert 0.85 < card.num_parameters / read_card(BUNDLED).num_parameters < 1, (
        "its heads for teachers are gone"
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run `emodistill` with these words, which must succeed."""

    def call(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["emodistill", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code

    return call
