"""Hostile requests: names of files, charsets, JSON and slow clients. No answer is a 500, none waits."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factories_serving import PROBLEM, SPEECH, in_thread
from fastapi.testclient import TestClient

from emodistill.errors import ConfigError
from emodistill.serving import forms
from emodistill.serving.app import create_app
from emodistill.serving.problems import ProblemResponse, json_text
from emodistill.serving.settings import Settings

AUDIO = SPEECH[0].read_bytes()
PATHS = ("/v1/predict", "/v1/timeline", "/v1/voices", "/v1/audio")
NAMES = {
    "parent": b"../../../x.wav",
    "only parent": b"..",
    "absolute": b"/tmp/emodistill-x.wav",
    "drive": rb"C:\windows\x.wav",
    "share": rb"\\server\share\x.wav",
    "NUL": b"x\0.wav",
    "device": b"CON",
    "device of Windows": b"NUL.wav",
    "empty": b"",
    "not UTF-8": b"\xff\xfe.wav",
    "lone surrogate": b"\xed\xa0\x80.wav",
    "right to left": "\u202egnp.wav".encode(),
    "escape": b"\x1b[31m.wav",
    "10,000 characters": b"x" * 10_000,
}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(threads=1)), raise_server_exceptions=False) as test_client:
        yield test_client


def part(name: bytes, value: bytes, filename: bytes | None = None) -> bytes:
    """A part of a form whose boundary is x."""
    named = b"" if filename is None else b'; filename="' + filename + b'"'
    head = b'--x\r\nContent-Disposition: form-data; name="' + name + b'"' + named
    return head + b"\r\n\r\n" + value + b"\r\n"


def post(client: TestClient, path: str, *parts: bytes, charset: str = "") -> Any:
    """The answer to a form of these parts."""
    content_type = f"multipart/form-data; boundary=x{charset}"
    return client.post(path, content=b"".join(parts) + b"--x--\r\n", headers={"content-type": content_type})


@pytest.mark.parametrize("kind", NAMES)
def test_the_name_of_an_upload_writes_nothing_and_gives_no_500(
    client: TestClient, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    for path in PATHS:
        response = post(client, path, part(b"files", AUDIO, NAMES[kind]))
        # python-multipart refuses a head of a part that is long, or has a control character.
        assert response.status_code in (200, 400, 422), response.text
        if path in ("/v1/predict", "/v1/timeline") and response.status_code == 200:
            (row,) = response.json()
            assert "/" not in row["path"]
            assert "\\" not in row["path"].replace(r"\ud", "")
    job = post(client, "/v1/jobs", part(b"files", AUDIO, NAMES[kind]))
    assert job.status_code in (202, 400, 422), job.text
    if job.status_code == 202:
        while client.get(job.headers["location"]).json()["state"] not in ("done", "failed"):
            time.sleep(0.02)
        assert client.get(f"{job.headers['location']}/result").status_code == 200
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not Path("/tmp/emodistill-x.wav").exists()


@pytest.mark.parametrize(
    "charset",
    ["utf-7", "unicode_escape", "raw_unicode_escape", "utf-8\0", "zlib", "hex", "undefined", "idna"],
)
def test_a_charset_that_may_make_no_text_is_refused(client: TestClient, charset: str) -> None:
    for path in (*PATHS, "/v1/jobs"):
        response = post(client, path, part(b"files", AUDIO, rb"\\ud800"), charset=f"; charset={charset}")
        assert response.status_code == 400
        assert "expected one of utf-8, us-ascii" in response.json()["detail"]


@pytest.mark.parametrize("charset", forms.CHARSETS)
def test_usual_charsets_are_read(client: TestClient, charset: str) -> None:
    response = post(
        client, "/v1/predict", part(b"files", AUDIO, b"a"), charset=f"; charset={charset.upper()}"
    )
    assert response.status_code == 200


@pytest.mark.parametrize("count", [3000, 100_000])
@pytest.mark.parametrize("filename", [None, b"a.wav"])
def test_thousands_of_parts_are_refused_before_they_are_all_read(
    client: TestClient, count: int, filename: bytes | None
) -> None:
    began_s = time.monotonic()
    response = post(client, "/v1/predict", part(b"files", b"x", filename) * count)
    assert response.status_code in (400, 422), response.text
    assert time.monotonic() - began_s < 10


HOSTILE_JSON = {
    "lists in lists": b"[" * 200_000,
    "objects in objects": b'{"a":' * 40_000,
    "a huge number": b"9" * 200_000,
    "not a number": b"NaN",
    "lone surrogates": rb'{"format": 1, "model": "\ud800", "mean": "\udfff", "\ud800": 1}',
    "a surrogate as the format": rb'{"format": "\ud800"}',
    "segments": rb'{"segments": [{"start": 0, "end": 1, "speaker": "\ud800", "text": "\udfff"}]}',
    "a surrogate as a time": rb'{"segments": [{"start": "\ud800", "end": 1}]}',
    "many keys": b"{" + b",".join(b'"%d":0' % number for number in range(15_000)) + b"}",
}


@pytest.mark.parametrize("kind", HOSTILE_JSON)
def test_hostile_json_gives_no_500(client: TestClient, kind: str) -> None:
    began_s = time.monotonic()
    text = HOSTILE_JSON[kind]
    for field in (b"voice", b"segments"):
        for path in ("/v1/predict", "/v1/timeline"):
            response = post(client, path, part(b"files", AUDIO, b"a.ogg"), part(field, text, b"v.json"))
            assert response.status_code in (200, 422), response.text
            assert response.json()
    with client.websocket_connect("/v1/stream") as stream:
        stream.send_text('{"rate": 16000, "voice": ' + text.decode() + "}")
        assert json.loads(stream.receive_text())["event"] == "error"
    assert time.monotonic() - began_s < 10


def test_an_error_with_a_lone_surrogate_is_valid_json() -> None:
    body = {"detail": "bad model '\ud800'"}
    assert json.loads(json_text(body)) == body
    assert json.loads(ProblemResponse(body, 422).body) == body


def test_an_error_of_the_recogniser_with_a_lone_surrogate_is_a_422(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(threads=1))

    def refuse(*_: Any) -> None:
        raise ConfigError("bad model '\ud800'")

    monkeypatch.setattr(app.state.service, "recognizer", refuse)
    with TestClient(app, raise_server_exceptions=False) as client:
        response = post(client, "/v1/predict", part(b"files", AUDIO, b"a.ogg"))
        assert (response.status_code, response.headers["content-type"]) == (422, PROBLEM)
        assert response.json()["detail"] == "bad model '\ud800'"
        with client.websocket_connect("/v1/stream") as stream:
            stream.send_text('{"rate": 16000}')
            assert json.loads(stream.receive_text())["detail"] == "bad model '\ud800'"


def trickle(connection: socket.socket, stop: threading.Event) -> None:
    """Send a byte every 50 ms, until the server closes the connection."""
    try:
        while not stop.wait(0.05):
            connection.sendall(b"x")
    except OSError:  # The server has closed it.
        stop.set()


@pytest.mark.parametrize("kind", ["body", "chunks", "message"])
def test_a_client_that_trickles_is_refused(kind: str) -> None:
    """Each byte comes in time. The whole is too slow."""
    heads = {
        "body": "POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n",
        "chunks": "POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\nffff\r\n",
        "message": "GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    }
    stop = threading.Event()
    answer = b""
    with (
        in_thread(Settings(threads=1, idle_s=0.6)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        connection.sendall(heads[kind].encode())
        if kind == "message":  # a binary message of 1,000,000 bytes with a mask
            assert b" 101 " in connection.recv(65_536)
            connection.sendall(b"\x82\xff" + (1_000_000).to_bytes(8, "big") + bytes(4))
        else:
            connection.sendall(part(b"files", b"", b"a.wav").removesuffix(b"\r\n"))
        began_s = time.monotonic()
        sender = threading.Thread(target=trickle, args=(connection, stop))
        sender.start()
        try:
            while b"too slowly" not in answer and b"no message for" not in answer:
                more = connection.recv(65_536)
                assert more, answer
                answer += more
        finally:
            stop.set()
            sender.join()
    assert time.monotonic() - began_s < 10
    assert b"408" in answer


def test_a_stream_of_small_messages_is_not_open_for_ever() -> None:
    with (
        TestClient(create_app(Settings(threads=1, max_stream_seconds=0.5))) as client,
        client.websocket_connect("/v1/stream") as stream,
    ):
        stream.send_text('{"rate": 16000}')
        assert json.loads(stream.receive_text())["event"] == "started"
        began_s = time.monotonic()
        while time.monotonic() - began_s < 1.1:
            stream.send_bytes(b"")
            time.sleep(0.05)
        answer = json.loads(stream.receive_text())
        assert (answer["event"], answer["status"]) == ("error", 413)
        assert "open for over 1 s" in answer["detail"]
