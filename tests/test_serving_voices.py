"""Voices in the server and the client: the recogniser's results, clear refusals, and nothing is kept."""

import csv
import io
import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
from factories_serving import SPEECH, in_thread, needs_voices, problem, upload, wav
from factories_voices import model_without_voices, voice_model
from fastapi.testclient import TestClient

from emodistill import AudioError, Client, ConfigError, Recognizer, ServerError, Voice
from emodistill.audio.waveform import load
from emodistill.inference.given_segments import GivenSegment
from emodistill.serving.app import create_app
from emodistill.serving.logs import JsonFormatter
from emodistill.serving.service import Service
from emodistill.serving.settings import Settings

ENDPOINTS = ("/v1/predict", "/v1/timeline")  # that take a voice


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return Recognizer(voice_model(tmp_path_factory.mktemp("voices") / "model"), threads=1)


@pytest.fixture(scope="module")
def client(recognizer: Recognizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    plain = model_without_voices(tmp_path_factory.mktemp("plain") / "model")
    settings = Settings(threads=2, models=(str(recognizer.folder), str(plain)), max_files=4)
    with TestClient(create_app(settings)) as test_client:
        yield test_client


@pytest.fixture(scope="module")
def voice(recognizer: Recognizer) -> Voice:
    return recognizer.enrol(SPEECH[2:])


@pytest.fixture(scope="module")
def conversation() -> bytes:
    """A sound file with four utterances and pauses between them."""
    parts = [part for path in SPEECH for part in (load(path), np.zeros(16_000, dtype=np.float32))]
    return wav(np.concatenate(parts))


def voice_part(content: str | bytes) -> tuple[str, tuple[str, str | bytes]]:
    """The part of a form that holds a voice file."""
    return "voice", ("anna.voice.json", content)


def silence() -> bytes:
    """A sound file with half a second of silence."""
    return wav(np.zeros(8_000))


def reserialised(voice: Voice) -> str:
    """The voice as JavaScript writes it: 2.0 becomes 2."""
    data = voice.as_dict()
    data["mean"] = [int(value) if value == int(value) else value for value in data["mean"]]
    return json.dumps(data)


# --- answers ---------------------------------------------------------------------------------------


def test_predict_compares_files_with_a_voice(
    client: TestClient, recognizer: Recognizer, voice: Voice
) -> None:
    sent = [*upload(*SPEECH[:2]), voice_part(voice.to_json())]
    rows = client.post("/v1/predict", files=sent, data={"teachers": "true"}).json()
    for row, path in zip(rows, SPEECH, strict=False):
        assert row == {**recognizer.predict(path, voice=voice).as_dict(), "path": path.name}
        assert row["voice_utterances"] == 2
    assert len(rows) == 2


def test_predict_compares_files_with_each_other(client: TestClient, recognizer: Recognizer) -> None:
    silent = ("files", ("silent.wav", silence()))
    sent = [*upload(*SPEECH[:3]), silent]
    rows = client.post("/v1/predict", files=sent, data={"adapt": "together"}).json()
    own = recognizer.predict_together(SPEECH[:3])
    for row, prediction, path in zip(rows, own, SPEECH, strict=False):
        assert row == replace(prediction, path=path.name, teachers=None).as_dict()
        assert row["voice_utterances"] == 2
    assert rows[3]["reason"] == "silence"


def test_csv_has_a_column_for_the_utterances_of_the_voice(client: TestClient, voice: Voice) -> None:
    sent = [*upload(SPEECH[0]), voice_part(voice.to_json())]
    text = client.post("/v1/predict", files=sent, headers={"Accept": "text/csv"}).text
    assert [row["voice_utterances"] for row in csv.DictReader(io.StringIO(text))] == ["2"]
    text = client.post("/v1/predict", files=upload(SPEECH[0]), headers={"Accept": "text/csv"}).text
    assert "voice_utterances" not in text


def test_predict_returns_the_voice_of_each_file_only_if_asked(
    client: TestClient, recognizer: Recognizer
) -> None:
    sent = [*upload(*SPEECH[:2]), ("files", ("broken.wav", b"no"))]
    rows = client.post("/v1/predict", files=sent, data={"return_voice": "true"}).json()
    for row, path in zip(rows[:2], SPEECH, strict=False):
        assert Voice.from_json(json.dumps(row["voice"])) == recognizer.enrol(path)
        assert row["probabilities"] == pytest.approx(recognizer.predict(path).probabilities, abs=1e-5)
    assert rows[2]["voice"] is None
    assert rows[2]["error"]
    for data in ({}, {"adapt": "together"}, {"return_voice": "false"}):
        rows = client.post("/v1/predict", files=sent, data=data).json()
        assert all("voice" not in row for row in rows)


def test_voices_returns_one_voice_of_all_files(client: TestClient, recognizer: Recognizer) -> None:
    sent = [*upload(*SPEECH[:3]), ("files", ("broken.wav", b"no"))]
    answer = client.post("/v1/voices", files=sent).json()
    assert Voice.from_json(json.dumps(answer["voice"])) == recognizer.enrol(SPEECH[:3])
    (warning,) = answer["warnings"]
    assert "left out of the voice: 'broken.wav': cannot be decoded as audio" in warning


def test_a_voice_that_another_program_wrote_again_is_accepted(client: TestClient, voice: Voice) -> None:
    round_numbers = Voice(voice.model, [1.0, -2.0, 0.5, -0.0, 0.0, 3.0], 2, 4.0)  # type: ignore[arg-type]
    text = reserialised(round_numbers).replace("4.0", "4").replace("-0.0", "0")
    assert Voice.from_json(text) == round_numbers
    response = client.post("/v1/predict", files=[*upload(SPEECH[0]), voice_part(text)])
    assert response.json()[0]["voice_utterances"] == 2


@pytest.mark.parametrize("adapt", ["recording", "running"])
def test_timeline_compares_a_recording_with_itself(
    client: TestClient, recognizer: Recognizer, conversation: bytes, adapt: Literal["recording", "running"]
) -> None:
    sent = [("files", ("talk.wav", conversation))]
    (row,) = client.post("/v1/timeline", files=sent, data={"adapt": adapt}).json()
    own = recognizer.timeline(conversation, adapt=adapt)
    assert row == {**own.as_dict(), "path": "talk.wav"}
    assert all(segment["voice_utterances"] >= 1 for segment in row["segments"][2:])
    assert len(row["segments"]) >= 3


def test_timeline_compares_a_recording_with_a_voice(
    client: TestClient, recognizer: Recognizer, conversation: bytes, voice: Voice
) -> None:
    sent = [("files", ("talk.wav", conversation)), voice_part(voice.to_json())]
    (row,) = client.post("/v1/timeline", files=sent).json()
    assert row == {**recognizer.timeline(conversation, voice=voice).as_dict(), "path": "talk.wav"}
    assert {segment["voice_utterances"] for segment in row["segments"]} == {2}


def test_timeline_returns_the_voice_of_each_recording_only_if_asked(
    client: TestClient, recognizer: Recognizer, conversation: bytes
) -> None:
    sent = [("files", ("talk.wav", conversation)), ("files", ("broken.wav", b"no"))]
    data = {"return_voice": "true", "adapt": "recording"}
    rows = client.post("/v1/timeline", files=sent, data=data).json()
    assert Voice.from_json(json.dumps(rows[0]["voice"])) == recognizer.enrol(conversation)
    assert rows[1]["voice"] is None
    own = recognizer.timeline(conversation, adapt="recording").as_dict()
    assert rows[0] == {**own, "path": "talk.wav", "voice": rows[0]["voice"]}
    rows = client.post("/v1/timeline", files=sent, data={"adapt": "recording"}).json()
    assert all("voice" not in row for row in rows)


def test_the_metrics_count_adapted_files_as_other_files(client: TestClient) -> None:
    def count() -> dict[str, float]:
        names = ('door="predict",outcome="emotion"', 'door="voices",outcome="voice"')
        lines = client.get("/metrics").text.splitlines()
        return {name: sum(float(line.split()[-1]) for line in lines if name in line) for name in names}

    before = count()
    client.post("/v1/predict", files=upload(*SPEECH[:3]), data={"adapt": "together"})
    client.post("/v1/voices", files=upload(*SPEECH[:2]))
    assert [count()[name] - before[name] for name in before] == [3, 2]


def test_models_says_which_models_have_voices(client: TestClient, recognizer: Recognizer) -> None:
    models = client.get("/v1/models").json()["models"]
    assert [model["voice_dim"] for model in models] == [recognizer.voice_dim, None]


def test_a_voice_is_not_counted_as_a_file(client: TestClient, voice: Voice) -> None:
    part = voice_part(voice.to_json())
    assert client.post("/v1/predict", files=[*upload(*SPEECH), part]).status_code == 200
    response = client.post("/v1/predict", files=[*upload(*SPEECH, SPEECH[0])])
    assert problem(response, 422)["type"].endswith("too-many-files")


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "the voice is not a voice file: expected JSON"),
        (b"RIFF\xff\xfe", "the voice is not a voice file: expected JSON"),
        ("", "the voice is not a voice file: expected JSON"),
        ("[" * 100_000, "the voice is not a voice file: expected JSON"),
        ("{}", "the voice has the format None, expected 1"),
        ("edited", "the voice was edited"),
        ("other", "the voice was made with the model"),
    ],
)
def test_a_bad_voice_is_refused_with_the_reason(
    client: TestClient, voice: Voice, content: str | bytes, expected: str
) -> None:
    if content == "edited":
        content = json.dumps({**voice.as_dict(), "utterances": 99})
    if content == "other":
        content = Voice("0" * 64, voice.mean, 1, 1.0).to_json()
    for path in ENDPOINTS:
        response = client.post(path, files=[*upload(SPEECH[0]), voice_part(content)])
        assert expected in problem(response, 422)["detail"]


def test_a_voice_that_is_too_large_is_refused(client: TestClient, voice: Voice) -> None:
    text = voice.to_json() + " " * 256 * 1024
    for path in ENDPOINTS:
        response = client.post(path, files=[*upload(SPEECH[0]), voice_part(text)])
        body = problem(response, 413)
        assert (body["type"], "256 KiB" in body["detail"]) == ("urn:emodistill:too-large", True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"adapt": "together"}, "got a voice and adapt=together, expected one of them"),
        ({"adapt": "folder"}, "adapt"),
        ({"model": "plain"}, "the model 'plain' has no voices"),
        ({"return_voice": "yes"}, "return_voice"),
    ],
)
def test_options_that_do_not_fit_a_voice_are_refused(
    client: TestClient, voice: Voice, data: dict[str, str], expected: str
) -> None:
    sent = [*upload(SPEECH[0]), voice_part(voice.to_json())]
    assert expected in problem(client.post("/v1/predict", files=sent, data=data), 422)["detail"]


def test_a_voice_with_adapt_none_is_accepted(client: TestClient, voice: Voice) -> None:
    sent = [*upload(SPEECH[0]), voice_part(voice.to_json())]
    assert client.post("/v1/predict", files=sent, data={"adapt": "none"}).json()[0]["voice_utterances"] == 2


@pytest.fixture(scope="module")
def call() -> bytes:
    """A call of two speakers, each in a channel of its own."""
    sides = [[load(SPEECH[0]), np.zeros(16_000, np.float32), load(SPEECH[1])], [load(SPEECH[2])]]
    left, right = (np.concatenate(side) for side in sides)
    return wav(np.stack([left, np.pad(right, (0, len(left) - len(right)))], axis=1))


NAMES = ("agent", "the, customer")  # a speaker's name may contain a comma


def named_voices(recognizer: Recognizer) -> dict[str, Voice]:
    return {name: recognizer.enrol(path) for name, path in zip(NAMES, SPEECH[2:], strict=True)}


@pytest.mark.parametrize("chosen", [NAMES, NAMES[:1], NAMES[1:], ()])
@pytest.mark.parametrize("is_given", [False, True])
def test_the_client_takes_voices_by_speaker_name_as_the_recogniser_does(
    remote: Client, recognizer: Recognizer, call: bytes, is_given: bool, chosen: tuple[str, ...]
) -> None:
    voices = named_voices(recognizer)
    options: dict[str, Any] = {"voice": {name: voices[name] for name in chosen}, "channels": "split"}
    if is_given:  # the segments name the speakers
        found = recognizer.timeline(call, channels="split").segments
        turns = [(part.start_s, part.end_s, NAMES[part.channel or 0], part.channel) for part in found]
        options = {"voice": options["voice"], "given": [GivenSegment(*turn) for turn in turns]}
    else:
        renamed = dict(zip(NAMES, ("channel 0", "channel 1"), strict=True))
        options["voice"] = {renamed[name]: each for name, each in options["voice"].items()}
    own = recognizer.timeline(call, **options)
    assert {part.speaker for part in own.segments if part.voice_utterances} == set(options["voice"])
    assert remote.timeline(call, **options) == own
    assert remote.timeline([call, call], **options) == [own, own]
    assert remote.wait(remote.submit(call, **options)) == own


def test_voices_by_speaker_name_that_do_not_fit_are_refused(
    client: TestClient, remote: Client, recognizer: Recognizer, call: bytes
) -> None:
    voices = named_voices(recognizer)
    parts = [voice_part(each.to_json()) for each in voices.values()]
    split = {"channels": "split"}
    for path in ("/v1/timeline", "/v1/jobs"):
        for sent, fields, expected in (
            (parts, split, "got 2 voices without voice_name, expected one"),
            (parts, {**split, "voice_name": "a"}, "got 2 files in voice and 1 speakers in voice_name"),
            (
                parts,
                {**split, "voice_name": ["a", "a"]},
                "expected another voice_name for each voice, got a, a",
            ),
            ([], {**split, "voice_name": "a"}, "got 0 files in voice"),
            (parts[:1], {"voice_name": "a"}, "voices of several speakers (a) need channels 'split' or given"),
            (
                parts[:1],
                {**split, "voice_name": "a", "names": "b,c"},
                "bad speaker of a voice 'a', expected one",
            ),
            (parts[:1], {**split, "voice_name": "a", "adapt": "auto"}, "got a voice and adapt=auto"),
            (parts[:1], {**split, "voice_name": "a" * 1000}, "voice_name"),
            (parts[:1] * 33, {**split, "voice_name": [str(n) for n in range(33)]}, "voice"),
            ([voice_part("{}")], {**split, "voice_name": "a"}, "the voice has the format None"),
        ):
            response = client.post(path, files=[("files", ("a.wav", call)), *sent], data=fields)
            assert expected in problem(response, 422)["detail"]
    response = client.post("/v1/predict", files=[*upload(SPEECH[0]), parts[0]], data={"voice_name": "a"})
    assert "bad field 'voice_name'" in problem(response, 422)["detail"]
    unknown = {"eve": voices[NAMES[0]]}
    with pytest.raises(ConfigError, match=r"bad speaker of a voice 'eve', .*\['channel 0', 'channel 1'\]"):
        recognizer.timeline(call, channels="split", voice=unknown)
    with pytest.raises(AudioError, match=r"bad speaker of a voice 'eve', .*\['channel 0', 'channel 1'\]"):
        remote.timeline(call, channels="split", voice=unknown)
    for given in ([GivenSegment(0, 1, "ann"), GivenSegment(1, 2, "bob")], [GivenSegment(0, 1)]):
        expected = r"\['ann', 'bob'\]" if len(given) > 1 else "no segment names its speaker"
        with pytest.raises(ConfigError, match=expected):
            recognizer.timeline(call, given=given, voice=unknown)
        with pytest.raises(AudioError, match=expected):
            remote.timeline(call, given=given, voice=unknown)
    with pytest.raises(ConfigError, match="expected a Voice, got str"):
        remote.timeline(call, channels="split", voice={"channel 0": "anna.json"})


def test_two_voices_and_a_voice_as_text_are_refused(client: TestClient, voice: Voice) -> None:
    part = voice_part(voice.to_json())
    response = client.post("/v1/predict", files=[*upload(SPEECH[0]), part, part])
    assert "voice: came more than once" in problem(response, 422)["detail"]
    response = client.post("/v1/predict", files=upload(SPEECH[0]), data={"voice": voice.to_json()})
    assert problem(response, 422)["errors"][0]["field"] == "voice"


def test_a_model_without_voices_refuses_adapt_and_enrolment(client: TestClient) -> None:
    data = {"model": "plain"}
    for path, more in (
        ("/v1/predict", {"adapt": "together"}), ("/v1/predict", {"return_voice": "true"}), ("/v1/voices", {}),
    ):  # fmt: skip
        response = client.post(path, files=upload(SPEECH[0]), data={**data, **more})
        assert "has no voices: choose a model" in problem(response, 422)["detail"]


def test_files_without_speech_make_no_voice(client: TestClient) -> None:
    response = client.post("/v1/voices", files=[("files", ("silent.wav", silence()))])
    body = problem(response, 422)
    assert body["type"] == "urn:emodistill:no-speech"
    assert "'silent.wav': silence" in body["detail"]


def test_a_format_without_a_place_for_voices_answers_406(client: TestClient) -> None:
    response = client.post(
        "/v1/predict", files=upload(SPEECH[0]), data={"return_voice": "true"}, headers={"Accept": "text/csv"}
    )
    assert "expected application/json" in problem(response, 406)["detail"]


# --- streams ---------------------------------------------------------------------------------------


def run_stream(client: TestClient, sound: bytes, **options: Any) -> list[dict[str, Any]]:
    """The events of a stream of a sound file, up to the summary or the error."""
    samples, _ = soundfile.read(io.BytesIO(sound), dtype="int16")
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text(json.dumps({"rate": 16_000, **options}))
        for chunk in np.array_split(samples, 10):
            socket.send_bytes(chunk.tobytes())
        socket.send_text('{"type": "end"}')
        events = [json.loads(socket.receive_text())]
        while events[-1]["event"] not in ("summary", "error"):
            events.append(json.loads(socket.receive_text()))
    return events


def segments(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The segments among the events of a stream, without the name of the event."""
    return [{**event, "event": 0} for event in events if event["event"] == "segment"]


def test_a_stream_compares_with_a_voice_or_with_the_speech_so_far(
    client: TestClient, recognizer: Recognizer, conversation: bytes, voice: Voice
) -> None:
    running = recognizer.timeline(conversation, adapt="running")
    known = recognizer.timeline(conversation, voice=voice)
    for options, own in (({"adapt": "running"}, running), ({"voice": voice.as_dict()}, known)):
        events = run_stream(client, conversation, **options)
        assert segments(events) == [{**segment.as_dict(), "event": 0} for segment in own.segments]
        assert all("voice_utterances" in event for event in events if event["event"] == "update")
        assert "voice" not in json.dumps(events[-1])


@pytest.mark.parametrize(
    ("options", "status", "expected"),
    [
        ({"adapt": "recording"}, 422, "adapt"),
        ({"voice": "anna"}, 422, "voice"),
        ({"voice": {}}, 422, "the voice has the format None"),
        ({"voice": "edited"}, 422, "the voice was edited"),
        ({"voice": "own", "adapt": "running"}, 422, "expected one of them"),
        ({"voice": "own", "model": "plain"}, 422, "has no voices"),
        ({"adapt": "running", "model": "plain"}, 422, "has no voices"),
        ({"voice": {"mean": [0.123456789] * 25_000}}, 413, "more than 256 KiB"),
    ],
)
def test_a_stream_refuses_a_bad_voice_with_the_reason(
    client: TestClient, voice: Voice, options: dict[str, Any], status: int, expected: str
) -> None:
    if options.get("voice") in ("own", "edited"):
        speech_s = voice.speech_s + (options["voice"] == "edited")
        options = {**options, "voice": {**voice.as_dict(), "speech_s": speech_s}}
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text(json.dumps({"rate": 16_000, **options}))
        event = json.loads(socket.receive_text())
    assert (event["event"], event["status"]) == ("error", status)
    assert expected in event["detail"]


# --- the client ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def remote(recognizer: Recognizer) -> Iterator[Client]:
    """The Python client of a server in this process."""
    with (
        in_thread(Settings(threads=1, models=(str(recognizer.folder),))) as port,
        Client(f"http://127.0.0.1:{port}") as opened,
    ):
        yield opened


def test_the_client_enrols_and_predicts_with_a_voice(
    remote: Client, recognizer: Recognizer, voice: Voice
) -> None:
    assert remote.enrol(SPEECH[2:]) == voice
    assert remote.predict(SPEECH[0], voice=voice) == recognizer.predict(SPEECH[0], voice=voice)
    own = recognizer.predict_together(SPEECH[:3])
    assert remote.predict_together(SPEECH[:3]) == own
    assert remote.predict(SPEECH[:3], adapt="together") == own


def test_the_client_compares_recordings_and_streams(
    remote: Client, recognizer: Recognizer, conversation: bytes, voice: Voice
) -> None:
    for options in ({"adapt": "recording"}, {"voice": voice}):
        expected = recognizer.timeline(conversation, **options)  # type: ignore[arg-type]
        assert remote.timeline(conversation, **options) == expected
        assert remote.wait(remote.submit(conversation, **options)) == expected
    samples, rate_hz = soundfile.read(io.BytesIO(conversation), dtype="int16")
    for options in ({"voice": voice}, {"adapt": "running"}, {"voice": None, "adapt": "none"}):
        own = recognizer.stream(rate_hz, **options)  # type: ignore[arg-type]
        events = [*own.push(samples), *own.finish()]
        assert list(remote.stream(np.array_split(samples, 5), rate_hz, **options)) == events


def test_the_client_warns_of_what_is_left_out_of_a_voice(
    remote: Client, recognizer: Recognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remote.enrol([SPEECH[0], silence()]) == recognizer.enrol(SPEECH[0])
    assert "left out of the voice: 'bytes': silence" in " ".join(capsys.readouterr().err.split())


def test_the_client_raises_the_errors_of_voices(remote: Client, voice: Voice, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no recording to make a voice of"):
        remote.enrol(silence())
    with pytest.raises(ServerError, match="expected one of them"):
        remote.predict(SPEECH[0], voice=voice, adapt="together")
    with pytest.raises(ConfigError, match=r"expected a Voice, got str: load a voice file with Voice.load"):
        remote.predict(SPEECH[0], voice="anna.voice.json")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_examples_of_the_documentation_work(remote: Client, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    examples = [line for line in text.splitlines() if line.startswith("curl ") and needs_voices(line)]
    assert len(examples) >= 5
    for at, name in enumerate(("anna1.wav", "anna2.wav", "call.wav", "1.wav", "2.wav", "3.wav")):
        shutil.copyfile(SPEECH[at % 4], tmp_path / name)
    (tmp_path / "call.wav").write_bytes(wav(np.stack([load(SPEECH[2])] * 2, axis=1)))
    for example in examples:
        command, _, voice_file = example.replace("http://127.0.0.1:8000", remote.url).partition(
            " | jq .voice > "
        )
        command = command.replace("curl ", "curl -sS --fail-with-body ", 1)
        answer = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True, text=True)
        if voice_file:
            voice = json.dumps(json.loads(answer.stdout)["voice"], indent=2)  # as jq writes it
            (tmp_path / voice_file).write_text(voice, encoding="utf-8")
        else:
            assert "voice_utterances" in answer.stdout


# --- privacy ---------------------------------------------------------------------------------------


def test_neither_the_log_nor_temporary_files_hold_a_voice(
    client: TestClient,
    voice: Voice,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    written: list[bytes] = []
    rollover = tempfile.SpooledTemporaryFile.rollover

    def record(self: Any) -> None:
        written.append(self._file.getvalue())
        rollover(self)

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", record)
    secrets = [voice.sha256, repr(float(voice.mean[0]))]
    text = voice.to_json()
    edited = {**voice.as_dict(), "speech_s": 1e9}
    with caplog.at_level(logging.DEBUG):
        for path in ENDPOINTS:
            for content in (text, json.dumps(edited), text[:-9], text + " " * 256 * 1024):
                client.post(path, files=[*upload(SPEECH[0]), voice_part(content)])
            client.post(path, files=upload(SPEECH[0]), data={"voice": text})
            client.post(path, files=upload(SPEECH[2]), data={"return_voice": "true"})
        client.post("/v1/voices", files=upload(*SPEECH[2:]))
        run_stream(client, wav(load(SPEECH[0])), voice=voice.as_dict())
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_text(json.dumps({"rate": 16_000, "voice": edited}))
            assert json.loads(socket.receive_text())["event"] == "error"
        assert not written
        client.post("/v1/predict", files=[("files", ("long.wav", bytes(1_200_000)))])
    assert written  # large files are written, so this test would notice a voice
    log = "\n".join(JsonFormatter().format(record) + str(record.args) for record in caplog.records)
    assert log.count('"event": "request"') >= 6 * len(ENDPOINTS) + 1
    assert log.count('"event": "stream"') >= 2
    for secret in secrets:
        assert secret in text
        assert secret not in log
        assert not any(secret.encode() in content for content in written)
    assert list(tmp_path.rglob("*")) == []


def test_the_server_says_what_a_stream_costs(
    recognizer: Recognizer,
    client: TestClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs_s = [model["hop_compute_s"] for model in client.get("/v1/models").json()["models"]]
    assert all(0 < cost < 0.5 for cost in costs_s)
    times_s = iter([0.7 * number for number in range(100)])
    monkeypatch.setattr("emodistill.serving.service.time.perf_counter", lambda: next(times_s))
    with caplog.at_level("INFO", "emodistill.serving"):
        Service(Settings(models=(str(recognizer.folder),)))
    (record,) = (item for item in caplog.records if item.getMessage().startswith("stream"))
    assert record.levelname == "WARNING"
    assert record.getMessage() == "stream falls behind real time"
    assert JsonFormatter().format(record).count('"compute_s": 0.7') == 1
