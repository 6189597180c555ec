"""Servers for tests: in this process, or as a process of its own on a free port."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import factories as make
import httpx2
import numpy as np
import soundfile
import uvicorn

from emodistill.corpora import DEMO_CORPUS as CORPUS
from emodistill.serving.app import create_app
from emodistill.serving.connections import HttpConnection, WebSocketConnection
from emodistill.serving.server import MAX_MESSAGE_BYTES
from emodistill.serving.settings import Settings

SPEECH = tuple(sorted(CORPUS.glob("audio/*/*"))[:4])  # synthetic speech of 1 to 2 s each, ogg
PROBLEM = "application/problem+json"


def upload(*paths: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """The files of a form."""
    return [("files", (path.name, path.read_bytes())) for path in paths]


def needs_voices(example: str) -> bool:
    """Whether a command of the documentation needs a model with voices."""
    return re.search("voice=|adapt=|/v1/voices", example) is not None


def wav(samples: np.ndarray, rate_hz: int = make.RATE, **options: Any) -> bytes:
    """The bytes of a sound file. `format` is WAV by default."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=options.pop("format", "WAV"), **options)
    return file.getvalue()


def problem(response: Any, status: int) -> dict[str, Any]:
    """The problem document of a response, which must have this status."""
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM), response.text
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["instance"] == f"urn:uuid:{response.headers['x-request-id']}"
    assert {"type", "title", "detail"} <= body.keys()
    return body


@contextmanager
def in_thread(settings: Settings) -> Iterator[int]:
    """The port of a server in this process, so that a test can patch it."""
    config = uvicorn.Config(
        create_app(settings),
        port=0,
        log_config=None,
        http=HttpConnection,
        ws=WebSocketConnection,
        ws_max_size=MAX_MESSAGE_BYTES,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def free_port() -> int:
    """A port that no process uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class Running:
    """A process of `emodistill serve`."""

    process: "subprocess.Popen[str]"
    port: int
    log: Path
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        """The lines of the log so far."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


@contextmanager
def serving(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    """A server process that is ready. It is killed at the end if it still runs."""
    port, log = free_port(), folder / "serve.log"
    command = [
        sys.executable, "-m", "emodistill", "serve", "--port", str(port), "--threads", "2", *options,
    ]  # fmt: skip
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command, stderr=out, stdout=out, text=True, env={**os.environ, **(env or {})}
        )
        running = Running(process, port, log)
        try:
            _wait_until_ready(running)
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _wait_until_ready(running: Running) -> None:
    for _ in range(600):
        try:
            if httpx2.get(f"{running.url}/readyz", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.1)
        if running.process.poll() is not None:
            break
    raise AssertionError(f"the server did not start: {running.log.read_text(encoding='utf-8')}")
