"""The server as a process: clients that are slow, gone, or send too much; how it stops, and what a killed worker costs."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn
from factories_serving import PROBLEM, SPEECH, Running, serving, upload
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from emodistill.audio import load


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


def answers(server: Running) -> bool:
    """Whether the server still works."""
    return httpx2.post(f"{server.url}/v1/predict", files=upload(SPEECH[0]), timeout=60).status_code == 200


def raw(server: Running, head: str, timeout_s: float = 60) -> socket.socket:
    """A connection on which a request has begun."""
    made = socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s)
    made.sendall(head.replace("\n", "\r\n").encode())
    return made


def head_of(connection: socket.socket) -> str:
    """The response up to its body."""
    said = b""
    while b"\r\n\r\n" not in said and (more := connection.recv(4096)):
        said += more
    return said.decode()


POST = "POST /v1/predict HTTP/1.1\nHost: x\nContent-Type: multipart/form-data; boundary=x\n"
PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'


def test_a_gigabyte_is_refused_before_it_is_sent(server: Running) -> None:
    with raw(server, f"{POST}Content-Length: 1000000000\n\n") as connection:
        said = head_of(connection)
    assert said.startswith("HTTP/1.1 413")
    assert PROBLEM in said
    assert answers(server)


def test_a_gigabyte_in_chunks_is_refused_on_the_way(server: Running) -> None:
    sent = 0
    block = b"%x\r\n" % 1_000_000 + bytes(1_000_000) + b"\r\n"
    with raw(server, f"{POST}Transfer-Encoding: chunked\n\n") as connection:
        connection.sendall(b"%x\r\n%s\r\n" % (len(PART), PART))
        try:
            while sent < 1000:
                connection.sendall(block)
                sent += 1
        except OSError:
            pass  # it closed on us, with its answer sent
        said = head_of(connection)
    assert said.startswith("HTTP/1.1 413")
    assert 100 <= sent < 200
    assert answers(server)


def test_a_client_that_goes_half_way_is_forgotten(server: Running) -> None:
    with raw(server, f"{POST}Content-Length: 5000000\n\n") as connection:
        connection.sendall(PART + bytes(100_000))
    assert answers(server)
    for _ in range(100):
        if any(line.get("status") == 499 for line in server.lines()):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("nothing of it in the log")
    text = httpx2.get(f"{server.url}/metrics").text
    assert "emodistill_requests_in_flight 0.0" in text


def test_malformed_websocket_frames_hurt_nobody_else(server: Running) -> None:
    key = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
    with raw(server, f"GET /v1/stream HTTP/1.1\nHost: x\n{key}\n") as connection:
        assert head_of(connection).startswith("HTTP/1.1 101")
        connection.sendall(b"\xff\xff\xff\xff not a frame")
        said = b""
        while more := connection.recv(4096):
            said += more
        assert said[:1] == b"\x88"  # a close frame
        assert int.from_bytes(said[2:4], "big") == 1002
    assert answers(server)


def test_a_slow_client_is_told_so() -> None:
    from emodistill.serving.app import create_app  # the limit is no option of the command line
    from emodistill.serving.settings import Settings

    app = create_app(Settings(threads=1, idle_s=0.5))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                b"Content-Length: 100000\r\n\r\n" + PART
            )  # and then nothing
            said = b"".join(iter(lambda: client.recv(65536), b""))
    finally:
        server.should_exit = True
        thread.join()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert PROBLEM.encode() in said
    assert b"no byte for 0.5 s" in said


def listen(stream: Any, events: list[str]) -> None:
    """Collect events until the server closes."""
    while True:
        events.append(json.loads(stream.recv())["event"])


def test_told_to_stop_it_finishes_what_is_in_flight(tmp_path: Path) -> None:
    sound = np.tile(np.concatenate([load(path) for path in SPEECH]), 4)
    speech = (sound * 32767).astype("<i2").tobytes()
    with serving(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        with connect(f"ws://127.0.0.1:{server.port}/v1/stream", compression=None) as stream:
            stream.send('{"rate": 16000}')
            stream.send(speech[:200_000])
            assert json.loads(stream.recv())["event"] == "started"
            request = pool.submit(
                httpx2.post, f"{server.url}/v1/timeline", files=10 * upload(*SPEECH), timeout=120
            )
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            said = request.result()
            assert said.status_code in (200, 503)  # 503 where it had not even begun
            events: list[str] = []
            with pytest.raises(ConnectionClosed) as closed:
                listen(stream, events)
            assert events[-1] == "summary"
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        assert server.process.wait(60) in (0, -signal.SIGTERM)
        log = [line["event"] for line in server.lines()]
        assert "stopping" in log
        assert "stream" in log


def test_a_killed_worker_is_replaced_and_the_other_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        workers = _children(server.process.pid)
        assert len(workers) >= 2
        os.kill(workers[-1], signal.SIGKILL)
        failed = done = 0
        for _ in range(20):
            try:
                done += answers(server)
            except httpx2.TransportError:  # a connection that the killed one had taken
                failed += 1
        assert failed <= 2
        assert done >= 18
        for _ in range(300):
            if len(_children(server.process.pid)) >= len(workers):
                break
            time.sleep(0.1)
        assert len(_children(server.process.pid)) >= len(workers)
        assert (
            'emodistill_requests_total{method="POST",route="/v1/predict",status="200"}'
            in httpx2.get(f"{server.url}/metrics").text
        )
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) in (0, -signal.SIGTERM)


def _children(process: int) -> list[int]:
    """The worker processes: those that run Python's spawn."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if parent == process and b"spawn_main" in command:
            found.append(int(entry.name))
    return sorted(found)
