"""Changes that a listener does not notice, or that say nothing about the emotion. They must change no answer.

The first ten are those of ser-tests, with the same values: github.com/audeering/ser-tests, arXiv 2312.06270.
Of its ratios of white noise, 35, 40 and 45 dB, ours is the loudest. As there, pauses count in the level.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile
import soxr

from emodistill.audio.waveform import FRAME_SAMPLES, SAMPLE_RATE, Waveform, loud_span
from emodistill.errors import AudioError, MissingExtraError
from emodistill.stress.base import Change, Material, Recording

GAINS_DB = (-2, -1, 1, 2)
NUM_SAMPLES = (100, 500, 1000)  # that are added or cut off
CLIPPED_SHARES = (0.001, 0.002, 0.003)  # of the samples
TONE_HZ = (5000.0, 7000.0)
TONE_SNRS_DB = (40, 45, 50)  # of the peaks
HIGH_PASS_HZ = (50, 100, 150)
LOW_PASS_HZ = (7500, 7000, 6500)
WHITE_NOISE_SNR_DB = 35
SILENCE_S = (0.5, 2.0)  # on each side
PAUSES_S = (0.3, 1.0)
NUM_PAUSES = 2
PAUSE_DISTANCE_S = 0.25  # between two pauses, and from the ends of the speech
FADE_SAMPLES = SAMPLE_RATE * 5 // 1000  # on both sides of a pause, so that nothing clicks
QUIET_DB = 40.0  # frames that are this far below the loudest are silence
RATES_HZ = (22_050, 44_100, 48_000)
SPEEDS = (0.99, 1.01)
CUT_S = (0.02, 0.1)  # at each end
MIN_SAMPLES = SAMPLE_RATE // 10  # that no cut goes below
# libsndfile's compression levels from 0 to 1 are the bit rates from 160 to 8 kbit/s of MP3 at 16 kHz, and
# those from 256 to 6 kbit/s of Opus.
MP3_128K = (160 - 128) / (160 - 8)
OPUS_64K = (256 - 64) / (256 - 6)

Part = Callable[[Waveform, np.random.Generator], Any]  # a change that needs the waveform alone


def _gain(waveform: Waveform, rng: np.random.Generator) -> Any:
    return waveform * 10 ** (rng.choice(GAINS_DB) / 20)


def _append_zeros(waveform: Waveform, rng: np.random.Generator) -> Any:
    return np.pad(waveform, (0, rng.choice(NUM_SAMPLES)))


def _prepend_zeros(waveform: Waveform, rng: np.random.Generator) -> Any:
    return np.pad(waveform, (rng.choice(NUM_SAMPLES), 0))


def _crop_beginning(waveform: Waveform, rng: np.random.Generator) -> Any:
    return _crop(waveform, int(rng.choice(NUM_SAMPLES)), 0)


def _crop_end(waveform: Waveform, rng: np.random.Generator) -> Any:
    return _crop(waveform, 0, int(rng.choice(NUM_SAMPLES)))


def _crop(waveform: Waveform, start: int, end: int) -> Waveform:
    """Cut samples off, but leave at least `MIN_SAMPLES`, or the whole waveform where it is that short."""
    spare = max(0, len(waveform) - MIN_SAMPLES)
    start = min(start, spare)
    return waveform[start : len(waveform) - min(end, spare - start)]


def _clip(waveform: Waveform, rng: np.random.Generator) -> Any:
    level = np.quantile(np.abs(waveform), 1 - rng.choice(CLIPPED_SHARES))
    return np.clip(waveform, -level, level)


def _tone(waveform: Waveform, rng: np.random.Generator) -> Any:
    hz, snr_db, phase = rng.uniform(*TONE_HZ), rng.choice(TONE_SNRS_DB), rng.uniform(0, 2 * np.pi)
    level = np.abs(waveform).max() * 10 ** (-snr_db / 20)
    return waveform + level * np.sin(2 * np.pi * hz * np.arange(len(waveform)) / SAMPLE_RATE + phase)


def _high_pass(waveform: Waveform, rng: np.random.Generator) -> Any:
    return _first_order(waveform, rng.choice(HIGH_PASS_HZ), "highpass")


def _low_pass(waveform: Waveform, rng: np.random.Generator) -> Any:
    return _first_order(waveform, rng.choice(LOW_PASS_HZ), "lowpass")


def _first_order(waveform: Waveform, hz: float, kind: str) -> Any:
    try:
        from scipy.signal import butter, lfilter
    except ImportError as error:
        raise MissingExtraError("scipy", "stress", "the stress suite") from error
    numerator, denominator = butter(1, hz, kind, fs=SAMPLE_RATE)
    return lfilter(numerator, denominator, waveform)


def _white_noise(waveform: Waveform, rng: np.random.Generator) -> Any:
    noise = rng.standard_normal(len(waveform))
    level = np.sqrt(np.mean(waveform.astype(np.float64) ** 2) / np.mean(noise**2))
    return waveform + level * 10 ** (-WHITE_NOISE_SNR_DB / 20) * noise


def _silence_around(waveform: Waveform, rng: np.random.Generator) -> Any:
    return np.pad(waveform, [round(seconds * SAMPLE_RATE) for seconds in rng.uniform(*SILENCE_S, size=2)])


def _pauses(waveform: Waveform, rng: np.random.Generator) -> Any:
    lengths = [round(seconds * SAMPLE_RATE) for seconds in rng.uniform(*PAUSES_S, size=NUM_PAUSES)]
    places = sorted(zip(quiet_places(waveform, NUM_PAUSES), lengths, strict=False))
    pieces, start = [], 0
    for place, length in places:
        pieces += [_faded(waveform[start:place], start > 0, True), np.zeros(length, dtype=np.float32)]
        start = place
    return np.concatenate([*pieces, _faded(waveform[start:], start > 0, False)])


def quiet_places(waveform: Waveform, number: int) -> list[int]:
    """Return the samples in the middle of the quietest 30 ms inside of the speech, the quietest first.

    They are `PAUSE_DISTANCE_S` apart. Short speech has fewer of them.
    """
    first, last = loud_span(waveform, QUIET_DB)
    distance = round(PAUSE_DISTANCE_S * SAMPLE_RATE)
    energy = np.convolve(waveform.astype(np.float64) ** 2, np.ones(3 * FRAME_SAMPLES), "same")
    candidates = np.arange(first + distance, last - distance, FRAME_SAMPLES)
    places: list[int] = []
    for place in candidates[np.argsort(energy[candidates], kind="stable")].tolist():
        if len(places) < number and all(abs(place - other) >= distance for other in places):
            places.append(place)
    return places


def _faded(piece: Waveform, at_start: bool, at_end: bool) -> Waveform:
    piece, num = piece.copy(), min(FADE_SAMPLES, len(piece))
    ramp = np.linspace(0, 1, num, endpoint=False, dtype=np.float32)
    if at_start:
        piece[:num] *= ramp
    if at_end and num:
        piece[-num:] *= ramp[::-1]
    return piece


def _trim(waveform: Waveform, rng: np.random.Generator) -> Any:
    start, end = loud_span(waveform, QUIET_DB)
    return waveform[start:end] if end > start else waveform


def _dither(waveform: Waveform, rng: np.random.Generator) -> Any:
    triangular = rng.random(len(waveform)) - rng.random(len(waveform))  # of ± 1 step
    return np.clip(np.round(waveform * 2.0**15 + triangular), -(2**15), 2**15 - 1) / 2.0**15


def _resample(waveform: Waveform, rng: np.random.Generator) -> Any:
    rate_hz = int(rng.choice(RATES_HZ))
    return _fitted(
        soxr.resample(soxr.resample(waveform, SAMPLE_RATE, rate_hz), rate_hz, SAMPLE_RATE), waveform
    )


def _speed(waveform: Waveform, rng: np.random.Generator) -> Any:
    return soxr.resample(waveform, round(SAMPLE_RATE * rng.choice(SPEEDS)), SAMPLE_RATE)


def _cut(waveform: Waveform, rng: np.random.Generator) -> Any:
    start, end = (round(seconds * SAMPLE_RATE) for seconds in rng.uniform(*CUT_S, size=2))
    return _crop(waveform, start, end)


def _flac(waveform: Waveform, rng: np.random.Generator) -> Any:
    # libsndfile does not read floats back as it wrote them, so the 24 bits are given as integers.
    steps = np.clip(np.round(waveform * 2.0**23), -(2**23), 2**23 - 1).astype(np.int32) * 2**8
    return encoded_and_decoded(steps, "FLAC", "PCM_24", "int32") / 2.0**31


def _mp3(waveform: Waveform, rng: np.random.Generator) -> Any:
    decoded = encoded_and_decoded(
        np.clip(waveform, -1, 1), "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=MP3_128K
    )
    return _fitted(decoded, waveform)


def _opus(waveform: Waveform, rng: np.random.Generator) -> Any:
    decoded = encoded_and_decoded(np.clip(waveform, -1, 1), "OGG", "OPUS", compression_level=OPUS_64K)
    return _fitted(decoded, waveform)


def encoded_and_decoded(
    samples: Any, format: str, subtype: str, dtype: str = "float32", **options: Any
) -> Any:
    """Return samples (n,) at 16 kHz after a round trip through a file of libsndfile.

    The decoders subtract the delay of their encoders. Raises `AudioError` where this libsndfile lacks the
    codec.
    """
    file = io.BytesIO()
    try:
        soundfile.write(file, samples, SAMPLE_RATE, format=format, subtype=subtype, **options)
        file.seek(0)
        return soundfile.read(file, dtype=dtype)[0]
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError(
            f"this libsndfile cannot write {format} {subtype}: update the package soundfile"
        ) from error


def _fitted(changed: Any, waveform: Waveform) -> Any:
    """Return samples of the length of a waveform; codecs may add some at the end."""
    return np.pad(changed, (0, max(0, len(waveform) - len(changed))))[: len(waveform)]


def _small(name: str, text: str, part: Part) -> Change:
    def apply(recording: Recording, rng: np.random.Generator, material: Material) -> Waveform:
        return np.ascontiguousarray(part(recording.waveform, rng), dtype=np.float32)

    return Change(name, "small", text, apply)


SMALL: tuple[Change, ...] = (
    _small("gain", "The level changes by -2, -1, 1 or 2 dB.", _gain),
    _small("append-zeros", "100, 500 or 1000 zeros are added at the end.", _append_zeros),
    _small("prepend-zeros", "100, 500 or 1000 zeros are added at the beginning.", _prepend_zeros),
    _small("crop-beginning", "The first 100, 500 or 1000 samples are cut off.", _crop_beginning),
    _small("crop-end", "The last 100, 500 or 1000 samples are cut off.", _crop_end),
    _small("clip", "The loudest 0.1, 0.2 or 0.3 % of the samples are clipped.", _clip),
    _small("tone", "A tone from 5 to 7 kHz, whose peak is 40, 45 or 50 dB below the speech.", _tone),
    _small("high-pass", "A high-pass filter of order 1 at 50, 100 or 150 Hz.", _high_pass),
    _small("low-pass", "A low-pass filter of order 1 at 7500, 7000 or 6500 Hz.", _low_pass),
    _small("white-noise-35db", "White noise 35 dB below the level of the whole recording.", _white_noise),
    _small("silence-around", "0.5 to 2 s of digital silence before and after the speech.", _silence_around),
    _small("pauses", "Two pauses of 0.3 to 1 s at the quietest places inside the speech.", _pauses),
    _small("trim", "The silence at both ends is removed.", _trim),
    _small("dither", "16 bits per sample, with triangular dither.", _dither),
    _small("resample", "Resampled to 22.05, 44.1 or 48 kHz and back.", _resample),
    _small("speed", "1 % faster or slower by resampling, so the pitch changes too.", _speed),
    _small("cut", "Another cut of the recording: 20 to 100 ms are missing at each end.", _cut),
    _small("flac", "A FLAC file, which is lossless.", _flac),
    _small("mp3-128k", "An MP3 file of 128 kbit/s.", _mp3),
    _small("opus-64k", "An Opus file of 64 kbit/s.", _opus),
)
