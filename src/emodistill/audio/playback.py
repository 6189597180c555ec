"""A recording as a small MP3 for a browser, and its envelope for a picture."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from emodistill.audio.decoding import DecodableSource, decode_blocks, name_in_messages
from emodistill.audio.waveform import SAMPLE_RATE, MonoStream
from emodistill.errors import AudioError

BIT_RATE = 32_000  # bits per second, for one channel or two
PEAKS_PER_S = 20
# An MP3 of 32 kbit/s at 16 kHz has no room for the note on the encoder's delay that players subtract. So the
# encoder gets the recording without its first samples, and a player's time is the recording's time.
ENCODER_DELAY = 1105  # samples
# libsndfile maps 0 … 1 to 160 … 8 kbit/s at 16 kHz and takes the next rate that MP3 has.
_COMPRESSION = (160_000 - BIT_RATE) / (160_000 - 8_000)

Frames = npt.NDArray[np.float32]  # (n, channels)


def write_mp3(source: DecodableSource, out: BinaryIO | None) -> Frames:
    """Write a recording to `out` as MP3 and return its envelope (peaks, channels); None writes nothing.

    The MP3 has 16 kHz and two channels if the recording has two, else one. The envelope has the largest
    magnitude of each step of 1 / `PEAKS_PER_S`. Work goes block by block, so only the envelope grows with the
    recording.

    Raises `AudioError` if the recording cannot be decoded, or if this libsndfile cannot write MP3.
    """
    envelope: list[Frames] = []
    encoder: soundfile.SoundFile | None = None
    rest: Frames | None = None  # samples whose peak is not complete
    skip = ENCODER_DELAY
    try:
        for frames in _frames(source):
            if out is not None:
                encoder = encoder or _open_mp3(out, frames.shape[1])
                encoder.write(np.clip(frames[skip:], -1, 1))
                skip = max(0, skip - len(frames))
            joined = frames if rest is None else np.concatenate([rest, frames])
            peaks, rest = _peaks(joined)
            envelope.append(peaks)
        if encoder is not None and rest is not None:
            encoder.write(np.zeros((ENCODER_DELAY, rest.shape[1]), dtype=np.float32))
    finally:
        if encoder is not None:
            encoder.close()
    if rest is None:
        raise AudioError(f"{name_in_messages(source)}: holds no samples")
    if len(rest):
        envelope.append(np.abs(rest).max(axis=0, keepdims=True))
    return np.concatenate(envelope)


def _open_mp3(out: BinaryIO, channels: int) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(
            out, "w", SAMPLE_RATE, channels, subtype="MPEG_LAYER_III", format="MP3",
            compression_level=_COMPRESSION, bitrate_mode="CONSTANT",
        )  # fmt: skip
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError(
            "this libsndfile cannot write MP3: update the package soundfile, or leave the audio out"
        ) from error


def _frames(source: DecodableSource) -> Iterator[Frames]:
    """Yield the recording at 16 kHz with its two channels, or else with one."""
    mono: MonoStream | None = None
    stereo: soxr.ResampleStream | None = None
    nothing = np.zeros((0, 2), dtype=np.float32)
    for rate_hz, frames in decode_blocks(source, name_in_messages(source)):
        if not np.isfinite(frames).all():
            raise AudioError(f"{name_in_messages(source)}: holds NaN or Inf")
        if frames.shape[1] != 2:
            mono = mono or MonoStream(rate_hz, name_in_messages(source))
            yield mono.push(frames)[:, None]
        elif rate_hz == SAMPLE_RATE:
            yield frames
        else:
            stereo = stereo or soxr.ResampleStream(rate_hz, SAMPLE_RATE, 2, "float32")
            yield stereo.resample_chunk(np.ascontiguousarray(frames))
    if mono is not None:
        yield mono.finish()[:, None]
    if stereo is not None:
        yield stereo.resample_chunk(nothing, last=True)


def _peaks(frames: Frames) -> tuple[Frames, Frames]:
    """Return the peaks (n, channels) of the whole steps in a piece, and the samples after them."""
    step = SAMPLE_RATE // PEAKS_PER_S
    num_peaks = len(frames) // step
    whole = frames[: num_peaks * step].reshape(num_peaks, step, frames.shape[1])
    return np.abs(whole).max(axis=1), frames[num_peaks * step :]
