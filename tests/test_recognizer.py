"""The recogniser: the same prediction for every kind of source, abstention, errors, and no torch."""

import io
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from emodistill.audio.decoding import is_longer_than
from emodistill.audio.recording import MAX_WINDOW_S, MIN_UTTERANCE_S, Recording
from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import MIN_INPUT_SAMPLES, load, trim_silence
from emodistill.corpora import DEMO_CORPUS as CORPUS
from emodistill.errors import AudioError, AudioTooLongError, ConfigError, ModelError
from emodistill.inference.card_writer import write_card
from emodistill.inference.confidence import apply_temperature, keep_most_confident
from emodistill.inference.dimensions import COORDINATES, dimensions
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.model_card import (
    BUNDLED,
    AccuracyPoint,
    Card,
    CoveragePoint,
    file_sha256,
    read_card,
)
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation import Segment
from emodistill.inference.speech_windows import speech_windows
from emodistill.inference.streaming import StreamingRecognizer
from emodistill.inference.timelines import timeline


@pytest.fixture(scope="module")
def recognizer(exported: Path) -> Recognizer:
    return Recognizer(exported, threads=1)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    return folder


# --- no torch ------------------------------------------------------------------------------------


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = ("torch", "transformers", "lightning", "opensmile", "sklearn", "scipy", "safetensors", "onnx")


def test_importing_loads_no_training_library() -> None:
    code = "import sys, emodistill, emodistill.inference.recognizer, emodistill.cli\n"
    assert python(f"{code}print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


def test_prediction_works_without_the_training_libraries(exported: Path, manifest: Path) -> None:
    wav = manifest.parent / make.read_rows(manifest)[0]["path"]
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
from emodistill.inference.recognizer import Recognizer
print(Recognizer({str(exported)!r}, threads=1).predict({str(wav)!r}).emotion)
"""
    assert python(code).strip() == Recognizer(exported, threads=1).predict(wav).emotion


# --- answers -------------------------------------------------------------------------------------


def test_path_bytes_file_and_array_give_the_same_prediction(recognizer: Recognizer, tmp_path: Path) -> None:
    sound = make.speech(0.8, 170, seed=3)
    path = tmp_path / "a.wav"
    soundfile.write(path, sound, make.RATE, subtype="FLOAT")
    expected = recognizer.predict(path)
    assert expected.path == str(path)
    with path.open("rb") as file:
        others: list[Any] = [
            recognizer.predict(str(path)), recognizer.predict(path.read_bytes()), recognizer.predict(file),
            recognizer.predict(sound, make.RATE),
            recognizer.predict(np.stack([sound, np.zeros_like(sound)], axis=1), make.RATE),
        ]  # fmt: skip
    for other in others:
        assert other.probabilities == expected.probabilities
    assert others[2].path == ""


def test_a_prediction_has_probabilities_that_sum_to_1(recognizer: Recognizer) -> None:
    prediction = recognizer.predict(make.speech(1.0), make.RATE)
    assert list(prediction.probabilities) == list(make.EMOTIONS)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.confidence == max(prediction.probabilities.values())
    assert prediction.probabilities[prediction.emotion] == prediction.confidence
    assert (prediction.abstained, prediction.reason, prediction.error) == (False, None, None)
    json.dumps(prediction.as_dict())


def test_a_prediction_is_equal_after_a_round_trip_through_json(exported: Path) -> None:
    sound, quiet = make.speech(1.0), np.zeros(make.RATE, np.float32)
    rows = [Recognizer(exported, threads=1).predict(source, make.RATE) for source in (sound, quiet)]
    rows.append(Recognizer(exported, min_confidence=1.0, threads=1).predict(sound, make.RATE))
    rows.append(Prediction("a.wav", error="a.wav: no such file"))
    assert [row.reason for row in rows] == [None, "silence", "low_confidence", None]
    for row in rows:
        assert Prediction(**row.as_dict()) == row
        assert Prediction(**json.loads(json.dumps(row.as_dict()))) == row
        assert isinstance(row.probabilities, dict)


def test_gain_and_silence_around_do_not_matter(recognizer: Recognizer) -> None:
    sound = make.speech(0.8, 170, seed=3)
    expected = recognizer.predict(sound, make.RATE)
    quiet = recognizer.predict(0.02 * sound, make.RATE)
    frame = np.zeros(160 * 30, np.float32)
    padded = recognizer.predict(np.concatenate([frame, sound, frame]), make.RATE)
    for prediction in (quiet, padded):
        assert prediction.confidence == pytest.approx(expected.confidence, abs=1e-3)


def test_silence_and_snippets_abstain(recognizer: Recognizer) -> None:
    silent = recognizer.predict(np.zeros(make.RATE, np.float32), make.RATE)
    assert (silent.emotion, silent.abstained, silent.reason) == (None, True, "silence")
    assert recognizer.predict(1e-4 * make.speech(1.0), make.RATE).reason == "silence"
    short = recognizer.predict(make.speech(0.099), make.RATE)
    assert (short.emotion, short.reason) == (None, "too_short")
    assert recognizer.predict(make.speech(MIN_UTTERANCE_S, 120, seed=1), make.RATE).reason != "too_short"


def test_a_click_at_the_very_end_is_not_speech(recognizer: Recognizer) -> None:
    sound = 1e-4 * make.speech(1.0)
    sound = np.concatenate([sound, np.zeros(50, np.float32)])
    sound[-10] = 0.5
    assert np.isfinite(recognizer.probabilities(sound)).all()
    assert recognizer.predict(sound, make.RATE).reason == "no_speech", "the only sound is the click"


# --- speech --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    """Utterances of the demo corpus, which a speech synthesiser made."""
    return [load(path) for path in sorted(CORPUS.glob("audio/*/*"))[::60]]


def noise(length_s: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(length_s * make.RATE))).astype(np.float32)


def test_speech_has_an_emotion_and_noise_has_none(
    recognizer: Recognizer, utterances: list[np.ndarray]
) -> None:
    assert len(utterances) >= 5
    assert all(recognizer.predict(sound, make.RATE).emotion is not None for sound in utterances)
    prediction = recognizer.predict(noise(3.0), make.RATE)
    assert (prediction.emotion, prediction.abstained, prediction.reason) == (None, True, "no_speech")
    assert (prediction.confidence, prediction.probabilities, prediction.teachers) == (None, {}, None)


def test_noise_around_speech_is_cut_off(recognizer: Recognizer, utterances: list[np.ndarray]) -> None:
    for sound in utterances:
        peak = np.abs(sound).max()
        alone = np.concatenate([noise(0.2, 0.01 * peak, 1), sound, noise(0.2, 0.01 * peak, 2)])
        around = np.concatenate([noise(4.0, 0.01 * peak, 1), sound, noise(4.0, 0.01 * peak, 2)])
        expected = recognizer.predict(alone, make.RATE).probabilities
        found = recognizer.predict(around, make.RATE).probabilities
        assert found == pytest.approx(expected, abs=0.05)


def test_in_noise_the_model_runs_on_little_more_than_the_speech(
    recognizer: Recognizer, utterances: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    run = recognizer.run
    monkeypatch.setattr(
        recognizer, "run", lambda waveform, _: (lengths.append(len(waveform)), run(waveform))[1]
    )
    for sound in utterances:
        with_noise = np.concatenate([np.zeros(2 * make.RATE), sound, np.zeros(2 * make.RATE)])
        recognizer.predict(
            with_noise + noise(len(with_noise) / make.RATE, 0.03 * np.abs(sound).max()), make.RATE
        )
        assert lengths.pop() <= len(sound) + 0.2 * make.RATE


def test_windows_without_speech_do_not_count(recognizer: Recognizer, utterances: list[np.ndarray]) -> None:
    talk = np.resize(np.concatenate(utterances), 20 * make.RATE)
    gap = noise(20.0, 0.01)
    found = recognizer.predict(np.concatenate([talk, gap, talk]), make.RATE).probabilities
    expected = recognizer.predict(talk, make.RATE).probabilities
    assert found == pytest.approx(expected, abs=0.03)


def test_the_recogniser_has_timelines_and_streams(
    recognizer: Recognizer, utterances: list[np.ndarray]
) -> None:
    samples = np.concatenate([utterances[0], np.zeros(make.RATE, np.float32), utterances[1]])
    file = io.BytesIO()
    soundfile.write(file, samples, make.RATE, format="WAV", subtype="FLOAT")
    turns = [GivenSegment(0.0, 1.0, "anna")]
    for options in ({}, {"given": turns}, {"hop_s": 1.0, "window_s": 1.0}, {"traced": True}):
        found = recognizer.timeline(file.getvalue(), **options)
        assert found == timeline(file.getvalue(), recognizer, **options)
        assert found.segments
    with pytest.raises(AudioTooLongError):
        recognizer.timeline(file.getvalue(), max_s=0.5)
    for options in ({}, {"hop_s": 1.0, "window_s": 1.0}):
        stream, other = (
            recognizer.stream(make.RATE, **options),
            StreamingRecognizer(recognizer, make.RATE, **options),
        )
        events = stream.push(samples) + stream.finish()
        assert events == other.push(samples) + other.finish()
        assert any(isinstance(event, Segment) for event in events)
    stream = recognizer.stream(8000)
    stream.push(samples[: 8000 * 2])
    assert stream.time_s == pytest.approx(2.0, abs=0.1)


def test_the_recogniser_abstains_below_min_confidence(exported: Path) -> None:
    sound = make.speech(1.0)
    sure = Recognizer(exported, threads=1).predict(sound, make.RATE)
    prediction = Recognizer(exported, min_confidence=sure.confidence + 1e-6, threads=1).predict(
        sound, make.RATE
    )
    assert (prediction.emotion, prediction.abstained, prediction.reason) == (None, True, "low_confidence")
    assert prediction.confidence == sure.confidence
    same = Recognizer(exported, min_confidence=sure.confidence - 1e-6, threads=1).predict(sound, make.RATE)
    assert same == sure


def test_emotions_are_restricted_and_renormalised(exported: Path) -> None:
    sound = make.speech(1.0)
    only = Recognizer(exported, emotions=["sad"], threads=1).predict(sound, make.RATE)
    assert (only.emotion, only.probabilities) == ("sad", {"sad": pytest.approx(1.0)})
    both = Recognizer(exported, emotions=["sad", "angry"], threads=1)
    assert both.emotions == ("angry", "sad"), "in the order of the model"
    assert both.predict(sound, make.RATE) == Recognizer(exported, threads=1).predict(sound, make.RATE)
    with pytest.raises(ConfigError, match=r"bad emotion 'happy', expected one of \['angry', 'sad'\]"):
        Recognizer(exported, emotions=["happy"])


def test_probabilities_of_long_audio_are_the_mean_over_windows(recognizer: Recognizer) -> None:
    long = np.concatenate([make.speech(2.1, 100 + 15 * i, seed=i) for i in range(20)])  # 42 s: 3 windows
    long -= long.mean()
    assert 2 * MAX_WINDOW_S < len(long) / make.RATE < 3 * MAX_WINDOW_S
    assert recognizer.card.trim_db is not None
    rows = [
        recognizer.run(trim_silence(part, recognizer.card.trim_db))["probabilities"]
        for part in np.array_split(long, 3)
    ]
    expected = np.mean([apply_temperature(row, recognizer.card.temperature) for row in rows], axis=0)
    np.testing.assert_allclose(recognizer.probabilities(long), expected, atol=1e-6)


def test_a_recording_that_is_decoded_again_gets_the_same_prediction(
    recognizer: Recognizer, utterances: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = np.resize(np.concatenate(utterances), 30 * make.RATE)
    parts = [noise(15.0, 0.01), talk, noise(45.0, 0.01), talk + 0.1, np.zeros(30 * make.RATE), talk]
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate(parts).astype(np.float32), make.RATE, subtype="FLOAT")
    with path.open("rb") as file:
        found = [recognizer.predict(source, make.RATE) for source in (path, path.read_bytes(), file)]
    monkeypatch.setattr("emodistill.audio.recording.MAX_IN_MEMORY_S", 1e9)
    in_memory = recognizer.predict(path)
    assert in_memory.emotion is not None
    for prediction in found:
        assert prediction.probabilities == pytest.approx(in_memory.probabilities, abs=1e-5)
    assert is_longer_than(path, 150)
    assert not is_longer_than(path, 200)


def test_a_long_recording_is_never_held_in_memory(recognizer: Recognizer, tmp_path: Path) -> None:
    path = tmp_path / "hour.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(60 * 8000, dtype=np.float32))
        file.write(make.speech(2.0)[::2])
    tracemalloc.start()
    prediction = recognizer.predict(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert prediction.error is None
    assert peak < 20e6, "an hour's samples take 230 MB"


def test_silent_windows_of_long_audio_do_not_count(recognizer: Recognizer) -> None:
    speech = make.speech(20.0, 150, seed=1)
    gap = np.zeros(20 * make.RATE, np.float32)
    three = np.concatenate([speech, gap, speech])
    np.testing.assert_allclose(recognizer.probabilities(three), recognizer.probabilities(speech), atol=2e-2)


def test_predictions_do_not_depend_on_earlier_ones(exported: Path) -> None:
    one = Recognizer(exported, threads=1)
    sounds = [make.speech(0.3 + 0.2 * i, 100 + 20 * i, seed=i) for i in range(5)]
    forward = [one.predict(sound, make.RATE) for sound in sounds]
    backward = [one.predict(sound, make.RATE) for sound in reversed(sounds)]
    assert forward == backward[::-1]
    assert len({prediction.confidence for prediction in forward}) == 5


@pytest.fixture
def mixed(tmp_path: Path) -> list[Any]:
    """Every kind of source, some of which cannot be read."""
    good, text = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(good, make.speech(0.5), make.RATE)
    text.write_text("no audio")
    return [
        good, text, tmp_path / "missing.wav", str(good), good.read_bytes(), make.speech(0.7, seed=4),
        io.BytesIO(good.read_bytes()), np.array([np.nan]), b"", make.speech(0.05),
    ]  # fmt: skip


def test_predict_all_continues_after_an_unreadable_source(recognizer: Recognizer, mixed: list[Any]) -> None:
    predictions = list(recognizer.predict_all(mixed, make.RATE))
    assert [row.error is None for row in predictions] == [
        True,
        False,
        False,
        True,
        True,
        True,
        True,
        False,
        False,
        True,
    ]
    assert predictions[0] == predictions[3]
    assert predictions[4] == predictions[6] == replace(predictions[0], path="")
    assert "cannot be decoded" in predictions[1].error
    assert "no such file" in predictions[2].error
    assert "holds NaN or Inf" in predictions[7].error
    assert (predictions[1].emotion, predictions[1].probabilities) == (None, {})
    assert predictions[9].reason == "too_short"
    with pytest.raises(AudioError, match="no such file"):
        recognizer.predict(mixed[2], make.RATE)


def test_an_iterable_gives_a_list(recognizer: Recognizer, mixed: list[Any]) -> None:
    sources = [source for source in mixed if not isinstance(source, io.BytesIO)]
    expected = list(recognizer.predict_all(sources, make.RATE))
    assert recognizer.predict(sources, make.RATE) == recognizer.predict(iter(sources), make.RATE) == expected
    assert recognizer.predict([]) == []
    for one in (mixed[3], mixed[4], mixed[5]):  # their letters, bytes and samples are not sources
        with pytest.raises(AudioError, match="expected several sources"):
            next(recognizer.predict_all(one, make.RATE))


def test_an_object_that_converts_to_an_array_is_an_array(recognizer: Recognizer) -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            return make.speech(0.7)

    assert recognizer.predict(Tensor(), make.RATE) == recognizer.predict(make.speech(0.7), make.RATE)  # type: ignore[call-overload]


def test_emotions_as_one_text_are_refused(exported: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"bad emotions 'angry,sad', expected a list, e\.g\. \['angry', 'sad'\]"
    ):
        Recognizer(exported, emotions="angry,sad")


def test_an_unknown_model_is_an_error_that_lists_what_is_expected() -> None:
    with pytest.raises(ModelError, match=r"no model 'bundle': expected bundled, (.*, )?the folder of"):
        Recognizer("bundle")


def test_load_equals_the_constructor(exported: Path) -> None:
    loaded = Recognizer.load(exported, threads=1, min_confidence=0.4)
    assert loaded.settings == Recognizer(exported, threads=1, min_confidence=0.4).settings


@pytest.mark.parametrize("jobs", [2, 5])
def test_jobs_change_neither_order_nor_predictions(
    recognizer: Recognizer, mixed: list[Any], jobs: int
) -> None:
    sources = [source for source in mixed * 4 if not isinstance(source, io.BytesIO)]
    assert list(recognizer.predict_all(sources, make.RATE, jobs=jobs)) == list(
        recognizer.predict_all(sources, make.RATE)
    )
    rate_8k = [make.speech(0.5, rate_hz=8000)] * 3
    assert list(recognizer.predict_all(rate_8k, 8000, jobs)) == [recognizer.predict(rate_8k[0], 8000)] * 3


def test_sources_are_read_as_they_are_needed(recognizer: Recognizer) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield make.speech(0.3, seed=taken)

    rows = recognizer.predict_all(endless(), make.RATE, jobs=2)
    first = [next(rows) for _ in range(3)]
    rows.close()
    assert first == [recognizer.predict(make.speech(0.3, seed=seed), make.RATE) for seed in (1, 2, 3)]
    assert taken <= 3 + 2 * 2


# --- confidence ----------------------------------------------------------------------------------


def with_card(folder: Path, **fields: Any) -> Path:
    """The model with some fields of its card replaced."""
    card = read_card(folder)
    write_card(card.model_copy(update=fields), folder)
    return folder


def test_a_card_of_other_emotions_than_the_model_is_refused(copy: Path) -> None:
    names = read_card(copy).emotions
    for emotions in (names[::-1], (*names, "calm"), names[:1]):
        with pytest.raises(ModelError, match=r"names the emotions \[.*\], but model\.onnx was trained on"):
            Recognizer(with_card(copy, emotions=emotions), threads=1)
    with_card(copy, emotions=names)
    assert Recognizer(copy, emotions=(name for name in names[:1]), threads=1).emotions == names[:1]


def test_the_temperature_of_the_card_is_applied_before_emotions_are_restricted(copy: Path) -> None:
    sound = make.speech(1.0)
    raw = Recognizer(with_card(copy, temperature=1.0), threads=1)
    before = raw.predict(sound, make.RATE)
    windows = speech_windows(Recording(sound, make.RATE), SpeechDetector())
    assert not isinstance(windows, str)
    (window,) = windows
    assert raw.card.trim_db is not None
    outputs = raw.run(trim_silence(window, raw.card.trim_db))
    np.testing.assert_allclose([*before.probabilities.values()], outputs["probabilities"], atol=1e-6)
    for temperature in (0.5, 3.0):
        prediction = Recognizer(with_card(copy, temperature=temperature), threads=1).predict(sound, make.RATE)
        assert prediction.emotion == before.emotion
        np.testing.assert_allclose(
            [*prediction.probabilities.values()],
            apply_temperature([*before.probabilities.values()], temperature),
            atol=1e-9,
        )
        assert prediction.teachers == before.teachers, "it was fitted to the student alone"


def test_a_prediction_has_the_probabilities_of_each_teacher(exported: Path) -> None:
    sound = make.speech(1.0)
    prediction = Recognizer(exported, threads=1).predict(sound, make.RATE)
    assert list(prediction.teachers) == ["prosodic", "linguistic"]
    for values in prediction.teachers.values():
        assert list(values) == list(make.EMOTIONS)
        assert sum(values.values()) == pytest.approx(1)
    assert prediction.as_dict()["teachers"] == prediction.teachers
    assert "teachers" not in replace(prediction, teachers=None).as_dict()
    restricted = Recognizer(exported, emotions=["sad"], threads=1).predict(sound, make.RATE)
    assert restricted.teachers == {"prosodic": {"sad": 1.0}, "linguistic": {"sad": 1.0}}


CURVE = tuple(
    CoveragePoint(min_confidence=least, coverage=share, accuracy=0.9)
    for least, share in ((0.0, 1.0), (0.6, 0.8), (0.9, 0.2))
)


@pytest.mark.parametrize(
    ("share", "least"),
    [(1.0, 0.0), (0.9, 0.3), (0.8, 0.6), (0.5, 0.75), (0.2, 0.9), (0.1, 0.95), (0.0, 1.0)],
)
def test_a_share_of_dev_is_the_confidence_of_the_curve(copy: Path, share: float, least: float) -> None:
    with_voice = tuple(point.model_copy(update={"min_confidence": 0.5}) for point in CURVE[:1])
    folder = with_card(copy, coverage=CURVE, coverage_voice=with_voice)
    recognizer = Recognizer(folder, min_confidence=f"dev:{share}", threads=1)
    assert recognizer.min_confidence == f"dev:{share}"
    for confidence in np.linspace(0.51, 0.99, 9):
        probabilities = {"angry": confidence, "sad": 1 - confidence}
        sure = recognizer.answer(probabilities, has_voice=False).emotion is not None
        assert sure == (confidence >= least), "without a voice"
        sure = recognizer.answer(probabilities, has_voice=True).emotion is not None
        assert sure == (share == 1 or confidence >= 1 - share / 2), "with a voice it has a curve of its own"


def test_a_share_of_dev_answers_about_that_share_of_the_utterances(copy: Path) -> None:
    sounds = sorted(CORPUS.glob("audio/*/*"))[::8]
    confidences = np.array([row.confidence for row in Recognizer(copy, threads=1).predict_all(sounds)])
    points = tuple(
        CoveragePoint(min_confidence=float(c), coverage=float(np.mean(confidences >= c)), accuracy=0.5)
        for c in [0.0, *np.unique(np.quantile(confidences, np.arange(1, 20) / 20, method="higher"))]
    )
    with_card(copy, coverage=points)
    for share in (0.3, 0.55, 0.8):
        predictions = Recognizer(copy, min_confidence=f"dev:{share}", threads=1).predict_all(sounds)
        assert np.mean([row.emotion is not None for row in predictions]) == pytest.approx(share, abs=0.05)


@given(
    confidences=st.lists(st.sampled_from([None, 0.2, 0.5, 0.7, 0.9]), max_size=30),
    coverage=st.floats(0, 1),
)
def test_coverage_is_the_share_of_the_batch(confidences: list[float | None], coverage: float) -> None:
    rows = [
        Prediction(str(place), abstained=True, reason="silence")
        if confidence is None
        else Prediction(str(place), emotion="sad", confidence=confidence)
        for place, confidence in enumerate(confidences)
    ]
    kept = keep_most_confident(rows, coverage)
    assert [row.path for row in kept] == [row.path for row in rows]
    answered = [row.confidence for row in kept if row.emotion is not None]
    dropped = [row.confidence for row in kept if row.reason == "low_confidence"]
    assert len(answered) == round(coverage * (len(answered) + len(dropped)))
    assert min(answered, default=1) >= max(dropped, default=0), "the most confident answers stay"
    assert [row for row in kept if row.reason == "silence"] == [row for row in rows if row.reason]


def test_options_of_abstention_that_are_refused(copy: Path) -> None:
    with_card(copy, coverage=CURVE)
    for options, message in (
        ({"min_confidence": 1.5}, "bad min_confidence 1.5, expected a confidence from 0 to 1, or dev: and a"),
        (
            {"min_confidence": "dev:80"},
            "bad min_confidence dev:80, expected a confidence from 0 to 1, or dev:",
        ),
        ({"min_confidence": "high"}, "bad min_confidence high"),
        (
            {"min_confidence": "dev:0.5", "emotions": ["sad"]},
            "dev:0.5 needs a coverage curve over the chosen emotions, but the card has one over all",
        ),
        ({"emotions": []}, "no emotions: expected some of"),
    ):
        with pytest.raises(ConfigError, match=message):
            Recognizer(copy, **options)
    with_card(copy, coverage=())
    with pytest.raises(
        ConfigError, match=r"has no coverage curve, which min_confidence dev:0\.5 needs: give a"
    ):
        Recognizer(copy, min_confidence="dev:0.5")
    with pytest.raises(ConfigError, match="bad coverage 2, expected a share from 0 to 1"):
        keep_most_confident([], 2)


def test_an_array_needs_its_rate(exported: Path) -> None:
    recognizer, sound = Recognizer(exported, threads=1), make.speech(1.0)
    for call in (
        lambda: recognizer.predict(sound),
        lambda: recognizer.timeline(sound),
    ):
        with pytest.raises(AudioError, match=r"states no rate: give rate_hz, .* e\.g\. rate_hz=16000"):
            call()
    (row,) = recognizer.predict([sound])
    assert "states no rate" in (row.error or "")


def test_surety_is_how_often_such_answers_are_right(copy: Path) -> None:
    def table(*accuracies: float) -> tuple[AccuracyPoint, ...]:
        confidences = np.linspace(0.5, 1, len(accuracies))
        return tuple(
            AccuracyPoint(confidence=float(confidence), accuracy=accuracy)
            for confidence, accuracy in zip(confidences, accuracies, strict=True)
        )

    with_card(copy, accuracy=table(0.7, 0.74, 0.8), accuracy_voice=table(0.75, 0.75, 0.75))
    recognizer = Recognizer(copy, threads=1)

    def surety_of(confidence: float, has_voice: bool = False) -> str | None:
        return recognizer.answer({"angry": confidence, "sad": 1 - confidence}, has_voice).surety

    assert surety_of(0.5) == "no better than a guess", "0.7 is below 1.5 times chance, 0.75"
    assert surety_of(1.0) == "likely"
    assert surety_of(0.5, has_voice=True) == "likely", "with a voice it has a table of its own"
    bundled = Recognizer(threads=1).with_options(emotions=["angry", "happy", "sad", "neutral"])
    sure = {"angry": 0.97, "happy": 0.01, "sad": 0.01, "neutral": 0.01}
    sureties = [bundled.answer(sure, has_voice).surety for has_voice in (False, True)]
    assert sureties == ["unsure", "likely"], "with fewer emotions too, no surer than the table"
    learned = recognizer.answer({"angry": 0.5, "sad": 0.5}, True, None, True)
    assert learned.surety == surety_of(0.5), "a voice of the recording itself is no known voice"
    assert recognizer.with_options(emotions=["sad"]).answer({"sad": 1.0}, False).surety is None
    prediction = recognizer.predict(make.speech(1.0), make.RATE)
    assert prediction.surety == surety_of(prediction.confidence or 0)
    assert Recognizer(with_card(copy, accuracy=(), accuracy_voice=()), threads=1).answer(
        {"angry": 1.0, "sad": 0.0}, False
    ).surety is None  # fmt: skip


def test_arousal_and_valence_are_the_mean_of_the_coordinates(exported: Path) -> None:
    prediction = Recognizer(exported, threads=1).predict(make.speech(1.0), make.RATE)
    for axis, name in enumerate(("arousal", "valence")):
        expected = sum(
            value * COORDINATES[emotion][axis] for emotion, value in prediction.probabilities.items()
        )
        assert prediction.dimensions[name] == pytest.approx(expected)
    assert prediction.dimensions_from == "emotions"
    assert dimensions({"other": 1.0}) is None
    assert dimensions({"other": 0.5, "sad": 0.25, "angry": 0.25}) == dimensions({"sad": 0.5, "angry": 0.5})
    for arousal, valence in COORDINATES.values():
        assert 0 <= arousal <= 1
        assert 0 <= valence <= 1


def test_with_options_keeps_what_is_not_given_and_none_resets(copy: Path) -> None:
    with_card(copy, coverage=CURVE)
    plain = Recognizer(copy, threads=1)
    sad = plain.with_options(emotions=["sad"], min_confidence=0.4)
    assert (plain.emotions, plain.min_confidence) == (("angry", "sad"), 0.0), "the first one does not change"
    assert (sad.emotions, sad.min_confidence) == (("sad",), 0.4)
    assert sad.with_options(min_confidence=0.7).settings == {**sad.settings, "min_confidence": 0.7}
    assert sad.with_options(emotions=["angry"]).min_confidence == 0.4
    assert sad.with_options().settings == sad.settings
    assert sad.with_options(emotions=None).settings == {**plain.settings, "min_confidence": 0.4}
    assert sad.with_options(min_confidence=None).settings == {**sad.settings, "min_confidence": 0.0}
    assert sad.with_options(emotions=None, min_confidence=None).settings == plain.settings
    sound = make.speech(1.0)
    constructed = Recognizer(copy, emotions=["sad"], min_confidence=0.4, threads=1)
    assert sad.predict(sound, make.RATE) == constructed.predict(sound, make.RATE)


def test_with_options_keeps_a_share_of_dev(copy: Path) -> None:
    with_card(copy, coverage=CURVE)
    half = Recognizer(copy, min_confidence="dev:0.5", threads=1)
    assert half.with_options(emotions=["angry", "sad"]).settings == half.settings
    assert half.with_options(min_confidence=0.1).min_confidence == 0.1
    assert half.with_options(min_confidence=None).min_confidence == 0.0
    with pytest.raises(ConfigError, match="over all emotions"):
        half.with_options(emotions=["sad"])
    assert half.with_options(emotions=["sad"], min_confidence=None).emotions == ("sad",)


# --- which model, on what ------------------------------------------------------------------------


def test_the_bundled_model_is_the_default() -> None:
    if not BUNDLED.is_dir():
        for model in ((), ("bundled",)):
            with pytest.raises(ModelError, match="this install has no bundled model; give the folder"):
                Recognizer(*model)
        pytest.skip("this checkout has no bundled model")
    recognizer = Recognizer(threads=1)
    assert recognizer.folder == BUNDLED
    assert recognizer.predict(make.speech(1.0), make.RATE).error is None


# --- the card ------------------------------------------------------------------------------------


def test_changed_or_incomplete_models_are_refused(copy: Path) -> None:
    def edit_card(change: Callable[[dict[str, Any]], Any]) -> None:
        card = json.loads((copy / "card.json").read_text())
        change(card)
        (copy / "card.json").write_text(json.dumps(card))

    original = (copy / "card.json").read_text()
    edit_card(lambda card: card.pop("emotions"))
    with pytest.raises(ModelError, match=r"(?s)card\.json' is not a model card of this version.*emotions"):
        Recognizer(copy)
    for key, value in (("format", 2), ("surprise", 1), ("sample_rate_hz", 8000)):
        (copy / "card.json").write_text(original)
        edit_card(lambda card, key=key, value=value: card.update({key: value}))
        with pytest.raises(ModelError, match=re.escape("is not a model card of this version")):
            Recognizer(copy)
    (copy / "card.json").write_text("{")
    with pytest.raises(ModelError, match=r"is not a model card of this version"):
        Recognizer(copy)
    (copy / "card.json").write_text(original)
    assert isinstance(read_card(copy), Card)

    data = bytearray((copy / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.onnx' was changed: its SHA-256 is"):
        Recognizer(copy)
    for name in ("model.onnx", "card.json"):
        (copy / name).unlink()
        with pytest.raises(ModelError, match=rf"it has no {name}; make one with: emodistill export"):
            Recognizer(copy)


def test_a_bad_card_is_one_line_that_names_the_field(copy: Path) -> None:
    card = json.loads((copy / "card.json").read_text())
    without = {key: value for key, value in card.items() if key not in ("emotions", "sha256")}
    for damaged, problem in (
        (json.dumps(without), "emotions: expected a value, got none; sha256: expected a value, got none"),
        (json.dumps({**card, "format": 2}), "format: bad value 2, expected 1"),
        (json.dumps({**card, "parity": {"alone": "x"}}), "parity.alone: bad value 'x', expected a number"),
        ("[]", "expected an object"),
        ("{", "Expecting property name"),
        ("\udcff", "'utf-8' codec can't decode"),
    ):
        (copy / "card.json").write_text(damaged, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(ModelError) as caught:
            read_card(copy)
        message = str(caught.value)
        assert f"card.json' is not a model card of this version: {problem}" in message
        assert "\n" not in message
        assert "http" not in message


def test_a_file_that_is_not_onnx_is_refused_although_its_hash_fits(copy: Path) -> None:
    (copy / "model.onnx").write_text("this is no model")
    card = json.loads((copy / "card.json").read_text())
    card["sha256"] = file_sha256(copy / "model.onnx")
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"model\.onnx' is not an ONNX file: [^\n]+$"):
        Recognizer(copy)


def test_a_short_waveform_is_padded_before_the_model_runs(recognizer: Recognizer) -> None:
    short = make.speech(0.02)
    padded = np.pad(short, (0, MIN_INPUT_SAMPLES - len(short)))
    np.testing.assert_array_equal(
        recognizer.run(short)["probabilities"], recognizer.run(padded)["probabilities"]
    )
