"""Models that `evaluate` can score: exported models, checkpoints, and audio models of Hugging Face."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import soundfile

from emodistill.audio.providers import CPU
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load
from emodistill.config import AudioConfig, load_recipe
from emodistill.console import say, warn, with_progress
from emodistill.corpora import Utterance
from emodistill.corpora.base import audio_duration_s
from emodistill.errors import AudioError, ConfigError, ModelError
from emodistill.evaluation.cost import ModelCost, RunCost
from emodistill.evaluation.known import SpeakerStatistics
from emodistill.evaluation.run import read_run
from emodistill.inference.confidence import apply_temperature
from emodistill.inference.fetch import package_folder
from emodistill.inference.hub import download_model, is_hub_id, split_revision
from emodistill.inference.model_card import file_sha256, model_bytes
from emodistill.inference.prediction import Prediction
from emodistill.inference.voices import SpeechStatistics
from emodistill.training.transformers_models import load_audio_model, predicted_dimensions

Floats = npt.NDArray[np.float64]
Statistics = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WaveformAnswer:
    """What a model answers to a waveform in memory. Without an answer, everything is empty."""

    probabilities: Floats  # (names,)
    dimensions: Floats  # (dimensions,), each from 0 to 1
    # Of a model with voices: its statistics (windows, dim), and the seconds of speech of each window.
    statistics: Statistics
    speech_s: Floats


NO_ANSWER = WaveformAnswer(np.zeros(0), np.zeros(0), np.zeros((0, 1), np.float32), np.zeros(0))


class WaveformModel(Protocol):
    """A model that classifies waveforms in memory, or predicts their dimensions, or both."""

    kind: str
    names: tuple[str, ...]  # its own names of the emotions; empty: it predicts dimensions alone
    dimensions: tuple[str, ...]  # that it predicts, each from 0 to 1
    known_ids: frozenset[str]  # utterances that it was trained or chosen on, as far as the model lists them
    has_voices: bool  # whether it is a `VoiceModel`

    def answer(self, waveform: Waveform) -> WaveformAnswer:
        """The answer to a waveform (samples,), 16 kHz. Several threads may call it."""


class EvaluatedModel(WaveformModel, Protocol):
    """A model that also classifies utterances, from their files."""

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        """Positions of the utterances that it could classify, and their probabilities (rows, names)."""

    def with_dimensions(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats, Floats]:
        """As `__call__`, with the dimensions (rows, dimensions) as third. Each utterance is read once."""


class VoiceModel(EvaluatedModel, Protocol):
    """A model that also classifies with a voice: with what is known of the speaker."""

    def with_statistics(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats, SpeakerStatistics]:
        """As `__call__`, with the statistics of these rows. Each utterance is read once."""

    def head(self, statistics: Statistics, voice: Statistics) -> Floats:
        """Probabilities (rows, names) for statistics (rows, dim) and shrunk voices (rows, dim)."""


def voice_model(evaluated: WaveformModel) -> VoiceModel:
    """The same model as one with voices. Raises `ModelError` where it has none."""
    if not evaluated.has_voices:
        raise ModelError(
            f"the {evaluated.kind} has no voices, so no utterances can be known: leave --known out, or "
            "choose a model whose recipe has the section [voice]"
        )
    return cast(VoiceModel, evaluated)


def open_model(model: str, provider: str = CPU) -> tuple[EvaluatedModel, str | None]:
    """Return the model of a name, and the SHA-256 of its weights where they are one file.

    The name is "bundled", a fetched model ("large"), a hub id, or a folder: an exported model (`card.json`),
    a checkpoint (`model.json`), a run (`recipe.toml`, of which the first fold's student is taken) or a
    Hugging Face audio classifier (`config.json`). Raises `ModelError` for anything else. `provider` is the
    hardware for an exported model; raises `ConfigError` where it is not the CPU for another model.
    """
    folder = package_folder(model) or Path(model)
    if not folder.exists() and is_hub_id(model):
        download = download_model(model)
        if not (download / "card.json").is_file():
            _ensure_cpu(model, provider)
            return TransformersModel(*split_revision(model)), None
        folder = download
    if (folder / "recipe.toml").is_file():
        run = read_run(folder, needs_scores=False)
        folder, folds = run.checkpoint_folder(), run.scores["folds"]
        if run.all_data is None and len(folds) > 1:
            say(f"of {len(folds)} folds the student of fold {folds[0]} is scored: '{folder}'")
    if (folder / "card.json").is_file():
        exported = ExportedModel(folder, provider)
        return exported, exported.recognizer.card.sha256
    _ensure_cpu(model, provider)
    if (folder / "model.json").is_file():
        return CheckpointModel(folder), file_sha256(folder / "model.safetensors")
    if (folder / "config.json").is_file():
        return TransformersModel(str(folder)), None
    raise ModelError(
        f"'{model}' is no model: expected bundled, a fetched model, a hub id, or a folder with card.json (an "
        "exported model), model.json (a checkpoint), recipe.toml (a run) or config.json (a Hugging Face "
        "audio classifier)"
    )


def _ensure_cpu(model: str, provider: str) -> None:
    if provider != CPU:
        raise ConfigError(
            f"the provider '{provider}' is for exported models, which ONNX Runtime runs, but torch runs "
            f"'{model}': leave --provider out, or export the model first"
        )


class ExportedModel:
    """An exported model, run by the recogniser as in `predict`: with speech detection and calibration."""

    kind = "exported model"

    def __init__(self, folder: Path, provider: str = CPU) -> None:
        from emodistill.inference.recognizer import Recognizer

        self.recognizer = Recognizer(folder, threads=1, provider=provider)
        self.names, self.dimensions = self.recognizer.emotions, self.recognizer.dimensions
        self.known_ids = self.recognizer.known_ids
        self.has_voices = self.recognizer.voice_dim is not None

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        return self.with_dimensions(utterances)[:2]

    def with_dimensions(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats, Floats]:
        return self._classify(utterances, lambda waveform: self.recognizer.predict(waveform, SAMPLE_RATE))

    def with_statistics(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats, SpeakerStatistics]:
        parts: list[SpeechStatistics] = []

        def predict(waveform: Waveform) -> Prediction:
            parts.append(self.recognizer.statistics(waveform, SAMPLE_RATE))
            return self.recognizer.predict_statistics(parts[-1])

        rows, probabilities, _ = self._classify(utterances, predict)
        return rows, probabilities, SpeakerStatistics.join([(part.windows, part.speech_s) for part in parts])

    def answer(self, waveform: Waveform) -> WaveformAnswer:
        if not self.has_voices:
            return self._answer(self.recognizer.predict(waveform, SAMPLE_RATE), NO_ANSWER)
        found = self.recognizer.statistics(waveform, SAMPLE_RATE)
        known = replace(NO_ANSWER, statistics=found.windows, speech_s=found.speech_s)
        return self._answer(self.recognizer.predict_statistics(found), known)

    def _answer(self, prediction: Prediction, known: WaveformAnswer) -> WaveformAnswer:
        place = prediction.dimensions or {}
        is_empty = not prediction.probabilities and not place
        return replace(
            NO_ANSWER if is_empty else known,
            probabilities=np.array(list(prediction.probabilities.values())),
            dimensions=np.array([] if is_empty else [place[name] for name in self.dimensions]),
        )

    def head(self, statistics: Statistics, voice: Statistics) -> Floats:
        card = self.recognizer.card
        # The head subtracts one voice from all rows; here each row has its own.
        rows = self.recognizer.student.run_head(statistics - voice)
        probabilities = np.array([row["probabilities"] for row in rows])
        return apply_temperature(probabilities, card.temperature_voice or card.temperature)

    def _classify(
        self, utterances: Sequence[Utterance], predict: Callable[[Waveform], Prediction]
    ) -> tuple[list[int], Floats, Floats]:
        rows: list[int] = []
        probabilities: list[Floats] = []
        dimensions: list[Floats] = []
        num_silent = 0
        for row, utterance in enumerate(with_progress(utterances, "recognise", len(utterances))):
            waveform = _load_or_report(utterance)
            if waveform is None:
                continue
            prediction = predict(waveform)
            if prediction.probabilities or (not self.names and prediction.dimensions):
                probabilities.append(np.array(list(prediction.probabilities.values())))
                place = prediction.dimensions or {}
                dimensions.append(np.array([place[name] for name in self.dimensions]))
            else:
                num_silent += 1
                output = self.recognizer.classify(waveform)
                probabilities.append(output.probabilities)
                dimensions.append(np.zeros(0) if output.dimensions is None else output.dimensions)
            rows.append(row)
        if num_silent:
            warn(
                f"the recogniser finds no speech in {num_silent} utterances, and predict would give no "
                "emotion: here they are classified all the same"
            )
        return (
            rows,
            np.array(probabilities).reshape(len(rows), len(self.names)),
            np.array(dimensions).reshape(len(rows), len(self.dimensions)),
        )


class CheckpointModel:
    """A checkpoint of ours: a student, or a prosodic or linguistic teacher."""

    kind = "checkpoint"

    def __init__(self, folder: Path) -> None:
        from emodistill.models.checkpoint import load_checkpoint

        self.checkpoint = load_checkpoint(folder)
        self.names, self.dimensions = self.checkpoint.labels.names, self.checkpoint.dimensions
        self.known_ids = self.checkpoint.known_ids
        self.has_voices = getattr(self.checkpoint.model, "has_voices", False)
        self._turn = Lock()
        self.audio = AudioConfig()
        for parent in folder.resolve().parents[:3]:  # its run folder, of which it is fold-1/refit/student
            if (parent / "recipe.toml").is_file():
                self.audio = load_recipe(parent / "recipe.toml").audio

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        rows, outputs = self._predict(utterances)
        return rows, self._probabilities(outputs)

    def with_dimensions(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats, Floats]:
        rows, outputs = self._predict(utterances)
        dimensions = np.zeros((len(rows), len(self.dimensions)))
        if rows and self.dimensions:
            dimensions = outputs["dimensions"].double().clamp(0, 1).numpy()
        return rows, self._probabilities(outputs), dimensions

    def with_statistics(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats, SpeakerStatistics]:
        from emodistill.training.checkpoint_inference import one_window_each

        rows, outputs = self._predict(utterances)
        if not rows:
            raise ModelError(f"the checkpoint could classify none of {len(utterances)} utterances")
        durations_s = [audio_duration_s(utterances[row]) for row in rows]
        return rows, self._probabilities(outputs), one_window_each(outputs["statistics"], durations_s)

    def answer(self, waveform: Waveform) -> WaveformAnswer:
        # The stages of training read files, so the waveform becomes one.
        with TemporaryDirectory() as folder, self._turn:
            path = Path(folder) / "waveform.wav"
            soundfile.write(path, waveform, SAMPLE_RATE, subtype="FLOAT")
            rows, outputs = self._predict(
                [Utterance(path.name, "", self.names[0] if self.names else None, path)]
            )
        if not rows:
            raise ModelError(
                f"the {self.kind} needs more than audio, such as a transcript: choose a model of audio"
            )
        dimensions = outputs["dimensions"][0].double().clamp(0, 1).numpy() if self.dimensions else np.zeros(0)
        known = outputs["statistics"].numpy() if self.has_voices else NO_ANSWER.statistics
        speech_s = np.full(int(self.has_voices), len(waveform) / SAMPLE_RATE)
        return WaveformAnswer(self._probabilities(outputs)[0], dimensions, known, speech_s)

    def head(self, statistics: Statistics, voice: Statistics) -> Floats:
        from emodistill.training.checkpoint_inference import classify_statistics

        return classify_statistics(self.checkpoint.model, statistics, voice)

    def _predict(self, utterances: Sequence[Utterance]) -> tuple[list[int], Mapping[str, Any]]:
        from emodistill.training.checkpoint_inference import predict_checkpoint

        return predict_checkpoint(self.checkpoint, utterances, self.audio)

    def _probabilities(self, outputs: Mapping[str, Any]) -> Floats:
        if not outputs:
            return np.zeros((0, len(self.names)))
        return np.asarray(outputs["logits"].double().softmax(dim=1).numpy())


class TransformersModel:
    """An audio model of Hugging Face's transformers, run on one utterance at a time without padding.

    It is a classifier of emotions, or predicts dimensions from 0 to 1.
    """

    kind = "Hugging Face model"
    has_voices = False
    known_ids: frozenset[str] = frozenset()  # such models do not list their training data

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.extractor, self.model = load_audio_model(name, revision)
        labels = self.model.config.id2label
        names = tuple(str(labels[index]) for index in sorted(labels))
        self.dimensions = predicted_dimensions(names, self.model.config.problem_type, name)
        self.names = () if self.dimensions else names
        warn(f"'{name}' does not list its training data: make sure that it was not trained on this corpus")

    def weights_sha256(self) -> str:
        """The SHA-256 of all weights by name. A hub id or a folder may get other weights later."""
        import torch

        digest = sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def logits(self, waveform: Waveform) -> Any:
        """The outputs (names,) of a waveform (samples,), 16 kHz: logits of emotions, or dimensions."""
        import soxr

        rate_hz = int(getattr(self.extractor, "sampling_rate", SAMPLE_RATE))
        if rate_hz != SAMPLE_RATE:
            waveform = soxr.resample(waveform, SAMPLE_RATE, rate_hz)
        inputs = self.extractor(waveform, sampling_rate=rate_hz, return_tensors="pt")
        return self.model(**inputs).logits[0]

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        import torch

        rows, outputs = self._outputs(utterances)
        return rows, np.asarray(torch.from_numpy(outputs).softmax(dim=1).numpy())

    def with_dimensions(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats, Floats]:
        rows, outputs = self._outputs(utterances)
        if num_outside := int(((outputs < 0) | (outputs > 1)).any(axis=1).sum()):
            warn(f"{num_outside} of {len(rows)} outputs lie outside of 0 to 1: they become 0 or 1")
        return rows, np.zeros((len(rows), 0)), outputs.clip(0, 1)

    def answer(self, waveform: Waveform) -> WaveformAnswer:
        import torch

        with torch.no_grad():
            outputs = self.logits(waveform).double()
        if self.dimensions:
            return replace(NO_ANSWER, dimensions=outputs.clamp(0, 1).numpy())
        return replace(NO_ANSWER, probabilities=outputs.softmax(dim=0).numpy())

    def _outputs(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        """Positions of the utterances that have audio, and what the model puts out (rows, outputs)."""
        import torch

        rows: list[int] = []
        outputs: list[Floats] = []
        with torch.no_grad():
            for row, utterance in enumerate(with_progress(utterances, "classify", len(utterances))):
                waveform = _load_or_report(utterance)
                if waveform is None:
                    continue
                outputs.append(self.logits(waveform).double().numpy())
                rows.append(row)
        return rows, np.array(outputs).reshape(len(rows), len(self.names) + len(self.dimensions))


def _load_or_report(utterance: Utterance) -> npt.NDArray[np.float32] | None:
    """An utterance's waveform (samples,). None, with a message, where it has no audio that can be read."""
    try:
        if utterance.path is None:
            raise AudioError("it has no audio")
        return load(utterance.path, utterance.start_s, utterance.end_s)
    except AudioError as error:
        say(f"left out: '{utterance.id}': {error}")
        return None


def measure_evaluated(evaluated: EvaluatedModel, folder: Path) -> None:
    """Write `cost.json` of an evaluation: what a model that was trained before costs at run time."""
    from emodistill.training.cost import (
        machine,
        measure_latency,
        measure_model,
        measure_module,
        measured_waveform,
        typical_transcript,
    )

    where, tokens = machine(), None
    if isinstance(evaluated, ExportedModel):
        student, waveform = evaluated.recognizer.student, measured_waveform()
        latency_ms, repetitions = measure_latency(lambda: student.run(waveform))
        cost = ModelCost(
            parameters=student.card.num_parameters,
            size_bytes=model_bytes(student.folder),
            latency_ms=latency_ms,
            repetitions=repetitions,
        )
        import onnxruntime

        # Its package may be another one than `onnxruntime`, such as `onnxruntime-gpu`.
        where = {**where, "torch": None, "onnxruntime": onnxruntime.__version__}
        if student.provider != CPU:
            where["provider"] = student.provider
    elif isinstance(evaluated, CheckpointModel):
        cost, tokens = measure_model(evaluated.checkpoint.model, typical_transcript(folder))
    elif isinstance(evaluated, TransformersModel):
        waveform = measured_waveform()
        cost = measure_module(evaluated.model, lambda: evaluated.logits(waveform))
    else:
        return
    RunCost({"model": replace(cost, trained_parameters=None)}, where, tokens).write(folder)
