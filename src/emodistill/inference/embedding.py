"""Embeddings: what the last layers of a model hold about a recording, as vectors of unit length.

`student` is the layer from which the classifier computes the emotions, before its activation. Each other
vector is a head: a projection of the student's layer that training compares with the embedding of a teacher.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from emodistill.audio.waveform import Waveform
from emodistill.errors import ModelError
from emodistill.inference.adapted_windows import VoiceClassifier
from emodistill.inference.confidence import Answer
from emodistill.inference.prediction import Prediction, Reason
from emodistill.inference.timelines import Timeline
from emodistill.inference.voices import Vector
from emodistill.inference.window_classifier import WindowOutput

OUTPUT = "embedding"  # of the graph; `embedding_NAME` is the head of a teacher
STUDENT = "student"  # the name of the student's own vector

Outputs = Mapping[str, Vector]


@dataclass(frozen=True, eq=False)
class Embedding:
    """The embeddings of one input, or of one window of it.

    Without speech, `vectors` is empty and `reason` is set. For an input that cannot be read, `error` is set.
    With vectors, `emotion` is the one that `Recognizer.predict` gives. It is None below `min_confidence`,
    with the reason `low_confidence`, and for a model without emotions.
    """

    path: str  # empty if the input was not a path
    vectors: dict[str, Vector] = field(default_factory=dict, repr=False)  # name -> (dim,), of unit length
    emotion: str | None = None
    confidence: float | None = None  # the probability of the emotion, 0 to 1
    start_s: float | None = None  # of the window, or of the part in a list; None: at the beginning
    end_s: float | None = None  # None: at the end
    reason: Reason | None = None
    error: str | None = None
    channel: int | None = None  # of the recording, from 0; None: all channels mixed
    id: str | None = None  # of the utterance in a list of inputs
    speaker: str | None = None  # of the utterance in a list of inputs
    label: str | None = None  # of the utterance in a list of inputs, for a picture
    mixed_channels: int | None = field(default=None, repr=False)  # that differ

    @classmethod
    def of(cls, prediction: Prediction, vectors: dict[str, Vector]) -> "Embedding":
        """Return the embedding of an input with this prediction."""
        return cls(
            prediction.path, vectors, prediction.emotion, prediction.confidence, reason=prediction.reason,
            error=prediction.error, channel=prediction.channel, mixed_channels=prediction.mixed_channels,
        )  # fmt: skip


def embedding_dims(outputs: Mapping[str, int | None], folder: object) -> dict[str, int]:
    """Return the size of each vector of a model by name: the student's first, then those of its teachers.

    `outputs` are the outputs of its graph with their sizes, and `folder` names the model in the message.
    Raises `ModelError` where the graph has no embeddings.
    """
    dims = {name_of(output): size for output, size in outputs.items() if is_embedding(output)}
    if not dims.get(STUDENT):
        raise ModelError(
            f"the graph of '{folder}' has no embeddings: expected the output '{OUTPUT}', got "
            f"{list(outputs)}; `emodistill export RUN` writes a model that has them"
        )
    return {name: size for name, size in dims.items() if size}


def is_embedding(output: str) -> bool:
    """Return whether an output of the graph is an embedding."""
    return output == OUTPUT or output.startswith(f"{OUTPUT}_")


def name_of(output: str) -> str:
    """Return the name of the vector of an output.

    >>> name_of("embedding"), name_of("embedding_prosodic")
    ('student', 'prosodic')
    """
    return output.removeprefix(OUTPUT).removeprefix("_") or STUDENT


def mean_vectors(outputs: Sequence[Outputs]) -> dict[str, Vector]:
    """Return each embedding (dim,) by name: the mean over the parts of an input, scaled to unit length."""
    vectors: dict[str, Vector] = {}
    for output in filter(is_embedding, outputs[0]):
        mean = np.mean([values[output] for values in outputs], axis=0, dtype=np.float64)
        unit = mean / max(float(np.linalg.norm(mean)), 1e-12)
        vectors[name_of(output)] = np.asarray(unit, dtype=np.float32)
    return vectors


class EmbeddingModel(VoiceClassifier, Protocol):
    """What embeddings of windows need of a recogniser; `emodistill.Recognizer` has it."""

    def outputs(self, waveform: Waveform, shrunk: Vector | None = None, /) -> list[Any]:
        """Return all outputs of the model for each part of a waveform (samples,)."""

    def combined(self, outputs: Sequence[Any], has_voice: bool, /) -> WindowOutput:
        """Return the mean of the predictions of several parts."""


class WindowRecorder:
    """A recogniser that keeps the embeddings of the windows of one timeline.

    The windows are those of the timeline: speech alone, one window for each hop.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        self._model, self.card = model, model.card
        self.emotions, self.dimensions = model.emotions, model.dimensions
        self._found: list[tuple[dict[str, Vector], Answer | None]] = []

    def answer(self, probabilities: Mapping[str, float], has_voice: bool, *more: Any) -> Answer:
        """Return the answer of the model."""
        return self._model.answer(probabilities, has_voice, *more)

    def classify(self, waveform: Waveform, shrunk: Vector | None = None) -> WindowOutput:
        """Return what the model predicts for a window (samples,), and keep its embeddings."""
        outputs = self._model.outputs(waveform, shrunk)
        output = self._model.combined(outputs, shrunk is not None)
        by_emotion = dict(zip(self.emotions, map(float, output.probabilities), strict=True))
        self._found.append((mean_vectors(outputs), self.answer(by_emotion, shrunk is not None)))
        return output

    def classify_statistics(self, statistics: Vector, shrunk: Vector | None = None) -> WindowOutput:
        """Return what the head of the model predicts for statistics (windows, dim)."""
        return self._model.classify_statistics(statistics, shrunk)

    def rows(self, row: Timeline) -> list[Embedding]:
        """Return the embeddings of the windows of a traced timeline, in order of time.

        Without speech it is one row with a `reason`. At the beginning of speech a timeline also has shorter
        windows, which are left out.
        """
        assert row.trace is not None
        assert len(row.trace.updates) == len(self._found)
        # A shorter window starts where the first window of its stretch does, which comes after it.
        last = {update.start_s: number for number, update in enumerate(row.trace.updates)}
        embeddings = []
        for number in sorted(last.values()):
            update, (vectors, answer) = row.trace.updates[number], self._found[number]
            assert answer is not None
            embeddings.append(
                Embedding(
                    row.path, vectors, answer.emotion, answer.confidence, update.start_s, update.end_s,
                    None if answer.emotion else "low_confidence", mixed_channels=row.mixed_channels,
                )
            )  # fmt: skip
        reason = row.reason or "no_speech"
        return embeddings or [Embedding(row.path, reason=reason, mixed_channels=row.mixed_channels)]


def matrix(rows: Iterable[Embedding], name: str, dim: int) -> Vector:
    """Return the vectors of a name as (rows, dim), NaN where a row has none."""
    empty = np.full(dim, np.nan, dtype=np.float32)
    return np.array([row.vectors.get(name, empty) for row in rows], dtype=np.float32).reshape(-1, dim)
