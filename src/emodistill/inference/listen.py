"""`emodistill listen`: sound from a microphone or a pipe, emotions to a terminal or as JSON lines."""

import json
import queue
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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
from emodistill.inference.batch import clock
from emodistill.inference.formats import UNSURE
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation import Segment, WindowUpdate
from emodistill.inference.streaming import Event, SpeechEnded, SpeechStarted, StreamingRecognizer
from emodistill.labels import COLOURS

CHUNK_S = 0.1  # what a microphone gives at once
DEAF_S = 10.0  # without a chunk, a microphone has gone
QUIETEST_DB = -60.0  # of full scale: the left end of the level bar
LAST_SEGMENTS = 8  # shown
# How files that are no PCM begin. (Not all do by four bytes of their own: an MP3 without a tag is taken for PCM.)
COMPRESSED = {b"OggS": "an Ogg file", b"fLaC": "a FLAC file", b"ID3\x02": "an MP3", b"ID3\x03": "an MP3",
              b"ID3\x04": "an MP3", b"\x1aE\xdf\xa3": "a webm or Matroska file", b"FORM": "an AIFF file",
              b".snd": "an AU file", b"caff": "a CAF file", b"RF64": "an RF64 file", b"riff": "a W64 file"}  # fmt: skip
# Programs that cannot seek in a pipe write a data size near 2 or 4 GiB, less their header.
_ENDLESS_BYTES = 2**31 - 1 - 36

Chunk = npt.NDArray[Any]  # (n, channels)


@dataclass(frozen=True)
class Sound:
    """Sound that is coming in: chunks (n, channels) at a rate, and what it comes from."""

    name: str
    rate_hz: int
    chunks: Iterator[Chunk]


class MissingPortAudioError(MissingExtraError):
    """sounddevice is installed, and the library that it speaks to is not."""

    def __init__(self) -> None:
        EmodistillError.__init__(
            self,
            "a microphone needs the library PortAudio, which sounddevice cannot find: apt install libportaudio2 "
            "on Linux, elsewhere pip install --force-reinstall 'emodistill[listen]'",
        )


@contextmanager
def microphone(device: str | None = None) -> Iterator[Sound]:
    """A microphone at its own rate, until the context ends.

    Raises `MissingExtraError` without sounddevice or PortAudio, `ConfigError` for a device that can't be used.
    """
    try:
        import sounddevice
    except ImportError as error:
        what = "a microphone (a pipe needs nothing: emodistill listen -)"
        raise MissingExtraError("sounddevice", "listen", what) from error
    except OSError as error:  # it is there, and the library under it is not
        raise MissingPortAudioError from error
    which = "the default microphone" if device is None else f"'{device}'"
    chosen = int(device) if device is not None and device.isdigit() else device
    coming: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    try:
        found: Any = sounddevice.query_devices(chosen, "input")
        rate_hz = round(found["default_samplerate"])
        stream = sounddevice.InputStream(
            rate_hz,
            blocksize=round(CHUNK_S * rate_hz),
            device=chosen,
            channels=1,
            dtype="float32",
            callback=lambda data, *_: coming.put(data.copy()),
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise ConfigError(
            f"cannot listen to {which}: {error}; "
            "python -m sounddevice lists the devices; a pipe works without one: emodistill listen -"
        ) from error

    def chunks() -> Iterator[Chunk]:
        while True:
            try:
                yield coming.get(timeout=DEAF_S)
            except queue.Empty:
                raise AudioError(
                    f"nothing came from '{found['name']}' for {DEAF_S:g} s: is it still there?"
                ) from None

    with stream:
        yield Sound(str(found["name"]), rate_hz, chunks())


@contextmanager
def pipe(stream: BinaryIO, rate_hz: int, channels: int) -> Iterator[Sound]:
    """Sound out of a pipe, to its end: raw 16-bit little-endian PCM at `rate_hz`, or a WAV that says itself what it is.

    Raises `AudioError` for a WAV header that is cut off, or with anything but 16-bit PCM or 32-bit float; and for
    a compressed file, which would be heard as noise.
    """
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"<pipe>: expected 1 to {MAX_CHANNELS} channels, got {channels}")
    start = _exactly(stream, 4)
    for begins, kind_of_file in COMPRESSED.items():
        if start == begins:
            raise AudioError(
                f"<pipe>: expected raw PCM or a WAV, got {kind_of_file}; decode it first, e.g. by "
                "ffmpeg -i … -f s16le -ar 16000 -ac 1 -"
            )
    kind, left, first = np.dtype("<i2"), None, start
    if start == b"RIFF":
        header = read_wav_header(partial(_exactly, stream), "<pipe>")
        rate_hz, channels, kind = header.rate_hz, header.channels, _wav_format(header)
        left, first = _wav_data_size(header), b""
    size = channels * kind.itemsize

    def chunks() -> Iterator[Chunk]:
        held, limit = first, left
        while True:
            whole = len(held) - len(held) % size
            if whole:
                yield np.frombuffer(held[:whole], dtype=kind).reshape(-1, channels)
            held = held[whole:]
            part = _some(stream, 65_536 if limit is None else min(limit, 65_536))
            if not part:  # less than a sample of each channel may be left over
                return
            limit = None if limit is None else limit - len(part)
            held += part

    yield Sound("pipe", rate_hz, chunks())


def _wav_format(header: WavHeader) -> "np.dtype[Any]":
    """Return the sample type of a WAV. Raises `AudioError` for a type other than 16-bit PCM and 32-bit float."""
    types = {(PCM, 16): "<i2", (FLOAT, 32): "<f4"}
    if (header.format_tag, header.bits) not in types or not header.channels:
        raise AudioError(
            f"<pipe>: expected a WAV of 16-bit PCM or 32-bit float, got format {header.format_tag} of {header.bits} "
            "bits; convert it, e.g. with ffmpeg -i … -f wav -c:a pcm_s16le -"
        )
    return np.dtype(types[header.format_tag, header.bits])


def _wav_data_size(header: WavHeader) -> int | None:
    """Return how many bytes of samples follow; None where the writer of the pipe did not know."""
    unknown = header.data_size == 0 or header.data_size >= _ENDLESS_BYTES
    return None if unknown else header.data_size


def _some(stream: BinaryIO, most: int) -> bytes:
    """What has come, as soon as there is anything; nothing at the end."""
    if most <= 0:
        return b""
    reader = getattr(stream, "read1", stream.read)
    return bytes(reader(most))


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """So many bytes; fewer at the end."""
    found = b""
    while len(found) < size and (part := _some(stream, size - len(found))):
        found += part
    return found


def listen(recognizer: Recognizer, sound: Sound, out: TextIO, terminal: Console) -> str:
    """Judge sound as it comes, until its end or Ctrl-C; returns one line that sums it up.

    To a terminal goes a display that keeps up to date; otherwise every event is a line of JSON in `out`.
    """
    stream = StreamingRecognizer(recognizer, sound.rate_hz)
    board = Board(recognizer.emotions, sound.name)
    live = Live(board, console=terminal, auto_refresh=False) if terminal.is_terminal else None

    def tell(events: list[Event], chunk: Chunk | None = None) -> None:
        board.update(events, stream.time_s, chunk)
        if live is not None:
            live.update(board, refresh=True)
            return
        for event in events:
            out.write(json.dumps({"event": event.kind, **event.as_dict()}, ensure_ascii=False) + "\n")
        if events:
            out.flush()

    with live or nullcontext(), _CtrlC() as ctrl_c:
        try:
            for chunk in ctrl_c.until(sound.chunks):
                tell(stream.push(chunk), chunk)
        except AudioError:  # a microphone that was pulled out: what was said before is not lost
            tell(stream.finish())
            raise
        tell(stream.finish())
    return board.summary()


class _CtrlC:
    """Ctrl-C ends the wait for sound; a chunk that is being judged is judged to its end first."""

    def __enter__(self) -> "_CtrlC":
        self._asked = self._waiting = False
        self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _hear(self, *_: object) -> None:
        self._asked = True
        if self._waiting:
            raise KeyboardInterrupt

    def until(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The chunks, up to Ctrl-C."""
        while not self._asked:
            try:
                self._waiting = True
                chunk = next(chunks)
                self._waiting = False
            except (StopIteration, KeyboardInterrupt):
                self._waiting = False
                return
            yield chunk


class Board:
    """What the display shows: level, probabilities now, and the last segments."""

    def __init__(self, emotions: Sequence[str], name: str) -> None:
        self._emotions, self._name = tuple(emotions), name
        self._time_s = self._speech_s = self._started_s = 0.0
        self._level_db = QUIETEST_DB
        self._speaking = False
        self._now: dict[str, float] = {}
        self._last: deque[Segment] = deque(maxlen=LAST_SEGMENTS)
        self._seconds = dict.fromkeys(self._emotions, 0.0)

    def update(self, events: Sequence[Event], time_s: float, chunk: Chunk | None = None) -> None:
        """Take in what is new."""
        self._time_s = time_s
        if chunk is not None and chunk.size:
            scale = 1.0 if chunk.dtype.kind == "f" else 32768.0
            rms = float(np.sqrt(np.mean((chunk / scale) ** 2)))
            self._level_db = max(QUIETEST_DB, 20 * float(np.log10(max(rms, 1e-6))))
        for event in events:
            match event:
                case SpeechStarted():
                    self._speaking, self._started_s = True, event.time_s
                case SpeechEnded():
                    self._speaking = False
                    self._speech_s += event.time_s - self._started_s
                case WindowUpdate():
                    self._now = event.probabilities
                case Segment():
                    self._last.appendleft(event)
                    if event.emotion is not None:
                        self._seconds[event.emotion] += event.end_s - event.start_s

    def summary(self) -> str:
        """One line: how much was heard, and of what."""
        most = sorted(self._seconds.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {length_s:.1f} s" for name, length_s in most if length_s)
        return f"{self._time_s:.1f} s heard, {self._speech_s:.1f} s of speech" + (
            f": {shares}" if shares else ""
        )

    def __rich__(self) -> RenderableType:
        bars = Table.grid(padding=(0, 1))
        best = max(self._now, key=self._now.__getitem__, default=None)
        for emotion in self._emotions:
            value = self._now.get(emotion, 0.0)
            style = f"{'bold ' if emotion == best and self._speaking else '' if self._speaking else 'dim '}{COLOURS[emotion]}"
            bars.add_row(Text(emotion, style), Text(_bar(value), style), Text(f"{value:.2f}", style))
        now = (
            Text(f"{best} {self._now[best]:.2f}", f"bold {COLOURS[best]}")
            if best and self._speaking
            else Text("–")
        )
        state = Text("speech " if self._speaking else "silence", "bold" if self._speaking else "dim")
        level = Text(_bar(1 - self._level_db / QUIETEST_DB, 20), "green" if self._level_db < -3 else "red")
        head = Text.assemble(
            (f"{self._name}  ", "dim"),
            clock(self._time_s),
            "  ",
            level,
            f" {self._level_db:4.0f} dB  ",
            state,
            "  ",
            now,
        )
        past = Table.grid(padding=(0, 1))
        for segment in self._last:
            shown = segment.emotion or UNSURE
            style = COLOURS.get(shown, "dim")
            span = f"{clock(segment.start_s)} – {clock(segment.end_s)}"
            past.add_row(Text(span, "dim"), Text(shown, style), Text(f"{segment.confidence or 0:.2f}", style))
        return Group(head, "", bars, "", past, Text("Ctrl-C ends it", "dim"))


def _bar(value: float, width: int = 30) -> str:
    """A bar of eighths: 0 to 1 over `width` characters."""
    eighths = round(8 * width * min(1.0, max(0.0, value)))
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]).ljust(width)[:width]
