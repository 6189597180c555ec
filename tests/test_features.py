"""Prepared waveforms, LLDs, and the cache of arrays: shapes, keys, computed once, complete or absent."""

import os
from dataclasses import replace
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile

from emodistill import Recognizer
from emodistill.audio.recording import Recording
from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import SAMPLE_RATE, trim_silence
from emodistill.config import AudioConfig
from emodistill.corpora import Utterance, read_manifest
from emodistill.errors import AudioError, CorpusError
from emodistill.features import llds
from emodistill.features.cache import ArrayCache
from emodistill.features.llds import NUM_LLDS, cache_llds, extract_llds, lld_key
from emodistill.features.preparation import prepare_waveform, read_waveform
from emodistill.files import cache_folder
from emodistill.inference.speech_windows import speech_windows

AUDIO = AudioConfig()


def test_a_dc_offset_does_not_change_the_prepared_waveform(tmp_path: Path) -> None:
    gap = np.zeros(4800, np.float32)
    # Quiet speech, so that an offset of 0.3 is louder than it.
    sound = 0.1 * np.concatenate([gap, make.speech(1.0), gap])
    prepared = []
    for name, offset in (("without", 0.0), ("with", 0.3)):
        soundfile.write(tmp_path / f"{name}.wav", sound + offset, SAMPLE_RATE, subtype="FLOAT")
        prepared.append(prepare_waveform(Utterance(name, "s", "sad", tmp_path / f"{name}.wav"), AUDIO))
    assert len(prepared[0]) < len(sound) - 2 * 4000, "silent ends are trimmed"
    np.testing.assert_allclose(prepared[1], prepared[0], atol=1e-6)
    whole = read_waveform(Utterance("a", "s", "sad", tmp_path / "with.wav"))
    assert abs(float(whole.mean())) < 1e-6


def test_training_hears_what_the_recogniser_hears(tmp_path: Path, bundled: Recognizer) -> None:
    rng = np.random.default_rng(0)
    room = 0.01 * rng.standard_normal(40_000).astype(np.float32)  # trimming by level cannot cut it
    sound = np.concatenate([room, make.speech(1.2), room, make.speech(0.8, seed=1), room])
    soundfile.write(tmp_path / "a.wav", sound, SAMPLE_RATE, subtype="FLOAT")
    prepared = prepare_waveform(Utterance("a", "s", "sad", tmp_path / "a.wav"), AUDIO)
    windows = speech_windows(Recording(tmp_path / "a.wav", SAMPLE_RATE), SpeechDetector())
    assert not isinstance(windows, str)
    (window,) = windows
    assert AUDIO.trim_db == bundled.card.trim_db
    np.testing.assert_allclose(prepared, trim_silence(window, 35.0), atol=1e-8)
    assert len(prepared) < 3 * SAMPLE_RATE


def test_a_recording_without_speech_is_used_whole(tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    soundfile.write(tmp_path / "a.wav", noise, SAMPLE_RATE, subtype="FLOAT")
    assert speech_windows(Recording(tmp_path / "a.wav", SAMPLE_RATE), SpeechDetector()) == "no_speech"
    assert len(prepare_waveform(Utterance("a", "s", "sad", tmp_path / "a.wav"), AUDIO)) == SAMPLE_RATE


def first_utterances(manifest: Path, count: int) -> tuple[Utterance, ...]:
    return read_manifest(manifest).utterances[:count]


def test_llds_have_25_columns_and_a_frame_every_10_ms() -> None:
    table = extract_llds(make.speech(1.0, 150))
    assert table.shape[1] == NUM_LLDS == 25
    assert table.dtype == np.float32
    assert abs(len(table) - 100) <= 6
    assert np.isfinite(table).all()
    # Column 10 is F0 in semitones from 27.5 Hz, 0 where unvoiced.
    f0 = table[:, 10][table[:, 10] > 0]
    assert len(f0) > 50
    assert 27.5 * 2 ** (np.median(f0) / 12) == pytest.approx(150, rel=0.15)


@pytest.mark.parametrize("samples", [1, 160, 1599, 1601])
def test_the_shortest_waveforms_have_a_frame(samples: int) -> None:
    table = extract_llds(make.speech(0.2)[:samples])
    assert table.shape[0] >= 1
    assert table.shape[1] == NUM_LLDS


def test_llds_of_silence_are_finite() -> None:
    assert np.isfinite(extract_llds(np.zeros(8000, np.float32))).all()


def test_llds_are_computed_once(manifest: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = first_utterances(manifest, 3)
    keys = cache_llds(some, AUDIO)
    cache = ArrayCache(cache_folder() / "llds")
    assert cache_folder() == own_cache
    assert len(set(keys)) == 3
    assert all(key in cache for key in keys)

    def fail(*_: object) -> None:
        raise AssertionError("a cached array was computed again")

    monkeypatch.setattr(llds, "extract_llds", fail)
    assert cache_llds(some, AUDIO) == keys
    with pytest.raises(AssertionError, match="computed again"):
        cache_llds(some, AudioConfig(trim_db=20))


def test_a_key_depends_on_content_and_settings_but_not_on_the_path(manifest: Path, tmp_path: Path) -> None:
    (one,) = first_utterances(manifest, 1)
    moved = tmp_path / "elsewhere.wav"
    moved.write_bytes(one.path.read_bytes())
    key = lld_key(one, AUDIO)
    assert lld_key(replace(one, path=moved, id="other"), AUDIO) == key
    others = {
        lld_key(replace(one, start_s=0.0, end_s=0.1), AUDIO), lld_key(one, AudioConfig(max_s=1)),
        lld_key(one, AudioConfig(trim_db=None)), key,
    }  # fmt: skip
    assert len(others) == 4
    soundfile.write(moved, make.speech(0.2), SAMPLE_RATE)
    assert lld_key(replace(one, path=moved), AUDIO) != key


def test_two_processes_write_the_same_arrays_as_one(manifest: Path, tmp_path: Path) -> None:
    some = first_utterances(manifest, 12)
    one, two = ArrayCache(tmp_path / "one"), ArrayCache(tmp_path / "two")
    keys = cache_llds(some, AUDIO, workers=1, cache=one)
    assert cache_llds(some, AUDIO, workers=2, cache=two) == keys
    for key in keys:
        assert one.path(key).read_bytes() == two.path(key).read_bytes()


def test_a_killed_run_leaves_no_partial_array(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = first_utterances(manifest, 4)
    expected = ArrayCache(tmp_path / "expected")
    keys = cache_llds(some, AUDIO, cache=expected)
    cache = ArrayCache(tmp_path / "cache")
    save, count = np.save, 0

    class Killed(Exception):
        pass

    def write_half(file: object, array: np.ndarray) -> None:
        nonlocal count
        count += 1
        if count == 3:
            file.write(b"\x93NUMPY half of it")
            raise Killed
        save(file, array)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", write_half)
        with pytest.raises(Killed):
            cache_llds(some, AUDIO, cache=cache)
    assert [key in cache for key in keys] == [True, True, False, False]
    assert not list(cache.folder.rglob("*partial*"))
    with pytest.raises(FileNotFoundError):
        cache.read(keys[2])
    assert cache_llds(some, AUDIO, cache=cache) == keys
    for key in keys:
        np.testing.assert_array_equal(cache.read(key), expected.read(key))


def test_arrays_are_read_back_unchanged_and_never_unpickled(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    cache.write("abc", array)
    assert cache.read("abc").dtype == np.float16
    np.testing.assert_array_equal(cache.read("abc"), array)
    np.save(cache.path("abc"), np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(OSError, match="allow_pickle"):
        cache.read("abc")


def test_environment_variables_choose_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMODISTILL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("EMODISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/emodistill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == Path(os.environ["HOME"]) / ".cache/emodistill"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path(os.environ["HOME"]) / "Library/Caches/emodistill"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local/emodistill"


def test_preparation_trims_and_cuts(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    gap = np.zeros(8000, np.float32)
    soundfile.write(path, np.concatenate([gap, make.speech(1.0), gap]), SAMPLE_RATE)
    spoken = Utterance("a", "s", "sad", path)
    assert len(read_waveform(spoken)) == 2 * SAMPLE_RATE
    assert len(prepare_waveform(spoken, AUDIO)) == pytest.approx(SAMPLE_RATE, abs=1200)
    assert len(prepare_waveform(spoken, AudioConfig(max_s=0.5))) == SAMPLE_RATE // 2
    with pytest.raises(CorpusError, match="utterance 'b' has no audio; only a linguistic teacher can use it"):
        prepare_waveform(Utterance("b", "s", "sad"), AUDIO)
    with pytest.raises(CorpusError, match="has no audio to compute LLDs from"):
        lld_key(Utterance("b", "s", "sad"), AUDIO)
    (tmp_path / "b.wav").write_text("text")
    with pytest.raises(AudioError, match=r"b\.wav: cannot be decoded"):
        prepare_waveform(Utterance("b", "s", "sad", tmp_path / "b.wav"), AUDIO)
