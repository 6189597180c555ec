"""The server as a process: difficult clients, the end of the server, and a worker that is killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from factories_disks import mounted
from factories_serving import PROBLEM, SPEECH, Running, in_thread, serving, upload
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from emodistill.audio.waveform import load
from emodistill.errors import ModelError
from emodistill.serving import connections
from emodistill.serving.settings import Settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


def answers(server: Running) -> bool:
    """Whether the server answers a request."""
    return httpx2.post(f"{server.url}/v1/predict", files=upload(SPEECH[0]), timeout=60).status_code == 200


def connected(port: int, timeout_s: float = 30) -> socket.socket:
    """A connection without any request yet."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_s)


def begin_request(server: Running, head: str, timeout_s: float = 60) -> socket.socket:
    """A connection on which the head of a request was sent."""
    connection = connected(server.port, timeout_s)
    connection.sendall(head.replace("\n", "\r\n").encode())
    return connection


def head_of(connection: socket.socket) -> str:
    """The head of the response."""
    response = b""
    while b"\r\n\r\n" not in response and (more := connection.recv(4096)):
        response += more
    return response.decode()


POST = "POST /v1/predict HTTP/1.1\nHost: x\nContent-Type: multipart/form-data; boundary=x\n"
UPGRADE = (
    "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
)
PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'


def test_a_declared_gigabyte_is_refused_before_it_is_sent(server: Running) -> None:
    with begin_request(server, f"{POST}Content-Length: 1000000000\n\n") as connection:
        response = head_of(connection)
    assert response.startswith("HTTP/1.1 413")
    assert PROBLEM in response
    assert answers(server)


def test_an_hour_of_stereo_is_within_the_limit_of_bytes(server: Running) -> None:
    limits = httpx2.get(f"{server.url}/v1/models").json()["limits"]
    assert limits["max_seconds"] == 3600
    assert 3600 * 16_000 * 2 * 2 + 10_000 < limits["max_bytes"] == Settings().max_bytes


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_one_line_of_error(server: Running, workers: str) -> None:
    done = run_serve("--port", str(server.port), "--workers", workers)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: port {server.port} of 127.0.0.1 is in use: stop the program that uses it, or choose another "
        "--port\n"
    )
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--grace", "inf"], "error: grace_s: bad value inf, expected a finite number\n"),
        (
            ["--host", "192.0.2.5"],
            "error: cannot listen at 192.0.2.5, port 8123: Cannot assign requested address\n",
        ),
        (["--token", ""], "error: bad token"),
    ],
)
def test_an_option_that_cannot_be_served_is_one_line_of_error(options: list[str], expected: str) -> None:
    done = run_serve("--port", "8123", *options)
    assert done.returncode == 2
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1


def run_serve(*options: str) -> "subprocess.CompletedProcess[str]":
    """What `emodistill serve` prints, and its exit code, where it cannot serve."""
    command = [sys.executable, "-m", "emodistill", "serve", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_server_of_several_workers_does_not_start_without_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=200k", "small"):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        done = run_serve("--port", "8124", "--workers", "2")
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert re.match(r"error: no space left in '.*', where the workers share metrics and jobs: free", last)
        assert list(tmp_path.glob("emodistill*")) == []


def test_workers_outlive_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=3m", "small"):
        environment = {"TMPDIR": str(tmp_path / "disk")}
        with serving(tmp_path, "--workers", "2", env=environment) as server:
            filler = tmp_path / "disk/filler"
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            for _ in range(6):  # both workers get some, and note routes and codes that are new to them
                assert answers(server)
                refused = httpx2.post(f"{server.url}/v1/jobs", files=upload(SPEECH[0]), timeout=60)
                assert refused.status_code in (503, 507)
            filler.unlink()
            assert httpx2.post(f"{server.url}/v1/jobs", files=upload(SPEECH[0])).status_code == 202
            starts = [line for line in server.lines() if str(line["event"]).startswith("Started server")]
            assert len(starts) == 2, "no worker ended"
            server.process.terminate()
            assert server.process.wait(30) == 0


def test_a_worker_that_cannot_start_waits_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from emodistill.serving import server

    def fails(settings: Settings) -> None:
        raise ModelError("'model.onnx' is gone")

    spaces = iter([False, False, True])
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setenv("EMODISTILL_SERVE", "{}")
    monkeypatch.setattr(server, "RETRY_S", 0)
    monkeypatch.setattr(server, "_has_space", lambda folder: next(spaces))
    monkeypatch.setattr(server, "_create_app", fails)
    with pytest.raises(SystemExit) as ended:
        server.create_worker_app()
    assert ended.value.code == 1
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    waits = "a new worker waits until the disk has space"
    assert [line["event"] for line in lines] == [
        waits,
        waits,
        "a new worker cannot start, and is tried again",
    ]
    assert lines[-1]["error"] == "'model.onnx' is gone"


def test_an_undeclared_gigabyte_is_refused_while_it_arrives(server: Running) -> None:
    sent = 0
    block = b"%x\r\n" % 1_000_000 + bytes(1_000_000) + b"\r\n"
    with begin_request(server, f"{POST}Transfer-Encoding: chunked\n\n") as connection:
        connection.sendall(b"%x\r\n%s\r\n" % (len(PART), PART))
        try:
            while sent < 1000:
                connection.sendall(block)
                sent += 1
        except OSError:
            pass  # the server answered and closed the connection
        response = head_of(connection)
    assert response.startswith("HTTP/1.1 413")
    assert 200 <= sent < 350
    assert answers(server)


def test_a_client_that_disconnects_during_an_upload_is_logged_and_no_longer_counted(server: Running) -> None:
    with begin_request(server, f"{POST}Content-Length: 5000000\n\n") as connection:
        connection.sendall(PART + bytes(100_000))
    assert answers(server)
    for _ in range(100):
        if any(line.get("status") == 499 for line in server.lines()):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("no line with status 499 in the log")
    text = httpx2.get(f"{server.url}/metrics").text
    assert "emodistill_requests_in_flight 0.0" in text


def test_malformed_websocket_frames_do_not_affect_other_clients(server: Running) -> None:
    with begin_request(server, f"GET /v1/stream HTTP/1.1\nHost: x\n{UPGRADE}\n") as connection:
        assert head_of(connection).startswith("HTTP/1.1 101")
        connection.sendall(b"\xff\xff\xff\xff not a frame")
        response = b""
        while more := connection.recv(4096):
            response += more
        assert response[:1] == b"\x88"  # a close frame
        assert int.from_bytes(response[2:4], "big") == 1002
    assert answers(server)


def receive_all(connection: socket.socket) -> bytes:
    """All bytes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_slow_client_gets_a_408() -> None:
    with in_thread(Settings(threads=1, idle_s=0.5)) as port, connected(port) as client:
        client.sendall(POST.replace("\n", "\r\n").encode() + b"Content-Length: 100000\r\n\r\n" + PART)
        response = receive_all(client)
    assert response.startswith(b"HTTP/1.1 408 ")
    assert PROBLEM.encode() in response
    assert b"no byte for 0.5 s" in response


def test_a_head_that_never_ends_gets_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    with in_thread(Settings(threads=1)) as port:
        for head in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            with connected(port) as client:
                client.sendall(head)
                assert receive_all(client).startswith(b"HTTP/1.1 408 ")
        with connected(port) as client:  # the second request of a connection
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert head_of(client).startswith("HTTP/1.1 200 ")
            client.sendall(b"GET /hea")
            assert b"HTTP/1.1 408 " in receive_all(client)
        with connect(f"ws://127.0.0.1:{port}/v1/stream") as stream:  # an open stream has no such time limit
            time.sleep(1)
            stream.send('{"rate": 16000}')
            assert json.loads(stream.recv())["event"] == "started"


def test_a_refused_client_does_not_count_as_a_request() -> None:
    """A refused client may go on sending until it reads its answer. It keeps no other client out."""
    settings = Settings(threads=1, max_requests=1, token="x")  # type: ignore[arg-type]
    with in_thread(settings) as port, connected(port) as refused:
        refused.sendall(POST.replace("\n", "\r\n").encode() + b"Content-Length: 100000\r\n\r\n" + PART)
        assert head_of(refused).startswith("HTTP/1.1 401")
        response = httpx2.post(
            f"http://127.0.0.1:{port}/v1/predict",
            files=upload(SPEECH[0]),
            headers={"Authorization": "Bearer x"},
        )
        assert response.status_code == 200


def test_a_client_that_sends_pings_and_reads_no_answers_is_disconnected() -> None:
    """Otherwise the unread answers would fill the server's memory."""
    with in_thread(Settings(threads=1)) as port, connected(port) as client:
        client.sendall(f"GET /v1/stream HTTP/1.1\nHost: x\n{UPGRADE}\n".replace("\n", "\r\n").encode())
        assert head_of(client).startswith("HTTP/1.1 101")
        pings = (
            b"\x89\xfd" + bytes(4) + bytes(125)
        ) * 400_000  # 50 MB; the buffers of the sockets hold a few
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall(pings)


def collect_events(stream: Any, events: list[str]) -> None:
    """Collect the names of events until the server closes the stream."""
    while True:
        events.append(json.loads(stream.recv())["event"])


def test_a_stopping_server_finishes_the_work_in_progress(tmp_path: Path) -> None:
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
            response = request.result()
            assert response.status_code in (200, 503)  # 503 if the server had not accepted it yet
            events: list[str] = []
            with pytest.raises(ConnectionClosed) as closed:
                collect_events(stream, events)
            assert events[-1] == "summary"
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        assert server.process.wait(60) in (0, -signal.SIGTERM)
        log = [line["event"] for line in server.lines()]
        assert "stopping" in log
        assert "stream" in log


def test_without_a_grace_period_the_server_stops_at_once(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--grace", "0") as server,
        begin_request(server, f"{POST}Content-Length: 100000\n\n") as client,
    ):
        client.sendall(PART)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) in (0, -signal.SIGTERM)  # it would wait 30 s for a slow body


def test_a_killed_worker_is_replaced_while_the_other_answers(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        for _ in range(300):
            if server.log.read_text().count("Application startup complete") >= 2:
                break
            time.sleep(0.1)
        workers = children(server.process.pid)
        assert len(workers) >= 2
        os.kill(workers[-1], signal.SIGKILL)
        num_failed = num_answered = 0
        for _ in range(20):
            try:
                num_answered += answers(server)
            except httpx2.TransportError:  # a connection of the killed worker
                num_failed += 1
        assert num_failed <= 2
        assert num_answered >= 18
        # A worker that is killed during a health check is replaced after the check's timeout, 60 s.
        for _ in range(750):
            if len(children(server.process.pid)) >= len(workers):
                break
            time.sleep(0.1)
        assert len(children(server.process.pid)) >= len(workers)
        assert (
            'emodistill_requests_total{method="POST",route="/v1/predict",status="200"}'
            in httpx2.get(f"{server.url}/metrics").text
        )
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) in (0, -signal.SIGTERM)


def children(process: int) -> list[int]:
    """The worker processes of a server, by their command line."""
    children = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):  # the process has ended
            continue
        if parent == process and b"spawn_main" in command:
            children.append(int(entry.name))
    return sorted(children)
