"""`evaluate` with models that predict dimensions: of Hugging Face, with two kinds of heads, and any other."""

import json
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.corpora import Corpus, Utterance, read_manifest
from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.compare import compare_runs
from emodistill.evaluation.dimension_predictions import read_dimensions
from emodistill.evaluation.run import read_run
from emodistill.training.evaluated_models import TransformersModel
from emodistill.training.evaluation_run import evaluate
from emodistill.training.transformers_models import predicted_dimensions, regression_model

ORDER = ("Arousal", "dominance", "VALENCE")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of noises by six speakers with labels from 1 to 5; one has no valence, one no label."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    rows = []
    for place in range(18):
        soundfile.write(folder / f"{place}.wav", 0.3 * random.normal(size=16_000), 16_000)
        rows.append({
            "path": f"{place}.wav", "speaker": f"s{place % 6}", "emotion": "",
            "arousal": str(random.integers(1, 6)) if place else "",
            "valence": str(random.integers(1, 6)) if place > 1 else "", "scale": "1..5",
        })  # fmt: skip
    return make.write_rows(folder / "manifest.csv", rows)


def tiny_config(**more: object) -> object:
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, classifier_proj_size=8, **more,
    )  # fmt: skip


def save(folder: Path, model: torch.nn.Module, centre: float = 0.5) -> Path:
    """Save a model with random weights, whose outputs are around `centre`."""
    from transformers import Wav2Vec2FeatureExtractor

    make.with_random_weights(model)
    head = model.classifier
    with torch.no_grad():
        getattr(head, "out_proj", head).bias.fill_(centre)
    model.save_pretrained(folder)  # type: ignore[operator]
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def regressor(folder: Path, custom: bool = True, names: tuple[str, ...] = ORDER, centre: float = 0.5) -> Path:
    """A tiny model with dimensions, with the head of its card or that of transformers."""
    from transformers import Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    config = tiny_config(num_labels=len(names), id2label=dict(enumerate(names)), problem_type="regression")
    kind = regression_model() if custom else Wav2Vec2ForSequenceClassification
    return save(folder, kind(config), centre)


def evaluated(model: Path, manifest: Path, out: Path, *more: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["evaluate", str(model), str(manifest), "-o", str(out), *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.mark.parametrize("custom", [True, False])
def test_a_hugging_face_model_with_dimensions_is_scored(manifest: Path, tmp_path: Path, custom: bool) -> None:
    folder = regressor(tmp_path / "model", custom)
    data = json.loads(evaluated(folder, manifest, tmp_path / "out", "-f", "json"))
    assert data["models"] == []
    assert data["dimensions"]["names"] == ["arousal", "valence"]  # the corpus has no dominance
    scores = data["dimensions"]["models"][0]["dimensions"]
    assert [scores[name]["num_utterances"] for name in ("arousal", "valence")] == [17, 16]
    table = read_dimensions(tmp_path / "out/dimensions.csv")
    assert len(table) == 17  # one utterance has no label
    model = TransformersModel(str(folder))
    assert (model.names, model.dimensions) == ((), ("arousal", "dominance", "valence"))
    items = {item.id: item for item in read_manifest(manifest)}
    for row, name in enumerate(table.utterances):
        sound, _ = soundfile.read(items[name].path, dtype="float32")
        with torch.no_grad():
            expected = model.logits(sound).numpy()
        np.testing.assert_allclose(table.predicted[row], expected[[0, 2]].clip(0, 1), atol=1e-5)
        assert table.truth[row, 0] == pytest.approx(items[name].unit_dimensions()["arousal"])


def test_the_custom_head_is_that_of_its_card(tmp_path: Path) -> None:
    """Mean over time, dense layer, tanh, output layer, computed here from the weights of the file."""
    from safetensors.torch import load_file
    from transformers import Wav2Vec2Model

    folder = regressor(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    model = TransformersModel(str(folder))
    waveform = np.random.default_rng(1).normal(size=8_000).astype(np.float32)
    inputs = model.extractor(waveform, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        hidden = Wav2Vec2Model.from_pretrained(folder).eval()(**inputs)[0].mean(dim=1)
        hidden = torch.tanh(hidden @ weights["classifier.dense.weight"].T + weights["classifier.dense.bias"])
        expected = hidden @ weights["classifier.out_proj.weight"].T + weights["classifier.out_proj.bias"]
        np.testing.assert_allclose(model.logits(waveform), expected[0], atol=1e-5)


def test_outputs_outside_of_0_to_1_are_moved_to_its_ends(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = regressor(tmp_path / "model", centre=40.0)
    items = tuple(read_manifest(manifest))[2:4]
    _, _, values = TransformersModel(str(folder)).with_dimensions(items)
    assert (values == 1).all()
    assert "2 of 2 outputs lie outside of 0 to 1" in " ".join(capsys.readouterr().err.split())


def test_a_classifier_with_the_custom_head_is_read_with_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = tiny_config(num_labels=2, id2label={0: "angry", 1: "sad"})
    folder = save(tmp_path / "model", regression_model()(config))
    model = TransformersModel(str(folder))
    assert (model.names, model.dimensions) == (("angry", "sad"), ())
    assert type(model.model).__name__ == "EmotionModel"


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    Wav2Vec2Model(tiny_config()).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks 4 weights of its head"):
        TransformersModel(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("LABEL_0", "LABEL_1"), "regression"),
        (("arousal", "angry"), None),
        (("arousal", "AROUSAL"), "regression"),
    ],
)
def test_outputs_that_are_neither_emotions_nor_dimensions_are_refused(
    names: tuple[str, ...], problem: str | None
) -> None:
    with pytest.raises(ModelError, match=r"'org/model' has the outputs .* neither emotions nor dimensions"):
        predicted_dimensions(names, problem, "org/model")
    assert predicted_dimensions(("ang", "sad"), None, "org/model") == ()
    assert predicted_dimensions(ORDER, None, "org/model") == ("arousal", "dominance", "valence")


def test_evaluations_with_dimensions_are_compared(manifest: Path, tmp_path: Path) -> None:
    folders = [regressor(tmp_path / "a"), regressor(tmp_path / "b", custom=False)]
    for folder in folders:
        evaluated(folder, manifest, tmp_path / f"out-{folder.name}")
    (comparison,) = compare_runs([tmp_path / "out-a", tmp_path / "out-b"], resamples=100)
    assert list(comparison.differences) == ["ccc", "ccc_arousal", "ccc_valence"]


class FixedModel:
    """A model with emotions and dimensions, which are given for each utterance."""

    kind = "fixed"
    has_voices = False
    known_ids: frozenset[str] = frozenset()
    names: tuple[str, ...] = ("angry", "sad")
    dimensions: tuple[str, ...] = ("valence", "arousal")

    def __call__(self, utterances: list[Utterance]) -> tuple[list[int], np.ndarray]:
        return list(range(len(utterances))), np.full((len(utterances), len(self.names)), 0.5)

    def with_dimensions(self, utterances: list[Utterance]) -> tuple[list[int], np.ndarray, np.ndarray]:
        values = [[item.unit_dimensions().get(name, 0.25) for name in self.dimensions] for item in utterances]
        return *self(utterances), np.array(values)


def corpus(emotions: tuple[str | None, ...] = ("angry", "sad", None)) -> Corpus:
    items = (
        Utterance(f"u{i}", f"s{i}", name, corpus="c", arousal=float(i), scale=(0.0, 4.0))
        for i, name in enumerate(emotions)
    )
    return Corpus("c", (*items, Utterance("last", "s9", emotions[0], corpus="c")))


def test_emotions_and_dimensions_are_scored_on_the_utterances_with_an_emotion(tmp_path: Path) -> None:
    assert evaluate(FixedModel(), corpus(), tmp_path, "fixed") == 0
    run = read_run(tmp_path)
    assert run.table().utterances == run.dimension_table().utterances == ("u0", "u1", "last")
    table = run.dimension_table()
    assert table.dimensions == ("arousal",)
    np.testing.assert_array_equal(table.truth[:, 0], [0, 0.25, np.nan])
    np.testing.assert_array_equal(table.predicted[:, 0], [0, 0.25, 0.25])
    evaluate(FixedModel(), corpus(), tmp_path, "fixed")  # the same settings
    recorded = json.loads((tmp_path / "evaluation.json").read_text())
    assert recorded["dimensions"] == ["arousal"]


def test_a_corpus_without_emotions_is_scored_by_dimensions(tmp_path: Path) -> None:
    evaluate(FixedModel(), corpus((None, None)), tmp_path, "fixed")
    run = read_run(tmp_path)
    assert not run.has_emotions
    assert run.dimension_table().utterances == ("u0", "u1")


def test_a_model_and_a_corpus_without_common_labels_are_refused(tmp_path: Path) -> None:
    model = FixedModel()
    model.names, model.dimensions = (), ("dominance",)
    with pytest.raises(
        ConfigError, match=r"predicts dominance, and no utterance of 'c' .*\(the corpus has arousal"
    ):
        evaluate(model, corpus(), tmp_path, "fixed")
    model.dimensions = ("arousal",)
    with pytest.raises(ConfigError, match="predicts dimensions alone: leave --emotions"):
        evaluate(model, corpus(), tmp_path, "fixed", emotions=["angry"])
