"""Connections that are not kept for nothing: uvicorn's own, with an end to what a client may leave undone."""

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_S = 30.0  # for the head of a request, from the connection's first moment or the request's first byte
UNREAD_S = 60  # a client that takes nothing of what it is sent is cut off
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Http(H11Protocol):
    """HTTP/1.1. uvicorn itself waits for a head for ever."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        _cut_off_who_does_not_read(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Wait no longer where the head is whole, or the connection has become a stream; else begin to."""
        super().data_received(data)
        if self.transport.get_protocol() is not self or self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
            self.transport.close()


class Stream(WebSocketsSansIOProtocol):
    """WebSocket. uvicorn itself keeps its answers to pings for whoever sends them and reads none."""

    def handle_ping(self) -> None:
        """Answer, or cut off."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.transport.abort()


def _cut_off_who_does_not_read(transport: asyncio.Transport) -> None:
    """Of the kernel, RFC 5482: it holds for data that nobody acknowledges and for a window that stays shut."""
    opened: Any = transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT") and opened.family in (socket.AF_INET, socket.AF_INET6):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNREAD_S)
