"""Decode audio to the one form used everywhere: a float32 mono waveform in [-1, 1] at 16 kHz."""

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from emodistill.audio.decoding import (
    MAX_CHANNELS,
    check_file,
    decode_blocks,
    decode_whole_media,
    open_recording,
)
from emodistill.errors import AudioError, AudioTooLongError

SAMPLE_RATE = 16_000  # samples per second
FRAME_MS = 10  # one LLD or log-mel frame
FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000  # 160 samples
MIN_INPUT_SAMPLES = SAMPLE_RATE // 10  # a model is run on at least this much, padded with zeros
MIN_RATE_HZ = 2_000  # below, next to nothing of speech is left; what says so is mostly a rate in kHz
# Rates that are taken where length is bounded: a second outside of them costs more than its length says.
UNTRUSTED_RATES_HZ = (MIN_RATE_HZ, 768_000)
MAX_AMPLITUDE = 1_000.0  # times full scale; floats beyond it are no waveform in [-1, 1] at whatever gain

Waveform = npt.NDArray[np.float32]


def load(
    source: str | Path | bytes | BinaryIO, start_s: float | None = None, end_s: float | None = None
) -> Waveform:
    """Decode a file, its bytes or an open binary file into a waveform (samples,).

    `start_s` and `end_s` cut a segment, in seconds, before anything else looks at the audio.
    Raises `AudioError` for what is missing, undecodable, empty, or holds NaN or Inf.
    """
    name = str(source) if isinstance(source, (str, Path)) else "<bytes>"
    check_file(source)
    try:
        with open_recording(source) as file:
            rate = file.samplerate
            start = 0 if start_s is None else min(round(start_s * rate), file.frames)
            stop = file.frames if end_s is None else min(round(end_s * rate), file.frames)
            if start:  # GSM 6.10 of telephone systems can be read, and not sought in
                file.seek(start)
            frames = file.read(max(stop - start, 0), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        rate, frames = decode_whole_media(source, name, error)
        start = 0 if start_s is None else round(start_s * rate)
        frames = frames[start : None if end_s is None else round(end_s * rate)]
    where = "" if start_s is None and end_s is None else f" between {start_s} s and {end_s} s"
    return from_samples(frames, rate, f"{name}{where}")


class MonoStream:
    """Chunks of audio at any rate from 2 kHz in, pieces of one waveform out: the same samples for every chunking.

    Nothing looks ahead: channels are averaged over those that have made a sound so far, so a dead one never
    counts, and what is beyond full scale stays there. Resampling delays the output by 35 to 115 ms, the most at 8 kHz; at 16 kHz there is no delay.
    """

    def __init__(self, rate_hz: int, name: str = "<stream>") -> None:
        """Raises `AudioError` for a rate below 2 kHz; `name` is what messages call the audio."""
        _check_rate(rate_hz, name)
        self._name = name
        self._resampler = (
            None if rate_hz == SAMPLE_RATE else soxr.ResampleStream(rate_hz, SAMPLE_RATE, 1, "float32")
        )
        self._alive: npt.NDArray[np.bool_] | None = None  # channels that have made a sound
        self._finished = False

    def push(self, samples: npt.ArrayLike) -> Waveform:
        """The next piece of the waveform, (samples,) and perhaps empty, for samples (n,) or (n, channels).

        Raises `AudioError` for NaN, Inf, another shape, or another number of channels than before: such a
        chunk is left out as a whole, and the stream can go on.
        """
        if self._finished:
            raise AudioError(
                f"{self._name}: finished, and a chunk came after that; start a new stream for more audio"
            )
        array = _columns(samples, self._name)
        if self._alive is None:
            self._alive = np.zeros(array.shape[1], dtype=np.bool_)
        if array.shape[1] != len(self._alive):
            raise AudioError(
                f"{self._name}: a chunk has {array.shape[1]} channels, those before it had {len(self._alive)}; "
                "start a new stream where the number changes"
            )
        return self._resampled(self._mono(array), last=False)

    def finish(self) -> Waveform:
        """What the resampler still holds, (samples,) and perhaps empty. Nothing can be pushed after it."""
        if self._finished:
            return np.zeros(0, dtype=np.float32)
        self._finished = True
        return self._resampled(np.zeros(0, dtype=np.float32), last=True)

    def _mono(self, array: npt.NDArray[np.float32]) -> Waveform:
        assert self._alive is not None
        if array.shape[1] == 1:
            return array[:, 0]
        heard = self._alive | np.logical_or.accumulate(array != 0, axis=0)  # (n, channels), up to each sample
        if len(heard):
            self._alive = heard[-1]
        num_heard = np.maximum(heard.sum(axis=1), 1).astype(np.float32)
        return np.ascontiguousarray(array).sum(axis=1, dtype=np.float32) / num_heard

    def _resampled(self, mono: Waveform, last: bool) -> Waveform:
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono), last=last)
        return np.asarray(mono, dtype=np.float32)


def load_bounded(source: str | Path | bytes | BinaryIO, max_s: float) -> Waveform:
    """The waveform (samples,) that `load` gives, of a source that nobody vouches for.

    It is decoded block by block, and given up as soon as it goes on for longer than `max_s`: a small file can
    hold days of audio. Raises `AudioTooLongError` then, and `AudioError` as `load` does.
    """
    name = str(source) if isinstance(source, (str, Path)) else "<bytes>"
    sums: list[Waveform] = []
    alive: npt.NDArray[np.bool_] | None = None  # channels that make a sound
    rate = SAMPLE_RATE
    for at_rate, frames in _bounded(decode_blocks(source, name), max_s, name):
        rate, array = at_rate, _columns(frames, name)
        heard = (array != 0).any(axis=0)
        alive = heard if alive is None else alive | heard
        sums.append(array.sum(axis=1, dtype=np.float32))
    if alive is None:
        raise AudioError(f"{name}: holds no samples")
    return from_samples(np.concatenate(sums) / np.float32(max(1, alive.sum())), rate, name)


def load_blocks(source: str | Path | bytes | BinaryIO, max_s: float | None = None) -> Iterator[Waveform]:
    """Decode a recording of any length in bounded memory: the pieces (samples,) of its waveform, in order.

    The waveform is that of `MonoStream` at the recording's rate. Raises `AudioError` as `load` does, in
    between too: where decoding fails half-way, or a NaN or Inf comes; `AudioTooLongError` after `max_s`.
    """
    name = str(source) if isinstance(source, (str, Path)) else "<bytes>"
    stream: MonoStream | None = None
    empty = True
    decoded = decode_blocks(source, name)
    for rate, frames in decoded if max_s is None else _bounded(decoded, max_s, name):
        stream = stream or MonoStream(rate, name)
        piece = stream.push(frames)
        empty = empty and piece.size == 0
        yield piece
    piece = np.zeros(0, dtype=np.float32) if stream is None else stream.finish()
    if empty and piece.size == 0:
        raise AudioError(f"{name}: holds no samples")
    yield piece


def _bounded(
    decoded: Iterator[tuple[int, npt.NDArray[np.float32]]], max_s: float, name: str
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """The same blocks, until they are longer than `max_s` together."""
    taken = 0
    low, high = UNTRUSTED_RATES_HZ
    for rate, frames in decoded:
        if not low <= rate <= high:
            raise AudioError(f"{name}: expected a rate from {low} to {high} Hz, got {rate}")
        taken += len(frames)
        if taken > max_s * rate:
            raise AudioTooLongError(
                f"{name}: longer than {max_s:g} s, the most that is taken here; cut it into parts"
            )
        yield rate, frames


def from_samples(samples: npt.ArrayLike, rate_hz: int, name: str = "<array>") -> Waveform:
    """Make a waveform of decoded samples, (samples,) or (samples, channels), at any rate.

    Channels are averaged; a dead (all-zero) channel is left out of the average. Integer PCM is scaled, and so is
    what goes beyond full scale: nothing is clipped, so gain changes no more than the gain.
    """
    _check_rate(rate_hz, name)
    array = _columns(samples, name)
    if array.size == 0:
        raise AudioError(f"{name}: holds no samples")
    if array.shape[1] > 1:
        alive = np.abs(array).max(axis=0) > 0
        array = array[:, alive] if alive.any() else array[:, :1]
    mono = array.mean(axis=1, dtype=np.float32)
    if rate_hz != SAMPLE_RATE:
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE).astype(np.float32)
        if mono.size == 0:
            raise AudioError(f"{name}: too short to hold a sample at {SAMPLE_RATE} Hz")
    return np.ascontiguousarray(mono / max(1.0, float(np.abs(mono).max())), dtype=np.float32)


def _check_rate(rate_hz: float, name: str) -> None:
    number = isinstance(rate_hz, (int, float, np.integer, np.floating))
    if not number or not MIN_RATE_HZ <= rate_hz < math.inf:
        raise AudioError(f"{name}: expected a rate in Hz, at least {MIN_RATE_HZ}, got {rate_hz!r}")


def _columns(samples: npt.ArrayLike, name: str) -> npt.NDArray[np.float32]:
    """Finite samples (n, channels) in [-1, 1] of PCM or float ones, (n,) or (n, channels)."""
    array = np.asarray(samples)
    if array.dtype.kind not in "iuf":
        raise AudioError(f"{name}: expected integer or float samples, got {array.dtype}")
    if (
        array.dtype.kind != "f" and array.dtype.itemsize > 4
    ):  # Python's numbers, whose full scale nobody knows
        raise AudioError(
            f"{name}: expected samples of at most 32 bits, got {array.dtype}; cast them to what was recorded, "
            "e.g. samples.astype('int16')"
        )
    if array.dtype.kind != "f":
        low, high = int(np.iinfo(array.dtype).min), int(np.iinfo(array.dtype).max)
        middle = (low + high + 1) // 2  # not 0 if unsigned
        array = (array.astype(np.float64) - middle) / (high + 1 - middle)
    with np.errstate(over="ignore"):  # beyond float32 is Inf, and told as that
        array = array.astype(np.float32)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise AudioError(f"{name}: expected samples (n,) or (n, channels), got shape {array.shape}")
    if array.shape[1] > MAX_CHANNELS:  # (channels, n) would else be heard as a few samples
        raise AudioError(
            f"{name}: expected samples (n,) or (n, channels) with at most {MAX_CHANNELS} channels, got shape "
            f"{array.shape}; channels come last: transpose it"
        )
    if not np.isfinite(array).all():
        raise AudioError(f"{name}: holds NaN or Inf samples; repair or re-encode it")
    if array.size and (loudest := float(np.abs(array).max())) > MAX_AMPLITUDE:
        raise AudioError(
            f"{name}: expected float samples from -1 to 1, got some of {loudest:.6g}; are these values of 16 bits? "
            "Cast them to int16, or divide them by 32768"
        )
    return array


def remove_offset(waveform: Waveform) -> Waveform:
    """Subtract the mean, so that a DC offset is not taken for sound."""
    if waveform.size == 0:
        return waveform
    return np.asarray(waveform - float(waveform.mean(dtype=np.float64)), dtype=np.float32)


def trim_silence(waveform: Waveform, top_db: float) -> Waveform:
    """Cut what lies more than `top_db` below the loudest frame off both ends.

    Loudness is the RMS of 10 ms frames, so equal audio at another gain is cut at the same samples.
    """
    num_frames = len(waveform) // FRAME_SAMPLES
    if num_frames < 3:
        return waveform
    frames = waveform[: num_frames * FRAME_SAMPLES].reshape(num_frames, FRAME_SAMPLES)
    rms = np.sqrt(np.mean(frames.astype(np.float64) ** 2, axis=1))
    loud = np.flatnonzero(rms > rms.max() * 10 ** (-top_db / 20))
    if loud.size == 0:
        return waveform
    return waveform[loud[0] * FRAME_SAMPLES : (loud[-1] + 1) * FRAME_SAMPLES]


def peak_normalise(waveform: Waveform) -> Waveform:
    """Scale so that the largest magnitude is 1; silence stays as it is."""
    peak = float(np.abs(waveform).max(initial=0.0))
    return waveform if peak == 0.0 else (waveform / np.float32(peak)).astype(np.float32)


def content_hash(path: Path, start_s: float | None = None, end_s: float | None = None) -> str:
    """A name for a recording by its bytes and segment: moving or renaming the file keeps it.

    A file is read once, and again only where its size or time of modification changed.
    """
    stat = path.stat()
    return _content_hash(path, stat.st_size, stat.st_mtime_ns, start_s, end_s)


@lru_cache(maxsize=2**18)
def _content_hash(path: Path, size: int, mtime_ns: int, start_s: float | None, end_s: float | None) -> str:
    digest = _file_digest(path, size, mtime_ns).copy()
    digest.update(f"|{start_s}|{end_s}".encode())
    return digest.hexdigest()[:32]


@lru_cache(maxsize=64)  # the segments of one recording come one after another
def _file_digest(path: Path, size: int, mtime_ns: int) -> Any:
    return hashlib.sha256(path.read_bytes())
