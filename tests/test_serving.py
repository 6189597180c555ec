"""The REST endpoints: the recogniser's results in every format, and a problem for each refused request."""

import csv
import errno
import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import factories as make
import numpy as np
import pytest
import soundfile
from factories_serving import PROBLEM, SPEECH, problem, upload, wav
from fastapi.testclient import TestClient

from emodistill import Recognizer
from emodistill.errors import ConfigError, ModelError
from emodistill.inference.formats import formats_without_source
from emodistill.inference.timelines import timeline
from emodistill.labels import COLOURS
from emodistill.serving import service as service_module
from emodistill.serving.app import create_app
from emodistill.serving.logs import JsonFormatter
from emodistill.serving.settings import Settings

SETTINGS = Settings(threads=2, max_bytes=2_000_000, max_predict_seconds=20, max_seconds=60, max_files=4)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(SETTINGS)) as test_client:
        yield test_client


# --- answers ---------------------------------------------------------------------------------------


def test_predict_returns_the_predictions_of_the_recogniser(client: TestClient, bundled: Recognizer) -> None:
    rows = client.post("/v1/predict", files=upload(*SPEECH[:3]), data={"teachers": "true"}).json()
    for row, path in zip(rows, SPEECH, strict=False):
        assert row == {**bundled.predict(path).as_dict(), "path": path.name}
    assert len(rows) == 3


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 48_000])
def test_predict_takes_other_rates_and_two_channels(
    client: TestClient, bundled: Recognizer, rate_hz: int
) -> None:
    sound = make.speech(1.2, rate_hz=rate_hz)
    sent = wav(np.stack([sound, 0 * sound], axis=1), rate_hz)
    (row,) = client.post("/v1/predict", files=[("files", ("a.wav", sent))]).json()
    prediction = bundled.predict(sent, make.RATE).as_dict()
    prediction.pop("teachers", None)
    assert row == {**prediction, "path": "a.wav"}


def test_predict_takes_the_options_of_the_recogniser(client: TestClient) -> None:
    data = {"emotions": "sad, happy", "min_confidence": "0.999"}
    (row,) = client.post("/v1/predict", files=upload(SPEECH[0]), data=data).json()
    own = Recognizer(emotions=["sad", "happy"], min_confidence=0.999).predict(SPEECH[0])
    assert (row["emotion"], row["reason"]) == (None, "low_confidence")
    assert row["probabilities"] == own.probabilities
    assert "teachers" not in row
    assert list(row["probabilities"]) == ["happy", "sad"]


def test_timeline_answers_in_every_format(client: TestClient, bundled: Recognizer) -> None:
    row = timeline(SPEECH[0], bundled)
    named = type(row)(SPEECH[0].name, row.duration_s, row.segments, row.summary)
    assert row.segments
    for format in formats_without_source():
        response = client.post("/v1/timeline", files=upload(SPEECH[0]), headers={"Accept": format.media_type})
        assert response.headers["content-type"].partition(";")[0] == format.media_type
        assert response.content.decode() == format.to_text([named], bundled.emotions)


def test_predict_answers_as_csv_and_as_json_lines(client: TestClient) -> None:
    sent = upload(*SPEECH[:2])
    text = client.post("/v1/predict", files=sent, headers={"Accept": "text/csv"}).text
    assert [row["path"] for row in csv.DictReader(io.StringIO(text))] == [path.name for path in SPEECH[:2]]
    lines = client.post(
        "/v1/predict", files=sent, headers={"Accept": "application/x-ndjson"}
    ).text.splitlines()
    assert [json.loads(line)["path"] for line in lines] == [path.name for path in SPEECH[:2]]


def test_quality_values_in_accept_choose_the_format(client: TestClient) -> None:
    for accept, expected in {
        "text/csv;q=0.2, application/json;q=0.9": "application/json",
        "text/html, text/*;q=0.5": "text/csv",
        "text/html, */*;q=0.1": "application/json",
    }.items():
        response = client.post("/v1/timeline", files=upload(SPEECH[0]), headers={"Accept": accept})
        assert response.headers["content-type"].startswith(expected)


def test_a_file_that_cannot_be_read_is_a_row_with_an_error_beside_the_others(client: TestClient) -> None:
    broken = ("files", ("../../etc/broken.wav", b"RIFF and then no audio"))
    silent = ("files", ("silent.wav", wav(np.zeros(16_000))))
    for path in ("/v1/predict", "/v1/timeline"):
        rows = client.post(path, files=[broken, silent, *upload(SPEECH[0])]).json()
        assert [row["path"] for row in rows] == ["broken.wav", "silent.wav", SPEECH[0].name]
        assert "cannot be decoded as audio" in rows[0]["error"]
        assert "the audio" not in rows[0]["error"]
        assert (rows[1]["reason"], rows[1]["error"]) == ("silence", None)
        assert rows[2]["error"] is None


def test_a_format_without_a_place_for_errors_answers_422(client: TestClient) -> None:
    broken = [("files", ("broken.wav", b"no"))]
    response = client.post("/v1/timeline", files=broken, headers={"Accept": "application/x-subrip"})
    assert "broken.wav: cannot be decoded" in problem(response, 422)["detail"]


def test_models_lists_cards_colours_and_limits(client: TestClient, bundled: Recognizer) -> None:
    response = client.get("/v1/models").json()
    (model,) = response["models"]
    assert model["emotions"] == list(bundled.emotions)
    assert model["colours"] == {name: COLOURS[name] for name in bundled.emotions}
    assert model["card"]["sha256"] == bundled.card.sha256
    assert response["limits"]["max_bytes"] == 2_000_000
    sent = upload(SPEECH[0])
    assert client.post("/v1/predict", files=sent, data={"model": model["name"]}).status_code == 200


def test_health_readiness_and_metrics_answer(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    client.post("/v1/predict", files=upload(SPEECH[0]))
    text = client.get("/metrics").text
    assert 'emodistill_requests_total{method="POST",route="/v1/predict",status="200"}' in text
    assert 'emodistill_audio_seconds_total{door="predict"}' in text
    assert "process_resident_memory_bytes" in text


def test_invented_methods_and_paths_add_no_metrics(client: TestClient) -> None:
    def count_metrics() -> int:
        return len([line for line in client.get("/metrics").text.splitlines() if line[0] != "#"])

    def ask(number: int) -> None:
        client.request(f"INVENTED{number}", f"/nothing{number}")
        client.request("GET", f"/page/nothing{number}")
        client.request("PUT", "/v1/predict")

    ask(0)
    count_metrics()
    before = count_metrics()
    ask(1)
    ask(2)
    assert count_metrics() == before


def test_a_stopping_server_is_not_ready_and_refuses_work() -> None:
    with TestClient(create_app(SETTINGS)) as client:
        client.app.state.service.draining = True  # type: ignore[attr-defined]
        assert problem(client.get("/readyz"), 503)["type"] == "urn:emodistill:stopping"
        assert (
            problem(client.post("/v1/predict", files=upload(SPEECH[0])), 503)["type"] == "urn:emodistill:busy"
        )
        assert client.get("/healthz").status_code == 200


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"emotions": "sad,hapy"}, "did you mean 'happy'"),
        ({"emotions": ""}, "emotions"),
        ({"min_confidence": "2"}, "min_confidence"),
        ({"min_confidence": "nan"}, "min_confidence"),
        ({"emotions": "sad", "min_confidence": "dev:0.5"}, "coverage curve"),
        ({"model": "/etc/passwd"}, "bad model '/etc/passwd', expected one of ['emodistill-bundled']"),
        ({"model": "http://127.0.0.1/model"}, "bad model"),
        ({"min_confidense": "0.5"}, "did you mean 'min_confidence'"),
        ({"files": "/etc/passwd"}, "files"),
    ],
)
def test_bad_options_are_refused_with_the_fix(
    client: TestClient, data: dict[str, str], expected: str
) -> None:
    sent = {} if "files" in data else {"files": upload(SPEECH[0])}
    for path in ("/v1/predict", "/v1/timeline"):
        assert expected in problem(client.post(path, data=data, **sent), 422)["detail"]  # type: ignore[arg-type]


def test_messages_name_no_class_and_no_validator(client: TestClient) -> None:
    sent: dict[str, Any] = {"files": upload(SPEECH[0])}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"data": {"files": "/etc/passwd"}}, "files.0: expected a file, got a text"),
        ({**sent, "data": {"voice": "me"}}, ": expected a file, got a text"),
        (
            {**sent, "data": {"return_voice": "maybe"}},
            "return_voice: bad value 'maybe', expected 'true' or 'false'",
        ),
        ({**sent, "data": {"adapt": "all"}}, "adapt: bad value 'all', expected "),
    ]
    for request, expected in cases:
        for path in ("/v1/predict", "/v1/timeline", "/v1/jobs"):
            text = client.post(path, **request).text
            assert expected in problem(client.post(path, **request), 422)["detail"]
            for odd in ("Value error", "validation error", "<class", "<bytes>", "pydantic"):
                assert odd not in text


def test_bodies_that_are_not_forms_are_refused(client: TestClient) -> None:
    assert problem(client.post("/v1/predict"), 422)["errors"][0]["field"] == "files"
    assert problem(client.post("/v1/predict", json={"path": "/etc/passwd"}), 422)
    odd = {"content-type": "multipart/form-data; boundary=x"}
    for body in (
        b"no boundary",
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\ncut of',
    ):
        assert client.post("/v1/predict", content=body, headers=odd).status_code in (400, 422)
    assert problem(
        client.post("/v1/predict", content=b"x", headers={"content-type": "multipart/form-data"}), 400
    )


def test_unknown_paths_and_methods_are_refused(client: TestClient) -> None:
    problem(client.get("/v1/nothing"), 404)
    response = client.get("/v1/predict")
    problem(response, 405)
    assert response.headers["allow"] == "POST"
    assert client.put(f"/v1/jobs/{32 * '0'}").headers["allow"] == "DELETE, GET"
    assert client.put("/v1/jobs").headers["allow"] == "POST"


def test_formats_that_the_server_does_not_have_are_refused(client: TestClient) -> None:
    sent = upload(*SPEECH[:2])
    response = client.post("/v1/predict", files=sent, headers={"Accept": "image/png"})
    assert "expected one of application/json" in problem(response, 406)["detail"]
    response = client.post("/v1/timeline", files=sent, headers={"Accept": "application/x-subrip"})
    assert "send one file at a time" in problem(response, 406)["detail"]


def test_too_many_bytes_are_refused_with_and_without_content_length(client: TestClient) -> None:
    content = bytes(2_100_000)
    response = client.post("/v1/predict", files=[("files", ("a.wav", content))])
    assert problem(response, 413)["type"] == "urn:emodistill:too-large"

    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        for _ in range(40):
            yield bytes(100_000)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/v1/predict", content=chunks(), headers=headers)
    assert problem(response, 413)["type"] == "urn:emodistill:too-large"


def test_too_many_files_are_refused(client: TestClient) -> None:
    assert problem(client.post("/v1/predict", files=5 * upload(SPEECH[0])), 422)["type"].endswith(
        "too-many-files"
    )


@pytest.mark.parametrize("charset", ["utf-8", "punycode", "idna", "undefined", "no-such"])
def test_forms_with_many_or_long_fields_are_refused_while_they_arrive(
    client: TestClient, charset: str
) -> None:
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    part = b'--x\r\nContent-Disposition: form-data; name="emotions"\r\n\r\n%s\r\n'
    for body in (part % (b"a" * 500_000), (part % b"a") * 2000):
        began = time.perf_counter()
        problem(client.post("/v1/predict", content=body + b"--x--", headers=headers), 400)
        assert time.perf_counter() - began < 5
    for data in (b"a=&" * 100_000, b"emotions=" + b"a" * 500_000):
        kind = {"content-type": "application/x-www-form-urlencoded"}
        problem(client.post("/v1/predict", content=data, headers=kind), 400)


def test_small_files_that_only_pyav_can_read_are_decoded(client: TestClient) -> None:
    """Small uploads are file objects in memory that could also be written to. PyAV must only read them."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        voice = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(make.speech(1.5)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=16_000, frame_size=1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(voice.encode(part))
        container.mux(voice.encode(None))
    for path in ("/v1/predict", "/v1/timeline"):
        (row,) = client.post(path, files=[("files", ("a.m4a", file.getvalue()))]).json()
        assert row["error"] is None


def test_file_names_are_returned_and_never_opened(client: TestClient) -> None:
    for name, shown in {
        "../../etc/pass\nwd.wav": "pass\nwd.wav", "C:\\music\\a.wav": "a.wav", "..": "..",
        "\u202egnp.wav": "\u202egnp.wav",
    }.items():  # fmt: skip
        sent = [("files", (name, b""))]
        for path in ("/v1/predict", "/v1/timeline"):
            (row,) = client.post(path, files=sent).json()
            assert row["path"].replace("%0A", "\n") in (shown, shown.replace("\n", " "))
            assert row["error"]


def test_huge_samples_give_no_nan_in_the_json(client: TestClient) -> None:
    for samples in (np.full(16_000, 3e38), np.resize([3e38, -3e38], 16_000)):
        stereo = np.stack([samples, samples], axis=1).astype(np.float32)
        for rate_hz in (16_000, 44_100):
            sent = [("files", ("a.wav", wav(stereo, rate_hz, subtype="FLOAT")))]
            for path in ("/v1/predict", "/v1/timeline"):
                response = client.post(path, files=sent)
                assert response.status_code == 200
                assert "NaN" not in response.text


def test_a_small_file_with_minutes_of_audio_is_refused(client: TestClient) -> None:
    bomb = wav(np.zeros(16_000 * 3 * 60, dtype=np.int16), format="FLAC")
    assert len(bomb) < 50_000
    for path in ("/v1/predict", "/v1/timeline"):
        response = client.post(path, files=[("files", ("bomb.flac", bomb))])
        body = problem(response, 413)
        assert body["type"] == "urn:emodistill:too-long"
        assert body["detail"].startswith("longer than the limit of")


def test_a_rate_of_1_hz_is_refused(client: TestClient) -> None:
    response = client.post("/v1/predict", files=[("files", ("slow.wav", wav(np.zeros(15), 1)))])
    assert "expected a rate from 2000 to 768000 Hz, got 1" in response.json()[0]["error"]


@pytest.mark.parametrize("name", ["file", "http"])
def test_a_playlist_opens_no_other_file(client: TestClient, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, make.speech(1.0), make.RATE)
    where = secret.as_uri() if name == "file" else "http://127.0.0.1:9/secret.wav"
    texts = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{where}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{where}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ]
    for text in texts:
        (row,) = client.post("/v1/predict", files=[("files", ("list.m3u8", text.encode()))]).json()
        assert "cannot be decoded as audio" in row["error"]


def test_a_full_disk_is_a_507_and_the_next_request_is_answered(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.datastructures import UploadFile

    async def full(self: UploadFile, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(UploadFile, "write", full)
        response = client.post("/v1/predict", files=upload(SPEECH[0]))
        assert problem(response, 507)["type"] == "urn:emodistill:disk-full"
    assert client.post("/v1/predict", files=upload(SPEECH[0])).status_code == 200


def test_an_internal_error_does_not_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(service_module, "load_bounded", broken)
    with TestClient(create_app(SETTINGS), raise_server_exceptions=False) as client:
        response = client.post("/v1/predict", files=upload(SPEECH[0]))
    assert response.status_code == 500
    assert response.headers["content-type"] == PROBLEM
    assert "swordfish" not in response.text


# --- the log -----------------------------------------------------------------------------


def test_the_log_has_one_line_per_request_without_names_or_audio(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "emodistill.serving"):
        client.post("/v1/predict?secret=1", files=[("files", ("private-name.wav", b"private bytes"))])
    (line,) = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert line["event"] == "request"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/predict", 200)
    assert line["ms"] > 0
    assert line["bytes"] > 100
    assert "private" not in json.dumps(line)
    assert "secret" not in json.dumps(line)


def test_unknown_and_duplicate_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="two models are named 'emodistill-bundled'"):
        create_app(Settings(models=("bundled", "bundled")))
    with pytest.raises(ModelError, match="no model '/nowhere': expected bundled"):
        create_app(Settings(models=("/nowhere",)))
