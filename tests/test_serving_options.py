"""The options of timelines, predictions and streams over HTTP: they give the recogniser's own answers."""

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from factories_serving import SPEECH, in_thread, problem, wav
from fastapi.testclient import TestClient
from test_serving_jobs import submit, wait_for

from emodistill import Client, ConfigError, Recognizer, ServerError
from emodistill.audio.waveform import load
from emodistill.inference.given_segments import GivenSegment, parse_segments
from emodistill.serving import jobs, timelines
from emodistill.serving.app import create_app
from emodistill.serving.settings import Settings

RATE = 16_000


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(threads=2, max_seconds=60))) as test_client:
        yield test_client


@pytest.fixture(scope="module")
def remote() -> Iterator[Client]:
    """The Python client of a server in this process."""
    with in_thread(Settings(threads=1)) as port, Client(f"http://127.0.0.1:{port}") as opened:
        yield opened


@pytest.fixture(scope="module")
def call() -> bytes:
    """A call of two speakers, each in a channel of its own."""
    turns = [load(path) for path in SPEECH]
    length = sum(map(len, turns)) + 5 * RATE // 2
    sound, at = np.zeros((length, 2), dtype=np.float32), RATE // 2
    for index, turn in enumerate(turns):
        sound[at : at + len(turn), index % 2] = turn
        at += len(turn) + RATE // 2
    return wav(sound)


def timelines_of(client: TestClient, content: bytes, fields: dict[str, str], *files: Any) -> list[Any]:
    """The rows of /v1/timeline, which must be those of a job too."""
    sent = {"files": [("files", ("call.wav", content)), *files], "data": fields}
    response = client.post("/v1/timeline", **sent)  # type: ignore[arg-type]
    assert response.status_code == 200, response.text
    job = submit(client, *sent["files"], data=fields)
    assert wait_for(client, job, "done")["result"] == response.json()
    return list(response.json())


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"channels": "split"}, {"channels": "split"}),
        (
            {"channels": "split", "names": "agent, customer"},
            {"channels": "split", "names": ["agent", "customer"]},
        ),
        ({"channels": "1"}, {"channels": 1}),
        ({"channels": "mix"}, {"channels": "mix"}),
        ({"smooth": "6"}, {"smooth_s": 6}),
        ({"min_duration": "2.5"}, {"min_duration_s": 2.5}),
        ({"hop": "0.25", "window": "1.5"}, {"hop_s": 0.25, "window_s": 1.5}),
        ({"channels": "split", "smooth": "3", "hop": "1"}, {"channels": "split", "smooth_s": 3, "hop_s": 1}),
    ],
)
def test_a_timeline_takes_the_options_of_the_recogniser(
    client: TestClient, remote: Client, bundled: Recognizer, call: bytes, fields: dict[str, str],
    options: dict[str, Any],
) -> None:  # fmt: skip
    (row,) = timelines_of(client, call, fields)
    own = bundled.timeline(call, **options)
    assert row == json.loads(json.dumps({**own.as_dict(), "path": "call.wav"}))
    assert own.segments
    assert remote.timeline(call, **options) == own
    assert remote.wait(remote.submit(call, **options)) == own


SEGMENTS = {
    "turns.csv": b"start,end,speaker,text\n0:00.5,2,anna,hello\n2.2,3.9,ben,good day\n",
    "turns.rttm": b"SPEAKER other 1 0.5 1.5 <NA> <NA> anna <NA> <NA>\n"
    b"SPEAKER other 1 2.2 1.7 <NA> <NA> ben <NA> <NA>\n",
    "whisperx.json": json.dumps(
        {"segments": [
            {"start": 0.5, "end": 2.0, "speaker": "anna", "text": " hello"},
            {"start": 2.2, "end": 3.9, "speaker": "ben", "text": " good day"},
        ]}
    ).encode(),
    "pyannote.json": json.dumps(
        {"diarization": [
            {"start": 0.5, "end": 2.0, "speaker": "anna"}, {"start": 2.2, "end": 3.9, "speaker": "ben"},
        ]}
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_timeline_takes_segments_of_every_format(
    client: TestClient, remote: Client, bundled: Recognizer, call: bytes, name: str, tmp_path: Any
) -> None:
    (row,) = timelines_of(client, call, {}, ("segments", (name, SEGMENTS[name])))
    given = parse_segments(SEGMENTS[name], name).for_recording("call.wav")
    own = bundled.timeline(call, given=given)
    assert row == json.loads(json.dumps({**own.as_dict(), "path": "call.wav"}))
    assert [segment["speaker"] for segment in row["segments"]] == ["anna", "ben"]
    assert list(row["speakers"]) == ["anna", "ben"]
    assert remote.timeline(call, given=given) == own
    path = tmp_path / name
    path.write_bytes(SEGMENTS[name])
    assert remote.timeline(call, given=path) == own


def test_segments_name_their_file_where_there_are_several(client: TestClient, call: bytes) -> None:
    csv = b"path,start,end\ncall.wav,0.5,2\nthird.wav,0.5,2\n"
    files = [("files", ("other.wav", call)), ("segments", ("a.csv", csv))]
    rows = timelines_of(client, call, {}, *files)
    assert len(rows[0]["segments"]) == 1
    assert "has no segments of 'other'" in rows[1]["error"]
    unnamed = ("segments", ("a.csv", b"start,end\n0.5,2\n"))
    sent = [("files", ("a.wav", call)), ("files", ("b.wav", call)), unnamed]
    assert "does not name the recording" in problem(client.post("/v1/timeline", files=sent), 422)["detail"]


def test_a_file_with_another_number_of_channels_is_a_row_with_an_error(
    client: TestClient, call: bytes
) -> None:
    mono = ("files", ("mono.wav", wav(load(SPEECH[0]))))
    rows = timelines_of(client, call, {"channels": "split", "names": "agent,customer"}, mono)
    assert rows[0]["error"] is None
    assert rows[1]["error"].startswith("has 1 channel, but there are 2 names (agent, customer)")
    rows = timelines_of(client, call, {"channels": "1"}, mono)
    assert "has no channel 1" in rows[1]["error"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"channels": "left"}, "bad channel 'left', expected 'mix', 'split' or the number of a channel"),
        ({"channels": "-1"}, "bad channel '-1'"),
        ({"channels": "²"}, "bad channel '²'"),
        ({"channels": "9999"}, "bad channel '9999'"),
        ({"names": "a,b"}, "need channels 'split'"),
        ({"channels": "split", "names": "a,a"}, "another name for each channel"),
        ({"channels": "split", "names": "a, "}, "bad names"),
        ({"smooth": "61"}, "smooth"),
        ({"smooth": "nan"}, "smooth"),
        ({"min_duration": "-1"}, "min_duration"),
        ({"hop": "0.01"}, "hop"),
        ({"hop": "0.3"}, "bad window_s 2.0, expected a whole number of hops of 0.3 s"),
        ({"window": "600"}, "window"),
        ({"smoth": "1"}, "did you mean 'smooth'"),
        ({"smooth": "61"}, "smooth: bad value '61', expected at most 60"),
        ({"smooth": "much"}, "smooth: bad value 'much', expected a number"),
        ({"adapt": "auto?"}, "adapt: bad value 'auto?', expected 'none', 'auto', 'recording' or 'running'"),
        ({"model": "m" * 1000}, "model: expected at most"),
        ({"names": "a\x1b[31m,b", "channels": "split"}, "bad names ['a\\x1b[31m', 'b'], expected a list"),
    ],
)
def test_bad_options_are_refused(
    client: TestClient, call: bytes, fields: dict[str, str], expected: str
) -> None:
    for path in ("/v1/timeline", "/v1/jobs"):
        response = client.post(path, files=[("files", ("a.wav", call))], data=fields)
        assert expected in problem(response, 422)["detail"]


@pytest.mark.parametrize(
    ("content", "status", "expected"),
    [
        (b"no segments", 422, "the file with the segments has none of the known formats"),
        (b"\xff\xfe\x00", 422, "it is not UTF-8 text"),
        (b"start,end\n5,2\n", 422, "expected 0"),
        (b"start,end\n" + b"0,59\n" * 5, 413, "have 295 s together, expected at most 240 s"),
        (b"start,end\n" + b"0,0.1\n" * 121, 413, "have 242 s together"),
        (b'{"segments":' + b"[" * 100_000, 422, "nested too deeply"),
        (b'{"segments": [{"start": 0, "end": 1%s}]}' % (b"0" * 400), 422, "expected a start and an end"),
        (b"x" * (timelines.MAX_SEGMENTS_BYTES + 1), 413, "more than 16 MB"),
    ],
)
def test_bad_segments_are_refused(
    client: TestClient, call: bytes, content: bytes, status: int, expected: str
) -> None:
    files = [("files", ("a.wav", call)), ("segments", ("a.csv", content))]
    assert expected in problem(client.post("/v1/timeline", files=files), status)["detail"]
    twice = [files[0], *2 * [("segments", ("a.csv", SEGMENTS["turns.csv"]))]]
    assert "came more than once" in problem(client.post("/v1/timeline", files=twice), 422)["detail"]


def test_predictions_and_voices_take_one_channel(
    client: TestClient, remote: Client, bundled: Recognizer, call: bytes
) -> None:
    for channel in (0, 1):
        sent = {"files": [("files", ("call.wav", call))], "data": {"channel": str(channel)}}
        (row,) = client.post("/v1/predict", **sent).json()  # type: ignore[arg-type]
        own = bundled.predict(call, channel=channel)
        assert (row["path"], row["emotion"], row["channel"]) == ("call.wav", own.emotion, channel)
        assert row["probabilities"] == pytest.approx(own.probabilities, abs=1e-6)
        assert remote.predict(call, channel=channel).probabilities == pytest.approx(
            own.probabilities, abs=1e-6
        )
    (row,) = client.post("/v1/predict", files=[("files", ("a.wav", call))], data={"channel": "2"}).json()
    assert "has no channel 2" in row["error"]
    with pytest.raises(ServerError, match="channel"):
        remote.predict(call, channel=-1)


def test_a_stream_takes_the_options_of_segmentation(remote: Client, bundled: Recognizer) -> None:
    samples = np.concatenate([np.append(load(path), np.zeros(RATE, np.float32)) for path in SPEECH])
    for options in ({"smooth_s": 6}, {"min_duration_s": 2.0}, {"hop_s": 0.25, "window_s": 1.0}):
        own = bundled.stream(RATE, **options)
        expected = [*own.push(samples), *own.finish()]
        assert list(remote.stream(np.array_split(samples, 7), RATE, **options)) == expected
    for options, message in (({"smooth_s": 99}, "smooth"), ({"hop_s": 0.3}, "whole number of hops")):
        with pytest.raises(ServerError, match=message):
            list(remote.stream([samples], RATE, **options))


def test_the_client_refuses_segments_that_it_cannot_send(remote: Client, call: bytes) -> None:
    for given, message in (("nowhere.csv", "cannot read the segments"), ([(0, 1)], "list of GivenSegment")):
        with pytest.raises(ConfigError, match=message):
            remote.timeline(call, given=given)
    odd = [GivenSegment(0.5, 1.75, 'a "b", c', 1, "two\nlines, yes"), GivenSegment(2, 3)]
    rows = remote.timeline(call, given=odd).segments
    assert [(row.speaker, row.channel, row.text) for row in rows] == [
        ('a "b", c', 1, "two\nlines, yes"), (None, None, None),
    ]  # fmt: skip


def test_the_progress_of_a_job_counts_both_passes_of_a_split(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_beat_s = jobs.BEAT_S
    monkeypatch.setattr(jobs, "BEAT_S", 0.02)
    time.sleep(old_beat_s)  # The server reads it at the next beat.
    sound = np.tile(np.stack([load(SPEECH[0])] * 2, axis=1), (30, 1))[: 50 * RATE]
    job = submit(client, ("files", ("long.wav", wav(sound))), data={"channels": "split"})
    progress = []
    while (status := client.get(f"/v1/jobs/{job}").json())["state"] != "done":
        progress.append(status.get("progress", 0.0))
    assert sorted(progress) == progress
    assert len({round(share, 1) for share in progress if 0.5 <= share < 1}) >= 1


def test_the_share_of_answers_is_that_of_the_whole_list(remote: Client) -> None:
    rows = remote.predict(list(SPEECH), coverage=0.5)
    assert sum(row.emotion is not None for row in rows) == len(SPEECH) / 2
