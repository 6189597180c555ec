"""Convert audio to the one form used everywhere: a float32 mono waveform in [-1, 1] at 16 kHz."""

import hashlib
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from emodistill.audio.channels import ChannelMeter, pick_channel
from emodistill.audio.decoding import (
    MAX_CHANNELS,
    THE_AUDIO,
    BlockSource,
    DecodableSource,
    RatedArray,
    RatedSamples,
    check_file,
    decode_blocks,
    decode_whole_media,
    frame_range,
    name_in_messages,
    on_decoded,
    open_recording,
    read_header,
    read_samples,
)
from emodistill.errors import AudioError, AudioTooLongError

SAMPLE_RATE = 16_000  # samples per second
FRAME_MS = 10  # one LLD or log-mel frame
FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000  # 160 samples
MIN_INPUT_SAMPLES = SAMPLE_RATE // 10  # shorter input of a model is padded with zeros
MIN_RATE_HZ = 2_000  # a rate this low is usually kHz passed as Hz, and holds almost no speech
# Where the length is limited: outside this range, the cost of decoding is not proportional to the duration.
UNTRUSTED_RATES_HZ = (MIN_RATE_HZ, 768_000)
MAX_AMPLITUDE = 1_000.0  # times full scale; larger floats are not a waveform in [-1, 1] at any gain

Waveform = npt.NDArray[np.float32]


def load(
    source: DecodableSource,
    start_s: float | None = None,
    end_s: float | None = None,
    channel: int | None = None,
    meter: ChannelMeter | None = None,
) -> Waveform:
    """Return the waveform (samples,) of a file, of its bytes or of an open binary file.

    `start_s` and `end_s` cut out a segment, in seconds, before channels are averaged and the peak is
    measured. `channel` takes one channel, from 0, instead of the average. `meter` measures all channels.
    Raises `AudioError` for audio that is missing, cannot be decoded, is empty, or holds NaN or Inf, and for a
    channel that the file does not have.
    """
    rate_hz, frames = load_frames(source, start_s, end_s)
    part = "" if start_s is None and end_s is None else f" between {start_s} s and {end_s} s"
    return from_samples(frames, rate_hz, f"{name_in_messages(source)}{part}", channel, meter)


def load_frames(
    source: DecodableSource, start_s: float | None = None, end_s: float | None = None
) -> RatedSamples:
    """Return a recording as it was decoded: its rate in Hz, and float32 samples (n, channels).

    The arguments are those of `load`. Raises `AudioError` for audio that is missing or cannot be decoded.
    """
    name = name_in_messages(source)
    check_file(source)
    try:
        with open_recording(source) as file:
            rate_hz = file.samplerate
            start, stop = frame_range(start_s, end_s, rate_hz, file.frames)
            if start:  # Not for 0, because libsndfile can read GSM 6.10 but cannot seek in it.
                file.seek(start)
            frames = read_samples(file, max(stop - start, 0), "float32")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        rate_hz, frames = decode_whole_media(source, name, error, end_s)
        start, stop = frame_range(start_s, end_s, rate_hz, len(frames))
        frames = frames[start:stop]
    return rate_hz, frames


class MonoStream:
    """Converts chunks of audio at any rate from 2 kHz into one waveform, the same for every chunking.

    It does not look ahead. Each sample is the mean of the same channels from the first chunk to the last.
    Samples beyond full scale stay as they are. Resampling delays the output by 35 to 115 ms, most at 8 kHz;
    at 16 kHz there is no delay.
    """

    def __init__(
        self, rate_hz: int, name: str = THE_AUDIO, mixed: npt.NDArray[np.intp] | None = None
    ) -> None:
        """Open a stream. Raises `AudioError` for a rate below 2 kHz.

        Args:
            rate_hz: the rate of all chunks.
            name: what messages call the audio.
            mixed: the channels to average, from 0; None: all, since nobody knows which will make a sound.
        """
        _check_rate(rate_hz, name)
        self._name, self._mixed = name, mixed
        self._resampler = (
            None if rate_hz == SAMPLE_RATE else soxr.ResampleStream(rate_hz, SAMPLE_RATE, 1, "float32")
        )
        self._num_channels: int | None = None
        self._finished = False

    def push(self, samples: npt.ArrayLike) -> Waveform:
        """Return the next piece of the waveform, (samples,), for a chunk (n,) or (n, channels).

        The piece may be empty. Raises `AudioError` for NaN, Inf, another shape, or another number of channels
        than before. Such a chunk is left out as a whole, and the stream can continue.
        """
        if self._finished:
            raise AudioError(
                f"{self._name}: a chunk came after the stream was finished; start a new stream for more audio"
            )
        array = as_columns(samples, self._name)
        self._num_channels = self._num_channels or array.shape[1]
        if array.shape[1] != self._num_channels:
            raise AudioError(
                f"{self._name}: a chunk has {array.shape[1]} channels, the chunks before it had "
                f"{self._num_channels}; start a new stream when the number of channels changes"
            )
        return self._resample(_mean_of_channels(array, self._mixed), last=False)

    def finish(self) -> Waveform:
        """Close the stream, and return the rest of the waveform, (samples,), perhaps none."""
        if self._finished:
            return np.zeros(0, dtype=np.float32)
        self._finished = True
        return self._resample(np.zeros(0, dtype=np.float32), last=True)

    def _resample(self, mono: Waveform, last: bool) -> Waveform:
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono), last=last)
        return np.asarray(mono, dtype=np.float32)


def _mean_of_channels(array: npt.NDArray[np.float32], mixed: npt.NDArray[np.intp] | None) -> Waveform:
    """Return the mean (n,) of some channels of samples (n, channels); None: of all."""
    chosen = array if mixed is None else array[:, mixed]
    return np.asarray(np.ascontiguousarray(chosen).mean(axis=1, dtype=np.float32))


def load_bounded(source: DecodableSource, max_s: float, channel: int | None = None) -> Waveform:
    """Return the waveform (samples,) of an untrusted source, as `load` does, up to a length in seconds.

    A small file can hold days of audio, so no more than `max_s` is decoded. Raises
    `AudioTooLongError` for more, also where a header states more, and `AudioError` as `load` does.
    """
    name = name_in_messages(source)
    sums: list[Waveform] = []
    alive: npt.NDArray[np.bool_] | None = None  # (channels,): which make a sound
    rate_hz = SAMPLE_RATE
    for block_rate_hz, frames in blocks_up_to(max_s, source, name):
        rate_hz, array = block_rate_hz, pick_channel(as_columns(frames, name), channel, name)
        alive_here = (array != 0).any(axis=0)
        alive = alive_here if alive is None else alive | alive_here
        sums.append(array.sum(axis=1, dtype=np.float32))
    if alive is None:
        raise AudioError(f"{name}: holds no samples")
    return from_samples(np.concatenate(sums) / np.float32(max(1, alive.sum())), rate_hz, name)


def load_blocks(
    source: BlockSource,
    max_s: float | None = None,
    channel: int | None = None,
    meter: ChannelMeter | None = None,
) -> Iterator[Waveform]:
    """Yield the pieces (samples,) of a recording's waveform in order; memory does not grow with its length.

    The channels that are averaged are those of `load`: all that make a sound anywhere in the recording. The
    beginning is decoded twice, until each channel has made a sound. Samples beyond full scale stay as they
    are. The options and errors are those of `load`. Errors may come after some pieces: when decoding fails
    half-way, or at NaN or Inf. Raises `AudioTooLongError` after `max_s`.
    """
    for (piece,) in load_channels(source, [channel], max_s, meter):
        yield piece


def load_channels(
    source: BlockSource,
    channels: Sequence[int | None],
    max_s: float | None = None,
    meter: ChannelMeter | None = None,
) -> Iterator[tuple[Waveform, ...]]:
    """Yield the pieces of several waveforms of one recording, which is decoded once.

    There is one waveform for each of `channels`: that of a channel from 0, or that of all channels mixed for
    None. `meter` measures the channels where they are mixed. The other options and the errors are those of
    `load_blocks`.
    """
    name = name_in_messages(source)
    streams: list[MonoStream] = []
    empty = True
    mixed = sounding_channels(source, max_s) if None in channels else None
    for rate_hz, frames in _decoded(source, max_s):
        streams = streams or [
            MonoStream(rate_hz, name, mixed if channel is None else None) for channel in channels
        ]
        pieces = tuple(
            stream.push(pick_channel(frames, channel, name))
            for stream, channel in zip(streams, channels, strict=True)
        )
        if meter is not None and None in channels:  # the mix has checked the samples of all channels
            meter.add(frames)
        empty = empty and not any(piece.size for piece in pieces)
        yield pieces
    pieces = tuple(stream.finish() for stream in streams)
    if empty and not any(piece.size for piece in pieces):
        raise AudioError(f"{name}: holds no samples")
    yield pieces


def sounding_channels(source: BlockSource, max_s: float | None = None) -> npt.NDArray[np.intp] | None:
    """Return the channels with a sound, from 0; None for all. An open file stays where it is.

    Decoding ends where each channel has made a sound, so only a dead or late channel needs the whole
    recording. Raises the errors of `load_blocks`.
    """
    sounding: npt.NDArray[np.bool_] | None = None
    progress = on_decoded.set(None)  # The passes that follow report what they decode.
    try:
        with _position_kept(source), closing(_decoded(source, max_s)) as blocks:
            for _, frames in blocks:
                if frames.shape[1] == 1:
                    break
                here = (as_columns(frames, name_in_messages(source)) != 0).any(axis=0)
                sounding = here if sounding is None else sounding | here
                if sounding.all():
                    break
    finally:
        on_decoded.reset(progress)
    if sounding is None or sounding.all() or not sounding.any():
        return None
    return np.flatnonzero(sounding)


def measure_channels(source: BlockSource, max_s: float | None = None) -> ChannelMeter:
    """Return the meter of all channels of a recording. An open file stays where it is.

    Raises the errors of `load_blocks`.
    """
    meter = ChannelMeter()
    with _position_kept(source):
        for _, frames in _decoded(source, max_s):
            meter.add(as_columns(frames, name_in_messages(source)))
    if not meter.num_channels:
        raise AudioError(f"{name_in_messages(source)}: holds no samples")
    return meter


@contextmanager
def _position_kept(source: BlockSource) -> Iterator[None]:
    """Set an open file back to its position at the end."""
    if isinstance(source, (str, Path, bytes, RatedArray)):
        yield
        return
    position = source.tell()
    yield
    source.seek(position)


def _decoded(source: BlockSource, max_s: float | None) -> Generator[RatedSamples, None, None]:
    """Yield the decoded blocks, samples (n, channels).

    Raises `AudioError` if the number of channels changes.
    """
    name = name_in_messages(source)
    blocks = decode_blocks(source, name) if max_s is None else blocks_up_to(max_s, source, name)
    num_channels: int | None = None
    for rate_hz, frames in blocks:
        num_channels = num_channels or frames.shape[1]
        if frames.shape[1] != num_channels:
            raise AudioError(
                f"{name}: has {num_channels} channels at first and {frames.shape[1]} later; re-encode it"
            )
        yield rate_hz, frames


def blocks_up_to(max_s: float, source: BlockSource, name: str) -> Iterator[RatedSamples]:
    """Yield the blocks of a recording. Raises `AudioTooLongError` for one that is longer than `max_s`.

    If the header states the length, no block is decoded. Otherwise decoding ends as soon as the blocks are
    longer together.
    """
    low, high = UNTRUSTED_RATES_HZ
    header = None if isinstance(source, RatedArray) else read_header(source)
    if header is not None and low <= header.rate_hz <= high and not header.is_estimated:
        stated_s = header.duration_s or 0.0
        if stated_s > max_s:
            raise AudioTooLongError(
                f"{name}: longer than the limit of {max_s:g} s ({stated_s:.1f} s); cut it into parts"
            )
    num_frames = 0
    for rate_hz, frames in decode_blocks(source, name):
        if not low <= rate_hz <= high:
            raise AudioError(f"{name}: expected a rate from {low} to {high} Hz, got {rate_hz}")
        num_frames += len(frames)
        if num_frames > max_s * rate_hz:
            raise AudioTooLongError(f"{name}: longer than the limit of {max_s:g} s; cut it into parts")
        yield rate_hz, frames


def from_samples(
    samples: npt.ArrayLike,
    rate_hz: int,
    name: str = THE_AUDIO,
    channel: int | None = None,
    meter: ChannelMeter | None = None,
) -> Waveform:
    """Return the waveform (samples,) of decoded samples, (n,) or (n, channels), at any rate.

    Channels are averaged without dead ones, whose samples are all zero. `channel` takes one channel, from 0,
    instead. Integer PCM is scaled to [-1, 1]. A waveform beyond full scale is scaled down to it, and nothing
    is clipped. `meter` measures all channels. `name` is what messages call the audio. Raises
    `AudioError` for no samples, NaN, Inf, a channel that the audio does not have, or a type, shape or rate
    that no audio has.
    """
    _check_rate(rate_hz, name)
    array = as_columns(samples, name)
    if array.size == 0:
        raise AudioError(f"{name}: holds no samples")
    if meter is not None:
        meter.add(array)
    array = pick_channel(array, channel, name)
    if array.shape[1] > 1:
        alive = np.abs(array).max(axis=0) > 0
        array = array[:, alive] if alive.any() else array[:, :1]
    mono = array.mean(axis=1, dtype=np.float32)
    if rate_hz != SAMPLE_RATE:
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE).astype(np.float32)
        if mono.size == 0:
            raise AudioError(f"{name}: too short to hold a sample at {SAMPLE_RATE} Hz")
    return np.ascontiguousarray(mono / max(1.0, float(np.abs(mono).max())), dtype=np.float32)


def check_rate(rate_hz: int | None) -> int:
    """Return the rate of an array in Hz. Raises `AudioError` if the caller gave none."""
    if rate_hz is None:
        raise AudioError(
            "an array of samples states no rate: give rate_hz, the samples per second, e.g. rate_hz=16000"
        )
    return rate_hz


def _check_rate(rate_hz: float, name: str) -> None:
    is_number = isinstance(rate_hz, (int, float, np.integer, np.floating))
    if not is_number or not MIN_RATE_HZ <= rate_hz < math.inf:
        raise AudioError(f"{name}: expected a rate in Hz, at least {MIN_RATE_HZ}, got {rate_hz!r}")


def as_columns(samples: npt.ArrayLike, name: str) -> npt.NDArray[np.float32]:
    """Return finite float32 samples (n, channels) of integer or float samples, (n,) or (n, channels)."""
    array = np.asarray(samples)
    if array.dtype.kind not in "iuf":
        raise AudioError(f"{name}: expected integer or float samples, got {array.dtype}")
    if array.dtype.kind != "f" and array.dtype.itemsize > 4:  # Python's own integers, of unknown full scale
        raise AudioError(
            f"{name}: expected samples of at most 32 bits, got {array.dtype}; cast them to the type that was "
            "recorded, e.g. samples.astype('int16')"
        )
    if array.dtype.kind != "f":
        low, high = int(np.iinfo(array.dtype).min), int(np.iinfo(array.dtype).max)
        middle = (low + high + 1) // 2  # 0 for signed types, half of full scale for unsigned ones
        array = (array.astype(np.float64) - middle) / (high + 1 - middle)
    with np.errstate(over="ignore"):  # A value beyond float32 becomes Inf, which is refused below.
        array = array.astype(np.float32)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise AudioError(f"{name}: expected samples (n,) or (n, channels), got shape {array.shape}")
    if (
        array.shape[1] > MAX_CHANNELS
    ):  # Probably (channels, n), which would otherwise be a very short recording.
        raise AudioError(
            f"{name}: expected samples (n,) or (n, channels) with at most {MAX_CHANNELS} channels, got shape "
            f"{array.shape}; channels come last: transpose it"
        )
    if not np.isfinite(array).all():
        raise AudioError(f"{name}: holds NaN or Inf samples; repair or re-encode it")
    if array.size and (loudest := float(np.abs(array).max())) > MAX_AMPLITUDE:
        raise AudioError(
            f"{name}: expected float samples from -1 to 1, got some of {loudest:.6g}; are these values of 16 "
            "bits? Cast them to int16, or divide them by 32768"
        )
    return array


def remove_offset(waveform: Waveform) -> Waveform:
    """Return the waveform (samples,) minus its mean, so that a DC offset does not count as sound."""
    if not waveform.size:
        return waveform
    return np.asarray(waveform - float(waveform.mean(dtype=np.float64)), dtype=np.float32)


def trim_silence(waveform: Waveform, top_db: float) -> Waveform:
    """Return the waveform without the frames at both ends that are over `top_db` below the loudest frame."""
    start, end = loud_span(waveform, top_db)
    return waveform[start:end]


def loud_span(waveform: Waveform, top_db: float) -> tuple[int, int]:
    """Return the samples (start, end) without the frames at both ends that `trim_silence` cuts.

    Loudness is the RMS of 10 ms frames relative to the loudest, so the gain changes nothing.
    """
    num_frames = len(waveform) // FRAME_SAMPLES
    if num_frames < 3:
        return 0, len(waveform)
    frames = waveform[: num_frames * FRAME_SAMPLES].reshape(num_frames, FRAME_SAMPLES)
    rms = np.sqrt(np.mean(frames.astype(np.float64) ** 2, axis=1))
    loud = np.flatnonzero(rms >= rms.max() * 10 ** (-top_db / 20))
    return int(loud[0]) * FRAME_SAMPLES, int(loud[-1] + 1) * FRAME_SAMPLES


def peak_normalise(waveform: Waveform) -> Waveform:
    """Return the waveform scaled to a peak of 1; silence stays as it is."""
    peak = float(np.abs(waveform).max(initial=0.0))
    return waveform if peak == 0.0 else (waveform / np.float32(peak)).astype(np.float32)


def content_hash(path: Path, start_s: float | None = None, end_s: float | None = None) -> str:
    """Return a hash of a recording's bytes and segment, which stays the same if the file is moved or renamed.

    A file is read once, and again only if its size or its time of modification changed.
    """
    return _content_hash(path, (stat := path.stat()).st_size, stat.st_mtime_ns, start_s, end_s)


@lru_cache(maxsize=2**18)
def _content_hash(path: Path, size: int, mtime_ns: int, start_s: float | None, end_s: float | None) -> str:
    digest = _file_digest(path, size, mtime_ns).copy()
    digest.update(f"|{start_s}|{end_s}".encode())
    return digest.hexdigest()[:32]


@lru_cache(maxsize=64)  # few are enough, because the segments of one recording follow each other
def _file_digest(path: Path, size: int, mtime_ns: int) -> Any:
    return hashlib.sha256(path.read_bytes())
