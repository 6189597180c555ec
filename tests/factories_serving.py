"""Servers to test: in this process, or as a process of their own on a free port."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from emodistill.demo import CORPUS

SPEECH = tuple(sorted(CORPUS.glob("audio/*/*"))[:4])  # a second or two of a synthesiser each, ogg
PROBLEM = "application/problem+json"


def upload(*paths: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """Files of a form."""
    return [("files", (path.name, path.read_bytes())) for path in paths]


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Running:
    """`emodistill serve`, started."""

    process: "subprocess.Popen[str]"
    port: int
    log: Path
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


@contextmanager
def serving(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    """A server of its own, ready; killed at the end if it still runs."""
    port, log = free_port(), folder / "serve.log"
    command = [
        sys.executable,
        "-m",
        "emodistill.cli",
        "serve",
        "--port",
        str(port),
        "--threads",
        "2",
        *options,
    ]
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
