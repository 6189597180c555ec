"""Augmentation: view 0 is the recording; other views depend only on seed, view and utterance."""

import factories as make
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.config import AugmentConfig
from emodistill.errors import ConfigError
from emodistill.features.augment import (
    _CODECS,
    add_babble,
    add_music,
    add_noise,
    apply_channel,
    augment_view,
    band_limit,
    change_speed,
    equalise,
    reverberate,
    transcode,
)
from emodistill.features.music import compose_music

EVERYTHING = AugmentConfig(
    views=4, speed=0.2, gain_db=12, noise_snr_db=(0, 20), noise_probability=1, reverb_probability=1,
    band_limit_probability=1, codec_probability=1, equalise_db=6, music_snr_db=(0, 20), music_probability=1,
)  # fmt: skip
KINDS = {
    "speed": {"speed": 0.2},
    "gain": {"gain_db": 6.0},
    "noise": {"noise_snr_db": (5, 10), "noise_probability": 1.0},
    "music": {"music_snr_db": (5, 10), "music_probability": 1.0},
    "reverb": {"reverb_probability": 1.0},
    "band": {"band_limit_probability": 1.0},
    "codec": {"codec_probability": 1.0},
    "equaliser": {"equalise_db": 6.0},
}
SOUND = make.speech(0.5)
VOICES = [make.speech(length_s, seed=number) for number, length_s in enumerate((0.2, 0.5, 0.8, 1.1), start=1)]
BABBLE = AugmentConfig(fresh=True, babble_snr_db=(0, 20), babble_probability=1)


def test_view_0_is_the_recording() -> None:
    assert augment_view(SOUND, EVERYTHING, 0, "a") is SOUND


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_samples_and_keeps_range_and_length(kind: str) -> None:
    out = augment_view(SOUND, AugmentConfig(views=2, **KINDS[kind]), 1, "a")
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 1
    assert (len(out) == len(SOUND)) == (kind != "speed")
    assert len(SOUND) / 1.21 < len(out) < len(SOUND) / 0.79
    assert len(out) != len(SOUND) or np.abs(out - SOUND).max() > 1e-3


def test_a_view_depends_only_on_seed_view_and_utterance() -> None:
    one = augment_view(SOUND, EVERYTHING, 1, "a")
    np.testing.assert_array_equal(augment_view(SOUND, EVERYTHING, 1, "a"), one)
    others = [
        augment_view(SOUND, EVERYTHING, 2, "a"), augment_view(SOUND, EVERYTHING, 1, "b"),
        augment_view(SOUND, EVERYTHING.model_copy(update={"seed": 1}), 1, "a"),
    ]  # fmt: skip
    for other in others:
        assert len(other) != len(one) or not np.array_equal(other, one)


def test_augmentation_does_not_change_its_input() -> None:
    before = SOUND.copy()
    for view in range(1, 5):
        augment_view(SOUND, EVERYTHING, view, "a")
    np.testing.assert_array_equal(SOUND, before)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 50), st.sampled_from(["speech", "silence", "full scale"]))
def test_any_input_gives_finite_samples_within_full_scale(length: int, view: int, kind: str) -> None:
    sound = {"speech": make.speech(0.25), "silence": np.zeros(4000), "full scale": np.ones(4000)}[kind]
    out = augment_view(sound[:length].astype(np.float32), EVERYTHING, view, "a")
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert np.abs(out).max(initial=0) <= 1


ADDED = {
    "noise": lambda snr_db, rng: add_noise(SOUND, snr_db, rng),
    "music": lambda snr_db, rng: add_music(SOUND, snr_db, rng),
    "babble": lambda snr_db, rng: add_babble(SOUND, VOICES, snr_db, rng),
}


@pytest.mark.parametrize("kind", ADDED)
@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_added_sound_has_the_given_signal_to_noise_ratio(kind: str, snr_db: float) -> None:
    for seed in range(5):
        noise = ADDED[kind](snr_db, np.random.default_rng(seed)) - SOUND
        measured = 10 * np.log10(np.mean(SOUND.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))
        assert measured == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize("num_samples", [0, 1, 100, 1600, 16_001, 80_000])
def test_music_has_the_given_length_and_a_root_mean_square_of_1(num_samples: int) -> None:
    for seed in range(10):
        music = compose_music(num_samples, np.random.default_rng(seed))
        assert (music.shape, music.dtype) == ((num_samples,), np.float32)
        assert np.isfinite(music).all()
        rms = np.sqrt(np.mean(music.astype(float) ** 2)) if num_samples else 0.0
        assert rms == pytest.approx(1, abs=1e-3) or not music.any()
        assert music.any() or num_samples < 16_001


def test_music_depends_on_the_generator_alone() -> None:
    songs = [compose_music(SAMPLE_RATE, np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(songs[0], songs[1])
    assert np.abs(np.corrcoef(songs[1:]) - np.eye(3)).max() < 0.5


def test_music_is_tonal_and_noise_is_not() -> None:
    def flatness(sound: np.ndarray) -> float:  # geometric over arithmetic mean of the spectrum
        power = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))[20:] ** 2 + 1e-9
        return float(np.exp(np.log(power).mean()) / power.mean())

    music = [flatness(compose_music(SAMPLE_RATE, np.random.default_rng(seed))) for seed in range(20)]
    assert np.median(music) < 0.1
    assert flatness(np.random.default_rng(0).standard_normal(SAMPLE_RATE)) > 0.4


def test_babble_depends_only_on_draw_and_utterance() -> None:
    one = apply_channel(SOUND, BABBLE, 1, "a", VOICES)
    np.testing.assert_array_equal(apply_channel(SOUND, BABBLE, 1, "a", VOICES), one)
    assert (one.dtype, one.shape) == (np.float32, SOUND.shape)
    for draw, name in ((2, "a"), (1, "b")):
        assert not np.array_equal(apply_channel(SOUND, BABBLE, draw, name, VOICES), one)


@pytest.mark.parametrize("voices", [[np.zeros(1600, np.float32)], [np.zeros(0, np.float32)], VOICES[:1]])
def test_babble_of_silent_or_few_voices_is_finite(voices: list[np.ndarray]) -> None:
    for sound in (SOUND, np.zeros(800, np.float32), np.ones(1, np.float32)):
        out = apply_channel(sound, BABBLE, 1, "a", voices)
        assert np.isfinite(out).all()
        assert (out.dtype, out.shape) == (np.float32, sound.shape)


def test_babble_without_other_voices_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augment\.babble_snr_db = \(0\.0, 20\.0\) needs other utterances"):
        apply_channel(SOUND, BABBLE, 1, "a")


def test_kinds_that_are_off_change_nothing() -> None:
    config = EVERYTHING.model_copy(update={"music_snr_db": None, "codec_probability": 0.0})
    off = config.model_copy(update={"music_probability": 0.7, "babble_probability": 0.7})
    np.testing.assert_array_equal(augment_view(SOUND, off, 1, "a"), augment_view(SOUND, config, 1, "a"))
    # Golden values: these settings must always give the same views, because recipes depend on them.
    sums = [np.abs(augment_view(SOUND, config, view, "a")).sum(dtype=float) for view in (1, 2)]
    assert sums == pytest.approx([441.3466968509465, 313.0124422624176], rel=1e-4)


def test_a_reverberation_can_last_longer_and_be_louder() -> None:
    click = np.zeros(16_000, np.float32)
    click[0] = 1
    rng = np.random.default_rng(0)
    tails = [reverberate(click, rng, rt60_s, level)[1:] for rt60_s, level in (
        ((0.2, 0.2), (0.1, 0.1)), ((0.8, 0.8), (0.1, 0.1)), ((0.8, 0.8), (1.0, 1.0)),
    )]  # fmt: skip
    assert [float(np.sqrt(np.sum(tail**2))) for tail in tails] == pytest.approx([0.1, 0.1, 1.0], rel=0.1)
    late = [np.sum(tail[3200:] ** 2) / np.sum(tail**2) for tail in tails]
    assert late[0] < 1e-6 < 1e-3 < late[1]


def test_speed_changes_tempo_and_pitch_together() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 400 * time).astype(np.float32)
    out = change_speed(tone, 1.25)
    assert len(out) == pytest.approx(SAMPLE_RATE / 1.25, abs=2)
    peak_hz = np.abs(np.fft.rfft(out * np.hanning(len(out)))).argmax() * SAMPLE_RATE / len(out)
    assert peak_hz == pytest.approx(500, abs=3)


def test_band_limit_keeps_1_khz_and_removes_60_hz_and_7_khz() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE

    def passed_share(hz: float) -> float:
        tone = np.sin(2 * np.pi * hz * time).astype(np.float32)
        return float(np.std(band_limit(tone, 300, 3400)[SAMPLE_RATE // 4 :]) / np.std(tone))

    assert passed_share(1000) > 0.95
    assert passed_share(60) < 0.05
    assert passed_share(7000) < 0.05


def test_reverberation_comes_after_the_direct_sound() -> None:
    click = np.zeros(8000, np.float32)
    click[100] = 1
    out = reverberate(click, np.random.default_rng(0))
    assert np.abs(out[:100]).max() < 1e-6
    assert out[100] == pytest.approx(1, abs=1e-5)
    assert np.abs(out[101:3000]).max() > 1e-3


@pytest.mark.parametrize("codec", _CODECS, ids=lambda codec: codec[1])
def test_codecs_keep_the_length_and_the_spectrum(codec: tuple[str, str, int]) -> None:
    out = transcode(SOUND, *codec)
    assert out.shape == SOUND.shape
    spectra = [np.abs(np.fft.rfft(sound))[:1500] for sound in (SOUND, out)]
    assert np.corrcoef(*spectra)[0, 1] > 0.8


def test_equaliser_gains_stay_within_their_range() -> None:
    impulse = np.zeros(4096, dtype=np.float32)
    impulse[0] = 1
    gain_db = 20 * np.log10(np.abs(np.fft.rfft(equalise(impulse, 6.0, np.random.default_rng(0)))))
    assert np.abs(gain_db).max() <= 6.001
    assert np.ptp(gain_db) > 2


def test_with_fresh_a_view_changes_speed_and_each_draw_another_channel() -> None:
    fresh = EVERYTHING.model_copy(update={"fresh": True})
    voice = augment_view(SOUND, fresh, 1, "a")
    factor = len(SOUND) / len(voice)
    np.testing.assert_allclose(voice, change_speed(SOUND, factor)[: len(voice)], atol=0.02)
    outputs = [apply_channel(voice, fresh, draw, "a") for draw in (1, 1, 2)]
    assert [len(item) for item in outputs] == [len(voice)] * 3
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 1e-2
    assert np.abs(outputs[0] - voice).max() > 1e-2
