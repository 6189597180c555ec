"""Emotions out of audio, without torch: one exported model, one path for every door.

An exported model is a folder with `model.onnx` (waveform in, probabilities and embeddings out) and
`card.json`, which says what it is.
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
from emodistill.audio.waveform import (
    MIN_INPUT_SAMPLES,
    SAMPLE_RATE,
    Waveform,
    trim_silence,
)
from emodistill.errors import AudioError, ConfigError, ModelError, one_of
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.model_card import BUNDLED, METADATA, Card, known_ids, read_card
from emodistill.inference.segmentation import HOP_S, WINDOW_S
from emodistill.inference.streaming import Detector, StreamingRecognizer
from emodistill.inference.thread_map import map_in_order
from emodistill.inference.timelines import Timeline, TimelineSource, timeline

# Kept on both sides of the speech. In quiet recordings the rest is trimmed as in training; in noise it can't be, and
# every tenth of a second of noise costs accuracy (benchmarks/invariance.py).
SPEECH_MARGIN_S = 0.05


class _Option(Enum):
    """The default of an option for which None already has a meaning."""

    KEEP = "keep"


KEEP = _Option.KEEP

Reason = Literal["silence", "no_speech", "too_short", "low_confidence"]
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What was recognised in one input; exactly one of `emotion`, `reason` and `error` explains it."""

    path: str  # empty where the input had none
    emotion: str | None = None
    confidence: float | None = None  # probability of `emotion`, 0 to 1
    probabilities: dict[str, float] = field(default_factory=dict)  # by emotion; empty without an emotion
    abstained: bool = False
    reason: Reason | None = None  # why there is no emotion
    error: str | None = None  # why the input could not be read
    teachers: dict[str, dict[str, float]] | None = None  # what each teacher would say, where the model knows

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, keys in a fixed order; `teachers` is left out where it is None.

        `Prediction(**prediction.as_dict())` equals the prediction.
        """
        data = {**self.__dict__, "probabilities": dict(self.probabilities)}
        if self.teachers is None:
            del data["teachers"]
        return data


class Recognizer:
    """A loaded model. Thread-safe: `predict` keeps no state between calls."""

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
            model: "bundled", the model that comes with the package; a folder with `model.onnx` and `card.json`;
                or the id of one on the Hugging Face Hub, "organisation/name", or "organisation/name@revision" for
                a branch, tag or commit of it (needs [hub]).
            emotions: consider only these; their probabilities are renormalised to sum to 1.
            min_confidence: abstain with reason `low_confidence` below this.
            coverage: the same, with the confidence that answered this share of the model's dev utterances.
            threads: for one model run; None: as ONNX Runtime finds.
            providers: of ONNX Runtime, in order of preference; None: the CPU.

        Raises:
            ModelError: there is no such model, or one of its files is missing, changed or not a model.
            ConfigError: an emotion that the model does not have, a provider that ONNX Runtime does not have, a value
                out of range, or options that exclude each other.
        """
        self.folder = _folder(model)
        self.card = read_card(self.folder)
        self._set_options(emotions, min_confidence, coverage)
        self._session = _open_student(self.folder / "model.onnx", threads, providers)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._check_emotions()

    @classmethod
    def load(cls, model: str | Path = "bundled", **options: Any) -> "Recognizer":
        """Load a model by name, folder or hub id: another way to write `Recognizer(model, …)`."""
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
        abstention. `min_confidence` and `coverage` set the same threshold, so giving one of them replaces both.

        Raises `ConfigError` as the constructor does.
        """
        chosen = self.emotions if emotions is KEEP else emotions
        if min_confidence is KEEP and coverage is KEEP:
            least, share = self._asked_threshold
        else:
            least = None if min_confidence is KEEP else min_confidence
            share = None if coverage is KEEP else coverage
        _ = self._detector  # Load it once, so that all copies share it.
        other = copy(self)
        other._set_options(chosen, least, share)
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
        self.min_confidence = _least_confidence(self.card, self.emotions, min_confidence, coverage)
        self._asked_threshold = (min_confidence, coverage)
        self._columns = [self.card.emotions.index(name) for name in self.emotions]

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides an answer besides the audio: the model by its hash, emotions, least confidence."""
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
        """The emotion of one utterance; or of each of several, as a list, which is `predict_all` to its end.

        Speech is looked for first: what lies before and after it is cut off, and without any the reason is
        `no_speech`. Over 20 s, windows with speech are judged alone and their probabilities averaged.

        `source` is a path, the bytes of an audio file, an open binary file or pipe, or an array of samples
        (n,) or (n, channels) at `rate_hz`, floats from -1 to 1 or integers of the full scale of their type; or an
        iterable of these. A recording of over two minutes is decoded three times over instead of being held in
        memory. Raises `AudioError` for audio that cannot be read; of several, what cannot be read has its `error`
        instead.
        """
        several = _several(source)
        return self._one(source, rate_hz) if several is None else list(self.predict_all(several, rate_hz))

    def _one(self, source: Any, rate_hz: int) -> Prediction:
        name = _name(source)
        recording = Recording(source, rate_hz)
        if (unusable := recording.level.unusable_reason()) is not None:
            return Prediction(name, abstained=True, reason=unusable)
        windows = self._speech(recording)
        if windows is None:
            return Prediction(name, abstained=True, reason="no_speech")
        said = self._averaged(windows)
        values = said.pop("student")
        best = int(values.argmax())
        confidence = float(values[best])
        sure = confidence >= self.min_confidence
        return Prediction(
            name,
            emotion=self.emotions[best] if sure else None,
            confidence=confidence,
            probabilities=self._named(values),
            abstained=not sure,
            reason=None if sure else "low_confidence",
            teachers={teacher: self._named(value) for teacher, value in said.items()} or None,
        )

    def predict_all(
        self, sources: Iterable[AudioSource], rate_hz: int = SAMPLE_RATE, jobs: int = 1
    ) -> Iterator[Prediction]:
        """One prediction per source, in order; one that cannot be read gives a prediction with its `error`.

        `jobs` sources are decoded and judged at a time, in threads; a few more are read ahead, never all. Several
        jobs are fastest over a model that was loaded with `threads=1`. Raises `AudioError` for one source alone,
        whose letters or samples would else be taken for many.
        """
        if isinstance(sources, (str, Path, bytes, np.ndarray)):
            raise AudioError(
                f"expected several sources, e.g. a list, got one {type(sources).__name__}; predict takes one"
            )

        def predict_one(source: AudioSource) -> Prediction:
            try:
                return self._one(source, rate_hz)
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
        """Return the emotions over time in one recording. The arguments and errors are those of `emodistill.timeline`."""
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
        """Open a stream that takes chunks of audio and returns events. The arguments are those of `StreamingRecognizer`."""
        return StreamingRecognizer(
            self, rate_hz, hop_s=hop_s, window_s=window_s, detector=detector or self._detector
        )

    def probabilities(self, waveform: Waveform) -> Probabilities:
        """Probabilities (emotions,) of a waveform (samples,); over 20 s, their mean over windows.

        Nothing is refused here, and speech is not looked for: silence has probabilities too.
        """
        recording = Recording(waveform, SAMPLE_RATE)
        return self._averaged(recording.windows((0, recording.num_samples)))["student"]

    def run(self, waveform: Waveform) -> dict[str, npt.NDArray[np.float32]]:
        """Every output of the model by name for a waveform (samples,), without the batch axis.

        This is the model as it was exported: without temperature, over all its emotions.
        """
        padded = np.pad(waveform, (0, max(0, MIN_INPUT_SAMPLES - len(waveform))))[None]
        values = self._session.run(None, {"waveform": padded})
        return {name: value[0] for name, value in zip(self._outputs, values, strict=True)}

    @cached_property
    def _described(self) -> dict[str, Any]:
        """What the ONNX file says of itself; empty where it says nothing."""
        described = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
        return dict(json.loads(described)) if described else {}

    def _check_emotions(self) -> None:
        """Raise `ModelError` where the card names other emotions than the model was made for, or in another order."""
        said, width = (
            list(self.card.emotions),
            self._session.get_outputs()[self._outputs.index("probabilities")].shape[-1],
        )
        made_for = self._described.get("emotions")
        if made_for is not None and list(made_for) != said:
            raise ModelError(
                f"'{self.folder / 'card.json'}' names the emotions {said}, but model.onnx was made for {list(made_for)}; "
                "was the card edited? Export or download the model again"
            )
        if isinstance(width, int) and width != len(said):
            raise ModelError(
                f"'{self.folder / 'card.json'}' names {len(said)} emotions, but model.onnx has {width} outputs"
            )

    @cached_property
    def known_ids(self) -> frozenset[str]:
        """Every utterance that the model learned from or was chosen by, as its file says; empty where it does not."""
        return known_ids(self._described) if self._described else frozenset()

    @cached_property
    def _detector(self) -> SpeechDetector:
        return SpeechDetector()

    def _speech(self, recording: Recording) -> Iterator[Waveform] | None:
        """The windows of a recording that hold speech, what surrounds it cut off; None without any."""
        stream = self._detector.stream()
        # Here, where the whole recording is known, gain cannot matter.
        heard = [stream.push(piece / np.float32(recording.peak)) for piece in recording.pieces()]
        activity = np.concatenate([*heard, stream.finish()])
        if activity.max() < NO_SPEECH:
            return None
        found = find_speech(activity)
        if not found:  # perhaps a word or a cry: too short to say where it ends
            return recording.windows((0, recording.num_samples))
        margin = round(SPEECH_MARGIN_S * SAMPLE_RATE)
        start, end = max(0, found[0][0] - margin), min(found[-1][1] + margin, recording.num_samples)
        return recording.windows((start, end), found)

    def _averaged(self, windows: Iterable[Waveform]) -> dict[str, Probabilities]:
        """The student's and each teacher's probabilities (emotions,), averaged over windows."""
        trim_db = self.card.trim_db
        outputs = [
            self.run(window if trim_db is None else trim_silence(window, trim_db)) for window in windows
        ]
        temperatures = {"probabilities": self.card.temperature}  # fitted to the student, not to teachers
        return {
            name.removeprefix("probabilities").removeprefix("_") or "student": self._restricted(
                np.mean(
                    [apply_temperature(output[name], temperatures.get(name, 1.0)) for output in outputs],
                    axis=0,
                )
            )
            for name in self._outputs
            if name.startswith("probabilities")
        }

    def _restricted(self, values: Probabilities) -> Probabilities:
        chosen = values[self._columns]
        return np.asarray(chosen / chosen.sum(), dtype=np.float64)

    def _named(self, values: Probabilities) -> dict[str, float]:
        return dict(zip(self.emotions, values.tolist(), strict=True))


def apply_temperature(probabilities: npt.NDArray[Any], temperature: float) -> Probabilities:
    """Probabilities (…, emotions) with their logits divided by a temperature: p^(1/τ), normalised.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The most probable stays the most probable.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    scaled = (values / values.max(axis=-1, keepdims=True)) ** (1 / temperature)
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True), dtype=np.float64)


def _folder(model: str | Path) -> Path:
    """Where the files of a model are; one of the hub is fetched."""
    if model == "bundled":
        if not BUNDLED.is_dir():
            raise ModelError("this install has no bundled model; give the folder of an exported one")
        return BUNDLED
    if isinstance(model, str) and not Path(model).exists():
        from emodistill.inference.hub import download_model, is_hub_id

        if is_hub_id(model):
            return download_model(model)
        raise ModelError(
            f"no model '{model}': expected bundled, the folder of an exported model, or a hub id (organisation/name[@revision])"
        )
    return Path(model)


def _least_confidence(
    card: Card, emotions: Sequence[str], min_confidence: float | None, coverage: float | None
) -> float:
    """The confidence below which to abstain."""
    for name, value in (("min_confidence", min_confidence), ("coverage", coverage)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"bad {name} {value}, expected a share from 0 to 1")
    if coverage is None:
        return min_confidence or 0.0
    if min_confidence is not None:
        raise ConfigError("min_confidence and coverage both say when to abstain: give one of them")
    if not card.coverage:
        raise ConfigError(
            f"the card of '{card.name}' has no coverage curve: give min_confidence, or export the model again"
        )
    if len(emotions) < len(card.emotions):
        raise ConfigError(
            "the coverage curve of the card is over all its emotions: give min_confidence instead of coverage "
            "where emotions are restricted"
        )
    if coverage == 1:  # all, and not only what is as sure as the least sure of dev
        return 0.0
    curve = [(0.0, 1.0), *((point.coverage, point.min_confidence) for point in card.coverage[::-1])]
    return float(np.interp(coverage, [share for share, _ in curve], [least for _, least in curve]))


def _open_student(
    path: Path, threads: int | None, providers: Sequence[str] | None
) -> onnxruntime.InferenceSession:
    """Return a session of an exported student. Raises `ModelError` for an ONNX file with other inputs or outputs."""
    session = open_session(path, threads, providers)
    inputs = [item.name for item in session.get_inputs()]
    outputs = [item.name for item in session.get_outputs()]
    if inputs != ["waveform"] or "probabilities" not in outputs:
        raise ModelError(
            f"'{path}' is not an exported student: expected the input waveform and the output probabilities, "
            f"got the inputs {inputs} and the outputs {outputs}"
        )
    return session


def _several(source: Any) -> list[Any] | None:
    """The sources that an iterable holds; None for one source, and for numbers, which are none."""
    one = isinstance(source, (str, bytes, bytearray, memoryview))
    if (
        one
        or not isinstance(source, Iterable)
        or any(hasattr(source, name) for name in ("read", "__array__"))
    ):
        return None
    sources = list(source)
    return None if any(isinstance(item, (int, float, np.number)) for item in sources[:1]) else sources


def _name(source: AudioSource) -> str:
    return os.fspath(source) if isinstance(source, (str, Path)) else ""
