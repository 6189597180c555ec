"""Augmentation of waveforms. A view depends only on the seed, the number of the view and the utterance."""

import io
from collections.abc import Sequence

import numpy as np
import soundfile
import soxr
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import butter, fftconvolve, sosfilt

from emodistill.audio.waveform import SAMPLE_RATE, Waveform, peak_normalise
from emodistill.config import AugmentConfig, stable_seed
from emodistill.errors import ConfigError
from emodistill.features.music import compose_music

# Container, codec and rate in Hz. Opus takes as much time as all others together.
_CODECS = (
    ("WAV", "ULAW", 8000),
    ("WAV", "GSM610", 8000),
    ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    ("OGG", "VORBIS", SAMPLE_RATE),
    ("OGG", "OPUS", SAMPLE_RATE),
)
NUM_BABBLE_VOICES = (3, 6)  # the fewest and the most
_BABBLE_LEVEL_DB = 4.0  # voices of babble differ by up to ± this


def augment_view(waveform: Waveform, config: AugmentConfig, view: int, utterance_id: str) -> Waveform:
    """Return one view of a waveform (samples,), within [-1, 1]. View 0 is the waveform itself.

    With `config.fresh` a view only has another speed; `apply_channel` does the rest in every epoch.
    """
    if view == 0:
        return waveform
    rng = np.random.default_rng(stable_seed("augment", config.seed, view, utterance_id))
    out = waveform
    if config.speed:
        out = change_speed(out, rng.uniform(1 - config.speed, 1 + config.speed))
    return np.clip(out, -1, 1) if config.fresh else _channel(out, config, rng)


def apply_channel(
    waveform: Waveform,
    config: AugmentConfig,
    draw: int,
    utterance_id: str,
    voices: Sequence[Waveform] = (),
) -> Waveform:
    """Return the waveform as in another place, or through another microphone, line or codec.

    `draw` seeds the choice. Babble is a mix of some of `voices`, which are waveforms of other utterances.
    Raises `ConfigError` where `config` has babble and there are no voices.
    """
    if config.babble_snr_db is not None and not voices:
        raise ConfigError(
            f"augment.babble_snr_db = {config.babble_snr_db} needs other utterances, and there are none: set "
            "it to 'none'"
        )
    rng = np.random.default_rng(stable_seed("channel", config.seed, draw, utterance_id))
    return _channel(waveform, config, rng, voices)


def _channel(
    waveform: Waveform, config: AugmentConfig, rng: np.random.Generator, voices: Sequence[Waveform] = ()
) -> Waveform:
    """Apply everything except speed, each with its probability and a random strength."""
    out = waveform
    if config.equalise_db:
        out = equalise(out, config.equalise_db, rng)
    if rng.random() < config.reverb_probability:
        out = reverberate(out, rng, config.reverb_rt60_s, config.reverb_level)
    if config.music_snr_db is not None and rng.random() < config.music_probability:
        out = add_music(out, rng.uniform(*config.music_snr_db), rng)
    if config.babble_snr_db is not None and rng.random() < config.babble_probability:
        out = add_babble(out, voices, rng.uniform(*config.babble_snr_db), rng)
    if config.noise_snr_db is not None and rng.random() < config.noise_probability:
        out = add_noise(out, rng.uniform(*config.noise_snr_db), rng)
    if rng.random() < config.band_limit_probability:
        out = band_limit(out, rng.uniform(150, 400), rng.uniform(3000, 4000))
    if rng.random() < config.codec_probability:
        out = transcode(out, *_CODECS[rng.integers(len(_CODECS))])
    out = peak_normalise(out) if np.abs(out).max(initial=0.0) > 1 else out
    if config.gain_db:
        out = np.clip(out * 10 ** (rng.uniform(-config.gain_db, config.gain_db) / 20), -1, 1)
    return out.astype(np.float32)


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Return the waveform `factor` times faster, by resampling: tempo and pitch change together."""
    return np.asarray(soxr.resample(waveform, round(SAMPLE_RATE * factor), SAMPLE_RATE), dtype=np.float32)


def equalise(waveform: Waveform, most_db: float, rng: np.random.Generator) -> Waveform:
    """Apply the frequency response of another microphone.

    Its gains at octaves below 8 kHz are uniform in ± most_db, and linear in dB between them.
    """
    length = next_fast_len(len(waveform), real=True)
    num_bins = length // 2 + 1
    octave = np.log2(np.maximum(np.arange(num_bins) / max(1, num_bins - 1), 2.0**-7))  # -7 … 0, below 8 kHz
    gain_db = np.interp(octave, np.arange(-7, 1), rng.uniform(-most_db, most_db, 8))
    gain = (10 ** (gain_db / 20)).astype(np.float32)
    shaped = irfft(rfft(waveform.astype(np.float32), length) * gain, length)
    return np.asarray(shaped[: len(waveform)], dtype=np.float32)


def add_noise(waveform: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Add noise at a signal-to-noise ratio in dB. Its power spectrum is f^-a, a uniform in [0, 2].

    a = 0 is white noise, a = 2 is brown noise.
    """
    length = next_fast_len(len(waveform), real=True)
    spectrum = rng.standard_normal((length // 2 + 1, 2), dtype=np.float32).view(np.complex64)[:, 0]
    slope = np.float32(rng.uniform(0, 2) / 2)
    spectrum *= np.maximum(np.arange(len(spectrum), dtype=np.float32), 1) ** -slope
    return _mix(waveform, irfft(spectrum, length)[: len(waveform)], snr_db)


def add_music(waveform: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Add synthesised music at a signal-to-noise ratio in dB; see `compose_music`."""
    return _mix(waveform, compose_music(len(waveform), rng), snr_db)


def add_babble(
    waveform: Waveform, voices: Sequence[Waveform], snr_db: float, rng: np.random.Generator
) -> Waveform:
    """Add 3 to 6 of the given waveforms at a signal-to-noise ratio in dB, or all of them if they are fewer.

    Each begins at a random place, is repeated to the length of `waveform` and has another level.
    """
    low, high = NUM_BABBLE_VOICES
    num_voices = min(len(voices), int(rng.integers(low, high + 1)))
    babble = np.zeros(len(waveform), dtype=np.float32)
    for place in rng.choice(len(voices), num_voices, replace=False):
        start, level_db = rng.random(), rng.uniform(-_BABBLE_LEVEL_DB, _BABBLE_LEVEL_DB)
        voice = voices[place]
        rms = np.sqrt(np.mean(voice**2)) if len(voice) else 0.0
        if rms > 0:
            repeated = np.resize(np.roll(voice, -int(start * len(voice))), len(waveform))
            babble += np.float32(10 ** (level_db / 20) / rms) * repeated
    return _mix(waveform, babble, snr_db)


def _mix(waveform: Waveform, background: np.ndarray, snr_db: float) -> Waveform:
    """Add a background (samples,) at a signal-to-noise ratio in dB. A silent background changes nothing."""
    power = np.mean(background**2)
    if power == 0:
        return waveform
    scale = np.sqrt(np.mean(waveform.astype(np.float64) ** 2) / power / 10 ** (snr_db / 10))
    return (waveform + scale * background).astype(np.float32)


def reverberate(
    waveform: Waveform,
    rng: np.random.Generator,
    rt60_s: tuple[float, float] = (0.15, 0.6),
    level: tuple[float, float] = (0.1, 0.5),
) -> Waveform:
    """Add the reverberation of a room: convolve with exponentially decaying noise after the direct sound.

    `rt60_s` is the range of the decay by 60 dB, in seconds. `level` is the range of the response's root of
    energy after the direct sound, which has 1.
    """
    decay_s = rng.uniform(*rt60_s)
    time_s = np.arange(max(1, round(decay_s * SAMPLE_RATE)), dtype=np.float32) / SAMPLE_RATE
    tail = rng.standard_normal(len(time_s), dtype=np.float32) * 10 ** (-3 * time_s / np.float32(decay_s))
    response = tail * np.float32(rng.uniform(*level)) / np.sqrt(np.sum(tail**2))
    response[0] = 1.0
    return fftconvolve(waveform, response)[: len(waveform)].astype(np.float32)


def band_limit(waveform: Waveform, low_hz: float, high_hz: float) -> Waveform:
    """Apply a band pass as on a telephone line (Butterworth, order 4)."""
    sos = butter(4, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE, output="sos")
    return sosfilt(sos, waveform).astype(np.float32)


def transcode(waveform: Waveform, container: str, codec: str, rate_hz: int = SAMPLE_RATE) -> Waveform:
    """Encode with a lossy codec at its rate and decode again. The length does not change."""
    buffer = io.BytesIO()
    encoded = waveform if rate_hz == SAMPLE_RATE else soxr.resample(waveform, SAMPLE_RATE, rate_hz)
    soundfile.write(buffer, np.clip(encoded, -1, 1), rate_hz, format=container, subtype=codec)
    buffer.seek(0)
    decoded, rate = soundfile.read(buffer, dtype="float32")
    if rate != SAMPLE_RATE:
        decoded = soxr.resample(decoded, rate, SAMPLE_RATE)
    out = np.zeros_like(waveform)
    out[: min(len(out), len(decoded))] = decoded[: len(out)]
    return out
