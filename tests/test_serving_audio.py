"""`/v1/audio`: every recording as a file that a browser plays."""

import io
import tempfile
from collections.abc import Iterator

import factories as make
import numpy as np
import pytest
import soundfile
from factories_serving import SPEECH, problem, upload, wav
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.audio.encoding import write_playable
from emodistill.audio.waveform import load
from emodistill.errors import AudioTooLongError
from emodistill.serving.app import create_app
from emodistill.serving.settings import Settings

LONGEST_S = 3.0


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(threads=1, max_seconds=LONGEST_S))) as test_client:
        yield test_client


def read(content: bytes) -> np.ndarray:
    """The samples (n, channels) of a sound file, which must have 16 kHz."""
    samples, rate_hz = soundfile.read(io.BytesIO(content), always_2d=True, dtype="float32")
    assert rate_hz == make.RATE
    return samples


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 6), rate_hz=st.sampled_from([8_000, 16_000, 22_050, 48_000]),
    format=st.sampled_from(["WAV", "MP3"]),
)  # fmt: skip
def test_length_and_channels_are_kept_at_every_rate(channels: int, rate_hz: int, format: str) -> None:
    tones = [0.1 * (index + 1) * make.speech(1.0, rate_hz=rate_hz) for index in range(channels)]
    sent = np.stack(tones, axis=1).clip(-1, 1)
    target = io.BytesIO()
    duration_s = write_playable(wav(sent, rate_hz, subtype="FLOAT"), target, format)  # type: ignore[arg-type]
    assert duration_s == pytest.approx(len(sent) / rate_hz)
    samples = read(target.getvalue())
    assert samples.shape[1] == (channels if channels <= 2 else 1)
    assert abs(len(samples) / make.RATE - duration_s) < 0.15  # MP3 is padded to whole frames
    if channels == 2:
        first, second = np.abs(samples).mean(axis=0)
        assert second / first == pytest.approx(2, rel=0.1)


def test_a_wav_holds_the_samples_of_the_recording(client: TestClient) -> None:
    sound = np.stack([make.speech(1.0), -0.5 * make.speech(1.0)], axis=1)
    for subtype in ("PCM_16", "FLOAT"):
        response = client.post("/v1/audio", files=[("files", ("a.wav", wav(sound, subtype=subtype)))])
        assert response.headers["content-type"] == "audio/wav"
        assert int(response.headers["content-length"]) == len(response.content)
        np.testing.assert_allclose(read(response.content), sound, atol=2e-4)
    response = client.post("/v1/audio", files=upload(SPEECH[0]))
    np.testing.assert_allclose(read(response.content)[:, 0], load(SPEECH[0]), atol=2e-4)


def test_an_mp3_is_small_and_sounds_alike(client: TestClient) -> None:
    response = client.post("/v1/audio", files=upload(SPEECH[0]), headers={"Accept": "audio/mpeg"})
    assert response.headers["content-type"] == "audio/mpeg"
    sound, decoded = load(SPEECH[0]), read(response.content)[:, 0]
    assert len(response.content) * 8 / (len(decoded) / make.RATE) < 34_000
    best = np.correlate(decoded, sound, "full").max()
    assert best / np.sqrt((sound**2).sum() * (decoded**2).sum()) > 0.9


def test_what_cannot_be_played_is_refused(client: TestClient) -> None:
    detail = problem(client.post("/v1/audio", files=[("files", ("a.wav", b"no"))]), 422)["detail"]
    assert detail.startswith("cannot be decoded as audio")
    long = wav(np.zeros(round((LONGEST_S + 1) * make.RATE)))
    refused = problem(client.post("/v1/audio", files=[("files", ("a.wav", long))]), 413)
    assert refused["detail"].startswith("longer than the limit of 3 s (")
    accept = {"Accept": "image/png"}
    assert problem(client.post("/v1/audio", files=upload(SPEECH[0]), headers=accept), 406)
    assert problem(client.post("/v1/audio", files=upload(*SPEECH[:2])), 422)["type"].endswith(
        "too-many-files"
    )
    model = {"model": "emodistill-bundled"}
    assert (
        "expected one of ['files']"
        in problem(client.post("/v1/audio", files=upload(SPEECH[0]), data=model), 422)["detail"]
    )


def test_decoding_stops_at_the_limit() -> None:
    with tempfile.TemporaryFile() as target:
        with pytest.raises(AudioTooLongError):
            write_playable(wav(np.zeros(600 * make.RATE, dtype=np.int16)), target, "WAV", 5)
        assert target.seek(0, io.SEEK_END) < 6 * make.RATE * 2
