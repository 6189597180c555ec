"""Write any recording as a file that every browser plays: WAV or MP3, mono or stereo, at 16 kHz."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from emodistill.audio.decoding import BlockSource, name_in_messages
from emodistill.audio.waveform import SAMPLE_RATE, blocks_up_to
from emodistill.errors import AudioError

PlayableFormat = Literal["WAV", "MP3"]
Frames = npt.NDArray[np.float32]  # (n, channels)

MP3_KBIT_S = 32  # enough for one channel of speech at 16 kHz
PEAKS_PER_S = 20  # of an envelope
# libsndfile's compression levels from 0 to 1 are the bit rates from 160 to 8 kbit/s of MP3 at 16 kHz.
_HIGHEST_KBIT_S, _LOWEST_KBIT_S = 160, 8
# An MP3 says how late its encoder is, and players subtract it. At 16 kHz and up to 32 kbit/s a frame has no
# room for this note. So the encoder gets the recording without its first samples, and is on time.
_ENCODER_DELAY = 1105  # samples
_MAX_KBIT_S_WITHOUT_NOTE = 32


class Envelope:
    """The largest magnitude of each channel in every step of 1 / `PEAKS_PER_S`."""

    def __init__(self) -> None:
        self._peaks: list[Frames] = []
        self._rest: Frames | None = None  # samples of a step that is not complete

    def add(self, samples: Frames) -> None:
        """Measure the next samples (n, channels) at 16 kHz."""
        joined = samples if self._rest is None else np.concatenate([self._rest, samples])
        step = SAMPLE_RATE // PEAKS_PER_S
        num_peaks = len(joined) // step
        steps = joined[: num_peaks * step].reshape(num_peaks, step, joined.shape[1])
        self._peaks.append(np.abs(steps).max(axis=1))
        self._rest = joined[num_peaks * step :]

    def peaks(self) -> Frames:
        """Return the peaks (peaks, channels) so far; the last step may be incomplete."""
        rest = [] if self._rest is None or not len(self._rest) else [np.abs(self._rest).max(axis=0)[None]]
        parts = [*self._peaks, *rest]
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


def write_playable(
    source: BlockSource,
    target: Any,
    format: PlayableFormat,
    max_s: float | None = None,
    kbit_s: int | None = None,
    envelope: Envelope | None = None,
) -> float:
    """Write a recording to the open binary file `target`, and return its duration in seconds.

    The recording is decoded and written block by block, so memory does not grow with its length. One and two
    channels stay as they are, and more channels are averaged. Samples beyond full scale are clipped.

    Args:
        source: the recording.
        target: an open binary file; None: nothing is written, and the recording is measured alone.
        format: of the file.
        max_s: the longest recording that is accepted; None: any.
        kbit_s: the bit rate of an MP3; None: `MP3_KBIT_S` for each channel.
        envelope: measures what is written.

    Raises:
        AudioError: the recording cannot be decoded, or this libsndfile cannot write MP3.
        AudioTooLongError: the recording is longer than `max_s`.
    """
    writer: _Writer | None = None
    duration_s = 0.0
    try:
        for length_s, samples in _playable_blocks(source, max_s):
            duration_s += length_s
            if envelope is not None:
                envelope.add(samples)
            if target is not None:
                writer = writer or _Writer(target, format, samples.shape[1], kbit_s)
                writer.write(samples)
        if writer is not None:
            writer.finish()
    finally:
        if writer is not None:
            writer.file.close()
    return duration_s


def _playable_blocks(source: BlockSource, max_s: float | None) -> Iterator[tuple[float, Frames]]:
    """Yield a recording block by block: the block's seconds, and samples (n, 1 or 2 channels) at 16 kHz."""
    name = name_in_messages(source)
    resampler: Any = None
    for rate_hz, frames in blocks_up_to(math.inf if max_s is None else max_s, source, name):
        samples = frames if frames.shape[1] <= 2 else frames.mean(axis=1, keepdims=True)
        resampler = resampler or soxr.ResampleStream(rate_hz, SAMPLE_RATE, samples.shape[1], "float32")
        yield len(frames) / rate_hz, _playable(resampler.resample_chunk(np.ascontiguousarray(samples)))
    if resampler is None:
        raise AudioError(f"{name}: holds no samples")
    yield 0.0, _playable(resampler.resample_chunk(samples[:0], last=True))


def _playable(samples: Frames) -> Frames:
    """Return samples (n, channels) of full scale at most, without NaN and Inf."""
    return np.clip(np.nan_to_num(samples), -1, 1)


class _Writer:
    """A file that is written block by block, with a player's time equal to the recording's time."""

    def __init__(self, target: Any, format: PlayableFormat, channels: int, kbit_s: int | None) -> None:
        """Open the file. Raises `AudioError` if this libsndfile cannot write MP3."""
        kbit_s = kbit_s or channels * MP3_KBIT_S
        self.file = _open(target, format, channels, kbit_s)
        self._channels = channels
        is_late = format == "MP3" and kbit_s <= _MAX_KBIT_S_WITHOUT_NOTE
        self._delay = self._skip = _ENCODER_DELAY if is_late else 0

    def write(self, samples: Frames) -> None:
        self.file.write(samples[self._skip :])
        self._skip = max(0, self._skip - len(samples))

    def finish(self) -> None:
        """Write the silence that pushes the last samples out of the encoder."""
        self.file.write(np.zeros((self._delay, self._channels), dtype=np.float32))


def _open(target: Any, format: PlayableFormat, channels: int, kbit_s: int) -> soundfile.SoundFile:
    if format == "WAV":
        return soundfile.SoundFile(target, "w", SAMPLE_RATE, channels, "PCM_16", format="WAV")
    level = (_HIGHEST_KBIT_S - kbit_s) / (_HIGHEST_KBIT_S - _LOWEST_KBIT_S)
    try:
        return soundfile.SoundFile(
            target, "w", SAMPLE_RATE, channels, "MPEG_LAYER_III", format="MP3",
            bitrate_mode="CONSTANT", compression_level=level,
        )  # fmt: skip
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError("this libsndfile cannot write MP3: update the package soundfile") from error
