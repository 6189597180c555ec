"""How often one client may ask, counted by all workers of a server together."""

import ipaddress
import sqlite3
import time
from pathlib import Path

FORGET_AFTER_S = 60.0  # a bucket is full again by then, and a full one is as good as none
SWEEP_EVERY = 1_000  # questions


class Rates:
    """Token buckets: so many requests in a minute for each client, all at once or one after the other."""

    def __init__(self, per_minute: int | None, shared: Path | None = None) -> None:
        """`shared` is a file in which several processes count together; without it, this one counts alone."""
        self._per_minute = per_minute
        self._asked = 0
        if per_minute is None:
            return
        # Autocommit: each transaction below is begun by hand, and a process that is killed leaves none open. Used on the event loop's thread alone.
        self._held = sqlite3.connect(
            shared or ":memory:", timeout=5, isolation_level=None, check_same_thread=False
        )
        self._held.execute("PRAGMA journal_mode = WAL")
        self._held.execute("PRAGMA synchronous = OFF")  # nothing of it is to outlive the server
        self._held.execute(
            "CREATE TABLE IF NOT EXISTS held (client TEXT PRIMARY KEY, tokens REAL, at REAL) WITHOUT ROWID"
        )

    def wait_s(self, client: str) -> float:
        """0, and a request is counted; or how long until the next may come."""
        if self._per_minute is None:
            return 0.0
        now, most, client = time.monotonic(), float(self._per_minute), _network(client)
        self._held.execute("BEGIN IMMEDIATE")  # no other worker looks in between
        try:
            found = self._held.execute("SELECT tokens, at FROM held WHERE client = ?", (client,)).fetchone()
            tokens, at = found or (most, now)
            tokens = min(most, tokens + max(0.0, now - at) * most / 60)
            passes = tokens >= 1
            self._held.execute("REPLACE INTO held VALUES (?, ?, ?)", (client, tokens - passes, now))
            self._asked += 1
            if self._asked % SWEEP_EVERY == 0:
                self._held.execute("DELETE FROM held WHERE at < ?", (now - FORGET_AFTER_S,))
        finally:
            self._held.execute("COMMIT")
        return 0.0 if passes else (1 - tokens) * 60 / most


def _network(client: str) -> str:
    """Who is counted as one: an IPv4 address, or the /64 out of which an IPv6 client may take any address."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:  # a socket's name, or nothing
        return client
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
