"""Exported models agree with torch at any length and batch size. One that does not is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from emodistill.audio.waveform import load
from emodistill.config import StudentConfig
from emodistill.corpora import read_manifest
from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.export import exporter
from emodistill.export.exporter import export_checkpoint, export_run, read_card_texts
from emodistill.export.onnx import (
    NUM_UTTERANCES,
    TOLERANCE,
    OnnxStudent,
    check_parity,
    parity_waveforms,
    write_onnx,
)
from emodistill.export.quantize import check_fp16, quantise_to_int8, store_in_fp16
from emodistill.export.start import inherited_fields
from emodistill.inference.model_card import DataSource, read_card
from emodistill.inference.recognizer import Recognizer
from emodistill.labels import LabelSet
from emodistill.models.backbones import load_backbone
from emodistill.models.checkpoint import load_checkpoint, save_checkpoint
from emodistill.models.layers import CosineClassifier
from emodistill.models.student import Student

GATE = [make.speech(length_s, 120 + 9 * i, seed=i) for i, length_s in enumerate((0.3, 0.7, 1.0, 1.9, 4.0))]


def session_of(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", ["compact", *make.SPEECH_MODELS])
def test_every_backbone_exports_to_the_same_numbers(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    backbone = make.with_random_weights(load_backbone(str(models.get(name, name)), 2, width=16))
    pool: Any = {"whisper": (0, 1, 2), "hubert": "mix"}.get(name, "last")
    frozen, merge = (1, 2) if name == "whisper" else (0, 1)
    student = make.student(backbone, pool=pool, frozen=frozen, merge=merge, attentive=name != "whisper")
    exported = OnnxStudent(student, {"prosodic": CosineClassifier(8, 4)}).eval()
    path = tmp_path / "model.onnx"
    write_onnx(exported, path)
    figures = check_parity(exported, path, GATE)
    assert max(figures["alone"], figures["batched"]) <= TOLERANCE

    session = session_of(path)
    names = [output.name for output in session.get_outputs()]
    assert names == [
        "probabilities", "embedding", "embedding_prosodic", "embedding_linguistic", "probabilities_prosodic",
    ]  # fmt: skip
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"], "weights lie inside"
    batch = np.stack([GATE[2], GATE[2][::-1], 0.1 * GATE[2]])
    outputs = dict(zip(names, session.run(None, {"waveform": batch}), strict=True))
    assert {key: value.shape for key, value in outputs.items()} == {
        "probabilities": (3, 4), "embedding": (3, 16), "embedding_prosodic": (3, 8),
        "embedding_linguistic": (3, 6), "probabilities_prosodic": (3, 4),
    }  # fmt: skip
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding_prosodic"], axis=1), 1, atol=1e-5)
    for row in range(3):
        alone = session.run(None, {"waveform": batch[row : row + 1]})[0][0]
        np.testing.assert_allclose(alone, outputs["probabilities"][row], atol=1e-4)
    assert np.abs(outputs["probabilities"][0] - outputs["probabilities"][1]).max() > 1e-4
    with torch.no_grad():
        short = np.resize(GATE[0], 1600)[None]
        np.testing.assert_allclose(
            session.run(None, {"waveform": short})[0], exported(torch.from_numpy(short))[0], atol=1e-4
        )

    exact = {name for name, _ in exported.named_buffers()}
    half, integer, plain = (tmp_path / f"{name}.onnx" for name in ("half", "integer", "plain"))
    store_in_fp16(path, half, exact)
    assert half.stat().st_size < path.stat().st_size
    assert check_fp16(path, half, GATE)["difference"] > 0
    convolutions = quantise_to_int8(path, integer, exact)
    assert convolutions == {"compact": 2, "whisper": 2}.get(name, 6), (
        "all but the one that reads the waveform"
    )
    assert quantise_to_int8(path, plain, exact, convolutions=False) == 0
    for quantised in (integer, plain):
        operators = [node.op_type for node in onnx.load(quantised).graph.node]
        assert operators.count("MatMulInteger") > 2
        assert "Erf" not in operators
        for waveform in (*GATE, short[0]):
            int8 = session_of(quantised).run(None, {"waveform": waveform[None]})
            fp32 = session.run(None, {"waveform": waveform[None]})
            assert [value.shape for value in int8] == [value.shape for value in fp32]
            assert np.abs(int8[0] - fp32[0]).max() < 0.05
            assert (int8[1] * fp32[1]).sum() > 0.97, "the embedding has the same direction"


def test_the_card_describes_the_model(exported: Path, run: Path) -> None:
    card = read_card(exported)
    scores = json.loads((run / "scores.json").read_text())
    fold = scores["folds"][0]
    student = load_checkpoint(run / f"fold-{fold}/refit/student").model
    assert (card.name, card.emotions, card.fold) == ("tiny", make.EMOTIONS, fold)
    assert (card.backbone, card.corpus, card.trim_db) == ("compact", "fake", 35.0)
    assert card.teachers == ("prosodic", "linguistic")
    assert card.num_parameters == sum(value.numel() for value in student.parameters())
    assert card.protocol == scores["protocol"]
    assert card.scores["test"]["ua"] == scores["models"]["student"]["test"]["by_fold"][fold]["ua"]
    scores_of_test = card.scores["test"]
    assert (scores_of_test["utterances"], scores_of_test["speakers"]) == (12, 2)
    assert "ua_low" not in scores_of_test
    assert "no interval: 2 speakers, 5 needed" in (exported / "README.md").read_text()
    assert card.parity["utterances"] >= 36  # different ones: the repeats of a small corpus do not count
    assert max(card.parity["alone"], card.parity["batched"]) <= card.parity["tolerance"] == 1e-4
    assert {entry.name for entry in exported.iterdir()} == {"LICENSE", "README.md", "card.json", "model.onnx"}


def test_the_exported_model_is_the_refitted_student(exported: Path, run: Path) -> None:
    fold = read_card(exported).fold
    student = load_checkpoint(run / f"fold-{fold}/refit/student").model
    names = [output.name for output in session_of(exported / "model.onnx").get_outputs()]
    outputs = session_of(exported / "model.onnx").run(None, {"waveform": GATE[1][None]})
    output = student(torch.from_numpy(GATE[1])[None], None)
    np.testing.assert_allclose(outputs[0], output.logits.softmax(dim=1).detach().numpy(), atol=1e-4)
    teacher = load_checkpoint(run / f"fold-{fold}/refit/linguistic").model.classifier
    expected = teacher(output.projections["linguistic"]).softmax(dim=1).detach().numpy()
    probabilities = outputs[names.index("probabilities_linguistic")]
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_the_gate_has_short_and_long_utterances(manifest: Path) -> None:
    corpus = read_manifest(manifest)
    first = corpus.utterances[-1].id
    waveforms = parity_waveforms(corpus, {first}, max_s=20.0)
    assert len(waveforms) >= NUM_UTTERANCES
    lengths_s = [len(waveform) / make.RATE for waveform in waveforms]
    assert (round(min(lengths_s), 3), round(max(lengths_s), 3)) == (0.3, 20.0)
    assert all(waveform.dtype == np.float32 for waveform in waveforms)
    assert max(len(waveform) for waveform in parity_waveforms(corpus, set(), max_s=5.0)) == 5 * make.RATE


class Changed(nn.Module):
    """Mean and standard deviation of a waveform, changed by a function."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def forward(self, waveform: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.change(torch.stack([waveform.mean(dim=1), waveform.std(dim=1)], dim=1)),)


def tiny_graph(path: Path) -> None:
    """Write an ONNX graph: (batch, samples) -> mean and standard deviation."""
    example = torch.rand(2, 16000)
    shape = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim.AUTO}
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Changed(lambda x: x), (example,), str(path), input_names=["waveform"],
            output_names=["probabilities"], dynamic_shapes=(shape,), dynamo=True, verbose=False,
            external_data=False,
        )  # fmt: skip


@pytest.mark.parametrize("what", ["offset", "nan-everywhere", "nan-in-long-ones"])
def test_a_graph_that_differs_from_torch_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    tiny_graph(path)
    assert check_parity(Changed(lambda x: x), path, GATE)["alone"] <= 1e-4
    calls = 0

    def nan_late(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x * float("nan") if calls == len(GATE) - 1 else x

    change = {
        "offset": lambda x: x + 2e-4,
        "nan-everywhere": lambda x: x * float("nan"),
        "nan-in-long-ones": nan_late,
    }
    with pytest.raises(ModelError, match=r"the exported model differs from torch by .* over 5 utterances"):
        check_parity(Changed(change[what]), path, GATE)
    assert not path.exists(), "a refused model is not left behind"


def test_a_refused_export_leaves_no_card(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = exporter.write_onnx

    def broken(model: OnnxStudent, path: Path, description: Any = None) -> None:
        bias = model.student.classifier.bias
        with torch.no_grad():
            before = bias.clone()
            bias += torch.tensor([0.5, 0.0])
            write(model, path)
            bias.copy_(before)

    monkeypatch.setattr(exporter, "write_onnx", broken)
    out = tmp_path / "model"
    out.mkdir()
    (out / "card.json").write_text("{}")  # of an earlier export
    with pytest.raises(ModelError, match="Nothing was exported"):
        export_run(run, out)
    assert list(out.iterdir()) == []


def test_texts_of_another_are_never_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("mine")
    with pytest.raises(ConfigError, match="has LICENSE and no model"):
        export_run(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["LICENSE"]
    assert (tmp_path / "LICENSE").read_text() == "mine"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 72 labelled utterances, and one of an emotion that the run does not know."""
    folder = tmp_path_factory.mktemp("many")
    path = make.corpus_folder(folder, each=6)
    rows = make.read_rows(path)
    return make.write_rows(path, [*rows, {**rows[0], "id": "other", "emotion": "bored"}])


def test_fp16_is_smaller_and_gives_the_same_emotions(run: Path, exported: Path, tmp_path: Path) -> None:
    card = export_run(run, tmp_path / "half", precision="fp16")
    assert read_card(tmp_path / "half") == card
    assert (card.precision, card.quantisation["agreement"]) == ("fp16", 1)
    assert 0 < card.quantisation["difference"] <= 1e-2
    assert card.parity == read_card(exported).parity
    files = {entry.name for entry in (tmp_path / "half").iterdir()}
    assert files == {"LICENSE", "README.md", "card.json", "model.onnx"}
    assert (tmp_path / "half/model.onnx").stat().st_size < (exported / "model.onnx").stat().st_size
    recognizers = Recognizer(exported), Recognizer(tmp_path / "half")
    for waveform in GATE:
        one, two = (recognizer.predict(waveform, make.RATE) for recognizer in recognizers)
        assert one.emotion == two.emotion
        assert one.confidence == pytest.approx(two.confidence, abs=1e-2)


def test_int8_is_checked_on_a_manifest_and_runs(
    run: Path, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = export_run(run, tmp_path, precision="int8", check=read_manifest(many))
    assert "int8 is checked without 1 utterances" in capsys.readouterr().err
    figures = card.quantisation
    assert card.precision == "int8"
    assert (figures["utterances"], figures["convolutions"]) == (72, 2)
    assert figures["agreement"] >= 0.98
    assert figures["ua_fp32"] - figures["ua_int8"] <= 0.01
    assert min(figures["fp32_ms_per_s"], figures["int8_ms_per_s"]) > 0
    labels = LabelSet(card.emotions)
    corpus = [utterance for utterance in read_manifest(many) if utterance.emotion in labels.names]
    probabilities = [Recognizer(tmp_path).probabilities(load(item.path)) for item in corpus if item.path]
    ua = unweighted_accuracy(
        [labels.index(str(item.emotion)) for item in corpus], [int(row.argmax()) for row in probabilities]
    )
    assert figures["ua_int8"] == pytest.approx(ua), "gate and recogniser get the same waveforms"


def test_int8_needs_enough_utterances_to_check_it(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"at least 64 labelled, held-out utterances, got 12: name a manifest"
    ):
        export_run(run, tmp_path, precision="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["convolutions", "everything"])
def test_int8_that_changes_emotions_is_refused(
    broken: str, run: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def spoilt(source: Path, out: Path, exact: Any, convolutions: bool = True) -> int:
        num_convolutions = quantise_to_int8(source, out, exact, convolutions)
        if convolutions or broken == "everything":
            model = onnx.load(out)
            weight = next(w for w in model.graph.initializer if w.name.endswith("student.classifier.weight"))
            weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
            onnx.save(model, out)
        return num_convolutions

    monkeypatch.setattr(exporter, "quantise_to_int8", spoilt)
    check = read_manifest(many)
    if broken == "everything":
        with pytest.raises(
            ModelError, match=r"int8 changes UA from \d.* of 72 utterances keep .*Nothing was exported"
        ):
            export_run(run, tmp_path, precision="int8", check=check)
        assert list(tmp_path.iterdir()) == []
    else:
        card = export_run(run, tmp_path, precision="int8", check=check)
        assert card.quantisation["convolutions"] == 0
        assert (
            "int8 again, with 2 convolutions left in fp32, because int8 changes UA" in capsys.readouterr().err
        )
        assert onnx.load(tmp_path / "model.onnx").graph.node, "the second attempt is kept"
        kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
        assert kinds.count("Conv") == 4, "DFT, two strided, one depthwise"


def test_a_checkpoint_is_exported_without_a_run(run: Path, many: Path, tmp_path: Path) -> None:
    checkpoint = run / "fold-1/refit/student"
    card = export_checkpoint(checkpoint, tmp_path / "out", read_manifest(many), card={"name": "mine"})
    assert (card.name, card.backbone, card.precision, card.teachers) == (
        "mine", "compact", "fp32", ("prosodic", "linguistic"),
    )  # fmt: skip
    assert (card.scores, card.parity["utterances"] >= 64) == ({}, True)
    assert Recognizer(tmp_path / "out").predict(GATE[2], make.RATE).emotion in make.EMOTIONS
    with pytest.raises(ModelError, match="holds a ProsodicTeacher, expected a student"):
        export_checkpoint(run / "fold-1/refit/prosodic", tmp_path / "x", read_manifest(many))


def test_a_teachers_classifier_is_exported_where_its_head_learned_a_direction(
    run: Path, many: Path, tmp_path: Path
) -> None:
    labels, backbone = LabelSet(make.EMOTIONS), load_backbone("compact", 2, width=16)
    config = StudentConfig(backbone="compact", width=16, embedding_dim=8)
    save_checkpoint(tmp_path / "student", Student(backbone, config, 2, {"acoustic": 8}), labels, ())
    save_checkpoint(tmp_path / "acoustic", Student(backbone, config, 2, {}), labels, ())
    teachers = {"acoustic": tmp_path / "acoustic"}
    export_checkpoint(tmp_path / "student", tmp_path / "one", read_manifest(many), teachers=teachers)
    names = [output.name for output in session_of(tmp_path / "one" / "model.onnx").get_outputs()]
    assert names == ["probabilities", "embedding", "embedding_acoustic"]

    shutil.copytree(run, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(re.sub(r"(?m)^beta = .*$", "beta = 0.0", recipe.read_text()))
    export_run(tmp_path / "run", tmp_path / "two")
    names = [output.name for output in session_of(tmp_path / "two" / "model.onnx").get_outputs()]
    assert names == ["probabilities", "embedding", "embedding_prosodic", "embedding_linguistic"]


def test_export_on_the_command_line(run: Path, many: Path, tmp_path: Path) -> None:
    from emodistill.cli import app

    given = ["export", str(run), "-o", str(tmp_path / "m"), "--precision", "int8", "--check", str(many)]
    found = CliRunner().invoke(app, given)
    assert found.exit_code == 0, found.output
    assert "of 72 utterances keep their emotion, at" in " ".join(found.output.split())
    assert read_card(tmp_path / "m").precision == "int8"


def test_export_names_an_unknown_fold_and_an_unfinished_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bad fold '9', expected one of \['1', '2', '3'\]"):
        export_run(run, tmp_path / "x", "9")
    with pytest.raises(ModelError, match="is not a run folder: it has no recipe"):
        export_run(tmp_path, tmp_path / "x")


def test_a_card_takes_its_texts_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.toml"
    path.write_text('licence = "CC0"\nlimits = """of one\n  voice"""\n')
    assert read_card_texts(path) == {"licence": "CC0", "limits": "of one voice"}
    for content, message in (
        ("license = 'CC0'", "bad text of a card 'license', expected one of .*did you mean 'licence'"),
        ("limits = 3", "expected a text for limits, got 3"),
        ("limits", "is not TOML"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigError, match=message):
            read_card_texts(path)
    with pytest.raises(ConfigError, match=r"no file '.*nowhere\.toml'"):
        read_card_texts(tmp_path / "nowhere.toml")


def test_a_card_inherits_the_terms_of_the_model_that_training_started_from(tmp_path: Path) -> None:
    own = (DataSource(name="mine", licence="mine alone", utterances={"train": 3}),)
    fields = inherited_fields("bundled", own, "facebook/hubert-base-ls960")
    assert fields["backbone"] == "openai/whisper-tiny.en"
    assert [source.name for source in fields["data"]][:2] == ["mine", "ravdess"]
    assert fields["data"][1].utterances == {"start": 720 + 240 + 480}
    assert "CC BY-NC-SA" in fields["licence"]
    assert inherited_fields(None, own, "b") == {"backbone": "b", "data": own}
    unknown = inherited_fields(str(tmp_path), own, "b")
    assert f"checkpoint '{tmp_path.name}'" in unknown["licence"]
