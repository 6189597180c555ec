"""The loaded models, and the threads on which audio is worked: never more at a time than the budget says."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
from anyio import CapacityLimiter, sleep, to_thread

from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import SAMPLE_RATE, load_bounded
from emodistill.errors import AudioError, AudioTooLongError, ConfigError, one_of
from emodistill.inference.recognizer import Prediction, Recognizer
from emodistill.inference.timelines import Timeline, timeline
from emodistill.serving.metrics import Metrics
from emodistill.serving.settings import Settings

T = TypeVar("T")
Wanted = Callable[[], Awaitable[bool]]  # whether the client is still there


class OpenStream(Protocol):
    """A stream that is open, as far as the service has to know it."""

    def drain(self) -> None:
        """Take no more audio, and send what is known so far."""


class Gone(Exception):
    """The client went away: nobody waits for the answer."""


class Service:
    """What all requests of one process share."""

    def __init__(self, settings: Settings) -> None:
        """Load the models. Raises `ModelError`, and `ConfigError` where two have one name."""
        self.settings = settings
        self.metrics = Metrics()
        self.detector = SpeechDetector()
        self.models: dict[str, Recognizer] = {}
        for source in settings.models:
            model = Recognizer(source, threads=1)
            if model.card.name in self.models:
                raise ConfigError(f"two models are called '{model.card.name}': serve one of them")
            model.probabilities(np.zeros(SAMPLE_RATE, dtype=np.float32))  # the first run of a graph is slow
            self.models[model.card.name] = model
        self.draining = False
        self.streams: set[OpenStream] = set()
        self.num_requests = 0  # being received or answered
        self.decoders = CapacityLimiter(settings.max_streams)  # threads that mostly wait for bytes
        self._limiter = CapacityLimiter(settings.threads)
        self._threads = CapacityLimiter(settings.threads)

    def recogniser(
        self,
        model: str | None,
        emotions: Sequence[str] | None,
        min_confidence: float | None,
        coverage: float | None,
    ) -> Recognizer:
        """A loaded model with a request's options. Raises `ConfigError` or `ModelError` for what cannot be."""
        if model is not None and model not in self.models:
            raise ConfigError(one_of("model", model, self.models))
        found = self.models[model] if model is not None else next(iter(self.models.values()))
        return found.with_options(emotions=emotions, min_confidence=min_confidence, coverage=coverage)

    async def predict(
        self, recognizer: Recognizer, name: str, file: BinaryIO, wanted: Wanted | None = None
    ) -> Prediction:
        """One file's prediction, or why it cannot be read. Raises `AudioTooLongError`, and `Gone`."""

        def work() -> Prediction:
            waveform = load_bounded(file, self.settings.max_predict_seconds)
            self.metrics.audio_s.labels("predict").inc(len(waveform) / SAMPLE_RATE)
            return recognizer.predict(waveform)

        try:
            found = Prediction(**{**(await self.in_thread(work, wanted)).__dict__, "path": name})
        except AudioTooLongError:
            raise
        except AudioError as error:
            found = Prediction(name, error=reason(error))
        self.metrics.files.labels("predict", (found.emotion and "emotion") or found.reason or "error").inc()
        return found

    async def timeline(
        self, recognizer: Recognizer, name: str, file: BinaryIO, wanted: Wanted | None = None
    ) -> Timeline:
        """One file's timeline, or why it cannot be read. Raises `AudioTooLongError`, and `Gone`."""
        work = partial(timeline, file, recognizer, detector=self.detector, max_s=self.settings.max_seconds)
        try:
            row = await self.in_thread(work, wanted)
            found = replace(row, path=name)
            self.metrics.audio_s.labels("timeline").inc(row.duration_s or 0.0)
        except AudioTooLongError:
            raise
        except AudioError as error:
            found = Timeline(name, error=reason(error))
        self.metrics.files.labels("timeline", "error" if found.error else found.reason or "segments").inc()
        return found

    async def drain(self) -> None:
        """Take nothing new, and wait for what is in flight: a stream is told what has been heard so far, then closed."""
        self.draining = True
        for stream in list(self.streams):
            stream.drain()
        while self.streams or self.num_requests:
            await sleep(0.02)

    async def in_thread(self, work: Callable[[], T], wanted: Wanted | None = None) -> T:
        """Do a piece of work as soon as a thread of the budget is free.

        Raises `Gone` where, by then, nobody wants it any more.
        """
        began = time.perf_counter()
        async with self._limiter:
            self.metrics.waiting_s.observe(time.perf_counter() - began)
            if wanted is not None and not await wanted():
                raise Gone
            return await to_thread.run_sync(work, limiter=self._threads)


def reason(error: AudioError) -> str:
    """An error's message without a name for the audio: the client knows what it sent."""
    return str(error).removeprefix("<bytes>: ").removeprefix("<stream>: ")
