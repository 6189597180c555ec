"""Decode audio to the one form used everywhere: a float32 mono waveform in [-1, 1] at 16 kHz."""

import hashlib
import io
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from emodistill.errors import AudioError

SAMPLE_RATE = 16_000  # samples per second
FRAME_MS = 10  # one LLD or log-mel frame
FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000  # 160 samples
SHORTEST_SAMPLES = SAMPLE_RATE // 10  # a model is run on at least this much, padded with zeros
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
MEDIA_SUFFIXES = (".m4a", ".aac", ".mp4", ".webm")  # read with the [media] extra

Waveform = npt.NDArray[np.float32]


def load(
    source: str | Path | bytes | BinaryIO, start_s: float | None = None, end_s: float | None = None
) -> Waveform:
    """Decode a file, its bytes or an open binary file into a waveform (samples,).

    `start_s` and `end_s` cut a segment, in seconds, before anything else looks at the audio.
    Raises `AudioError` for what is missing, undecodable, empty, or holds NaN or Inf.
    """
    name = str(source) if isinstance(source, (str, Path)) else "<bytes>"
    if isinstance(source, (str, Path)) and not Path(source).is_file():
        raise AudioError(f"{name}: no such file")
    handle: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with soundfile.SoundFile(handle) as file:
            rate = file.samplerate
            start = 0 if start_s is None else min(round(start_s * rate), file.frames)
            stop = file.frames if end_s is None else min(round(end_s * rate), file.frames)
            file.seek(start)
            frames = file.read(max(stop - start, 0), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        rate, frames = _decode_media(source, name, error)
        start = 0 if start_s is None else round(start_s * rate)
        frames = frames[start : None if end_s is None else round(end_s * rate)]
    where = "" if start_s is None and end_s is None else f" between {start_s} s and {end_s} s"
    return from_samples(frames, rate, f"{name}{where}")


def _decode_media(
    source: str | Path | bytes | BinaryIO, name: str, why: Exception
) -> tuple[int, npt.NDArray[np.float32]]:
    """What libsndfile refuses, by PyAV: its rate in Hz and samples (n, channels). `why` it refused."""
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"{name}: cannot be decoded as audio ({why}); expected wav, flac, ogg, opus or mp3, "
            "or, after pip install 'emodistill[media]', m4a, mp4 or webm"
        ) from error
    handle: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    if isinstance(source, Path):
        handle = str(source)
    elif not isinstance(source, (str, bytes)):
        source.seek(0)
    try:
        with av.open(handle) as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: holds no audio stream")
            stream = container.streams.audio[0]
            rate = stream.rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            decoded = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
            blocks = [part.to_ndarray().T for part in [*decoded, *resampler.resample(None)]]
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise AudioError(
            f"{name}: cannot be decoded as audio ({error}); expected wav, flac, ogg, opus, mp3, m4a, mp4 or webm"
        ) from error
    if not blocks:
        raise AudioError(f"{name}: holds no samples")
    return rate, np.concatenate(blocks)


def from_samples(samples: npt.ArrayLike, rate_hz: int, name: str = "<array>") -> Waveform:
    """Make a waveform of decoded samples, (samples,) or (samples, channels), at any rate.

    Channels are averaged; a dead (all-zero) channel is left out of the average. Integer PCM is scaled.
    """
    if rate_hz <= 0:
        raise AudioError(f"{name}: expected a rate in Hz above 0, got {rate_hz}")
    array = np.asarray(samples)
    if np.issubdtype(array.dtype, np.integer):
        middle = (
            int(np.iinfo(array.dtype).max) + int(np.iinfo(array.dtype).min) + 1
        ) // 2  # not 0 if unsigned
        array = (array.astype(np.float64) - middle) / (int(np.iinfo(array.dtype).max) + 1 - middle)
    array = array.astype(np.float32)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise AudioError(f"{name}: expected samples (n,) or (n, channels), got shape {array.shape}")
    if array.size == 0:
        raise AudioError(f"{name}: holds no samples")
    if not np.isfinite(array).all():
        raise AudioError(f"{name}: holds NaN or Inf samples; repair or re-encode it")
    if array.shape[1] > 1:
        alive = np.abs(array).max(axis=0) > 0
        array = array[:, alive] if alive.any() else array[:, :1]
    mono = array.mean(axis=1, dtype=np.float32)
    if rate_hz != SAMPLE_RATE:
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE).astype(np.float32)
        if mono.size == 0:
            raise AudioError(f"{name}: too short to hold a sample at {SAMPLE_RATE} Hz")
    return np.ascontiguousarray(np.clip(mono, -1.0, 1.0))


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
