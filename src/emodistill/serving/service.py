"""The loaded models, and the threads that process audio."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from os import SEEK_END
from tempfile import TemporaryFile
from typing import BinaryIO, Literal, Protocol, TypeVar, Unpack

import numpy as np
from anyio import CapacityLimiter, sleep, to_thread

from emodistill.audio.encoding import PlayableFormat, write_playable
from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load_bounded
from emodistill.errors import AudioError, AudioTooLongError, ConfigError, ModelError, one_of
from emodistill.inference.given_segments import GivenSegments
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation_options import HOP_S, WINDOW_S
from emodistill.inference.timelines import Timeline, TimelineOptions, timeline
from emodistill.inference.voices import SpeechStatistics, Voice
from emodistill.serving.job_store import JobStore
from emodistill.serving.logs import log_event
from emodistill.serving.metrics import Metrics
from emodistill.serving.problems import message_without_source
from emodistill.serving.settings import Settings

Result = TypeVar("Result")
IsConnected = Callable[[], Awaitable[bool]]  # whether the client still waits for the answer


class OpenStream(Protocol):
    """An open stream, as far as `Service` needs it."""

    def drain(self) -> None:
        """Take no more audio, and send the results so far."""


class ClientDisconnectedError(Exception):
    """The client has disconnected, so nobody waits for the answer."""


def measure_hop(model: Recognizer, repeats: int = 5) -> float:
    """Measure the seconds of computation that a stream needs for one hop: those of one window.

    It is the median of `repeats` runs, after one that is not counted. Speech detection is not part of it. The
    log has the figure, as a warning where the stream cannot keep up with the speaker.
    """
    waveform = np.random.default_rng(0).normal(0, 0.1, round(WINDOW_S * SAMPLE_RATE)).astype(np.float32)
    durations_s = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        model.classify(waveform)
        durations_s.append(time.perf_counter() - start)
    compute_s = float(np.median(durations_s[1:]))
    falls_behind = compute_s > HOP_S
    log_event(
        "stream falls behind real time" if falls_behind else "stream",
        logging.WARNING if falls_behind else logging.INFO,
        model=model.card.name, hop_s=HOP_S, compute_s=round(compute_s, 4),
    )  # fmt: skip
    return compute_s


class Service:
    """What all requests of one process share: models, threads, metrics, and the work in progress."""

    def __init__(self, settings: Settings) -> None:
        """Load the models. Raises `ModelError`, and `ConfigError` if two models have the same name."""
        self.settings = settings
        self.metrics = Metrics()
        self.detector = SpeechDetector()
        self.models: dict[str, Recognizer] = {}
        self.hop_compute_s: dict[str, float] = {}  # of a stream, by model
        for source in settings.models:
            model = Recognizer(source, threads=1, provider=settings.provider)
            if model.card.name in self.models:
                raise ConfigError(
                    f"two models are named '{model.card.name}', expected different names: export one again "
                    "with another name in --texts"
                )
            # The first run of a graph is slow, so it happens before the first request.
            self.hop_compute_s[model.card.name] = measure_hop(model)
            if model.voice_dim is not None:
                model.student.run_head(np.zeros((1, model.voice_dim), dtype=np.float32))
            self.models[model.card.name] = model
        self.draining = False  # whether the server is stopping
        self.streams: set[OpenStream] = set()
        self.num_requests = 0  # that the server is receiving or answering
        self.decoder_threads = CapacityLimiter(settings.max_streams)  # these threads mostly wait for bytes
        self.turns = CapacityLimiter(settings.threads)  # of the recordings that are processed
        self._threads = CapacityLimiter(settings.threads)
        self._job_threads = CapacityLimiter(
            settings.threads
        )  # a job keeps its thread while others have its turn
        self.job_store = JobStore(settings.jobs_file)

    def recognizer(
        self,
        model: str | None,
        emotions: Sequence[str] | None,
        min_confidence: float | str | None,
    ) -> Recognizer:
        """A loaded model, by default the first one, with a request's options.

        Raises `ModelError` for a model that is not served, `ConfigError` for options that it cannot have.
        """
        if model is not None and model not in self.models:
            raise ModelError(one_of("model", model, self.models))
        loaded = self.models[model] if model is not None else next(iter(self.models.values()))
        return loaded.with_options(emotions=emotions, min_confidence=min_confidence)

    async def predict(
        self,
        recognizer: Recognizer,
        name: str,
        file: BinaryIO,
        is_connected: IsConnected | None = None,
        voice: Voice | None = None,
        channel: int | None = None,
    ) -> Prediction:
        """Predict the emotion of one file, or of one channel of it.

        A file that cannot be read gives a row with `error`.

        Raises `AudioTooLongError`, and `ClientDisconnectedError`.
        """

        def predict_file() -> Prediction:
            return recognizer.predict(self._load(file, "predict", channel), SAMPLE_RATE, voice=voice)

        try:
            row = await self.run_in_thread(predict_file, is_connected)
            row = replace(row, path=name, channel=channel)
        except AudioTooLongError:
            raise
        except AudioError as error:
            row = Prediction(name, error=message_without_source(error), channel=channel)
        self._count_prediction(row)
        return row

    async def statistics(
        self,
        recognizer: Recognizer,
        name: str,
        file: BinaryIO,
        is_connected: IsConnected | None = None,
        endpoint: Literal["predict", "voices"] = "predict",
        channel: int | None = None,
    ) -> SpeechStatistics:
        """Compute the statistics of one file, or of one channel of it.

        A file that cannot be read gives statistics with `error`.

        Raises `ModelError` for a model without voices, `AudioTooLongError`, and `ClientDisconnectedError`.
        """

        def read_file() -> SpeechStatistics:
            return recognizer.statistics(self._load(file, endpoint, channel), SAMPLE_RATE)

        try:
            statistics = await self.run_in_thread(read_file, is_connected)
            statistics = replace(statistics, path=name, channel=channel)
        except AudioTooLongError:
            raise
        except AudioError as error:
            statistics = SpeechStatistics(name, error=message_without_source(error), channel=channel)
        if endpoint == "voices":
            self._count(endpoint, "error" if statistics.error else statistics.reason or "voice")
        return statistics

    async def predict_statistics(
        self,
        recognizer: Recognizer,
        statistics: Sequence[SpeechStatistics],
        voices: Sequence[Voice | None],
        is_connected: IsConnected | None = None,
    ) -> list[Prediction]:
        """Predict the emotion of each file from its statistics, compared with its voice.

        Raises `ModelError` for a model without voices, and `ClientDisconnectedError`.
        """

        def predict_all() -> list[Prediction]:
            pairs = zip(statistics, voices, strict=True)
            return [recognizer.predict_statistics(item, voice) for item, voice in pairs]

        rows = await self.run_in_thread(predict_all, is_connected)
        for row in rows:
            self._count_prediction(row)
        return rows

    async def timeline(
        self,
        recognizer: Recognizer,
        name: str,
        file: BinaryIO,
        is_connected: IsConnected | None = None,
        *,
        endpoint: Literal["timeline", "jobs"] = "timeline",
        given: GivenSegments | None = None,
        **options: Unpack[TimelineOptions],
    ) -> Timeline:
        """Compute the timeline of one file. A file that cannot be read gives a row with `error`.

        So does a file without segments in `given`, and one with another number of channels than `names`.
        A job has its turn already (`jobs.Turn`), so its work starts at once.

        Raises `AudioTooLongError`, and `ClientDisconnectedError`.
        """
        max_s = self.settings.max_seconds

        def compute() -> Timeline:
            segments = None if given is None else given.for_recording(name)
            return timeline(file, recognizer, given=segments, detector=self.detector, max_s=max_s, **options)

        try:
            row = replace(await self._run(compute, is_connected, endpoint), path=name)
            self.metrics.audio_s.labels(endpoint).inc(row.duration_s or 0.0)
        except AudioTooLongError:
            raise
        except (AudioError, ConfigError) as error:
            row = Timeline(name, error=message_without_source(error))
        self._count(endpoint, "error" if row.error else row.reason or "segments")
        return row

    async def statistics_of_timeline(
        self, recognizer: Recognizer, row: Timeline, file: BinaryIO,
        is_connected: IsConnected | None = None, endpoint: Literal["timeline", "jobs"] = "timeline",
        channel: int | None = None,
    ) -> SpeechStatistics:  # fmt: skip
        """Compute the statistics of a file whose timeline is known; none if it cannot be read.

        Raises `ModelError` for a model without voices, and `ClientDisconnectedError`.
        """
        if row.error is not None:
            return SpeechStatistics(row.path, error=row.error)

        def read_file() -> SpeechStatistics:
            file.seek(0)
            return recognizer.statistics(file, channel=channel)

        return await self._run(read_file, is_connected, endpoint)

    async def playable(
        self, file: BinaryIO, format: PlayableFormat, is_connected: IsConnected | None = None
    ) -> tuple[BinaryIO, int]:
        """Decode a recording into a temporary file, and return this file with its size in bytes.

        Raises `AudioError`, `AudioTooLongError`, and `ClientDisconnectedError`.
        """

        def decode() -> tuple[BinaryIO, int]:
            target = TemporaryFile()  # noqa: SIM115 (the response closes it)
            try:
                duration_s = write_playable(file, target, format, self.settings.max_seconds)
            except BaseException:
                target.close()
                raise
            self.metrics.audio_s.labels("audio").inc(duration_s)
            num_bytes = target.seek(0, SEEK_END)
            target.seek(0)
            return target, num_bytes

        try:
            decoded = await self.run_in_thread(decode, is_connected)
        except AudioError:
            self._count("audio", "error")
            raise
        self._count("audio", "decoded")
        return decoded

    def _load(self, file: BinaryIO, endpoint: str, channel: int | None) -> Waveform:
        """The waveform of a file, or of one channel, for one prediction.

        Raises `AudioError`, and `AudioTooLongError`.
        """
        waveform = load_bounded(file, self.settings.max_predict_seconds, channel)
        self.metrics.audio_s.labels(endpoint).inc(len(waveform) / SAMPLE_RATE)
        return waveform

    def _count_prediction(self, row: Prediction) -> None:
        self._count("predict", (row.emotion and "emotion") or row.reason or "error")

    def _count(self, endpoint: str, outcome: str) -> None:
        self.metrics.files.labels(endpoint, outcome).inc()

    async def drain(self) -> None:
        """Accept no more work, and wait until the work in progress is done.

        An open stream recognises the audio that it has, sends its summary, and closes.
        """
        self.draining = True
        for stream in list(self.streams):
            stream.drain()
        while self.streams or self.num_requests:
            await sleep(0.02)

    async def _run(
        self, work: Callable[[], Result], is_connected: IsConnected | None, endpoint: str
    ) -> Result:
        if endpoint == "jobs":
            return await to_thread.run_sync(work, limiter=self._job_threads)
        return await self.run_in_thread(work, is_connected)

    async def run_in_thread(
        self, work: Callable[[], Result], is_connected: IsConnected | None = None
    ) -> Result:
        """Run `work` as soon as one of the `settings.threads` threads is free, in the order of the calls.

        Raises `ClientDisconnectedError` if the client has disconnected by then.
        """
        began = time.perf_counter()
        async with self.turns:
            self.metrics.waiting_s.observe(time.perf_counter() - began)
            if is_connected is not None and not await is_connected():
                raise ClientDisconnectedError
            return await to_thread.run_sync(work, limiter=self._threads)
