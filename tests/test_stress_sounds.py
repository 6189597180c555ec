"""The sounds of `emodistill stress`: exact ratios, same seed same result, levels, delays, rooms, material."""

import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, fftconvolve, sosfiltfilt

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.errors import AudioError, ConfigError
from emodistill.stress import material, rooms
from emodistill.stress.base import Change, Material, Recording, read_marks
from emodistill.stress.material import PIECES, licence_table, missing_packages, read_background
from emodistill.stress.sounds import SOUNDS, add_background, compress, hum, speech_level, tilt

CALL = Path(str(files("emodistill"))) / "demo" / "call.ogg"
SPEECH = load(CALL, 1.0, 4.0, channel=0)
RECORDING = Recording(SPEECH, "me")
_TIME_S = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
MUSIC = (0.3 * np.sin(2 * np.pi * 440 * _TIME_S)).astype(np.float32)
AMBIENCE = (0.1 * np.random.default_rng(1).standard_normal(30_000)).astype(np.float32)
MATERIAL = Material(
    speech={
        "me": [SPEECH],
        "a": [load(CALL, 6.0, 9.5, channel=1)],
        "b": [load(CALL, 10.0, 13.0, channel=1), load(CALL, 12.0, 13.5, channel=1)],
    },
    music=[MUSIC],
    ambience=[AMBIENCE],
)
BY_NAME = {change.name: change for change in SOUNDS}
CODED = ("phone", "mu-law-8khz", "gsm", "opus-12k", "mp3-32k")
WHOLE_RATIOS = [name for name in BY_NAME if name.endswith("db") and not name.startswith("overlap")]


def changed(name: str, recording: Recording = RECORDING, seed: int = 0) -> npt.NDArray[np.float32]:
    return BY_NAME[name].apply(recording, np.random.default_rng(seed), MATERIAL)


def test_every_mark_has_its_sound() -> None:
    assert set(BY_NAME) == set(read_marks()["sounds"])
    assert len(SOUNDS) == len(BY_NAME) == 27
    assert all(change.group == "sounds" for change in SOUNDS)


def test_a_change_that_mixes_something_in_names_it() -> None:
    needs = {change.name.rpartition("-")[0]: change.needs for change in SOUNDS if change.needs}
    assert needs == {"babble": "speech", "overlap": "speech", "music": "music", "ambience": "ambience"}


@pytest.mark.parametrize("change", SOUNDS, ids=lambda change: change.name)
def test_the_seed_decides_the_result_which_is_a_waveform(change: Change) -> None:
    before = SPEECH.copy()
    first, second = (change.apply(RECORDING, np.random.default_rng(7), MATERIAL) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(before, SPEECH)  # the original is not written to
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.abs(first).max() <= 1
    assert len(first) == (len(SPEECH) // 2 if change.name == "half" else len(SPEECH))
    assert change.name == "half" or np.abs(first - SPEECH).max() > 1e-4


@pytest.mark.parametrize("change", SOUNDS, ids=lambda change: change.name)
@pytest.mark.parametrize("num_samples", [1, 7, 400, 1601])
def test_short_and_silent_recordings_stay_finite(change: Change, num_samples: int) -> None:
    for waveform in (SPEECH[8000 : 8000 + num_samples], np.zeros(num_samples, np.float32)):
        out = change.apply(Recording(waveform, "me"), np.random.default_rng(0), MATERIAL)
        assert np.isfinite(out).all()
        assert len(out) >= 1


@pytest.mark.parametrize("name", WHOLE_RATIOS)
@pytest.mark.parametrize("seed", range(3))
def test_the_ratio_of_speech_to_background_is_exact(name: str, seed: int) -> None:
    quiet = replace(RECORDING, waveform=0.25 * SPEECH)  # so that nothing is scaled down
    added = changed(name, quiet, seed).astype(np.float64) - quiet.waveform
    ratio_db = 20 * np.log10(speech_level(quiet.waveform) / np.sqrt(np.mean(added**2)))
    assert ratio_db == pytest.approx(float(name.rpartition("-")[2].removesuffix("db")), abs=0.01)


@pytest.mark.parametrize("name", ["overlap-10db", "overlap-5db"])
@pytest.mark.parametrize("seed", range(3))
def test_the_ratio_of_two_talkers_compares_their_speech(name: str, seed: int) -> None:
    quiet = replace(RECORDING, waveform=0.25 * SPEECH)
    added = changed(name, quiet, seed).astype(np.float64) - quiet.waveform
    talk = np.trim_zeros(added)
    ratio_db = 20 * np.log10(speech_level(quiet.waveform) / speech_level(talk))
    assert ratio_db == pytest.approx(float(name.split("-")[1].removesuffix("db")), abs=0.6)


@settings(max_examples=50, deadline=None)
@given(st.floats(-10, 40), st.floats(0.01, 1), st.integers(0, 2**31))
def test_a_background_is_added_at_any_ratio(snr_db: float, gain: float, seed: int) -> None:
    noise = gain * np.random.default_rng(seed).standard_normal(len(SPEECH))
    speech = (0.02 * SPEECH).astype(np.float32)
    added = add_background(speech, noise, snr_db).astype(np.float64) - speech
    assert 20 * np.log10(speech_level(speech) / np.sqrt(np.mean(added**2))) == pytest.approx(snr_db, abs=0.01)


def test_pauses_do_not_lower_the_level_of_speech() -> None:
    padded = np.concatenate([np.zeros(32_000, np.float32), SPEECH[:32_000], np.zeros(64_000, np.float32)])
    assert speech_level(padded) == pytest.approx(speech_level(SPEECH[:32_000]), rel=1e-6)
    assert speech_level(padded) > 1.5 * np.sqrt(np.mean(padded.astype(np.float64) ** 2))


def test_a_mix_beyond_full_scale_is_scaled_down_and_keeps_its_ratio() -> None:
    loud = (SPEECH / np.abs(SPEECH).max()).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(len(loud))
    out = add_background(loud, noise, 0).astype(np.float64)
    assert np.abs(out).max() == pytest.approx(1)
    parts = np.linalg.lstsq(np.stack([loud, noise], axis=1), out, rcond=None)[0]
    assert np.allclose(parts @ np.stack([loud, noise]), out, atol=1e-6)  # scaled, and not clipped
    level = np.sqrt(np.mean((parts[1] * noise) ** 2))
    assert 20 * np.log10(parts[0] * speech_level(loud) / level) == pytest.approx(0, abs=0.01)


def test_babble_is_of_other_speakers_and_needs_one() -> None:
    alone = Material(speech={"me": [SPEECH], "nobody": []})
    for name in ("babble-20db", "overlap-5db"):
        with pytest.raises(ConfigError, match="speech of another speaker than 'me'"):
            BY_NAME[name].apply(RECORDING, np.random.default_rng(0), alone)
    other = Material(speech={"me": [np.ones(48_000, np.float32)], "a": MATERIAL.speech["a"]})
    added = BY_NAME["babble-5db"].apply(RECORDING, np.random.default_rng(0), other) - SPEECH
    assert np.std(added) > 5 * np.abs(np.mean(added))  # the constant of the same speaker is not in it


def test_a_rest_of_a_piece_is_not_taken_as_its_music() -> None:
    piece = np.concatenate([np.zeros(20 * SAMPLE_RATE, np.float32), MUSIC, MUSIC, MUSIC])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        out = BY_NAME["music-5db"].apply(RECORDING, rng, Material(music=[piece]))
        assert np.abs(out - SPEECH).max() < 1  # a rest would be amplified without limit
        assert np.abs(out - SPEECH)[-4000:].max() > 0


def test_a_short_sound_is_repeated_without_a_click() -> None:
    short = (0.1 * np.sin(2 * np.pi * 100 * np.arange(8_000) / SAMPLE_RATE)).astype(np.float32)
    silent = Recording(0.001 * SPEECH, "me")
    out = BY_NAME["ambience-10db"].apply(silent, np.random.default_rng(0), Material(ambience=[short]))
    added = out - silent.waveform
    # A sine of 100 Hz changes by 4 % of its amplitude a sample at most.
    assert np.abs(np.diff(added)).max() < 0.06 * np.abs(added).max()


def test_hum_is_at_50_or_60_hz_and_its_harmonics() -> None:
    for seed in range(6):
        spectrum = np.abs(np.fft.rfft(hum(SAMPLE_RATE, np.random.default_rng(seed))))
        lines = np.flatnonzero(spectrum > spectrum.max() / 1000)
        mains_hz = lines[0]
        assert mains_hz in (50, 60)
        assert set(lines % mains_hz) == {0}
        assert lines.max() <= 1000
        long = hum(2 * SAMPLE_RATE + 7, np.random.default_rng(seed))
        np.testing.assert_array_equal(long[SAMPLE_RATE:], long[: SAMPLE_RATE + 7])


@pytest.mark.parametrize(("gain", "at_2khz_db"), [(0.0, -2.5), (3.0, 3.52)])
def test_the_tilt_is_linear_keeps_the_level_and_does_not_delay(gain: float, at_2khz_db: float) -> None:
    tone = {hz: np.sin(2 * np.pi * hz * np.arange(32_000) / SAMPLE_RATE) for hz in (100, 2000)}
    both = (0.1 * (tone[100] + tone[2000])).astype(np.float32)
    out = tilt(both, gain)
    low, high = (np.dot(out, tone[hz]) for hz in (100, 2000))
    share = (1 + (gain - 1) * 2000 / 8000) / (1 + (gain - 1) * 100 / 8000)
    assert high / low == pytest.approx(share, rel=0.01)
    assert 20 * np.log10(1 + (gain - 1) / 4) == pytest.approx(at_2khz_db, abs=0.01)
    for name in ("tilt-down", "tilt-up", "room-small", "room-large", "phone"):
        level = np.sqrt(np.mean(changed(name) ** 2) / np.mean(SPEECH**2))
        assert level == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", [*CODED, "tilt-up", "room-large", "white-noise-20db"])
def test_no_change_delays_the_speech(name: str) -> None:
    correlation = fftconvolve(changed(name), SPEECH[::-1])
    assert abs(int(np.argmax(correlation)) - (len(SPEECH) - 1)) <= 2


@pytest.mark.parametrize(
    ("name", "above_hz"), [("mu-law-8khz", 4000), ("gsm", 4000), ("telephone-band", 5000)]
)
def test_telephone_lines_have_no_high_frequencies(name: str, above_hz: int) -> None:
    power = np.abs(np.fft.rfft(changed(name))) ** 2
    edge = above_hz * len(SPEECH) // SAMPLE_RATE
    assert power[edge + 50 :].sum() < 1e-3 * power.sum()


def test_the_phone_hisses_above_3_khz() -> None:
    pause = np.zeros(16_000, np.float32)
    out = changed("phone", Recording(np.concatenate([SPEECH, pause]), "me"))[-12_000:]
    power = np.abs(np.fft.rfft(out)) ** 2
    assert power[3000 * 12 // 16 :].sum() > 0.6 * power.sum()
    assert power.sum() > 0


def test_the_compressor_lowers_loud_parts_by_its_ratio() -> None:
    tone = np.sin(2 * np.pi * 400 * np.arange(16_000) / SAMPLE_RATE)
    for level_db, expected_db in ((0, -4), (-10, -12), (-30, -30)):
        out = compress(10 ** (level_db / 20) * tone, SAMPLE_RATE)[8000:]
        assert 20 * np.log10(np.abs(out).max()) == pytest.approx(expected_db, abs=0.2)


def test_levels_of_quiet_loud_clipped_and_half() -> None:
    peak = np.abs(SPEECH).max()
    assert np.abs(changed("quiet")).max() == pytest.approx(peak * 10 ** (-1.5), abs=1 / 32768)
    np.testing.assert_allclose(changed("quiet") * 32768, np.round(changed("quiet") * 32768), atol=1e-6)
    np.testing.assert_allclose(changed("loud"), SPEECH / peak, rtol=1e-6)
    clipped = np.abs(changed("clipped")) >= 1
    assert clipped.mean() == pytest.approx(0.05, abs=0.002)
    np.testing.assert_array_equal(changed("half"), SPEECH[: len(SPEECH) // 2])


def reverberation_time_s(response: npt.NDArray[np.float64], low_hz: float, high_hz: float) -> float:
    """The decay by 60 dB of a band, from Schroeder's backward integral between -8 and -28 dB."""
    band = butter(2, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE, output="sos")
    reverberant = sosfiltfilt(band, np.concatenate([[0.0], response[1:]]))
    energy = np.cumsum(reverberant[::-1] ** 2)[::-1]
    decay_db = 10 * np.log10(energy / energy[0] + 1e-12)
    fitted = np.flatnonzero((decay_db < -8) & (decay_db > -28))
    return float(-60 / np.polyfit(fitted / SAMPLE_RATE, decay_db[fitted], 1)[0])


@pytest.mark.parametrize(("room", "rt60_s"), [(rooms.SMALL, 0.3), (rooms.LARGE, 1.0)])
@pytest.mark.parametrize("number", range(rooms.NUM_RESPONSES))
def test_the_room_has_the_stated_reverberation_time_and_ratio(
    room: rooms.Room, rt60_s: float, number: int
) -> None:
    response = room.response(number)
    assert reverberation_time_s(response, 500, 1000) == pytest.approx(rt60_s, rel=0.2)
    assert reverberation_time_s(response, 4500, 7500) < 0.85 * rt60_s
    ratio_db = -10 * np.log10(np.sum(response[1:] ** 2))
    assert ratio_db == pytest.approx(room.direct_to_reverberant_db)
    assert 1 < ratio_db < 6
    assert response[0] == 1
    assert np.abs(response[1:]).max() < 1  # the direct sound comes first and is the loudest


def test_responses_of_a_room_differ_and_are_the_same_every_time() -> None:
    first = rooms.SMALL.response(0)
    np.testing.assert_array_equal(first, rooms.SMALL.response(0))
    assert np.abs(first - rooms.SMALL.response(1)).max() > 0.01


def installed(package: str) -> bool:
    try:
        status = subprocess.run(["dpkg", "-s", package], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return False
    return "ok installed" in status


@pytest.mark.parametrize("package", sorted({piece.package for piece in PIECES}))
def test_the_licence_table_names_files_that_exist(package: str) -> None:
    if not installed(package):
        pytest.skip(f"the Debian package {package} is not installed")
    notes = Path(f"/usr/share/doc/{package}/copyright").read_text(encoding="utf-8")
    notes += "".join(
        path.read_text(encoding="utf-8") for path in Path("/usr/share").glob("sonic-pi/samples/*.md")
    )
    for piece in PIECES:
        if piece.package == package:
            assert piece.path.is_file()
            author = piece.author.split(" (")[0].removesuffix(" contributors").split("-")[0]
            assert author in notes
            assert np.any(load(piece.path, 0.0, 5.0))


def test_the_table_has_enough_kinds_and_all_have_a_licence() -> None:
    table = licence_table()
    assert sum(row["use"] == "music" for row in table) >= 8
    assert sum(row["use"] == "ambience" for row in table) >= 6
    assert len({row["kind"] for row in table if row["use"] == "ambience"}) >= 6
    assert all(row[key] for row in table for key in ("kind", "author", "licence", "package"))


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [replace(piece, file=f"nowhere/{piece.file}") for piece in PIECES if piece.use == "music"]
    monkeypatch.setattr(material, "PIECES", tuple(gone))
    packages = missing_packages("music")
    assert packages == list(dict.fromkeys(piece.package for piece in gone))
    waveforms, note = read_background("music")
    assert waveforms == ()
    assert note is not None
    assert f"apt-get install --no-install-recommends {' '.join(packages)}" in note
    assert "--music DIR" in note


def test_a_folder_of_the_user_replaces_the_packages(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no audio"):
        read_background("ambience", tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        read_background("ambience", tmp_path / "none")
    (tmp_path / "call.ogg").write_bytes(CALL.read_bytes())
    waveforms, note = read_background("ambience", tmp_path)
    assert note is None
    np.testing.assert_array_equal(waveforms[0], load(CALL))
    (tmp_path / "no.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"no\.wav"):
        read_background("ambience", tmp_path)


def test_no_piece_is_in_the_project() -> None:
    root = Path(__file__).parents[1]
    names = {Path(piece.file).name for piece in PIECES}
    assert not [path for path in (root / "src").rglob("*") if path.name in names]


def test_the_documentation_has_the_licence_table_and_the_command() -> None:
    text = (Path(__file__).parents[1] / "docs/how-to/stress.md").read_text(encoding="utf-8")
    for row in licence_table():
        line = next(line for line in text.splitlines() if row["path"].removeprefix("/usr/share/") in line)
        kind = f"| {row['use']}: {row['kind']} |"
        assert line.startswith(kind)
        assert line.endswith(f"| `{row['package']}` | {row['author']} | {row['licence']} |")
        assert row["title"] in line
    packages = " ".join(dict.fromkeys(piece.package for piece in PIECES))
    assert f"apt-get install --no-install-recommends {packages}\n" in text
