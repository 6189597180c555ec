"""One folder = weights (safetensors) + model.json: configuration, labels, versions, training ids.

Nothing is pickled, and loading is strict: a missing, foreign or renamed weight is an error.
"""

import json
from collections.abc import Sequence
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

from emodistill.config import LinguisticConfig, ProsodicConfig, StudentConfig
from emodistill.errors import ModelError, one_of
from emodistill.files import atomic_write
from emodistill.inference.model_card import BUNDLED, METADATA, known_ids
from emodistill.labels import LabelSet
from emodistill.models.backbones import rebuild_backbone
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.prosodic import ProsodicTeacher
from emodistill.models.student import FRAME_HEAD, Student

FORMAT = 1
TRANSPOSED = ".T"  # ends the name of a weight that the ONNX file holds transposed


@dataclass(frozen=True)
class Checkpoint:
    """A model and what must be known of it."""

    model: nn.Module
    labels: LabelSet
    training_ids: tuple[str, ...]  # every utterance whose label the model has seen
    info: dict[str, Any]

    @property
    def known_ids(self) -> frozenset[str]:
        """Every utterance that the model learned from, or was chosen by."""
        return known_ids(self.info)


def save_checkpoint(
    folder: Path, model: nn.Module, labels: LabelSet, training_ids: Sequence[str], dev_ids: Sequence[str] = ()
) -> None:
    """Write a teacher or a student; the folder appears complete or `model.json` is missing.

    `training_ids` are all that it has learned from, `dev_ids` those that its epoch or settings were chosen by.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").unlink(missing_ok=True)
    weights = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors")
    info = describe(model, labels, training_ids, dev_ids)
    if isinstance(model, LinguisticTeacher):
        model.tokenizer.save_pretrained(folder)
    with atomic_write(folder / "model.json") as partial:
        partial.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote, without any download; raises `ModelError` naming what is wrong."""
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"'{folder}' is not a complete checkpoint: it has no {name}")
    info = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    if info.get("format") != FORMAT:
        raise ModelError(f"'{folder}': checkpoint format {info.get('format')}, this version reads {FORMAT}")
    labels = LabelSet(tuple(info["emotions"]))
    model = _rebuild(info, labels, folder / "model.json")
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except SafetensorError as error:
        raise ModelError(f"'{folder / 'model.safetensors'}' cannot be read: {error}") from error
    except RuntimeError as error:
        raise ModelError(f"'{folder}': the weights do not fit model.json: {error}") from error
    return Checkpoint(model.eval(), labels, tuple(info["training_ids"]), info)


def describe(
    model: nn.Module, labels: LabelSet, training_ids: Sequence[str], dev_ids: Sequence[str] = ()
) -> dict[str, Any]:
    """All that must be known of a model but its weights, as plain data."""
    return {
        "format": FORMAT,
        "emotions": list(labels.names),
        "versions": {name: version(name) for name in ("emodistill", "torch", "transformers")},
        **_architecture(model),
        "training_ids": list(training_ids),
        "dev_ids": list(dev_ids),
    }


def load_initial(where: str) -> Checkpoint:
    """A model to start from: "bundled", the folder of an exported model, or a checkpoint's."""
    folder = BUNDLED if where == "bundled" else Path(where)
    return read_exported(folder) if (folder / "model.onnx").is_file() else load_checkpoint(folder)


def read_exported(folder: Path) -> Checkpoint:
    """The student inside an exported model, its weights back in torch, to be trained further.

    Raises `ModelError` where the file does not say what it was made from, where its weights were quantised,
    or where the exporter folded some of them into others, as it does with HuBERT and its like.
    """
    import onnx
    from onnx import numpy_helper

    path = folder / "model.onnx"
    exported = onnx.load(path)
    found = {entry.key: entry.value for entry in exported.metadata_props}.get(METADATA)
    if found is None:
        raise ModelError(
            f"'{path}' does not hold the student's description: export it again to train it further"
        )
    info = json.loads(found)
    info["teachers"] = {  # heads over frames are not exported
        name: dim for name, dim in info["teachers"].items() if not name.endswith(FRAME_HEAD)
    }
    labels = LabelSet(tuple(info["emotions"]))
    model = _rebuild(info, labels, path)
    stored = {item.name: item for item in exported.graph.initializer}
    state = {}
    for name, value in model.state_dict().items():
        weight = stored.get(f"student.{name}", stored.get(f"student.{name}{TRANSPOSED}"))
        if weight is None or not onnx.helper.tensor_dtype_to_np_dtype(weight.data_type).kind == "f":
            raise ModelError(
                f"'{path}' holds no floating-point '{name}': start from the checkpoint that it was made from, "
                "the folder student/ of its run"
            )
        array = numpy_helper.to_array(weight).astype(np.float32)
        state[name] = torch.from_numpy(array.T if weight.name.endswith(TRANSPOSED) else array).view(
            value.shape
        )
    model.load_state_dict(state)
    return Checkpoint(model.eval(), labels, tuple(info["training_ids"]), info)


def _architecture(model: nn.Module) -> dict[str, Any]:
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
    }


def _rebuild(info: dict[str, Any], labels: LabelSet, described_in: Path) -> nn.Module:
    """A model of the architecture that a file describes, without its weights."""
    try:
        return _of_kind(info, labels, described_in.parent)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise ModelError(
            f"'{described_in}' was written by another version: it does not fit in {fields}"
        ) from error


def _of_kind(info: dict[str, Any], labels: LabelSet, folder: Path) -> nn.Module:
    if info["kind"] == "prosodic":
        return ProsodicTeacher(ProsodicConfig.model_validate(info["config"]), len(labels))
    if info["kind"] == "linguistic":
        config = LinguisticConfig.model_validate(info["config"])
        return LinguisticTeacher.rebuild(config, len(labels), info["encoder"], folder)
    if info["kind"] == "student":
        made = info["backbone"]
        backbone = rebuild_backbone(made["kind"], made["config"], made["layers"])
        return Student(backbone, StudentConfig.model_validate(info["config"]), len(labels), info["teachers"])
    raise ModelError(f"'{folder}': " + one_of("kind", info["kind"], ["prosodic", "linguistic", "student"]))
