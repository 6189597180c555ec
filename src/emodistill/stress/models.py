"""The models that the suite can run: those of `evaluate`, and a bare ONNX file with the same interface."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.audio.onnx_session import open_session, run_session
from emodistill.audio.providers import CPU
from emodistill.audio.waveform import MIN_INPUT_SAMPLES, Waveform
from emodistill.errors import ConfigError, ModelError, one_of
from emodistill.inference.model_card import METADATA, file_sha256, known_ids, read_description
from emodistill.training.evaluated_models import (
    NO_ANSWER,
    TransformersModel,
    WaveformAnswer,
    WaveformModel,
    open_model,
)

INTERFACE = (
    "expected the input waveform (batch, samples) of any length, float32, 16 kHz, and the output "
    "probabilities (batch, emotions) or dimensions (batch, dimensions)"
)


def open_any_model(
    model: str, emotions: Sequence[str] | None = None, provider: str = CPU
) -> tuple[WaveformModel, str | None]:
    """Return the model of a name or path, and the SHA-256 of its weights.

    A path that ends in `.onnx` is a bare graph, whose outputs have the names `emotions`. Everything else is
    as in `open_model`. Raises `ModelError` for what is no model, and `ConfigError` for emotions that do not
    fit.
    """
    path = Path(model)
    if path.suffix.lower() == ".onnx":
        if not path.is_file():
            raise ModelError(f"no file '{path}': expected an ONNX file")
        return OnnxModel(path, emotions, provider), file_sha256(path)
    if emotions is not None:
        raise ConfigError(
            f"--emotions names the outputs of a bare .onnx file, and '{model}' names its own: leave "
            "--emotions out; --map renames emotions"
        )
    evaluated, sha256 = open_model(model, provider)
    if sha256 is None and isinstance(evaluated, TransformersModel):
        sha256 = evaluated.weights_sha256()
    return evaluated, sha256


class OnnxModel:
    """A bare ONNX file with the interface of `model.onnx`, without a card. It gets the whole waveform.

    So no speech is found first, nothing is calibrated, and there are no voices, which need `head.onnx`.
    """

    kind = "ONNX file"
    has_voices = False

    def __init__(self, path: Path, emotions: Sequence[str] | None = None, provider: str = CPU) -> None:
        self._session, self._path = open_session(path, 1, provider), path
        inputs = {item.name: item for item in self._session.get_inputs()}
        sizes = {item.name: (item.shape or [None])[-1] for item in self._session.get_outputs()}
        has_voice = list(inputs) == ["waveform", "voice"]
        is_ours = (has_voice or list(inputs) == ["waveform"]) and _is_waveform(inputs["waveform"])
        if not is_ours or not {"probabilities", "dimensions"} & sizes.keys():
            raise ModelError(
                f"'{path}' has another interface than exported models: {INTERFACE}, got the inputs "
                f"{_shapes(inputs.values())} and the outputs {_shapes(self._session.get_outputs())}"
            )
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
        description: Mapping[str, Any] = read_description(text) if text else {}
        self.known_ids = known_ids(description)
        self.names = _emotion_names(path, emotions, description, sizes)
        self.dimensions = tuple(description.get("dimensions", ())) if "dimensions" in sizes else ()
        if not self.names and not self.dimensions:
            number = sizes["dimensions"] if isinstance(sizes["dimensions"], int) else 1
            self.dimensions = tuple(f"dimension {place}" for place in range(1, number + 1))
        self._outputs = [
            name for name, used in (("probabilities", self.names), ("dimensions", self.dimensions)) if used
        ]
        self._voice: dict[str, Any] = {}
        if has_voice:
            self._voice["voice"] = np.zeros((1, inputs["voice"].shape[-1]), dtype=np.float32)

    def answer(self, waveform: Waveform) -> WaveformAnswer:
        """The answer to a waveform (samples,), 16 kHz."""
        padded = np.pad(waveform, (0, max(0, MIN_INPUT_SAMPLES - len(waveform))))[None]
        inputs = {"waveform": padded, **self._voice}
        values = run_session(self._session, inputs, f"'{self._path}'", 1, self._outputs)
        by_name = {
            name: np.asarray(value[0], np.float64) for name, value in zip(self._outputs, values, strict=True)
        }
        if self.names and len(by_name["probabilities"]) != len(self.names):
            raise ConfigError(_other_number(self.names, len(by_name["probabilities"])))
        return replace(
            NO_ANSWER,
            probabilities=by_name.get("probabilities", NO_ANSWER.probabilities),
            dimensions=by_name.get("dimensions", NO_ANSWER.dimensions),
        )


def _emotion_names(
    path: Path, emotions: Sequence[str] | None, description: Mapping[str, Any], sizes: Mapping[str, Any]
) -> tuple[str, ...]:
    """The names of the probabilities, in order; none where the graph has no probabilities."""
    if "probabilities" not in sizes:
        if emotions is not None:
            raise ConfigError(f"'{path}' puts out dimensions alone: leave --emotions out")
        return ()
    names = tuple(emotions or description.get("emotions", ()))
    if not names:
        raise ConfigError(
            f"'{path}' does not state its emotions: name them in the order of its {sizes['probabilities']} "
            "probabilities, as in --emotions angry,happy,sad"
        )
    if isinstance(sizes["probabilities"], int) and len(names) != sizes["probabilities"]:
        raise ConfigError(_other_number(names, sizes["probabilities"]))
    return names


def _other_number(names: Sequence[str], number: int) -> str:
    return (
        f"--emotions names {len(names)} emotions ({', '.join(names)}), and the model puts out {number} "
        "probabilities: name one for each, in their order"
    )


def _is_waveform(item: Any) -> bool:
    """Whether an input takes float32 (batch, samples), with any number of samples."""
    return item.type == "tensor(float)" and len(item.shape) == 2 and not isinstance(item.shape[1], int)


def _shapes(items: Iterable[Any]) -> str:
    """The names, types and shapes of inputs or outputs of a graph."""
    return ", ".join(f"{item.name} {item.type} {item.shape}" for item in items) or "none"


def answered_emotions(model: WaveformModel, mapping: Mapping[str, str | None]) -> tuple[str | None, ...]:
    """The emotion of each of a model's names, None for one that is left out.

    A name without an entry in `mapping` is an emotion itself. Raises `ConfigError` for an entry of a name
    that the model does not have, and where all names are left out.
    """
    for name in mapping:
        if name not in model.names:
            raise ConfigError(f"--map {name}=…: " + one_of("name of the model", name, model.names))
    emotions = tuple(mapping.get(name, name) for name in model.names)
    if emotions and not any(emotions):
        raise ConfigError("--map leaves all names of the model out: expected at least two that stay")
    return emotions
