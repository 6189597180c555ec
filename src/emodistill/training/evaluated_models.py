"""Models that `evaluate` can score: exported models, checkpoints, and Hugging Face audio classifiers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.config import AudioConfig, load_recipe
from emodistill.console import say, warn, with_progress
from emodistill.corpora import Utterance
from emodistill.errors import AudioError, MissingExtraError, ModelError
from emodistill.evaluation.run import read_run
from emodistill.inference.hub import download_model, is_hub_id, split_revision
from emodistill.inference.model_card import BUNDLED, file_sha256

Floats = npt.NDArray[np.float64]


class EvaluatedModel(Protocol):
    """A model that classifies utterances."""

    kind: str
    names: tuple[str, ...]  # its own names of the emotions
    known_ids: frozenset[str]  # utterances that it was trained or chosen on, as far as the model lists them

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        """Positions of the utterances that it could classify, and their probabilities (rows, names)."""


def open_model(model: str) -> tuple[EvaluatedModel, str | None]:
    """Return the model of a name, and the SHA-256 of its weights where they are one file.

    The name is "bundled", a hub id, or a folder: an exported model (`card.json`), a checkpoint
    (`model.json`), a run (`recipe.toml`, of which the first fold's student is taken) or a Hugging Face audio
    classifier (`config.json`). Raises `ModelError` for anything else.
    """
    folder = BUNDLED if model == "bundled" else Path(model)
    if not folder.exists() and is_hub_id(model):
        download = download_model(model)
        if not (download / "card.json").is_file():
            return TransformersModel(*split_revision(model)), None
        folder = download
    if (folder / "recipe.toml").is_file():
        folder = read_run(folder).checkpoint_folder()
    if (folder / "card.json").is_file():
        return ExportedModel(folder), file_sha256(folder / "model.onnx")
    if (folder / "model.json").is_file():
        return CheckpointModel(folder), file_sha256(folder / "model.safetensors")
    if (folder / "config.json").is_file():
        return TransformersModel(str(folder)), None
    raise ModelError(
        f"'{model}' is no model: expected bundled, a hub id, or a folder with card.json (an exported model), "
        "model.json (a checkpoint), recipe.toml (a run) or config.json (a Hugging Face audio classifier)"
    )


class ExportedModel:
    """An exported model, run by the recogniser as in `predict`: with speech detection and calibration."""

    kind = "exported model"

    def __init__(self, folder: Path) -> None:
        from emodistill.inference.recognizer import Recognizer

        self.recognizer = Recognizer(folder, threads=1)
        self.names = self.recognizer.emotions
        self.known_ids = self.recognizer.known_ids

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        rows: list[int] = []
        probabilities: list[Floats] = []
        num_silent = 0
        for row, utterance in enumerate(with_progress(utterances, "recognise", len(utterances))):
            waveform = _load_or_report(utterance)
            if waveform is None:
                continue
            prediction = self.recognizer.predict(waveform)
            if prediction.probabilities:
                probabilities.append(np.array(list(prediction.probabilities.values())))
            else:
                num_silent += 1
                probabilities.append(self.recognizer.probabilities(waveform))
            rows.append(row)
        if num_silent:
            warn(
                f"the recogniser finds no speech in {num_silent} utterances, and predict would give no "
                "emotion: here they are classified all the same"
            )
        return rows, np.array(probabilities)


class CheckpointModel:
    """A checkpoint of ours: a student, or a prosodic or linguistic teacher."""

    kind = "checkpoint"

    def __init__(self, folder: Path) -> None:
        from emodistill.models.checkpoint import load_checkpoint

        self.checkpoint = load_checkpoint(folder)
        self.names = self.checkpoint.labels.names
        self.known_ids = self.checkpoint.known_ids
        self.audio = AudioConfig()
        for parent in folder.resolve().parents[:3]:  # its run folder, of which it is fold-1/refit/student
            if (parent / "recipe.toml").is_file():
                self.audio = load_recipe(parent / "recipe.toml").audio

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        from emodistill.training.checkpoint_inference import predict_checkpoint

        rows, outputs = predict_checkpoint(self.checkpoint, utterances, self.audio)
        if not rows:
            return [], np.zeros((0, len(self.names)))
        return rows, np.asarray(outputs["logits"].double().softmax(dim=1).numpy())


class TransformersModel:
    """An audio classifier of Hugging Face's transformers, run on one utterance at a time without padding."""

    kind = "Hugging Face model"
    known_ids: frozenset[str] = frozenset()  # such models do not list their training data

    def __init__(self, name: str, revision: str | None = None) -> None:
        try:
            from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
        except ImportError as error:
            raise MissingExtraError("transformers", "train") from error
        try:
            self.extractor = AutoFeatureExtractor.from_pretrained(name, revision=revision)
            self.model = AutoModelForAudioClassification.from_pretrained(name, revision=revision).eval()
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"'{name}' is no audio classifier that transformers can load: {' '.join(str(error).split())}"
            ) from error
        labels = self.model.config.id2label
        self.names = tuple(str(labels[index]) for index in sorted(labels))
        warn(f"'{name}' does not list its training data: make sure that it was not trained on this corpus")

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], Floats]:
        import soxr
        import torch

        rate_hz = int(getattr(self.extractor, "sampling_rate", SAMPLE_RATE))
        rows: list[int] = []
        probabilities: list[Floats] = []
        with torch.no_grad():
            for row, utterance in enumerate(with_progress(utterances, "classify", len(utterances))):
                waveform = _load_or_report(utterance)
                if waveform is None:
                    continue
                if rate_hz != SAMPLE_RATE:
                    waveform = soxr.resample(waveform, SAMPLE_RATE, rate_hz)
                inputs = self.extractor(waveform, sampling_rate=rate_hz, return_tensors="pt")
                probabilities.append(self.model(**inputs).logits[0].double().softmax(dim=0).numpy())
                rows.append(row)
        return rows, np.array(probabilities)


def _load_or_report(utterance: Utterance) -> npt.NDArray[np.float32] | None:
    """An utterance's waveform (samples,). None, with a message, where it has no audio that can be read."""
    try:
        if utterance.path is None:
            raise AudioError("it has no audio")
        return load(utterance.path, utterance.start_s, utterance.end_s)
    except AudioError as error:
        say(f"left out: '{utterance.id}': {error}")
        return None
