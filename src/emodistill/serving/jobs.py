"""Jobs: timelines of long files, which the server goes on with when the client has disconnected."""

import logging
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from os import SEEK_CUR, SEEK_END, SEEK_SET
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

from anyio import CancelScope, CapacityLimiter, create_task_group, from_thread, sleep, to_thread
from anyio.abc import TaskGroup
from starlette.exceptions import HTTPException

from emodistill.serving.job_store import MAX_WAITING
from emodistill.serving.logs import log_event
from emodistill.serving.problems import (
    INTERNAL_ERROR,
    RequestRefused,
    problem_content,
    server_busy,
    to_http_error,
)
from emodistill.serving.service import Service

BEAT_S = 1.0  # from one update of the stored progress to the next
RETRY_S = 30  # for a client that is refused because too many jobs wait
SLICE_S = 0.25  # of computing, after which a job lets waiting requests have its turn
_COPY_BYTES = 2**20

NamedFiles = Sequence[tuple[str, BinaryIO]]
Work = Callable[[NamedFiles], Awaitable[str]]  # returns the JSON of a result


class Turn:
    """A job's place among the recordings that the server processes at the same time.

    A job gives its place to waiting requests every `SLICE_S`, and then waits in order for the next one. So a
    request waits for a part of a job, and never for a whole one.
    """

    def __init__(self, turns: CapacityLimiter) -> None:
        self._turns = turns
        self._began_s = 0.0

    async def __aenter__(self) -> None:
        await self._take()

    async def __aexit__(self, *_: object) -> None:
        self._turns.release_on_behalf_of(self)

    def pause(self) -> None:
        """Give the place away if others wait. A thread of the job calls this often."""
        if time.perf_counter() - self._began_s > SLICE_S and self._turns.statistics().tasks_waiting:
            from_thread.run(self._next)

    async def _next(self) -> None:
        self._turns.release_on_behalf_of(self)
        await self._take()

    async def _take(self) -> None:
        with CancelScope(shield=True):  # `pause` must return with the place
            await self._turns.acquire_on_behalf_of(self)
        self._began_s = time.perf_counter()


@dataclass
class _Job:
    """A job that this process has accepted and not ended."""

    id: str
    instance: str  # of the request that submitted it, for the log
    upload: BinaryIO  # all files of the job, one after the other
    sizes: Sequence[tuple[str, int]]  # of its files: name, bytes
    work: Work
    turn: Turn
    passes: Sequence[float]  # over each file: their shares of the time, which sum to 1
    opened: list["_JobFile"] = field(default_factory=list)
    cancelled: bool = False
    submitted_s: float = field(default_factory=time.perf_counter)

    @property
    def progress(self) -> float:
        """The share of the work that is done, 0 to 1, judged by the bytes that were read."""
        num_bytes = sum(size for _, size in self.sizes)
        return min(1.0, sum(file.bytes_done for file in self.opened) / max(1, num_bytes))

    def files(self) -> NamedFiles:
        """The files of the upload, with their names."""
        files, start = [], 0
        for name, size in self.sizes:
            self.opened.append(_JobFile(self, start, start + size))
            files.append((name, cast(BinaryIO, self.opened[-1])))
            start += size
        return files


class _JobFile:
    """One file of a job's upload. Reading counts as progress, and lets others have the job's turn.

    Once the job is cancelled, the file seems to end, so the decoder stops.
    """

    closed = False

    def __init__(self, job: _Job, start: int, end: int) -> None:
        self._job, self._start, self._end = job, start, end
        self._position = start
        self._num_read = 0

    @property
    def bytes_done(self) -> float:
        """The bytes of the file, times the share of its passes that is done."""
        size = self._end - self._start
        done = 0.0
        for index, share in enumerate(self._job.passes):
            done += share * min(size, max(0, self._num_read - index * size))
        return done

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, or all."""
        job = self._job
        job.turn.pause()
        if job.cancelled:
            return b""
        left = max(0, self._end - self._position)
        job.upload.seek(self._position)
        data = job.upload.read(left if size < 0 else min(size, left))
        self._position += len(data)
        self._num_read += len(data)
        return data

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Set the position, as a file does."""
        base = {SEEK_SET: self._start, SEEK_CUR: self._position, SEEK_END: self._end}[whence]
        self._position = max(self._start, base + offset)
        return self.tell()

    def tell(self) -> int:
        """The position."""
        return self._position - self._start

    def seekable(self) -> bool:
        """True."""
        return True


class Jobs:
    """The jobs of one process. Their states are in `Service.job_store`, which all processes share."""

    def __init__(self, service: Service) -> None:
        self._service, self._store = service, service.job_store
        self._running = CapacityLimiter(service.settings.threads)
        self._jobs: dict[str, _Job] = {}
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Process jobs within the block. At its end, all jobs that have not ended are cancelled."""
        async with create_task_group() as tasks:
            self._tasks = tasks
            beat = CancelScope()
            tasks.start_soon(self._beat, beat)
            try:
                yield
            finally:
                self._tasks = None
                beat.cancel()
                self._cancel_all()

    def check_room(self) -> None:
        """Raise `RequestRefused` (503) if no more jobs may wait."""
        if self._store.num_waiting() >= MAX_WAITING:
            raise _too_many_jobs()

    async def submit(
        self,
        files: NamedFiles,
        work: Work,
        emotions: Sequence[str],
        instance: str,
        passes: Sequence[float] = (1.0,),
    ) -> str:
        """Keep a copy of the files, start the job as soon as possible, and return its id.

        The work reads each file once for each of `passes`: their shares of the time, which sum to 1.

        Raises `RequestRefused` (503), and `OSError` where the files cannot be kept.
        """
        upload, sizes = await to_thread.run_sync(_copy, files, limiter=self._service.decoder_threads)
        if self._tasks is None:
            upload.close()
            raise server_busy("the server is stopping")
        try:
            id = self._store.add(list(emotions))
            if id is None:
                raise _too_many_jobs()
        except BaseException:
            upload.close()
            raise
        job = _Job(id, instance, upload, sizes, work, Turn(self._service.turns), passes)
        self._jobs[id] = job
        self._tasks.start_soon(self._process, job)
        return id

    async def _process(self, job: _Job) -> None:
        """Wait for a thread, do the work, and store its result or its problem."""
        outcome, began_s = "cancelled", job.submitted_s
        try:
            async with self._running, job.turn:
                began_s = time.perf_counter()
                if not job.cancelled and self._store.start(job.id):
                    outcome = await self._work(job)
        except Exception as error:  # a full disk, for instance; other jobs go on
            outcome = "failed"
            log_event("a job's state cannot be stored", logging.ERROR, exc_info=error, id=job.instance)
        finally:
            job.upload.close()
            self._jobs.pop(job.id, None)
        self._service.metrics.jobs.labels(outcome).inc()
        log_event(
            "job", id=job.instance, outcome=outcome, waited_ms=round(1000 * (began_s - job.submitted_s), 1),
            ms=round(1000 * (time.perf_counter() - began_s), 1),
        )  # fmt: skip

    async def _work(self, job: _Job) -> str:
        """Do the work and store what comes of it. Returns the outcome: done, failed or cancelled."""
        result, problem = None, None
        try:
            result = await job.work(job.files())
        except Exception as error:
            problem = self._problem(error, job)
        job.upload.close()  # before the result can be read
        if job.cancelled or not self._store.finish(job.id, result, problem):
            return "cancelled"
        return "done" if problem is None else "failed"

    def _problem(self, error: Exception, job: _Job) -> dict[str, Any]:
        """The problem document for the error of a job's work. The log has the errors of the server."""
        try:
            return problem_content(error if isinstance(error, HTTPException) else to_http_error(error), None)
        except Exception:
            if not job.cancelled:
                log_event("a job failed", logging.ERROR, exc_info=error, id=job.instance)
            return problem_content(HTTPException(500, INTERNAL_ERROR), None)

    async def _beat(self, scope: CancelScope) -> None:
        """Store the progress of all jobs every `BEAT_S`, and cancel those that were removed."""
        with scope:
            while True:
                await sleep(BEAT_S)
                if self._service.draining:  # nobody could ask for their results
                    self._cancel_all()
                try:
                    progress = {job.id: job.progress for job in self._jobs.values()}
                    for id in self._store.update(progress):
                        if id in self._jobs:
                            self._jobs[id].cancelled = True
                except sqlite3.OperationalError as error:
                    log_event("the progress of jobs cannot be stored", logging.ERROR, reason=str(error))

    def _cancel_all(self) -> None:
        for job in self._jobs.values():
            job.cancelled = True


def _copy(files: NamedFiles) -> tuple[BinaryIO, list[tuple[str, int]]]:
    """One temporary file with the content of all files, and their names and sizes.

    The file has no name on the disk, so it disappears with the process, also with one that is killed.
    """
    upload = TemporaryFile()  # noqa: SIM115 (the job closes it)
    try:
        sizes, start = [], 0
        for name, file in files:
            file.seek(0)
            shutil.copyfileobj(file, upload, _COPY_BYTES)
            end = upload.tell()
            sizes.append((name, end - start))
            start = end
    except BaseException:
        upload.close()
        raise
    return upload, sizes


def _too_many_jobs() -> RequestRefused:
    detail = f"{MAX_WAITING} jobs are waiting, the limit; try again in {RETRY_S} s"
    return RequestRefused(503, "busy", detail, {"Retry-After": str(RETRY_S)})
