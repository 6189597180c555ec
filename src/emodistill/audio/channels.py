"""The channels of a recording: which are read, and whether they differ."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from emodistill.errors import CONTROL, AudioError, ConfigError

# How a recording of several channels is read: all mixed, each on its own, or one of them, counted from 0.
Channels = Literal["mix", "split"] | int

SAME_CORRELATION = 0.5  # two channels with a lower correlation hold different sounds
SAME_LEVEL_DB = 12.0  # two channels whose levels differ by more are recorded at different gains
DEAD_CHANNEL_RMS = 10 ** (-65 / 20)  # a channel with a lower level holds no sound; full scale is 1

Frames = npt.NDArray[np.float32]  # (n, channels)


def check_channels(channels: Any, names: Any = None) -> None:
    """Raise `ConfigError` for options that no recording can have.

    `channels` is "mix", "split" or a channel from 0. `names` are the names of the channels, for "split".
    """
    if not (isinstance(channels, str) and channels in ("mix", "split")):
        check_channel(channels, "'mix', 'split' or ")
    if names is None:
        return
    if isinstance(names, str) or not all(
        isinstance(name, str) and name.strip() and not CONTROL.search(name) for name in names
    ):
        raise ConfigError(f"bad names {names!r}, expected a list, e.g. ['agent', 'customer']")
    if channels != "split":
        raise ConfigError(
            f"names of channels need channels 'split', which recognises each channel, got {channels!r}"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"expected another name for each channel, got {', '.join(names)}")


def check_channel(channel: Any, others: str = "") -> None:
    """Raise `ConfigError` for what is no number of a channel; `others` is what the option accepts besides."""
    if isinstance(channel, bool) or not isinstance(channel, (int, np.integer)) or channel < 0:
        raise ConfigError(f"bad channel {channel!r}, expected {others}the number of a channel, from 0")


def speaker_names(num_channels: int, names: Sequence[str] | None, recording: str) -> list[str]:
    """Return a name for each channel: the given ones, or "channel 0", "channel 1", ….

    Raises `ConfigError` if the number of names is another one; `recording` begins the message.
    """
    if names is None:
        return [f"channel {channel}" for channel in range(num_channels)]
    if len(names) != num_channels:
        raise ConfigError(
            f"{recording}: has {_counted(num_channels)}, but there are {len(names)} names "
            f"({', '.join(names)}): give one for each channel"
        )
    return list(names)


def pick_channel(frames: Frames, channel: int | None, recording: str) -> Frames:
    """Return the samples (n, 1) of one channel of samples (n, channels); for None, all of them.

    Raises `AudioError` if there is no such channel; `recording` begins the message.
    """
    if channel is None:
        return frames
    if channel >= frames.shape[1]:
        raise AudioError(
            f"{recording}: has no channel {channel}: it has {_counted(frames.shape[1])}, counted from 0"
        )
    return frames[:, channel : channel + 1]


def _counted(num_channels: int) -> str:
    return f"{num_channels} channel{'' if num_channels == 1 else 's'}"


class ChannelMeter:
    """Measures the channels of a recording that arrives in blocks: their peaks, and whether they differ."""

    def __init__(self) -> None:
        self._num_frames = 0
        self._sums = np.zeros(0)  # (channels,)
        self._products = np.zeros((0, 0))  # (channels, channels): sums of x · y
        self._lowest = self._highest = np.zeros(0)  # (channels,)

    @property
    def num_channels(self) -> int:
        """How many channels the recording has; 0 before the first block."""
        return len(self._sums)

    def add(self, frames: Frames) -> None:
        """Measure the next block (n, channels). All blocks must have as many channels as the first."""
        if not len(frames):
            return
        if not self._num_frames:
            channels = frames.shape[1]
            self._sums, self._products = np.zeros(channels), np.zeros((channels, channels))
            self._lowest, self._highest = np.full(channels, np.inf), np.full(channels, -np.inf)
        self._num_frames += len(frames)
        self._sums += frames.sum(axis=0, dtype=np.float64)
        self._products += frames.T @ frames  # float32 is exact enough for a block of a second
        self._lowest = np.minimum(self._lowest, frames.min(axis=0))
        self._highest = np.maximum(self._highest, frames.max(axis=0))

    @property
    def peaks(self) -> npt.NDArray[np.float64]:
        """The largest magnitude of each channel (channels,), without its DC offset."""
        means = self._sums / max(1, self._num_frames)
        return np.maximum(self._highest - means, means - self._lowest)

    @property
    def differ(self) -> bool:
        """Whether two channels with sound hold different sounds, or the same at very different levels."""
        if self.num_channels < 2:
            return False
        means = self._sums / self._num_frames
        covariances = self._products / self._num_frames - np.outer(means, means)
        levels = np.sqrt(np.maximum(covariances.diagonal(), 0.0))  # RMS without the DC offset
        ratio = 10 ** (SAME_LEVEL_DB / 20)
        for one, other in combinations(np.flatnonzero(levels > DEAD_CHANNEL_RMS), 2):
            quiet, loud = sorted((levels[one], levels[other]))
            if loud > ratio * quiet or covariances[one, other] < SAME_CORRELATION * quiet * loud:
                return True
        return False
