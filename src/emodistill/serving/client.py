"""A client of `emodistill serve`: the recogniser's answers, from another machine, without a model here."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from emodistill.errors import EmodistillError, MissingExtraError, ServerError
from emodistill.inference.recognizer import Prediction
from emodistill.inference.segmentation import Segment, WindowUpdate
from emodistill.inference.streaming import Event, SpeechEnded, SpeechStarted
from emodistill.inference.timelines import Timeline

if TYPE_CHECKING:
    import httpx2

Row = TypeVar("Row")
Source = str | Path | bytes | BinaryIO
_EVENTS: dict[str, type[Event]] = {
    kind.kind: kind for kind in (SpeechStarted, WindowUpdate, Segment, SpeechEnded)
}


class Client(AbstractContextManager["Client"]):
    """A server, by its address. Thread-safe, and best kept: connections are used again."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, token: str | None = None, timeout_s: float = 120.0
    ) -> None:
        """Remember where the server is; nothing is sent yet.

        Args:
            url: its address, with http or https.
            token: where it wants one.
            timeout_s: how long to wait for an answer.

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
        """One prediction for each source: a path, the bytes of a file, or an open binary file.

        `options` are the fields of the form: `model`, `emotions` (names, or text with commas), `min_confidence`,
        `coverage`, `teachers`. A source that the server cannot read has its `error`. Raises `ServerError`.
        """
        return self._post("/v1/predict", sources, options, lambda row: Prediction(**row))

    def timeline(self, *sources: Source, **options: Any) -> list[Timeline]:
        """Emotion over time in each source; the options of `predict`, without `teachers`. Raises `ServerError`."""
        return self._post("/v1/timeline", sources, options, Timeline.from_dict)

    def models(self) -> list[dict[str, Any]]:
        """What is served: names, emotions, cards. Raises `ServerError`."""
        return self._rows(self._sent("GET", "/v1/models"), lambda said: list(said["models"]))

    def stream(self, chunks: Iterable[npt.NDArray[Any]], rate_hz: int, **options: Any) -> Iterator[Event]:
        """The events of chunks of samples (n,) or (n, channels), int16 or float, as they come.

        `options` are those of `predict`, and `updates=False`. One chunk is sent for what has been heard so far, so
        a generator that waits for a microphone is told in time. Raises `ServerError`.
        """
        from websockets.exceptions import ConnectionClosed, WebSocketException
        from websockets.sync.client import connect

        address = f"ws{self.url.removeprefix('http')}/v1/stream"
        try:
            with connect(address, additional_headers=self._headers, compression=None) as socket:
                yield from _talk(socket, iter(chunks), rate_hz, options)
        except ConnectionClosed as error:
            raise ServerError(0, f"the stream ended early: {error}") from error
        except (WebSocketException, OSError) as error:
            raise ServerError(0, f"{address} does not answer: {error}") from error

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(
        self, path: str, sources: tuple[Source, ...], options: dict[str, Any], made: Callable[[Any], Row]
    ) -> list[Row]:
        files = [("files", _file(source)) for source in sources]
        data = {name: _field(value) for name, value in options.items() if value is not None}
        response = self._sent("POST", path, files=files, data=data)
        return self._rows(response, lambda said: [made(row) for row in said])

    def _rows(self, response: "httpx2.Response", made: Callable[[Any], list[Row]]) -> list[Row]:
        """What a good response says; a page that another server answers with is none."""
        try:
            return made(self._checked(response).json())
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(
                response.status_code,
                f"{self.url} answers as no emodistill serve of this version would: {error!r}",
            ) from error

    def _sent(self, method: str, path: str, **content: Any) -> "httpx2.Response":
        import httpx2

        while True:
            steps = _Steps()
            try:
                return self._http.request(method, path, extensions={"trace": steps}, **content)
            except httpx2.TransportError as error:
                kept = "connection.connect_tcp.started" not in steps
                lost = isinstance(error, (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError))
                # A kept connection that the other side closed meanwhile, as a proxy does after an upload that it did
                # not read to the end: asked again, at last on a new one. Elsewhere the server may be at work on it.
                if not (kept and lost):
                    raise ServerError(
                        0, f"{self.url} does not answer: {error or type(error).__name__}"
                    ) from error

    def _checked(self, response: "httpx2.Response") -> "httpx2.Response":
        if response.is_success:
            return response
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError, TypeError):  # of a proxy between
            detail = response.text[:200]
        raise ServerError(response.status_code, f"{self.url} answers {response.status_code}: {detail}")


class _Steps(list[str]):
    """What became of one request, step by step, as httpx2 tells a `trace`."""

    def __call__(self, step: str, _: Any) -> None:
        self.append(step)


def _talk(
    socket: Any, chunks: Iterator[npt.NDArray[Any]], rate_hz: int, options: dict[str, Any]
) -> Iterator[Event]:
    from websockets.exceptions import ConnectionClosed

    first = next(chunks, np.zeros(0, dtype=np.int16))
    integers = first.dtype.kind != "f"
    if integers and first.dtype != np.int16:
        raise EmodistillError(f"expected int16 or float samples, got {first.dtype}")
    start = {
        "encoding": "pcm16" if integers else "float32", "rate": rate_hz,
        "channels": 1 if first.ndim == 1 else first.shape[1], **options,
    }  # fmt: skip
    kind = "<i2" if integers else "<f4"
    try:
        socket.send(json.dumps(start))
        socket.send(np.ascontiguousarray(first, dtype=kind).tobytes())
        for chunk in chunks:
            socket.send(np.ascontiguousarray(chunk, dtype=kind).tobytes())
            yield from _heard(socket, wait=False)
        socket.send('{"type": "end"}')
    except ConnectionClosed:
        pass  # it has said why before, and that is still to be heard
    yield from _heard(socket, wait=True)


def _heard(socket: Any, wait: bool) -> Iterator[Event]:
    """The events that are there; or all up to the end."""
    while True:
        try:
            said = json.loads(socket.recv(timeout=None if wait else 0))
        except TimeoutError:
            return
        kind = said.pop("event")
        if kind == "error":
            raise ServerError(said["status"], said["detail"])
        if kind == "summary":
            return
        if kind in _EVENTS:
            yield _EVENTS[kind](**said)


def _file(source: Source) -> tuple[str, BinaryIO]:
    if isinstance(source, bytes):
        return "bytes", BytesIO(source)
    if isinstance(source, (str, Path)):
        try:
            return Path(source).name, BytesIO(Path(source).read_bytes())
        except OSError as error:
            raise EmodistillError(f"cannot read '{source}': {error.strerror}") from error
    # httpx2 rewinds a file before it sends it, and before it sends it again.
    rewinds = hasattr(source, "seekable") and source.seekable()
    return Path(str(getattr(source, "name", "file"))).name, source if rewinds else BytesIO(source.read())


def _field(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return (
        value
        if isinstance(value, str)
        else ",".join(map(str, value))
        if isinstance(value, (list, tuple))
        else str(value)
    )
