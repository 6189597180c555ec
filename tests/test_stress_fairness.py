"""Fairness of `emodistill stress`: groups, weights, and marks from models that guess."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emodistill.corpora.base import Utterance
from emodistill.stress import fairness
from emodistill.stress.base import Answers, Cell
from emodistill.stress.fairness import fairness_cells

EMOTIONS = ("angry", "happy", "neutral", "sad")
Answer = Callable[[Utterance, np.random.Generator], str | None]


def utterances(num_speakers: int = 20, per_speaker: int = 30) -> tuple[Utterance, ...]:
    """Speakers of both sexes and all ages, who speak each emotion equally often. They have no audio."""
    return tuple(
        Utterance(
            f"{speaker}-{number}", str(speaker), EMOTIONS[number % len(EMOTIONS)], None,
            gender="female" if speaker % 2 else "male", corpus="made", age=20.0 + 2 * speaker,
        )
        for speaker in range(num_speakers)
        for number in range(per_speaker)
    )  # fmt: skip


def answered(items: Sequence[Utterance], answer: Answer, seed: int = 0, voice: bool = False) -> Answers:
    rng = np.random.default_rng(seed)
    return Answers("made", voice, tuple(items), tuple(answer(item, rng) for item in items), EMOTIONS)


def guess(item: Utterance, rng: np.random.Generator) -> str:
    return EMOTIONS[rng.integers(len(EMOTIONS))]


def mostly_right(item: Utterance, rng: np.random.Generator, share: float = 0.7) -> str | None:
    return item.emotion if rng.random() < share else guess(item, rng)


def wrong_for_women(item: Utterance, rng: np.random.Generator) -> str | None:
    return guess(item, rng) if item.gender == "female" else mostly_right(item, rng, 0.95)


def by_name(cells: Sequence[Cell]) -> dict[str, Cell]:
    return {cell.name: cell for cell in cells}


def test_a_model_that_guesses_passes() -> None:
    cells = [cell for seed in range(20) for cell in fairness_cells([answered(utterances(), guess, seed)])]
    assert {cell.name for cell in cells} == {
        "sex: female", "sex: male", "age: under 30", "age: 30 to 49", "age: 50 and over",
    }  # fmt: skip
    checks = [check for cell in cells for check in cell.checks]
    assert len(checks) == 20 * 5 * (2 + 2 * len(EMOTIONS))
    # Each mark is the largest of 1000 differences by chance, so about one check in 1000 fails.
    assert sum(not check.passed for check in checks) <= 4
    assert np.mean([check.value / check.mark for check in checks]) < 0.5


def test_a_fair_model_passes() -> None:
    assert all(cell.passed for cell in fairness_cells([answered(utterances(), mostly_right)]))


def test_a_model_that_is_wrong_for_women_fails_for_both_sexes_and_not_for_ages() -> None:
    cells = by_name(fairness_cells([answered(utterances(), wrong_for_women)]))
    assert cells["sex: female"].passed is False
    assert cells["sex: male"].passed is False
    assert {name for name, cell in cells.items() if not cell.passed} == {"sex: female", "sex: male"}
    female = cells["sex: female"]
    assert female.figures["ua"] < 0.4 < 0.5 < female.figures["ua of all"]
    failed = {check.measure for check in female.checks if not check.passed}
    assert {"ua difference", "precision difference", "recall angry difference"} <= failed
    ua = next(check for check in female.checks if check.measure == "ua difference")
    assert ua.at_most
    assert ua.value == pytest.approx(abs(female.figures["ua"] - female.figures["ua of all"]))


def test_a_model_that_never_answers_an_emotion_for_a_group_fails() -> None:
    def answer(item: Utterance, rng: np.random.Generator) -> str | None:
        return "neutral" if item.gender == "male" and item.emotion == "angry" else item.emotion

    male = by_name(fairness_cells([answered(utterances(), answer)]))["sex: male"]
    checks = {check.measure: check for check in male.checks}
    assert not checks["recall angry difference"].passed
    assert "precision angry difference" not in checks  # no man was ever called angry
    assert male.passed is False


def test_no_answer_is_a_wrong_answer() -> None:
    silent = by_name(
        fairness_cells(
            [answered(utterances(), lambda item, _: None if item.gender == "female" else item.emotion)]
        )
    )
    assert silent["sex: female"].figures["ua"] == 0
    assert silent["sex: female"].passed is False


def test_the_figures_are_those_of_the_group() -> None:
    items = utterances()
    given = answered(items, wrong_for_women)
    cell = by_name(fairness_cells([given]))["sex: male"]
    rows = [(u.emotion, p) for u, p in zip(items, given.predicted, strict=True) if u.gender == "male"]
    for emotion in EMOTIONS:
        recall = np.mean([answer == emotion for truth, answer in rows if truth == emotion])
        precision = np.mean([truth == emotion for truth, answer in rows if answer == emotion])
        assert cell.figures[f"recall {emotion}"] == pytest.approx(recall)
        # Weights make up for the last emotions, which have one utterance less of each speaker.
        assert cell.figures[f"precision {emotion}"] == pytest.approx(precision)
    assert cell.utterances == len(rows)
    assert cell.figures["ua"] == pytest.approx(
        np.mean([cell.figures[f"recall {emotion}"] for emotion in EMOTIONS])
    )


def test_groups_with_other_frequencies_of_emotions_are_no_unfairness() -> None:
    items = [
        item for item in utterances(40) if item.gender == "male" or item.emotion != "angry" or "-0" in item.id
    ]
    share = np.mean([item.emotion == "angry" for item in items if item.gender == "female"])
    assert share < 0.1
    assert all(cell.passed for cell in fairness_cells([answered(items, mostly_right)]))


def test_an_emotion_that_a_group_lacks_is_left_out() -> None:
    items = [item for item in utterances() if item.gender == "male" or item.emotion != "sad"]
    cell = by_name(fairness_cells([answered(items, mostly_right)]))["sex: male"]
    assert "recall sad" not in cell.figures
    assert cell.passed


def test_utterances_that_the_model_cannot_label_are_left_out() -> None:
    items = [replace(item, emotion="bored") if item.emotion == "sad" else item for item in utterances()]
    cells = by_name(fairness_cells([answered(items, guess)]))
    assert not [name for name in cells["sex: male"].figures if "bored" in name or "sad" in name]


def test_the_seed_decides_the_marks() -> None:
    given = [answered(utterances(), mostly_right)]
    assert fairness_cells(given, seed=1) == fairness_cells(given, seed=1)
    first, second = (by_name(fairness_cells(given, seed))["sex: male"].checks for seed in (1, 2))
    assert first[0].mark != second[0].mark
    assert first[0].mark == pytest.approx(second[0].mark, rel=0.4)


def test_a_small_group_has_a_larger_mark_and_a_tiny_one_is_named() -> None:
    items = [
        *utterances(8),
        *(replace(item, id="x" + item.id, gender="other") for item in utterances(1)[:29]),
    ]
    cells = by_name(fairness_cells([answered(items, guess)]))
    assert cells["sex: other"].checks == ()
    assert cells["sex: other"].note == "29 utterances; at least 30 are needed"
    assert cells["sex: other"].passed is None
    few = [item for item in utterances() if item.gender == "male" or int(item.speaker) < 4]
    marks = {
        name: cell.checks[0].mark for name, cell in by_name(fairness_cells([answered(few, guess)])).items()
    }
    assert marks["sex: female"] > marks["sex: male"]


def test_one_group_alone_cannot_be_compared() -> None:
    items = [replace(item, gender="male", age=None) for item in utterances()]
    (cell,) = fairness_cells([answered(items, guess)])
    assert cell.name == "sex: male"
    assert cell.checks == ()
    assert cell.note == "no other group is large enough to compare it with"


def test_a_corpus_that_knows_nothing_of_its_speakers_has_no_cells() -> None:
    items = [replace(item, gender=None, age=None) for item in utterances()]
    assert fairness_cells([answered(items, guess)]) == []
    given = answered(utterances(), guess)
    assert fairness_cells([replace(given, emotions=(), predicted=(None,) * len(given.predicted))]) == []


def test_the_speakers_of_ased_whose_sex_is_unsure_are_left_out() -> None:
    items = tuple(
        replace(item, speaker=f"{int(item.speaker):02}", corpus="ased")
        for item in utterances(num_speakers=20)
    )
    cells = by_name(fairness_cells([answered(items, guess)]))
    assert cells["sex: female"].utterances + cells["sex: male"].utterances == 18 * 30  # without 09 and 15


def test_speakers_are_grouped_by_the_mean_of_their_pitch(monkeypatch: pytest.MonkeyPatch) -> None:
    def pitch_hz(items: Sequence[Utterance]) -> dict[str, float]:
        calls.append(len(items))
        return {item.speaker: 140.0 + 10 * int(item.speaker) for item in items if item.speaker != "19"}

    calls: list[int] = []
    monkeypatch.setattr(fairness, "speaker_pitch_hz", pitch_hz)
    items = utterances()
    given = [answered(items, guess), answered(items, guess, voice=True)]
    cells = [cell for cell in fairness_cells(given) if cell.name.startswith("pitch")]
    counts = {(cell.name, cell.voice): cell.utterances for cell in cells}
    assert counts == {
        (f"pitch: {name}", voice): 30 * speakers
        for name, speakers in (("low", 1), ("medium", 5), ("high", 13))
        for voice in (False, True)
    }
    assert calls == [600]  # the audio of a corpus is read once
    fairness_cells([replace(item, for_pitch=items[:7]) for item in given])
    assert calls == [600, 607]


def test_pitch_is_measured_in_real_speech(tmp_path: Path) -> None:
    pytest.importorskip("swift_f0")
    import soundfile

    from emodistill.stress.pitch import mean_f0_hz, speaker_pitch_hz

    time_s = np.arange(16_000) / 16_000
    voices = {
        hz: 0.1 * sum(np.sin(2 * np.pi * k * hz * time_s) / k for k in range(1, 12)) for hz in (110, 230, 420)
    }
    low, high, beyond = mean_f0_hz([voice.astype(np.float32) for voice in voices.values()])
    assert low == pytest.approx(110, rel=0.03)
    assert high == pytest.approx(230, rel=0.03)
    assert beyond is None  # outside of what ser-tests takes
    assert mean_f0_hz([np.zeros(16_000, np.float32)]) == [None]
    soundfile.write(tmp_path / "a.wav", voices[110], 16_000)
    many = [Utterance(f"{number}", "a", "sad", tmp_path / "a.wav") for number in range(26)]
    assert speaker_pitch_hz(many) == {"a": pytest.approx(110, rel=0.03)}
    broken = [replace(item, id=f"x{item.id}", path=tmp_path / "none.wav") for item in many]
    assert speaker_pitch_hz([*many, *broken]) == {"a": pytest.approx(110, rel=0.03)}
    assert speaker_pitch_hz(many[:25]) == {}  # ser-tests takes speakers with more than 25 utterances
