"""`emodistill serve`: worker processes, their log, and how they stop."""

import json
import os
import signal
import tempfile
import threading
from asyncio import AbstractEventLoop, Task, get_running_loop
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from logging import WARNING
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI

from emodistill.errors import ConfigError
from emodistill.serving.logs import log_event, to_stderr
from emodistill.serving.service import Service
from emodistill.serving.settings import Settings

MOST_MESSAGE_BYTES = 1 << 20  # of one WebSocket message; more is closed with 1009
CUT_SHORT_S = 2  # after the grace: what is left of it is cancelled
_SETTINGS = "EMODISTILL_SERVE"  # how a worker process is told its settings
_COUNTS = "PROMETHEUS_MULTIPROC_DIR"  # where workers leave their counts for each other


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8000, proxies: Sequence[str] = ()) -> None:
    """Serve until told to stop by SIGTERM or Ctrl-C; then finish what is in flight.

    `proxies` are addresses or networks whose word is taken for who the client is (X-Forwarded-For) and how it
    came (X-Forwarded-Proto); anybody else could call himself what he likes.
    Raises `ModelError` and `ConfigError` for models that cannot be served, before anything is listened to.
    """
    options: dict[str, Any] = {
        "host": host, "port": port, "log_config": None, "access_log": False, "server_header": False,
        "http": "emodistill.serving.connections:Http", "ws": "emodistill.serving.connections:Stream",
        "ws_max_size": MOST_MESSAGE_BYTES, "ws_per_message_deflate": False,
        "proxy_headers": bool(proxies), "forwarded_allow_ips": list(proxies),
        "timeout_graceful_shutdown": CUT_SHORT_S, "timeout_keep_alive": 15, "timeout_worker_healthcheck": 60,
    }  # fmt: skip
    to_stderr()
    _check_networks(proxies)
    log_event(
        "serving",
        url=f"http://{host}:{port}/",
        models=settings.models,
        workers=settings.workers,
        threads=settings.threads,
    )
    if settings.token is None and host not in ("127.0.0.1", "::1", "localhost"):
        log_event("everybody who reaches this address may use it: give --token", WARNING)
    if settings.workers == 1:
        uvicorn.run(_app(settings), **options)
        return
    Service(settings)  # what cannot be loaded is told once, and here
    secret = settings.token and settings.token.get_secret_value()
    with tempfile.TemporaryDirectory(prefix="emodistill-counts-") as counts:
        os.environ[_COUNTS] = counts
        shared = {"token": secret, "shared": str(Path(counts) / "rates.sqlite")}
        os.environ[_SETTINGS] = json.dumps({**settings.model_dump(mode="json"), **shared})
        uvicorn.run("emodistill.serving.server:worker_app", factory=True, workers=settings.workers, **options)


def worker_app() -> FastAPI:
    """The app of a worker process."""
    to_stderr()
    _forget_dead_workers(Path(os.environ[_COUNTS]))
    return _app(Settings.model_validate_json(os.environ[_SETTINGS]))


def _app(settings: Settings) -> FastAPI:
    from emodistill.serving.app import (
        create_app,  # prometheus-client looks for the folder when it is imported
    )

    return create_app(settings, stopping_gently)


@contextmanager
def stopping_gently(service: Service) -> Iterator[None]:
    """Until the end of the block, a signal to stop reaches uvicorn when what is in flight is done, or the grace is over.

    From the first signal on, new work is refused with 503; a second one is passed on at once.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are not for it
        yield
        return
    loop = get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    tasks: set[Task[None]] = set()

    def stop(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        if service.draining or not callable(handler):
            if callable(handler):
                handler(number, frame)
            return
        service.draining = True
        loop.call_soon_threadsafe(_start, loop, _drain(service, lambda: handler(number, frame)), tasks)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _drain(service: Service, then: Any) -> None:
    log_event("stopping", streams=len(service.streams), requests=service.num_requests)
    with anyio.move_on_after(service.settings.grace_s):
        await service.drain()
    then()


def _start(loop: AbstractEventLoop, work: Any, tasks: set[Task[None]]) -> None:
    tasks.add(loop.create_task(work))  # the loop itself keeps no hold of it


def _check_networks(proxies: Sequence[str]) -> None:
    """uvicorn takes what is no address for a name, and trusts nobody then, silently. Raises `ConfigError`."""
    for proxy in proxies:
        try:
            ip_network(proxy)
        except ValueError as error:
            raise ConfigError(
                f"bad proxy '{proxy}', expected an address or a network such as 127.0.0.1 or 10.0.0.0/8 ({error})"
            ) from error


def _forget_dead_workers(folder: Path) -> None:
    """Streams and requests of a worker that was killed are not open any more."""
    from prometheus_client import multiprocess

    for path in folder.glob("gauge_live*_*.db"):
        number = int(path.stem.rpartition("_")[2])
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(number, str(folder))
