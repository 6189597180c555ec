"""A Python client for `emodistill serve`. It returns what the recogniser returns, and needs no model."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from emodistill.audio.recording import AudioSource
from emodistill.errors import AudioError, ConfigError, MissingExtraError, ModelError, ServerError
from emodistill.inference.prediction import Prediction
from emodistill.inference.sources import as_list, ensure_several, source_name
from emodistill.inference.streaming import Event
from emodistill.inference.thread_map import map_in_order
from emodistill.inference.timelines import Timeline
from emodistill.inference.voices import Voice
from emodistill.serving.stream_client import send_and_receive
from emodistill.serving.uploads import form

if TYPE_CHECKING:
    import httpx2

Result = TypeVar("Result")
Row = TypeVar("Row", Prediction, Timeline)
_FIRST_POLL_S, _LONGEST_POLL_S = 0.2, 5.0  # between two questions about a job
_TOO_LARGE = 413


@dataclass(frozen=True)
class Job:
    """A job on a server, from `Client.submit`. `Job(id)` is one that another program has submitted."""

    id: str
    names: tuple[str, ...] | None = None  # the paths of its sources; None: as the server calls them
    several: bool = True  # whether it was submitted with an iterable, so that its result is a list


@dataclass(frozen=True)
class _Endpoint(Generic[Row]):
    """An endpoint that answers with one row for each source."""

    path: str
    build: Callable[[Any], Row]
    failed: Callable[[str, str], Row]  # the row of a source with a name and an error
    options: Mapping[str, Any] = field(default_factory=dict)  # that differ from the defaults of the server

    def rows(self, answer: Sequence[Any], names: Sequence[str] | None) -> list[Row]:
        """The rows of an answer, with the names of the sources on this machine."""
        rows = [self.build(row) for row in answer]
        if names is None:
            return rows
        return [
            replace(row, path=name, error=row.error and f"{name}: {row.error}".removeprefix(": "))
            for row, name in zip(rows, names, strict=True)
        ]


_PREDICT = _Endpoint[Prediction](
    "/v1/predict", lambda row: Prediction(**row), lambda name, error: Prediction(name, error=error),
    {"teachers": True},
)  # fmt: skip
_TIMELINE = _Endpoint[Timeline](
    "/v1/timeline", Timeline.from_dict, lambda name, error: Timeline(name, error=error)
)


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

    @overload
    def predict(self, source: AudioSource, rate_hz: int | None = None, **options: Any) -> Prediction: ...

    @overload
    def predict(
        self, source: Iterable[AudioSource], rate_hz: int | None = None, **options: Any
    ) -> list[Prediction]: ...

    def predict(
        self, source: AudioSource | Iterable[AudioSource], rate_hz: int | None = None, **options: Any
    ) -> Prediction | list[Prediction]:
        """Return the prediction of one source, or a list with the prediction of each source of an iterable.

        Sources and answers are those of `Recognizer.predict`: a path, the bytes of an audio file, an open
        binary file, or an array of samples (n,) or (n, channels), or an iterable of these. The sources of an
        iterable are sent one after the other.

        Args:
            source: one source, or an iterable of sources.
            rate_hz: the rate of arrays, which must be given for them; files state their own.
            options: `model`, `emotions` (a list of names), `min_confidence`, `channel`, and `voice`, a
                `Voice` to compare the source with. With `coverage` or `adapt="together"`, the sources of an
                iterable are sent in one request: `coverage` of them get an emotion, or each is compared with
                the usual of the others. `teachers=False` leaves out what the teachers would predict.

        Raises:
            AudioError: the source cannot be read. In a list, such a source gives a prediction with its
                `error`, and so does one that is too large for the server.
            ServerError: the server refuses the request, or does not answer.
        """
        sources = as_list(source)
        if sources is not None and (options.get("adapt") == "together" or "coverage" in options):
            return self._post(_PREDICT, sources, rate_hz, options)
        if sources is not None:
            return list(self.predict_all(sources, rate_hz, **options))
        return self._one(_PREDICT, source, rate_hz, options)

    def predict_all(
        self, sources: Iterable[AudioSource], rate_hz: int | None = None, jobs: int = 1, **options: Any
    ) -> Iterator[Prediction]:
        """Yield one prediction for each source, in order, with `jobs` requests at the same time.

        Options and errors are those of `predict` for a list. Raises `AudioError` for a single source.
        """
        ensure_several(sources, "predict")
        return self._each(_PREDICT, sources, rate_hz, options, jobs)

    def predict_together(
        self, sources: Iterable[AudioSource], rate_hz: int | None = None, **options: Any
    ) -> list[Prediction]:
        """Return a prediction for each source, each compared with the usual of all other sources.

        All sources are sent in one request. Options and errors are those of `predict` for a list.
        """
        ensure_several(sources, "predict")
        return self._post(_PREDICT, list(sources), rate_hz, {**options, "adapt": "together"})

    @overload
    def timeline(self, source: AudioSource, rate_hz: int | None = None, **options: Any) -> Timeline: ...

    @overload
    def timeline(
        self, source: Iterable[AudioSource], rate_hz: int | None = None, **options: Any
    ) -> list[Timeline]: ...

    def timeline(
        self, source: AudioSource | Iterable[AudioSource], rate_hz: int | None = None, **options: Any
    ) -> Timeline | list[Timeline]:
        """Return the emotions over time in one source, or a list with the timeline of each of an iterable.

        Sources and errors are those of `predict`. Options are `model`, `emotions` and `min_confidence`, and
        those of `Recognizer.timeline`: `voice`, `adapt`, `given`, `channels`, `names`, `smooth_s`,
        `min_duration_s`, `hop_s`, `window_s`. `voice` is a `Voice`, or a dictionary with the voices of
        several speakers by name. `given` is a list of `GivenSegment`, or the path of a file with segments.
        """
        sources = as_list(source)
        if sources is not None:
            return list(self._each(_TIMELINE, sources, rate_hz, options))
        return self._one(_TIMELINE, source, rate_hz, options)

    def submit(
        self, source: AudioSource | Iterable[AudioSource], rate_hz: int | None = None, **options: Any
    ) -> Job:
        """Send one source, or all sources of an iterable, as a job for `timeline`, and return the job.

        The server works on it also after this client is closed. Sources and options are those of `timeline`.

        Raises:
            AudioError: a source cannot be read.
            ServerError: the server refuses the job; its `status` is 503 where too many jobs wait.
        """
        sources = as_list(source)
        listed = [source] if sources is None else sources
        with ExitStack() as opened:
            content = form(listed, rate_hz, options, opened)  # type: ignore[arg-type]
            response = self._request("POST", "/v1/jobs", **content)
        names = tuple(source_name(each) for each in listed)  # type: ignore[arg-type]
        return Job(self._parse(response, lambda body: str(body["id"])), names, sources is not None)

    def wait(
        self,
        job: Job,
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[float], object] | None = None,
    ) -> Timeline | list[Timeline]:
        """Wait until a job has ended, and return what `timeline` returns: a timeline, or a list of them.

        Args:
            job: from `submit`.
            timeout_s: how long to wait; None: as long as it takes.
            on_progress: called now and then with the share of the job that is done, from 0 to 1.

        Raises:
            AudioError: the one source of the job cannot be read.
            ServerError: the job has failed or is gone; `status` says why, and is 410 for a job that is gone.
            TimeoutError: it takes longer than `timeout_s`. The job goes on.
        """
        began_s, pause_s = time.monotonic(), _FIRST_POLL_S
        while True:
            status = self._parse(self._request("GET", f"/v1/jobs/{job.id}"), dict)
            if status.get("problem") is not None:
                raise ServerError(
                    status["problem"]["status"], f"the job failed: {status['problem']['detail']}"
                )
            if status.get("result") is not None:
                break
            if on_progress is not None:
                on_progress(status.get("progress", 0.0))
            if timeout_s is not None and time.monotonic() - began_s + pause_s > timeout_s:
                raise TimeoutError(f"the job {job.id} is {status['state']} after {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LONGEST_POLL_S)
        rows = _TIMELINE.rows(status["result"], job.names)
        if on_progress is not None:
            on_progress(1.0)
        return rows if job.several else _only(rows)

    def cancel(self, job: Job) -> None:
        """Stop a job, or delete its result. Raises `ServerError`, also for a job that is gone."""
        self._raise_for_error(self._request("DELETE", f"/v1/jobs/{job.id}"))

    def enrol(
        self,
        sources: AudioSource | Iterable[AudioSource],
        rate_hz: int | None = None,
        *,
        model: str | None = None,
    ) -> Voice:
        """Return the voice of a speaker, from recordings of the speaker alone. The server does not keep it.

        Sources are those of `predict`; all are sent in one request. A source without speech, or that the
        server cannot read, is left out with a warning on standard error.

        Raises:
            AudioError: a source cannot be read on this machine.
            ServerError: no source has speech, or the model has no voices.
        """
        from emodistill.console import warn  # Not above: importing rich takes 12 ms.

        listed: Any = [sources] if (several := as_list(sources)) is None else several
        with ExitStack() as opened:
            response = self._request("POST", "/v1/voices", **form(listed, rate_hz, {"model": model}, opened))

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

        `options` are `model`, `emotions`, `min_confidence`, `voice`, and those of `Recognizer.stream`. With
        `updates=False` the server leaves out the `WindowUpdate` events. After each chunk the client yields
        the events that have arrived, so `chunks` may be a generator that waits for a microphone.

        Raises `ServerError`, and `AudioError` for samples of another type.
        """
        from websockets.exceptions import ConnectionClosed, WebSocketException
        from websockets.sync.client import connect

        address = f"ws{self.url.removeprefix('http')}/v1/stream"
        try:
            with connect(address, additional_headers=self._headers, compression=None) as socket:
                yield from send_and_receive(socket, iter(chunks), rate_hz, options)
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

    def _one(
        self, endpoint: "_Endpoint[Row]", source: Any, rate_hz: int | None, options: Mapping[str, Any]
    ) -> Row:
        """The row of one source. Raises `AudioError` and `ServerError`."""
        return _only(self._post(endpoint, [source], rate_hz, options))

    def _each(
        self,
        endpoint: "_Endpoint[Row]",
        sources: Iterable[AudioSource],
        rate_hz: int | None,
        options: Mapping[str, Any],
        jobs: int = 1,
    ) -> Iterator[Row]:
        """Yield the row of each source, which has its own request. Raises `ServerError`."""

        def row(source: AudioSource) -> Row:
            try:
                (only,) = self._post(endpoint, [source], rate_hz, options)
            except AudioError as error:
                return endpoint.failed(source_name(source), str(error))
            except ServerError as error:
                if error.status != _TOO_LARGE:
                    raise
                return endpoint.failed(source_name(source), str(error))
            return only

        return map_in_order(row, sources, jobs)

    def _post(
        self,
        endpoint: "_Endpoint[Row]",
        sources: Sequence[AudioSource],
        rate_hz: int | None,
        options: Mapping[str, Any],
    ) -> list[Row]:
        """The rows of one request. Raises `AudioError` and `ServerError`."""
        if rate_hz is not None and not isinstance(rate_hz, (int, float, np.number)):
            raise ConfigError(
                f"bad rate_hz {rate_hz!r}, expected a number of Hz; give several sources as a list"
            )
        with ExitStack() as opened:
            content = form(sources, rate_hz, {**endpoint.options, **options}, opened)
            response = self._request("POST", endpoint.path, **content)
        names = [source_name(source) for source in sources]
        return self._parse(response, lambda rows: endpoint.rows(rows, names))

    def _parse(self, response: "httpx2.Response", build: Callable[[Any], Result]) -> Result:
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


def _only(rows: Sequence[Row]) -> Row:
    """The one row. Raises `AudioError` where it has an error."""
    (row,) = rows
    if row.error is not None:
        raise AudioError(row.error)
    return row
