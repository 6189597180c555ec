"""`/v1/stream`: audio in as it is spoken, events out as they come.

One message is taken, judged and answered before the next is received. What a client sends faster than that
waits in its own socket, and where it does not read what it is sent, it is not listened to either: nothing is
queued here.
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
from anyio import to_thread
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect

from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.errors import AudioError, EmodistillError
from emodistill.inference.segmentation import Segment, WindowUpdate
from emodistill.inference.streaming import Event, StreamingRecognizer
from emodistill.inference.timelines import seconds_by_emotion
from emodistill.serving.auth import is_token
from emodistill.serving.decoder import ArrivingMedia
from emodistill.serving.logs import log_event
from emodistill.serving.problems import Refused, as_refused, busy, problem
from emodistill.serving.schemas import StreamStart
from emodistill.serving.service import Service, reason

NORMAL, GOING_AWAY, BAD_DATA, POLICY, TOO_BIG, SERVER_ERROR = (
    1000,
    1001,
    1007,
    1008,
    1009,
    1011,
)  # RFC 6455, 7.4.1
MOST_SILENT_BYTES = (
    8_000_000  # of a container: video, padding, or a block that never ends, kept by the decoder
)
MOST_AT_ONCE = SAMPLE_RATE * 10  # samples that are judged before others have their turn


class StreamError(Exception):
    """What ends a stream early: a problem for the client, and a code to close with."""

    def __init__(self, code: int, refused: HTTPException) -> None:
        super().__init__(str(refused.detail))
        self.code, self.refused = code, refused


async def serve_stream(websocket: WebSocket, service: Service) -> None:
    """Answer one stream from its first message to its summary."""
    await websocket.accept()
    live = LiveStream(websocket, service)
    service.streams.add(live)
    began, code = time.perf_counter(), NORMAL
    try:
        await live.run()
        code = GOING_AWAY if service.draining else NORMAL
        await websocket.close(code)
    except StreamError as error:
        code = error.code
        await live.refuse(error)
    except (WebSocketDisconnect, RuntimeError) as error:  # the second: something was sent after that
        if isinstance(error, RuntimeError) and not live.gone:
            raise
        code = 1006
    except Exception:
        code = SERVER_ERROR
        await live.refuse(
            StreamError(code, HTTPException(500, "an error of the server, and written to its log"))
        )
        raise
    finally:
        service.streams.discard(live)
        service.metrics.closed.labels(str(code)).inc()
        log_event(
            "stream", logging.INFO, id=live.instance, client=websocket.client and websocket.client.host,
            code=code, ms=round(1000 * (time.perf_counter() - began), 1), audio_s=round(live.audio_s, 2),
        )  # fmt: skip


class LiveStream:
    """One client's audio, and its events."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self.instance: str = websocket.state.instance
        self.gone = False
        self._websocket, self._service = websocket, service
        self._start = StreamStart(rate=SAMPLE_RATE)
        self._recognizer = next(iter(service.models.values()))
        self._stream: StreamingRecognizer | None = None
        self._segments: list[Segment] = []  # summed up at the end
        self._waiting: anyio.CancelScope | None = None

    @property
    def audio_s(self) -> float:
        """How much has been taken in."""
        return 0.0 if self._stream is None else self._stream.time_s

    def drain(self) -> None:
        """Take no more audio: what came so far is judged, summed up and sent."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def run(self) -> None:
        """From the first message to the summary. Raises `StreamError` and `WebSocketDisconnect`."""
        self._start = await self._first()
        try:
            self._recognizer = self._service.recogniser(
                self._start.model, self._start.emotions, self._start.min_confidence, self._start.coverage
            )
        except EmodistillError as error:
            raise StreamError(POLICY, as_refused(error)) from error
        model = self._recognizer.card.name
        await self._send("started", id=self.instance, model=model, emotions=self._recognizer.emotions)
        if self._start.encoding == "webm":
            await self._hear_media()
        else:
            assert self._start.rate is not None
            async for data in self._messages():
                for part in _parts(_samples(data, self._start)):
                    await self._push(part, self._start.rate)
        if self._stream is not None:
            await self._tell(await self._service.in_thread(self._stream.finish))
        await self._send("summary", **self._summary())

    async def refuse(self, error: StreamError) -> None:
        """Say why the stream ends, and end it, if the client is still there."""
        refused = error.refused
        kind = refused.kind if isinstance(refused, Refused) else None
        try:
            with anyio.move_on_after(5):
                await self._send(
                    "error", **problem(refused.status_code, kind, str(refused.detail), self.instance)
                )
                await self._websocket.close(error.code, str(refused.detail)[:40])
        except (WebSocketDisconnect, RuntimeError):
            self.gone = True

    async def _first(self) -> StreamStart:
        """What the client says of its audio; and whether it may send any."""
        message = await self._receive()
        if message is None:
            raise StreamError(GOING_AWAY, busy("the server is stopping"))
        text = message.get("text")
        try:
            if text is None:
                raise ValueError(
                    'expected JSON text such as {"encoding": "pcm16", "rate": 48000}, got no text'
                )
            found = StreamStart.model_validate(_parsed(text))
            if found.rate is None and found.encoding != "webm":
                raise ValueError(f"{found.encoding} needs its rate in Hz")
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise _bad_start(told) from error
        except ValueError as error:
            raise _bad_start(str(error)) from error
        token = self._service.settings.token
        if token is not None and not getattr(self._websocket.state, "trusted", False):
            given = "" if found.token is None else found.token.get_secret_value()
            if not is_token(given, token):
                raise StreamError(POLICY, Refused(401, "unauthorised", "this server wants a token"))
        return found

    async def _messages(self) -> AsyncIterator[bytes]:
        """The audio, up to the client's `end`, or until the server stops."""
        while (message := await self._receive()) is not None:
            if message.get("bytes") is not None:
                yield message["bytes"]
                continue
            try:
                if _parsed(message["text"]) == {"type": "end"}:
                    return
            except ValueError:
                pass  # told below, like JSON that says something else
            told = 'expected audio as binary messages, then {"type": "end"}; got another text'
            raise StreamError(BAD_DATA, Refused(422, "bad-message", told))

    async def _receive(self) -> dict[str, Any] | None:
        """The next message; None where the server stops."""
        if self._service.draining:
            return None
        idle_s = self._service.settings.idle_s
        with anyio.move_on_after(idle_s) as self._waiting:
            message = dict(await self._websocket.receive())
            if message["type"] == "websocket.disconnect":
                self.gone = True
                raise WebSocketDisconnect(message.get("code", 1005))
            return message
        if self._service.draining:
            return None
        raise StreamError(POLICY, Refused(408, "too-slow", f"no message for {idle_s:g} s"))

    async def _push(self, samples: npt.NDArray[Any], rate_hz: int) -> None:
        """Judge samples (n, channels), and tell what is new."""
        if self._stream is None:
            self._stream = StreamingRecognizer(self._recognizer, rate_hz, detector=self._service.detector)
        stream, before_s = self._stream, self.audio_s
        try:
            events = await self._service.in_thread(lambda: stream.push(samples))
        except AudioError as error:
            raise StreamError(BAD_DATA, Refused(422, "bad-audio", reason(error))) from error
        self._service.metrics.audio_s.labels("stream").inc(self.audio_s - before_s)
        await self._tell(events)
        most_s = self._service.settings.max_stream_seconds
        if self.audio_s > most_s:
            raise StreamError(TOO_BIG, Refused(413, "too-long", f"over {most_s:g} s; open another stream"))

    async def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Segment):
                self._segments.append(event)
            if self._start.updates or not isinstance(event, WindowUpdate):
                await self._send(event.kind, **event.as_dict())

    async def _send(self, event: str, **fields: Any) -> None:
        with anyio.move_on_after(self._service.settings.idle_s):
            await self._websocket.send_text(json.dumps({"event": event, **fields}, ensure_ascii=False))
            return
        self.gone = True
        raise WebSocketDisconnect(1006, "the client does not read what it is sent")

    def _summary(self) -> dict[str, Any]:
        return {
            "duration_s": self.audio_s,
            "num_segments": len(self._segments),
            "summary": seconds_by_emotion(self._segments, self._recognizer.emotions),
        }

    async def _hear_media(self) -> None:
        """A container that arrives in pieces."""
        media = ArrivingMedia()
        silent, before_s = 0, 0.0  # bytes since the last sample
        try:
            async for data in self._messages():
                if data:
                    media.give(data)
                    await self._hear_decoded(media)
                silent, before_s = (silent if self.audio_s == before_s else 0) + len(data), self.audio_s
                if silent > MOST_SILENT_BYTES:
                    told = f"over {MOST_SILENT_BYTES} bytes without a sample in them"
                    raise StreamError(BAD_DATA, Refused(422, "bad-audio", told))
            media.give(b"")
            await self._hear_decoded(media)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(media.close, limiter=self._service.decoders)

    async def _hear_decoded(self, media: ArrivingMedia) -> None:
        while True:
            try:
                found = await to_thread.run_sync(media.take, limiter=self._service.decoders)
            except AudioError as error:
                raise StreamError(BAD_DATA, Refused(422, "bad-audio", reason(error))) from error
            if found is None:
                return
            await self._push(found[1], found[0])


def _parsed(text: str) -> Any:
    """JSON. Raises `ValueError`."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _samples(data: bytes, start: StreamStart) -> npt.NDArray[Any]:
    """The samples (n, channels) of a binary message."""
    kind = np.dtype("<i2" if start.encoding == "pcm16" else "<f4")
    size = kind.itemsize * start.channels
    if len(data) % size:
        told = (
            f"{len(data)} bytes are no whole number of {start.encoding} samples of {start.channels} channels"
        )
        raise StreamError(BAD_DATA, Refused(422, "bad-audio", told))
    return np.frombuffer(data, kind).reshape(-1, start.channels)


def _parts(samples: npt.NDArray[Any]) -> Iterable[npt.NDArray[Any]]:
    """A long message in turns."""
    return (samples[at : at + MOST_AT_ONCE] for at in range(0, len(samples), MOST_AT_ONCE))


def _bad_start(why: str) -> StreamError:
    return StreamError(POLICY, Refused(422, "bad-start", f"bad first message: {why}"))
