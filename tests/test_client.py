"""The Python client: it returns the results of the recogniser, and raises the errors of the server."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO, UnsupportedOperation
from pathlib import Path

import numpy as np
import pytest
from factories_serving import SPEECH, Running, free_port, needs_voices, serving

from emodistill import AudioError, Client, Recognizer, ServerError
from emodistill import serving as serving_package
from emodistill.audio.waveform import load
from emodistill.inference.streaming import StreamingRecognizer
from emodistill.inference.timelines import timeline


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("server"), "--token", "s3cret") as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.url, token="s3cret") as opened:
        yield opened


def test_predictions_and_timelines_equal_those_of_the_recogniser(client: Client, bundled: Recognizer) -> None:
    with SPEECH[2].open("rb") as file:
        rows = client.predict(SPEECH[0], SPEECH[1].read_bytes(), file, teachers=True)
    assert rows[0] == replace(bundled.predict(SPEECH[0]), path=SPEECH[0].name)
    assert [row.path for row in rows] == [SPEECH[0].name, "bytes", SPEECH[2].name]
    (row,) = client.timeline(SPEECH[0])
    assert row == replace(timeline(SPEECH[0], bundled), path=SPEECH[0].name)


def test_options_are_sent(client: Client) -> None:
    (row,) = client.predict(SPEECH[0], emotions=["sad", "angry"], min_confidence=0.999)
    assert row == replace(
        Recognizer(emotions=["angry", "sad"], min_confidence=0.999).predict(SPEECH[0]),
        path=row.path,
        teachers=None,
    )
    assert client.models()[0]["name"] == "emodistill-bundled"


@pytest.mark.parametrize("kind", ["int16", "float64"])
def test_the_events_of_a_stream_equal_those_of_the_recogniser(
    client: Client, bundled: Recognizer, kind: str
) -> None:
    sound = np.concatenate([load(SPEECH[0]), np.zeros(16_000, dtype=np.float32)])
    samples = (sound * 32767).astype(np.int16) if kind == "int16" else sound.astype(kind)
    own = StreamingRecognizer(bundled, 16_000)
    expected = [*own.push(samples), *own.finish()]
    assert list(client.stream(np.array_split(samples, 20), 16_000)) == expected
    assert len(expected) >= 4


def test_refusals_raise_server_errors(client: Client, server: Running) -> None:
    with pytest.raises(ServerError, match="did you mean 'happy'") as refused:
        client.predict(SPEECH[0], emotions="hapy")
    assert refused.value.status == 422
    with pytest.raises(ServerError, match="bad model"):
        list(client.stream([np.zeros(160, dtype=np.int16)], 16_000, model="other"))
    with Client(server.url) as stranger, pytest.raises(ServerError) as refused:
        stranger.models()
    assert refused.value.status == 401
    with Client(server.url, token="no") as stranger, pytest.raises(ServerError, match="does not answer"):
        list(stranger.stream([np.zeros(160, dtype=np.int16)], 16_000))
    with (
        Client(f"http://127.0.0.1:{free_port()}") as lost,
        pytest.raises(ServerError, match="does not answer"),
    ):
        lost.predict(SPEECH[0])
    with pytest.raises(AudioError, match=r"cannot read .nowhere\.wav."):
        client.predict("nowhere.wav")
    with pytest.raises(AudioError, match="expected int16 or float samples, got int32"):
        list(client.stream([np.zeros(160, dtype=np.int32)], 16_000))


def test_the_error_of_a_stream_is_raised_though_the_client_still_sends(client: Client) -> None:
    def chunks() -> Iterator[np.ndarray]:
        yield np.zeros(160, dtype=np.float32)
        yield np.full(160, np.nan, dtype=np.float32)
        time.sleep(0.5)  # the server closes the stream
        for _ in range(5):
            yield np.zeros(160, dtype=np.float32)

    with pytest.raises(ServerError, match="NaN or Inf") as refused:
        list(client.stream(chunks(), 16_000))
    assert refused.value.status == 422


class Pipe(BytesIO):
    """A file that cannot be rewound."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise UnsupportedOperation("seek")


def test_a_request_on_a_closed_connection_is_sent_again_on_a_new_one() -> None:
    contents: list[bytes] = []  # of the files of the requests
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"

    def serve(listening: socket.socket) -> None:
        for num_answers in (1, 1, 2, 0):  # on each connection; the request after them closes it
            connection, _ = listening.accept()
            with connection:
                for turn in range(num_answers + 1):
                    body = connection.recv(65_536)
                    while body and not body.endswith(b"--\r\n"):
                        body += connection.recv(65_536)
                    if body:
                        contents.append(
                            body.partition(b"\r\n\r\n")[2].split(b"\r\n\r\n")[1].split(b"\r\n")[0]
                        )
                    if turn < num_answers and body:
                        connection.sendall(answer)

    file = BytesIO(b"three")
    file.read(2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with Client(url) as client:
            assert client.predict(b"one") == []
            assert client.predict(Pipe(b"two")) == []  # on the first connection, then on the second
            assert client.predict(file) == []  # on the second, then on the third
            assert client.timeline(file) == []
        with Client(url) as client, pytest.raises(ServerError, match="disconnected"):
            client.predict(b"six")  # on a new connection, so it is sent only once
        thread.join(timeout=5)
    assert contents == [b"one", b"two", b"two", b"three", b"three", b"three", b"six"]


@pytest.mark.parametrize("body", [b"<html>", b'[{"colour": "blue"}]', b"7"])
def test_the_answer_of_another_program_is_a_server_error(body: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write no log."""

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        with Client(f"http://127.0.0.1:{other.server_port}") as client:
            for method in (client.predict, client.timeline):
                with pytest.raises(ServerError, match="does not answer like"):
                    method(SPEECH[0])
        other.shutdown()
        thread.join()


def test_client_and_static_page_import_neither_torch_nor_a_web_framework() -> None:
    code = """
import sys
from emodistill import serving
from emodistill.serving import Client, Settings, export_web
print({"torch", "fastapi", "starlette", "uvicorn"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_serving_lists_its_public_names() -> None:
    modules = {path.stem for path in Path(serving_package.__file__).parent.glob("*.py")}
    for name in serving_package.__all__:
        assert getattr(serving_package, name).__name__ == name
    assert set(serving_package.__all__) <= set(dir(serving_package))
    assert not modules & set(serving_package.__all__)


def _examples() -> list[str]:
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("curl ")]
    # test_serving_voices.py tests those with voices, and the next test but one those with a job.
    return [line for line in lines if not needs_voices(line) and "job" not in line]


def prepared(example: str, server: Running) -> str:
    """A command of the documentation for this server, with its token. It fails where the server refuses."""
    command = example.replace("http://127.0.0.1:8000", server.url).replace(
        "curl ", "curl -sS --fail-with-body ", 1
    )
    if "Authorization" not in command:
        command = command.replace("curl ", "curl -H 'Authorization: Bearer s3cret' ", 1)
    return command


@pytest.mark.parametrize("example", _examples())
def test_the_curl_examples_of_the_documentation_work(server: Running, tmp_path: Path, example: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "call.wav").write_bytes(SPEECH[0].read_bytes())
    (tmp_path / "other.wav").write_bytes(SPEECH[1].read_bytes())
    command = prepared(example, server)
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "TOKEN": "s3cret"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout or list(tmp_path.glob("call*.*[t3]")) or (tmp_path / "call-16k.wav").is_file()


def test_the_curl_examples_of_a_job_work_one_after_the_other(server: Running, tmp_path: Path) -> None:
    if shutil.which("curl") is None or shutil.which("jq") is None:
        pytest.skip("curl or jq is not installed")
    (tmp_path / "call.wav").write_bytes(SPEECH[0].read_bytes())
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    examples = [line for line in text.splitlines() if line.startswith("curl ") and "job" in line]
    answers = []
    for example in examples:
        done = subprocess.run(
            prepared(example, server), shell=True, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        answers.append(done.stdout)
        time.sleep(1)  # the job ends
    assert len(examples) == 4
    assert '"state":"done"' in answers[1]
    assert answers[2].startswith("1\n00:00:0")
