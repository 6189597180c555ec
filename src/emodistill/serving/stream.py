"""The WebSocket `/v1/stream`: a client sends audio while somebody speaks, and the server sends events.

The server processes and answers each message before it receives the next one, and stores no messages. So a
client that sends too fast waits, and the server stops receiving from a client that does not read its events.
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
from anyio import to_thread
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect

from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.errors import AudioError, ConfigError, EmodistillError, field_messages
from emodistill.inference.confidence import NO_COVERAGE
from emodistill.inference.segmentation import Segment, WindowUpdate
from emodistill.inference.streaming import Event, StreamingRecognizer
from emodistill.inference.timelines import seconds_by_emotion
from emodistill.inference.voices import Voice
from emodistill.inference.window_classifier import check_emotions
from emodistill.serving.auth import is_token
from emodistill.serving.decoder import StreamingDecoder
from emodistill.serving.logs import log_event
from emodistill.serving.problems import (
    INTERNAL_ERROR,
    RequestRefused,
    json_text,
    message_without_source,
    problem_body,
    server_busy,
    to_http_error,
)
from emodistill.serving.schemas import StreamStart
from emodistill.serving.service import Service
from emodistill.serving.voices import parse_voice

# WebSocket close codes (RFC 6455, section 7.4.1).
NORMAL, GOING_AWAY, NO_CODE, CONNECTION_LOST = 1000, 1001, 1005, 1006
BAD_DATA, POLICY, TOO_BIG, SERVER_ERROR = 1007, 1008, 1009, 1011

# Of a container: a video track, padding, or a block without an end. The decoder keeps such bytes in memory.
MAX_BYTES_WITHOUT_SAMPLES = 8_000_000
MAX_TIMES_OPEN = 2  # times the limit of audio; a client with small messages must not keep its place for ever
MAX_SAMPLES_PER_PUSH = SAMPLE_RATE * 10  # then other streams and files have their turn


class StreamError(Exception):
    """An error that ends a stream: the problem that the client gets, and the close code."""

    def __init__(self, code: int, problem: HTTPException) -> None:
        super().__init__(str(problem.detail))
        self.code, self.problem = code, problem


async def serve_stream(websocket: WebSocket, service: Service) -> None:
    """Serve one stream from its first message to its summary, and log it."""
    await websocket.accept()
    stream = LiveStream(websocket, service)
    service.streams.add(stream)
    began, code = time.perf_counter(), NORMAL
    try:
        await stream.run()
        code = GOING_AWAY if service.draining else NORMAL
        await websocket.close(code)
    except StreamError as error:
        code = error.code
        await stream.send_error(error)
    except (WebSocketDisconnect, RuntimeError) as error:
        # Starlette raises RuntimeError for a message that is sent after the client disconnected.
        if isinstance(error, RuntimeError) and not stream.disconnected:
            raise
        code = CONNECTION_LOST
    except Exception:
        code = SERVER_ERROR
        await stream.send_error(StreamError(code, HTTPException(500, INTERNAL_ERROR)))
        raise
    finally:
        service.streams.discard(stream)
        service.metrics.closed_streams.labels(str(code)).inc()
        log_event(
            "stream", logging.INFO, id=stream.instance, client=websocket.client and websocket.client.host,
            code=code, ms=round(1000 * (time.perf_counter() - began), 1), audio_s=round(stream.audio_s, 2),
        )  # fmt: skip


class LiveStream:
    """One open stream: receives a client's audio and sends its events."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self.instance: str = websocket.state.instance
        self.disconnected = False
        self._websocket, self._service = websocket, service
        self._start = StreamStart(rate=SAMPLE_RATE)
        self._recognizer = next(iter(service.models.values()))
        self._voice: Voice | None = None
        self._segmentation = self._start.segmentation()
        self._stream: StreamingRecognizer | None = None
        self._segments: list[Segment] = []  # for the summary
        self._receiving: anyio.CancelScope | None = None
        self._began_s = time.monotonic()

    @property
    def audio_s(self) -> float:
        """Seconds of audio so far."""
        return 0.0 if self._stream is None else self._stream.time_s

    def drain(self) -> None:
        """Receive no more messages. `run` then recognises the audio so far, and sends the summary."""
        if self._receiving is not None:
            self._receiving.cancel()

    async def run(self) -> None:
        """Serve the stream from the first message to the summary.

        Raises `StreamError` and `WebSocketDisconnect`.
        """
        self._start = await self._receive_start()
        try:
            if self._start.coverage is not None:
                raise ConfigError(NO_COVERAGE)
            self._recognizer = self._service.recognizer(
                self._start.model, self._start.emotions, self._start.min_confidence
            )
            check_emotions(self._recognizer)
            self._segmentation = self._start.segmentation()
            text = None if self._start.voice is None else json.dumps(self._start.voice).encode()
            self._voice = parse_voice(text, self._start.adapt, self._recognizer)
        except EmodistillError as error:
            raise StreamError(POLICY, to_http_error(error)) from error
        except RequestRefused as error:
            raise StreamError(TOO_BIG, error) from error
        model = self._recognizer.card.name
        await self._send("started", id=self.instance, model=model, emotions=self._recognizer.emotions)
        if self._start.encoding == "webm":
            await self._process_container()
        else:
            assert self._start.rate is not None
            async for data in self._receive_audio():
                for samples in _split(_pcm_samples(data, self._start)):
                    await self._process(samples, self._start.rate)
        if self._stream is not None:
            await self._send_events(await self._service.run_in_thread(self._stream.finish))
        await self._send("summary", **self._summary())

    async def send_error(self, error: StreamError) -> None:
        """Send a problem to the client and close the stream, if the client is still connected."""
        problem = error.problem
        kind = problem.kind if isinstance(problem, RequestRefused) else None
        body = problem_body(problem.status_code, kind, str(problem.detail), self.instance)
        try:
            with anyio.move_on_after(5):
                await self._send("error", **body)
                # A close frame holds at most 123 bytes of UTF-8.
                reason = str(problem.detail)[:40].encode("utf-8", "replace")[:120]
                await self._websocket.close(error.code, reason.decode("utf-8", "ignore"))
        except (WebSocketDisconnect, RuntimeError):
            self.disconnected = True

    async def _receive_start(self) -> StreamStart:
        """Receive and check the first message, with its token. Raises `StreamError`."""
        message = await self._receive()
        if message is None:
            raise StreamError(GOING_AWAY, server_busy("the server is stopping"))
        text = message.get("text")
        try:
            if text is None:
                raise ValueError(
                    'expected JSON text such as {"encoding": "pcm16", "rate": 48000}, got a binary message'
                )
            start = StreamStart.model_validate(_parse_json(text))
            if start.rate is None and start.encoding != "webm":
                raise ValueError(f"{start.encoding} needs its rate in Hz")
        except ValidationError as error:
            raise _bad_start("; ".join(field_messages(error.errors()))) from error
        except ValueError as error:
            raise _bad_start(str(error)) from error
        token = self._service.settings.token
        if token is not None and not getattr(self._websocket.state, "authorized", False):
            candidate = "" if start.token is None else start.token.get_secret_value()
            if not is_token(candidate, token):
                detail = "expected this server's token in the Authorization header or the first message"
                raise StreamError(POLICY, RequestRefused(401, "unauthorised", detail))
        return start

    async def _receive_audio(self) -> AsyncIterator[bytes]:
        """Binary messages, until the client sends `end` or the server stops. Raises `StreamError`."""
        while (message := await self._receive()) is not None:
            if message.get("bytes") is not None:
                yield message["bytes"]
                continue
            try:
                is_end = _parse_json(message["text"]) == {"type": "end"}
            except ValueError:
                is_end = False
            if is_end:
                return
            detail = 'expected audio as binary messages, then {"type": "end"}; got another text'
            raise StreamError(BAD_DATA, RequestRefused(422, "bad-message", detail))

    async def _receive(self) -> dict[str, Any] | None:
        """The next message, or None if the server stops. Raises `StreamError`, `WebSocketDisconnect`."""
        if self._service.draining:
            return None
        idle_s = self._service.settings.idle_s
        max_s = MAX_TIMES_OPEN * self._service.settings.max_stream_seconds
        if time.monotonic() - self._began_s > max_s:
            detail = f"the stream is open for over {max_s:g} s, the limit of this server; open another stream"
            raise StreamError(TOO_BIG, RequestRefused(413, "too-long", detail))
        with anyio.move_on_after(idle_s) as self._receiving:
            message = dict(await self._websocket.receive())
            if message["type"] == "websocket.disconnect":
                self.disconnected = True
                raise WebSocketDisconnect(message.get("code", NO_CODE))
            return message
        if self._service.draining:
            return None
        raise StreamError(POLICY, RequestRefused(408, "too-slow", f"no message for {idle_s:g} s"))

    async def _process(self, samples: npt.NDArray[Any], rate_hz: int) -> None:
        """Recognise samples (n, channels), and send the new events. Raises `StreamError`."""
        if self._stream is None:
            self._stream = StreamingRecognizer(
                self._recognizer, rate_hz, detector=self._service.detector, voice=self._voice,
                adapt=self._start.adapt, **asdict(self._segmentation),
            )  # fmt: skip
        stream, before_s = self._stream, self.audio_s
        try:
            events = await self._service.run_in_thread(lambda: stream.push(samples))
        except AudioError as error:
            raise _bad_audio(message_without_source(error)) from error
        self._service.metrics.audio_s.labels("stream").inc(self.audio_s - before_s)
        await self._send_events(events)
        max_s = self._service.settings.max_stream_seconds
        if self.audio_s > max_s:
            detail = f"the stream is longer than {max_s:g} s, the limit of this server; open another stream"
            raise StreamError(TOO_BIG, RequestRefused(413, "too-long", detail))

    async def _send_events(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Segment):
                self._segments.append(event)
            if self._start.updates or not isinstance(event, WindowUpdate):
                await self._send(event.kind, **event.as_dict())

    async def _send(self, event: str, **fields: Any) -> None:
        with anyio.move_on_after(self._service.settings.idle_s):
            await self._websocket.send_text(json_text({"event": event, **fields}))
            return
        self.disconnected = True
        raise WebSocketDisconnect(CONNECTION_LOST, "the client does not read the events")

    def _summary(self) -> dict[str, Any]:
        return {
            "duration_s": self.audio_s,
            "num_segments": len(self._segments),
            "summary": seconds_by_emotion(self._segments, self._recognizer.emotions),
        }

    async def _process_container(self) -> None:
        """Receive a container piece by piece, decode it, and recognise its samples. Raises `StreamError`."""
        decoder = StreamingDecoder()
        num_bytes, before_s = 0, 0.0  # bytes since the last sample
        try:
            async for data in self._receive_audio():
                if data:
                    decoder.feed(data)
                    await self._process_decoded(decoder)
                num_bytes = (num_bytes if self.audio_s == before_s else 0) + len(data)
                before_s = self.audio_s
                if num_bytes > MAX_BYTES_WITHOUT_SAMPLES:
                    raise _bad_audio(f"over {MAX_BYTES_WITHOUT_SAMPLES} bytes without a sample in them")
            decoder.feed(b"")
            await self._process_decoded(decoder)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(decoder.close, limiter=self._service.decoder_threads)

    async def _process_decoded(self, decoder: StreamingDecoder) -> None:
        """Recognise all samples that the decoder has. Raises `StreamError`."""
        while True:
            try:
                decoded = await to_thread.run_sync(decoder.take, limiter=self._service.decoder_threads)
            except AudioError as error:
                raise _bad_audio(message_without_source(error)) from error
            if decoded is None:
                return
            rate_hz, samples = decoded
            await self._process(samples, rate_hz)


def _parse_json(text: str) -> Any:
    """Parse JSON. Raises `ValueError`."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _pcm_samples(data: bytes, start: StreamStart) -> npt.NDArray[Any]:
    """The samples (n, channels) of a binary message. Raises `StreamError`."""
    kind = np.dtype("<i2" if start.encoding == "pcm16" else "<f4")
    if len(data) % (kind.itemsize * start.channels):
        raise _bad_audio(
            f"expected a whole number of {start.encoding} samples of {start.channels} channels, "
            f"got {len(data)} bytes"
        )
    return np.frombuffer(data, kind).reshape(-1, start.channels)


def _split(samples: npt.NDArray[Any]) -> Iterable[npt.NDArray[Any]]:
    """The samples of a long message in parts of at most `MAX_SAMPLES_PER_PUSH`."""
    return (samples[at : at + MAX_SAMPLES_PER_PUSH] for at in range(0, len(samples), MAX_SAMPLES_PER_PUSH))


def _bad_start(reason: str) -> StreamError:
    return StreamError(POLICY, RequestRefused(422, "bad-start", f"bad first message: {reason}"))


def _bad_audio(reason: str) -> StreamError:
    return StreamError(BAD_DATA, RequestRefused(422, "bad-audio", reason))
