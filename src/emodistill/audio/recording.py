"""A recording as the recogniser hears it: without its DC offset, from the beginning as often as it is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from io import TextIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from emodistill.audio.decoding import is_longer_than
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, from_samples, load, load_blocks
from emodistill.errors import AudioError

MIN_UTTERANCE_S = 0.1  # below this there is nothing to judge
SILENCE_PEAK = 10 ** (-70 / 20)  # full scale is 1
MAX_IN_MEMORY_S = 120.0  # a longer recording is read again instead of being held in memory
MAX_WINDOW_S = 20.0  # longer audio is judged window by window

AudioSource = str | Path | bytes | bytearray | memoryview | BinaryIO | npt.NDArray[Any]


class Level:
    """How long and how loud a waveform is, heard piece by piece; an offset is no sound."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._total, self._low, self._high = 0.0, np.inf, -np.inf

    def add(self, piece: Waveform) -> None:
        """The waveform goes on."""
        self.num_samples += len(piece)
        self._total += float(piece.sum(dtype=np.float64))
        self._low = min(self._low, float(piece.min(initial=self._low)))
        self._high = max(self._high, float(piece.max(initial=self._high)))

    @property
    def mean(self) -> float:
        """The offset."""
        return self._total / max(1, self.num_samples)

    @property
    def peak(self) -> float:
        """The largest magnitude without the offset."""
        return max(self._high - self.mean, self.mean - self._low)

    def nothing(self) -> Literal["too_short", "silence"] | None:
        """Why there cannot be anything to judge; None where there can."""
        if self.num_samples < MIN_UTTERANCE_S * SAMPLE_RATE:
            return "too_short"
        return "silence" if self.peak < SILENCE_PEAK else None


class Recording:
    """The waveform of a source without its DC offset, from the beginning as often as it is asked for.

    Neither what is silent, nor where speech ends, nor the peak may depend on an offset. Raises `AudioError`
    where it can't be read.
    """

    def __init__(self, source: AudioSource, rate_hz: int) -> None:
        if not isinstance(source, np.ndarray) and hasattr(source, "__array__"):  # a tensor, a series
            source = np.asarray(source)
        self._long = None if isinstance(source, np.ndarray) else _long(source)
        self._held = _decoded(source, rate_hz) if self._long is None else None
        self.level = Level()
        for piece in self._raw():
            self.level.add(piece)
        self.num_samples, self.peak = self.level.num_samples, self.level.peak

    def pieces(self) -> Iterator[Waveform]:
        """Its pieces (samples,) in order."""
        for piece in self._raw():
            yield np.asarray(piece - self.level.mean, dtype=np.float32)

    def windows(
        self, span: tuple[int, int], speech: Sequence[tuple[int, int]] | None = None
    ) -> Iterator[Waveform]:
        """A span of samples in equal windows of at most 20 s, without silent ones; at least one.

        `speech`, spans of samples, leaves out windows that hold none of it.
        """
        num_windows = max(1, -(-(span[1] - span[0]) // round(MAX_WINDOW_S * SAMPLE_RATE)))
        edges = np.linspace(*span, num_windows + 1).round().astype(int).tolist()
        first: Waveform | None = None
        loud = False
        for window, (start, end) in zip(self._cut(edges), pairwise(edges), strict=True):
            first = window if first is None else first
            heard = speech is None or any(a < end and b > start for a, b in speech)
            if heard and np.abs(window).max(initial=0.0) >= SILENCE_PEAK:
                loud = True
                yield window
        if not loud and first is not None:
            yield first

    def _cut(self, edges: Sequence[int]) -> Iterator[Waveform]:
        """The stretches between neighbouring edges."""
        bounds = iter(pairwise(edges))
        start, end = next(bounds)
        kept: Waveform = np.zeros(0, dtype=np.float32)
        begin = 0  # sample at which `kept` begins
        for piece in self.pieces():
            kept = np.concatenate([kept, piece])
            while begin + len(kept) >= end:
                yield kept[start - begin : end - begin]
                if (following := next(bounds, None)) is None:
                    return
                start, end = following
            if begin + len(kept) > start:
                kept, begin = kept[max(0, start - begin) :], max(start, begin)
            else:
                kept, begin = kept[len(kept) :], begin + len(kept)

    def _raw(self) -> Iterable[Waveform]:
        if self._held is not None:
            return [self._held]
        assert self._long is not None
        if not isinstance(self._long, (str, Path, bytes)):
            self._long.seek(0)
        return load_blocks(self._long)


def _long(source: Any) -> str | Path | bytes | BinaryIO | None:
    """The source of a recording that is too long to be held and can be read again; None for any other."""
    again = isinstance(source, (str, Path, bytes)) or (
        hasattr(source, "read")
        and not isinstance(source, TextIOBase)
        and not getattr(source, "closed", False)
        and hasattr(source, "seekable")
        and source.seekable()
    )
    if not again:
        return None
    long = is_longer_than(source, MAX_IN_MEMORY_S)
    if not isinstance(source, (str, Path, bytes)):
        source.seek(0)
    return source if long else None


def _decoded(source: AudioSource, rate_hz: int) -> Waveform:
    """The waveform (samples,) of any source."""
    if isinstance(source, np.ndarray):
        return from_samples(source, rate_hz)
    return load(readable(source, "a path, bytes, a file opened in binary mode or a NumPy array"))


def readable(source: Any, expected: str) -> str | Path | bytes | BinaryIO:
    """A source that can be decoded: as it is, or what a pipe or buffer holds as bytes.

    Raises `AudioError`, which says what was expected, for anything else and for a closed file.
    """
    if isinstance(source, (str, Path, bytes)):
        return source
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, TextIOBase) or not hasattr(source, "read"):
        raise AudioError(f"expected {expected}, got {type(source).__module__}.{type(source).__qualname__}")
    if getattr(source, "closed", False):
        raise AudioError("expected an open file, got a closed one")
    seekable = hasattr(source, "seekable") and source.seekable()
    found: bytes | BinaryIO = (
        source if seekable else source.read()
    )  # a pipe has no end to look for its header at
    return found
