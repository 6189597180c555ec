"""The options of segmentation, with their defaults. This module is light, because each command imports it."""

import math
from dataclasses import dataclass

from emodistill.errors import ConfigError

HOP_S = 0.5  # from one window to the next
MIN_HOP_S = 0.1
WINDOW_S = 2.0  # the input of the model
SMOOTH_S = 8.0  # the memory of the path; 0: each stretch has a path of its own
MAX_SMOOTH_S = 60.0
MIN_DURATION_S = 0.0
MAX_DURATION_S = 60.0  # the largest min_duration_s


@dataclass(frozen=True)
class SegmentationOptions:
    """How speech is cut into windows, and the windows' emotions into segments.

    Attributes:
        hop_s: from one window to the next, at least `MIN_HOP_S`.
        window_s: the length of a window, a whole number of hops.
        smooth_s: 0 to `MAX_SMOOTH_S`. The higher, the more evidence a change of emotion needs. The memory
            lasts over pauses, and a segment waits for up to this many seconds of later audio. 0: each stretch
            of speech has its own emotions, and its segments come with its end.
        min_duration_s: 0 to `MAX_DURATION_S`. An emotion lasts for this much speech at least, if there is
            another one.

    Raises `ConfigError` for values out of these ranges.
    """

    hop_s: float = HOP_S
    window_s: float = WINDOW_S
    smooth_s: float = SMOOTH_S
    min_duration_s: float = MIN_DURATION_S

    def __post_init__(self) -> None:
        from emodistill.audio.waveform import SAMPLE_RATE  # Not above: it imports numpy.

        if not MIN_HOP_S <= self.hop_s < math.inf:
            raise ConfigError(f"bad hop_s {self.hop_s}, expected at least {MIN_HOP_S} s")
        expected = f"expected a whole number of hops of {self.hop_s} s, e.g."
        if not 0 < self.window_s < math.inf:
            raise ConfigError(f"bad window_s {self.window_s}, {expected} {self.hop_s}")
        hop, window = round(self.hop_s * SAMPLE_RATE), round(self.window_s * SAMPLE_RATE)
        if window % hop or not window:
            nearest_s = max(1, round(self.window_s / self.hop_s)) * self.hop_s
            raise ConfigError(f"bad window_s {self.window_s}, {expected} {nearest_s:g}")
        for name, highest in (("smooth_s", MAX_SMOOTH_S), ("min_duration_s", MAX_DURATION_S)):
            if not 0 <= getattr(self, name) <= highest:
                raise ConfigError(f"bad {name} {getattr(self, name)}, expected 0 to {highest:g} s")
