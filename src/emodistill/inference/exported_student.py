"""The graphs of an exported model: `model.onnx`, and `head.onnx` where the model has voices."""

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from emodistill.audio.onnx_session import open_session, run_session
from emodistill.audio.providers import CPU, check_provider, find_provider
from emodistill.audio.waveform import MIN_INPUT_SAMPLES, Waveform
from emodistill.errors import ModelError
from emodistill.inference.fetch import fetchable_models, package_folder
from emodistill.inference.model_card import (
    HEAD,
    METADATA,
    check_sha256,
    known_ids,
    read_card,
    read_description,
)

Outputs = dict[str, npt.NDArray[np.float32]]  # an output's name -> its value


class ExportedStudent:
    """The graphs and the card of an exported model. Thread-safe."""

    def __init__(self, model: str | Path, threads: int | None = None, provider: str = CPU) -> None:
        """Load the card and `model.onnx`; `head.onnx` is loaded at its first use.

        The arguments and the errors are those of `Recognizer`.
        """
        self.provider = check_provider(provider)  # Before a model is downloaded.
        self.folder = model_folder(model)
        self.card = read_card(self.folder)
        self.threads = threads
        runs_alone = find_provider(provider).runs_alone
        self._turn: AbstractContextManager[Any] = Lock() if runs_alone else nullcontext()
        self._session = open_session(self.folder / "model.onnx", threads, provider)
        self.providers = list(self._session.get_providers())  # that ONNX Runtime uses
        self.outputs = [output.name for output in self._session.get_outputs()]
        self._check_inputs()
        self._check_emotions()
        self._check_dimensions()

    @property
    def voice_dim(self) -> int | None:
        """The size of a voice; None: the model has no voices."""
        return self.card.voice_dim

    def run(self, waveform: Waveform, voice: npt.NDArray[np.float32] | None = None) -> Outputs:
        """Return every output of `model.onnx` for a waveform (samples,), without the batch axis.

        `voice` (dim,) is a shrunk voice; None: no voice. Only a model with voices takes one.
        """
        padded = np.pad(waveform, (0, max(0, MIN_INPUT_SAMPLES - len(waveform))))[None]
        inputs = {"waveform": padded}
        if self.voice_dim is not None:
            inputs["voice"] = self._rows(voice, 1)
        with self._turn:
            values = run_session(self._session, inputs, f"'{self.folder / 'model.onnx'}'", 1)
        return {name: value[0] for name, value in zip(self.outputs, values, strict=True)}

    def run_head(
        self, statistics: npt.NDArray[np.float32], voice: npt.NDArray[np.float32] | None = None
    ) -> list[Outputs]:
        """Return every output of `head.onnx` for each row of statistics (windows, dim).

        `voice` is as in `run`. Raises `ModelError` if `head.onnx` is missing, changed or not a head.
        """
        session, outputs = self._head
        inputs = {"statistics": statistics, "voice": self._rows(voice, len(statistics))}
        with self._turn:
            values = run_session(session, inputs, f"'{self.folder / HEAD}'", len(statistics))
        rows = zip(*values, strict=True)
        return [dict(zip(outputs, row, strict=True)) for row in rows]

    @cached_property
    def known_ids(self) -> frozenset[str]:
        """The ids of the utterances in training or dev of the model; empty if its file does not list them."""
        return known_ids(self._description) if self._description else frozenset()

    def _rows(self, voice: npt.NDArray[np.float32] | None, num_rows: int) -> npt.NDArray[np.float32]:
        """Return a voice for each row, (rows, dim); zeros for no voice."""
        assert self.voice_dim is not None
        if voice is None:
            return np.zeros((num_rows, self.voice_dim), dtype=np.float32)
        return np.repeat(voice[None], num_rows, axis=0)

    @cached_property
    def _head(self) -> tuple[onnxruntime.InferenceSession, list[str]]:
        """The session of `head.onnx`, and the names of its outputs."""
        path = self.folder / HEAD
        if not path.is_file():
            raise ModelError(
                f"'{self.folder}' has no {HEAD}, which a model with voices needs: export or download the "
                "model again"
            )
        check_sha256([path], self.card.head_sha256)
        session = open_session(path, self.threads, self.provider)
        inputs = [item.name for item in session.get_inputs()]
        outputs = [item.name for item in session.get_outputs()]
        missing = [name for name in self._required_outputs if name not in outputs]
        if inputs != ["statistics", "voice"] or missing:
            raise ModelError(
                f"'{path}' is not the head of an exported student: expected the inputs statistics and voice, "
                f"and the output {' and '.join(self._required_outputs)}, got the inputs {inputs} and the "
                f"outputs {outputs}"
            )
        return session, outputs

    @cached_property
    def _description(self) -> dict[str, Any]:
        """What the ONNX file states about the student; empty if it states nothing."""
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
        return read_description(text) if text else {}

    @property
    def sizes(self) -> dict[str, int | None]:
        """The number of columns of each output of `model.onnx`; None where the graph does not state it."""
        return {output: self._size(output) for output in self.outputs}

    @property
    def _required_outputs(self) -> list[str]:
        """The outputs that hold the predictions of a model with this card."""
        has_emotions = bool(self.card.emotions) or not self.card.dimensions
        names = ["probabilities"] if has_emotions else []
        return [*names, "dimensions"] if self.card.dimensions else names

    def _check_inputs(self) -> None:
        """Raise `ModelError` for an ONNX file of another kind, or with other voices than the card."""
        path, required = self.folder / "model.onnx", self._required_outputs
        inputs = {item.name: item.shape for item in self._session.get_inputs()}
        has_voices = list(inputs) == ["waveform", "voice"] and "statistics" in self.outputs
        is_complete = all(name in self.outputs for name in required)
        if not (has_voices or list(inputs) == ["waveform"]) or not is_complete:
            raise ModelError(
                f"'{path}' is not an exported student: expected the input waveform and the output "
                f"{' and '.join(required)}, and for a model with voices also the input voice and the output "
                f"statistics, got the inputs {list(inputs)} and the outputs {self.outputs}"
            )
        dim = inputs["voice"][-1] if has_voices and inputs["voice"] else None
        if has_voices != (self.voice_dim is not None) or (isinstance(dim, int) and dim != self.voice_dim):
            graph = f"voices of {dim} numbers" if has_voices else "no voices"
            raise ModelError(
                f"'{self.folder / 'card.json'}' has voice_dim {self.voice_dim}, but model.onnx has {graph}; "
                "was the card edited? Export or download the model again"
            )

    def _check_emotions(self) -> None:
        """Raise `ModelError` if the card and the graph have different emotions, or another order of them."""
        path, emotions = self.folder / "card.json", list(self.card.emotions)
        trained = self._description.get("emotions")
        if trained is not None and list(trained) != emotions:
            raise ModelError(
                f"'{path}' names the emotions {emotions}, but model.onnx was trained on {list(trained)}; was "
                "the card edited? Export or download the model again"
            )
        if emotions and (num_outputs := self._size("probabilities")) not in (None, len(emotions)):
            raise ModelError(
                f"'{path}' names {len(emotions)} emotions, but model.onnx has {num_outputs} outputs; "
                "export or download the model again"
            )

    def _check_dimensions(self) -> None:
        """Raise `ModelError` if the card and the graph have different dimensions, or in another order."""
        path, dimensions = self.folder / "card.json", list(self.card.dimensions)
        trained = list(self._description.get("dimensions", dimensions))
        if trained != dimensions or ("dimensions" in self.outputs and not dimensions):
            found = trained or "dimensions without names"
            raise ModelError(
                f"'{path}' names the dimensions {dimensions}, but model.onnx was trained on {found}; was the "
                "card edited? Export or download the model again"
            )
        if dimensions and (num_outputs := self._size("dimensions")) not in (None, len(dimensions)):
            raise ModelError(
                f"'{path}' names {len(dimensions)} dimensions, but model.onnx has {num_outputs} outputs for "
                "them; export or download the model again"
            )

    def _size(self, output: str) -> int | None:
        """The number of columns of an output; None if the graph does not state it."""
        shape = self._session.get_outputs()[self.outputs.index(output)].shape
        return shape[-1] if shape and isinstance(shape[-1], int) else None


def model_folder(model: str | Path) -> Path:
    """Return the folder of a model; a model of the hub is downloaded. Raises `ModelError` without one."""
    if (folder := package_folder(model)) is not None:
        return folder
    if isinstance(model, str) and not Path(model).exists():
        from emodistill.inference.hub import download_model, is_hub_id

        if is_hub_id(model):
            return download_model(model)
        names = ", ".join(["bundled", *fetchable_models()])
        raise ModelError(
            f"no model '{model}': expected {names}, the folder of an exported model, or a hub id "
            "(organisation/name[@revision])"
        )
    return Path(model)
