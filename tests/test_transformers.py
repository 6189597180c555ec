"""Folders for transformers: its own classes load them, and their answers are those of the ONNX graph."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import torch
from factories_voices import voice_model
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
from transformers.utils import logging as transformers_logging

from emodistill import Recognizer
from emodistill.audio.waveform import load, trim_silence
from emodistill.corpora import read_manifest
from emodistill.errors import ConfigError, MissingExtraError, ModelError
from emodistill.export.exporter import export_checkpoint
from emodistill.inference.model_card import BUNDLED, Card, licence_text, read_card
from emodistill.integrations.modeling_emodistill import EmoDistillFeatureExtractor
from emodistill.integrations.transformers_export import classifier, export_transformers, find_source
from emodistill.labels import LabelSet
from emodistill.models.backbones import load_backbone
from emodistill.models.checkpoint import save_checkpoint
from emodistill.models.compact import Compact

WHISPER_TINY = make.DATA / "models" / "whisper-tiny"
EMOTIONS = ("angry", "happy", "sad", "neutral")
CARD = Card(
    name="tiny", emotions=EMOTIONS, trim_db=30.0, sha256="0" * 64, temperature=1.7, teachers=(),
    backbone="compact", num_parameters=1, corpus="none", protocol="", fold="", scores={}, parity={},
    versions={},
)  # fmt: skip
CALL = load(Path(str(files("emodistill"))) / "demo" / "call.ogg")
LENGTHS_S = (0.1, 0.4, 1.3, 6.0, 20.0)
# Answers that come from two programs, in the same order as `emotions` of a recogniser.
WITHOUT_EMODISTILL = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "emodistill":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np
from transformers import pipeline
recognise = pipeline("audio-classification", model=sys.argv[1], trust_remote_code=True)
assert not any(name.partition(".")[0] == "emodistill" for name in sys.modules)
answers = recognise(np.load(sys.argv[2]), top_k=None)
print(json.dumps({item["label"]: item["score"] for item in answers}))
"""
# The extra `train` has these packages, and `transformers` has not.
WITHOUT_TRAINING = """
import sys
for name in "lightning sklearn scipy matplotlib tensorboard opensmile onnxscript pyarrow".split():
    sys.modules[name] = None
from emodistill.cli import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model for transformers."""
    out = tmp_path_factory.mktemp("transformers") / "bundled"
    export_transformers("bundled", out)
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> Path:
    """An exported model with emotions and dimensions, over a tiny compact backbone."""
    root = tmp_path_factory.mktemp("both")
    student = make.student(Compact(16, 2), nonlinear=True, merge=2, queries=2)
    student.dimensions, student.regressor = ("arousal", "valence"), torch.nn.Linear(16, 2)
    make.with_random_weights(student)  # the graph stores equal weights once
    save_checkpoint(root / "student", student, LabelSet(EMOTIONS), ["a"])
    fields = {"temperature": 0.8, "licence": "CC-BY-4.0"}
    export_checkpoint(root / "student", root / "exported", read_manifest(manifest), card=fields)
    return root / "exported"


class Lines(logging.Handler):
    """Keeps the messages of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def answers(folder: Path, waveforms: Any, **options: Any) -> Any:
    """Return what a pipeline answers, by emotion, and check that it loads without a message."""
    lines = Lines()
    transformers_logging.add_handler(lines)
    recognise = pipeline("audio-classification", model=str(folder), device="cpu")
    found = recognise(waveforms, top_k=None, **options)
    transformers_logging.remove_handler(lines)
    assert lines.texts == [], "nothing is newly initialised, and the pipeline supports the model"
    rows = found if isinstance(found[0], list) else [found]
    named = [{item["label"]: item["score"] for item in row} for row in rows]
    return named if isinstance(found[0], list) else named[0]


def assert_equal(found: dict[str, float], expected: np.ndarray, emotions: tuple[str, ...]) -> None:
    assert found.keys() == set(emotions)
    np.testing.assert_allclose([found[name] for name in emotions], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["compact", *make.SPEECH_MODELS])
def test_every_backbone_gives_the_answers_of_its_student(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    backbone = make.with_random_weights(load_backbone(str(models.get(name, name)), 2, width=16))
    pool: Any = {"whisper": (0, 1, 2), "hubert": "mix"}.get(name, "last")
    frozen, merge = (1, 2) if name == "whisper" else (0, 1)
    student = make.student(backbone, pool=pool, frozen=frozen, merge=merge, attentive=name != "whisper")
    classifier(student, CARD).save_pretrained(tmp_path)
    model, info = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.id2label == dict(enumerate(EMOTIONS))
    assert model.config.label2id == {emotion: index for index, emotion in enumerate(EMOTIONS)}
    lengths = torch.tensor([16_000, 7_000, 4_000])
    batch = torch.from_numpy(np.stack([make.speech(1.0, seed=seed) for seed in range(3)]))
    mask = (torch.arange(16_000)[None] < lengths[:, None]).long()
    with torch.no_grad():
        expected, found = student(batch, lengths), model(batch, mask)
        torch.testing.assert_close(found.logits, expected.logits / 1.7, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.embedding, expected.embedding, atol=1e-5, rtol=1e-4)
        for row, length in enumerate(lengths):  # without a mask, and without what is behind the padding
            alone = model(batch[row : row + 1, :length]).logits[0]
            torch.testing.assert_close(found.logits[row], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not WHISPER_TINY.is_dir(), reason="Whisper-tiny is not here")
def test_a_student_over_whisper_tiny_is_loaded_with_its_weights(tmp_path: Path) -> None:
    student = make.student(load_backbone(str(WHISPER_TINY), None), pool="mix", queries=2, nonlinear=True)
    make.with_random_weights(student.queries)  # at first they add zero
    classifier(student, CARD).save_pretrained(tmp_path)
    model = AutoModelForAudioClassification.from_pretrained(tmp_path)
    waveform = torch.from_numpy(CALL[:48_000])[None]
    with torch.no_grad():
        torch.testing.assert_close(
            model(waveform).logits, student(waveform).logits / 1.7, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("length_s", LENGTHS_S)
def test_a_pipeline_gives_the_probabilities_of_the_recogniser(
    length_s: float, folder: Path, bundled: Recognizer
) -> None:
    waveform = CALL[: round(length_s * make.RATE)] + np.float32(0.01)  # with an offset
    expected = bundled.probabilities(waveform)
    assert_equal(answers(folder, waveform), expected, bundled.emotions)
    assert_equal(answers(folder, 0.1 * waveform), expected, bundled.emotions)


def test_a_batch_of_a_pipeline_gives_each_waveform_its_own_answer(folder: Path, bundled: Recognizer) -> None:
    waveforms = [CALL[: round(length_s * make.RATE)] for length_s in LENGTHS_S]
    for waveform, found in zip(waveforms, answers(folder, waveforms, batch_size=5), strict=True):
        assert_equal(found, bundled.probabilities(waveform), bundled.emotions)


def test_the_folder_works_without_emodistill(folder: Path, bundled: Recognizer, tmp_path: Path) -> None:
    np.save(tmp_path / "call.npy", CALL)
    copy = shutil.copytree(folder, tmp_path / "model")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_EMODISTILL, copy, tmp_path / "call.npy"],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "newly initialized" not in result.stderr
    assert "not supported" not in result.stderr
    assert_equal(json.loads(result.stdout), bundled.probabilities(CALL), bundled.emotions)
    code = (folder / "modeling_emodistill.py").read_text()
    assert "import emodistill" not in code
    assert "from emodistill" not in code


def test_a_run_and_its_exported_model_give_the_same_folder(
    run: Path, exported: Path, manifest: Path, tmp_path: Path
) -> None:
    from_run = export_transformers(run, tmp_path / "run", texts={"licence": "CC-BY-4.0"})
    export_transformers(exported, tmp_path / "exported")
    assert from_run.card.licence == "CC-BY-4.0"
    waveform = load(manifest.parent / make.read_rows(manifest)[0]["path"])
    recognizer = Recognizer(exported)
    expected = recognizer.probabilities(waveform)
    for name in ("run", "exported"):
        assert_equal(answers(tmp_path / name, waveform), expected, recognizer.emotions)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "run"], "nothing else is left"


def test_a_model_with_dimensions_returns_them_too(both: Path, tmp_path: Path) -> None:
    export_transformers(both, tmp_path / "out")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "out")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    assert model.config.dimensions == ["arousal", "valence"]
    features = extractor(CALL[:32_000], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        found = model(**features)
    recognizer = Recognizer(both)
    expected = recognizer.classify(CALL[:32_000])
    np.testing.assert_allclose(found.dimensions[0], expected.dimensions, atol=1e-4)
    np.testing.assert_allclose(found.logits[0].softmax(-1), expected.probabilities, atol=1e-4)
    assert not (tmp_path / "out" / "LICENSE").exists(), "the licence is an identifier"


@pytest.mark.parametrize("width", [16, 128])  # one head, and two
def test_learned_queries_are_read_back_from_the_graph(width: int, tmp_path: Path, manifest: Path) -> None:
    student = make.with_random_weights(make.student(Compact(width, 1), queries=3))
    assert student.queries.num_heads == max(1, width // 64)
    save_checkpoint(tmp_path / "student", student, LabelSet(EMOTIONS), ["a"])
    export_checkpoint(tmp_path / "student", tmp_path / "exported", read_manifest(manifest))
    export_transformers(tmp_path / "exported", tmp_path / "out")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "out")
    weights = student.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=0, rtol=0)
    waveform = torch.from_numpy(CALL[:32_000])[None]
    with torch.no_grad():
        found = model(waveform).logits
        torch.testing.assert_close(found, student(waveform).logits, atol=1e-5, rtol=1e-4)
        model.queries.queries.zero_()
        assert (model(waveform).logits - found).abs().max() > 1e-3, "the answer depends on the queries"


def test_the_model_can_be_trained_further_and_saved(both: Path, tmp_path: Path) -> None:
    export_transformers(both, tmp_path / "out")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "out").train()
    output = model(torch.from_numpy(CALL[None, :16_000]), labels=torch.tensor([1]))
    output.loss.backward()
    assert torch.isfinite(model.classifier.weight.grad).all()
    assert float(output.loss.detach()) == pytest.approx(
        -float(output.logits.log_softmax(-1)[0, 1].detach()), abs=1e-5
    )
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "modeling_emodistill.py").is_file()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40), st.integers(1, 60), st.floats(10, 60))
def test_the_feature_extractor_prepares_as_the_recogniser_does(
    levels: list[float], repeats: int, trim_db: float
) -> None:
    """The waveform has steps of `levels`, so its ends may be silent."""
    waveform = np.repeat(np.array(levels, dtype=np.float32), 8 * repeats)
    found = EmoDistillFeatureExtractor(trim_db=trim_db)([waveform, CALL[:8000]], 16_000, return_tensors="np")
    expected = trim_silence((waveform - waveform.mean(dtype=np.float64)).astype(np.float32), trim_db)
    num_valid = max(len(expected), 1600)
    assert found["attention_mask"][0].sum() == num_valid
    np.testing.assert_array_equal(found["input_values"][0][: len(expected)], expected)
    assert not found["input_values"][0][len(expected) :].any()


@pytest.mark.parametrize(
    ("audio", "rate_hz", "message"),
    [(CALL[:8000], 8000, "got audio at 8000 Hz, expected 16000 Hz"),
     (np.tile(CALL, 2), 16_000, "got 40.0 s of audio; at most 20 s fit"),
     (np.zeros((2, 8000), np.float32), 16_000, "expected a mono waveform"),
     (np.zeros(8000, np.int16), 16_000, "floats from -1 to 1"),
     (np.zeros(0, np.float32), 16_000, "expected a mono waveform"),
     (np.full(8000, np.nan, np.float32), 16_000, "not finite")],
)  # fmt: skip
def test_the_feature_extractor_refuses(audio: np.ndarray, rate_hz: int, message: str) -> None:
    extractor = EmoDistillFeatureExtractor()
    with pytest.raises(ValueError, match=message):
        extractor(audio, sampling_rate=rate_hz)


def test_audio_that_is_too_long_can_be_cut() -> None:
    extractor = EmoDistillFeatureExtractor()
    found = extractor(np.tile(CALL, 2), sampling_rate=16_000, truncation=True, return_tensors="np")
    assert found["input_values"].shape == (1, 320_000)


def test_the_readme_begins_with_the_licence(folder: Path) -> None:
    card, text = read_card(BUNDLED), (folder / "README.md").read_text(encoding="utf-8")
    assert text.index("## Licence") < text.index("## Use") < text.index("## Limits")
    assert licence_text(card) in text
    assert " ".join((folder / "LICENSE").read_text(encoding="utf-8").split()) == licence_text(card)
    assert "OpenAI" in (folder / "WHISPER-LICENSE.txt").read_text(encoding="utf-8")
    data = ModelCard(text).data
    assert (data.library_name, data.license, data.license_link) == ("transformers", "other", "LICENSE")
    assert data.pipeline_tag == "audio-classification"
    assert "min_confidence" not in text, "the recogniser alone abstains"


def test_a_model_that_transformers_cannot_have_is_refused(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "out"
    int8 = voice_model(tmp_path / "int8", precision="int8")
    alone = voice_model(tmp_path / "alone", dimensions=("arousal",), emotions=())
    without = voice_model(tmp_path / "without")  # a graph that no training made
    for model, kind, message in (
        (int8, ModelError, "is quantised to int8"), (alone, ModelError, "predicts dimensions alone"),
        ("none", ModelError, "no model 'none': expected bundled, large"),
        (tmp_path, ModelError, "is not an exported model"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            find_source(model, out)
    with pytest.raises(ModelError, match="does not hold the student's description"):
        export_transformers(without, out)
    with pytest.raises(ConfigError, match="give another folder for transformers"):
        find_source("bundled", int8)
    with pytest.raises(ConfigError, match="bad fold '9'"):
        find_source(run, out, "9")
    assert not out.exists()


def test_a_model_that_differs_from_the_graph_is_refused(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emodistill.integrations.transformers_export.TOLERANCE", 0.0)
    with pytest.raises(ModelError, match="differs from the ONNX model by"):
        export_transformers(both, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("emodistill.integrations.transformers_export.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'emodistill\[transformers\]'"):
        find_source("bundled", tmp_path / "out")


def test_a_run_needs_the_extra_for_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Path
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "emodistill.integrations.transformers_export.find_spec",
        lambda name: None if name == "lightning" else found(name),
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'emodistill\[train\]'"):
        find_source(run, tmp_path / "out")


def test_an_exported_model_needs_nothing_beyond_its_extra(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRAINING, "export", "bundled", "--to", "transformers", tmp_path / "x"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "x" / "model.safetensors").is_file()


def test_the_command_line_writes_the_folder(both: Path, tmp_path: Path, emodistill: make.CommandLine) -> None:
    result = emodistill("export", both, "--to", "transformers", tmp_path / "out")
    assert result.code == 0, result.err
    assert "its answers differ from those of the ONNX model by at most" in result.err
    assert "Licence: CC-BY-4.0" in result.err
    for arguments, message in (
        (["bundled", "--to", "transformers"], "expected MODEL --to transformers DIR"),
        (["bundled", "--to", "transformers", "x", "-o", "y"], "expected MODEL --to transformers DIR"),
        (["bundled", "--to", "transformers", "x", "--web", "y"], "--web has no meaning with --to"),
        (["bundled", "--to", "transformers", "x", "--precision", "int8"], "--precision has no meaning"),
        (["bundled", "--to", "transformers", "x", "--fold", "1"], "--fold is for a run"),
        (["runs/x", "x"], "unexpected 'x'"),
    ):
        refused = emodistill("export", *arguments)
        assert refused.code == 2
        assert message in refused.err
