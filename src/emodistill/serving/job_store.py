"""The state of all jobs of a server, in one SQLite file that its worker processes share.

The file holds states and results. It holds no audio, and no voice except those of a result.
"""

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emodistill.serving.shared_database import open_shared_database

State = Literal["waiting", "running", "done", "failed"]
MAX_WAITING = 20  # jobs, over all workers
KEEP_S = 3600.0  # a result, and the problem of a failed job
LOST_S = 15.0  # without news of its worker, a job is lost
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, worker TEXT, state TEXT, progress REAL,
    seen_s REAL,  -- when the worker was last alive, or when the job ended
    emotions TEXT, result TEXT, problem TEXT  -- JSON
) WITHOUT ROWID
"""
# Of live jobs and kept results; every other row is as good as deleted.
_VALID = "seen_s > CASE WHEN state IN ('waiting', 'running') THEN :lost ELSE :old END"


@dataclass(frozen=True)
class StoredJob:
    """One job: its state, and its result or its problem if it has ended."""

    id: str
    state: State
    progress: float  # 0 to 1
    emotions: list[str]  # of the recogniser, which the formats of a result need
    result: str | None  # JSON: one row for each file
    problem: dict[str, Any] | None  # a problem document


class JobStore:
    """The jobs of all workers. Each method is one short transaction; only one thread may call them.

    A job and its result are written in one transaction, so a killed worker leaves nothing that reads as done.
    All methods raise `sqlite3.OperationalError` where the file cannot be read or written.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Open the file. None is a file of this process alone, which nobody else can open."""
        self._worker = secrets.token_hex(8)
        # A removed result is overwritten.
        self._database = open_shared_database(file, _TABLE, "PRAGMA secure_delete = ON")

    def num_waiting(self) -> int:
        """The number of jobs that no worker has started."""
        query = f"SELECT count(*) FROM jobs WHERE state = 'waiting' AND {_VALID}"
        return int(self._database.execute(query, _limits()).fetchone()[0])

    def add(self, emotions: list[str]) -> str | None:
        """Add a waiting job of this worker, and return its id; None if `MAX_WAITING` jobs wait."""
        job = secrets.token_hex(16)
        with self._transaction():
            if self.num_waiting() >= MAX_WAITING:
                return None
            row = (job, self._worker, "waiting", 0.0, time.monotonic(), json.dumps(emotions), None, None)
            self._database.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return job

    def start(self, job: str) -> bool:
        """Mark a waiting job as running; False if it was removed."""
        query = "UPDATE jobs SET state = 'running', seen_s = ? WHERE id = ? AND state = 'waiting'"
        return self._database.execute(query, (time.monotonic(), job)).rowcount == 1

    def finish(self, job: str, result: str | None, problem: Mapping[str, Any] | None = None) -> bool:
        """Store the result of a job, or its problem; False if the job was removed."""
        state, progress = ("failed", 0.0) if result is None else ("done", 1.0)
        text = None if problem is None else json.dumps(problem)
        query = (
            "UPDATE jobs SET state = ?, progress = max(progress, ?), seen_s = ?, result = ?, problem = ? "
            "WHERE id = ? AND state = 'running'"
        )
        values = (state, progress, time.monotonic(), result, text, job)
        return self._database.execute(query, values).rowcount == 1

    def update(self, progress: Mapping[str, float]) -> set[str]:
        """Store the progress of this worker's jobs by id, and return the ids of those that were removed.

        Also deletes the jobs of dead workers and old results.
        """
        now_s = time.monotonic()
        query = "UPDATE jobs SET progress = ?, seen_s = ? WHERE id = ? AND state IN ('waiting', 'running')"
        with self._transaction():
            removed = {
                job
                for job, share in progress.items()
                if self._database.execute(query, (share, now_s, job)).rowcount == 0
            }
            self._database.execute(f"DELETE FROM jobs WHERE NOT ({_VALID})", _limits())
        return removed

    def get(self, job: str) -> StoredJob | None:
        """A job; None if it was removed, is lost or too old, or never existed."""
        query = f"SELECT state, progress, emotions, result, problem FROM jobs WHERE id = :job AND {_VALID}"
        row = self._database.execute(query, {**_limits(), "job": job}).fetchone()
        if row is None:
            return None
        state, progress, emotions, result, problem = row
        return StoredJob(
            job,
            state,
            progress,
            json.loads(emotions),
            result,
            None if problem is None else json.loads(problem),
        )

    def remove(self, job: str) -> bool:
        """Remove a job in any state; False if there is none. Its worker notices it at the next `update`."""
        query = f"DELETE FROM jobs WHERE id = :job AND {_VALID}"
        return self._database.execute(query, {**_limits(), "job": job}).rowcount == 1

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")  # keeps other workers out until COMMIT
        try:
            yield
        finally:
            self._database.execute("COMMIT")


def _limits() -> dict[str, float]:
    now_s = time.monotonic()
    return {"lost": now_s - LOST_S, "old": now_s - KEEP_S}
