"""The limit on how many requests a client may send, counted over all worker processes of a server."""

import ipaddress
import time
from pathlib import Path

from emodistill.serving.shared_database import open_shared_database

FORGET_AFTER_S = 60.0  # an unused bucket is full again by then, and a full bucket need not be stored
SWEEP_EVERY = 1_000  # calls of `take_token`
_TABLE = (
    "CREATE TABLE IF NOT EXISTS buckets (client TEXT PRIMARY KEY, tokens REAL, updated_s REAL) WITHOUT ROWID"
)


class RateLimiter:
    """A token bucket for each client. It holds `per_minute` tokens and fills up within a minute."""

    def __init__(self, per_minute: int | None, file: Path | None = None) -> None:
        """`per_minute=None` means: no limit. All processes that use the same `file` share the buckets."""
        self._per_minute = per_minute
        self._num_calls = 0
        if per_minute is None:
            return
        # `take_token` begins and ends its transaction itself, so a killed process leaves none open. Only the
        # thread of the event loop uses the connection.
        self._database = open_shared_database(file, _TABLE)

    def take_token(self, client: str) -> float:
        """Take a token from a client's bucket and return 0, or return the seconds until the next token.

        `client` is an IP address. Raises `sqlite3.OperationalError` where the buckets cannot be written.
        """
        if self._per_minute is None:
            return 0.0
        now_s, capacity, client = time.monotonic(), float(self._per_minute), _network(client)
        self._database.execute("BEGIN IMMEDIATE")  # keeps other workers out until COMMIT
        try:
            bucket = self._database.execute(
                "SELECT tokens, updated_s FROM buckets WHERE client = ?", (client,)
            ).fetchone()
            tokens, updated_s = bucket or (capacity, now_s)
            tokens = min(capacity, tokens + max(0.0, now_s - updated_s) * capacity / 60)
            allowed = tokens >= 1
            self._database.execute("REPLACE INTO buckets VALUES (?, ?, ?)", (client, tokens - allowed, now_s))
            self._num_calls += 1
            if self._num_calls % SWEEP_EVERY == 0:
                self._database.execute("DELETE FROM buckets WHERE updated_s < ?", (now_s - FORGET_AFTER_S,))
        finally:
            self._database.execute("COMMIT")
        return 0.0 if allowed else (1 - tokens) * 60 / capacity


def _network(client: str) -> str:
    """The IPv4 address of a client, or its IPv6 /64 network, since an IPv6 client owns a whole /64."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:  # the name of a Unix socket, or empty
        return client
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
