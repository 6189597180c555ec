"""uvicorn's connection classes with time limits, so that slow clients do not hold connections open."""

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_S = 30.0  # for a whole request head, from the start of the connection or the request's first byte
UNREAD_S = 60  # after which a client that reads nothing of what the server sends is disconnected
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HttpConnection(H11Protocol):
    """An HTTP/1.1 connection with a time limit for the head of each request. uvicorn itself has none."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first head."""
        super().connection_made(transport)
        _limit_unread_time(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the timer where the head is complete or the connection became a WebSocket, else start it."""
        super().data_received(data)
        if self.transport.get_protocol() is not self or self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._answer_too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _answer_too_slow(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
            self.transport.close()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket connection that stores no answers to pings for a client that does not read them."""

    def handle_ping(self) -> None:
        """Answer a ping, or disconnect a client that does not read."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.transport.abort()


def _limit_unread_time(transport: asyncio.Transport) -> None:
    """Make the kernel disconnect a client that acknowledges nothing, or keeps its window shut (RFC 5482)."""
    connection: Any = transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNREAD_S)
