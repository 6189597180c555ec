"""The stream: equal to a timeline of the same audio; bounded; every refusal said; nothing queued."""

import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import factories as make
import numpy as np
import pytest
import soundfile
from factories_serving import SPEECH, serving
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from emodistill import Recognizer
from emodistill.audio import load
from emodistill.serving import stream as stream_module
from emodistill.serving.app import create_app
from emodistill.serving.settings import Settings
from emodistill.streaming import StreamingRecognizer
from emodistill.timeline import timeline

SETTINGS = Settings(threads=2, max_stream_seconds=30)
END = json.dumps({"type": "end"})


@pytest.fixture(scope="module")
def bundled() -> Recognizer:
    return Recognizer(threads=1)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(SETTINGS)) as made:
        yield made


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    """Two utterances with a pause between: (samples,) at 16 kHz, int16."""
    parts = [load(SPEECH[0]), make.silence(0.8), load(SPEECH[1])]
    return (np.concatenate(parts) * 32767).astype(np.int16)


def talk(client: TestClient, start: dict[str, Any], messages: Sequence[bytes]) -> list[dict[str, Any]]:
    """All that the server says to a whole stream."""
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text(json.dumps(start))
        for message in messages:
            socket.send_bytes(message)
        socket.send_text(END)
        return heard(socket)


def heard(socket: Any) -> list[dict[str, Any]]:
    """Events up to the one that ends the stream."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["event"] not in ("summary", "error"):
        events.append(json.loads(socket.receive_text()))
    return events


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def wav(samples: np.ndarray, rate_hz: int = make.RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV")
    return file.getvalue()


def segments(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in event.items() if name != "event"}
        for event in events
        if event["event"] == "segment"
    ]


def webm(samples: np.ndarray, rate_hz: int = 48_000) -> bytes:
    """What a browser's recorder makes: opus in webm, live."""
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


# --- equal to a timeline -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [320, 7_770, 1_000_000])
def test_pcm_is_the_timeline_however_it_is_cut(
    client: TestClient, bundled: Recognizer, spoken: np.ndarray, size: int
) -> None:
    events = talk(client, {"encoding": "pcm16", "rate": 16_000}, cut(spoken.tobytes(), size))
    row = timeline(wav(spoken), bundled)
    assert len(row.segments) >= 2
    assert segments(events) == [segment.as_dict() for segment in row.segments]
    assert events[0] | {"id": ""} == {
        "event": "started", "id": "", "model": "emodistill-bundled", "emotions": list(bundled.emotions),
    }  # fmt: skip
    assert events[-1] == {
        "event": "summary", "duration_s": row.duration_s, "num_segments": len(row.segments), "summary": row.summary,
    }  # fmt: skip


def test_every_event_is_the_streams_own(client: TestClient, bundled: Recognizer, spoken: np.ndarray) -> None:
    stream = StreamingRecognizer(bundled)
    own = [*stream.push(spoken), *stream.finish()]
    events = talk(client, {"rate": 16_000}, cut(spoken.tobytes(), 3_200))
    assert events[1:-1] == [{"event": event.kind, **event.as_dict()} for event in own]
    assert {event.kind for event in own} == {"speech_started", "update", "segment", "speech_ended"}
    without = talk(client, {"rate": 16_000, "updates": False}, cut(spoken.tobytes(), 3_200))
    assert (
        without == [event for event in events if event["event"] != "update"]
        or without[1:] == [event for event in events if event["event"] != "update"][1:]
    )


def test_float_stereo_at_another_rate(client: TestClient, bundled: Recognizer) -> None:
    sound = np.stack([make.speech(2.0, rate_hz=44_100), make.speech(2.0, seed=1, rate_hz=44_100)], axis=1)
    start = {"encoding": "float32", "rate": 44_100, "channels": 2}
    events = talk(client, start, cut(sound.tobytes(), 8 * 4_410))
    file = io.BytesIO()
    soundfile.write(file, sound, 44_100, format="WAV", subtype="FLOAT")
    row = timeline(file.getvalue(), bundled)
    assert row.segments
    assert segments(events) == [segment.as_dict() for segment in row.segments]


@pytest.mark.parametrize("size", [997, 16_000])
def test_webm_is_the_timeline_of_its_file(
    client: TestClient, bundled: Recognizer, spoken: np.ndarray, size: int
) -> None:
    made = webm(np.repeat(spoken, 3))
    row = timeline(made, bundled)
    events = talk(client, {"encoding": "webm"}, cut(made, size))
    assert len(row.segments) >= 2
    assert segments(events) == [segment.as_dict() for segment in row.segments]
    assert events[-1]["duration_s"] == row.duration_s


def test_events_come_before_the_end(client: TestClient, spoken: np.ndarray) -> None:
    for start, data in (
        ({"rate": 16_000}, spoken.tobytes()),
        ({"encoding": "webm"}, webm(np.repeat(spoken, 3))),
    ):
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_text(json.dumps(start))
            for part in cut(data, 2_000):
                socket.send_bytes(part)
            kinds = [json.loads(socket.receive_text())["event"] for _ in range(4)]  # and no end was sent
            assert kinds[:2] == ["started", "speech_started"]
            socket.send_text(END)
            heard(socket)


def test_options_of_a_stream(client: TestClient, spoken: np.ndarray) -> None:
    start = {"rate": 16_000, "emotions": ["sad", "happy"], "min_confidence": 0.99}
    events = talk(client, start, [spoken.tobytes()])
    assert segments(events)
    for segment in segments(events):
        assert list(segment["probabilities"]) == ["happy", "sad"]
        assert segment["emotion"] is None


def test_nothing_is_a_stream_too(client: TestClient) -> None:
    for start in ({"rate": 16_000}, {"encoding": "webm"}):
        events = talk(client, start, [])
        assert events[-1]["event"] == "summary"
        assert events[-1]["duration_s"] == 0


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ("no json", "bad first message"),
        ("[]", "bad first message"),
        ('{"encoding": "mp3"}', "encoding"),
        ('{"encoding": "pcm16"}', "needs its rate"),
        ('{"rate": 1}', "rate"),
        ('{"rate": 16000, "chanels": 1}', "chanels"),
        ('{"rate": 16000, "model": "/etc/passwd"}', "bad model"),
        ('{"rate": 16000, "emotions": []}', "no emotions"),
        ('{"rate": 16000, "emotions": ["hapy"]}', "did you mean 'happy'"),
        ('{"rate": 16000, "coverage": 0.5, "min_confidence": 0.5}', "give one of them"),
        (b"\x00\x00", "got no text"),
    ],
)
def test_first_messages_that_cannot_be(client: TestClient, first: str | bytes, told: str) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(first) if isinstance(first, bytes) else socket.send_text(first)
        (event,) = heard(socket)
        assert event["status"] == 422
        assert told in event["detail"]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1008


@pytest.mark.parametrize(
    ("start", "message", "told"),
    [
        ({"rate": 16_000}, b"\x00\x00\x00", "no whole number of pcm16 samples"),
        ({"rate": 16_000, "channels": 2}, b"\x00\x00", "of 2 channels"),
        ({"rate": 16_000, "encoding": "float32"}, np.float32(np.nan).tobytes(), "NaN or Inf"),
        ({"encoding": "webm"}, bytes(50_000), "cannot be decoded as audio"),
        ({"rate": 16_000}, '{"type": "stop"}', "got another text"),
        ({"rate": 16_000}, "stop", "got another text"),
        ({"encoding": "webm"}, "stop", "got another text"),
    ],
)
def test_malformed_audio_ends_that_stream(
    client: TestClient, start: dict[str, Any], message: str | bytes, told: str
) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text(json.dumps(start))
        socket.send_bytes(message) if isinstance(message, bytes) else socket.send_text(message)
        if isinstance(message, bytes):
            socket.send_text(END)
        event = heard(socket)[-1]
        assert event["event"] == "error"
        assert told in event["detail"]
        assert event["type"].startswith("urn:emodistill:bad-")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1007


def test_a_stream_that_is_too_long(client: TestClient) -> None:
    events = talk(client, {"rate": 16_000}, [bytes(2 * 16_000 * 16)] * 2)
    assert (events[-1]["event"], events[-1]["status"]) == ("error", 413)


def test_a_stream_without_a_message_is_closed() -> None:
    with TestClient(create_app(SETTINGS.model_copy(update={"idle_s": 0.2}))) as client:
        for messages in ([], [json.dumps({"rate": 16_000})], [json.dumps({"encoding": "webm"})]):
            with client.websocket_connect("/v1/stream") as socket:
                for message in messages:
                    socket.send_text(message)
                event = heard(socket)[-1]
                assert (event["event"], event["status"]) == ("error", 408)


def test_a_token_in_the_header_or_in_the_first_message() -> None:
    settings = Settings(threads=1, token="s3cret")  # type: ignore[arg-type]
    with TestClient(create_app(settings)) as client:
        assert talk(client, {"rate": 16_000, "token": "s3cret"}, [])[-1]["event"] == "summary"
        for start in ({"rate": 16_000}, {"rate": 16_000, "token": "wrong"}):
            with client.websocket_connect("/v1/stream") as socket:
                socket.send_text(json.dumps(start))
                assert heard(socket)[-1]["status"] == 401
        header = {"Authorization": "Bearer s3cret"}
        with client.websocket_connect("/v1/stream", headers=header) as socket:
            socket.send_text('{"rate": 16000}')
            socket.send_text(END)
            assert heard(socket)[-1]["event"] == "summary"
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect("/v1/stream", headers={"Authorization": "Bearer wrong"}),
        ):
            pass
        assert denied.value.status_code == 401


def test_pages_of_other_sites_and_one_stream_too_many() -> None:
    with TestClient(create_app(Settings(threads=1, max_streams=1))) as client:
        with client.websocket_connect("/v1/stream", headers={"Origin": "http://testserver"}):
            pass
        foreign = client.websocket_connect("/v1/stream", headers={"Origin": "https://evil.example"})
        with pytest.raises(WebSocketDenialResponse) as denied, foreign:
            pass
        assert denied.value.status_code == 403
        with client.websocket_connect("/v1/stream") as first:
            first.send_text('{"rate": 16000}')
            first.receive_text()
            with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/v1/stream"):
                pass
            assert denied.value.status_code == 503
        assert talk(client, {"rate": 16_000}, [])[-1]["event"] == "summary"


def test_a_client_that_goes_away_leaves_nothing(client: TestClient, spoken: np.ndarray) -> None:
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
    assert talk(client, {"rate": 16_000}, [spoken.tobytes()])[-1]["num_segments"] >= 2


def test_an_error_of_the_server_is_said_without_its_text(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("swordfish")

    monkeypatch.setattr(stream_module, "StreamingRecognizer", broken)
    with pytest.raises(RuntimeError, match="swordfish"):
        talk(client, {"rate": 16_000}, [bytes(3_200)])


# --- over a real socket --------------------------------------------------------------------------------


def test_a_server_that_works_slowly_is_sent_no_more_than_it_takes(tmp_path: Any, spoken: np.ndarray) -> None:
    """Back-pressure: a client that never reads can't make the server keep what it sends."""
    with (
        serving(tmp_path) as server,
        connect(f"ws://127.0.0.1:{server.port}/v1/stream", compression=None) as socket,
    ):
        socket.send('{"rate": 4000}')
        assert json.loads(socket.recv())["event"] == "started"
        before = _resident_mb(server.process.pid)
        chunk = np.tile(spoken, 20)[:400_000].tobytes()  # 100 s of audio at 4 kHz
        for _ in range(6):
            socket.send(chunk)
        assert _resident_mb(server.process.pid) - before < 120
        socket.send(bytes(2_000_000))
        with pytest.raises(ConnectionClosed) as closed:
            drain(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009  # one message may have a mebibyte


def drain(socket: Any) -> None:
    """Read until the server closes."""
    while True:
        socket.recv()


def _resident_mb(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
