"""The small changes of the stress suite: what each does exactly, and what holds for all changes."""

from functools import cache
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import freqz, periodogram

import emodistill
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load, loud_span
from emodistill.errors import ConfigError
from emodistill.stress import small
from emodistill.stress.advice import advice
from emodistill.stress.base import Change, Marks, Material, Recording, check_names, read_marks
from emodistill.stress.changes import CHANGES, chosen_changes
from emodistill.stress.small import SMALL

CALL = Path(emodistill.__file__).parent / "demo" / "call.ogg"
BY_NAME = {change.name: change for change in CHANGES}
SEEDS = st.integers(0, 2**32)


@cache
def call() -> Waveform:
    """Two seconds of the demo's call, on the grid of 16 bits."""
    waveform = load(CALL)[16_000:48_000]
    return (np.round(waveform * 2.0**15) / 2.0**15).astype(np.float32)


@cache
def material() -> Material:
    """Speech of three speakers, and noise as music and ambience."""
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((2, 20_000)).astype(np.float32)
    speech = {f"c/{number}": [make.speech(1.0, 100 + 40 * number, seed=number)] for number in range(3)}
    return Material(speech, music=[noise[0]], ambience=[noise[1]])


def changed(name: str, waveform: Waveform | None = None, seed: int = 0) -> Waveform:
    """A waveform under a change; the call by default."""
    recording = Recording(call() if waveform is None else waveform, "c/0")
    return BY_NAME[name].apply(recording, np.random.default_rng(seed), material())


def noise(length_s: float = 2.0) -> Waveform:
    """White noise of level 0.1."""
    return 0.1 * np.random.default_rng(1).standard_normal(round(length_s * SAMPLE_RATE)).astype(np.float32)


def choices(name: str, waveform: Waveform | None = None) -> list[Waveform]:
    """What a change with three or four choices does with several seeds."""
    return [changed(name, waveform, seed) for seed in range(12)]


# --- all changes ----------------------------------------------------------------------------------


def test_the_registry_and_the_marks_have_the_same_names() -> None:
    marks = read_marks()
    names = [change.name for change in CHANGES]
    assert len(names) == len(set(names))
    for group in ("small", "sounds"):
        assert {change.name for change in CHANGES if change.group == group} == set(marks[group])
        assert all(isinstance(item, Marks) for item in marks[group].values())


def test_no_mark_is_softer_than_the_rules_say() -> None:
    for change in CHANGES:
        marks = read_marks()[change.group][change.name]
        assert marks.source in ("ser-tests", "ours")
        if change.group == "small":
            assert (marks.unchanged, marks.ua, marks.precision) == (0.95, None, None)
        else:
            assert 0.5 <= marks.unchanged <= 0.95


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_seed_decides_the_result(change: Change) -> None:
    before = call().copy()
    first, second = (changed(change.name, seed=7) for _ in range(2))
    assert first.dtype == np.float32
    assert first.ndim == 1
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(call(), before)
    assert 0.4 * len(before) < len(first) <= len(before) + 5 * SAMPLE_RATE


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_each_change_has_a_sentence_and_advice(change: Change) -> None:
    assert change.text[0].isupper() or change.text[0].isdigit()
    assert change.text.endswith(".")
    assert advice(change.name)


@pytest.mark.parametrize("change", SMALL, ids=lambda change: change.name)
@settings(max_examples=15)
@given(samples=st.integers(1, 4000), seed=SEEDS, is_silent=st.booleans())
def test_short_and_silent_recordings_stay_recordings(
    change: Change, samples: int, seed: int, is_silent: bool
) -> None:
    waveform = np.zeros(samples, np.float32) if is_silent else make.speech(samples / SAMPLE_RATE, seed=seed)
    out = changed(change.name, waveform, seed)
    assert len(out) >= 1
    assert np.isfinite(out).all()
    if is_silent and change.name != "dither":
        assert np.abs(out).max() < 1e-9


def test_only_names_changes_and_groups() -> None:
    assert chosen_changes(None) == list(CHANGES)
    assert chosen_changes(["gain", "fairness"]) == [BY_NAME["gain"]]
    assert chosen_changes(["small"]) == list(SMALL)
    check_names(["small", "babble-10db", "fairness"])
    with pytest.raises(ConfigError, match=r"bad change or group 'gian', .*did you mean 'gain'"):
        check_names(["gian"])
    with pytest.raises(ConfigError, match="--only names nothing"):
        check_names([])


# --- each small change ----------------------------------------------------------------------------


def test_gain_is_exact() -> None:
    for out in choices("gain"):
        db = 20 * np.log10(np.abs(out).max() / np.abs(call()).max())
        assert min(abs(db - gain) for gain in small.GAINS_DB) < 1e-4
        np.testing.assert_allclose(out, call() * 10 ** (round(db) / 20), rtol=1e-5, atol=1e-7)
    assert len({float(np.abs(out).max()) for out in choices("gain")}) == 4


@pytest.mark.parametrize("name", ["append-zeros", "prepend-zeros"])
def test_zeros_are_added_at_one_end(name: str) -> None:
    for out in choices(name):
        num = len(out) - len(call())
        assert num in small.NUM_SAMPLES
        added, rest = (out[-num:], out[:-num]) if name == "append-zeros" else (out[:num], out[num:])
        assert not added.any()
        np.testing.assert_array_equal(rest, call())


@pytest.mark.parametrize("name", ["crop-beginning", "crop-end"])
def test_samples_are_cut_off_at_one_end(name: str) -> None:
    for out in choices(name):
        num = len(call()) - len(out)
        assert num in small.NUM_SAMPLES
        np.testing.assert_array_equal(out, call()[num:] if name == "crop-beginning" else call()[:-num])


def test_the_loudest_samples_are_clipped() -> None:
    for out in choices("clip", noise()):
        share = np.mean(out != noise())
        assert min(abs(share - expected) for expected in small.CLIPPED_SHARES) < 1e-4
        assert np.abs(out[out != noise()]).max() == np.abs(out).max()


def test_the_tone_has_its_frequency_and_level() -> None:
    for out in choices("tone"):
        tone = (out - call()).astype(np.float64)
        hz, power = periodogram(tone, SAMPLE_RATE)
        assert small.TONE_HZ[0] - 1 <= hz[power.argmax()] <= small.TONE_HZ[1] + 1
        snr_db = 20 * np.log10(np.abs(call()).max() / np.abs(tone).max())
        assert min(abs(snr_db - expected) for expected in small.TONE_SNRS_DB) < 0.1


@pytest.mark.parametrize(
    ("name", "edges_hz"), [("high-pass", small.HIGH_PASS_HZ), ("low-pass", small.LOW_PASS_HZ)]
)
def test_filters_are_3_db_down_at_their_edge(name: str, edges_hz: tuple[int, ...]) -> None:
    impulse = np.zeros(SAMPLE_RATE, np.float32)
    impulse[0] = 1
    for seed in range(6):
        out = changed(name, impulse, seed)
        _, gains = freqz(out.astype(np.float64), worN=edges_hz, fs=SAMPLE_RATE)
        assert np.abs(20 * np.log10(np.abs(gains)) + 3.01).min() < 0.05
        _, inside = freqz(out.astype(np.float64), worN=[2000.0], fs=SAMPLE_RATE)
        assert abs(20 * np.log10(abs(inside[0]))) < 0.5


def test_white_noise_has_its_ratio() -> None:
    added = (changed("white-noise-35db") - call()).astype(np.float64)
    ratio_db = 10 * np.log10(np.mean(call().astype(np.float64) ** 2) / np.mean(added**2))
    assert ratio_db == pytest.approx(35, abs=0.05)
    _, power = periodogram(added, SAMPLE_RATE)
    halves = np.array_split(power[1:], 2)
    assert np.mean(halves[0]) == pytest.approx(np.mean(halves[1]), rel=0.1)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_silence_is_added_on_both_sides(seed: int) -> None:
    out = changed("silence-around", seed=seed)
    place = int(np.flatnonzero(out)[0] - np.flatnonzero(call())[0])
    for num in (place, len(out) - len(call()) - place):
        assert small.SILENCE_S[0] <= num / SAMPLE_RATE <= small.SILENCE_S[1] + 1e-4
    np.testing.assert_array_equal(out[place : place + len(call())], call())


@settings(max_examples=20)
@given(seed=SEEDS)
def test_two_pauses_come_into_the_speech(seed: int) -> None:
    waveform = make.speech(2.0, seed=seed % 5)
    out = changed("pauses", waveform, seed)
    added_s = (len(out) - len(waveform)) / SAMPLE_RATE
    assert 2 * small.PAUSES_S[0] <= added_s + 1e-4
    assert added_s <= 2 * small.PAUSES_S[1] + 1e-4
    places = sorted(small.quiet_places(waveform, 2))
    assert places[1] - places[0] >= small.PAUSE_DISTANCE_S * SAMPLE_RATE
    margin = small.FADE_SAMPLES
    np.testing.assert_array_equal(out[: places[0] - margin], waveform[: places[0] - margin])
    np.testing.assert_array_equal(
        out[-(len(waveform) - places[1] - margin) :], waveform[places[1] + margin :]
    )
    zeros = np.flatnonzero(np.diff(np.concatenate([[1], (out != 0), [1]]).astype(int)))
    assert np.diff(zeros).max() >= small.PAUSES_S[0] * SAMPLE_RATE


def test_pauses_are_at_the_quietest_places() -> None:
    waveform = make.speech(2.0)
    waveform[10_000:11_000] *= 0.01
    assert 10_000 <= small.quiet_places(waveform, 1)[0] <= 11_000


def test_trim_removes_silence_at_the_ends_alone() -> None:
    speech = make.speech(1.0)
    padded = np.pad(speech, (8000, 4800))
    np.testing.assert_array_equal(changed("trim", padded), changed("trim", speech))
    assert len(changed("trim", padded)) <= len(speech)
    start, end = loud_span(changed("trim", padded), small.QUIET_DB)
    assert (start, end) == (0, len(changed("trim", padded)))


def test_dither_is_of_one_step() -> None:
    waveform = make.speech(2.0)
    out = changed("dither", waveform)
    np.testing.assert_array_equal(out * 2.0**15, np.round(out * 2.0**15))
    error = (out - waveform) * 2.0**15
    assert np.abs(error).max() <= 1.5
    assert np.mean(error) == pytest.approx(0, abs=0.02)
    assert np.var(error) == pytest.approx(1 / 6 + 1 / 12, rel=0.1)  # of the dither, and of the rounding


def test_resampling_changes_nothing_within_the_band() -> None:
    narrow = soxr.resample(soxr.resample(noise(), 16_000, 12_000), 12_000, 16_000)  # up to 6 kHz
    for out in choices("resample", narrow):
        assert len(out) == len(narrow)
        np.testing.assert_allclose(out[2000:-2000], narrow[2000:-2000], atol=2e-3)


def test_speed_changes_the_length_by_a_percent() -> None:
    lengths = {round(len(out) / len(call()), 3) for out in choices("speed")}
    assert lengths == {round(1 / 0.99, 3), round(1 / 1.01, 3)}


@settings(max_examples=20)
@given(seed=SEEDS)
def test_another_cut_is_a_part_of_the_recording(seed: int) -> None:
    out = changed("cut", noise(), seed)
    (start,) = np.flatnonzero(noise() == out[0])
    end = len(noise()) - start - len(out)
    for num in (start, end):
        assert small.CUT_S[0] <= (num + 1) / SAMPLE_RATE
        assert (num - 1) / SAMPLE_RATE <= small.CUT_S[1]
    np.testing.assert_array_equal(out, noise()[start : start + len(out)])


def test_flac_is_lossless() -> None:
    np.testing.assert_array_equal(changed("flac"), call())
    assert np.abs(changed("flac", noise()) - noise()).max() <= 2.0**-24


@pytest.mark.parametrize(("name", "least_db"), [("mp3-128k", 18), ("opus-64k", 18)])
def test_codecs_are_aligned(name: str, least_db: float) -> None:
    waveform = load(CALL)[:96_000]
    out = changed(name, waveform)
    assert len(out) == len(waveform)
    spectrum = np.conj(np.fft.rfft(waveform, 2 * len(waveform))) * np.fft.rfft(out, 2 * len(waveform))
    assert np.fft.irfft(spectrum).argmax() == 0
    error = np.sum((out - waveform).astype(np.float64) ** 2)
    assert 10 * np.log10(np.sum(waveform.astype(np.float64) ** 2) / error) > least_db


@pytest.mark.parametrize(
    ("format", "subtype", "options", "kbit_s"),
    [
        ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "CONSTANT", "compression_level": small.MP3_128K}, 128),
        ("OGG", "OPUS", {"compression_level": small.OPUS_64K}, 64),
    ],
)
def test_codecs_have_their_bit_rate(
    format: str, subtype: str, options: dict[str, object], kbit_s: float, tmp_path: Path
) -> None:
    path = tmp_path / "sound"
    soundfile.write(path, np.tile(call(), 10), SAMPLE_RATE, format=format, subtype=subtype, **options)
    assert path.stat().st_size * 8 / 20 / 1000 == pytest.approx(kbit_s, rel=0.15)
