"""`emodistill serve`: starts the worker processes, and stops them without losing work."""

import errno
import json
import os
import shutil
import signal
import socket
import threading
import time
from asyncio import AbstractEventLoop, Task, get_running_loop
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from logging import ERROR, WARNING
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI

from emodistill.errors import ConfigError, EmodistillError
from emodistill.partial_folders import temporary_folder
from emodistill.serving.logs import log_event, log_to_stderr
from emodistill.serving.service import Service
from emodistill.serving.settings import Settings

MAX_MESSAGE_BYTES = 1 << 20  # of one WebSocket message; a longer one closes the stream with code 1009
CANCEL_S = 2  # after the grace period, uvicorn waits this long before it cancels what is left
MIN_FREE_BYTES = 2**20  # on the disk of the temporary folder, before a worker starts
RETRY_S = 5.0
_SETTINGS_VARIABLE = "EMODISTILL_SERVE"  # passes the settings to the worker processes
_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # the folder in which the workers share their metrics


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8000, proxies: Sequence[str] = ()) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the work in progress.

    `proxies` are addresses or networks of trusted proxies. Only they may name the client's address
    (X-Forwarded-For) and scheme (X-Forwarded-Proto). Other clients could give a false address.

    Raises `ModelError` and `ConfigError` for settings that cannot be served, before it opens the port.
    """
    options: dict[str, Any] = {
        "host": host, "port": port, "log_config": None, "access_log": False, "server_header": False,
        "http": "emodistill.serving.connections:HttpConnection",
        "ws": "emodistill.serving.connections:WebSocketConnection",
        "ws_max_size": MAX_MESSAGE_BYTES, "ws_per_message_deflate": False,
        "proxy_headers": bool(proxies), "forwarded_allow_ips": list(proxies),
        "timeout_graceful_shutdown": CANCEL_S, "timeout_keep_alive": 15, "timeout_worker_healthcheck": 60,
    }  # fmt: skip
    log_to_stderr()
    _check_proxies(proxies)
    _check_address(host, port)
    if settings.workers == 1:
        app = _create_app(settings)
        _log_start(settings, host, port)
        uvicorn.run(app, **options)
        return
    Service(settings)  # a model that cannot be loaded is reported here, once, and not by each worker
    _log_start(settings, host, port)
    secret = settings.token and settings.token.get_secret_value()
    with temporary_folder("serve") as folder:
        if not _has_space(folder):
            raise ConfigError(
                f"no space left in '{folder}', where the workers share metrics and jobs: free some, or set "
                "TMPDIR to another folder"
            )
        os.environ[_METRICS_VARIABLE] = str(folder)
        files = {"rate_limit_file": "rates.sqlite", "jobs_file": "jobs.sqlite"}
        shared = {"token": secret, **{name: str(folder / file) for name, file in files.items()}}
        os.environ[_SETTINGS_VARIABLE] = json.dumps({**settings.model_dump(mode="json"), **shared})
        uvicorn.run(
            "emodistill.serving.server:create_worker_app", factory=True, workers=settings.workers, **options
        )


def _log_start(settings: Settings, host: str, port: int) -> None:
    log_event(
        "serving", url=f"http://{host}:{port}/", models=settings.models, workers=settings.workers,
        threads=settings.threads, provider=settings.provider,
    )  # fmt: skip
    if settings.token is None and host not in ("127.0.0.1", "::1", "localhost"):
        log_event("no token: everybody who can reach this address may use the server; set --token", WARNING)


def _check_address(host: str, port: int) -> None:
    """Raise `ConfigError` where the server cannot listen: the port is in use, or the address is not ours.

    uvicorn would report it only after the models are loaded, and in several lines.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in addresses[:1]:
            with socket.socket(family, kind, protocol) as tried:
                if os.name == "posix":  # else a port that was used a minute ago counts as in use
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use: stop the program that uses it, or choose another --port"
            ) from error
        raise ConfigError(f"cannot listen at {host}, port {port}: {error.strerror}") from error


def create_worker_app() -> FastAPI:
    """The app of a worker process, with the settings of its parent process."""
    log_to_stderr()
    folder = Path(os.environ[_METRICS_VARIABLE])
    _remove_dead_workers(folder)
    while not _has_space(folder):
        log_event("a new worker waits until the disk has space", ERROR, folder=str(folder))
        time.sleep(RETRY_S)
    try:
        return _create_app(Settings.model_validate_json(os.environ[_SETTINGS_VARIABLE]))
    except (EmodistillError, OSError, MemoryError) as error:  # it could start when the parent process began
        text = str(error) or "not enough memory"
        log_event("a new worker cannot start, and is tried again", ERROR, error=text)
        time.sleep(RETRY_S)  # uvicorn starts another one at once
        raise SystemExit(1) from error


def _create_app(settings: Settings) -> FastAPI:
    # Imported late: prometheus-client reads _METRICS_VARIABLE when it is imported.
    from emodistill.serving.app import create_app

    return create_app(settings, finish_before_stop)


@contextmanager
def finish_before_stop(service: Service) -> Iterator[None]:
    """Within the block, delay a stop signal until the work in progress is done or the grace period is over.

    From the first signal on, the service refuses new work with 503. A second signal reaches uvicorn at once.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield
        return
    loop = get_running_loop()
    uvicorn_handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    tasks: set[Task[None]] = set()

    def handle(number: int, frame: FrameType | None) -> None:
        handler = uvicorn_handlers[signal.Signals(number)]
        if service.draining or not callable(handler):
            if callable(handler):
                handler(number, frame)
            return
        service.draining = True
        work = _drain(service, lambda: handler(number, frame))
        loop.call_soon_threadsafe(_start_task, loop, work, tasks)

    for number in uvicorn_handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in uvicorn_handlers.items():
            signal.signal(number, handler)


async def _drain(service: Service, stop: Callable[[], Any]) -> None:
    log_event("stopping", streams=len(service.streams), requests=service.num_requests)
    with anyio.move_on_after(service.settings.grace_s):
        await service.drain()
    stop()


def _start_task(loop: AbstractEventLoop, work: Coroutine[Any, Any, None], tasks: set[Task[None]]) -> None:
    tasks.add(loop.create_task(work))  # `tasks` keeps the task alive; the loop holds only a weak reference


def _check_proxies(proxies: Sequence[str]) -> None:
    """Check that each proxy is an address or a network. Raises `ConfigError`.

    uvicorn takes anything else for a host name, and then trusts no proxy, without a message.
    """
    for proxy in proxies:
        try:
            ip_network(proxy)
        except ValueError as error:
            raise ConfigError(
                f"bad proxy '{proxy}', expected an address or a network such as 127.0.0.1 or 10.0.0.0/8 "
                f"({error})"
            ) from error


def _has_space(folder: Path) -> bool:
    """Return whether a worker can write its metrics, which are memory of a file.

    The system kills a process that writes to such memory where the disk is full.
    """
    return shutil.disk_usage(folder).free >= MIN_FREE_BYTES


def _remove_dead_workers(folder: Path) -> None:
    """Remove killed workers from the metrics, so that their streams and requests no longer count as open."""
    from prometheus_client import multiprocess

    for path in folder.glob("gauge_live*_*.db"):
        process = int(path.stem.rpartition("_")[2])
        try:
            os.kill(process, 0)  # signal 0 only asks whether the process exists
        except ProcessLookupError:
            multiprocess.mark_process_dead(process, str(folder))
