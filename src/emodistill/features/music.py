"""Music as background noise in training: chords, bass, melody and drums in one key and tempo.

The random generator decides all of it, and no file is needed. Notes are read from wavetables: one period of a
tone at `TABLE_SAMPLES` places. That costs less than a sum of sines.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft
from scipy.signal import lfilter

from emodistill.audio.waveform import SAMPLE_RATE, Waveform

TABLE_SAMPLES = 2048  # of one period; a power of two, because the place in the period is a bit mask
HIGHEST_HZ = 7600  # of a partial, below half of the sample rate
RELEASE_SAMPLES = SAMPLE_RATE // 50  # a note fades out over its last 20 ms

# In semitones above the tonic: major, natural minor, harmonic minor, dorian, mixolydian.
_SCALES = np.array(
    [
        (0, 2, 4, 5, 7, 9, 11),
        (0, 2, 3, 5, 7, 8, 10),
        (0, 2, 3, 5, 7, 8, 11),
        (0, 2, 3, 5, 7, 9, 10),
        (0, 2, 4, 5, 7, 9, 10),
    ]
)
# The root of each bar's chord, as a degree of the scale.
_PROGRESSIONS = (
    (0, 4, 5, 3),
    (0, 5, 3, 4),
    (0, 3, 4, 0),
    (5, 3, 0, 4),
    (1, 4, 0, 0),
    (0, 3),
    (0, 6, 5, 4),
    (0,),
)
# Beats of a chord's notes in a bar: one chord, half bars, every beat, after every beat.
_STRUMS = ((0.0,), (0.0, 2.0), (0.0, 1.0, 2.0, 3.0), (0.5, 1.5, 2.5, 3.5))
_LEVEL_DB = 6.0  # parts differ by up to ± this


def compose_music(num_samples: int, rng: np.random.Generator) -> Waveform:
    """Return music (num_samples,) with a root mean square of 1, or zeros where only a rest would be heard.

    It has one or more of four parts. Tempo, key, chords, instruments and levels are random. It starts at a
    random place of a bar.
    """
    song = _Song.draw(rng)
    start = int(rng.integers(4 * song.beat_samples))  # the place in the first bar where the music starts
    out = np.zeros(start + num_samples, dtype=np.float32)
    has_part = rng.random(4) < (0.85, 0.65, 0.6, 0.6)
    if not has_part.any():
        has_part[0] = True
    parts = (_add_chords, _add_bass, _add_melody, _add_drums)
    for add_part, is_on in zip(parts, has_part, strict=True):
        if is_on:
            part = np.zeros_like(out)
            add_part(part, song, rng)
            part *= 10 ** (rng.uniform(-_LEVEL_DB, _LEVEL_DB) / 20) / (np.sqrt(np.mean(part**2)) + 1e-6)
            out += part
    out = out[start:]
    rms = np.sqrt(np.mean(out**2)) if num_samples else 0.0
    return out / np.float32(rms) if rms > 1e-6 else np.zeros_like(out)


@dataclass(frozen=True)
class _Song:
    """What all parts have in common. A bar has four beats."""

    beat_samples: int
    tonic_hz: float
    scale: np.ndarray  # (7,), semitones
    roots: tuple[int, ...]  # degrees, one for each bar; repeated

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Song":
        return cls(
            round(60 / rng.uniform(60, 170) * SAMPLE_RATE),
            rng.uniform(110, 220),
            _SCALES[rng.integers(len(_SCALES))],
            _PROGRESSIONS[rng.integers(len(_PROGRESSIONS))],
        )

    def bars(self, num_samples: int) -> Iterator[tuple[int, int]]:
        """The first sample of each bar, and the root of its chord."""
        for number, start in enumerate(range(0, num_samples, 4 * self.beat_samples)):
            yield start, self.roots[number % len(self.roots)]

    def hz(self, degree: int, octave: int = 0) -> float:
        """The frequency of a degree of the scale; a degree above 6 lies in a higher octave."""
        octaves, step = divmod(degree, 7)
        return float(self.tonic_hz * 2 ** (octaves + octave + self.scale[step] / 12))


@dataclass(frozen=True)
class _Instrument:
    """A timbre: strengths of the partials, envelope and vibrato."""

    strengths: np.ndarray  # (partials,)
    attack_s: float
    decay_s: float  # until the level has fallen to 1 / e
    vibrato_hz: float
    vibrato: float  # largest relative change of frequency

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Instrument":
        partials = np.arange(1, 33)
        strengths = partials ** -rng.uniform(0.9, 2.6) * np.exp(0.6 * rng.standard_normal(32))
        if rng.random() < 0.2:  # odd partials alone, as of a clarinet
            strengths[1::2] *= 0.05
        is_plucked = rng.random() < 0.55
        attack_s = rng.uniform(0.002, 0.01) if is_plucked else rng.uniform(0.02, 0.15)
        decay_s = rng.uniform(0.1, 1.0) if is_plucked else rng.uniform(1.5, 8.0)
        vibrato = 0.0 if is_plucked or rng.random() < 0.4 else rng.uniform(0.002, 0.015)
        return cls(strengths, attack_s, decay_s, rng.uniform(4.5, 7), vibrato)

    def note(self, hz: float, num_samples: int) -> np.ndarray:
        """One note (num_samples,). Its high partials decay first."""
        time_s = np.arange(num_samples, dtype=np.float32) / np.float32(SAMPLE_RATE)
        period = time_s * np.float32(hz)
        if self.vibrato:  # the frequency changes by a sine, so the phase changes by its integral
            depth = np.float32(self.vibrato * hz / (2 * np.pi * self.vibrato_hz))
            period -= depth * np.cos(time_s * np.float32(2 * np.pi * self.vibrato_hz))
        place = (period * TABLE_SAMPLES).astype(np.int32) & (TABLE_SAMPLES - 1)
        bright = _table(self.strengths, hz)
        dull = _table(self.strengths[:3], hz)
        level = np.exp(time_s * np.float32(-1 / self.decay_s))
        wave = (dull[place] + (bright - dull)[place] * level) * level
        attack = max(1, round(self.attack_s * SAMPLE_RATE))
        wave[:attack] *= np.linspace(0, 1, attack, dtype=np.float32)[:num_samples]
        fade = min(RELEASE_SAMPLES, num_samples)
        wave[num_samples - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        return wave


def _table(strengths: np.ndarray, hz: float) -> np.ndarray:
    """One period of a tone with these partials below `HIGHEST_HZ`, (TABLE_SAMPLES,)."""
    num_partials = max(1, min(len(strengths), int(HIGHEST_HZ / hz)))
    spectrum = np.zeros(TABLE_SAMPLES // 2 + 1, dtype=np.complex64)
    # Phases by Schroeder's rule, which keep the peak low.
    order = np.arange(1, num_partials + 1)
    spectrum[1 : num_partials + 1] = strengths[:num_partials] * np.exp(
        -1j * np.pi * order * (order - 1) / num_partials
    )
    return np.asarray(irfft(spectrum, TABLE_SAMPLES) * TABLE_SAMPLES / 2, dtype=np.float32)


def _add(out: np.ndarray, start: int, sound: np.ndarray) -> None:
    """Add a sound to `out`, beginning at sample `start`; what lies behind the end is cut off."""
    end = min(len(out), start + len(sound))
    if end > start:
        out[start:end] += sound[: end - start]


def _add_chords(out: np.ndarray, song: _Song, rng: np.random.Generator) -> None:
    """Add triads or seventh chords, strummed or as arpeggios in eighths."""
    instrument = _Instrument.draw(rng)
    degrees = (0, 2, 4, 6) if rng.random() < 0.25 else (0, 2, 4)
    octave = int(rng.integers(0, 2))
    is_arpeggio = rng.random() < 0.35
    strum = _STRUMS[rng.integers(len(_STRUMS))]
    for bar, root in song.bars(len(out)):
        pitches = [song.hz(root + degree, octave) for degree in degrees]
        if is_arpeggio:
            length = song.beat_samples
            notes = [instrument.note(hz, length) for hz in pitches]
            for eighth in range(8):
                _add(out, bar + eighth * song.beat_samples // 2, notes[eighth % len(notes)])
            continue
        length = round(song.beat_samples * (4 / len(strum)))
        chord = np.sum([instrument.note(hz, length) for hz in pitches], axis=0)
        for beat in strum:
            _add(out, bar + round(beat * song.beat_samples), chord)


def _add_bass(out: np.ndarray, song: _Song, rng: np.random.Generator) -> None:
    """Add the root of each chord, one octave below the tonic, on some beats."""
    instrument = _Instrument.draw(rng)
    beats = ((0,), (0, 2), (0, 1, 2, 3))[rng.integers(3)]
    length = song.beat_samples * 4 // len(beats)
    for bar, root in song.bars(len(out)):
        note = instrument.note(song.hz(root, -1), length)
        for beat in beats:
            _add(out, bar + beat * song.beat_samples, note)


def _add_melody(out: np.ndarray, song: _Song, rng: np.random.Generator) -> None:
    """Add a random walk on the scale, with rests, in notes of a half to two beats."""
    instrument = _Instrument.draw(rng)
    degree, start = int(rng.integers(7, 14)), 0
    while start < len(out):
        length = round(song.beat_samples * (0.5, 0.5, 1.0, 1.0, 2.0)[rng.integers(5)])
        degree = int(np.clip(degree + rng.integers(-3, 4), 4, 18))
        if rng.random() < 0.85:
            _add(out, start, instrument.note(song.hz(degree), length))
        start += length


def _add_drums(out: np.ndarray, song: _Song, rng: np.random.Generator) -> None:
    """Add a loop of one bar in eighths: kick, snare and hi-hat."""
    time_s = np.arange(round(0.25 * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    # The kick's tone falls to its frequency within about 0.03 s.
    sweep = rng.uniform(45, 70) * (time_s + rng.uniform(0.02, 0.06) * (1 - np.exp(-time_s / 0.03)))
    kick = np.sin(2 * np.pi * sweep) * np.exp(-time_s / rng.uniform(0.04, 0.12))
    noise = rng.standard_normal((2, len(time_s)), dtype=np.float32)
    snare = lfilter([1.0], [1.0, -0.5], noise[0]) * np.exp(-time_s / rng.uniform(0.03, 0.1))
    hat = lfilter([1.0, -0.9], [1.0], noise[1]) * np.exp(-time_s / rng.uniform(0.01, 0.05))
    eighths = np.arange(8)
    loop = [
        (1.5 * kick, (eighths % 4 == 0) | (rng.random(8) < 0.15)),
        (rng.uniform(0.3, 1.0) * snare, (eighths % 4 == 2) | (rng.random(8) < 0.1)),
        (rng.uniform(0.1, 0.5) * hat, rng.random(8) < 0.8),
    ]
    for bar, _ in song.bars(len(out)):
        for sound, is_hit in loop:
            for eighth in np.flatnonzero(is_hit):
                _add(out, bar + int(eighth) * song.beat_samples // 2, sound)
