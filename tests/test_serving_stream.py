"""The stream: its segments equal the timeline, its limits hold, and each error reaches the client."""

import io
import json
import socket as socket_module
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import av
import factories as make
import httpx2
import numpy as np
import pytest
import soundfile
from factories_serving import SPEECH, in_thread, wav
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from emodistill import Recognizer
from emodistill.audio.waveform import load
from emodistill.inference.segmentation import WindowUpdate
from emodistill.inference.streaming import StreamingRecognizer
from emodistill.inference.timelines import timeline
from emodistill.serving import stream as stream_module
from emodistill.serving.app import create_app
from emodistill.serving.settings import Settings

SETTINGS = Settings(threads=2, max_stream_seconds=30)
END = json.dumps({"type": "end"})


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(SETTINGS)) as test_client:
        yield test_client


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    """Two utterances with a pause between them: (samples,) at 16 kHz, int16."""
    parts = [load(SPEECH[0]), make.silence(0.8), load(SPEECH[1])]
    return (np.concatenate(parts) * 32767).astype(np.int16)


def run_stream(client: TestClient, start: dict[str, Any], messages: Sequence[bytes]) -> list[dict[str, Any]]:
    """The events of a whole stream."""
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text(json.dumps(start))
        for message in messages:
            socket.send_bytes(message)
        socket.send_text(END)
        return receive_events(socket)


def receive_events(socket: Any) -> list[dict[str, Any]]:
    """The events up to the one that ends the stream."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["event"] not in ("summary", "error"):
        events.append(json.loads(socket.receive_text()))
    return events


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def segments(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in event.items() if name != "event"}
        for event in events
        if event["event"] == "segment"
    ]


def webm(samples: np.ndarray, rate_hz: int = 48_000) -> bytes:
    """A recording as a browser's MediaRecorder makes it: Opus in WebM, written live."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm", options={"live": "1", "cluster_time_limit": "100"}) as container:
        voice = container.add_stream("libopus", rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(format=voice.format, layout="mono", rate=rate_hz, frame_size=960)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(voice.encode(part))
        container.mux(voice.encode(None))
    return file.getvalue()


# --- equal to the timeline -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [320, 7_770, 1_000_000])
def test_pcm_in_any_chunks_gives_the_segments_of_the_timeline(
    client: TestClient, bundled: Recognizer, spoken: np.ndarray, size: int
) -> None:
    events = run_stream(client, {"encoding": "pcm16", "rate": 16_000}, cut(spoken.tobytes(), size))
    row = timeline(wav(spoken), bundled)
    assert len(row.segments) >= 2
    assert segments(events) == [segment.as_dict() for segment in row.segments]
    assert events[0] | {"id": ""} == {
        "event": "started", "id": "", "model": "emodistill-bundled", "emotions": list(bundled.emotions),
    }  # fmt: skip
    assert events[-1] == {
        "event": "summary", "duration_s": row.duration_s, "num_segments": len(row.segments),
        "summary": row.summary,
    }  # fmt: skip


def test_the_events_are_those_of_the_streaming_recogniser(
    client: TestClient, bundled: Recognizer, spoken: np.ndarray
) -> None:
    stream = StreamingRecognizer(bundled, 16_000)
    own = [*stream.push(spoken), *stream.finish()]
    events = run_stream(client, {"rate": 16_000}, cut(spoken.tobytes(), 3_200))
    assert events[1:-1] == [{"event": event.kind, **event.as_dict()} for event in own]
    assert {event.kind for event in own} == {"speech_started", "update", "segment", "speech_ended"}
    without = run_stream(client, {"rate": 16_000, "updates": False}, cut(spoken.tobytes(), 3_200))
    # The first event holds the id of the stream.
    assert without[1:] == [event for event in events if event["event"] != "update"][1:]


def test_float_stereo_at_another_rate_gives_the_segments_of_the_timeline(
    client: TestClient, bundled: Recognizer
) -> None:
    sound = np.stack([make.speech(2.0, rate_hz=44_100), make.speech(2.0, seed=1, rate_hz=44_100)], axis=1)
    start = {"encoding": "float32", "rate": 44_100, "channels": 2}
    events = run_stream(client, start, cut(sound.tobytes(), 8 * 4_410))
    file = io.BytesIO()
    soundfile.write(file, sound, 44_100, format="WAV", subtype="FLOAT")
    row = timeline(file.getvalue(), bundled)
    assert row.segments
    assert segments(events) == [segment.as_dict() for segment in row.segments]


@pytest.mark.parametrize("size", [997, 16_000])
def test_webm_in_any_chunks_gives_the_segments_of_the_timeline(
    client: TestClient, bundled: Recognizer, spoken: np.ndarray, size: int
) -> None:
    recording = webm(np.repeat(spoken, 3))
    row = timeline(recording, bundled)
    events = run_stream(client, {"encoding": "webm"}, cut(recording, size))
    assert len(row.segments) >= 2
    assert segments(events) == [segment.as_dict() for segment in row.segments]
    assert events[-1]["duration_s"] == row.duration_s


def test_events_arrive_before_the_end(client: TestClient, spoken: np.ndarray) -> None:
    for start, data in (
        ({"rate": 16_000}, spoken.tobytes()),
        ({"encoding": "webm"}, webm(np.repeat(spoken, 3))),
    ):
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_text(json.dumps(start))
            for part in cut(data, 2_000):
                socket.send_bytes(part)
            kinds = [json.loads(socket.receive_text())["event"] for _ in range(4)]  # before `end` is sent
            assert kinds[:2] == ["started", "speech_started"]
            socket.send_text(END)
            receive_events(socket)


def test_a_stream_takes_the_options_of_the_recogniser(client: TestClient, spoken: np.ndarray) -> None:
    start = {"rate": 16_000, "emotions": ["sad", "happy"], "min_confidence": 0.99}
    events = run_stream(client, start, [spoken.tobytes()])
    assert segments(events)
    for segment in segments(events):
        assert list(segment["probabilities"]) == ["happy", "sad"]
        assert segment["emotion"] is None


def test_a_stream_without_audio_has_an_empty_summary(client: TestClient) -> None:
    for start in ({"rate": 16_000}, {"encoding": "webm"}):
        events = run_stream(client, start, [])
        assert events[-1]["event"] == "summary"
        assert events[-1]["duration_s"] == 0


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("no json", "bad first message"),
        ("[]", "bad first message"),
        ('{"encoding": "mp3"}', "encoding"),
        ('{"encoding": "pcm16"}', "needs its rate"),
        ('{"rate": 1}', "rate"),
        ('{"rate": 16000, "chanels": 1}', "chanels"),
        ('{"rate": NaN}', "rate"),
        ('{"rate": 1e400}', "rate"),
        ('{"rate": 16000, "min_confidence": NaN}', "min_confidence"),
        ("[" * 100_000, "nested too deeply"),
        ('{"rate": 16000, "model": "' + "x" * 500_000 + '"}', "at most 200 characters"),
        ('{"rate": 16000, "emotions": [' + '"sad",' * 100 + '"sad"]}', "at most 64 items"),
        ('{"rate": 16000, "model": "/etc/passwd"}', "bad model"),
        ('{"rate": 16000, "emotions": []}', "no emotions"),
        ('{"rate": 16000, "emotions": ["hapy"]}', "did you mean 'happy'"),
        ('{"rate": 16000, "coverage": 0.5}', "elsewhere give min_confidence"),
        (b"\x00\x00", "got a binary message"),
    ],
)
def test_bad_first_messages_are_refused(client: TestClient, first: str | bytes, expected: str) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(first) if isinstance(first, bytes) else socket.send_text(first)
        (event,) = receive_events(socket)
        assert event["status"] == 422
        assert expected in event["detail"]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1008


@pytest.mark.parametrize(
    ("start", "message", "expected"),
    [
        ({"rate": 16_000}, b"\x00\x00\x00", "expected a whole number of pcm16 samples"),
        ({"rate": 16_000, "channels": 2}, b"\x00\x00", "of 2 channels"),
        ({"rate": 16_000, "encoding": "float32"}, np.float32(np.nan).tobytes(), "NaN or Inf"),
        ({"encoding": "webm"}, bytes(50_000), "cannot be decoded as audio"),
        ({"rate": 16_000}, '{"type": "stop"}', "got another text"),
        ({"rate": 16_000}, "stop", "got another text"),
        ({"rate": 16_000}, "[" * 100_000, "got another text"),
        ({"encoding": "webm"}, "stop", "got another text"),
    ],
)
def test_malformed_audio_ends_the_stream(
    client: TestClient, start: dict[str, Any], message: str | bytes, expected: str
) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text(json.dumps(start))
        socket.send_bytes(message) if isinstance(message, bytes) else socket.send_text(message)
        if isinstance(message, bytes):
            socket.send_text(END)
        event = receive_events(socket)[-1]
        assert event["event"] == "error"
        assert expected in event["detail"]
        assert event["type"].startswith("urn:emodistill:bad-")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1007


def test_a_stream_above_the_limit_is_ended(client: TestClient) -> None:
    events = run_stream(client, {"rate": 16_000}, [bytes(2 * 16_000 * 16)] * 2)
    assert (events[-1]["event"], events[-1]["status"]) == ("error", 413)


def test_a_container_with_too_many_bytes_without_samples_is_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, spoken: np.ndarray
) -> None:
    monkeypatch.setattr(stream_module, "MAX_BYTES_WITHOUT_SAMPLES", 200_000)
    recording = webm(np.repeat(spoken, 3))
    padding = b"\xec\x01\x00\x00\x00\x00\x0f\x42\x40" + bytes(
        1_000_000
    )  # an EBML element of 1 MB that decoders skip
    events = run_stream(client, {"encoding": "webm"}, [recording[:20_000], *cut(padding, 50_000)])
    assert (events[-1]["event"], events[-1]["status"]) == ("error", 422)
    assert "without a sample" in events[-1]["detail"]


def test_huge_samples_give_no_nan_in_the_json(client: TestClient) -> None:
    for rate_hz in (16_000, 44_100):
        for samples in (np.full(3 * rate_hz, 3e38), np.resize([3e38, -3e38], 3 * rate_hz)):
            start = {"encoding": "float32", "rate": rate_hz, "channels": 2}
            sent = np.repeat(samples, 2).astype("<f4").tobytes()
            events = run_stream(client, start, cut(sent, 80_000))
            assert "NaN" not in json.dumps(events)


def test_an_idle_stream_is_ended() -> None:
    with TestClient(create_app(SETTINGS.model_copy(update={"idle_s": 0.2}))) as client:
        for messages in ([], [json.dumps({"rate": 16_000})], [json.dumps({"encoding": "webm"})]):
            with client.websocket_connect("/v1/stream") as socket:
                for message in messages:
                    socket.send_text(message)
                event = receive_events(socket)[-1]
                assert (event["event"], event["status"]) == ("error", 408)


def test_the_token_may_be_in_the_header_or_in_the_first_message() -> None:
    settings = Settings(threads=1, token="s3cret")  # type: ignore[arg-type]
    with TestClient(create_app(settings)) as client:
        assert run_stream(client, {"rate": 16_000, "token": "s3cret"}, [])[-1]["event"] == "summary"
        for start in (
            {"rate": 16_000},
            {"rate": 16_000, "token": "wrong"},
            {"rate": 16_000, "token": "\ud800"},
        ):
            with client.websocket_connect("/v1/stream") as socket:
                socket.send_text(json.dumps(start))
                assert receive_events(socket)[-1]["status"] == 401
        header = {"Authorization": "Bearer s3cret"}
        with client.websocket_connect("/v1/stream", headers=header) as socket:
            socket.send_text('{"rate": 16000}')
            socket.send_text(END)
            assert receive_events(socket)[-1]["event"] == "summary"
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect("/v1/stream", headers={"Authorization": "Bearer wrong"}),
        ):
            pass
        assert denied.value.status_code == 401


def test_pages_of_other_sites_and_streams_above_the_limit_are_refused() -> None:
    with TestClient(create_app(Settings(threads=1, max_streams=1))) as client:
        with client.websocket_connect("/v1/stream", headers={"Origin": "http://testserver"}):
            pass
        foreign = client.websocket_connect("/v1/stream", headers={"Origin": "https://evil.example"})
        with pytest.raises(WebSocketDenialResponse) as denied, foreign:
            pass
        assert denied.value.status_code == 403
        for origin in ("null", "http://[", "https://testserver.evil.example", "testserver"):
            odd = client.websocket_connect("/v1/stream", headers={"Origin": origin})
            with pytest.raises(WebSocketDenialResponse) as denied, odd:
                pass
            assert denied.value.status_code == 403
        with client.websocket_connect("/v1/stream") as first:
            first.send_text('{"rate": 16000}')
            first.receive_text()
            with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/v1/stream"):
                pass
            assert denied.value.status_code == 503
        assert run_stream(client, {"rate": 16_000}, [])[-1]["event"] == "summary"


def test_a_client_that_disconnects_leaves_no_open_stream(client: TestClient, spoken: np.ndarray) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    for start, data in (
        ({"rate": 16_000}, spoken.tobytes()),
        ({"encoding": "webm"}, webm(np.repeat(spoken, 3))),
    ):
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_text(json.dumps(start))
            socket.send_bytes(data[: len(data) // 2])
            socket.receive_text()
            socket.close()
        assert not service.streams
    assert run_stream(client, {"rate": 16_000}, [spoken.tobytes()])[-1]["num_segments"] >= 2


def test_an_internal_error_does_not_reach_the_client(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("swordfish")

    monkeypatch.setattr(stream_module, "StreamingRecognizer", broken)
    with pytest.raises(RuntimeError, match="swordfish"):
        run_stream(client, {"rate": 16_000}, [bytes(3_200)])


# --- over a real socket --------------------------------------------------------------------------------


def test_a_slow_server_receives_no_more_than_it_can_process(
    monkeypatch: pytest.MonkeyPatch, spoken: np.ndarray
) -> None:
    """Back-pressure: while the server processes one message, the other messages wait in the client."""
    proceed = threading.Event()
    push = StreamingRecognizer.push

    def slow(self: StreamingRecognizer, samples: np.ndarray) -> list[Any]:
        assert proceed.wait(60)
        return push(self, samples)

    monkeypatch.setattr(StreamingRecognizer, "push", slow)
    message, num_messages = bytes(1_000_000), 64
    with (
        in_thread(Settings(threads=1)) as port,
        connect(f"ws://127.0.0.1:{port}/v1/stream", compression=None) as socket,
    ):
        socket.send('{"rate": 192000, "channels": 8}')
        assert json.loads(socket.recv())["event"] == "started"
        sent: list[int] = []

        def send() -> None:
            for number in range(num_messages):
                socket.send(message)
                sent.append(number)

        sender = threading.Thread(target=send)
        sender.start()
        sender.join(3)
        num_sent_early = len(sent)
        proceed.set()
        sender.join(60)
        assert len(sent) == num_messages
        socket.send(END)
        assert receive_last(socket)["duration_s"] == pytest.approx(num_messages * len(message) / 16 / 192_000)
    assert num_sent_early < num_messages / 4  # the buffers of the two sockets hold a few megabytes


def test_a_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not store events that it cannot send."""
    many = tuple(WindowUpdate(0.0, 1.0, {"x" * 1000: 1.0}) for _ in range(1000))
    monkeypatch.setattr(StreamingRecognizer, "push", lambda *_: many)
    settings = Settings(threads=1, idle_s=1)
    with in_thread(settings) as port, raw_stream(port) as client:
        client.sendall(100 * frame(b"\0\0"))  # the server answers each with a megabyte of events
        for _ in range(300):
            text = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
            if "emodistill_streams_total{" in text:
                break
            time.sleep(0.1)
    closed = [line for line in text.splitlines() if line.startswith("emodistill_streams_total")]
    assert closed == ['emodistill_streams_total{code="1006"} 1.0']


@pytest.mark.parametrize("name", ["\N{GRINNING FACE}" * 60, "Ä" * 60])
def test_a_reason_that_needs_many_bytes_closes_the_stream_with_its_code(name: str) -> None:
    with in_thread(Settings(threads=1)) as port, connect(f"ws://127.0.0.1:{port}/v1/stream") as client:
        client.send(json.dumps({"rate": 16_000, "model": name}))
        assert json.loads(client.recv())["event"] == "error"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.reason.startswith("bad model")


def test_a_message_above_one_mebibyte_closes_the_stream() -> None:
    with (
        in_thread(Settings(threads=1)) as port,
        connect(f"ws://127.0.0.1:{port}/v1/stream", compression=None) as socket,
    ):
        socket.send('{"rate": 4000}')
        assert json.loads(socket.recv())["event"] == "started"
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012
            socket.send(bytes(2_000_000))
            receive_last(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def receive_last(socket: Any) -> dict[str, Any]:
    """The event that ends the stream."""
    event: dict[str, Any] = json.loads(socket.recv())
    while event["event"] not in ("summary", "error"):
        event = json.loads(socket.recv())
    return event


def frame(data: bytes, opcode: int = 2) -> bytes:
    """A WebSocket message of a client, with fewer than 126 bytes."""
    return bytes([0x80 | opcode, 0x80 | len(data)]) + bytes(4) + data


def raw_stream(port: int) -> socket_module.socket:
    """A stream that has begun, as a socket with a very small receive buffer."""
    client = socket_module.socket()
    client.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert client.recv(4096).startswith(b"HTTP/1.1 101")
    client.sendall(frame(b'{"rate": 16000}', 1))
    return client
