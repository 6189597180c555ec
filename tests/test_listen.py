"""`listen`: a pipe or a microphone in, JSON lines or a terminal out, Ctrl-C, and errors."""

import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import factories as make
import numpy as np
import pytest
import soundfile
from rich.console import Console

from emodistill.errors import AudioError, ConfigError, MissingExtraError
from emodistill.inference import listen
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.streaming import StreamingRecognizer

CALL = np.concatenate(
    [make.silence(0.5), make.speech(2.6, 120, 1), make.silence(1.0), make.speech(0.8, 220, 2)]
)
PCM = np.round(CALL * 32767).astype("<i2")


def command(exported: Path, *args: str) -> list[str]:
    return [sys.executable, "-m", "emodistill", "listen", *args, "--model", str(exported)]


def lines(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.decode().splitlines()]


def expected(exported: Path, samples: np.ndarray, rate_hz: int = make.RATE) -> list[dict[str, Any]]:
    """The events as data, from Python."""
    stream = StreamingRecognizer(Recognizer(exported, threads=1), rate_hz)
    return [{"event": event.kind, **event.as_dict()} for event in stream.push(samples) + stream.finish()]


def wav(samples: np.ndarray, rate_hz: int, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=format, subtype=subtype)
    return file.getvalue()


# --- as a program --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "stereo", "wav"])
def test_a_pipe_in_and_json_lines_out(exported: Path, kind: str) -> None:
    if kind == "wav":
        sound = make.speech(1.5, rate_hz=44_100)
        args, data, want = [], wav(sound, 44_100, "FLOAT"), expected(exported, sound, 44_100)
    elif kind == "stereo":
        both = np.stack([PCM, 0 * PCM], axis=1)
        args, data, want = ["--rate", "16000", "--channels", "2"], both.tobytes(), expected(exported, both)
    else:
        args, data, want = [], PCM.tobytes() + b"\x01", expected(exported, PCM)  # half a sample too much
    done = subprocess.run(command(exported, "-", *args), input=data, capture_output=True, check=False)
    assert (done.returncode, lines(done.stdout)) == (0, want)
    assert [event["event"] for event in want].count("segment") == (1 if kind == "wav" else 2)
    assert " s of speech: " in done.stderr.decode()


def test_events_come_while_the_pipe_is_open_and_ctrl_c_ends_it(exported: Path) -> None:
    with subprocess.Popen(
        command(exported, "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        spoken = PCM[: round(3.8 * make.RATE)]  # the first stretch of speech, and 0.7 s after it
        program.stdin.write(spoken.tobytes())
        program.stdin.flush()
        events = []
        while not events or events[-1]["event"] != "speech_ended":
            events += lines(program.stdout.readline())
        program.stdin.write(PCM[len(spoken) :].tobytes())
        program.stdin.flush()
        while events[-1]["event"] != "speech_started" or events[-1]["time_s"] < 3:
            events += lines(program.stdout.readline())
        time.sleep(0.5)  # it waits for more
        program.send_signal(signal.SIGINT)
        out, err = program.stdout.read(), program.stderr.read()
        assert program.wait() == 0
    assert events + lines(out) == expected(exported, PCM), "the open stretch is closed, and no event is lost"
    assert err.decode().startswith("4.9 s of audio, ")
    assert "Traceback" not in err.decode()


def test_a_display_in_a_terminal(exported: Path) -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(
        command(exported, "-"),
        stdin=subprocess.PIPE,
        stdout=follower,
        stderr=subprocess.PIPE,
        env=environment,
    ) as program:
        os.close(follower)
        assert program.stdin is not None
        assert program.stderr is not None
        for chunk in np.array_split(PCM, 10):
            program.stdin.write(chunk.tobytes())
            program.stdin.flush()
        program.stdin.close()
        shown = "".join(_read_terminal(leader))
        err = program.stderr.read().decode()
        assert program.wait() == 0
    os.close(leader)
    for emotion in Recognizer(exported).emotions:
        assert emotion in shown
    assert "█" in shown
    assert "0:00.5 – 0:03.1" in shown.replace("0:00.6", "0:00.5"), "the first segment is listed"
    assert "{" not in shown, "no JSON"
    assert err.startswith("4.9 s of audio, ")


def _read_terminal(leader: int) -> Iterator[str]:
    while select.select([leader], [], [], 60)[0]:
        try:
            part = os.read(leader, 65_536)
        except OSError:  # the other side was closed
            return
        if not part:
            return
        yield part.decode(errors="replace")


@pytest.mark.parametrize(
    ("args", "data", "code", "message"),
    [
        (["call.wav"], b"", 2, "for a file: emodistill timeline call.wav"),
        (["-"], b"RIFF\0\0\0\0AVI ", 2, "expected a WAV, got another RIFF file"),
        (["-"], b"OggS" + bytes(100), 2, "expected raw PCM or a WAV, got an Ogg file; decode it first"),
        (["-"], wav(CALL, 16_000, "PCM_24"), 2, "expected a WAV of 16-bit PCM or 32-bit float, got format"),
        (["-", "--emotions", "joy"], b"", 2, "bad emotion 'joy'"),
        (["-"], b"", 0, "0.0 s of audio, 0.0 s of speech"),
    ],
)
def test_sources_that_listen_refuses(
    exported: Path, args: list[str], data: bytes, code: int, message: str
) -> None:
    done = subprocess.run(command(exported, *args), input=data, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr.decode()


def test_a_closed_output_ends_listen_without_a_traceback(exported: Path) -> None:
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(
        command(exported, "-"), input=PCM.tobytes(), stdout=written, stderr=subprocess.PIPE, check=False
    )
    os.close(written)
    assert (done.returncode, done.stderr) == (1, b"")


# --- pipes ---------------------------------------------------------------------------------------


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def read(self, most: int = -1) -> bytes:
        part, self._data = self._data[: min(self._size, most)], self._data[min(self._size, most) :]
        return part


def read_pipe(stream: BinaryIO, rate_hz: int = 16_000, channels: int = 1) -> tuple[int, np.ndarray]:
    with listen.pipe(stream, rate_hz, channels) as sound:
        chunks = list(sound.chunks)
        assert all(len(chunk) for chunk in chunks)
        return sound.rate_hz, np.concatenate(chunks) if chunks else np.zeros((0, channels))


@pytest.mark.parametrize("size", [1, 3, 1000, 10**6])
@pytest.mark.parametrize(("subtype", "format"), [("PCM_16", "WAV"), ("FLOAT", "WAV"), ("PCM_16", "WAVEX")])
def test_a_wav_in_a_pipe_is_read_by_its_header(size: int, subtype: str, format: str) -> None:
    both = np.stack([CALL, -CALL], axis=1)[:3000]
    rate_hz, samples = read_pipe(Trickle(wav(both, 22_050, subtype, format) + b"more", size))  # type: ignore[arg-type]
    assert (rate_hz, samples.shape) == (22_050, (3000, 2))
    scale = 32768 if subtype == "PCM_16" else 1
    assert np.allclose(samples / scale, both, atol=1e-4)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_of_unknown_length_is_read_to_the_end(size: int) -> None:
    data = bytearray(wav(CALL, 16_000))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    assert len(read_pipe(io.BytesIO(bytes(data)))[1]) == len(CALL)


@pytest.mark.parametrize("begins", listen.COMPRESSED)
@pytest.mark.parametrize("size", [1, 1000])
def test_a_compressed_file_is_refused(begins: bytes, size: int) -> None:
    message = f"expected raw PCM or a WAV, got {listen.COMPRESSED[begins]}; decode it first"
    with pytest.raises(AudioError, match=message):
        read_pipe(Trickle(begins + bytes(1000), size))  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [6, 10, 15, 30, 42])
def test_a_wav_header_that_is_cut_off_is_refused(end: int) -> None:
    with pytest.raises(AudioError, match=r"the WAV header is cut off|another RIFF file"):
        read_pipe(io.BytesIO(wav(CALL, 16_000)[:end]))


@pytest.mark.parametrize(("data", "num"), [(b"", 0), (b"\1", 0), (b"\1\0\2", 1), (b"RIF", 1)])
def test_a_pipe_with_very_few_bytes(data: bytes, num: int) -> None:
    assert len(read_pipe(io.BytesIO(data))[1]) == num


@pytest.mark.parametrize("channels", [0, -1, 129])
def test_a_number_of_channels_that_audio_cannot_have_is_refused(channels: int) -> None:
    with pytest.raises(AudioError, match=f"expected 1 to 128 channels, got {channels}"):
        read_pipe(io.BytesIO(PCM.tobytes()), channels=channels)


# --- microphones ---------------------------------------------------------------------------------


class FakeMicrophone(types.ModuleType):
    """Replaces sounddevice: plays a recording to the program that opens a stream."""

    class PortAudioError(Exception):
        pass

    def __init__(self, samples: np.ndarray, rate_hz: int) -> None:
        super().__init__("sounddevice")
        self.samples, self.rate_hz = samples, rate_hz
        self.opened: dict[str, Any] = {}

    def query_devices(self, device: object, kind: str) -> dict[str, Any]:
        if device not in (None, 3, "desk"):
            raise ValueError(f"No {kind} device matching {device!r}")
        return {"name": "desk mic", "default_samplerate": float(self.rate_hz)}

    def InputStream(self, rate_hz: int, *, callback: Any, blocksize: int, **options: Any) -> Any:
        self.opened = {"rate_hz": rate_hz, **options}
        for start in range(0, len(self.samples), blocksize):
            callback(self.samples[start : start + blocksize, None], blocksize, None, None)
        return io.BytesIO()  # anything with a context


def test_a_microphone_is_opened_at_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = FakeMicrophone(make.speech(1.0, rate_hz=48_000), 48_000)
    monkeypatch.setitem(sys.modules, "sounddevice", desk)
    monkeypatch.setattr(listen, "MICROPHONE_TIMEOUT_S", 0.05)
    with listen.microphone("3") as sound:
        chunks = [next(sound.chunks) for _ in range(10)]
        with pytest.raises(AudioError, match=r"no sound from 'desk mic' for 0\.05 s: is it still connected"):
            next(sound.chunks)
    assert np.array_equal(np.concatenate(chunks)[:, 0], desk.samples)
    assert (sound.name, sound.rate_hz) == ("desk mic", 48_000)
    assert desk.opened == {"rate_hz": 48_000, "device": 3, "channels": 1, "dtype": "float32"}


def test_events_before_a_microphone_was_disconnected_are_reported(exported: Path) -> None:
    samples = make.speech(1.5)

    def disconnected() -> Iterator[np.ndarray]:
        yield samples[:, None]
        raise AudioError("it has gone")

    out = io.StringIO()
    with pytest.raises(AudioError, match="it has gone"):
        listen.listen(
            Recognizer(exported, threads=1),
            listen.Sound("mic", make.RATE, disconnected()),
            out,
            Console(file=io.StringIO()),
        )
    assert lines(out.getvalue().encode()) == expected(exported, samples)


def test_an_unknown_microphone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", FakeMicrophone(CALL, make.RATE))
    with (
        pytest.raises(
            ConfigError, match="cannot listen to 'attic': No input device matching 'attic'; python -m"
        ),
        listen.microphone("attic"),
    ):
        pass


def test_without_sounddevice_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with (
        pytest.raises(MissingExtraError, match=r"'sounddevice'.*pip install 'emodistill\[listen\]'"),
        listen.microphone(),
    ):
        pass


def test_without_portaudio_the_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(MissingExtraError, match=r"PortAudio.*libportaudio2.*emodistill\[listen\]"),
        listen.microphone(),
    ):
        pass


# --- the display ---------------------------------------------------------------------------------


def test_the_display_shows_level_emotion_and_segments() -> None:
    stream = StreamingRecognizer(
        make.ToneRecognizer(), make.RATE, detector=make.LoudnessDetector(), smooth_s=0.0
    )
    samples = np.concatenate([make.tone("sad", 2.0), make.silence(0.5), make.tone("angry", 1.2)])
    board = listen.Display(tuple(make.TONES_HZ), "desk mic")

    def shown() -> str:
        console = Console(file=io.StringIO(), width=90)
        console.print(board)
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert "silence  –" in shown()
    board.update(stream.push(samples), stream.time_s, samples[-1600:, None])
    assert all(
        words in shown()
        for words in ("desk mic", "0:03.7", "speech", "angry 0.7", "0:00.0 – 0:02.0", "-13 dB")
    )
    board.update(stream.finish(), stream.time_s)
    assert board.summary() == "3.7 s of audio, 3.2 s of speech: sad 2.0 s, angry 1.2 s"
    assert "0:02.5 – 0:03.7" in shown()


@pytest.mark.parametrize(
    ("value", "bar"), [(0, "    "), (1, "████"), (2, "████"), (0.5, "██  "), (0.53125, "██▏ "), (-1, "    ")]
)
def test_a_bar_has_eighths_of_a_character(value: float, bar: str) -> None:
    assert listen._bar(value, 4) == bar
