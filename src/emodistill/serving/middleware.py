"""Access control and access log: what happens to each request before and after the app answers it.

Before: the rate limit, the token, the number of requests at the same time, the size and speed of the body.
After: the log and the metrics.
"""

import logging
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emodistill.serving.auth import check_authorization, check_origin
from emodistill.serving.jobs import Jobs
from emodistill.serving.logs import log_event
from emodistill.serving.problems import RequestRefused, body_too_large, problem_response, server_busy
from emodistill.serving.rate_limiter import RateLimiter
from emodistill.serving.service import Service
from emodistill.serving.settings import Settings

MIN_BYTES_PER_S = 1_000  # the server refuses a request whose body is slower on average

# The server reads and discards the rest of a refused upload, up to the next two limits. A proxy that still
# forwards an upload would drop the server's answer if the server closed the connection at once.
DISCARD_S = 2.0  # at most server.CANCEL_S
MAX_DISCARDED_BYTES = 64_000_000
# The log and the metrics call all other methods "other": a client may invent names.
KNOWN_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MONITORING_ROUTES = (
    "/healthz",
    "/readyz",
    "/metrics",
)  # requested every few seconds, so logged at level DEBUG
CLIENT_DISCONNECTED = 499  # nginx's status for an answer that nobody reads; only in the log and the metrics
_LOAD_NOTHING = "default-src 'none'; frame-ancestors 'none'"


class AccessMiddleware:
    """ASGI middleware around the app: checks access and limits, then writes the log and the metrics."""

    def __init__(self, app: ASGIApp, service: Service, jobs: Jobs) -> None:
        self._app, self._service, self._jobs = app, service, jobs
        self._settings, self._metrics = service.settings, service.metrics
        self._rate_limiter = RateLimiter(self._settings.rate_per_minute, self._settings.rate_limit_file)
        self._num_streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request or one WebSocket. Start and stop of the app pass through."""
        if scope["type"] == "http":
            await self._handle_http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._handle_websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _handle_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        instance = f"urn:uuid:{uuid.uuid4()}"
        scope.setdefault("state", {})["instance"] = instance
        body = RequestBody(scope, receive, self._settings)
        status = 0

        async def send_response(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = CLIENT_DISCONNECTED if body.disconnected else message["status"]
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Content-Security-Policy", _LOAD_NOTHING)
                headers.setdefault("Cache-Control", "no-store")
                if not body.complete:  # without it, uvicorn would read the body to its end
                    headers["Connection"] = "close"
                headers["X-Request-ID"] = instance.removeprefix("urn:uuid:")
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            if is_last and not body.complete:
                await send({**message, "more_body": True})
                await body.discard_rest()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            try:
                self._check_access(scope)
            except RequestRefused as error:
                # Not counted as in flight: a refused client that goes on sending must not keep others out.
                await problem_response(error, instance)(scope, body.receive, send_response)
            else:
                with self._count_in_flight(scope):
                    await self._app(scope, body.receive, send_response)
        finally:
            status = status or (CLIENT_DISCONNECTED if body.disconnected else 500)
            self._record(scope, status, time.perf_counter() - began, body.num_bytes)

    @contextmanager
    def _count_in_flight(self, scope: Scope) -> Iterator[None]:
        counts = scope["method"] == "POST"
        self._service.num_requests += counts
        self._metrics.in_flight.inc(counts)
        try:
            yield
        finally:
            self._service.num_requests -= counts
            self._metrics.in_flight.dec(counts)

    def _check_access(self, scope: Scope) -> None:
        """Check rate limit, token and limits of an HTTP request. Raises `RequestRefused`."""
        headers, path = Headers(scope=scope), scope["path"]
        if path.startswith("/v1/"):  # before the token, so that the rate limit also slows down guessing
            self._check_rate(scope)
        if path.startswith("/v1/") or path == "/metrics":
            check_authorization(headers, self._settings.token)
        if scope["method"] == "POST":
            self._check_stopping()
        max_requests = self._settings.per_worker(self._settings.max_requests)
        if scope["method"] == "POST" and self._service.num_requests >= max_requests:
            raise server_busy(f"the server is busy with {max_requests} requests, its limit")
        if scope["method"] == "POST" and path == "/v1/jobs":
            self._check_jobs()  # before the upload
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._settings.max_bytes:
            raise body_too_large(self._settings.max_bytes)

    def _check_rate(self, scope: Scope) -> None:
        client = (scope.get("client") or ("", 0))[0]
        try:
            wait_s = self._rate_limiter.take_token(client)
        except sqlite3.OperationalError as error:  # a full disk, for instance
            # Without its count, the server refuses all requests rather than serve all of them.
            log_event("the rate limit cannot count requests", logging.ERROR, reason=str(error))
            raise server_busy("the server cannot count requests for its rate limit") from error
        if wait_s > 0:
            retry_s = int(wait_s) + 1
            raise RequestRefused(
                429,
                "too-many",
                f"more than {self._settings.rate_per_minute} requests in a minute; try again in {retry_s} s",
                {"Retry-After": str(retry_s)},
            )

    def _check_jobs(self) -> None:
        try:
            self._jobs.check_room()
        except sqlite3.OperationalError as error:
            raise server_busy("the server cannot store its jobs") from error

    def _check_stopping(self) -> None:
        if self._service.draining:
            raise server_busy("the server is stopping")

    def _record(self, scope: Scope, status: int, duration_s: float, num_bytes: int) -> None:
        """Write a request to the metrics and the log."""
        route = getattr(scope.get("route"), "path", None) or "unknown"
        method = scope["method"] if scope["method"] in KNOWN_METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.latency_s.labels(route).observe(duration_s)
        log_event(
            "request", logging.DEBUG if route in MONITORING_ROUTES else logging.INFO,
            id=scope["state"]["instance"], client=(scope.get("client") or ("",))[0], method=method,
            route=route, status=status, ms=round(1000 * duration_s, 1), bytes=num_bytes,
        )  # fmt: skip

    async def _handle_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        instance = f"urn:uuid:{uuid.uuid4()}"
        scope.setdefault("state", {})["instance"] = instance
        try:
            self._check_websocket_access(scope)
        except RequestRefused as error:
            log_event("stream refused", id=instance, status=error.status_code)
            response = problem_response(error, instance)
            await send(
                {
                    "type": "websocket.http.response.start",
                    "status": error.status_code,
                    "headers": response.raw_headers,
                }
            )
            await send({"type": "websocket.http.response.body", "body": response.body})
            return
        self._num_streams += 1
        self._metrics.streams.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_streams -= 1
            self._metrics.streams.dec()

    def _check_websocket_access(self, scope: Scope) -> None:
        """Check origin, rate limit, token and limits of a WebSocket request. Raises `RequestRefused`."""
        headers = Headers(scope=scope)
        check_origin(headers, self._settings.cors_origins)
        self._check_rate(scope)
        if "authorization" in headers:  # a browser cannot set it, and sends the token in the first message
            check_authorization(headers, self._settings.token)
            scope["state"]["authorized"] = True
        self._check_stopping()
        max_streams = self._settings.per_worker(self._settings.max_streams)
        if self._num_streams >= max_streams:
            raise server_busy(f"the server has {max_streams} open streams, its limit")


class RequestBody:
    """The body of one request. It refuses a body that is too large or too slow while the body arrives."""

    def __init__(self, scope: Scope, receive: Receive, settings: Settings) -> None:
        headers = Headers(scope=scope)
        self.complete = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        self.num_bytes = 0  # received so far
        self.disconnected = False  # whether the client went away before the end of the body
        self._receive, self._settings = receive, settings
        self._began_s = time.monotonic()

    async def receive(self) -> Message:
        """Return the next ASGI message. Raises `RequestRefused` (408, 413)."""
        if self.complete:
            return self._count(await self._receive())
        with anyio.move_on_after(self._settings.idle_s):
            message = self._count(await self._receive())
            if self.num_bytes > self._settings.max_bytes:
                raise body_too_large(self._settings.max_bytes)
            duration_s = time.monotonic() - self._began_s
            allowed_s = self._settings.idle_s + self.num_bytes / MIN_BYTES_PER_S
            if not self.complete and duration_s > allowed_s:
                raise _too_slow(f"{self.num_bytes} bytes in {duration_s:.0f} s")
            return message
        raise _too_slow(f"no byte for {self._settings.idle_s:g} s")

    async def discard_rest(self) -> None:
        """Receive and discard the rest of the body, within `DISCARD_S` and `MAX_DISCARDED_BYTES`."""
        num_bytes_before = self.num_bytes
        with anyio.move_on_after(DISCARD_S):
            while not self.complete and not self.disconnected:
                if self.num_bytes - num_bytes_before >= MAX_DISCARDED_BYTES:
                    break
                self._count(await self._receive())

    def _count(self, message: Message) -> Message:
        if message["type"] == "http.disconnect":
            self.disconnected = self.disconnected or not self.complete
        else:
            self.num_bytes += len(message.get("body", b""))
            self.complete = self.complete or not message.get("more_body", False)
        return message


def _too_slow(speed: str) -> RequestRefused:
    return RequestRefused(408, "too-slow", f"the request came too slowly: {speed}", {"Connection": "close"})
