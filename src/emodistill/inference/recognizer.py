"""Recognise emotions in audio, without torch. Files, streams and the server all use this `Recognizer`.

An exported model is a folder with `model.onnx` and `card.json`. The graph takes a waveform and returns
probabilities and embeddings. The card describes the model (`model_card`).
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import onnxruntime

from emodistill.audio.onnx_session import open_session
from emodistill.audio.recording import AudioSource, Recording
from emodistill.audio.speech_activity import NO_SPEECH, SpeechDetector, find_speech
from emodistill.audio.waveform import MIN_INPUT_SAMPLES, SAMPLE_RATE, Waveform, trim_silence
from emodistill.errors import AudioError, ConfigError, ModelError, one_of
from emodistill.inference.confidence import Probabilities, apply_temperature, confidence_threshold
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.model_card import BUNDLED, METADATA, known_ids, read_card
from emodistill.inference.segmentation import HOP_S, WINDOW_S
from emodistill.inference.streaming import Detector, StreamingRecognizer
from emodistill.inference.thread_map import map_in_order
from emodistill.inference.timelines import Timeline, TimelineSource, timeline

# Kept on both sides of the speech. In quiet recordings, `trim_silence` then cuts it as in training. In noise
# it cannot, and every 0.1 s of noise costs accuracy (benchmarks/invariance.py).
SPEECH_MARGIN_S = 0.05
# A longer pause between two stretches of speech is shortened to this. Otherwise the silence in a recording
# with long pauses decides the answer (benchmarks/pauses.py).
MAX_PAUSE_S = 0.3


class _Option(Enum):
    """The default of an option for which None has a meaning."""

    KEEP = "keep"


KEEP = _Option.KEEP

Reason = Literal["silence", "no_speech", "too_short", "low_confidence"]


@dataclass(frozen=True)
class Prediction:
    """The result for one input. Exactly one of `emotion`, `reason` and `error` is set."""

    path: str  # empty if the input was not a path
    emotion: str | None = None
    confidence: float | None = None  # the highest probability, 0 to 1
    probabilities: dict[str, float] = field(default_factory=dict)  # by emotion; empty if none were computed
    abstained: bool = False
    reason: Reason | None = None  # why the recogniser abstained
    error: str | None = None  # why the input could not be read
    teachers: dict[str, dict[str, float]] | None = (
        None  # the student's estimate of each teacher's probabilities
    )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, keys in a fixed order; `teachers` is left out where it is None.

        `Prediction(**prediction.as_dict())` equals the prediction.
        """
        data = {**self.__dict__, "probabilities": dict(self.probabilities)}
        if self.teachers is None:
            del data["teachers"]
        return data


class Recognizer:
    """A loaded model. Thread-safe, because no method changes it."""

    def __init__(
        self,
        model: str | Path = "bundled",
        *,
        emotions: Sequence[str] | None = None,
        min_confidence: float | None = None,
        coverage: float | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Load an exported model.

        Args:
            model: "bundled", the model that comes with the package; a folder with `model.onnx` and
                `card.json`; or an id on the Hugging Face Hub, "organisation/name".
                "organisation/name@revision" selects a branch, a tag or a commit of it (needs [hub]).
            emotions: recognise only these; their probabilities are scaled to sum to 1.
            min_confidence: abstain with the reason `low_confidence` below this confidence.
            coverage: abstain below the confidence that this share of the model's dev utterances reached.
            threads: CPU threads for one run of the model; None: ONNX Runtime's default.
            providers: ONNX Runtime's execution providers in order of preference; None: the CPU.

        Raises:
            ModelError: there is no such model, or one of its files is missing, changed or not a model.
            ConfigError: an emotion that the model does not have, a provider that ONNX Runtime does not have,
                a value out of range, or options that exclude each other.
        """
        self.folder = _model_folder(model)
        self.card = read_card(self.folder)
        self._set_options(emotions, min_confidence, coverage)
        self._session = _open_student(self.folder / "model.onnx", threads, providers)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._check_emotions()

    @classmethod
    def load(cls, model: str | Path = "bundled", **options: Any) -> "Recognizer":
        """Load a model; `Recognizer.load(model, …)` is the same as `Recognizer(model, …)`."""
        return cls(model, **options)

    def with_options(
        self,
        *,
        emotions: Sequence[str] | _Option | None = KEEP,
        min_confidence: float | _Option | None = KEEP,
        coverage: float | _Option | None = KEEP,
    ) -> "Recognizer":
        """Return a recogniser with other options that shares the loaded model; this one does not change.

        An option that you do not give stays as it is. None resets it to the model's own: all emotions, no
        abstention. `min_confidence` and `coverage` set the same threshold, so giving one of them replaces
        both.

        Raises `ConfigError` as the constructor does.
        """
        chosen = self.emotions if emotions is KEEP else emotions
        if min_confidence is KEEP and coverage is KEEP:
            confidence, share = self._threshold_options
        else:
            confidence = None if min_confidence is KEEP else min_confidence
            share = None if coverage is KEEP else coverage
        _ = self._detector  # Load it once, so that all copies share it.
        other = copy(self)
        other._set_options(chosen, confidence, share)
        return other

    def _set_options(
        self, emotions: Sequence[str] | None, min_confidence: float | None, coverage: float | None
    ) -> None:
        if isinstance(emotions, str):  # Iterating over it would give its letters.
            raise ConfigError(f"bad emotions '{emotions}', expected a list, e.g. {emotions.split(',')}")
        emotions = None if emotions is None else tuple(emotions)
        if emotions is not None and not emotions:
            raise ConfigError(f"no emotions: expected some of {list(self.card.emotions)}, or None for all")
        for name in emotions or ():
            if name not in self.card.emotions:
                raise ConfigError(one_of("emotion", name, self.card.emotions))
        self.emotions = tuple(name for name in self.card.emotions if not emotions or name in emotions)
        self.min_confidence = confidence_threshold(self.card, self.emotions, min_confidence, coverage)
        self._threshold_options = (min_confidence, coverage)
        self._columns = [self.card.emotions.index(name) for name in self.emotions]

    @property
    def settings(self) -> dict[str, Any]:
        """What determines a prediction besides the audio: the model's hash, the emotions, the threshold."""
        return {
            "model": self.card.sha256,
            "emotions": list(self.emotions),
            "min_confidence": self.min_confidence,
        }

    @overload
    def predict(self, source: AudioSource, rate_hz: int = SAMPLE_RATE) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, source: Iterable[AudioSource], rate_hz: int = SAMPLE_RATE) -> list[Prediction]: ...

    def predict(
        self, source: AudioSource | Iterable[AudioSource], rate_hz: int = SAMPLE_RATE
    ) -> Prediction | list[Prediction]:
        """Return the emotion of one utterance, or a list with the emotion of each utterance of an iterable.

        The recogniser finds the speech first, and cuts off what is before and after it. Without speech it
        abstains with the reason `no_speech`. In over 20 s of audio, it averages the probabilities of the
        windows with speech. A recording of over two minutes is decoded three times, so memory does not grow
        with its length.

        Args:
            source: a path, the bytes of an audio file, an open binary file or pipe, or an array of samples
                (n,) or (n, channels): floats from -1 to 1, or integers that use the full scale of their type.
                Or an iterable of these.
            rate_hz: the rate of arrays; files state their own.

        Raises:
            AudioError: the audio cannot be read. In a list, such an input gives a prediction with its
                `error`.
        """
        sources = _as_list(source)
        if sources is None:
            return self._predict_one(source, rate_hz)
        return list(self.predict_all(sources, rate_hz))

    def _predict_one(self, source: Any, rate_hz: int) -> Prediction:
        name = _name(source)
        recording = Recording(source, rate_hz)
        if (unusable := recording.level.unusable_reason()) is not None:
            return Prediction(name, abstained=True, reason=unusable)
        windows = self._speech_windows(recording)
        if windows is None:
            return Prediction(name, abstained=True, reason="no_speech")
        means = self._mean_probabilities(windows)
        values = means.pop("student")
        best = int(values.argmax())
        confidence = float(values[best])
        is_sure = confidence >= self.min_confidence
        return Prediction(
            name,
            emotion=self.emotions[best] if is_sure else None,
            confidence=confidence,
            probabilities=self._by_emotion(values),
            abstained=not is_sure,
            reason=None if is_sure else "low_confidence",
            teachers={teacher: self._by_emotion(value) for teacher, value in means.items()} or None,
        )

    def predict_all(
        self, sources: Iterable[AudioSource], rate_hz: int = SAMPLE_RATE, jobs: int = 1
    ) -> Iterator[Prediction]:
        """Yield one prediction for each source, in order, with `jobs` threads.

        A source that cannot be read gives a prediction with its `error`. A few sources are read ahead, never
        all of them. Several jobs are fastest with a model that was loaded with `threads=1`. Raises
        `AudioError` for a single source, because its letters, bytes or samples are not sources.
        """
        if isinstance(sources, (str, Path, bytes, np.ndarray)):
            raise AudioError(
                f"expected several sources, e.g. a list, got one {type(sources).__name__}; predict takes one"
            )

        def predict_one(source: AudioSource) -> Prediction:
            try:
                return self._predict_one(source, rate_hz)
            except AudioError as error:
                return Prediction(_name(source), error=str(error))

        yield from map_in_order(predict_one, sources, jobs)

    def timeline(
        self,
        source: TimelineSource,
        *,
        given: Sequence[GivenSegment] | None = None,
        hop_s: float = HOP_S,
        window_s: float = WINDOW_S,
        detector: Detector | None = None,
        traced: bool = False,
        max_s: float | None = None,
    ) -> Timeline:
        """Return the emotions over time in one recording.

        The arguments and the errors are those of `emodistill.timeline`.
        """
        return timeline(
            source, self, given=given, hop_s=hop_s, window_s=window_s,
            detector=detector or self._detector, traced=traced, max_s=max_s,
        )  # fmt: skip

    def stream(
        self,
        rate_hz: int = SAMPLE_RATE,
        *,
        hop_s: float = HOP_S,
        window_s: float = WINDOW_S,
        detector: Detector | None = None,
    ) -> StreamingRecognizer:
        """Open a stream that takes chunks of audio and returns events.

        The arguments and the errors are those of `StreamingRecognizer`.
        """
        return StreamingRecognizer(
            self, rate_hz, hop_s=hop_s, window_s=window_s, detector=detector or self._detector
        )

    def probabilities(self, waveform: Waveform) -> Probabilities:
        """Return the probabilities (emotions,) of a waveform (samples,).

        Over 20 s, they are the mean over windows. The waveform is not checked for silence or speech: silence
        gives probabilities too.
        """
        recording = Recording(waveform, SAMPLE_RATE)
        return self._mean_probabilities(recording.windows())["student"]

    def run(self, waveform: Waveform) -> dict[str, npt.NDArray[np.float32]]:
        """Return every output of the graph by name for a waveform (samples,), without the batch axis.

        The probabilities are those of the exported model: of all its emotions, before the temperature.
        """
        padded = np.pad(waveform, (0, max(0, MIN_INPUT_SAMPLES - len(waveform))))[None]
        values = self._session.run(None, {"waveform": padded})
        return {name: value[0] for name, value in zip(self._outputs, values, strict=True)}

    @cached_property
    def _description(self) -> dict[str, Any]:
        """What the ONNX file states about the student; empty if it states nothing."""
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
        return dict(json.loads(text)) if text else {}

    def _check_emotions(self) -> None:
        """Raise `ModelError` if the card and the graph have different emotions, or another order of them."""
        path, emotions = self.folder / "card.json", list(self.card.emotions)
        trained = self._description.get("emotions")
        if trained is not None and list(trained) != emotions:
            raise ModelError(
                f"'{path}' names the emotions {emotions}, but model.onnx was trained on {list(trained)}; was "
                "the card edited? Export or download the model again"
            )
        num_outputs = self._session.get_outputs()[self._outputs.index("probabilities")].shape[-1]
        if isinstance(num_outputs, int) and num_outputs != len(emotions):
            raise ModelError(
                f"'{path}' names {len(emotions)} emotions, but model.onnx has {num_outputs} outputs; "
                "export or download the model again"
            )

    @cached_property
    def known_ids(self) -> frozenset[str]:
        """The ids of the utterances in training or dev of the model; empty if its file does not list them."""
        return known_ids(self._description) if self._description else frozenset()

    @cached_property
    def _detector(self) -> SpeechDetector:
        return SpeechDetector()

    def _speech_windows(self, recording: Recording) -> Iterator[Waveform] | None:
        """Return the windows of the speech, with pauses of at most `MAX_PAUSE_S`; None without speech."""
        stream = self._detector.stream()
        # The whole recording is known here, so it is scaled to its peak, and the gain does not matter.
        parts = [stream.push(piece / np.float32(recording.peak)) for piece in recording.pieces()]
        activity = np.concatenate([*parts, stream.finish()])
        if activity.max() < NO_SPEECH:
            return None
        spans = find_speech(activity)
        # No span: a short word or a cry, for which the detector finds no start and end.
        return recording.windows(_without_long_pauses(spans, recording.num_samples) if spans else None)

    def _mean_probabilities(self, windows: Iterable[Waveform]) -> dict[str, Probabilities]:
        """Return the probabilities (emotions,) of the student and of each teacher, averaged over windows."""
        trim_db = self.card.trim_db
        outputs = [
            self.run(window if trim_db is None else trim_silence(window, trim_db)) for window in windows
        ]
        means: dict[str, Probabilities] = {}
        for output in self._outputs:
            if not output.startswith("probabilities"):
                continue
            teacher = output.removeprefix("probabilities").removeprefix("_")
            temperature = 1.0 if teacher else self.card.temperature  # It was fitted to the student alone.
            rows = [apply_temperature(values[output], temperature) for values in outputs]
            means[teacher or "student"] = self._restrict(np.mean(rows, axis=0))
        return means

    def _restrict(self, values: Probabilities) -> Probabilities:
        """Return the probabilities of the chosen emotions, scaled to sum to 1."""
        chosen = values[self._columns]
        return np.asarray(chosen / chosen.sum(), dtype=np.float64)

    def _by_emotion(self, values: Probabilities) -> dict[str, float]:
        return dict(zip(self.emotions, values.tolist(), strict=True))


def _without_long_pauses(spans: Sequence[tuple[int, int]], num_samples: int) -> list[tuple[int, int]]:
    """Return the spans of samples to use: the speech, and of each pause between at most `MAX_PAUSE_S`.

    A longer pause keeps half of `MAX_PAUSE_S` on either side. `SPEECH_MARGIN_S` is kept before the first span
    and after the last.
    """
    margin, half_pause = round(SPEECH_MARGIN_S * SAMPLE_RATE), round(MAX_PAUSE_S / 2 * SAMPLE_RATE)
    kept = [(max(0, spans[0][0] - margin), spans[0][1])]
    for start, end in spans[1:]:
        if start - kept[-1][1] <= 2 * half_pause:
            kept[-1] = (kept[-1][0], end)
        else:
            kept[-1] = (kept[-1][0], kept[-1][1] + half_pause)
            kept.append((start - half_pause, end))
    kept[-1] = (kept[-1][0], min(kept[-1][1] + margin, num_samples))
    return kept


def _model_folder(model: str | Path) -> Path:
    """Return the folder of a model; a model of the hub is downloaded. Raises `ModelError` without one."""
    if model == "bundled":
        if not BUNDLED.is_dir():
            raise ModelError("this install has no bundled model; give the folder of an exported model")
        return BUNDLED
    if isinstance(model, str) and not Path(model).exists():
        from emodistill.inference.hub import download_model, is_hub_id

        if is_hub_id(model):
            return download_model(model)
        raise ModelError(
            f"no model '{model}': expected bundled, the folder of an exported model, or a hub id "
            "(organisation/name[@revision])"
        )
    return Path(model)


def _open_student(
    path: Path, threads: int | None, providers: Sequence[str] | None
) -> onnxruntime.InferenceSession:
    """Return a session of an exported student. Raises `ModelError` for an ONNX file of another kind."""
    session = open_session(path, threads, providers)
    inputs = [item.name for item in session.get_inputs()]
    outputs = [item.name for item in session.get_outputs()]
    if inputs != ["waveform"] or "probabilities" not in outputs:
        raise ModelError(
            f"'{path}' is not an exported student: expected the input waveform and the output probabilities, "
            f"got the inputs {inputs} and the outputs {outputs}"
        )
    return session


def _as_list(source: Any) -> list[Any] | None:
    """Return the sources of an iterable as a list; None for a single source, and for a list of numbers."""
    if isinstance(source, (str, bytes, bytearray, memoryview)) or not isinstance(source, Iterable):
        return None
    if hasattr(source, "read") or hasattr(source, "__array__"):
        return None
    sources = list(source)
    return None if any(isinstance(item, (int, float, np.number)) for item in sources[:1]) else sources


def _name(source: AudioSource) -> str:
    return os.fspath(source) if isinstance(source, (str, Path)) else ""
