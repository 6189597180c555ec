"""Sounds for benchmarks. No training uses this synthesiser of music."""

import numpy as np

from emodistill.audio.waveform import SAMPLE_RATE


def tone(hz: float, time_s: np.ndarray) -> np.ndarray:
    """Return a sine at these times."""
    return np.sin(2 * np.pi * hz * time_s)


def tune(rng: np.random.Generator, time_s: np.ndarray) -> np.ndarray:
    """Return plucked triads and a melody over a beat of noise."""
    out = np.zeros(len(time_s))
    beat = round(rng.uniform(0.25, 0.6) * SAMPLE_RATE)
    key_hz = rng.uniform(110, 220)
    for number in range(len(time_s) // beat):
        left = time_s[: len(time_s) - number * beat]
        steps = [rng.choice([12, 14, 16, 17, 19, 21, 24])]
        if number % 4 == 0:
            steps += [0, 4, 7] if rng.random() < 0.5 else [5, 9, 12]
        for step in steps:
            hz = key_hz * 2 ** (step / 12)
            plucked = sum(tone(k * hz, left) / k for k in range(1, 7)) * np.exp(-left / 0.5)
            out[number * beat :] += plucked
        hit = rng.standard_normal(len(left)) * np.exp(-left / 0.03)
        out[number * beat :] += 0.5 * hit
    return out
