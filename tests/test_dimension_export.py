"""The export of students with a regressor for dimensions: graph, gates, card, and runs without dimensions."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from emodistill import Recognizer
from emodistill.cli.exporting import _describe_export
from emodistill.config import StudentConfig
from emodistill.corpora import read_manifest
from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.dimension_predictions import read_dimensions
from emodistill.evaluation.dimension_scores import score_dimension
from emodistill.export import export_run
from emodistill.export.gate import check_dimensions, dimensions_of
from emodistill.export.onnx import OnnxStudent, check_parity, write_onnx
from emodistill.export.quantize import check_fp16, check_int8, quantise_to_int8, store_in_fp16
from emodistill.inference.card_writer import card_markdown
from emodistill.inference.model_card import METADATA
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import load_initial
from emodistill.models.compact import Compact
from emodistill.models.student import Student
from emodistill.training.cross_validation import crossval

WAVES = [make.speech(0.5 + 0.02 * number, seed=number) for number in range(64)]


def recipe(manifest: Path, targets: Sequence[str], **sections: Any) -> Any:
    """A short recipe of a student alone, over a corpus with arousal and intensity from 1 to 5."""
    rows = make.read_rows(manifest)
    for number, row in enumerate(rows):
        # The demo's speakers differ in pitch, so the numbers only have to differ between utterances.
        row |= {"arousal": str(1 + number % 5), "intensity": str(5 - number % 4), "scale": "1..5"}
    table = make.write_rows(manifest.parent / "rated.csv", rows)
    return make.recipe(
        table,
        targets=list(targets),
        distillation={"teachers": []},
        protocol={"folds": 3, "refit": False},
        **sections,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> Path:
    """A run of a student with emotions, arousal and intensity."""
    out = tmp_path_factory.mktemp("both") / "run"
    crossval(recipe(manifest, ["emotion", "arousal", "intensity"]), out)
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> Path:
    """A run of a student with arousal alone."""
    out = tmp_path_factory.mktemp("alone") / "run"
    crossval(recipe(manifest, ["arousal"]), out)
    return out


def student(
    num_classes: int = 2, dimensions: Sequence[str] = ("arousal", "valence"), **options: Any
) -> Student:
    """A compact student with random weights, whose dimensions spread over and beyond 0 … 1."""
    config = StudentConfig(backbone="compact", layers=1, width=16, embedding_dim=16)
    torch.manual_seed(0)
    made = Student(Compact(16, 1), config, num_classes, {}, dimensions=dimensions, **options)
    if made.regressor is not None:
        with torch.no_grad():
            made.regressor.weight.mul_(0.1)
    return made.eval()


# --- the graph ------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_voices", [False, True])
@pytest.mark.parametrize("num_classes", [0, 2])
def test_the_parity_gate_covers_the_dimensions(tmp_path: Path, num_classes: int, has_voices: bool) -> None:
    from emodistill.export.onnx import write_head

    model = OnnxStudent(student(num_classes, has_voices=has_voices), {}).eval()
    assert ("probabilities" in model.outputs, "dimensions" in model.outputs) == (num_classes > 0, True)
    path, head = tmp_path / "model.onnx", tmp_path / "head.onnx" if has_voices else None
    write_onnx(model, path)
    if head is not None:
        write_head(model, head)
        assert "dimensions" in {item.name for item in onnx.load(head).graph.output}
    check_parity(model, path, WAVES, head)
    values = model(torch.from_numpy(np.stack([wave[:8000] for wave in WAVES])))
    found = values[model.outputs.index("dimensions")].detach().numpy()
    assert found.min() >= 0
    assert found.max() <= 1
    with torch.no_grad():
        model.student.regressor.bias.add_(0.01)
    with pytest.raises(ModelError, match="differs from torch"):
        check_parity(model, path, WAVES, head)


def test_int8_and_fp16_check_the_dimensions(tmp_path: Path) -> None:
    model = OnnxStudent(student(), {}).eval()
    write_onnx(model, tmp_path / "fp32.onnx")
    store_in_fp16(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx")
    assert check_fp16(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx", WAVES)["difference"] > 0
    quantise_to_int8(tmp_path / "fp32.onnx", tmp_path / "int8.onnx")
    changed = onnx.load(tmp_path / "fp32.onnx")
    for item in changed.graph.initializer:
        if item.name.endswith("regressor.bias"):
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) + np.float32(0.1), item.name))
    onnx.save(changed, tmp_path / "moved.onnx")
    labels = [number % 2 for number in range(64)]
    figures = check_int8(tmp_path / "fp32.onnx", tmp_path / "fp32.onnx", WAVES, labels)
    assert figures["dimension_rmse"] == 0
    with pytest.raises(ModelError, match="a dimension differs by"):
        check_fp16(tmp_path / "fp32.onnx", tmp_path / "moved.onnx", WAVES)
    with pytest.raises(ModelError, match="int8 changes a dimension by"):
        check_int8(tmp_path / "fp32.onnx", tmp_path / "moved.onnx", WAVES, labels)


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_export_has_the_dimensions_and_their_scores(both: Path, tmp_path: Path, precision: Any) -> None:
    card = export_run(both, tmp_path, precision=precision)
    assert card.dimensions == ("arousal", "intensity")
    table = read_dimensions(both / f"fold-{card.fold}" / "dimensions.csv")
    recognizer = Recognizer(tmp_path, threads=1)
    by_id = {item.id: item for item in read_manifest(both / "utterances.csv")}
    predictions = {name: recognizer.predict(by_id[name].path) for name in table.utterances}
    recognised = dimensions_of(table, predictions)
    np.testing.assert_allclose(recognised.predicted, table.predicted, atol=2e-2)
    test = card.scores["test"]
    for name in card.dimensions:
        found = score_dimension(recognised, name)
        ccc = found.scores["ccc"]
        assert ccc is not None
        assert test[f"ccc_{name}"] == pytest.approx(ccc.value)
        assert test[f"utterances_{name}"] == found.num_utterances
    assert "ua" in test
    assert "ccc_arousal" in card.scores["dev"]
    assert card.through_recogniser["dimension_change"] < 0.02
    text = card_markdown(card)
    assert f"| test | {found.num_utterances} | intensity | {test['ccc_intensity']:.3f} |" in text
    assert "CCC-AROUSAL" not in text
    description = json.loads(
        next(item.value for item in onnx.load(tmp_path / "model.onnx").metadata_props if item.key == METADATA)
    )
    assert description["dimensions"] == ["arousal", "intensity"]
    assert load_initial(str(tmp_path)).model.dimensions == ("arousal", "intensity")
    says_both = "a probability or a dimension differs from fp32" in _describe_export(card, tmp_path)
    assert says_both == (precision == "fp16")


def test_a_run_of_dimensions_alone_is_exported(
    alone: Path, tmp_path: Path, emodistill: make.CommandLine
) -> None:
    shown = emodistill("export", alone, "-o", tmp_path)
    assert shown.code == 0, shown.err
    assert "dimensions ['arousal']" in shown.err
    assert "CCC on test: arousal" in shown.err
    recognizer = Recognizer(tmp_path)
    assert (recognizer.card.emotions, recognizer.card.calibration) == ((), {})
    assert recognizer.student.outputs == ["embedding", "dimensions"]
    found = recognizer.predict(make.speech(1.0), make.RATE)
    assert found.dimensions is not None
    assert found.emotion is None
    assert "It predicts no emotions" in (tmp_path / "README.md").read_text()
    assert load_initial(str(tmp_path)).labels == LabelSet(())
    with pytest.raises(ConfigError, match="predicts dimensions alone"):
        export_run(alone, tmp_path / "other", unheard=[alone])


def test_dimensions_of_other_weights_are_refused(both: Path) -> None:
    table = read_dimensions(both / "fold-1" / "dimensions.csv")
    moved = replace(table, predicted=np.where(table.predicted > 0.5, 0.0, 1.0))
    with pytest.raises(
        ModelError, match="the recogniser's dimensions differ from those of the trained model"
    ):
        check_dimensions(moved, table)
    figures = check_dimensions(table, table)
    assert figures["dimension_change"] == figures["dimension_unanswered"] == 0
    with pytest.raises(ModelError, match=f"{len(table)} utterances have none"):
        check_dimensions(table, table.select([False] * len(table)))


# --- without dimensions ---------------------------------------------------------------------------


def test_a_run_without_dimensions_is_exported_as_before(exported: Path) -> None:
    assert "dimensions" not in json.loads((exported / "card.json").read_text())
    graph = onnx.load(exported / "model.onnx")
    assert "dimensions" not in {item.name for item in graph.graph.output}
    assert "dimensions" not in next(item.value for item in graph.metadata_props if item.key == METADATA)
    assert "## Dimensions" not in (exported / "README.md").read_text()


def test_the_bundled_model_is_written_as_it_is(tmp_path: Path) -> None:
    from emodistill.inference.card_writer import write_card
    from emodistill.inference.model_card import BUNDLED, read_card

    write_card(read_card(BUNDLED), tmp_path)
    assert (tmp_path / "README.md").read_bytes() == (BUNDLED / "README.md").read_bytes()
    assert "dimensions" not in json.loads((tmp_path / "card.json").read_text())
