"""Write any recording as a file that every browser plays: WAV or MP3, mono or stereo, at 16 kHz."""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from emodistill.audio.decoding import DecodableSource, name_in_messages
from emodistill.audio.waveform import SAMPLE_RATE, blocks_up_to
from emodistill.errors import AudioError

PlayableFormat = Literal["WAV", "MP3"]
MP3_KBIT_S = 32  # of one channel: enough for speech at 16 kHz
# libsndfile's compression levels from 0 to 1 are the bit rates from 160 to 8 kbit/s of MP3 at 16 kHz.
_HIGHEST_KBIT_S, _LOWEST_KBIT_S = 160, 8


def write_playable(
    source: DecodableSource, target: Any, format: PlayableFormat, max_s: float | None = None
) -> float:
    """Write a recording to the open binary file `target`, and return its duration in seconds.

    The recording is decoded and written block by block, so memory does not grow with its length. One and two
    channels stay as they are, and more channels are averaged. Samples beyond full scale are clipped.

    Raises `AudioError` for a recording that cannot be decoded, and `AudioTooLongError` after `max_s`.
    """
    name = name_in_messages(source)
    resampler: Any = None
    writer: soundfile.SoundFile | None = None
    num_frames, rate_hz = 0, SAMPLE_RATE
    try:
        for rate_hz, frames in blocks_up_to(math.inf if max_s is None else max_s, source, name):
            num_frames += len(frames)
            samples = frames if frames.shape[1] <= 2 else frames.mean(axis=1, keepdims=True)
            if writer is None:
                channels = samples.shape[1]
                resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE, channels, "float32")
                writer = _open_writer(target, format, channels)
            writer.write(_playable(resampler.resample_chunk(np.ascontiguousarray(samples))))
        if writer is None:
            raise AudioError(f"{name}: holds no samples")
        writer.write(_playable(resampler.resample_chunk(samples[:0], last=True)))
    finally:
        if writer is not None:
            writer.close()
    return num_frames / rate_hz


def _open_writer(target: Any, format: PlayableFormat, channels: int) -> soundfile.SoundFile:
    if format == "WAV":
        return soundfile.SoundFile(target, "w", SAMPLE_RATE, channels, "PCM_16", format="WAV")
    level = (_HIGHEST_KBIT_S - channels * MP3_KBIT_S) / (_HIGHEST_KBIT_S - _LOWEST_KBIT_S)
    return soundfile.SoundFile(
        target, "w", SAMPLE_RATE, channels, "MPEG_LAYER_III", format="MP3",
        bitrate_mode="CONSTANT", compression_level=level,
    )  # fmt: skip


def _playable(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return samples (n, channels) of full scale at most, without NaN and Inf."""
    return np.clip(np.nan_to_num(samples), -1, 1)
