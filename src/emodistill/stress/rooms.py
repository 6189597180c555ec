"""Two simulated rooms: the first reflection of each wall, and then noise that decays in octave bands.

Training uses other rooms: white noise that decays from the first sample, with one RT60 for all frequencies.
RT60 is the time in which the sound decays by 60 dB.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, sosfiltfilt

from emodistill.audio.waveform import SAMPLE_RATE

SPEED_OF_SOUND = 343.0  # in metres per second
# Bands of the decaying noise, by their upper edges. RT60 is the room's, times this: air and walls absorb more
# of the high frequencies.
_BANDS = ((250.0, 1.15), (500.0, 1.05), (1000.0, 1.0), (2000.0, 0.95), (4000.0, 0.85), (8000.0, 0.7))
_ABSORBED = 0.3  # share of the energy that a wall absorbs
_TALKER_DIRECTIVITY = 2.0  # speech is 3 dB louder in front of the mouth than on average over all directions
NUM_RESPONSES = 8  # of each room


@dataclass(frozen=True)
class Room:
    """A room of the shape of a shoebox, and the distance between mouth and microphone."""

    size_m: tuple[float, float, float]
    rt60_s: float  # at 500 to 1000 Hz
    distance_m: float

    @property
    def direct_to_reverberant_db(self) -> float:
        """The energy of the direct sound over that of all reflections, in dB.

        It is 0 dB at the critical distance, which is 0.057 √(Q V / RT60) m, with the volume V in m³ and the
        directivity Q of a talker (Kuttruff, Room Acoustics, chapter 5).
        """
        critical_m = 0.057 * np.sqrt(_TALKER_DIRECTIVITY * np.prod(self.size_m) / self.rt60_s)
        return float(20 * np.log10(critical_m / self.distance_m))

    def response(self, number: int) -> npt.NDArray[np.float64]:
        """Return one of the room's 8 impulse responses (samples,). The direct sound is 1 at sample 0.

        Each has another place in the room and another noise; `number` decides both.
        """
        rng = np.random.default_rng((number % NUM_RESPONSES, *(round(100 * side) for side in self.size_m)))
        late = _late(self.rt60_s, rng)
        early, mixed = self._first_reflections(rng, len(late))
        late[:mixed] = 0
        # Half of the reverberant energy comes with the first reflections.
        reverberant = early / np.linalg.norm(early) + late / np.linalg.norm(late)
        gain = 10 ** (-self.direct_to_reverberant_db / 20) / np.sqrt(np.sum(reverberant**2))
        response = gain * reverberant
        response[0] = 1.0
        return response

    def _first_reflections(
        self, rng: np.random.Generator, num_samples: int
    ) -> tuple[npt.NDArray[np.float64], int]:
        """Return the first reflections (num_samples,) of the six walls, and the sample after the last one.

        The mouth is mirrored at each wall (image method, Allen & Berkley 1979). Both places are random, at
        the distance of the room, and half a metre or more from all walls.
        """
        size = np.array(self.size_m)
        middle = rng.uniform(0.8, size - 0.8)
        direction = rng.standard_normal(3) * (1, 1, 0.2)
        offset = self.distance_m / 2 * direction / np.linalg.norm(direction)
        mouth, microphone = (np.clip(middle + sign * offset, 0.5, size - 0.5) for sign in (1, -1))
        direct_m = np.linalg.norm(mouth - microphone)
        early = np.zeros(num_samples)
        last = 0
        for axis in range(3):
            for wall in (0.0, size[axis]):
                image = mouth.copy()
                image[axis] = 2 * wall - image[axis]
                path_m = np.linalg.norm(image - microphone)
                place = round((path_m - direct_m) / SPEED_OF_SOUND * SAMPLE_RATE)
                early[place] += np.sqrt(1 - _ABSORBED) * direct_m / path_m
                last = max(last, place)
        return early, last + 1


def _late(rt60_s: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return noise (samples,) that decays by 60 dB in `rt60_s`, with other times in each octave band."""
    time_s = np.arange(round(1.3 * rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    late = np.zeros(len(time_s))
    low = 0.0
    for high, factor in _BANDS:
        noise = rng.standard_normal(len(time_s))
        if low and high < SAMPLE_RATE / 2:
            noise = sosfiltfilt(butter(2, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos"), noise)
        elif low:
            noise = sosfiltfilt(butter(2, low, "highpass", fs=SAMPLE_RATE, output="sos"), noise)
        else:
            noise = sosfiltfilt(butter(2, high, "lowpass", fs=SAMPLE_RATE, output="sos"), noise)
        late += noise * 10 ** (-3 * time_s / (rt60_s * factor))
        low = high
    return late


SMALL = Room((4.2, 3.1, 2.5), rt60_s=0.3, distance_m=0.5)
LARGE = Room((14.0, 10.0, 4.5), rt60_s=1.0, distance_m=1.5)
