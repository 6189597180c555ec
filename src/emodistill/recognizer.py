"""Emotions out of audio, without torch: one exported model, one path for every door.

An exported model is a folder with `model.onnx` (waveform in, probabilities and embeddings out) and
`card.json`, which says what it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from emodistill.audio import SAMPLE_RATE, SHORTEST_SAMPLES, Waveform, from_samples, load, trim_silence
from emodistill.card import read_card
from emodistill.errors import AudioError, ModelError, one_of

SHORTEST_S = 0.1  # below this there is nothing to judge
SILENCE_PEAK = 10 ** (-70 / 20)  # full scale is 1
WINDOW_S = 20.0  # longer audio is judged window by window

Reason = Literal["silence", "no_speech", "too_short", "low_confidence"]
AudioSource = str | Path | bytes | BinaryIO | npt.NDArray[Any]


@dataclass(frozen=True)
class Prediction:
    """What was recognised in one input; exactly one of `emotion`, `reason` and `error` explains it."""

    path: str
    emotion: str | None = None
    confidence: float | None = None  # probability of `emotion`, 0 to 1
    probabilities: dict[str, float] | None = None
    abstained: bool = False
    reason: Reason | None = None  # why there is no emotion
    error: str | None = None  # why the input could not be read

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, keys in a fixed order."""
        return {**self.__dict__, "probabilities": dict(self.probabilities or {})}


class Recognizer:
    """A loaded model. Thread-safe: `predict` keeps no state between calls."""

    def __init__(
        self,
        folder: str | Path,
        emotions: Sequence[str] | None = None,
        min_confidence: float = 0.0,
        threads: int | None = None,
    ) -> None:
        """Load an exported model.

        Args:
            folder: holds `model.onnx` and `card.json`.
            emotions: consider only these; their probabilities are renormalised to sum to 1.
            min_confidence: abstain with reason `low_confidence` below this.
            threads: for one model run; None: as ONNX Runtime finds.

        Raises:
            ModelError: a file is missing, changed or no model, or an emotion is not the model's.
        """
        self.folder = Path(folder)
        self.card = read_card(self.folder)
        for name in emotions or ():
            if name not in self.card.emotions:
                raise ModelError(one_of("emotion", name, self.card.emotions))
        self.emotions = tuple(name for name in self.card.emotions if not emotions or name in emotions)
        self.min_confidence = min_confidence
        self._session = _session(self.folder / "model.onnx", threads)
        self._columns = [self.card.emotions.index(name) for name in self.emotions]

    def predict(self, source: AudioSource, rate_hz: int = SAMPLE_RATE) -> Prediction:
        """The emotion of one utterance.

        `source` is a path, the bytes of an audio file, an open binary file, or samples (n,) or
        (n, channels) at `rate_hz`. Raises `AudioError` for audio that cannot be read.
        """
        name = str(source) if isinstance(source, (str, Path)) else ""
        waveform = from_samples(source, rate_hz) if isinstance(source, np.ndarray) else load(source)
        if len(waveform) < SHORTEST_S * SAMPLE_RATE:
            return Prediction(name, abstained=True, reason="too_short")
        if np.abs(waveform).max() < SILENCE_PEAK:
            return Prediction(name, abstained=True, reason="silence")
        values = self.probabilities(waveform)
        best = int(values.argmax())
        confidence = float(values[best])
        sure = confidence >= self.min_confidence
        return Prediction(
            name,
            emotion=self.emotions[best] if sure else None,
            confidence=confidence,
            probabilities={
                emotion: float(value) for emotion, value in zip(self.emotions, values, strict=True)
            },
            abstained=not sure,
            reason=None if sure else "low_confidence",
        )

    def predict_all(self, sources: Iterable[str | Path]) -> Iterator[Prediction]:
        """One prediction per path, in order; a path that cannot be read gives one with its `error`."""
        for source in sources:
            try:
                yield self.predict(source)
            except AudioError as error:
                yield Prediction(str(source), error=str(error))

    def probabilities(self, waveform: Waveform) -> npt.NDArray[np.float64]:
        """Probabilities (emotions,) of a waveform (samples,); over 20 s, their mean over windows."""
        if self.card.trim_db is not None:
            waveform = trim_silence(waveform, self.card.trim_db)
        num_windows = max(1, -(-len(waveform) // round(WINDOW_S * SAMPLE_RATE)))
        windows = [
            window for window in np.array_split(waveform, num_windows) if np.abs(window).max() >= SILENCE_PEAK
        ]
        # Trimming may have cut off the one sample that was loud: then the rest is judged as it is.
        rows = [self.run(window)["probabilities"] for window in windows or [waveform]]
        chosen = np.mean(rows, axis=0)[self._columns]
        return np.asarray(chosen / chosen.sum(), dtype=np.float64)

    def run(self, waveform: Waveform) -> dict[str, npt.NDArray[np.float32]]:
        """Every output of the model by name for a waveform (samples,), without the batch axis."""
        padded = np.pad(waveform, (0, max(0, SHORTEST_SAMPLES - len(waveform))))[None]
        values = self._session.run(None, {"waveform": padded})
        return {
            output.name: value[0] for output, value in zip(self._session.get_outputs(), values, strict=True)
        }


def _session(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        raise ModelError(
            f"'{path}' is no ONNX model that can be run: {' '.join(str(error).split())}"
        ) from error
    inputs = [item.name for item in session.get_inputs()]
    outputs = [item.name for item in session.get_outputs()]
    if inputs != ["waveform"] or "probabilities" not in outputs:
        raise ModelError(
            f"'{path}' is another model: expected waveform in and probabilities out, got {inputs} and {outputs}"
        )
    return session
