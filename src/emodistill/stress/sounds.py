"""Sounds, lines, codecs, rooms and levels that `emodistill stress` puts on recordings.

The level of speech is the root mean square of its speech part: of the frames of 20 ms that are at most 30 dB
below the loudest frame. The level of a background is the root mean square of all of it. The signal-to-noise
ratio (SNR) compares the two. In training and in ser-tests, the level of speech includes the pauses. So the
same ratio is a quieter background there.

Samples beyond full scale are never clipped, except where clipping is the change: the whole result is scaled
down. The length of a recording does not change, except where a change says so.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import butter, fftconvolve, sosfilt

from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.errors import ConfigError
from emodistill.features.augment import band_limit, transcode
from emodistill.stress import rooms
from emodistill.stress.base import Change, Material, Recording
from emodistill.stress.codecs import code

Samples = npt.NDArray[np.floating]

LEVEL_FRAME_SAMPLES = SAMPLE_RATE // 50  # 20 ms
SPEECH_RANGE_DB = 30.0  # frames that are quieter than the loudest one by more are pauses
NUM_BABBLE_VOICES = (4, 7)  # the fewest and the most, as in ser-tests
CLIPPED_SHARE = 0.05  # of the samples
QUIET_DB = -30.0
_FADE_SAMPLES = SAMPLE_RATE // 20  # where a sound that is too short is repeated
_QUIET_PART = 0.1  # a part of a piece with less than this share of its level is a rest
_MOST_DRAWS = 20  # of a part that is no rest
_PHONE_RATE_HZ = 8000
_AMR_KBIT_S = 7.4
_AMR_DELAY_SAMPLES = 40  # at 8 kHz: the encoder looks 5 ms ahead


def speech_level(waveform: Samples) -> float:
    """Return the root mean square of the speech part of a waveform (samples,)."""
    num_frames = len(waveform) // LEVEL_FRAME_SAMPLES
    if num_frames < 2:
        return _level(waveform)
    frames = waveform[: num_frames * LEVEL_FRAME_SAMPLES].reshape(num_frames, LEVEL_FRAME_SAMPLES)
    power = np.mean(frames.astype(np.float64) ** 2, axis=1)
    return float(np.sqrt(np.mean(power[power >= power.max() * 10 ** (-SPEECH_RANGE_DB / 10)])))


def add_background(
    waveform: Waveform, background: Samples, snr_db: float, level: float | None = None
) -> Waveform:
    """Return a waveform (samples,) with a background (samples,) at a signal-to-noise ratio in dB.

    `level` is the level of the background, if it is not that of all its samples. A silent background, or one
    for silent speech, adds nothing.
    """
    level = _level(background) if level is None else level
    if level == 0:
        return waveform
    gain = speech_level(waveform) / level * 10 ** (-snr_db / 20)
    return _within_full_scale(waveform + gain * background)


def _level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) if len(samples) else 0.0


def _within_full_scale(samples: Samples) -> Waveform:
    peak = float(np.abs(samples).max(initial=0.0))
    return np.asarray(samples / max(1.0, peak), dtype=np.float32)


def _at_level_of(samples: Samples, original: Waveform) -> Waveform:
    """Return samples at the level of the original, as far as full scale allows."""
    level = _level(samples)
    return _within_full_scale(samples * (_level(original) / level) if level else samples)


def _part(pieces: Sequence[Waveform], num_samples: int, rng: np.random.Generator) -> Samples:
    """Return a random part (num_samples,) of a random piece, which is repeated if it is too short.

    A rest of a piece is not taken, unless 20 draws find nothing else.
    """
    parts = []
    for _ in range(_MOST_DRAWS):
        piece = pieces[int(rng.integers(len(pieces)))]
        part = _from_random_place(piece, num_samples, rng)
        if _level(part) > _QUIET_PART * _level(piece):
            return part
        parts.append(part)
    return max(parts, key=_level)


def _from_random_place(piece: Waveform, num_samples: int, rng: np.random.Generator) -> Samples:
    if not len(piece):
        return np.zeros(num_samples)
    if len(piece) < num_samples:
        piece = _repeated(piece, num_samples)
    start = int(rng.integers(len(piece) - num_samples + 1))
    return piece[start : start + num_samples]


def _repeated(piece: Waveform, num_samples: int) -> Waveform:
    """Return a piece (samples,) again and again, crossfaded, and longer than asked for by one piece."""
    fade = min(_FADE_SAMPLES, len(piece) // 4)
    ramp = np.sqrt(np.linspace(0, 1, fade, endpoint=False), dtype=np.float32)
    faded = piece.copy()
    faded[:fade] *= ramp
    faded[len(piece) - fade :] *= np.sqrt(1 - ramp**2)
    step = len(piece) - fade
    num_pieces = -(-num_samples // step) + 1
    out = np.zeros(num_pieces * step + fade, np.float32)
    for place in range(num_pieces):
        out[place * step : place * step + len(piece)] += faded
    return out[fade : num_pieces * step]


def _others(recording: Recording, material: Material) -> dict[str, Sequence[Waveform]]:
    """Return the speech of the other speakers, by name. Raises `ConfigError` if there is none."""
    others = {
        speaker: waveforms
        for speaker, waveforms in sorted(material.speech.items())
        if waveforms and speaker != recording.speaker
    }
    if not others:
        raise ConfigError(
            f"needs speech of another speaker than '{recording.speaker}', and there is none: test a corpus "
            "with two speakers or more"
        )
    return others


def babble(recording: Recording, num_voices: int, rng: np.random.Generator, material: Material) -> Samples:
    """Return recordings of other speakers at the same time (samples,), all at the same level.

    Speakers occur again if there are fewer than voices. Raises `ConfigError` if there is no other speaker.
    """
    others = _others(recording, material)
    names = list(others)
    mixed = np.zeros(len(recording.waveform))
    order: list[str] = []
    while len(order) < num_voices:
        order += [names[place] for place in rng.permutation(len(names))]
    for name in order[:num_voices]:
        voice = _part(others[name], len(mixed), rng)
        level = speech_level(voice)
        mixed += voice / level if level else 0.0
    return mixed


def _babble(snr_db: float) -> Callable[[Recording, np.random.Generator, Material], Waveform]:
    def apply(recording: Recording, rng: np.random.Generator, material: Material) -> Waveform:
        low, high = NUM_BABBLE_VOICES
        background = babble(recording, int(rng.integers(low, high + 1)), rng, material)
        return add_background(recording.waveform, background, snr_db)

    return apply


def _overlap(snr_db: float) -> Callable[[Recording, np.random.Generator, Material], Waveform]:
    def apply(recording: Recording, rng: np.random.Generator, material: Material) -> Waveform:
        others = _others(recording, material)
        waveforms = list(others.values())[int(rng.integers(len(others)))]
        num_samples = len(recording.waveform)
        talk = waveforms[int(rng.integers(len(waveforms)))]
        if len(talk) >= num_samples:
            talk = _part([talk], num_samples, rng)
            return add_background(recording.waveform, talk, snr_db, speech_level(talk))
        start = int(rng.integers(num_samples - len(talk) + 1))
        placed = np.zeros(num_samples, np.float32)
        placed[start : start + len(talk)] = talk
        return add_background(recording.waveform, placed, snr_db, speech_level(talk))

    return apply


def _music(snr_db: float) -> Callable[[Recording, np.random.Generator, Material], Waveform]:
    return lambda recording, rng, material: add_background(
        recording.waveform, _part(material.music, len(recording.waveform), rng), snr_db
    )


def _ambience(snr_db: float) -> Callable[[Recording, np.random.Generator, Material], Waveform]:
    return lambda recording, rng, material: add_background(
        recording.waveform, _part(material.ambience, len(recording.waveform), rng), snr_db
    )


def hum(num_samples: int, rng: np.random.Generator) -> Samples:
    """Return the hum of mains (num_samples,): 50 or 60 Hz, and the harmonics up to 1 kHz.

    The amplitude of harmonic k is 1/k, changed by up to ± 6 dB. Phases are random.
    """
    mains_hz = (50, 60)[rng.integers(2)]
    harmonics = np.arange(1, 1000 // mains_hz + 1)
    amplitudes = 10 ** (rng.uniform(-6, 6, len(harmonics)) / 20) / harmonics
    phases = rng.uniform(0, 2 * np.pi, len(harmonics))
    # The hum repeats every second. So one second is enough, and a long recording needs little memory.
    time_s = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    second = amplitudes @ np.sin(2 * np.pi * mains_hz * np.outer(harmonics, time_s) + phases[:, None])
    return np.resize(second, num_samples)


def _hum(snr_db: float) -> Callable[[Recording, np.random.Generator, Material], Waveform]:
    return lambda recording, rng, _: add_background(
        recording.waveform, hum(len(recording.waveform), rng), snr_db
    )


def _white_noise(recording: Recording, rng: np.random.Generator, _: Material) -> Waveform:
    return add_background(recording.waveform, rng.standard_normal(len(recording.waveform)), 20)


def tilt(waveform: Waveform, gain_at_8khz: float) -> Waveform:
    """Return a waveform whose amplitudes are multiplied by 1 at 0 Hz and by `gain_at_8khz` at 8 kHz.

    The gain is linear in the frequency between them. The level is kept, and there is no delay.
    """
    length = next_fast_len(2 * len(waveform), real=True)
    gain = np.linspace(1, gain_at_8khz, length // 2 + 1)
    tilted = irfft(rfft(waveform.astype(np.float64), length) * gain, length)[: len(waveform)]
    return _at_level_of(tilted, waveform)


def _room(room: rooms.Room) -> Callable[[Recording, np.random.Generator, Material], Waveform]:
    def apply(recording: Recording, rng: np.random.Generator, _: Material) -> Waveform:
        response = room.response(int(rng.integers(rooms.NUM_RESPONSES)))
        reverberant = fftconvolve(recording.waveform, response)[: len(recording.waveform)]
        return _at_level_of(reverberant, recording.waveform)

    return apply


def compress(samples: Samples, rate_hz: int) -> Samples:
    """Return samples (n,) after a dynamic range compressor, as ser-tests sets it.

    A level above -20 dB of full scale rises by 0.8 dB for each dB. Attack 10 ms, release 20 ms.
    """
    step = rate_hz // 1000
    num_steps = -(-len(samples) // step)
    padded = np.pad(np.abs(samples), (0, num_steps * step - len(samples)))
    peaks = padded.reshape(num_steps, step).max(axis=1)
    attack, release = np.exp(-1 / 10), np.exp(-1 / 20)  # for one step of 1 ms
    envelope, level = np.empty(num_steps), 0.0
    for place, peak in enumerate(peaks):
        memory = attack if peak > level else release
        level = memory * level + (1 - memory) * peak
        envelope[place] = level
    over_db = np.maximum(20 * np.log10(np.maximum(envelope, 1e-9)) + 20, 0)
    gain_db = np.interp(np.arange(len(samples)) / step, np.arange(num_steps) + 0.5, (0.8 - 1) * over_db)
    return samples * 10 ** (gain_db / 20)


def _phone(recording: Recording, rng: np.random.Generator, _: Material) -> Waveform:
    """Return the recording over a bad telephone, as in ser-tests."""
    waveform = recording.waveform
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak == 0:
        return waveform
    coded = code(
        np.asarray(compress(waveform / peak, SAMPLE_RATE), np.float32),
        "libopencore_amrnb", "amr", _AMR_KBIT_S, _PHONE_RATE_HZ, _AMR_DELAY_SAMPLES,
    )  # fmt: skip
    coded = coded / max(float(np.abs(coded).max()), 1e-9)
    high_pass = butter(2, 3000, "highpass", fs=SAMPLE_RATE, output="sos")
    noise = sosfilt(high_pass, _pink_noise(len(waveform), rng) * 10 ** (-25 / 20))
    return _at_level_of(coded + noise, waveform)


def _pink_noise(num_samples: int, rng: np.random.Generator) -> Samples:
    """Return noise (num_samples,) whose power falls by 3 dB an octave; its root mean square is 1."""
    spectrum = rfft(rng.standard_normal(num_samples))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    spectrum[0] = 0
    noise = irfft(spectrum, num_samples)
    return noise / max(_level(noise), 1e-9)


def _quiet(recording: Recording, rng: np.random.Generator, _: Material) -> Waveform:
    steps = 32768  # of 16-bit samples
    return np.asarray(np.round(recording.waveform * 10 ** (QUIET_DB / 20) * steps) / steps, np.float32)


def _loud(recording: Recording, rng: np.random.Generator, _: Material) -> Waveform:
    peak = float(np.abs(recording.waveform).max(initial=0.0))
    return np.asarray(recording.waveform / peak if peak else recording.waveform, np.float32)


def _clipped(recording: Recording, rng: np.random.Generator, _: Material) -> Waveform:
    limit = (
        float(np.quantile(np.abs(recording.waveform), 1 - CLIPPED_SHARE)) if len(recording.waveform) else 0.0
    )
    if limit == 0:
        return recording.waveform
    return np.asarray(np.clip(recording.waveform / limit, -1, 1), np.float32)


def _half(recording: Recording, rng: np.random.Generator, _: Material) -> Waveform:
    return recording.waveform[: -(-len(recording.waveform) // 2)]


def _of(
    apply: Callable[[Waveform], Waveform],
) -> Callable[[Recording, np.random.Generator, Material], Waveform]:
    """Return a change that draws nothing and mixes nothing in."""
    return lambda recording, rng, _: apply(recording.waveform)


def _backgrounds() -> list[Change]:
    """Return the changes that mix something in, at each ratio."""
    kinds = (
        ("babble", "4 to 7 recordings of other speakers at the same time", _babble, "speech", (20, 10, 5)),
        ("music", "A part of a piece of music", _music, "music", (20, 10, 5)),
        ("ambience", "The sound of a place or a machine", _ambience, "ambience", (20, 10)),
        ("hum", "The hum of mains, 50 or 60 Hz with harmonics up to 1 kHz", _hum, None, (20, 10)),
        ("overlap", "One other speaker at the same time", _overlap, "speech", (10, 5)),
    )
    return [
        Change(f"{name}-{snr_db}db", "sounds", f"{text}, {snr_db} dB below the speech.", make(snr_db), needs)
        for name, text, make, needs, ratios_db in kinds
        for snr_db in ratios_db
    ]


def _room_text(size: str, room: rooms.Room) -> str:
    return (
        f"A simulated {size} room, RT60 {room.rt60_s:g} s, at {room.distance_m:g} m; compared with the clean "
        "recording, which is stricter than the two rooms of ser-tests."
    )


SOUNDS: tuple[Change, ...] = (
    *_backgrounds(),
    Change("white-noise-20db", "sounds", "White noise, 20 dB below the speech.", _white_noise),
    Change(
        "phone", "sounds",
        "A bad telephone: compressor, AMR narrow band at 7.4 kbit/s, and hiss above 3 kHz.",
        _phone,
    ),
    Change(
        "tilt-down", "sounds",
        "A spectral tilt: amplitudes fall linearly, from 1 at 0 Hz to 0 at 8 kHz. The level is kept.",
        _of(lambda waveform: tilt(waveform, 0.0)),
    ),
    Change(
        "tilt-up", "sounds",
        "A spectral tilt: amplitudes rise linearly, from 1 at 0 Hz to 3 at 8 kHz. The level is kept.",
        _of(lambda waveform: tilt(waveform, 3.0)),
    ),
    Change("room-small", "sounds", _room_text("small", rooms.SMALL), _room(rooms.SMALL)),
    Change("room-large", "sounds", _room_text("large", rooms.LARGE), _room(rooms.LARGE)),
    Change(
        "telephone-band", "sounds", "The band of a telephone line, 300 to 3400 Hz.",
        _of(lambda waveform: _within_full_scale(band_limit(waveform, 300, 3400))),
    ),
    Change(
        "mu-law-8khz", "sounds", "Mu-law at 8 kHz (G.711), as on a telephone line.",
        _of(lambda waveform: transcode(waveform, "WAV", "ULAW", 8000)),
    ),
    Change(
        "gsm", "sounds", "GSM 06.10 at 8 kHz, as on an old mobile telephone.",
        _of(lambda waveform: transcode(waveform, "WAV", "GSM610", 8000)),
    ),
    Change(
        "opus-12k", "sounds", "Opus at 12 kbit/s.",
        _of(lambda waveform: code(waveform, "libopus", "ogg", 12)),
    ),
    Change(
        "mp3-32k", "sounds", "MP3 at 32 kbit/s.",
        _of(lambda waveform: code(waveform, "libmp3lame", "mp3", 32)),
    ),
    Change("quiet", "sounds", "30 dB quieter, in 16 bits.", _quiet),
    Change("loud", "sounds", "As loud as full scale allows without clipping.", _loud),
    Change("clipped", "sounds", "So loud that 5 % of the samples are clipped.", _clipped),
    Change("half", "sounds", "The first half of the recording alone.", _half),
)  # fmt: skip
