"""Recognise emotions in audio, without torch. Files, streams and the server all use this `Recognizer`.

An exported model is a folder with `model.onnx` and `card.json`. The graph takes a waveform and returns
probabilities and embeddings (`exported_student`). The card describes the model (`model_card`). A model with
voices also compares an input with a speaker's voice (`voices`).
"""

# Long: one public class, and half of its lines are docstrings.
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from emodistill.audio.channels import Channels, check_channel
from emodistill.audio.providers import CPU
from emodistill.audio.recording import AudioSource, Recording
from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, trim_silence
from emodistill.errors import AudioError, ConfigError, ModelError, one_of
from emodistill.inference.adapted_windows import Adapt
from emodistill.inference.confidence import (
    DEV_PREFIX,
    Answer,
    Probabilities,
    apply_temperature,
    confidence_thresholds,
    surety,
)
from emodistill.inference.embedding import Embedding, WindowRecorder, embedding_dims, mean_vectors
from emodistill.inference.exported_student import ExportedStudent, Outputs
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.prediction import Prediction
from emodistill.inference.run_log import log_model
from emodistill.inference.segmentation_options import HOP_S, MIN_DURATION_S, SMOOTH_S, WINDOW_S
from emodistill.inference.sources import as_list, ensure_several, source_name
from emodistill.inference.speech_windows import speech_windows
from emodistill.inference.streaming import Detector, StreamingRecognizer
from emodistill.inference.thread_map import map_in_order
from emodistill.inference.timelines import Timeline, TimelineSource, timeline
from emodistill.inference.voices import (
    SpeechStatistics,
    Vector,
    Voice,
    check_voice,
    enrol,
    ensure_voices,
    leave_one_out,
)
from emodistill.inference.window_classifier import WindowOutput


class _Option(Enum):
    """The default of an option for which None has a meaning."""

    KEEP = "keep"


KEEP = _Option.KEEP


class Recognizer:
    """A loaded model. Thread-safe, because no method changes it."""

    def __init__(
        self,
        model: str | Path = "bundled",
        *,
        emotions: Sequence[str] | None = None,
        min_confidence: float | str | None = None,
        threads: int | None = None,
        provider: str = CPU,
    ) -> None:
        """Load an exported model.

        Args:
            model: "bundled", the model that comes with the package; "large", after `emodistill fetch large`;
                a folder with `model.onnx` and `card.json`; or an id on the Hugging Face Hub,
                "organisation/name". "organisation/name@revision" selects a branch, a tag or a commit of it
                (needs [hub]).
            emotions: recognise only these; their probabilities are scaled to sum to 1.
            min_confidence: abstain with the reason `low_confidence` below this confidence. "dev:0.8" is the
                confidence that this share of the utterances had that the model was calibrated on.
            threads: CPU threads for one run of the model; None: ONNX Runtime's default.
            provider: the hardware that runs the model: cpu, cuda, tensorrt, coreml, openvino, directml, rocm,
                migraphx, or ONNX Runtime's own name. Speech is always found on the CPU.

        Raises:
            ModelError: there is no such model, or one of its files is missing, changed or not a model.
            ConfigError: an emotion that the model does not have, a provider that this install does not have
                or that cannot start, or a value out of range.
        """
        self.student = ExportedStudent(model, threads, provider)
        self.folder, self.card = self.student.folder, self.student.card
        log_model(self.student)
        self._set_options(emotions, min_confidence)

    @classmethod
    def load(cls, model: str | Path = "bundled", **options: Any) -> "Recognizer":
        """Load a model; `Recognizer.load(model, …)` is the same as `Recognizer(model, …)`."""
        return cls(model, **options)

    def with_options(
        self,
        *,
        emotions: Sequence[str] | _Option | None = KEEP,
        min_confidence: float | str | _Option | None = KEEP,
    ) -> "Recognizer":
        """Return a recogniser with other options that shares the loaded model; this one does not change.

        An option that you do not give stays as it is. None resets it to the model's own: all emotions, no
        abstention.

        Raises `ConfigError` as the constructor does.
        """
        chosen = self.emotions if emotions is KEEP else emotions
        confidence = self.min_confidence if min_confidence is KEEP else min_confidence
        _ = self._detector  # Load it once, so that all copies share it.
        other = copy(self)
        other._set_options(chosen, confidence)
        return other

    def _set_options(self, emotions: Sequence[str] | None, min_confidence: float | str | None) -> None:
        if isinstance(emotions, str):  # Iterating over it would give its letters.
            raise ConfigError(f"bad emotions '{emotions}', expected a list, e.g. {emotions.split(',')}")
        emotions = None if emotions is None else tuple(emotions)
        if emotions is not None and not self.card.emotions:
            raise ConfigError(
                f"the model '{self.card.name}' predicts no emotions, only {', '.join(self.card.dimensions)}: "
                "leave emotions out"
            )
        if emotions is not None and not emotions:
            raise ConfigError(f"no emotions: expected some of {list(self.card.emotions)}, or None for all")
        for name in emotions or ():
            if name not in self.card.emotions:
                raise ConfigError(one_of("emotion", name, self.card.emotions))
        self.emotions = tuple(name for name in self.card.emotions if not emotions or name in emotions)
        self._thresholds = confidence_thresholds(self.card, self.emotions, min_confidence)
        is_share = isinstance(min_confidence, str) and min_confidence.startswith(DEV_PREFIX)
        self.min_confidence = min_confidence if is_share else self._thresholds[0]
        self._columns = [self.card.emotions.index(name) for name in self.emotions]

    @property
    def settings(self) -> dict[str, Any]:
        """What determines a prediction besides the audio: the model's hash, the emotions, the threshold."""
        return {
            "model": self.card.sha256,
            "emotions": list(self.emotions),
            "min_confidence": self.min_confidence,
        }

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that a head of the model predicts; empty: they are computed from the emotions."""
        return self.card.dimensions

    @property
    def voice_dim(self) -> int | None:
        """The size of the model's voices; None: the model has no voices."""
        return self.student.voice_dim

    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        source: AudioSource,
        rate_hz: int | None = None,
        *,
        voice: Voice | None = None,
        channel: int | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        source: Iterable[AudioSource],
        rate_hz: int | None = None,
        *,
        voice: Voice | None = None,
        channel: int | None = None,
    ) -> list[Prediction]: ...

    def predict(
        self,
        source: AudioSource | Iterable[AudioSource],
        rate_hz: int | None = None,
        *,
        voice: Voice | None = None,
        channel: int | None = None,
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
            rate_hz: the rate of arrays, which need it; files state their own.
            voice: of the speaker, from `enrol`. The utterance is compared with this voice's usual.
            channel: recognise this channel, from 0; None: all channels mixed.

        Raises:
            AudioError: the audio cannot be read, has no such channel, or is an array without `rate_hz`. In a
                list, such an input gives a prediction with its `error`.
            ConfigError: a channel that no audio has.
            ModelError: the model has no voices, or the voice is one of another model.
        """
        sources = as_list(source)
        if sources is not None:
            return list(self.predict_all(sources, rate_hz, voice=voice, channel=channel))
        channel = self._check(voice, channel)
        return self._predict_one(source, rate_hz, voice, channel)

    def predict_all(
        self,
        sources: Iterable[AudioSource],
        rate_hz: int | None = None,
        jobs: int = 1,
        *,
        voice: Voice | None = None,
        channel: int | None = None,
    ) -> Iterator[Prediction]:
        """Yield one prediction for each source, in order, with `jobs` threads.

        A source that cannot be read gives a prediction with its `error`. A few sources are read ahead, never
        all of them. Several jobs are fastest with a model that was loaded with `threads=1`. Raises
        `AudioError` for a single source, because its letters, bytes or samples are not sources. `voice`,
        `channel` and their errors are those of `predict`.
        """
        ensure_several(sources, "predict")
        channel = self._check(voice, channel)

        def predict_one(source: AudioSource) -> Prediction:
            try:
                return self._predict_one(source, rate_hz, voice, channel)
            except AudioError as error:
                return Prediction(source_name(source), error=str(error), channel=channel)

        yield from map_in_order(predict_one, sources, jobs)

    def predict_together(
        self, sources: Iterable[AudioSource], rate_hz: int | None = None, jobs: int = 1
    ) -> list[Prediction]:
        """Return a prediction for each source, in order, each compared with the usual of all other sources.

        The sources are utterances of one speaker with different emotions. Give each recording once: a second
        copy counts as another utterance. Where no other source has speech, there is no voice.

        The arguments and the errors are those of `predict_all`. Also raises `ModelError` if the model has no
        voices.
        """
        statistics = list(self.statistics_all(sources, rate_hz, jobs))
        voices = leave_one_out(statistics, self.card.sha256)
        return [self.predict_statistics(item, voice) for item, voice in zip(statistics, voices, strict=True)]

    @property
    def embedding_dims(self) -> dict[str, int]:
        """The size of each vector of `embed` by name: the student's, then those of the teachers' heads.

        Raises `ModelError` if the graph of the model has no embeddings.
        """
        return embedding_dims(self.student.sizes, self.folder)

    @overload
    def embed(  # type: ignore[overload-overlap]
        self,
        source: AudioSource,
        rate_hz: int | None = None,
        *,
        voice: Voice | None = None,
        channel: int | None = None,
    ) -> Embedding: ...

    @overload
    def embed(
        self,
        source: Iterable[AudioSource],
        rate_hz: int | None = None,
        *,
        voice: Voice | None = None,
        channel: int | None = None,
    ) -> list[Embedding]: ...

    def embed(
        self,
        source: AudioSource | Iterable[AudioSource],
        rate_hz: int | None = None,
        *,
        voice: Voice | None = None,
        channel: int | None = None,
    ) -> Embedding | list[Embedding]:
        """Return the embeddings of one utterance, or a list with those of each utterance of an iterable.

        The audio is prepared as in `predict`, and the embeddings are those that its answer comes from. Over
        20 s of audio, they are the mean over the windows with speech, scaled to unit length. Without speech
        there is no vector, and `reason` says why.

        An embedding tells much of the voice and may serve to recognise the person, so it is personal data.

        The arguments and the errors are those of `predict`. Also raises `ModelError` if the graph of the
        model has no embeddings.
        """
        _ = self.embedding_dims
        sources = as_list(source)
        if sources is not None:
            return list(self.embed_all(sources, rate_hz, voice=voice, channel=channel))
        channel = self._check(voice, channel)
        prediction, outputs = self._predict_and_keep(source, rate_hz, voice, channel)
        return Embedding.of(prediction, mean_vectors(outputs) if outputs else {})

    def embed_all(
        self,
        sources: Iterable[AudioSource],
        rate_hz: int | None = None,
        jobs: int = 1,
        *,
        voice: Voice | None = None,
        channel: int | None = None,
    ) -> Iterator[Embedding]:
        """Yield the embeddings of each source, in order, with `jobs` threads.

        A source that cannot be read gives a row with its `error`. The arguments and the other errors are
        those of `predict_all` and `embed`.
        """
        ensure_several(sources, "embed")
        _ = self.embedding_dims
        channel = self._check(voice, channel)

        def embed_one(source: AudioSource) -> Embedding:
            try:
                return self.embed(source, rate_hz, voice=voice, channel=channel)
            except AudioError as error:
                return Embedding(source_name(source), error=str(error), channel=channel)

        yield from map_in_order(embed_one, sources, jobs)

    def embed_windows(
        self,
        source: TimelineSource,
        rate_hz: int | None = None,
        *,
        hop_s: float = HOP_S,
        window_s: float = WINDOW_S,
        voice: Voice | None = None,
        channel: int | None = None,
    ) -> list[Embedding]:
        """Return the embeddings of the windows of `timeline`, with their times, in order.

        A window of `window_s` ends at every hop of `hop_s` in a stretch of speech, and a last one at its end.
        A shorter stretch is one window. `emotion` is that of the window alone, without smoothing. Without
        speech there is one row with a `reason`.

        The other arguments and the errors are those of `embed`. Also raises `ConfigError` for a hop or a
        window that `timeline` refuses, and `ModelError` for a model without emotions.
        """
        _ = self.embedding_dims
        channel = self._check(voice, channel)
        recorder = WindowRecorder(self)
        found = timeline(
            source, recorder, rate_hz, hop_s=hop_s, window_s=window_s, voice=voice, traced=True,
            detector=self._detector, channels="mix" if channel is None else channel,
        )  # fmt: skip
        return [replace(row, channel=channel) for row in recorder.rows(found)]

    def enrol(
        self,
        sources: AudioSource | Iterable[AudioSource],
        rate_hz: int | None = None,
        jobs: int = 1,
        *,
        channel: int | None = None,
    ) -> Voice:
        """Return the voice of a speaker, from recordings of the speaker alone, without labels.

        `channel` is the one in which the speaker is, from 0; None: all channels mixed.

        Each recording counts as one utterance; one of over 20 s counts as one for each 3 s of speech. A
        recording without speech, or that cannot be read, is left out with a warning on standard error.

        Raises:
            AudioError: no recording has speech. The message names each.
            ModelError: the model has no voices.
        """
        from emodistill.console import warn  # Not above: importing rich takes 12 ms.

        listed: Any = [sources] if (several := as_list(sources)) is None else several
        voice, warnings = enrol(self.statistics_all(listed, rate_hz, jobs, channel=channel), self.card.sha256)
        for warning in warnings:
            warn(warning)
        return voice

    def statistics(
        self, source: AudioSource, rate_hz: int | None = None, *, channel: int | None = None
    ) -> SpeechStatistics:
        """Return the statistics of one recording: all that voices and predictions with a voice need of it.

        The model runs once for each window of at most 20 s, and no audio is kept. The arguments are those of
        `predict`.

        Raises:
            AudioError: the audio cannot be read.
            ModelError: the model has no voices.
        """
        ensure_voices(self.card)
        channel = self._check(None, channel)
        name, recording = source_name(source), Recording(source, rate_hz, channel)
        windows = speech_windows(recording, self._detector)
        mixed = _mixed_channels(recording, channel)
        if isinstance(windows, str):
            return SpeechStatistics(name, reason=windows, channel=channel, mixed_channels=mixed)
        rows, speech_s = [], []
        for window in windows:
            trimmed = self._trimmed(window)
            rows.append(self.run(trimmed)["statistics"])
            speech_s.append(len(trimmed) / SAMPLE_RATE)
        return SpeechStatistics(
            name, np.stack(rows), np.array(speech_s), channel=channel, mixed_channels=mixed
        )

    def statistics_all(
        self,
        sources: Iterable[AudioSource],
        rate_hz: int | None = None,
        jobs: int = 1,
        *,
        channel: int | None = None,
    ) -> Iterator[SpeechStatistics]:
        """Yield the statistics of each source, in order, with `jobs` threads.

        A source that cannot be read gives statistics with its `error`. The arguments and the other errors are
        those of `predict_all` and `statistics`.
        """
        ensure_voices(self.card)
        ensure_several(sources, "statistics")
        channel = self._check(None, channel)

        def statistics_of(source: AudioSource) -> SpeechStatistics:
            try:
                return self.statistics(source, rate_hz, channel=channel)
            except AudioError as error:
                return SpeechStatistics(source_name(source), error=str(error), channel=channel)

        yield from map_in_order(statistics_of, sources, jobs)

    def predict_statistics(self, statistics: SpeechStatistics, voice: Voice | None = None) -> Prediction:
        """Return the prediction of a recording from its statistics, which is the one of `predict`.

        Only the head of the model runs, so it costs little to compare a recording with several voices.

        Raises `ModelError` if the model has no voices, and for a voice or statistics of another model.
        """
        ensure_voices(self.card)
        self._check(voice)
        about = Prediction(
            statistics.path, channel=statistics.channel, mixed_channels=statistics.mixed_channels
        )
        if statistics.error is not None:
            return replace(about, error=statistics.error)
        if statistics.reason is not None:
            return replace(about, abstained=True, reason=statistics.reason)
        if statistics.windows.shape[-1] != self.voice_dim:
            raise ModelError(
                f"the statistics have {statistics.windows.shape[-1]} numbers, but the model "
                f"'{self.card.name}' expects {self.voice_dim}: compute them with this model"
            )
        outputs = self.student.run_head(statistics.windows, None if voice is None else voice.shrunk())
        return self._prediction(about, outputs, voice)

    def _predict_one(
        self, source: Any, rate_hz: int | None, voice: Voice | None, channel: int | None
    ) -> Prediction:
        return self._predict_and_keep(source, rate_hz, voice, channel)[0]

    def _predict_and_keep(
        self, source: Any, rate_hz: int | None, voice: Voice | None, channel: int | None
    ) -> tuple[Prediction, list[Outputs]]:
        """Return the prediction of an input, and the outputs of the model for each of its windows."""
        recording = Recording(source, rate_hz, channel)
        about = Prediction(
            source_name(source), channel=channel, mixed_channels=_mixed_channels(recording, channel)
        )
        windows = speech_windows(recording, self._detector)
        if isinstance(windows, str):
            return replace(about, abstained=True, reason=windows), []
        outputs = self._run_windows(windows, None if voice is None else voice.shrunk())
        return self._prediction(about, outputs, voice), outputs

    def _prediction(self, about: Prediction, outputs: Sequence[Outputs], voice: Voice | None) -> Prediction:
        """Return the prediction of an input from the outputs of the model for each of its windows.

        `about` has the facts that do not depend on the outputs, such as the path.
        """
        means = self._mean_probabilities(outputs, voice is not None)
        place = self._mean_dimensions(outputs)
        by_name = None if place is None else dict(zip(self.dimensions, place.tolist(), strict=True))
        voice_utterances = None if voice is None else voice.utterances
        if not self.card.emotions:
            return replace(
                about, voice_utterances=voice_utterances, dimensions=by_name, dimensions_from="head"
            )
        values = means.pop("student")
        probabilities = self._by_emotion(values)
        answer = self.answer(probabilities, voice is not None, dimensions=by_name)
        is_sure = answer.emotion is not None
        return replace(
            about,
            probabilities=probabilities,
            abstained=not is_sure,
            reason=None if is_sure else "low_confidence",
            teachers={teacher: self._by_emotion(value) for teacher, value in means.items()} or None,
            voice_utterances=voice_utterances,
            **answer.__dict__,
        )

    def answer(
        self,
        probabilities: Mapping[str, float],
        has_voice: bool,
        emotion: str | None = None,
        learned: bool = False,
        dimensions: Mapping[str, float] | None = None,
    ) -> Answer:
        """Return emotion, confidence, surety and dimensions for probabilities by emotion.

        `has_voice`: the probabilities come from a comparison with a voice. `emotion` was chosen by other
        means; None: the most probable one. `learned`: the voice was learned from the same recording, which
        may hold one emotion only. The surety is then that of answers without a voice. `dimensions` are those
        of the model's head; None: arousal and valence are computed from the probabilities.
        """
        confidence = max(probabilities.values()) if emotion is None else probabilities[emotion]
        trust = surety(self.card, len(self.emotions), confidence, has_voice and not learned)
        return Answer.of(probabilities, self._thresholds[has_voice], trust, emotion, dimensions)

    # Long: the options of `emodistill.timeline`.
    def timeline(
        self,
        source: TimelineSource,
        rate_hz: int | None = None,
        *,
        given: Sequence[GivenSegment] | None = None,
        hop_s: float = HOP_S,
        window_s: float = WINDOW_S,
        smooth_s: float = SMOOTH_S,
        min_duration_s: float = MIN_DURATION_S,
        detector: Detector | None = None,
        traced: bool = False,
        max_s: float | None = None,
        voice: Voice | Mapping[str, Voice] | None = None,
        adapt: Adapt = "none",
        channels: Channels = "mix",
        names: Sequence[str] | None = None,
    ) -> Timeline:
        """Return the emotions over time in one recording. Options and errors: `emodistill.timeline`."""
        return timeline(
            source, self, rate_hz, given=given, hop_s=hop_s, window_s=window_s, smooth_s=smooth_s,
            min_duration_s=min_duration_s, detector=detector or self._detector, traced=traced, max_s=max_s,
            voice=voice, adapt=adapt, channels=channels, names=names,
        )  # fmt: skip

    def stream(
        self,
        rate_hz: int,
        *,
        hop_s: float = HOP_S,
        window_s: float = WINDOW_S,
        smooth_s: float = SMOOTH_S,
        min_duration_s: float = MIN_DURATION_S,
        detector: Detector | None = None,
        voice: Voice | None = None,
        adapt: Adapt = "none",
    ) -> StreamingRecognizer:
        """Open a stream of chunks of audio. Options and errors: `StreamingRecognizer`."""
        return StreamingRecognizer(
            self, rate_hz, hop_s=hop_s, window_s=window_s, smooth_s=smooth_s, min_duration_s=min_duration_s,
            detector=detector or self._detector, voice=voice, adapt=adapt,
        )  # fmt: skip

    def probabilities(self, waveform: Waveform, voice: Voice | None = None) -> Probabilities:
        """Return the probabilities (emotions,) of a waveform (samples,).

        Over 20 s, they are the mean over windows. The waveform is not checked for silence or speech: silence
        gives probabilities too. `voice` and its errors are those of `predict`.
        """
        self._check(voice)
        return self.classify(waveform, None if voice is None else voice.shrunk()).probabilities

    def classify(self, waveform: Waveform, shrunk: Vector | None = None) -> WindowOutput:
        """Return what the model predicts for a waveform (samples,): probabilities, dimensions, statistics.

        Over 20 s, probabilities and dimensions are the mean over windows. Silence is not checked for.
        `shrunk` (dim,) is what the model subtracts, `Voice.shrunk()`; None: nothing.
        """
        return self.combined(self.outputs(waveform, shrunk), shrunk is not None)

    def classify_statistics(self, statistics: Vector, shrunk: Vector | None = None) -> WindowOutput:
        """Return what the head of the model predicts for statistics (windows, dim). `shrunk` as above."""
        return self.combined(self.student.run_head(statistics, shrunk), shrunk is not None)

    def outputs(self, waveform: Waveform, shrunk: Vector | None = None) -> list[Outputs]:
        """Return every output of the graph for each window of at most 20 s of a waveform (samples,).

        Silence is not checked for. `shrunk` is as in `classify`.
        """
        return self._run_windows(Recording(waveform, SAMPLE_RATE).windows(), shrunk)

    def combined(self, outputs: Sequence[Outputs], has_voice: bool) -> WindowOutput:
        """Return the mean over windows of the predictions in `outputs`; `has_voice` as in `answer`."""
        means = self._mean_probabilities(outputs, has_voice)
        statistics = [output["statistics"] for output in outputs if "statistics" in output]
        return WindowOutput(
            means.get("student", np.zeros(0)),
            self._mean_dimensions(outputs),
            np.stack(statistics) if statistics else None,
        )

    def run(self, waveform: Waveform, voice: Vector | None = None) -> Outputs:
        """Return every output of the graph by name for a waveform (samples,), without the batch axis.

        The probabilities are those of the exported model: of all its emotions, before the temperature.
        `voice` (dim,) is what the model subtracts, `Voice.shrunk()`; None: nothing.
        """
        return self.student.run(waveform, voice)

    @property
    def known_ids(self) -> frozenset[str]:
        """The ids of the utterances in training or dev of the model; empty if its file does not list them."""
        return self.student.known_ids

    def _check(self, voice: Voice | None, channel: int | None = None) -> int | None:
        """Return the channel as an int, which JSON can hold. Raises the errors of `predict`."""
        if channel is not None:
            check_channel(channel)
        if voice is not None:
            check_voice(voice, self.card)
        return None if channel is None else int(channel)

    @cached_property
    def _detector(self) -> SpeechDetector:
        return SpeechDetector()

    def _run_windows(self, windows: Iterable[Waveform], shrunk: Vector | None = None) -> list[Outputs]:
        """Return the outputs of the model for each window."""
        return [self.run(self._trimmed(window), shrunk) for window in windows]

    def _trimmed(self, window: Waveform) -> Waveform:
        return window if self.card.trim_db is None else trim_silence(window, self.card.trim_db)

    def _mean_probabilities(
        self, outputs: Sequence[Outputs], voiced: bool = False
    ) -> dict[str, Probabilities]:
        """Return the probabilities (emotions,) of the student and of each teacher, averaged over windows."""
        student_temperature = self.card.temperature
        if voiced and self.card.temperature_voice is not None:
            student_temperature = self.card.temperature_voice
        means: dict[str, Probabilities] = {}
        for output in self.student.outputs:
            if not output.startswith("probabilities"):
                continue
            teacher = output.removeprefix("probabilities").removeprefix("_")
            temperature = 1.0 if teacher else student_temperature  # It was fitted to the student alone.
            rows = [apply_temperature(values[output], temperature) for values in outputs]
            means[teacher or "student"] = self._restrict(np.mean(rows, axis=0))
        return means

    def _mean_dimensions(self, outputs: Sequence[Outputs]) -> Probabilities | None:
        """Return the dimensions (dimensions,) of the model's head, averaged over windows; None without."""
        if not self.dimensions:
            return None
        return np.asarray(np.mean([values["dimensions"] for values in outputs], axis=0), dtype=np.float64)

    def _restrict(self, values: Probabilities) -> Probabilities:
        """Return the probabilities of the chosen emotions, scaled to sum to 1."""
        chosen = values[self._columns]
        return np.asarray(chosen / chosen.sum(), dtype=np.float64)

    def _by_emotion(self, values: Probabilities) -> dict[str, float]:
        return dict(zip(self.emotions, values.tolist(), strict=True))


def _mixed_channels(recording: Recording, channel: int | None) -> int | None:
    """Return the number of channels that were mixed although they differ; None where nothing was lost."""
    meter = recording.channels
    return meter.num_channels if channel is None and meter.differ else None
