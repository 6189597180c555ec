"""Every input gives one row, the same in Python and on the command line.

The speech is from the demo corpus. Each input below has its expected result: the probabilities of the clean
recording, a reason to abstain, or an error.
"""

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
import soxr

from emodistill import cli
from emodistill.audio.waveform import load
from emodistill.corpora import DEMO_CORPUS as CORPUS
from emodistill.errors import AudioError
from emodistill.inference.card_writer import write_card
from emodistill.inference.model_card import read_card
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation import Segment
from emodistill.inference.streaming import StreamingRecognizer
from emodistill.inference.timelines import timeline, timelines

SPEECH = np.concatenate([load(path) for path in sorted(CORPUS.glob("audio/*/*"))[:2]])
RNG = np.random.default_rng(0)


def wav(path: Path, samples: np.ndarray, rate_hz: int = make.RATE, subtype: str = "PCM_16") -> None:
    soundfile.write(path, samples, rate_hz, format="WAV", subtype=subtype)


def pink(length_s: float) -> np.ndarray:
    spectrum = np.fft.rfft(RNG.standard_normal(round(length_s * make.RATE)))
    sound = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)))
    return 0.3 * sound / np.abs(sound).max()


def music(length_s: float) -> np.ndarray:
    """Chords of decaying harmonics, half a second each, over a hi-hat."""
    time = np.arange(round(length_s * make.RATE)) / make.RATE
    beat = (time // 0.5).astype(int)
    roots = 220 * 2 ** (np.array([0, 5, 7, 3])[beat % 4] / 12)
    tones = sum(
        np.sin(2 * np.pi * harmonic * ratio * roots * time) / harmonic
        for ratio in (1, 2 ** (4 / 12), 2 ** (7 / 12)) for harmonic in (1, 2, 3)
    )  # fmt: skip
    sound = tones * np.exp(-3 * (time % 0.5)) + 0.3 * RNG.standard_normal(len(time)) * np.exp(
        -40 * (time % 0.25)
    )
    return 0.5 * sound / np.abs(sound).max()


def cut(path: Path, share: float, **options: Any) -> None:
    """The first part of a file's bytes."""
    soundfile.write(path, SPEECH, make.RATE, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: round(len(whole) * share)])


def video(path: Path, sound: bool) -> None:
    """Ten grey pictures, with or without the speech."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp4") as container:
        pictures = container.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 32
        pictures.pix_fmt = "yuv420p"
        voice = container.add_stream("aac", rate=make.RATE, layout="mono") if sound else None
        for number in range(10):
            shown = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(pictures.encode(shown))
        container.mux(pictures.encode(None))
        if voice is not None:
            frame = av.AudioFrame.from_ndarray(SPEECH[None], format="fltp", layout="mono")
            frame.sample_rate = make.RATE
            resampler = av.AudioResampler(format=voice.format, layout="mono", rate=make.RATE)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(voice.encode(part))
            container.mux(voice.encode(None))


def with_sample(value: float) -> np.ndarray:
    sound = SPEECH.copy()
    sound[1000] = value
    return sound


Write = Callable[[Path], Any]
PEAK = float(np.abs(SPEECH).max())

# name -> a function that writes it, and the largest difference from the probabilities of the clean recording
READABLE: dict[str, tuple[Write, float]] = {
    "float.wav": (lambda p: wav(p, SPEECH, subtype="FLOAT"), 1e-6),
    "quiet.wav": (lambda p: wav(p, 0.01 * SPEECH, subtype="FLOAT"), 1e-2),
    "loud.wav": (lambda p: wav(p, 30 * SPEECH, subtype="FLOAT"), 1e-3),
    "gsm.wav": (lambda p: wav(p, soxr.resample(SPEECH, make.RATE, 8000), 8000, "GSM610"), 0.5),
    "offset.wav": (lambda p: wav(p, SPEECH + np.float32(0.9 - PEAK), subtype="FLOAT"), 1e-3),
    "dead-channel.wav": (
        lambda p: wav(p, np.stack([np.zeros_like(SPEECH), SPEECH], 1), subtype="FLOAT"), 1e-6),
    "96-khz-24-bit.wav": (lambda p: wav(p, soxr.resample(SPEECH, make.RATE, 96000), 96000, "PCM_24"), 3e-2),
    "telephone.wav": (lambda p: wav(p, soxr.resample(SPEECH, make.RATE, 8000), 8000, "ULAW"), 0.5),
    "clipped.wav": (lambda p: wav(p, np.clip(3 * SPEECH / PEAK, -1, 1)), 0.3),
    "in-noise.wav": (lambda p: wav(p, SPEECH + 0.02 * PEAK * RNG.standard_normal(len(SPEECH))), 0.3),
    "video.mp4": (lambda p: video(p, True), 0.2),
    "cut-off.wav": (lambda p: cut(p, 0.7, format="WAV"), 1.0),
    "cut-off.mp3": (lambda p: cut(p, 0.7, format="MP3"), 1.0),
    "cut-off.ogg": (lambda p: cut(p, 0.7, format="OGG"), 1.0),
}  # fmt: skip

ABSTAINED: dict[str, tuple[Write, str]] = {
    "silence.wav": (lambda p: wav(p, np.zeros(make.RATE)), "silence"),
    "offset-alone.wav": (lambda p: wav(p, np.full(make.RATE, 0.3), subtype="FLOAT"), "silence"),
    "hiss.wav": (
        lambda p: wav(p, 1e-4 * RNG.standard_normal(make.RATE).clip(-3, 3), subtype="FLOAT"),
        "silence",
    ),
    "white.wav": (lambda p: wav(p, 0.1 * RNG.standard_normal(3 * make.RATE)), "no_speech"),
    "pink.wav": (lambda p: wav(p, pink(3.0)), "no_speech"),
    "music.wav": (lambda p: wav(p, music(4.0)), "no_speech"),
    "10-ms.wav": (lambda p: wav(p, SPEECH[8000:8160]), "too_short"),
    "one-sample.wav": (lambda p: wav(p, SPEECH[:1]), "too_short"),
}

REFUSED: dict[str, tuple[Write, str]] = {
    "nan.wav": (lambda p: wav(p, with_sample(np.nan), subtype="FLOAT"), "holds NaN or Inf samples; repair"),
    "inf.wav": (lambda p: wav(p, with_sample(-np.inf), subtype="FLOAT"), "holds NaN or Inf samples; repair"),
    "empty.wav": (lambda p: p.write_bytes(b""), "it is empty: 0 bytes"),
    "header.wav": (lambda p: wav(p, SPEECH[:0]), "holds no samples"),
    "text.wav": (lambda p: p.write_text("to be or not to be"), r"\(Format not recognised"),
    "16-bit-floats.wav": (
        lambda p: wav(p, 32767 * SPEECH, subtype="FLOAT"),
        "expected float samples from -1 to 1",
    ),
    "1-khz.wav": (lambda p: wav(p, SPEECH[::16], 1000), "expected a rate in Hz, at least 2000, got 1000"),
    "cut-off.flac": (lambda p: cut(p, 0.7, format="FLAC"), "whole and undamaged"),
    "silent-film.mp4": (lambda p: video(p, False), "holds no audio stream"),
    "picture.wav": (
        lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(RNG.integers(0, 256, 500, np.uint8))),
        "cannot be decoded as audio|holds no audio stream",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of these inputs, and the clean recording."""
    folder = tmp_path_factory.mktemp("inputs")
    wav(folder / "clean.wav", SPEECH)
    for name, (write, _) in {**READABLE, **ABSTAINED, **REFUSED}.items():
        write(folder / name)
    return folder


@pytest.fixture(scope="module")
def model(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model without its temperature, so that its small differences count."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    shutil.copytree(exported, folder)
    write_card(read_card(folder).model_copy(update={"temperature": 1.0}), folder)
    return folder


@pytest.fixture(scope="module")
def recognizer(model: Path) -> Recognizer:
    return Recognizer(model, threads=1)


@pytest.fixture
def rows(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, dict[str, Any]]:
    """The predictions of the command line for the folder, by file name."""
    command = ["predict", str(folder), "-m", str(model), "-f", "json", "--threads", "1", "--teachers"]
    monkeypatch.setattr(sys, "argv", ["emodistill", *command])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1, "some were refused"
    return {Path(row["path"]).name: row for row in json.loads(capsys.readouterr().out)}


def test_the_command_line_and_python_give_the_same_predictions(
    recognizer: Recognizer, folder: Path, rows: dict[str, dict[str, Any]]
) -> None:
    assert set(rows) == {"clean.wav", *READABLE, *ABSTAINED, *REFUSED}
    for prediction in recognizer.predict_all(sorted(folder.iterdir())):
        row = rows[Path(prediction.path).name]
        assert row == prediction.as_dict()
        explained = [row["emotion"] is not None, row["reason"] is not None, row["error"] is not None]
        assert sum(explained) == 1
        assert row["abstained"] == (row["reason"] is not None)


@pytest.mark.parametrize("name", READABLE)
def test_a_changed_recording_has_the_probabilities_of_the_clean_one(
    recognizer: Recognizer, folder: Path, name: str
) -> None:
    clean, prediction = recognizer.predict(folder / "clean.wav"), recognizer.predict(folder / name)
    assert prediction.emotion is not None
    assert prediction.probabilities == pytest.approx(clean.probabilities, abs=max(READABLE[name][1], 1e-3))


@pytest.mark.parametrize("name", ABSTAINED)
def test_a_recording_without_speech_has_a_reason(recognizer: Recognizer, folder: Path, name: str) -> None:
    expected = Prediction(str(folder / name), abstained=True, reason=ABSTAINED[name][1])  # type: ignore[arg-type]
    assert recognizer.predict(folder / name) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_an_unreadable_file_is_an_error_that_begins_with_its_name(
    recognizer: Recognizer, folder: Path, name: str
) -> None:
    with pytest.raises(AudioError, match=REFUSED[name][1]) as caught:
        recognizer.predict(folder / name)
    message = str(caught.value)
    assert message.startswith(f"{folder / name}: ")
    assert "\n" not in message
    (row,) = recognizer.predict_all([folder / name], make.RATE)
    assert row == Prediction(str(folder / name), error=message)


@pytest.mark.parametrize("name", [*READABLE, *ABSTAINED, *REFUSED])
def test_a_timeline_has_the_error_or_the_reason_of_the_prediction(
    recognizer: Recognizer, folder: Path, name: str
) -> None:
    (row,) = timelines([folder / name], recognizer)
    assert (row.error is not None) == (name in REFUSED)
    if row.error is not None:
        # The error of a file that is decoded in pieces also states where it breaks off.
        broke_off = r"|cannot be decoded after \d\.\d s" if name == "cut-off.flac" else ""
        assert re.search(REFUSED[name][1] + broke_off, row.error)
        assert (row.segments, row.duration_s, row.reason) == ((), None, None)
    else:
        assert row.reason == recognizer.predict(folder / name).reason
        assert bool(row.segments) == (row.reason is None)


@pytest.mark.parametrize("name", [*READABLE, *ABSTAINED])
def test_a_stream_gives_the_segments_of_the_file(recognizer: Recognizer, folder: Path, name: str) -> None:
    samples, rate = (
        soundfile.read(folder / name) if not name.endswith("mp4") else (load(folder / name), make.RATE)
    )
    stream = StreamingRecognizer(recognizer, rate_hz=rate)
    events = []
    for at in range(0, len(samples), rate // 10):
        events += stream.push(samples[at : at + rate // 10])
    events += stream.finish()
    found = [event for event in events if isinstance(event, Segment)]
    of_file = timeline(folder / name, recognizer).segments
    assert [(each.emotion, each.start_s, each.end_s) for each in found] == [
        (each.emotion, pytest.approx(each.start_s, abs=0.05), pytest.approx(each.end_s, abs=0.05))
        for each in of_file
    ]
    assert bool(found) == (name in READABLE)


@pytest.mark.parametrize("name", ["nan.wav", "inf.wav", "16-bit-floats.wav"])
def test_a_stream_refuses_samples_that_a_file_may_not_hold(
    recognizer: Recognizer, folder: Path, name: str
) -> None:
    samples, rate = soundfile.read(folder / name, dtype="float32")
    stream = StreamingRecognizer(recognizer, rate_hz=rate)
    with pytest.raises(AudioError, match=REFUSED[name][1].split(";")[0]):
        stream.push(samples)


def test_an_offset_changes_neither_silence_nor_prediction(recognizer: Recognizer) -> None:
    clean = recognizer.predict(SPEECH, make.RATE).probabilities
    for offset in (-0.3, -0.01, 0.001, 0.1, 0.4):
        found = recognizer.predict(SPEECH + np.float32(offset), make.RATE).probabilities
        assert found == pytest.approx(clean, abs=1e-2)
        assert recognizer.predict(np.full(make.RATE, offset, np.float32), make.RATE).reason == "silence"
        raw = recognizer.probabilities(SPEECH + np.float32(offset))
        np.testing.assert_allclose(raw, recognizer.probabilities(SPEECH), atol=1e-2)


def test_a_file_that_was_cut_off_is_read_to_its_end(recognizer: Recognizer, folder: Path) -> None:
    kept = (len((folder / "cut-off.wav").read_bytes()) - 44) // 2
    assert 0.6 * len(SPEECH) < kept < 0.8 * len(SPEECH)
    found = recognizer.predict(folder / "cut-off.wav").probabilities
    assert found == pytest.approx(recognizer.predict(SPEECH[:kept], make.RATE).probabilities, abs=1e-3)


def test_the_error_of_a_wrong_source_names_its_type(recognizer: Recognizer, folder: Path) -> None:
    with (folder / "clean.wav").open("rb") as closed:
        pass
    with (folder / "text.wav").open(encoding="utf-8") as text:
        for source, message in (
            ([0.1, 0.2], r"expected a path, bytes, .* got builtins\.list"),
            (None, r"got builtins\.NoneType"),
            (text, r"a file opened in binary mode .* got _io\.TextIOWrapper"),
            (closed, "got a closed one"),
            (np.zeros((2, 16000)), r"got shape \(2, 16000\); channels come last: transpose it"),
            (np.zeros((2, 2, 2)), r"expected samples \(n,\) or \(n, channels\), got shape \(2, 2, 2\)"),
            (np.array(["a"]), "expected integer or float samples"),
        ):
            with pytest.raises(AudioError, match=message):
                recognizer.predict(source, make.RATE)  # type: ignore[arg-type]
            (row,) = recognizer.predict_all([source], make.RATE)  # type: ignore[list-item]
            assert row.error is not None


def test_pipes_and_buffers_are_read(recognizer: Recognizer, folder: Path) -> None:
    data = (folder / "clean.wav").read_bytes()
    expected = recognizer.predict(data)
    assert expected.emotion is not None
    out, into = os.pipe()

    def write() -> None:
        with os.fdopen(into, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(out, "rb") as pipe:
        assert recognizer.predict(pipe) == expected
    writer.join()
    assert recognizer.predict(bytearray(data)) == recognizer.predict(memoryview(data)) == expected


@pytest.mark.parametrize("damage", ["no model", "no card", "changed model", "another card"])
def test_a_damaged_model_stops_everything(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], damage: str,
) -> None:  # fmt: skip
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    network, card = broken / "model.onnx", broken / "card.json"
    if damage == "no model":
        network.unlink()
    elif damage == "no card":
        card.unlink()
    elif damage == "changed model":
        network.write_bytes(network.read_bytes() + b"\0")
    else:
        card.write_text(card.read_text().replace('"format": 1', '"format": 9'))
    monkeypatch.setattr(sys, "argv", ["emodistill", "predict", str(folder), "-m", str(broken), "-f", "json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    expected = {
        "no model": "it has no model.onnx", "no card": "it has no card.json",
        "changed model": "model.onnx' was changed: its SHA-256 is",
        "another card": "is not a model card of this version: format: bad value",
    }[damage]  # fmt: skip
    assert expected in " ".join(err.split())
    assert "Traceback" not in err
