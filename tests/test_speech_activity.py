"""The packaged speech detector: any chunking gives the same, and it tells speech from noise."""

import json
import shutil
import subprocess
import sys
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import factories as make
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.audio import speech_activity as vad
from emodistill.audio.speech_activity import (
    LOOKAHEAD_S,
    NO_SPEECH,
    SPEECH_FRAME_SAMPLES,
    SPEECH_OFF,
    SPEECH_ON,
    SpeechDetector,
    find_speech,
)
from emodistill.audio.waveform import load
from emodistill.corpora import read_corpus
from emodistill.errors import AudioError, ConfigError, ModelError

LOOKAHEAD = round(LOOKAHEAD_S * make.RATE)


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    return SpeechDetector()


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    """Six seconds of sounds like speech with pauses, and a last frame that is not complete."""
    parts = [make.speech(0.9, 130 + 20 * i, seed=i) for i in range(4)]
    pause = np.zeros(9000, dtype=np.float32)
    return np.concatenate([part for speech in parts for part in (pause, speech)])[:-123]


def frames(samples: int) -> int:
    return -(-samples // SPEECH_FRAME_SAMPLES)


# --- properties ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_chunking_gives_the_probabilities_of_the_file(
    detector: SpeechDetector, talk: np.ndarray, data: st.DataObject
) -> None:
    waveform = talk[: data.draw(st.integers(0, len(talk)), label="samples")]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(waveform)), max_size=12), label="cuts"))
    stream = detector.stream()
    parts = [stream.push(chunk) for chunk in np.split(waveform, cuts)]
    parts.append(stream.finish())
    np.testing.assert_array_equal(np.concatenate(parts), detector.probabilities(waveform))


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 321, 3840, 3841, 3840 * 3, 12345])
def test_every_frame_has_a_probability_also_the_last_partial_one(
    detector: SpeechDetector, talk: np.ndarray, samples: int
) -> None:
    found = detector.probabilities(talk[:samples])
    assert found.shape == (frames(samples),)
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()


@settings(max_examples=20, deadline=None)
@given(changed=st.integers(0, 60_000))
def test_a_probability_depends_on_no_audio_after_the_look_ahead(
    detector: SpeechDetector, talk: np.ndarray, changed: int
) -> None:
    other = talk.copy()
    other[changed:] = make.speech(len(talk) / make.RATE, 300, seed=9)[changed : len(talk)]
    # Frames that end LOOKAHEAD samples or more before the change cannot depend on it.
    same = max(0, (changed - LOOKAHEAD) // SPEECH_FRAME_SAMPLES)
    ours, theirs = detector.probabilities(talk), detector.probabilities(other)
    np.testing.assert_array_equal(ours[:same], theirs[:same])
    assert not np.array_equal(ours[same:], theirs[same:])


def test_frames_come_as_soon_as_their_block_and_look_ahead_are_complete(
    detector: SpeechDetector, talk: np.ndarray
) -> None:
    stream, decided = detector.stream(), 0
    for received in range(1600, len(talk), 1600):
        decided += len(stream.push(talk[received - 1600 : received]))
        assert decided * SPEECH_FRAME_SAMPLES >= received - LOOKAHEAD - vad.BLOCK_SAMPLES
        assert decided * SPEECH_FRAME_SAMPLES <= received


def test_streams_of_one_detector_do_not_mix(detector: SpeechDetector, talk: np.ndarray) -> None:
    one, two = detector.stream(), detector.stream()
    parts = []
    for start in range(0, len(talk), 5000):
        parts.append(one.push(talk[start : start + 5000]))
        two.push(-0.5 * talk[::-1][start : start + 5000])
    parts.append(one.finish())
    np.testing.assert_array_equal(np.concatenate(parts), detector.probabilities(talk))


def test_memory_does_not_grow(detector: SpeechDetector, talk: np.ndarray) -> None:
    stream = detector.stream()
    for _ in range(20):
        stream.push(talk)
        kept = sum(value.nbytes for value in vars(stream).values() if isinstance(value, np.ndarray))
        assert kept < 4 * (vad.CONTEXT_SAMPLES + vad.BLOCK_SAMPLES + vad.STATE_SIZE + 1)


def test_the_number_of_threads_does_not_change_probabilities(
    detector: SpeechDetector, talk: np.ndarray
) -> None:
    np.testing.assert_allclose(
        SpeechDetector(threads=2).probabilities(talk), detector.probabilities(talk), atol=1e-6
    )


# --- what is speech ------------------------------------------------------------------------------


@pytest.mark.parametrize("gain_db", [0, -30])
@pytest.mark.parametrize("kind", ["digital silence", "white", "brown", "hum", "chord", "clicks"])
def test_noise_hum_and_clicks_are_no_speech(detector: SpeechDetector, kind: str, gain_db: float) -> None:
    rng = np.random.default_rng(4)
    time_s = np.arange(8 * make.RATE) / make.RATE
    tones = {"hum": (50, 100, 150, 250), "chord": (220, 277, 330)}
    sound = {
        "digital silence": lambda: np.zeros(len(time_s)),
        "white": lambda: 0.2 * rng.standard_normal(len(time_s)),
        "brown": lambda: np.cumsum(rng.standard_normal(len(time_s))) / 1000,
        "clicks": lambda: (rng.random(len(time_s)) < 1e-4).astype(float),
    }.get(kind, lambda: sum(0.1 * np.sin(2 * np.pi * hz * time_s) for hz in tones[kind]))()
    waveform = (np.clip(sound, -1, 1) * 10 ** (gain_db / 20)).astype(np.float32)
    assert detector.probabilities(waveform).max() <= NO_SPEECH


def test_every_clip_of_the_packaged_demo_corpus_is_speech(detector: SpeechDetector) -> None:
    folder = Path(str(files("emodistill"))) / "demo/corpus/audio"
    clips = sorted(folder.rglob("*.ogg"))[::12]
    assert len(clips) == 40
    highest = [detector.probabilities(load(clip)).max() for clip in clips]
    assert min(highest) > NO_SPEECH


@pytest.mark.skipif(not (make.DATA / "corpora").is_dir(), reason="needs the real corpora")
@pytest.mark.parametrize(("corpus", "split"), [("ravdess", "test"), ("nemo", "test"), ("ased", "test")])
def test_real_clips_of_test_speakers_are_speech_and_their_edges_silence(
    detector: SpeechDetector, corpus: str, split: str
) -> None:
    if not (make.DATA / "corpora" / corpus).is_dir():
        pytest.skip(f"needs {corpus}")
    speakers = json.loads((vad.ASSETS / "vad.json").read_text(encoding="utf-8"))[f"{split}_speakers"][corpus]
    found = [
        u for u in read_corpus(corpus, make.DATA / "corpora" / corpus).utterances if u.speaker in speakers
    ]
    rng = np.random.default_rng(0)
    for utterance in found[::10]:
        assert utterance.path is not None
        clip = load(utterance.path)
        quiet = np.zeros(make.RATE, dtype=np.float32)
        alone = detector.probabilities(np.concatenate([quiet, clip, quiet]))
        noise = rng.standard_normal(len(clip)) * np.sqrt(np.mean(clip**2) / 10)
        in_noise = detector.probabilities((clip + noise).astype(np.float32))
        assert alone.max() > NO_SPEECH, utterance.id
        assert in_noise.max() > NO_SPEECH, utterance.id
        assert alone[:40].max() < SPEECH_ON, utterance.id
        assert alone[-25:].max() < SPEECH_ON, utterance.id


# --- spans ---------------------------------------------------------------------------------------


def test_find_speech_by_example() -> None:
    silent, loud, between = [0.0] * 20, [0.9] * 20, [(SPEECH_ON + SPEECH_OFF) / 2] * 5
    pause, blip = [0.0] * 5, [0.9] * 2
    values = silent + between + loud + between + loud + pause + loud + silent + blip + silent + loud
    start, frame = 25, SPEECH_FRAME_SAMPLES
    assert find_speech(values, min_speech_s=0.1, min_silence_s=0.2) == [
        (start * frame, (start + 70) * frame),
        ((start + 112) * frame, (start + 132) * frame),
    ]
    assert find_speech([]) == []
    assert find_speech(silent) == []
    assert len(find_speech(values, min_speech_s=0, min_silence_s=0)) == 4
    with pytest.raises(ConfigError, match=r"expected off to be at most on, got off 0\.8 and on 0\.5"):
        find_speech(values, on=0.5, off=0.8)


@given(
    values=st.lists(st.floats(0, 1, width=32), max_size=200),
    min_speech_s=st.floats(0, 0.5),
    min_silence_s=st.floats(0, 0.5),
)
def test_speech_spans_are_ordered_separate_and_long_enough(
    values: list[float], min_speech_s: float, min_silence_s: float
) -> None:
    found = find_speech(values, min_speech_s=min_speech_s, min_silence_s=min_silence_s)
    flat = [edge for span in found for edge in span]
    assert flat == sorted(set(flat))
    assert all(end - start >= min_speech_s * make.RATE for start, end in found)
    assert all(b[0] - a[1] >= min_silence_s * make.RATE for a, b in pairwise(found))
    assert all(
        0 <= edge <= len(values) * SPEECH_FRAME_SAMPLES and edge % SPEECH_FRAME_SAMPLES == 0 for edge in flat
    )
    assert all(values[start // SPEECH_FRAME_SAMPLES] >= SPEECH_ON for start, _ in found)
    if min_speech_s == 0:
        inside = {
            frame for a, b in found for frame in range(a // SPEECH_FRAME_SAMPLES, b // SPEECH_FRAME_SAMPLES)
        }
        assert {frame for frame, value in enumerate(values) if value >= SPEECH_ON} <= inside


# --- errors -----------------------------------------------------------------------------


def test_bad_samples_are_refused_and_the_audio_before_them_is_kept(
    detector: SpeechDetector, talk: np.ndarray
) -> None:
    stream = detector.stream()
    parts = [stream.push(talk[:7000])]
    with pytest.raises(AudioError, match=r"expected a waveform \(samples,\), got shape \(2, 100\)"):
        stream.push(np.zeros((2, 100), dtype=np.float32))
    with pytest.raises(AudioError, match="expected finite samples, got NaN or Inf"):
        stream.push(np.array([0, np.nan], dtype=np.float32))
    parts += [stream.push(talk[7000:]), stream.finish()]
    np.testing.assert_array_equal(np.concatenate(parts), detector.probabilities(talk))


def test_a_finished_stream_is_an_error(detector: SpeechDetector) -> None:
    stream = detector.stream()
    assert stream.finish().shape == (0,)
    with pytest.raises(AudioError, match=r"finished; open another one with SpeechDetector.stream\(\)"):
        stream.push(np.zeros(10, dtype=np.float32))
    with pytest.raises(AudioError, match="finished"):
        stream.finish()


def test_missing_or_changed_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad, "ASSETS", tmp_path)
    with pytest.raises(ModelError, match=r"is incomplete \(.*vad\.onnx.*install emodistill again"):
        SpeechDetector()
    source = Path(str(files("emodistill"))) / "assets"
    shutil.copy(source / "vad.json", tmp_path)
    network = bytearray((source / "vad.onnx").read_bytes())
    network[-1] ^= 1
    (tmp_path / "vad.onnx").write_bytes(network)
    with pytest.raises(
        ModelError, match=r"vad\.onnx' was changed: its SHA-256 is .*install emodistill again"
    ):
        SpeechDetector()
    (tmp_path / "vad.json").write_text("{}")
    with pytest.raises(ModelError, match="incomplete"):
        SpeechDetector()


def test_the_asset_is_small_and_has_a_complete_card() -> None:
    card = json.loads((vad.ASSETS / "vad.json").read_text(encoding="utf-8"))
    assert (Path(str(files("emodistill"))) / "assets/vad.onnx").stat().st_size <= 200_000
    assert card["num_parameters"] <= 50_000
    assert {"teacher", "data", "seed", "dev_speakers", "test_speakers"} <= set(card)
    for corpus, speakers in card["test_speakers"].items():
        assert not set(speakers) & set(card["dev_speakers"][corpus])


def test_it_runs_without_torch() -> None:
    code = (
        "import sys, numpy as np; from emodistill.audio.speech_activity import SpeechDetector; "
        "SpeechDetector().probabilities(np.zeros(9999, np.float32)); "
        "assert not {'torch', 'scipy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
