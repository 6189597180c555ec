"""A recording as the recogniser reads it: without its DC offset, and as often as needed."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from emodistill.audio.channels import ChannelMeter
from emodistill.audio.decoding import DecodableSource, is_longer_than
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, check_rate, from_samples, load, load_blocks
from emodistill.errors import AudioError

MIN_UTTERANCE_S = 0.1  # shorter audio has no emotion
SILENCE_PEAK = 10 ** (-70 / 20)  # a lower peak is silence; full scale is 1
MAX_IN_MEMORY_S = 120.0  # a longer recording is decoded again for each pass, so memory does not grow with it
MAX_WINDOW_S = 20.0  # longer audio is classified window by window

AudioSource = str | Path | bytes | bytearray | memoryview | BinaryIO | npt.NDArray[Any]
Span = tuple[int, int]  # samples [start, end)


class LevelMeter:
    """The length, the DC offset and the peak of a waveform that arrives in pieces."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._sum, self._lowest, self._highest = 0.0, np.inf, -np.inf

    def add(self, piece: Waveform) -> None:
        """Measure the next piece (samples,)."""
        self.num_samples += len(piece)
        self._sum += float(piece.sum(dtype=np.float64))
        self._lowest = min(self._lowest, float(piece.min(initial=self._lowest)))
        self._highest = max(self._highest, float(piece.max(initial=self._highest)))

    @property
    def offset(self) -> float:
        """The mean of all samples."""
        return self._sum / max(1, self.num_samples)

    @property
    def peak(self) -> float:
        """The largest magnitude without the offset."""
        return max(self._highest - self.offset, self.offset - self._lowest)

    def unusable_reason(self) -> Literal["too_short", "silence"] | None:
        """Return why the waveform cannot have an emotion; None if it can."""
        if self.num_samples < MIN_UTTERANCE_S * SAMPLE_RATE:
            return "too_short"
        return "silence" if self.peak < SILENCE_PEAK else None


class Recording:
    """The waveform of a source without its DC offset, read from the beginning as often as needed.

    The offset is removed first, so it changes neither what is silent, nor where speech ends, nor the peak.
    A recording of over `MAX_IN_MEMORY_S` is decoded again for each pass.
    """

    def __init__(self, source: AudioSource, rate_hz: int | None, channel: int | None = None) -> None:
        """Read the source once.

        `rate_hz` is the rate of an array, which needs it; files state their own. `channel` is the one that is
        read, from 0; None: all channels mixed. `channels` measures all of them.

        Raises `AudioError` if the source cannot be read, or has no such channel.
        """
        if not isinstance(source, np.ndarray) and hasattr(source, "__array__"):  # for example a tensor
            source = np.asarray(source)
        self._channel, self.channels = channel, ChannelMeter()
        self._long_source = None if isinstance(source, np.ndarray) else _long_source(source)
        self._waveform = (
            _decode(source, rate_hz, channel, self.channels) if self._long_source is None else None
        )
        self.level = LevelMeter()
        for piece in self._decoded_pieces(self.channels):
            self.level.add(piece)
        self.num_samples, self.peak = self.level.num_samples, self.level.peak

    def pieces(self) -> Iterator[Waveform]:
        """Yield the pieces (samples,) of the waveform in order."""
        for piece in self._decoded_pieces():
            yield np.asarray(piece - self.level.offset, dtype=np.float32)

    def windows(self, spans: Sequence[Span] | None = None) -> Iterator[Waveform]:
        """Yield equal windows of at most `MAX_WINDOW_S`, cut from the joined spans of the waveform.

        `spans` are spans of samples in ascending order that do not overlap; None is the whole waveform.
        Silent windows are left out. If all are silent, the first one is yielded.
        """
        spans = [(0, self.num_samples)] if spans is None else spans
        num_samples = sum(end - start for start, end in spans)
        num_windows = max(1, -(-num_samples // round(MAX_WINDOW_S * SAMPLE_RATE)))
        edges = np.linspace(0, num_samples, num_windows + 1).round().astype(int).tolist()
        first: Waveform | None = None
        any_yielded = False
        for window in self._cut(spans, edges):
            first = window if first is None else first
            if np.abs(window).max(initial=0.0) >= SILENCE_PEAK:
                any_yielded = True
                yield window
        if not any_yielded and first is not None:
            yield first

    def _cut(self, spans: Sequence[Span], edges: Sequence[int]) -> Iterator[Waveform]:
        """Yield the joined spans between neighbouring edges, which are samples of the joined spans."""
        bounds = iter(pairwise(edges))
        start, end = next(bounds)
        buffer: Waveform = np.zeros(0, dtype=np.float32)
        for piece in self._inside(spans):
            buffer = np.concatenate([buffer, piece])
            while len(buffer) >= end - start:
                yield buffer[: end - start]
                buffer = buffer[end - start :]
                if (following := next(bounds, None)) is None:
                    return
                start, end = following

    def _inside(self, spans: Sequence[Span]) -> Iterator[Waveform]:
        """Yield the parts of the pieces that lie inside the spans."""
        waiting = deque(spans)
        piece_start = 0
        for piece in self.pieces():
            piece_end = piece_start + len(piece)
            while waiting and waiting[0][0] < piece_end:
                start, end = waiting[0]
                yield piece[max(0, start - piece_start) : end - piece_start]
                if end > piece_end:
                    break  # the rest of this span is in the next piece
                waiting.popleft()
            piece_start = piece_end

    def _decoded_pieces(self, meter: ChannelMeter | None = None) -> Iterable[Waveform]:
        if self._waveform is not None:
            return [self._waveform]
        assert self._long_source is not None
        if not isinstance(self._long_source, (str, Path, bytes)):
            self._long_source.seek(0)
        return load_blocks(self._long_source, channel=self._channel, meter=meter)


def _long_source(source: Any) -> DecodableSource | None:
    """Return a source that is too long for the memory and can be read again; None for any other."""
    can_be_read_again = isinstance(source, (str, Path, bytes)) or (
        hasattr(source, "read")
        and not isinstance(source, TextIOBase)
        and not getattr(source, "closed", False)
        and hasattr(source, "seekable")
        and source.seekable()
    )
    if not can_be_read_again:
        return None
    is_long = is_longer_than(source, MAX_IN_MEMORY_S)
    if not isinstance(source, (str, Path, bytes)):
        source.seek(0)
    return source if is_long else None


def _decode(source: AudioSource, rate_hz: int | None, channel: int | None, meter: ChannelMeter) -> Waveform:
    """Return the waveform (samples,) of any source."""
    if isinstance(source, np.ndarray):
        return from_samples(source, check_rate(rate_hz), channel=channel, meter=meter)
    decodable = decodable_source(source, "a path, bytes, a file opened in binary mode or a NumPy array")
    return load(decodable, channel=channel, meter=meter)


def decodable_source(source: Any, expected: str) -> DecodableSource:
    """Return a source that can be decoded: the source itself, or the bytes of a buffer or a pipe.

    `expected` names the accepted sources in the message. Raises `AudioError` for any other source, and for a
    closed file.
    """
    if isinstance(source, (str, Path, bytes)):
        return source
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, TextIOBase) or not hasattr(source, "read"):
        raise AudioError(f"expected {expected}, got {type(source).__module__}.{type(source).__qualname__}")
    if getattr(source, "closed", False):
        raise AudioError("expected an open file, got a closed one")
    if hasattr(source, "seekable") and source.seekable():
        opened: BinaryIO = source
        return opened
    content: bytes = source.read()  # Decoders seek, for example to a header at the end, and a pipe cannot.
    return content
