"""A Python client for `emodistill serve`. It returns what the recogniser returns, and needs no model."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from emodistill.audio.decoding import refuse_url
from emodistill.errors import AudioError, ConfigError, MissingExtraError, ModelError, ServerError
from emodistill.inference.prediction import Prediction
from emodistill.inference.segmentation import Segment, WindowUpdate
from emodistill.inference.streaming import Event, SpeechEnded, SpeechStarted
from emodistill.inference.timelines import Timeline
from emodistill.inference.voices import Voice

if TYPE_CHECKING:
    import httpx2

Row = TypeVar("Row")
Source = str | Path | bytes | BinaryIO
_EVENT_CLASSES: dict[str, type[Event]] = {
    event.kind: event for event in (SpeechStarted, WindowUpdate, Segment, SpeechEnded)
}


class Client(AbstractContextManager["Client"]):
    """A client of one server. It is thread-safe. Keep it: it reuses its connections."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, token: str | None = None, timeout_s: float = 120.0
    ) -> None:
        """Store the address. Nothing is sent yet.

        Args:
            url: the server's address, with http or https.
            token: the server's token, if it has one.
            timeout_s: seconds to wait for an answer.

        Raises `MissingExtraError` without [serve].
        """
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtraError("httpx2", "serve", "a client") from error
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.Client(base_url=self.url, headers=self._headers, timeout=timeout_s)

    def predict(self, *sources: Source, **options: Any) -> list[Prediction]:
        """Return one prediction for each source: a path, the bytes of a file, or an open binary file.

        `options` are `model`, `emotions` (a list of names), `min_confidence`, `coverage` and `teachers`. With
        `voice`, a `Voice`, the sources are compared with this voice's usual. With `adapt="together"`, each is
        compared with the usual of the other sources. A source that the server cannot read gives a prediction
        with `error`. Raises `ServerError`.
        """
        return self._post("/v1/predict", sources, options, lambda row: Prediction(**row))

    def timeline(self, *sources: Source, **options: Any) -> list[Timeline]:
        """Return the emotion over time in each source. Takes the options of `predict`, without `teachers`.

        With `adapt="recording"`, each part of a source is compared with the usual of the whole source; with
        `adapt="running"`, with that of the speech before it. Raises `ServerError`.
        """
        return self._post("/v1/timeline", sources, options, Timeline.from_dict)

    def enrol(self, *sources: Source, model: str | None = None) -> Voice:
        """Return the voice of a speaker, from recordings of the speaker alone. The server does not keep it.

        A source without speech, or that the server cannot read, is left out with a warning on standard error.

        Raises `ServerError` if no source has speech, or the model has no voices.
        """
        from emodistill.console import warn  # Not above: importing rich takes 12 ms.

        response = self._request("POST", "/v1/voices", **_form(sources, {"model": model}))

        def read_answer(body: dict[str, Any]) -> Voice:
            for warning in body["warnings"]:
                warn(warning)
            return Voice.from_json(json.dumps(body["voice"]))

        return self._parse(response, read_answer)

    def models(self) -> list[dict[str, Any]]:
        """Return the models of the server with their names, emotions and cards. Raises `ServerError`."""
        return self._parse(self._request("GET", "/v1/models"), lambda body: list(body["models"]))

    def stream(self, chunks: Iterable[npt.NDArray[Any]], rate_hz: int, **options: Any) -> Iterator[Event]:
        """Send chunks of samples (n,) or (n, channels), int16 or float, and yield the server's events.

        `options` are those of `predict` without `teachers`; `adapt` is "none" or "running": each window is
        compared with the speech before it. With `updates=False` the server leaves out the `WindowUpdate`
        events. After each chunk the client yields the events that have arrived, so `chunks` may be a
        generator that waits for a microphone. Raises `ServerError`.
        """
        from websockets.exceptions import ConnectionClosed, WebSocketException
        from websockets.sync.client import connect

        address = f"ws{self.url.removeprefix('http')}/v1/stream"
        try:
            with connect(address, additional_headers=self._headers, compression=None) as socket:
                yield from _send_and_receive(socket, iter(chunks), rate_hz, options)
        except ConnectionClosed as error:
            raise ServerError(0, f"the stream ended early: {error}") from error
        except (WebSocketException, OSError) as error:
            raise ServerError(0, f"{address} does not answer: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(
        self, path: str, sources: tuple[Source, ...], options: dict[str, Any], build: Callable[[Any], Row]
    ) -> list[Row]:
        response = self._request("POST", path, **_form(sources, options))
        return self._parse(response, lambda rows: [build(row) for row in rows])

    def _parse(self, response: "httpx2.Response", build: Callable[[Any], Row]) -> Row:
        """Build the result of a response. Raises `ServerError` if it is an error, or of another program."""
        try:
            return build(self._raise_for_error(response).json())
        except (ValueError, KeyError, TypeError, ModelError) as error:
            raise ServerError(
                response.status_code,
                f"{self.url} does not answer like 'emodistill serve' of this version: {error!r}",
            ) from error

    def _request(self, method: str, path: str, **content: Any) -> "httpx2.Response":
        import httpx2

        while True:
            trace = _RequestTrace()
            try:
                return self._http.request(method, path, extensions={"trace": trace}, **content)
            except httpx2.TransportError as error:
                # The server or a proxy may close an idle connection at any time. A proxy does so after an
                # upload that it did not read to the end. So a request that fails on a reused connection is
                # sent again, until it goes over a new one. There, the server may already work on it.
                reused = "connection.connect_tcp.started" not in trace
                closed = isinstance(error, (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError))
                if not (reused and closed):
                    reason = error or type(error).__name__
                    raise ServerError(0, f"{self.url} does not answer: {reason}") from error

    def _raise_for_error(self, response: "httpx2.Response") -> "httpx2.Response":
        if response.is_success:
            return response
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError, TypeError):  # an answer of a proxy
            detail = response.text[:200]
        raise ServerError(response.status_code, f"{self.url} answers {response.status_code}: {detail}")


class _RequestTrace(list[str]):
    """Collects the names of the steps of one request. httpx2 calls it at each step."""

    def __call__(self, step: str, _: Any) -> None:
        self.append(step)


def _send_and_receive(
    socket: Any, chunks: Iterator[npt.NDArray[Any]], rate_hz: int, options: dict[str, Any]
) -> Iterator[Event]:
    from websockets.exceptions import ConnectionClosed

    first = next(chunks, np.zeros(0, dtype=np.int16))
    integers = first.dtype.kind != "f"
    if integers and first.dtype != np.int16:
        raise AudioError(f"expected int16 or float samples, got {first.dtype}")
    start = {
        "encoding": "pcm16" if integers else "float32", "rate": rate_hz,
        "channels": 1 if first.ndim == 1 else first.shape[1], **options,
    }  # fmt: skip
    if start.get("voice") is not None:
        start["voice"] = json.loads(_voice_text(start["voice"]))
    kind = "<i2" if integers else "<f4"
    try:
        socket.send(json.dumps(start))
        socket.send(np.ascontiguousarray(first, dtype=kind).tobytes())
        for chunk in chunks:
            socket.send(np.ascontiguousarray(chunk, dtype=kind).tobytes())
            yield from _receive_events(socket, until_end=False)
        socket.send('{"type": "end"}')
    except ConnectionClosed:
        pass  # the server sent the reason before it closed; _receive_events raises it
    yield from _receive_events(socket, until_end=True)


def _receive_events(socket: Any, until_end: bool) -> Iterator[Event]:
    """The events that have arrived, or all up to the end of the stream. Raises `ServerError`."""
    while True:
        try:
            message = json.loads(socket.recv(timeout=None if until_end else 0))
        except TimeoutError:
            return
        kind = message.pop("event")
        if kind == "error":
            raise ServerError(message["status"], message["detail"])
        if kind == "summary":
            return
        if kind in _EVENT_CLASSES:
            yield _EVENT_CLASSES[kind](**message)


def _form(sources: Sequence[Source], options: Mapping[str, Any]) -> dict[str, Any]:
    """The files and the fields of a form. Raises `AudioError` for a source that cannot be read."""
    files: list[tuple[str, tuple[str, Any]]] = [("files", _form_file(source)) for source in sources]
    data = {name: value for name, value in options.items() if value is not None}
    voice = data.pop("voice", None)
    if voice is not None:
        files.append(("voice", ("voice.json", _voice_text(voice))))
    return {"files": files, "data": {name: _form_text(value) for name, value in data.items()}}


def _voice_text(voice: Any) -> str:
    """The text of a voice file. Raises `ConfigError` for what is not a `Voice`."""
    if not isinstance(voice, Voice):
        raise ConfigError(
            f"expected a Voice, got {type(voice).__name__}: load a voice file with Voice.load, or make a "
            "voice with enrol"
        )
    return voice.to_json()


def _form_file(source: Source) -> tuple[str, BinaryIO]:
    """The name and the content of a source. Raises `AudioError` if it cannot be read."""
    if isinstance(source, bytes):
        return "bytes", BytesIO(source)
    if isinstance(source, (str, Path)):
        try:
            return Path(source).name, BytesIO(Path(source).read_bytes())
        except OSError as error:
            refuse_url(source)
            raise AudioError(f"cannot read '{source}': {error.strerror}") from error
    # httpx2 rewinds a file before it sends it, so a request can be sent again.
    seekable = hasattr(source, "seekable") and source.seekable()
    return Path(str(getattr(source, "name", "file"))).name, source if seekable else BytesIO(source.read())


def _form_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)
