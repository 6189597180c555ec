"""Checkpoints: a folder with weights (model.safetensors) and a description (model.json).

The description holds the configuration, labels, versions and training ids. Nothing is pickled. Loading is
strict: a missing, unknown or misshapen weight is an error.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from emodistill.audio.onnx_graph import check_file
from emodistill.config import LinguisticConfig, ProsodicConfig, StudentConfig
from emodistill.errors import ModelError, one_of
from emodistill.files import atomic_write, move_file
from emodistill.inference.model_card import BUNDLED, METADATA, known_ids, read_description
from emodistill.labels import LabelSet
from emodistill.models.backbones import rebuild_backbone
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.prosodic import ProsodicTeacher
from emodistill.models.student import FRAME_HEAD, Student
from emodistill.partial_folders import partial_folder
from emodistill.reading import read_json

FORMAT = 1
MAX_LAYERS, MAX_NUMBER = 1_000, 2.0**40  # in a description
TRANSPOSED = ".T"  # ends the name of a weight whose first two axes are swapped in an ONNX file


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its labels and description."""

    model: nn.Module
    labels: LabelSet
    training_ids: tuple[str, ...]  # utterances whose labels the model was trained on
    info: dict[str, Any]  # the content of model.json

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that the model predicts; none for a model from before there were any."""
        return tuple(self.info.get("dimensions", ()))

    @property
    def known_ids(self) -> frozenset[str]:
        """The ids of all utterances in training and dev of this model."""
        return known_ids(self.info)


def save_checkpoint(
    folder: Path, model: nn.Module, labels: LabelSet, training_ids: Sequence[str], dev_ids: Sequence[str] = ()
) -> None:
    """Write a teacher or a student; a folder without `model.json` is incomplete.

    `training_ids` are the utterances that it was trained on, `dev_ids` those that chose its epoch or
    settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").unlink(missing_ok=True)
    weights = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()
    }
    with atomic_write(folder / "model.safetensors") as partial:
        save_file(weights, partial)
    info = describe_model(model, labels, training_ids, dev_ids)
    if isinstance(model, LinguisticTeacher):
        with partial_folder(folder / "tokenizer") as partial:
            model.tokenizer.save_pretrained(partial)
            for path in partial.iterdir():
                move_file(path, folder / path.name)
    with atomic_write(folder / "model.json") as partial:
        partial.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder of `save_checkpoint` without any download; the model is in evaluation mode.

    Raises `ModelError` if a file is missing or damaged, or if weights and description do not fit.
    """
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"'{folder}' is not a complete checkpoint: it has no {name}; train it again")
    info = read_json(
        folder / "model.json", ModelError, "is no description of a checkpoint", "; train it again"
    )
    if info.get("format") != FORMAT:
        raise ModelError(
            f"'{folder}': checkpoint format {info.get('format')}, this version reads {FORMAT}; train it "
            "again, or use the version of emodistill that wrote it"
        )
    check_description(info, folder / "model.json")
    labels = LabelSet(tuple(info["emotions"]))
    model = _rebuild(info, labels, folder / "model.json", (folder / "model.safetensors").stat().st_size)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except SafetensorError as error:
        raise ModelError(f"'{folder / 'model.safetensors'}' cannot be read: {error}") from error
    except RuntimeError as error:
        raise ModelError(f"'{folder}': the weights do not fit model.json: {error}") from error
    return Checkpoint(model.eval(), labels, tuple(info["training_ids"]), info)


def describe_model(
    model: nn.Module, labels: LabelSet, training_ids: Sequence[str], dev_ids: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the content of model.json: everything about a model except its weights."""
    assert isinstance(model, ProsodicTeacher | LinguisticTeacher | Student), type(model)
    return {
        "format": FORMAT,
        "emotions": list(labels.names),
        "dimensions": list(model.dimensions),
        "versions": {name: version(name) for name in ("emodistill", "torch", "transformers")},
        **_architecture(model),
        "training_ids": list(training_ids),
        "dev_ids": list(dev_ids),
    }


def load_initial(where: str) -> Checkpoint:
    """Load a model to start training from: "bundled", or the folder of an exported model or a checkpoint.

    Raises `ModelError`, see `read_exported` and `load_checkpoint`.
    """
    folder = BUNDLED if where == "bundled" else Path(where)
    return read_exported(folder) if (folder / "model.onnx").is_file() else load_checkpoint(folder)


def read_exported(folder: Path) -> Checkpoint:
    """Read the student of an exported model back into torch, to train it further.

    Raises `ModelError` if the file has no description of its student. Raises it too if a weight is missing:
    quantised, or merged into another one by the exporter, as with HuBERT.
    """
    import onnx
    from onnx import numpy_helper

    path = folder / "model.onnx"
    check_file(path)
    exported = onnx.load(path)
    description = {entry.key: entry.value for entry in exported.metadata_props}.get(METADATA)
    if description is None:
        raise ModelError(
            f"'{path}' does not hold the student's description: export it again to train it further"
        )
    info = read_description(description)
    check_description(info, path)
    info["teachers"] = {  # heads over frames are not exported
        name: dim for name, dim in info["teachers"].items() if not name.endswith(FRAME_HEAD)
    }
    labels = LabelSet(tuple(info["emotions"]))
    model = _rebuild(info, labels, path, path.stat().st_size)
    stored = {item.name: item for item in exported.graph.initializer}
    state = {}
    for name, value in model.state_dict().items():
        if not value.numel():  # the classifier of a student without emotions
            state[name] = value
            continue
        weight = stored.get(f"student.{name}", stored.get(f"student.{name}{TRANSPOSED}"))
        if weight is None or not onnx.helper.tensor_dtype_to_np_dtype(weight.data_type).kind == "f":
            raise ModelError(
                f"'{path}' holds no floating-point '{name}': start from the checkpoint that was exported, "
                "the folder student/ of its run"
            )
        array = numpy_helper.to_array(weight).astype(np.float32)
        if weight.name.endswith(TRANSPOSED):
            array = array.swapaxes(0, 1)
        state[name] = torch.from_numpy(array).reshape(value.shape)
    model.load_state_dict(state)
    return Checkpoint(model.eval(), labels, tuple(info["training_ids"]), info)


def _architecture(model: nn.Module) -> dict[str, Any]:
    """Return the part of model.json that `_build` reads."""
    if isinstance(model, ProsodicTeacher):
        return {"kind": "prosodic", "config": model.config.model_dump(mode="json")}
    if isinstance(model, LinguisticTeacher):
        encoder = model.encoder.config.to_dict()
        return {"kind": "linguistic", "config": model.config.model_dump(mode="json"), "encoder": encoder}
    assert isinstance(model, Student), type(model)
    return {
        "kind": "student",
        "config": model.config.model_dump(mode="json"),
        "backbone": {
            "kind": model.backbone.model_type,
            "config": model.backbone.config,
            "layers": model.backbone.num_layers,
        },
        "teachers": model.teacher_dims,
        "voices": model.has_voices,
    }


def check_description(info: dict[str, Any], described_in: Path) -> None:
    """Raise `ModelError` where the description of a model lacks an entry, or one has another type.

    Also where it has more layers, or a larger number, than any model has.
    """
    expected: dict[str, type] = {
        "emotions": list, "training_ids": list, "kind": str, "config": dict,
        **{"linguistic": {"encoder": dict}, "student": {"backbone": dict, "teachers": dict}}.get(
            str(info.get("kind")), {}
        ),
    }  # fmt: skip
    wrong = [name for name, kind in expected.items() if not isinstance(info.get(name), kind)]
    if wrong:
        raise ModelError(f"'{described_in}' is no description of a model: it has no valid {', '.join(wrong)}")
    for name, number in _numbers(info):
        if abs(number) > (MAX_LAYERS if "layers" in name else MAX_NUMBER):
            raise ModelError(f"'{described_in}' describes no model: it has {name} = {number}")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of plain data, each with the name of its entry."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, name)
    elif isinstance(value, (int, float)):
        yield name, value


def _rebuild(info: dict[str, Any], labels: LabelSet, described_in: Path, num_bytes: int) -> nn.Module:
    """Build the architecture that a file describes, with random weights.

    Raises `ModelError` where it needs more weights than the file of `num_bytes` can hold. So a small file
    cannot take the memory.
    """
    folder = described_in.parent
    try:
        with torch.device("meta"):  # It has shapes, and takes no memory.
            shapes = _build(info, labels, folder)
        num_weights = sum(tensor.numel() for tensor in shapes.state_dict().values())
        if num_weights > num_bytes:  # A weight has at least one byte.
            raise ModelError(
                f"'{described_in}' describes {num_weights} weights, but the file has {num_bytes} bytes"
            )
        return _build(info, labels, folder)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise ModelError(
            f"'{described_in}' was written by another version: this one does not accept {fields}; "
            "use that version of emodistill, or train the model again"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OSError, ArithmeticError) as error:
        text = " ".join(str(error).split())
        raise ModelError(
            f"'{described_in}' describes no model that can be built: {type(error).__name__}: {text}"
        ) from error


def _build(info: dict[str, Any], labels: LabelSet, folder: Path) -> nn.Module:
    dimensions = tuple(info.get("dimensions", ()))  # older checkpoints lack the entry
    if info["kind"] == "prosodic":
        return ProsodicTeacher(ProsodicConfig.model_validate(info["config"]), len(labels), dimensions)
    if info["kind"] == "linguistic":
        config = LinguisticConfig.model_validate(info["config"])
        return LinguisticTeacher.rebuild(config, len(labels), info["encoder"], folder, dimensions)
    if info["kind"] == "student":
        saved = info["backbone"]
        backbone = rebuild_backbone(saved["kind"], saved["config"], saved["layers"])
        settings = StudentConfig.model_validate(info["config"])
        # Older checkpoints, which have no voices, lack the entry.
        voices = info.get("voices", False)
        return Student(backbone, settings, len(labels), info["teachers"], voices, dimensions)
    raise ModelError(f"'{folder}': " + one_of("kind", info["kind"], ["prosodic", "linguistic", "student"]))
