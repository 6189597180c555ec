"""`emodistill listen`: sound from a microphone or a pipe, and its emotions in a terminal or as JSON lines."""

import json
import queue
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, BinaryIO, TextIO

import numpy as np
import numpy.typing as npt
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from emodistill.audio.decoding import MAX_CHANNELS
from emodistill.audio.wav_header import FLOAT, PCM, WavHeader, read_wav_header
from emodistill.errors import AudioError, ConfigError, EmodistillError, MissingExtraError
from emodistill.inference.adapted_windows import Adapt
from emodistill.inference.batch import clock
from emodistill.inference.formats import UNSURE
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation import DEFAULT_OPTIONS, Segment, WindowUpdate
from emodistill.inference.segmentation_options import SegmentationOptions
from emodistill.inference.streaming import Event, SpeechEnded, SpeechStarted
from emodistill.inference.voices import Voice
from emodistill.labels import COLOURS

CHUNK_S = 0.1  # of audio from a microphone at once
MICROPHONE_TIMEOUT_S = 10.0  # without a chunk for this long, the microphone counts as disconnected
MIN_LEVEL_DB = -60.0  # of full scale: the left end of the level bar
NUM_SHOWN_SEGMENTS = 8
# The first four bytes of files that are not PCM. An MP3 without an ID3 tag has none, and is read as PCM.
COMPRESSED = {
    b"OggS": "an Ogg file", b"fLaC": "a FLAC file", b"ID3\x02": "an MP3", b"ID3\x03": "an MP3",
    b"ID3\x04": "an MP3", b"\x1aE\xdf\xa3": "a webm or Matroska file", b"FORM": "an AIFF file",
    b".snd": "an AU file", b"caff": "a CAF file", b"RF64": "an RF64 file", b"riff": "a W64 file",
}  # fmt: skip
# Programs that cannot seek in a pipe write a data size near 2 or 4 GiB, less their header.
_UNKNOWN_DATA_BYTES = 2**31 - 1 - 36
_READ_BYTES = 65_536  # from a pipe at once

Chunk = npt.NDArray[Any]  # (n, channels)


@dataclass(frozen=True)
class Sound:
    """Sound from a microphone or a pipe: its name, its rate, and its chunks (n, channels) as they arrive."""

    name: str
    rate_hz: int
    chunks: Iterator[Chunk]


class MissingPortAudioError(MissingExtraError):
    """sounddevice is installed, but the library PortAudio, which it needs, is not."""

    def __init__(self) -> None:
        EmodistillError.__init__(
            self,
            "a microphone needs the library PortAudio, which sounddevice cannot find: apt install "
            "libportaudio2 on Linux, elsewhere pip install --force-reinstall 'emodistill[listen]'",
        )


@contextmanager
def microphone(device: str | None = None) -> Iterator[Sound]:
    """Open a microphone at its own rate, and close it when the context ends.

    `device` is part of its name, or its number; None: the default microphone. Raises `MissingExtraError`
    without sounddevice or PortAudio, and `ConfigError` for a device that cannot be used. `chunks` raises
    `AudioError` after `MICROPHONE_TIMEOUT_S` without a chunk.
    """
    try:
        import sounddevice
    except ImportError as error:
        purpose = "a microphone (a pipe needs nothing: emodistill listen -)"
        raise MissingExtraError("sounddevice", "listen", purpose) from error
    except OSError as error:  # sounddevice is installed, and PortAudio is not.
        raise MissingPortAudioError from error
    device_id = int(device) if device is not None and device.isdigit() else device
    arriving: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    try:
        info: Any = sounddevice.query_devices(device_id, "input")
        rate_hz = round(info["default_samplerate"])
        stream = sounddevice.InputStream(
            rate_hz,
            blocksize=round(CHUNK_S * rate_hz),
            device=device_id,
            channels=1,
            dtype="float32",
            callback=lambda data, *_: arriving.put(data.copy()),
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        name = "the default microphone" if device is None else f"'{device}'"
        raise ConfigError(
            f"cannot listen to {name}: {error}; "
            "python -m sounddevice lists the devices; a pipe works without one: emodistill listen -"
        ) from error

    def chunks() -> Iterator[Chunk]:
        while True:
            try:
                yield arriving.get(timeout=MICROPHONE_TIMEOUT_S)
            except queue.Empty:
                raise AudioError(
                    f"no sound from '{info['name']}' for {MICROPHONE_TIMEOUT_S:g} s: is it still connected?"
                ) from None

    with stream:
        yield Sound(str(info["name"]), rate_hz, chunks())


@contextmanager
def pipe(stream: BinaryIO, rate_hz: int, channels: int) -> Iterator[Sound]:
    """Open a pipe of raw 16-bit little-endian PCM, or of a WAV with 16-bit PCM or 32-bit float.

    `rate_hz` and `channels` describe raw PCM; a WAV states its own.

    Raises `AudioError` for a number of channels that audio cannot have, and for a compressed file. A WAV with
    other samples, or with a header that is cut off, raises it too.
    """
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"<pipe>: expected 1 to {MAX_CHANNELS} channels, got {channels}")
    start = _read_exactly(stream, 4)
    if start in COMPRESSED:  # Its bytes would be read as noise.
        raise AudioError(
            f"<pipe>: expected raw PCM or a WAV, got {COMPRESSED[start]}; decode it first, e.g. with "
            "ffmpeg -i … -f s16le -ar 16000 -ac 1 -"
        )
    dtype, data_size, first = np.dtype("<i2"), None, start
    if start == b"RIFF":
        header = read_wav_header(partial(_read_exactly, stream), "<pipe>")
        rate_hz, channels, dtype = header.rate_hz, header.channels, _sample_type(header)
        data_size, first = _data_size(header), b""
    frame_size = channels * dtype.itemsize  # bytes of one sample of each channel

    def chunks() -> Iterator[Chunk]:
        buffer, remaining = first, data_size
        while True:
            whole = len(buffer) - len(buffer) % frame_size
            if whole:
                yield np.frombuffer(buffer[:whole], dtype=dtype).reshape(-1, channels)
            buffer = buffer[whole:]
            part = _read_available(stream, _READ_BYTES if remaining is None else min(remaining, _READ_BYTES))
            if not part:  # Less than one sample of each channel may be left, and is dropped.
                return
            remaining = None if remaining is None else remaining - len(part)
            buffer += part

    yield Sound("pipe", rate_hz, chunks())


def _sample_type(header: WavHeader) -> "np.dtype[Any]":
    """Return the sample type of a WAV. Raises `AudioError` unless it is 16-bit PCM or 32-bit float."""
    types = {(PCM, 16): "<i2", (FLOAT, 32): "<f4"}
    if (header.format_tag, header.bits) not in types or not header.channels:
        raise AudioError(
            f"<pipe>: expected a WAV of 16-bit PCM or 32-bit float, got format {header.format_tag} of "
            f"{header.bits} bits; convert it, e.g. with ffmpeg -i … -f wav -c:a pcm_s16le -"
        )
    return np.dtype(types[header.format_tag, header.bits])


def _data_size(header: WavHeader) -> int | None:
    """Return how many bytes of samples follow; None if the program that writes the pipe did not know."""
    is_unknown = header.data_size == 0 or header.data_size >= _UNKNOWN_DATA_BYTES
    return None if is_unknown else header.data_size


def _read_available(stream: BinaryIO, size: int) -> bytes:
    """Return the bytes that have arrived, at most `size`, and wait for the first one; none at the end."""
    if size <= 0:
        return b""
    read = getattr(stream, "read1", stream.read)
    return bytes(read(size))


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    """Return `size` bytes; fewer only at the end."""
    data = b""
    while len(data) < size and (part := _read_available(stream, size - len(data))):
        data += part
    return data


def listen(
    recognizer: Recognizer,
    sound: Sound,
    out: TextIO,
    terminal: Console,
    voice: Voice | None = None,
    adapt: Adapt = "none",
    options: SegmentationOptions = DEFAULT_OPTIONS,
) -> str:
    """Recognise sound as it arrives, until its end or Ctrl-C; return a summary in one line.

    A terminal shows a display. Otherwise each event is written to `out` as one line of JSON. `voice` and
    `adapt` are those of `Recognizer.stream`. Raises `AudioError` if a microphone is disconnected, after it
    has reported all events.
    """
    stream = recognizer.stream(sound.rate_hz, voice=voice, adapt=adapt, **asdict(options))
    display = Display(recognizer.emotions, sound.name)
    live = Live(display, console=terminal, auto_refresh=False) if terminal.is_terminal else None

    def report(events: list[Event], chunk: Chunk | None = None) -> None:
        display.update(events, stream.time_s, chunk)
        if live is not None:
            live.update(display, refresh=True)
            return
        for event in events:
            out.write(json.dumps({"event": event.kind, **event.as_dict()}, ensure_ascii=False) + "\n")
        if events:
            out.flush()

    with live or nullcontext(), _CtrlC() as ctrl_c:
        try:
            for chunk in ctrl_c.until_pressed(sound.chunks):
                report(stream.push(chunk), chunk)
        except AudioError:
            report(stream.finish())
            raise
        report(stream.finish())
    return display.summary()


class _CtrlC:
    """Ctrl-C ends the wait for sound. A chunk that is being classified is finished first."""

    def __enter__(self) -> "_CtrlC":
        self._pressed = self._waiting = False
        self._previous_handler = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous_handler)

    def _on_signal(self, *_: object) -> None:
        self._pressed = True
        if self._waiting:
            raise KeyboardInterrupt

    def until_pressed(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks until Ctrl-C is pressed."""
        while not self._pressed:
            try:
                self._waiting = True
                chunk = next(chunks)
                self._waiting = False
            except (StopIteration, KeyboardInterrupt):
                self._waiting = False
                return
            yield chunk


class Display:
    """The level, the present probabilities and the last segments, for a terminal."""

    def __init__(self, emotions: Sequence[str], name: str) -> None:
        self._emotions, self._name = tuple(emotions), name
        self._time_s = self._speech_s = self._speech_started_s = 0.0
        self._level_db = MIN_LEVEL_DB
        self._speaking = False
        self._probabilities: dict[str, float] = {}  # of the latest window
        self._emotion: str | None = None  # of the latest window, smoothed as segments are
        self._voice_utterances: int | None = None  # of the latest window
        self._last_segments: deque[Segment] = deque(maxlen=NUM_SHOWN_SEGMENTS)
        self._seconds = dict.fromkeys(self._emotions, 0.0)

    def update(self, events: Sequence[Event], time_s: float, chunk: Chunk | None = None) -> None:
        """Add new events, the time so far, and the chunk (n, channels) whose level is shown."""
        self._time_s = time_s
        if chunk is not None and chunk.size:
            full_scale = 1.0 if chunk.dtype.kind == "f" else 32768.0
            rms = float(np.sqrt(np.mean((chunk / full_scale) ** 2)))
            self._level_db = max(MIN_LEVEL_DB, 20 * float(np.log10(max(rms, 1e-6))))
        for event in events:
            match event:
                case SpeechStarted():
                    self._speaking, self._speech_started_s = True, event.time_s
                case SpeechEnded():
                    self._speaking = False
                    self._speech_s += event.time_s - self._speech_started_s
                case WindowUpdate():
                    self._probabilities, self._emotion = event.probabilities, event.emotion
                    self._voice_utterances = event.voice_utterances
                case Segment():
                    self._last_segments.appendleft(event)
                    if event.emotion is not None:
                        self._seconds[event.emotion] += event.end_s - event.start_s

    def summary(self) -> str:
        """Return one line: seconds of audio, of speech, and of each emotion, most first."""
        longest_first = sorted(self._seconds.items(), key=lambda item: -item[1])
        emotions = ", ".join(f"{name} {length_s:.1f} s" for name, length_s in longest_first if length_s)
        total = f"{self._time_s:.1f} s of audio, {self._speech_s:.1f} s of speech"
        return f"{total}: {emotions}" if emotions else total

    def __rich__(self) -> RenderableType:
        best = self._emotion
        return Group(
            self._head(best),
            "",
            self._bars(best),
            "",
            self._segments(),
            Text("Ctrl-C stops listening", "dim"),
        )

    def _head(self, best: str | None) -> Text:
        """Build the first line: name, time, level, speech or silence, most probable emotion, voice."""
        emotion = Text("–")
        if best is not None and self._speaking:
            emotion = Text(f"{best} {self._probabilities[best]:.2f}", f"bold {COLOURS[best]}")
        known = "" if self._voice_utterances is None else f"  {self._voice_utterances} utterances known"
        state = Text("speech " if self._speaking else "silence", "bold" if self._speaking else "dim")
        level = Text(_bar(1 - self._level_db / MIN_LEVEL_DB, 20), "green" if self._level_db < -3 else "red")
        return Text.assemble(
            (f"{self._name}  ", "dim"), clock(self._time_s), "  ", level, f" {self._level_db:4.0f} dB  ",
            state, "  ", emotion, (known, "dim"),
        )  # fmt: skip

    def _bars(self, best: str | None) -> Table:
        """Build a bar for the probability of each emotion."""
        bars = Table.grid(padding=(0, 1))
        for emotion in self._emotions:
            value = self._probabilities.get(emotion, 0.0)
            weight = "" if self._speaking else "dim "
            if emotion == best and self._speaking:
                weight = "bold "
            style = f"{weight}{COLOURS[emotion]}"
            bars.add_row(Text(emotion, style), Text(_bar(value), style), Text(f"{value:.2f}", style))
        return bars

    def _segments(self) -> Table:
        """Build a line for each of the last segments, the latest first."""
        lines = Table.grid(padding=(0, 1))
        for segment in self._last_segments:
            label = segment.emotion or UNSURE
            style = COLOURS.get(label, "dim")
            times = f"{clock(segment.start_s)} – {clock(segment.end_s)}"
            confidence = f"{segment.confidence or 0:.2f}"
            lines.add_row(Text(times, "dim"), Text(label, style), Text(confidence, style))
        return lines


def _bar(value: float, width: int = 30) -> str:
    """Return a bar of block characters for a value from 0 to 1, in eighths of a character."""
    eighths = round(8 * width * min(1.0, max(0.0, value)))
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]).ljust(width)[:width]
