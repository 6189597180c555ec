"""Voices: what they are, their file, and predictions that are compared with them."""

import csv
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from factories_voices import DIM, EMOTIONS, model_without_voices, voice_model
from hypothesis import given
from hypothesis import strategies as st

from emodistill import Prediction, Recognizer, Voice
from emodistill.errors import AudioError, ConfigError, ModelError
from emodistill.inference.card_writer import write_card
from emodistill.inference.confidence import apply_temperature
from emodistill.inference.model_card import read_card
from emodistill.inference.voices import MAX_VOICE_BYTES, SpeechStatistics, leave_one_out, shrinkage


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with voices."""
    return voice_model(tmp_path_factory.mktemp("voices") / "model")


@pytest.fixture(scope="module")
def recognizer(model: Path) -> Recognizer:
    return Recognizer(model, threads=1)


@pytest.fixture(scope="module")
def sounds() -> list[np.ndarray]:
    """Five utterances of 1 to 1.8 s."""
    return [make.speech(1 + 0.2 * number, 100 + 20 * number, seed=number) for number in range(5)]


@pytest.fixture(scope="module")
def voice(recognizer: Recognizer, sounds: list[np.ndarray]) -> Voice:
    """The voice of all sounds but the first."""
    return recognizer.enrol(sounds[1:], make.RATE)


@pytest.fixture(scope="module")
def long_sound() -> np.ndarray:
    """Over 20 s of speech: two windows."""
    return np.concatenate([make.speech(2.5, 100 + 8 * number, seed=number) for number in range(20)])


def assert_close(a: Prediction, b: Prediction) -> None:
    """Check that two predictions differ in their path and in rounding alone."""
    for values, others in ((a.probabilities, b.probabilities), *zip_teachers(a, b)):
        assert values == pytest.approx(others, abs=1e-5)
    for name in ("emotion", "abstained", "reason", "error", "voice_utterances"):
        assert getattr(a, name) == getattr(b, name)


def zip_teachers(a: Prediction, b: Prediction) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    assert (a.teachers or {}).keys() == (b.teachers or {}).keys()
    for name, values in (a.teachers or {}).items():
        yield values, (b.teachers or {})[name]


def assert_same_voice(a: Voice, b: Voice) -> None:
    """Check that two voices differ in rounding alone."""
    assert (a.model, a.utterances) == (b.model, b.utterances)
    assert a.speech_s == pytest.approx(b.speech_s)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-9, atol=1e-9)


# --- what a voice is -----------------------------------------------------------------------------


def test_shrinkage_is_n_over_n_plus_k() -> None:
    assert [shrinkage(n) for n in (0, 1, 5, 6, 20)] == [0, 1 / 2, 5 / 6, 6 / 9, 20 / 23]
    assert shrinkage(1.5) == 1.5 / 2.5


def test_a_voice_is_the_mean_of_the_statistics_by_seconds_of_speech(
    recognizer: Recognizer, sounds: list[np.ndarray], voice: Voice
) -> None:
    known = [recognizer.statistics(sound, make.RATE) for sound in sounds[1:]]
    assert [item.windows.shape for item in known] == [(1, DIM)] * 4
    seconds = [float(item.speech_s.sum()) for item in known]
    assert all(
        0.9 * len(sound) / make.RATE <= s <= len(sound) / make.RATE
        for s, sound in zip(seconds, sounds[1:], strict=True)
    )
    mean = np.average([item.windows[0] for item in known], axis=0, weights=seconds)
    np.testing.assert_allclose(voice.mean, mean, rtol=1e-6)
    assert (voice.utterances, voice.model) == (4, recognizer.card.sha256)
    assert voice.speech_s == pytest.approx(sum(seconds))
    np.testing.assert_allclose(voice.shrunk(), 4 / 5 * mean, rtol=1e-5)
    assert voice.shrunk().dtype == np.float32


def test_the_voice_of_two_sets_is_their_sum(
    recognizer: Recognizer, sounds: list[np.ndarray], voice: Voice
) -> None:
    assert_same_voice(
        recognizer.enrol(sounds[1:3], make.RATE) + recognizer.enrol(sounds[3:], make.RATE), voice
    )
    with pytest.raises(ModelError, match="enrol both with the same model"):
        voice + Voice("0" * 64, voice.mean, 1, 1.0)


def test_the_order_of_the_sources_and_the_number_of_jobs_do_not_matter(
    recognizer: Recognizer, sounds: list[np.ndarray], voice: Voice
) -> None:
    assert_same_voice(recognizer.enrol(sounds[:0:-1], make.RATE), voice)
    assert recognizer.enrol(sounds[1:], make.RATE, jobs=3) == voice


def test_paths_bytes_pipes_and_arrays_give_the_same_voice(
    recognizer: Recognizer, sounds: list[np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sounds[0], make.RATE, subtype="FLOAT")
    expected = recognizer.enrol(sounds[0], make.RATE)
    with piped(path.read_bytes()) as pipe:
        sources: list[Any] = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), pipe]
        for source in sources:
            assert recognizer.enrol(source, make.RATE) == expected
    assert recognizer.enrol([path]) == expected


def piped(content: bytes) -> Any:
    """Return an open pipe with this content."""
    read_end, write_end = os.pipe()

    def write() -> None:
        with os.fdopen(write_end, "wb") as file:
            file.write(content)

    threading.Thread(target=write).start()
    return os.fdopen(read_end, "rb")


def test_a_long_recording_counts_as_an_utterance_for_each_3_s_of_speech(
    recognizer: Recognizer, long_sound: np.ndarray
) -> None:
    known = recognizer.statistics(long_sound, make.RATE)
    assert known.windows.shape == (2, DIM)
    voice = recognizer.enrol(long_sound, make.RATE)
    assert voice.speech_s == known.speech_s.sum() > 20
    assert voice.utterances == round(voice.speech_s / 3) > 5


# --- predictions ---------------------------------------------------------------------------------


def test_the_model_classifies_the_statistics_minus_the_shrunk_voice(
    recognizer: Recognizer, sounds: list[np.ndarray], voice: Voice
) -> None:
    prediction = recognizer.predict(sounds[0], make.RATE, voice=voice)
    (statistics,) = recognizer.statistics(sounds[0], make.RATE).windows
    outputs = recognizer.run(sounds[0])
    np.testing.assert_allclose(outputs["embedding"], outputs["statistics"], err_msg="without a voice")
    (head,) = recognizer.student.run_head((statistics - voice.shrunk())[None])
    expected = apply_temperature(head["probabilities"], recognizer.card.temperature)
    assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert prediction.probabilities != recognizer.predict(sounds[0], make.RATE).probabilities
    assert (prediction.voice_utterances, recognizer.predict(sounds[0], make.RATE).voice_utterances) == (
        4,
        None,
    )


def test_a_voice_of_zeros_gives_the_same_prediction_as_no_voice(
    recognizer: Recognizer, sounds: list[np.ndarray], long_sound: np.ndarray
) -> None:
    zeros = Voice(recognizer.card.sha256, np.zeros(DIM), 7, 20.0)
    for sound in (*sounds, long_sound):
        with_zeros, without = (
            recognizer.predict(sound, make.RATE, voice=zeros),
            recognizer.predict(sound, make.RATE, voice=None),
        )
        assert with_zeros.probabilities == without.probabilities
        assert with_zeros.teachers == without.teachers
        assert_close(recognizer.predict_statistics(recognizer.statistics(sound, make.RATE)), without)


def test_statistics_give_the_prediction_of_the_audio(
    recognizer: Recognizer, sounds: list[np.ndarray], long_sound: np.ndarray, voice: Voice
) -> None:
    for sound in (*sounds, long_sound):
        known = recognizer.statistics(sound, make.RATE)
        assert_close(
            recognizer.predict_statistics(known, voice), recognizer.predict(sound, make.RATE, voice=voice)
        )
    for sound in (np.zeros(make.RATE, np.float32), sounds[0][:800], 0.1 * np.ones(make.RATE, np.float32)):
        known = recognizer.statistics(sound, make.RATE)
        assert known.windows.shape[0] == known.num_utterances == 0
        assert recognizer.predict_statistics(known, voice) == recognizer.predict(
            sound, make.RATE, voice=voice
        )


def test_the_trunk_runs_once_for_each_window(
    model: Path, long_sound: np.ndarray, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = Recognizer(model, threads=1)
    lengths: list[int] = []
    run = recognizer.student.run
    monkeypatch.setattr(
        recognizer.student,
        "run",
        lambda waveform, *voice: (lengths.append(len(waveform)), run(waveform, *voice))[1],
    )
    known = recognizer.statistics(long_sound, make.RATE)
    for _ in range(2):
        recognizer.predict_statistics(known, voice)
    assert len(lengths) == 2
    recognizer.predict(long_sound, make.RATE, voice=voice)
    assert len(lengths) == 4
    recognizer.predict_together([long_sound, long_sound[: 2 * make.RATE]], make.RATE)
    assert len(lengths) == 7


def test_many_sources_with_a_voice(recognizer: Recognizer, sounds: list[np.ndarray], voice: Voice) -> None:
    expected = [recognizer.predict(sound, make.RATE, voice=voice) for sound in sounds]
    assert recognizer.predict(sounds, make.RATE, voice=voice) == expected
    for jobs in (1, 3):
        assert list(recognizer.predict_all(sounds[::-1], make.RATE, jobs=jobs, voice=voice)) == expected[::-1]


def test_predict_together_compares_each_source_with_all_others(
    recognizer: Recognizer, sounds: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_text("no audio")
    silence = np.zeros(make.RATE, np.float32)
    sources = [*sounds[:3], tmp_path / "broken.wav", silence, *sounds[3:]]
    rows = recognizer.predict_together(sources, make.RATE)
    speech = [0, 1, 2, 5, 6]
    for index in speech:
        others = recognizer.enrol([sources[other] for other in speech if other != index], make.RATE)
        assert_close(rows[index], recognizer.predict(sources[index], make.RATE, voice=others))
        assert rows[index].voice_utterances == 4
    assert (rows[3].path, rows[3].voice_utterances) == (str(tmp_path / "broken.wav"), None)
    assert "cannot be decoded" in (rows[3].error or "")
    assert (rows[4].reason, rows[4].voice_utterances) == ("silence", None)
    assert recognizer.predict_together(iter(sources), make.RATE, jobs=3) == rows


def test_the_order_does_not_matter_in_predict_together(
    recognizer: Recognizer, sounds: list[np.ndarray]
) -> None:
    for row, other in zip(
        recognizer.predict_together(sounds, make.RATE),
        recognizer.predict_together(sounds[::-1], make.RATE)[::-1],
        strict=True,
    ):
        assert_close(row, other)


def test_a_source_without_others_has_no_voice(recognizer: Recognizer, sounds: list[np.ndarray]) -> None:
    silence = np.zeros(make.RATE, np.float32)
    assert recognizer.predict_together([]) == []
    row, _ = recognizer.predict_together([sounds[0], silence], make.RATE)
    assert_close(row, recognizer.predict(sounds[0], make.RATE))
    assert list(leave_one_out([SpeechStatistics("a", reason="silence")], "m")) == [None]


def test_a_prediction_with_a_voice_is_equal_after_a_round_trip_through_json(
    recognizer: Recognizer, sounds: list[np.ndarray], voice: Voice
) -> None:
    prediction = recognizer.predict(sounds[0], make.RATE, voice=voice)
    assert list(prediction.as_dict())[7:] == [
        "teachers", "voice_utterances", "dimensions", "dimensions_from",
    ]  # fmt: skip
    assert Prediction(**json.loads(json.dumps(prediction.as_dict()))) == prediction
    assert "voice_utterances" not in recognizer.predict(sounds[0], make.RATE).as_dict()


def test_a_voice_has_its_own_temperature(tmp_path: Path, sounds: list[np.ndarray]) -> None:
    plain = Recognizer(voice_model(tmp_path / "one"), threads=1)
    other = Recognizer(voice_model(tmp_path / "two", temperature_voice=3.0), threads=1)
    voice = plain.enrol(sounds[1:], make.RATE)
    assert other.predict(sounds[0], make.RATE) == plain.predict(sounds[0], make.RATE)
    sharp, flat = (
        plain.predict(sounds[0], make.RATE, voice=voice),
        other.predict(sounds[0], make.RATE, voice=voice),
    )
    expected = apply_temperature(np.array([*sharp.probabilities.values()]), 3.0 / 1.5)
    assert list(flat.probabilities.values()) == pytest.approx(expected.tolist())
    assert flat.teachers == sharp.teachers


def test_options_apply_with_a_voice(recognizer: Recognizer, sounds: list[np.ndarray], voice: Voice) -> None:
    some = recognizer.with_options(emotions=["sad", "angry"], min_confidence=1.0)
    assert some.voice_dim == recognizer.voice_dim == DIM
    prediction = some.predict(sounds[0], make.RATE, voice=voice)
    assert list(prediction.probabilities) == ["angry", "sad"]
    assert (prediction.reason, prediction.voice_utterances) == ("low_confidence", 4)
    assert some.predict_statistics(some.statistics(sounds[0], make.RATE), voice).reason == "low_confidence"


def test_probabilities_of_a_waveform_take_a_voice(
    recognizer: Recognizer, sounds: list[np.ndarray], voice: Voice
) -> None:
    trimmed = sounds[0] - sounds[0].mean()
    changed = recognizer.probabilities(trimmed, voice) - recognizer.probabilities(trimmed)
    assert np.abs(changed).max() > 0.01


def test_an_exported_student_has_voices(exported_voice: Path, sounds: list[np.ndarray]) -> None:
    recognizer = Recognizer(exported_voice, threads=1)
    voice = recognizer.enrol(sounds[1:], make.RATE)
    assert voice.mean.shape == (recognizer.voice_dim,)
    compared, plain = (
        recognizer.predict(sounds[0], make.RATE, voice=voice),
        recognizer.predict(sounds[0], make.RATE),
    )
    assert compared.probabilities != plain.probabilities
    assert_close(recognizer.predict_together(sounds, make.RATE)[0], compared)
    assert_close(recognizer.predict_statistics(recognizer.statistics(sounds[0], make.RATE)), plain)


# --- recordings that cannot be enrolled ------------------------------------------------------------


def test_what_is_left_out_of_a_voice_is_a_warning(
    recognizer: Recognizer, sounds: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.wav").write_text("no audio")
    silence = np.zeros(make.RATE, np.float32)
    sources = [sounds[1], tmp_path / "broken.wav", silence, tmp_path / "none.wav", sounds[2]]
    voice = recognizer.enrol(sources, make.RATE)
    assert_same_voice(voice, recognizer.enrol(sounds[1:3], make.RATE))
    out, err = capsys.readouterr()
    assert out == ""
    first, second, third = err.splitlines()
    assert first.startswith(f"left out of the voice: {tmp_path / 'broken.wav'}: cannot be decoded")
    assert second == "left out of the voice: recording 3: silence"
    assert str(tmp_path / "none.wav") in third


def test_a_voice_of_silence_alone_is_an_error_that_names_each(recognizer: Recognizer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(make.RATE), make.RATE)
    with pytest.raises(AudioError) as caught:
        recognizer.enrol(
            [tmp_path / "quiet.wav", tmp_path / "none.wav", np.zeros(800, np.float32)], make.RATE
        )
    first, *rest = str(caught.value).splitlines()
    assert first == "no recording to make a voice of: expected at least one with speech"
    assert rest[0] == f"- '{tmp_path / 'quiet.wav'}': silence"
    assert str(tmp_path / "none.wav") in rest[1]
    assert rest[2] == "- recording 3: too short"
    with pytest.raises(AudioError, match="no recording to make a voice of"):
        recognizer.enrol([])


def test_a_voice_of_little_speech_is_a_warning(
    recognizer: Recognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = recognizer.enrol(make.speech(0.2, seed=3), make.RATE)
    assert voice.utterances == 1
    assert "the voice has only 0.2 s of speech" in capsys.readouterr().err


# --- the voice file ------------------------------------------------------------------------------


def test_a_voice_is_equal_after_a_round_trip_through_its_file(voice: Voice, tmp_path: Path) -> None:
    path = tmp_path / "new" / "anna.voice.json"
    voice.save(path)
    assert Voice.load(path) == Voice.load(str(path)) == voice
    assert (Voice.load(path).mean == voice.mean).all()
    assert hash(Voice.load(path)) == hash(voice)
    assert Voice.from_json(voice.to_json()) == voice
    data = json.loads(path.read_text())
    assert list(data) == ["format", "model", "mean", "utterances", "speech_s", "sha256"]
    assert (data["format"], data["mean"]) == (1, voice.mean.tolist())
    assert [item.name for item in path.parent.iterdir()] == ["anna.voice.json"]


any_voice = st.builds(
    Voice,
    st.just("0" * 64),
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3).map(np.array),
    st.integers(1, 10**6),
    st.floats(0.01, 1e6),
)


@given(any_voice, any_voice, any_voice)
def test_any_voices_survive_their_file_and_add_up_in_any_order(a: Voice, b: Voice, c: Voice) -> None:
    assert Voice.from_json(a.to_json()) == a
    for total in (a + (b + c), c + a + b):
        assert total.utterances == (a + b + c).utterances == a.utterances + b.utterances + c.utterances
        np.testing.assert_allclose(total.mean, (a + b + c).mean, rtol=1e-9, atol=1e-3)


def test_a_voice_cannot_be_changed_and_its_text_does_not_show_its_numbers(voice: Voice) -> None:
    with pytest.raises(ValueError, match="read-only"):
        voice.mean[0] = 1
    assert "mean" not in repr(voice)
    assert voice != voice.mean.tolist()


def edited(**changes: object) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **changes})


def without(name: str) -> Callable[[str], str]:
    return lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != name})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(utterances=50), "was edited"),
        (edited(model="0" * 64), "was edited"),
        (edited(mean=[0.0] * DIM), "was edited"),
        (edited(sha256="0" * 64), "was edited"),
        (edited(sha256=7), "was edited"),
        (edited(format=2), r"has the format 2, expected 1: enrol the speaker again"),
        (without("format"), r"has the format None, expected 1"),
        (without("sha256"), "is not a voice file: expected the fields"),
        (edited(emotion="sad"), "is not a voice file: expected the fields"),
        (lambda text: text[:40], "is not a voice file: expected JSON"),
        (lambda text: "", "is not a voice file: expected JSON"),
        (lambda text: "[" * 100_000, "is not a voice file"),
        (lambda text: "[]", "expected a JSON object, got list"),
        (lambda text: text + " " * MAX_VOICE_BYTES, "more than 256 KiB"),
    ],
)
def test_a_file_that_is_no_voice_file_is_refused(
    voice: Voice, tmp_path: Path, edit: Callable[[str], str], message: str
) -> None:
    path = tmp_path / "a.voice.json"
    path.write_text(edit(voice.to_json()))
    with pytest.raises(ModelError, match=message) as caught:
        Voice.load(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the voice is not a voice file"):
        Voice.from_json(b"RIFF\xff\xfe\x00\x00")
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ModelError, match=r"cannot be read .*emodistill enrol CLIPS -o FILE"):
            Voice.load(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"mean": []}, {"mean": [float("nan")]}, {"mean": ["1"]}, {"mean": [10**400]}, {"mean": [True]},
        {"mean": [[1.0]]}, {"mean": {}}, {"utterances": 0}, {"utterances": 1.5}, {"utterances": True},
        {"speech_s": 0}, {"speech_s": "1"}, {"speech_s": float("inf")}, {"model": 1},
    ],
)  # fmt: skip
def test_values_that_no_voice_has_are_refused_even_with_their_hash(
    voice: Voice, fields: dict[str, object]
) -> None:
    from emodistill.inference import voices

    data = {**json.loads(voice.to_json()), **fields}
    del data["sha256"]
    data["sha256"] = voices._digest(data)
    with pytest.raises(ModelError):
        Voice.from_json(json.dumps(data))


# --- models --------------------------------------------------------------------------------------


def test_a_voice_of_another_model_is_refused(
    recognizer: Recognizer, sounds: list[np.ndarray], voice: Voice, tmp_path: Path
) -> None:
    other = Recognizer(voice_model(tmp_path / "other", seed=1), threads=1)
    uses: list[Callable[[], Any]] = [
        lambda: other.predict(sounds[0], make.RATE, voice=voice),
        lambda: other.predict(sounds, make.RATE, voice=voice),
        lambda: list(other.predict_all(sounds, make.RATE, voice=voice)),
        lambda: other.probabilities(sounds[0], voice),
        lambda: other.predict_statistics(other.statistics(sounds[0], make.RATE), voice),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(ModelError, match="enrol the speaker again with this model"):
            use()


def test_what_is_not_a_voice_of_the_right_size_is_refused(
    recognizer: Recognizer, sounds: list[np.ndarray]
) -> None:
    with pytest.raises(ConfigError, match=r"expected a Voice, got builtins.str: load a voice file"):
        recognizer.predict(sounds[0], make.RATE, voice="anna.voice.json")  # type: ignore[call-overload]
    large = Voice(recognizer.card.sha256, np.zeros(DIM + 1), 1, 1.0)
    with pytest.raises(ModelError, match=f"has {DIM + 1} numbers, but the model .* expects {DIM}"):
        recognizer.predict(sounds[0], make.RATE, voice=large)
    with pytest.raises(ModelError, match="compute them with this model"):
        recognizer.predict_statistics(SpeechStatistics("", np.zeros((1, 3), np.float32), np.ones(1)))
    with pytest.raises(AudioError, match="expected several sources"):
        recognizer.predict_together("a.wav")


def test_a_model_without_voices_refuses_all_that_needs_them(
    sounds: list[np.ndarray], voice: Voice, tmp_path: Path
) -> None:
    plain = Recognizer(model_without_voices(tmp_path / "plain"), threads=1)
    assert plain.predict(sounds[0], make.RATE).emotion in plain.emotions
    uses: list[Callable[[], Any]] = [
        lambda: plain.enrol(sounds, make.RATE), lambda: plain.predict(sounds[0], make.RATE, voice=voice),
        lambda: plain.predict_together(sounds, make.RATE), lambda: plain.statistics(sounds[0], make.RATE),
        lambda: plain.predict_statistics(SpeechStatistics("", reason="silence")),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(ModelError, match=r"the model '.*' has no voices: choose a model"):
            use()


def test_a_head_that_is_missing_or_changed_is_refused(tmp_path: Path, sounds: list[np.ndarray]) -> None:
    folder = voice_model(tmp_path / "model")
    card = read_card(folder)
    known = Recognizer(folder, threads=1).statistics(sounds[0], make.RATE)
    head = (folder / "head.onnx").read_bytes()
    (folder / "head.onnx").write_bytes(head + b"\0")
    recognizer = Recognizer(folder, threads=1)
    assert recognizer.predict(sounds[0], make.RATE).error is None, (
        "without statistics, the head is not needed"
    )
    with pytest.raises(ModelError, match=r"'.*head\.onnx' was changed"):
        recognizer.predict_statistics(known)
    (folder / "head.onnx").unlink()
    with pytest.raises(ModelError, match=r"has no head\.onnx, which a model with voices needs"):
        Recognizer(folder, threads=1).predict_statistics(known)
    (folder / "head.onnx").write_bytes((folder / "model.onnx").read_bytes())
    write_card(card.model_copy(update={"head_sha256": card.sha256}), folder)
    with pytest.raises(ModelError, match="is not the head of an exported student"):
        Recognizer(folder, threads=1).predict_statistics(known)


@pytest.mark.parametrize("dim", [None, DIM + 1])
def test_a_card_with_other_voices_than_the_graph_is_refused(tmp_path: Path, dim: int | None) -> None:
    with pytest.raises(ModelError, match=f"has voice_dim {dim}, but model.onnx has voices of {DIM} numbers"):
        Recognizer(voice_model(tmp_path / "model", voice_dim=dim))


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def clips(sounds: list[np.ndarray], tmp_path: Path) -> Path:
    """Two folders with two files of speech each, and one in between that has a folder of its own."""
    folder = tmp_path / "clips"
    for number, name in enumerate(("anna/1.wav", "anna/2.wav", "anna/late/3.wav", "anna/z.wav", "ben/1.wav")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, sounds[number], make.RATE)
    return folder


def read_jsonl(path: Path) -> list[Prediction]:
    return [Prediction(**json.loads(line)) for line in path.read_text().splitlines()]


def test_enrol_writes_a_voice_that_predict_uses(
    emodistill: make.CommandLine, model: Path, recognizer: Recognizer, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "anna.voice.json"
    first = clips / "anna/1.wav"
    result = emodistill("enrol", clips / "anna", first, "-o", out, "--model", model)
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith(f"{out}: a voice of 4 utterances and ")
    assert "personal data" in result.err
    files = sorted((clips / "anna").rglob("*.wav"))
    assert_same_voice(Voice.load(out), recognizer.enrol(files))
    result = emodistill("predict", clips, "-m", model, "--voice", out, "-f", "json", "--teachers")
    rows = [Prediction(**row) for row in json.loads(result.out)]
    assert (result.code, result.err) == (0, "")
    assert rows == [recognizer.predict(path, voice=Voice.load(out)) for path in sorted(clips.rglob("*.wav"))]


def test_enrol_reports_what_it_leaves_out(
    emodistill: make.CommandLine, model: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "v.json"
    (clips / "broken.wav").write_text("no audio")
    (tmp_path / "empty").mkdir()
    result = emodistill("enrol", clips, tmp_path / "empty", "-o", out, "-m", model)
    assert result.code == 1
    assert f"left out of the voice: {clips / 'broken.wav'}: cannot be decoded" in result.err
    assert "no audio files below" in result.err
    assert Voice.load(out).utterances == 5
    out.unlink()
    for path in (tmp_path / "empty", clips / "broken.wav"):
        result = emodistill("enrol", path, "-o", out, "-m", model)
        assert (result.code, out.exists()) == (2, False)
        assert "error: no recording to make a voice of" in result.err
    assert emodistill("enrol", clips, "-m", model).code == 2, "the output is required"


def test_formats_have_voice_utterances_only_with_a_voice(
    emodistill: make.CommandLine, model: Path, clips: Path
) -> None:
    def output(format: str, *options: object) -> str:
        return emodistill("predict", clips / "anna", "-m", model, "-f", format, *options).out

    for options, number in (((), None), (("--adapt", "together"), 3)):
        assert [row.get("voice_utterances") for row in json.loads(output("json", *options))] == [number] * 4
        rows = list(csv.DictReader(io.StringIO(output("csv", *options))))
        assert [row.get("voice_utterances") for row in rows] == [number and str(number)] * 4
        assert list(rows[0])[-11:-7] == [f"p_{name}" for name in EMOTIONS]
        assert ("utterances known" in output("table", *options)) is (number is not None)


def test_adapt_together_is_predict_together(
    emodistill: make.CommandLine, model: Path, recognizer: Recognizer, clips: Path
) -> None:
    files = sorted(clips.rglob("*.wav"))
    expected = recognizer.predict_together(files)
    for jobs in (1, 3):
        result = emodistill(
            "predict", clips, clips / "anna/1.wav", "-m", model, "-f", "json", "--teachers",
            "--adapt", "together", "--jobs", jobs,
        )  # fmt: skip
        rows = [Prediction(**row) for row in json.loads(result.out)]
        assert rows == [*expected, expected[0]], "a file that is named twice counts once"
        assert (result.code, result.err) == (0, "")


def test_adapt_folder_compares_the_files_of_a_folder(
    emodistill: make.CommandLine, model: Path, recognizer: Recognizer, clips: Path
) -> None:
    result = emodistill("predict", clips, "-m", model, "-f", "json", "--teachers", "--adapt", "folder")
    rows = {Path(row["path"]): Prediction(**row) for row in json.loads(result.out)}
    assert list(rows) == sorted(clips.rglob("*.wav"))
    anna = [clips / "anna" / name for name in ("1.wav", "2.wav", "z.wav")]
    assert [rows[path] for path in anna] == recognizer.predict_together(anna)
    for path in (clips / "anna/late/3.wav", clips / "ben/1.wav"):
        assert_close(rows[path], recognizer.predict(path))
    assert result.code == 0
    assert result.err == (
        "recognised without a voice, because no other file in the same folder has speech: "
        f"{clips / 'anna/late/3.wav'}, {clips / 'ben/1.wav'}\n"
    )


@pytest.mark.parametrize("adapt", ["together", "folder"])
def test_an_adapted_output_is_resumed_with_all_files_of_a_group(
    emodistill: make.CommandLine, model: Path, clips: Path, tmp_path: Path, adapt: str
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    options = ("predict", clips, "-m", model, "--adapt", adapt, "-o")
    (clips / "anna/z.wav").rename(tmp_path / "z.wav")
    (clips / "anna/z.wav").write_text("no audio")
    assert emodistill(*options, part).code == 1
    (tmp_path / "z.wav").replace(clips / "anna/z.wav")  # it can now be read, so its folder has another usual
    assert emodistill(*options, whole).code == 0
    result = emodistill(*options, part)
    assert result.code == 0
    by_path = {row.path: row for row in read_jsonl(part)}
    assert [by_path[row.path] for row in read_jsonl(whole)] == read_jsonl(whole)
    kept = 0 if adapt == "together" else 2
    assert len(by_path) == len(read_jsonl(part)) == 5
    again = emodistill(*options, part)
    assert (again.code, "5 rows were there already, 0 added" in again.err) == (0, True)
    assert kept == 0 or f"{kept} rows were there already" in result.err

    before = part.read_bytes()
    (clips / "anna/z.wav").unlink()
    result = emodistill(*options, part)
    assert (result.code, part.read_bytes()) == (2, before)
    assert "was begun with another set of files: name another output" in result.err
    result = emodistill("predict", clips, "-m", model, "-o", part)
    assert "was begun with another adapt and set of files" in result.err


def test_an_output_with_a_voice_is_not_continued_with_another(
    emodistill: make.CommandLine, model: Path, clips: Path, tmp_path: Path
) -> None:
    out, first, second = tmp_path / "out.jsonl", tmp_path / "a.json", tmp_path / "b.json"
    emodistill("enrol", clips / "anna", "-m", model, "-o", first)
    emodistill("enrol", clips / "ben", "-m", model, "-o", second)
    assert emodistill("predict", clips, "-m", model, "-o", out, "--voice", first).code == 0
    assert (
        "5 rows were there already"
        in emodistill("predict", clips, "-m", model, "-o", out, "--voice", first).err
    )
    for options in ((), ("--voice", second)):
        result = emodistill("predict", clips, "-m", model, "-o", out, *options)
        assert result.code == 2
        assert "was begun with another voice: name another output" in result.err


def test_bad_voices_are_errors_before_anything_is_done(
    emodistill: make.CommandLine, model: Path, clips: Path, tmp_path: Path
) -> None:
    voice, bad, out = tmp_path / "a.json", tmp_path / "bad.json", tmp_path / "rows.csv"
    emodistill("enrol", clips, "-m", model, "-o", voice)
    bad.write_text(voice.read_text().replace('"utterances": 5', '"utterances": 50'))
    other = voice_model(tmp_path / "other", seed=1)
    for options, message in (
        (("--voice", voice, "--adapt", "folder"), "--voice and --adapt folder exclude each other"),
        (("--voice", bad), "was edited"),
        (("--voice", tmp_path / "none.json"), "cannot be read"),
        (("--voice", clips / "ben/1.wav"), "is not a voice file"),
        (("--voice", voice, "-m", other), "enrol the speaker again with this model"),
        (("--adapt", "speaker"), "speaker"),
    ):
        result = emodistill("predict", clips, "-m", model, "-o", out, *options)
        assert (result.code, result.out, out.exists()) == (2, "", False)
        assert message in result.err
