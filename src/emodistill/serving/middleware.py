"""Who gets in, and how much of it: what every request passes before and after it is answered.

Identity for the log, bearer token, rate, requests at a time, bytes, slow clients; then the log and the metrics.
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
from emodistill.serving.logs import log_event
from emodistill.serving.problems import Refused, busy, refusal, too_large
from emodistill.serving.rates import Rates
from emodistill.serving.service import Service
from emodistill.serving.settings import Settings

SLOWEST_BYTES_PER_S = 1_000  # below this on average a body takes too long
# What a refused client still sends is thrown away, so long and so much of it: a proxy that finds the connection closed
# while it passes an upload on drops the answer that it has.
LINGER_S = 2.0  # within what a server that is told to stop leaves a request
LINGER_BYTES = 64_000_000
# Others are counted as one: a client may invent them.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
QUIET = ("/healthz", "/readyz", "/metrics")  # asked for every few seconds
_NOTHING = "default-src 'none'; frame-ancestors 'none'"


class AccessMiddleware:
    """ASGI middleware around an app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._settings, self._metrics = service.settings, service.metrics
        self._rates = Rates(self._settings.rate_per_minute, self._settings.shared)
        self._streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, stream, or the app's own life."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        instance = f"urn:uuid:{uuid.uuid4()}"
        scope.setdefault("state", {})["instance"] = instance
        body = Body(scope, receive, self._settings)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = 499 if body.gone else message["status"]  # which nobody will read
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Content-Security-Policy", _NOTHING)
                headers.setdefault("Cache-Control", "no-store")
                if not body.whole:  # else what still comes would be read to its end
                    headers["Connection"] = "close"
                headers["X-Request-ID"] = instance.removeprefix("urn:uuid:")
            if message["type"] == "http.response.body" and not message.get("more_body") and not body.whole:
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            try:
                self._check(scope)
            except Refused as error:  # who is refused takes up no place, however long he goes on sending
                await refusal(error, instance)(scope, body.receive, answer)
            else:
                with self._counted(scope):
                    await self._app(scope, body.receive, answer)
        finally:
            self._tell(scope, status or (499 if body.gone else 500), time.perf_counter() - began, body.taken)

    @contextmanager
    def _counted(self, scope: Scope) -> Iterator[None]:
        working = scope["method"] == "POST"
        self._service.num_requests += working
        self._metrics.in_flight.inc(working)
        try:
            yield
        finally:
            self._service.num_requests -= working
            self._metrics.in_flight.dec(working)

    def _check(self, scope: Scope) -> None:
        """Raises `Refused`."""
        headers, path = Headers(scope=scope), scope["path"]
        if path.startswith("/v1/"):  # before the token: so often may one guess it
            self._check_rate(scope)
        if path.startswith("/v1/") or path == "/metrics":
            check_authorization(headers, self._settings.token)
        if scope["method"] == "POST":
            self._check_stopping()
        most = self._settings.of_one_worker(self._settings.max_requests)
        if scope["method"] == "POST" and self._service.num_requests >= most:
            raise busy(f"{most} requests are being answered already")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._settings.max_bytes:
            raise too_large(self._settings.max_bytes)

    def _check_rate(self, scope: Scope) -> None:
        try:
            wait_s = self._rates.wait_s((scope.get("client") or ("", 0))[0])
        except sqlite3.OperationalError as error:  # the disk is full, say: better nobody than everybody
            log_event("rates cannot be counted", logging.ERROR, why=str(error))
            raise busy("requests cannot be counted") from error
        if wait_s > 0:
            raise Refused(
                429, "too-many", f"over {self._settings.rate_per_minute} requests in a minute",
                {"Retry-After": str(int(wait_s) + 1)},
            )  # fmt: skip

    def _check_stopping(self) -> None:
        if self._service.draining:
            raise busy("the server is stopping")

    def _tell(self, scope: Scope, status: int, lasted_s: float, num_bytes: int) -> None:
        route = getattr(scope.get("route"), "path", None) or "unknown"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.latency_s.labels(route).observe(lasted_s)
        log_event(
            "request", logging.DEBUG if route in QUIET else logging.INFO,
            id=scope["state"]["instance"], client=(scope.get("client") or ("",))[0], method=method,
            route=route, status=status, ms=round(1000 * lasted_s, 1), bytes=num_bytes,
        )  # fmt: skip

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["instance"] = f"urn:uuid:{uuid.uuid4()}"
        headers = Headers(scope=scope)
        try:
            check_origin(headers, self._settings.cors_origins)
            self._check_rate(scope)
            if "authorization" in headers:  # else in the first message: a browser has no other way
                check_authorization(headers, self._settings.token)
                scope["state"]["trusted"] = True
            self._check_stopping()
            most = self._settings.of_one_worker(self._settings.max_streams)
            if self._streams >= most:
                raise busy(f"{most} streams are open already")
        except Refused as error:
            response = refusal(error, scope["state"]["instance"])
            log_event("stream refused", id=scope["state"]["instance"], status=error.status_code)
            await send(
                {
                    "type": "websocket.http.response.start",
                    "status": error.status_code,
                    "headers": response.raw_headers,
                }
            )
            await send({"type": "websocket.http.response.body", "body": response.body})
            return
        self._streams += 1
        self._metrics.streams.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams -= 1
            self._metrics.streams.dec()


class Body:
    """The body of one request: counted, timed, and refused where it is too large or too slow."""

    def __init__(self, scope: Scope, receive: Receive, settings: Settings) -> None:
        headers = Headers(scope=scope)
        self.whole = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        self.taken = 0  # bytes
        self.gone = False
        self._receive, self._settings = receive, settings
        self._began = time.monotonic()

    async def receive(self) -> Message:
        """The next message. Raises `Refused`."""
        if self.whole:
            return self._seen(await self._receive())
        with anyio.move_on_after(self._settings.idle_s):
            message = self._seen(await self._receive())
            if self.taken > self._settings.max_bytes:
                raise too_large(self._settings.max_bytes)
            lasted_s = time.monotonic() - self._began
            if not self.whole and lasted_s > self._settings.idle_s + self.taken / SLOWEST_BYTES_PER_S:
                raise _too_slow(f"{self.taken} bytes in {lasted_s:.0f} s")
            return message
        raise _too_slow(f"no byte for {self._settings.idle_s:g} s")

    async def drain(self) -> None:
        """Throw away, for a while, what still comes."""
        before = self.taken
        with anyio.move_on_after(LINGER_S):
            while not self.whole and not self.gone and self.taken - before < LINGER_BYTES:
                self._seen(await self._receive())

    def _seen(self, message: Message) -> Message:
        if message["type"] == "http.disconnect":
            self.gone = self.gone or not self.whole
        else:
            self.taken += len(message.get("body", b""))
            self.whole = self.whole or not message.get("more_body", False)
        return message


def _too_slow(how: str) -> Refused:
    return Refused(408, "too-slow", f"the request came too slowly: {how}", {"Connection": "close"})
