"""Augmentation of waveforms. A view depends only on the seed, the number of the view and the utterance."""

import io

import numpy as np
import soundfile
import soxr
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import butter, fftconvolve, sosfilt

from emodistill.audio.waveform import SAMPLE_RATE, Waveform, peak_normalise
from emodistill.config import AugmentConfig, stable_seed

# Container, codec and rate in Hz. Opus takes as much time as all others together.
_CODECS = (
    ("WAV", "ULAW", 8000),
    ("WAV", "GSM610", 8000),
    ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    ("OGG", "VORBIS", SAMPLE_RATE),
    ("OGG", "OPUS", SAMPLE_RATE),
)


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


def apply_channel(waveform: Waveform, config: AugmentConfig, draw: int, utterance_id: str) -> Waveform:
    """Return the waveform as through another microphone, room, line or codec; `draw` seeds the choice."""
    rng = np.random.default_rng(stable_seed("channel", config.seed, draw, utterance_id))
    return _channel(waveform, config, rng)


def _channel(waveform: Waveform, config: AugmentConfig, rng: np.random.Generator) -> Waveform:
    """Apply everything except speed, each with its probability and a random strength."""
    out = waveform
    if config.equalise_db:
        out = equalise(out, config.equalise_db, rng)
    if rng.random() < config.reverb_probability:
        out = reverberate(out, rng)
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
    noise = irfft(spectrum, length)[: len(waveform)]
    power = np.mean(noise**2)
    if power == 0:
        return waveform
    scale = np.sqrt(np.mean(waveform.astype(np.float64) ** 2) / power / 10 ** (snr_db / 10))
    return (waveform + scale * noise).astype(np.float32)


def reverberate(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Add the reverberation of a room: convolve with exponentially decaying noise after the direct sound.

    The decay by 60 dB (RT60) takes 0.15 to 0.6 s.
    """
    rt60_s = rng.uniform(0.15, 0.6)
    time_s = np.arange(round(rt60_s * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    tail = rng.standard_normal(len(time_s), dtype=np.float32) * 10 ** (-3 * time_s / np.float32(rt60_s))
    response = tail * np.float32(rng.uniform(0.1, 0.5)) / np.sqrt(np.sum(tail**2))
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
