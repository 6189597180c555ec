"""SQLite files that all worker processes of a server share."""

import sqlite3
import time
from pathlib import Path

TIMEOUT_S = 5.0  # to wait for other processes


def open_shared_database(file: Path | None, table: str, *more: str) -> sqlite3.Connection:
    """Open a file, or a temporary database for None, and run the statement that creates its `table`.

    `more` are statements that run before it. The connection commits each statement by itself. Several threads
    may use it, one after the other.

    Raises `sqlite3.OperationalError` where the file cannot be read or written.
    """
    # An empty name is a temporary database on the disk: it disappears with the process.
    database = sqlite3.connect(file or "", TIMEOUT_S, isolation_level=None, check_same_thread=False)
    give_up_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:  # SQLite does not wait where several processes begin a file
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.01)
    database.execute("PRAGMA synchronous = OFF")  # the content need not outlive the server
    for statement in (*more, table):
        database.execute(statement)
    return database
