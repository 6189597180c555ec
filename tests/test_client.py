"""The Python client: it returns the results of the recogniser, and raises the errors of the server."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO, UnsupportedOperation
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
from factories_serving import SPEECH, Running, free_port, needs_voices, serving, wav
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emodistill import AudioError, Client, ConfigError, Prediction, Recognizer, ServerError
from emodistill import serving as serving_package
from emodistill.audio.waveform import load
from emodistill.inference.streaming import StreamingRecognizer
from emodistill.serving.client import Job


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("server"), "--token", "s3cret") as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.url, token="s3cret") as opened:
        yield opened


def test_predictions_and_timelines_equal_those_of_the_recogniser(client: Client, bundled: Recognizer) -> None:
    assert client.predict(SPEECH[0]) == bundled.predict(SPEECH[0])
    assert client.predict(str(SPEECH[0])) == bundled.predict(str(SPEECH[0]))
    assert client.timeline(SPEECH[0]) == bundled.timeline(SPEECH[0])
    assert client.timeline(SPEECH[0].read_bytes()) == bundled.timeline(SPEECH[0].read_bytes())
    assert client.timeline([SPEECH[0], SPEECH[1].read_bytes()]) == [
        bundled.timeline(SPEECH[0]), bundled.timeline(SPEECH[1].read_bytes()),
    ]  # fmt: skip


def test_every_kind_of_source_gives_the_answer_of_the_recogniser(client: Client, bundled: Recognizer) -> None:
    with SPEECH[2].open("rb") as first, SPEECH[2].open("rb") as second:
        sources: list[Any] = [
            SPEECH[0],
            str(SPEECH[1]),
            SPEECH[1].read_bytes(),
            bytearray(SPEECH[1].read_bytes()),
        ]
        sources.append(memoryview(SPEECH[3].read_bytes()))
        rows = client.predict([*sources, first])
        expected = bundled.predict([*sources, second])
        assert rows == expected
        assert client.predict(iter(sources)) == expected[:-1]
        assert list(client.predict_all(sources, jobs=3)) == expected[:-1]
        assert client.predict(tuple(sources)) == expected[:-1]
        assert [client.predict(source) for source in sources] == expected[:-1]
    assert client.predict([]) == []
    assert client.predict([SPEECH[0]]) == [bundled.predict(SPEECH[0])]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["int16", "int32", "uint8", "float32", "float64"]),
    rate_hz=st.sampled_from([8_000, 16_000, 44_100]), channels=st.integers(0, 3),
)  # fmt: skip
def test_arrays_of_every_type_rate_and_shape_give_the_answer_of_the_recogniser(
    client: Client, bundled: Recognizer, kind: str, rate_hz: int, channels: int
) -> None:
    sound = make.speech(1.2, rate_hz=rate_hz)
    if channels:
        sound = np.stack([sound * share for share in (1, 0.5, 0)[:channels]], axis=1)
    if kind == "uint8":
        samples = (sound * 100 + 128).astype(kind)
    else:
        samples = (sound * np.iinfo(kind).max * 0.9).astype(kind) if "int" in kind else sound.astype(kind)
    answer, expected = client.predict(samples, rate_hz=rate_hz), bundled.predict(samples, rate_hz=rate_hz)
    assert answer.path == expected.path == ""
    assert answer.reason == expected.reason
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert client.timeline(samples, rate_hz).duration_s == pytest.approx(1.2, abs=0.01)


def test_samples_without_a_rate_or_with_a_bad_shape_are_refused(client: Client) -> None:
    for method in (client.predict, client.timeline, client.enrol, client.submit):
        with pytest.raises(AudioError, match="give rate_hz"):
            method(np.zeros(16_000, dtype=np.float32))  # type: ignore[operator]
    (row,) = client.predict([np.zeros(16_000)])
    assert "give rate_hz" in (row.error or "")
    with pytest.raises(AudioError, match="channels come last"):
        client.predict(np.zeros((2, 16_000)), rate_hz=16_000)
    with pytest.raises(ConfigError, match="give several sources as a list"):
        client.predict(SPEECH[0], SPEECH[1])  # type: ignore[call-overload]
    with pytest.raises(AudioError, match="expected several sources"):
        client.predict_all(SPEECH[0])  # type: ignore[arg-type]


def test_what_cannot_be_read_is_an_error_for_one_and_a_row_among_several(
    client: Client, bundled: Recognizer, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no")
    for source in ("nowhere.wav", broken, tmp_path, np.zeros(0), 7):
        for method in ("predict", "timeline"):
            if method == "timeline" and isinstance(source, np.ndarray):
                continue
            with pytest.raises(AudioError) as here:
                getattr(bundled, method)(source, **({"rate_hz": 16_000} if method == "predict" else {}))
            with pytest.raises(AudioError) as there:
                getattr(client, method)(source, rate_hz=16_000)
            if isinstance(source, (str, Path)):
                assert str(there.value) == str(here.value)
    sources = ["nowhere.wav", SPEECH[0], broken]
    assert client.predict(sources) == bundled.predict(sources)
    assert [row.error is None for row in client.timeline(sources)] == [False, True, False]


def test_a_job_gives_the_answer_of_the_timeline(client: Client, bundled: Recognizer, tmp_path: Path) -> None:
    shares: list[float] = []
    job = client.submit(SPEECH[0], emotions=["angry", "sad"])
    assert client.wait(job, on_progress=shares.append) == bundled.with_options(
        emotions=["angry", "sad"]
    ).timeline(SPEECH[0])
    assert shares[-1] == 1
    assert sorted(shares) == shares
    several = client.submit([SPEECH[0], SPEECH[1].read_bytes(), b"no"])
    rows = client.wait(several)
    assert rows[:2] == client.timeline([SPEECH[0], SPEECH[1].read_bytes()])
    assert rows[2].error
    assert client.wait(Job(several.id))[0].path == SPEECH[0].name
    with pytest.raises(AudioError, match="cannot be decoded"):
        client.wait(client.submit(b"no"))
    client.cancel(job)
    with pytest.raises(ServerError, match="the job is gone") as gone:
        client.wait(job)
    assert gone.value.status == 410
    long = wav(np.tile(load(SPEECH[0]), 1000))
    running = client.submit(long)
    with pytest.raises(TimeoutError, match=r"after 0\.1 s"):
        client.wait(running, timeout_s=0.1)
    client.cancel(running)


def test_a_recording_that_is_too_long_for_the_server_is_a_server_error(client: Client) -> None:
    long = wav(np.zeros(700 * 16_000, dtype=np.int16), format="FLAC")
    with pytest.raises(ServerError, match="longer than the limit of 600 s") as refused:
        client.predict(long)
    assert refused.value.status == 413
    rows = client.predict([long, SPEECH[0]])
    assert "longer than the limit of 600 s" in (rows[0].error or "")
    assert rows[1].emotion is not None
    job = client.submit(wav(np.zeros(3700 * 16_000, dtype=np.int16), format="FLAC"))
    with pytest.raises(ServerError, match="longer than the limit of 3600 s") as failed:
        client.wait(job)
    assert failed.value.status == 413


def test_options_are_sent(client: Client) -> None:
    row = client.predict(SPEECH[0], emotions=["sad", "angry"], min_confidence=0.999)
    assert row == Recognizer(emotions=["angry", "sad"], min_confidence=0.999).predict(SPEECH[0])
    assert client.predict(SPEECH[0], teachers=False).teachers is None
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
    with pytest.raises(AudioError, match=r"nowhere\.wav: no such file"):
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
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n[{"path": "x"}]'

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
            assert client.predict(b"one", teachers=None) == Prediction("")
            assert client.predict(Pipe(b"two"), teachers=None) == Prediction(
                ""
            )  # on the first, then on the second
            assert client.predict(file, teachers=None) == Prediction("")  # on the second, then on the third
            assert client.predict(file, teachers=None) == Prediction("")
        with Client(url) as client, pytest.raises(ServerError, match="disconnected"):
            client.predict(b"six", teachers=None)  # on a new connection, so it is sent only once
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


def of_a_job(example: str) -> bool:
    """Whether a command writes or reads the file with the id of a job."""
    return "> job" in example or "cat job" in example


def _examples() -> list[str]:
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("curl ")]
    # test_serving_voices.py tests those with voices, and the next test but one those with a job.
    return [line for line in lines if not needs_voices(line) and not of_a_job(line)]


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
    sound = load(SPEECH[0])
    (tmp_path / "call.wav").write_bytes(wav(np.stack([sound, sound[::-1]], axis=1)))
    (tmp_path / "turns.csv").write_text("start,end,speaker\n0.1,0.9,anna\n", encoding="utf-8")
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
    examples = [
        line
        for line in text.splitlines()
        if line.startswith("curl ") and "job" in line and "channels" not in line
    ]
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
