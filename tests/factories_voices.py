"""A model with voices that no training made: its statistics and its classifier are a few lines of ONNX."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from emodistill.inference.card_writer import write_card
from emodistill.inference.model_card import Card, file_sha256, read_card

EMOTIONS = ("angry", "happy", "neutral", "sad")
DIM = 6  # of the statistics
_STEP = 80  # samples of a frame
_HEAD = [
    helper.make_node("Sub", ["statistics", "voice"], ["embedding"]),
    helper.make_node("MatMul", ["embedding", "weights"], ["logits"]),
    helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    helper.make_node("MatMul", ["embedding", "teacher"], ["teacher_logits"]),
    helper.make_node("Softmax", ["teacher_logits"], ["probabilities_prosodic"], axis=1),
]
_REGRESSOR = [
    helper.make_node("MatMul", ["embedding", "regressor"], ["place"]),
    helper.make_node("Add", ["place", "middle"], ["moved"]),
    helper.make_node("Clip", ["moved", "low", "high"], ["dimensions"]),
]
_TRUNK = [
    helper.make_node("Unsqueeze", ["waveform", "one"], ["channel"]),
    helper.make_node("Conv", ["channel", "filters"], ["frames"], strides=[_STEP]),
    helper.make_node("Abs", ["frames"], ["magnitudes"]),
    helper.make_node("ReduceMean", ["magnitudes", "two"], ["means"], keepdims=0),
    helper.make_node("Log", ["means"], ["statistics"]),
]


def voice_model(
    folder: Path, seed: int = 0, dim: int = DIM, dimensions: Sequence[str] = (), **card: object
) -> Path:
    """Write the folder of a model with voices of `dim` numbers, four emotions and one teacher.

    The statistics are the logarithms of the mean magnitudes of random filters. With `dimensions` the model
    has a head that predicts these. `card` replaces fields of the card; with `emotions=()` the model predicts
    the dimensions alone.
    """
    rng = np.random.default_rng(seed)
    weights = {
        "weights": rng.standard_normal((dim, len(EMOTIONS))),
        "teacher": rng.standard_normal((dim, len(EMOTIONS))),
    }
    trunk = {
        "filters": rng.standard_normal((dim, 1, 2 * _STEP)), "one": np.array([1]), "two": np.array([2]),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    outputs = {
        "probabilities": len(EMOTIONS), "embedding": dim, "probabilities_prosodic": len(EMOTIONS),
    }  # fmt: skip
    head = _HEAD
    if card.get("emotions") == ():
        head, outputs = [node for node in _HEAD if "embedding" in node.output], {"embedding": dim}
    if dimensions:
        weights |= {
            "regressor": 0.2 * rng.standard_normal((dim, len(dimensions))), "low": np.float32(0),
            "middle": np.float32(0.5), "high": np.float32(1),
        }  # fmt: skip
        head, outputs = [*head, *_REGRESSOR], {**outputs, "dimensions": len(dimensions)}
        card["dimensions"] = tuple(dimensions)
    _save(
        folder / "model.onnx", [*_TRUNK, *head], {**weights, **trunk},
        {"waveform": "samples", "voice": dim}, {**outputs, "statistics": dim},
    )  # fmt: skip
    _save(folder / "head.onnx", head, weights, {"statistics": dim, "voice": dim}, outputs)
    fields = {
        "name": f"tiny voices {seed}", "emotions": EMOTIONS, "trim_db": 40.0, "teachers": ("prosodic",),
        "backbone": "filters", "num_parameters": 100, "corpus": "none", "protocol": "none", "fold": "0",
        "scores": {}, "parity": {}, "versions": {}, "voice_dim": dim, "temperature": 1.5,
        "sha256": file_sha256(folder / "model.onnx"), "head_sha256": file_sha256(folder / "head.onnx"),
    }  # fmt: skip
    write_card(Card(**{**fields, **card}), folder)  # type: ignore[arg-type]
    return folder


def model_without_voices(folder: Path, **card_fields: Any) -> Path:
    """Write the folder of the same model with neither voices nor a head of its own."""
    voice_model(folder, name="plain", **card_fields)
    card = read_card(folder)
    model = onnx.load(folder / "model.onnx")
    without = [
        helper.make_node("Identity", ["statistics"], node.output) if node.op_type == "Sub" else node
        for node in model.graph.node
    ]
    del model.graph.node[:], model.graph.input[1:]
    model.graph.node.extend(without)
    (statistics,) = (item for item in model.graph.output if item.name == "statistics")
    model.graph.output.remove(statistics)
    onnx.save(model, folder / "model.onnx")
    (folder / "head.onnx").unlink()
    changed = {"voice_dim": None, "head_sha256": None, "sha256": file_sha256(folder / "model.onnx")}
    write_card(card.model_copy(update=changed), folder)
    return folder


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    inputs: dict[str, int | str],
    outputs: dict[str, int],
) -> None:
    def described(shapes: dict[str, int | str] | dict[str, int]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
            for name, size in shapes.items()
        ]

    constants = [
        numpy_helper.from_array(value if value.dtype.kind == "i" else value.astype(np.float32), name)
        for name, value in weights.items()
    ]
    graph = helper.make_graph(nodes, "student", described(inputs), described(outputs), constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
