"""`emodistill stress`: cells and marks, any model, runs that continue, and what it writes."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import factories as make
import factories_voices as voices
import numpy as np
import onnx
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load
from emodistill.corpora import Corpus, Utterance, read_manifest
from emodistill.corpora.load import CorpusSource
from emodistill.corpora.readers import READERS
from emodistill.errors import ConfigError, LeakError, ModelError
from emodistill.inference.recognizer import Recognizer
from emodistill.stress.answers import Options
from emodistill.stress.base import Cell, Change, Check, Marks, Material, Recording, read_marks
from emodistill.stress.cells import AnswerRow, change_cell, mean_precision
from emodistill.stress.changes import CHANGES
from emodistill.stress.codecs import code
from emodistill.stress.data import babble_speech, draw, read_corpora, speaker_of
from emodistill.stress.models import OnnxModel, answered_emotions, open_any_model
from emodistill.stress.outputs import failures, missed_marks, result_dict, write_junit
from emodistill.stress.pitch import MIN_UTTERANCES
from emodistill.stress.small import SMALL
from emodistill.stress.suite import RESULTS, Result, run_suite
from emodistill.training.evaluated_models import NO_ANSWER, WaveformAnswer

ROOT = Path(__file__).parents[1]
EMOTIONS = ("angry", "sad")
BY_NAME = {change.name: change for change in CHANGES}
GAIN = BY_NAME["gain"]


class FakeModel:
    """A model whose answer is a function of the waveform: the place of an emotion, or None for no answer."""

    kind = "fake"
    names = EMOTIONS
    dimensions: tuple[str, ...] = ()
    has_voices = False

    def __init__(self, label: Callable[[Waveform], int | None], known_ids: Sequence[str] = ()) -> None:
        self.label, self.known_ids = label, frozenset(known_ids)
        self.calls = 0
        self.stops_after = 10**9

    def answer(self, waveform: Waveform) -> WaveformAnswer:
        self.calls += 1
        if self.calls > self.stops_after:
            raise KeyboardInterrupt
        label = self.label(waveform)
        return NO_ANSWER if label is None else replace(NO_ANSWER, probabilities=np.eye(2)[label])


class Dimensions(FakeModel):
    """A model of arousal and valence; both follow the level."""

    names = ()
    dimensions = ("arousal", "valence")

    def __init__(self, slope: float) -> None:
        super().__init__(lambda _: None)
        self.slope = slope

    def answer(self, waveform: Waveform) -> WaveformAnswer:
        level = self.slope * float(np.sqrt(np.mean(waveform**2)))
        return replace(NO_ANSWER, dimensions=np.array([0.5, level]))


def deaf() -> FakeModel:
    return FakeModel(lambda _: 0)


def guessing() -> FakeModel:
    """A model whose answer hangs on every bit of the waveform."""
    return FakeModel(lambda waveform: int(np.frombuffer(waveform.tobytes(), np.uint8).sum()) % 2)


def hears_loudness(threshold: float) -> FakeModel:
    return FakeModel(lambda waveform: int(np.sqrt(np.mean(waveform.astype(np.float64) ** 2)) > threshold))


def median_level(corpus: Corpus) -> float:
    levels = [np.sqrt(np.mean(load(item.path).astype(np.float64) ** 2)) for item in corpus if item.path]
    return float(np.median(levels))


@pytest.fixture(scope="module")
def corpus(manifest: Path) -> Corpus:
    """36 utterances of six speakers, of the emotions angry and sad."""
    return read_manifest(manifest, name="tiny")


@pytest.fixture(scope="module")
def demo() -> Corpus:
    """The demo corpus: synthetic speech in which the speech detector finds speech."""
    packaged = READERS["demo"].packaged
    assert packaged is not None
    return READERS["demo"].read(packaged)


def run(
    model: FakeModel,
    corpora: Sequence[Corpus],
    out: Path,
    changes: Sequence[Change] = SMALL,
    jobs: int = 1,
    force: bool = False,
    **options: object,
) -> Result:
    chosen = Options(emotion_of_name=tuple(model.names), **options)  # type: ignore[arg-type]
    return run_suite(model, "fake", None, corpora, changes, False, out, chosen, jobs, None, force)


# --- models whose result is known -----------------------------------------------------------------


def test_a_model_that_ignores_its_input_passes_all_small_cells(corpus: Corpus, tmp_path: Path) -> None:
    result = run(deaf(), [corpus], tmp_path)
    assert len(result.cells) == len(SMALL) == 20
    assert all(cell.passed for cell in result.cells)
    assert {cell.figures["unchanged"] for cell in result.cells} == {1.0}
    assert {cell.figures["ua"] for cell in result.cells} == {0.5}
    assert {cell.figures["ua_change"] for cell in result.cells} == {0.0}
    assert (result.groups, result.passed) == (["small"], True)


def test_a_model_that_answers_at_random_fails(corpus: Corpus, tmp_path: Path) -> None:
    result = run(guessing(), [corpus], tmp_path)
    exact = {
        "flac",
        "append-zeros",
        "prepend-zeros",
        "silence-around",
        "trim",
    }  # that keep the sum of the bytes
    assert {cell.name for cell in result.cells if cell.passed} <= exact
    assert not result.passed
    assert result.share("small") <= 0.25


def test_a_model_that_hears_only_loudness_fails_gain(corpus: Corpus, tmp_path: Path) -> None:
    levels = []
    run(
        FakeModel(lambda waveform: levels.append(np.sqrt(np.mean(waveform**2)))), [corpus], tmp_path / "a", []
    )
    result = run(hears_loudness(float(np.median(levels))), [corpus], tmp_path / "b")
    by_name = {cell.name: cell for cell in result.cells}
    assert not by_name["gain"].passed
    assert by_name["flac"].passed
    assert by_name["gain"].confusion.keys() == set(EMOTIONS)
    assert sum(sum(row.values()) for row in by_name["gain"].confusion.values()) == 36


def test_a_recording_that_loses_its_answer_has_changed(corpus: Corpus, tmp_path: Path) -> None:
    longest = 0.55  # of a recording that gets an answer, in seconds; without a change all 36 but 6 do
    model = FakeModel(lambda waveform: 0 if len(waveform) < longest * SAMPLE_RATE else None)
    result = run(model, [corpus], tmp_path, [BY_NAME["silence-around"], GAIN])
    silence, gain = result.cells
    assert (silence.utterances, silence.no_answer) == (30, 30)
    assert silence.figures["unchanged"] == 0
    assert silence.figures["ua"] == 0
    assert silence.confusion == {"angry": {"no answer": 30}}
    assert (gain.no_answer, gain.figures["unchanged"]) == (0, 1.0)
    assert result.corpora[0].no_answer == 6


def test_dimensions_stay_if_they_move_by_less_than_a_twentieth(corpus: Corpus, tmp_path: Path) -> None:
    steady, moving = (
        run(Dimensions(slope), [corpus], tmp_path / str(slope), [GAIN]).cells[0] for slope in (0.05, 5.0)
    )
    assert (steady.figures, steady.passed) == ({"unchanged": 1.0}, True)
    assert moving.figures["unchanged"] < 0.3
    assert moving.passed is False
    assert [check.measure for check in moving.checks] == ["unchanged"]


# --- cells ----------------------------------------------------------------------------------------


def rows(*names: str | None) -> list[AnswerRow]:
    return [AnswerRow(name) for name in names]


def test_a_cell_by_hand() -> None:
    marks = Marks(0.75, "ours", ua=-0.1, precision=-0.1)
    clean, changed = rows("angry", "angry", "sad", "sad"), rows("angry", "sad", "sad", None)
    truth = ["angry", "angry", "sad", "sad"]
    cell = change_cell(GAIN, marks, "c", False, (clean, changed), truth, EMOTIONS)
    # Recall 1/2 and 1/2; precision 1 of angry and 1/2 of sad.
    assert cell.figures == {
        "unchanged": 0.5, "ua": 0.5, "ua_change": -0.5, "precision": 0.75, "precision_change": -0.25,
    }  # fmt: skip
    assert cell.confusion == {"angry": {"angry": 1, "sad": 1}, "sad": {"no answer": 1, "sad": 1}}
    assert [(check.measure, check.passed) for check in cell.checks] == [
        ("unchanged", False), ("ua_change", False), ("precision_change", False),
    ]  # fmt: skip


def test_without_labels_only_unchanged_has_a_mark() -> None:
    marks = Marks(0.9, "ours", ua=-0.05, precision=-0.05)
    answers = (rows("angry", "sad"), rows("angry", "sad"))
    for truth in ([None, None], ["angry", "angry"], ["calm", "bored"]):
        cell = change_cell(GAIN, marks, "c", False, answers, truth, EMOTIONS)
        assert [check.measure for check in cell.checks] == ["unchanged"]
        assert cell.passed


def test_a_mark_is_reached_by_equality() -> None:
    assert Check("unchanged", 0.95 - 1e-12, 0.95).passed
    assert not Check("unchanged", 0.9499, 0.95).passed
    assert Check("ua difference", 0.05, 0.05, at_most=True).passed
    assert not Check("ua difference", 0.0501, 0.05, at_most=True).passed


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from([-1, 0, 1, 2])), min_size=1))
def test_mean_precision_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import precision_score

    truth, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    expected = precision_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    assert mean_precision(truth, predicted) == pytest.approx(expected)


# --- which utterances -----------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 3), st.randoms())
def test_the_draw_is_even_and_the_order_does_not_matter(number: int, seed: int, random: object) -> None:
    items = [
        Utterance(f"{speaker}{emotion}{take}", speaker, emotion)
        for speaker, most in (("a", 9), ("b", 3), ("c", 6))
        for emotion in EMOTIONS
        for take in range(most)
    ]
    drawn = draw(Corpus("c", tuple(items)), deaf(), number, seed, "refuse")
    random.shuffle(items)  # type: ignore[attr-defined]
    assert draw(Corpus("c", tuple(items)), deaf(), number, seed, "refuse") == drawn
    assert len(drawn.utterances) == min(number, 36)
    counts = Counter((item.speaker, item.emotion) for item in drawn.utterances)
    # A group with fewer than another one has no utterance left, or its turn in this round comes later.
    available = Counter((item.speaker, item.emotion) for item in items)
    most = max(counts.values())
    assert all(counts[group] >= min(most - 1, available[group]) for group in available)


@given(st.integers(0, 200))
def test_pitch_has_enough_utterances_of_each_drawn_speaker(number: int) -> None:
    counts = {"a": 40, "b": 30, "c": 10}
    items = [Utterance(f"{name}{take}", name, "sad") for name, most in counts.items() for take in range(most)]
    drawn = draw(Corpus("c", tuple(items)), deaf(), number, 0, "refuse")
    both = (*drawn.utterances, *drawn.for_pitch)
    assert len({item.id for item in both}) == len(both)
    num_drawn = Counter(item.speaker for item in drawn.utterances)
    for name, num in Counter(item.speaker for item in both).items():
        assert num == max(num_drawn[name], min(MIN_UTTERANCES, counts[name]))
        assert num_drawn[name]


def test_all_utterances_are_drawn_for_0(corpus: Corpus) -> None:
    assert len(draw(corpus, deaf(), 0, 0, "refuse").utterances) == 36


def test_speakers_of_the_training_are_refused_left_out_or_marked(corpus: Corpus) -> None:
    model = FakeModel(lambda _: 0, ["tiny/s0_angry_0"])
    with pytest.raises(LeakError, match="speaker 's0'"):
        draw(corpus, model, 0, 0, "refuse")
    drawn = draw(corpus, model, 0, 0, "leave-out")
    assert (len(drawn.utterances), drawn.num_speakers, drawn.seen) == (30, 5, False)
    assert draw(corpus, model, 0, 0, "allow").seen
    with pytest.raises(ConfigError, match="no utterance of 'tiny' is left: all 36"):
        draw(corpus, FakeModel(lambda _: 0, [item.id for item in corpus]), 0, 0, "leave-out")


def test_a_manifest_with_splits_gives_its_test_rows(manifest: Path, tmp_path: Path) -> None:
    rows = make.read_rows(manifest)
    for number, row in enumerate(rows):
        row["split"] = ("train", "dev", "test")[number % 3]
    path = make.write_rows(tmp_path / "calls.csv", rows)
    source = CorpusSource(str(path), manifest.parent)
    (corpus,) = read_corpora([source])
    assert (corpus.name, len(corpus)) == ("calls", 12)
    assert {item.split for item in corpus} == {"test"}
    with pytest.raises(ConfigError, match="two corpora have the name 'calls'"):
        read_corpora([source, source])
    with pytest.raises(ConfigError, match=r"--protocol: bad list of speakers 'bundeld', .*'bundled'"):
        read_corpora([source], protocol="bundeld")
    with pytest.raises(ConfigError, match="has no test speakers of 'calls'"):
        read_corpora([source], protocol="five-corpora")


def test_babble_has_speech_of_several_corpora(corpus: Corpus) -> None:
    other = replace(corpus, name="other", utterances=corpus.utterances[:18])
    drawn = [draw(item, deaf(), 0, 0, "refuse") for item in (corpus, other)]
    speech = babble_speech(drawn, 0)
    assert set(speech) == {f"tiny/s{number}" for number in range(6)} | {f"other/s{n}" for n in range(3)}
    assert {len(waveforms) for waveforms in speech.values()} == {3}
    assert speaker_of(drawn[0], corpus.utterances[0]) in speech


# --- runs -----------------------------------------------------------------------------------------


def test_a_killed_run_continues_to_the_same_result(corpus: Corpus, tmp_path: Path) -> None:
    changes = [GAIN, BY_NAME["cut"], BY_NAME["pauses"]]
    whole = run(guessing(), [corpus], tmp_path / "whole", changes)
    model = guessing()
    model.stops_after = 36 + 36 + 20  # in the middle of the second change
    with pytest.raises(KeyboardInterrupt):
        run(model, [corpus], tmp_path / "killed", changes)
    again = guessing()
    assert run(again, [corpus], tmp_path / "killed", changes) == whole
    assert again.calls == 36 + 36
    cells = run(FakeModel(lambda _: None), [corpus], tmp_path / "killed", changes).cells
    assert cells == whole.cells  # nothing is computed twice


def test_more_changes_continue_a_folder(corpus: Corpus, tmp_path: Path) -> None:
    run(deaf(), [corpus], tmp_path, [GAIN])
    model = deaf()
    run(model, [corpus], tmp_path, [GAIN, BY_NAME["cut"]])
    assert model.calls == 36


def test_the_result_depends_neither_on_jobs_nor_on_order(corpus: Corpus, tmp_path: Path) -> None:
    changes = [BY_NAME[name] for name in ("gain", "cut", "babble-20db", "overlap-5db")]
    one = run(guessing(), [corpus], tmp_path / "1", changes)
    reordered = replace(corpus, utterances=corpus.utterances[::-1])
    assert run(guessing(), [reordered], tmp_path / "3", changes, jobs=3) == one
    alone = run(guessing(), [corpus], tmp_path / "alone", changes[1:2])
    assert alone.cells == one.cells[1:2]
    assert run(guessing(), [corpus], tmp_path / "seed", changes, seed=1).cells != one.cells


def test_answers_of_other_settings_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    run(deaf(), [corpus], tmp_path, [GAIN])
    with pytest.raises(ConfigError, match=r"seed is 0 there and 1 here; .*--out, or begin anew with --force"):
        run(deaf(), [corpus], tmp_path, [GAIN], seed=1)
    with pytest.raises(ConfigError, match="utterances is 300 there and 12 here"):
        run(deaf(), [corpus], tmp_path, [GAIN], utterances=12)
    model = deaf()
    run(model, [corpus], tmp_path, [GAIN], seed=1, force=True)
    assert model.calls == 72


def test_a_new_run_that_is_killed_leaves_no_results_of_the_old_one(corpus: Corpus, tmp_path: Path) -> None:
    for name in RESULTS:
        (tmp_path / name).write_text("old")

    def killed(waveform: Waveform) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(FakeModel(killed), [corpus], tmp_path, [GAIN], force=True)
    assert not [name for name in RESULTS if (tmp_path / name).exists()]


def test_a_table_shows_the_marks_that_are_missed_most() -> None:
    values = (0.5, 0.7, 0.1, 0.96, 0.3, 0.2)
    checks = tuple(Check(f"{value}", value, 0.95) for value in values)
    missed = missed_marks(Cell("fairness", "sex: female", "calls", False, 60, checks, "ours"))
    assert [text.split()[0] for text in missed[:3]] == ["0.1", "0.2", "0.3"]
    assert missed[3:] == ["and 2 more"]


def test_a_change_that_cannot_be_applied_is_left_out(corpus: Corpus, tmp_path: Path) -> None:
    alone = replace(corpus, utterances=tuple(item for item in corpus if item.speaker == "s0"))
    changes = [BY_NAME["babble-20db"], BY_NAME["music-20db"], GAIN]
    babble, music, gain = run(deaf(), [alone], tmp_path, changes).cells
    assert babble.passed is music.passed is None
    assert babble.note == "the corpora have one speaker, and the change needs speech of another one"
    assert music.note == "there is no music to mix in"
    assert gain.passed


def test_a_recording_that_breaks_off_has_no_answer(manifest: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, SAMPLE_RATE), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[:9000])
    corpus = read_manifest(manifest, name="tiny")
    broken = replace(corpus.utterances[9], path=path)
    corpus = replace(corpus, utterances=(*corpus.utterances[:9], broken, *corpus.utterances[10:]))
    result = run(deaf(), [corpus], tmp_path / "out", [GAIN, BY_NAME["babble-20db"]])
    assert {cell.utterances for cell in result.cells} == {35}
    assert all(cell.passed for cell in result.cells)
    assert result.corpora[0].no_answer == 1


def test_a_codec_that_is_missing_leaves_its_change_out(corpus: Corpus, tmp_path: Path) -> None:
    def apply(recording: Recording, rng: np.random.Generator, material: Material) -> Waveform:
        return code(recording.waveform, "no_such_codec", "ogg", 12)

    result = run(deaf(), [corpus], tmp_path, [GAIN, replace(BY_NAME["opus-12k"], apply=apply)])
    assert "lacks the codec no_such_codec" in str(result.cells[1].note)
    assert not result.passed
    assert result.example is not None
    assert result.example.changed.keys() == {"gain"}


def test_labels_that_are_no_answers_are_reported(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(emotion_of_name=("ang", "sa"))
    result = run_suite(deaf(), "fake", None, [corpus], [GAIN], True, tmp_path, options)
    assert "no label of 'tiny' (angry, sad) is an answer of the model (ang, sa)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert [check.measure for cell in result.cells for check in cell.checks] == ["unchanged"]


def test_nothing_that_is_checked_does_not_pass(corpus: Corpus, tmp_path: Path) -> None:
    result = run(deaf(), [corpus], tmp_path, [])
    assert (result.cells, result.groups, result.passed) == ((), [], False)


def test_changes_get_the_speaker_and_speech_of_the_others(corpus: Corpus, tmp_path: Path) -> None:
    seen: set[str] = set()

    def apply(recording: Recording, rng: np.random.Generator, material: Material) -> Waveform:
        assert recording.speaker in material.speech
        assert not recording.waveform.flags.writeable
        seen.add(recording.speaker)
        return recording.waveform

    run(deaf(), [corpus], tmp_path, [replace(GAIN, apply=apply)])
    assert seen == {f"tiny/s{number}" for number in range(6)}


# --- voices ---------------------------------------------------------------------------------------


def voiced(folder: Path, corpus: Corpus, out: Path, changes: Sequence[Change], **options: object) -> Result:
    model, sha256 = open_any_model(str(folder))
    chosen = Options(emotion_of_name=model.names, seen="allow", **options)  # type: ignore[arg-type]
    return run_suite(model, str(folder), sha256, [corpus], changes, False, out, chosen)


def same(recording: Recording, rng: np.random.Generator, material: Material) -> Waveform:
    return recording.waveform


def test_a_voice_is_made_of_other_utterances_with_the_same_change(demo: Corpus, tmp_path: Path) -> None:
    """All other utterances are known where a speaker has few. Then the answers are those of --adapt."""
    folder = voices.voice_model(tmp_path / "model")
    speakers = demo.speakers[:2]
    few = replace(demo, utterances=tuple(
        item for speaker in speakers for item in [u for u in demo if u.speaker == speaker][:6]
    ))  # fmt: skip
    result = voiced(folder, few, tmp_path / "out", [replace(GAIN, apply=same), BY_NAME["crop-end"]])
    assert [(cell.name, cell.voice) for cell in result.cells] == [
        ("gain", False), ("gain", True), ("crop-end", False), ("crop-end", True),
    ]  # fmt: skip
    assert {cell.figures["unchanged"] for cell in result.cells[:2]} == {1.0}
    kept = json.loads((tmp_path / "out/answers/demo/clean.json").read_text())
    recognizer = Recognizer(folder, threads=1)
    by_id = dict(
        zip(sorted(item.id for item in few), zip(kept["plain"], kept["voiced"], strict=True), strict=True)
    )
    for speaker in speakers:
        items = [item for item in few if item.speaker == speaker]
        plain = [recognizer.predict(item.path).emotion for item in items]
        together = [item.emotion for item in recognizer.predict_together([item.path for item in items])]
        assert [by_id[item.id] for item in items] == list(zip(plain, together, strict=True))


def test_models_without_voices_have_cells_without_alone(demo: Corpus, tmp_path: Path) -> None:
    folder = voices.model_without_voices(tmp_path / "model")
    result = voiced(folder, demo, tmp_path / "out", [GAIN], utterances=6)
    assert [cell.voice for cell in result.cells] == [False]


# --- any model ------------------------------------------------------------------------------------


def test_a_hugging_face_classifier(manifest: Path, tmp_path: Path, emodistill: make.CommandLine) -> None:
    folder = make.classifier(tmp_path / "model")
    result = emodistill(
        "stress", folder, "--manifest", manifest, "--utterances", 6, "--only", "append-zeros,flac", "--map",
        "ang=angry,oth=-", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.code in (0, 1), result.err
    data = json.loads((tmp_path / "out/stress.json").read_text())
    assert data["kind"] == "Hugging Face model"
    assert [cell["name"] for cell in data["cells"]] == ["append-zeros", "flac"]
    assert data["cells"][1]["figures"]["unchanged"] == pytest.approx(1, abs=0.2)
    assert set(data["cells"][1]["confusion"]) <= {"angry", "sad"}


def test_a_bare_onnx_file(manifest: Path, tmp_path: Path, emodistill: make.CommandLine) -> None:
    path = voices.voice_model(tmp_path / "model") / "model.onnx"
    command = [
        "stress",
        path,
        "--manifest",
        manifest,
        "--utterances",
        6,
        "--only",
        "gain,flac",
        "-o",
        tmp_path / "o",
    ]
    refused = emodistill(*command)
    assert refused.code == 2
    assert "does not state its emotions: name them in the order of its 4 probabilities" in refused.err
    refused = emodistill(*command, "--emotions", "angry,sad")
    assert "--emotions names 2 emotions (angry, sad), and the model puts out 4 probabilities" in refused.err
    result = emodistill(*command, "--emotions", ",".join(voices.EMOTIONS))
    assert result.code in (0, 1), result.err
    data = json.loads((tmp_path / "o/stress.json").read_text())
    assert (data["kind"], len(data["sha256"])) == ("ONNX file", 64)
    assert data["cells"][1]["figures"]["unchanged"] == 1


@pytest.mark.parametrize(
    ("type_", "shape"), [("DOUBLE", ["batch", "samples"]), ("FLOAT", ["b", 1, "s"]), ("FLOAT", [1, 48_000])]
)
def test_an_onnx_file_with_another_waveform_is_refused(
    type_: str, shape: list[object], tmp_path: Path
) -> None:
    type_id = onnx.TensorProto.DataType.Value(type_)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Abs", ["waveform"], ["probabilities"])], "g",
        [onnx.helper.make_tensor_value_info("waveform", type_id, shape)],
        [onnx.helper.make_tensor_value_info("probabilities", type_id, shape)],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"waveform \(batch, samples\) of any length, float32"):
        OnnxModel(tmp_path / "m.onnx", EMOTIONS)


def test_an_answer_that_is_no_number_is_none(corpus: Corpus, tmp_path: Path) -> None:
    model = deaf()
    broken = replace(NO_ANSWER, probabilities=np.array([np.nan, 1.0]))
    model.answer = lambda waveform: broken  # type: ignore[method-assign]
    result = run(model, [corpus], tmp_path, [GAIN])
    assert result.corpora[0].no_answer == 36
    assert result.cells[0].note == "the model gives no answer to the unchanged recordings"
    assert not result.passed


def test_weights_decide_the_sha256_of_a_hugging_face_model(tmp_path: Path) -> None:
    folder = make.classifier(tmp_path / "model")
    model, first = open_any_model(str(folder))
    assert first == open_any_model(str(folder))[1]
    network = model.model  # type: ignore[attr-defined]
    next(network.parameters()).data[0] += 1
    network.save_pretrained(folder)
    other = open_any_model(str(folder))[1]
    assert first is not None
    assert other is not None
    assert len(first) == len(other) == 64
    assert first != other


def test_a_bare_onnx_file_with_dimensions(tmp_path: Path) -> None:
    path = voices.voice_model(tmp_path, dimensions=("arousal", "valence"), emotions=()) / "model.onnx"
    model = OnnxModel(path)
    assert (model.names, len(model.dimensions)) == ((), 2)
    answer = model.answer(make.speech(0.05))
    assert answer.dimensions.shape == (2,)
    with pytest.raises(ConfigError, match="puts out dimensions alone: leave --emotions out"):
        OnnxModel(path, ["angry", "sad"])


def test_an_onnx_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = voices.voice_model(tmp_path) / "head.onnx"
    with pytest.raises(
        ModelError, match=r"expected the input waveform .*got the inputs statistics tensor\(float\)"
    ):
        OnnxModel(path, voices.EMOTIONS)
    with pytest.raises(ModelError, match=r"no file '.*none.onnx'"):
        open_any_model(str(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        open_any_model(str(tmp_path / "text.onnx"), ["angry"])
    with pytest.raises(ConfigError, match=r"--emotions names the outputs of a bare .onnx file"):
        open_any_model("bundled", ["angry"])


def test_a_checkpoint_answers_waveforms_as_it_answers_files(run: Path, corpus: Corpus) -> None:
    model, _ = open_any_model(str(run))
    items = corpus.utterances[:3]
    _, probabilities = model(items)  # type: ignore[operator]
    for item, expected in zip(items, probabilities, strict=True):
        assert item.path is not None
        np.testing.assert_allclose(model.answer(load(item.path)).probabilities, expected, atol=1e-5)


def test_a_teacher_of_text_is_refused(run: Path) -> None:
    model, _ = open_any_model(str(next(run.glob("fold-*/*/linguistic/model.json")).parent))
    with pytest.raises(ModelError, match="needs more than audio, such as a transcript"):
        model.answer(make.speech())


def test_names_that_are_mapped_are_checked() -> None:
    model = deaf()
    assert answered_emotions(model, {"sad": None}) == ("angry", None)
    assert answered_emotions(model, {"sad": "angry"}) == ("angry", "angry")
    with pytest.raises(ConfigError, match=r"--map sda=…: bad name of the model 'sda', .*did you mean 'sad'"):
        answered_emotions(model, {"sda": "sad"})
    with pytest.raises(ConfigError, match="--map leaves all names of the model out"):
        answered_emotions(model, {"sad": None, "angry": None})


# --- what it writes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run in which gain fails, and in which music is not run."""
    folder = tmp_path_factory.mktemp("finished")
    changes = [GAIN, BY_NAME["flac"], BY_NAME["music-5db"], BY_NAME["overlap-5db"]]
    return run(hears_loudness(median_level(corpus)), [corpus], folder, changes)


def test_junit_has_a_test_case_for_each_cell(finished: Result, tmp_path: Path) -> None:
    """The file keeps the rules of the JUnit schema that servers of continuous integration read."""
    write_junit(finished, tmp_path / "junit.xml")
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert root.tag == "testsuites"
    suites = list(root)
    assert [suite.get("name") for suite in suites] == ["stress.small", "stress.sounds"]
    for element in (root, *suites):
        cases = list(element.iter("testcase"))
        assert element.get("tests") == str(len(cases))
        assert element.get("failures") == str(len(list(element.iter("failure"))))
        assert element.get("skipped") == str(len(list(element.iter("skipped"))))
        assert element.get("errors") == "0"
    cases = list(root.iter("testcase"))
    assert len(cases) == len(finished.cells) == 4
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == 4
    assert all(child.tag in ("failure", "skipped") for case in cases for child in case)
    failure = cases[0].find("failure")
    assert failure is not None
    assert re.fullmatch(r"unchanged [\d.]+ %, mark 95.0 %", failure.get("message", ""))
    assert next(root.iter("skipped")).get("message") == "there is no music to mix in"


def test_the_documented_fields_are_those_of_the_file(finished: Result) -> None:
    text = (ROOT / "docs/reference/json.md").read_text()
    data = json.loads(json.dumps(result_dict(finished)))
    sections = {
        "## stress.json": data, "### Group of cells": data["groups"]["small"],
        "### Corpus of the suite": data["corpora"][0], "### Cell": data["cells"][0],
        "### Check": data["cells"][0]["checks"][0],
    }  # fmt: skip
    for title, found in sections.items():
        part = re.split(r"^#+ ", text.split(f"\n{title}\n")[1], flags=re.M)[0]
        assert re.findall(r"^\| `(\w+)` \|", part, flags=re.M) == list(found), title


def test_the_change_with_the_worst_cell_stands_first() -> None:
    def cell(name: str, corpus: str, value: float, mark: float) -> Cell:
        return Cell("small", name, corpus, False, 9, (Check("unchanged", value, mark),), "ours")

    cells = [
        cell("a", "c", 0.9, 0.95), cell("b", "c", 0.5, 0.8), cell("c", "c", 1.0, 0.95),
        cell("d", "c", 0.6, 0.95), cell("b", "d", 0.7, 0.8), cell("b", "e", 0.9, 0.8),
        Cell("small", "b", "f", False, 0, (), "ours"),
    ]  # fmt: skip
    found = failures(cells)
    assert [item.worst.name for item in found] == ["d", "b", "a"]
    assert found[1].place == "c; 2 of 3 cells fail"


def test_a_group_passes_if_enough_cells_pass(finished: Result) -> None:
    assert finished.share("small") == 0.5
    assert not finished.group_passes("small")
    enough = replace(finished, required={"small": 0.5})
    assert enough.group_passes("small")
    assert [cell.name for cell in enough.not_run] == ["music-5db"]
    assert not enough.passed  # a change that was not run is no pass
    assert replace(enough, cells=tuple(cell for cell in finished.cells if cell.checks)).passed


def test_the_verb_from_end_to_end(tmp_path: Path, emodistill: make.CommandLine) -> None:
    folder = voices.voice_model(tmp_path / "model")
    command = [
        "stress",
        folder,
        "--corpus",
        "demo",
        "--utterances",
        8,
        "--only",
        "small,fairness",
        "-o",
        tmp_path / "out",
    ]
    result = emodistill(*command, "--jobs", 2)
    data = json.loads((tmp_path / "out/stress.json").read_text())
    assert result.code == (0 if data["passed"] else 1)
    assert ("What fails first" in result.out) == any(cell["passed"] is False for cell in data["cells"])
    assert len([cell for cell in data["cells"] if cell["group"] == "small"]) == 40
    page = (tmp_path / "out/stress.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<audio") == 2 * len(SMALL)
    assert all(f'id="change-{change.name}"' in page for change in SMALL)
    written = (tmp_path / "out/stress.json").read_bytes()
    again = emodistill(*command, "--no-audio")
    assert again.code == result.code
    assert (tmp_path / "out/stress.json").read_bytes() == written
    assert "<audio" not in (tmp_path / "out/stress.html").read_text()


def test_recordings_without_labels(manifest: Path, tmp_path: Path, emodistill: make.CommandLine) -> None:
    rows = [{"path": row["path"], "speaker": row["speaker"]} for row in make.read_rows(manifest)]
    path = make.write_rows(tmp_path / "calls.csv", rows)
    folder = voices.model_without_voices(tmp_path / "model")
    result = emodistill(
        "stress", folder / "model.onnx", "--emotions", ",".join(voices.EMOTIONS), "--manifest", path,
        "--root", manifest.parent, "--utterances", 6, "--only", "flac,white-noise-20db",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.code in (0, 1), result.err
    cells = json.loads((tmp_path / "out/stress.json").read_text())["cells"]
    assert [[check["measure"] for check in cell["checks"]] for cell in cells] == [["unchanged"]] * 2
    assert "has no column emotion, so only the answers that stay are counted" in result.err


def test_music_of_a_folder_is_mixed_in(manifest: Path, tmp_path: Path, emodistill: make.CommandLine) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("one", 0.1), ("two", 0.2)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "tune.wav", level * rng.standard_normal(32_000), SAMPLE_RATE)
    path = voices.voice_model(tmp_path / "model") / "model.onnx"
    command = [
        "stress", path, "--emotions", ",".join(voices.EMOTIONS), "--manifest", manifest, "--utterances", 4,
        "--only", "music-20db", "-o", tmp_path / "out", "--music",
    ]  # fmt: skip
    assert emodistill(*command, tmp_path / "one").code in (0, 1)
    refused = emodistill(*command, tmp_path / "two")
    assert refused.code == 2
    assert "holds answers with other music than this run" in refused.err


def test_the_list_needs_no_model(emodistill: make.CommandLine) -> None:
    result = emodistill("stress", "--list")
    assert result.code == 0
    for change in CHANGES:
        assert change.name in result.out
    assert "ser-tests" in result.out
    marks = read_marks()["sounds"]["babble-20db"]
    line = next(line for line in result.out.splitlines() if "babble-20db" in line)
    assert f"{100 * marks.unchanged:.0f} %" in line
    assert f"{100 * marks.ua:+.0f}" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a model, such as bundled"),
        (["bundled"], "no recordings: name a known corpus with --corpus NAME=DIR"),
        (["bundled", "--corpus", "ravdess"], "bad --corpus 'ravdess', expected NAME=DIR"),
        (["bundled", "--corpus", "ravdes=/x"], "did you mean 'ravdess'"),
        (["bundled", "--corpus", "ravdess=/no/such"], "no folder '/no/such'"),
        (["bundled", "--manifest", "no.csv"], "no manifest 'no.csv'"),
        (["bundled", "--corpus", "demo", "--only", "gian"], "did you mean 'gain'"),
        (["bundled", "--corpus", "demo", "--protocol", "five-corpus"], "did you mean 'five-corpora'"),
        (["bundled", "--corpus", "demo", "--map", "angry=x"], "--map angry=x: bad emotion 'x'"),
        (["bundeld", "--corpus", "demo"], "'bundeld' is no model: expected bundled"),
    ],
)
def test_mistakes_are_reported(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    emodistill: make.CommandLine,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = emodistill("stress", *arguments)
    assert result.code == 2
    assert message in " ".join(result.err.split())
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_reported_before_heavy_imports(tmp_path: Path) -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('loaded:', [name for name in ('torch', 'scipy', 'transformers', 'av') "
        "if name in sys.modules]))\n"
        "from emodistill.cli import main\nmain()"
    )
    for arguments in (["--only", "gian"], ["--protocol", "five-corpus"], ["--map", "angry=x"]):
        command = [sys.executable, "-c", program, "stress", "bundled", "--corpus", "demo", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "loaded: []\n")


def test_help_teaches_and_is_fast(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom emodistill.cli import main\ntry:\n main()\nfinally:\n print(sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "stress", "--help"], capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    for name in ("numpy", "torch", "scipy", "jinja2", "onnxruntime"):
        assert f"'{name}'" not in done.stdout
    for text in (
        "--corpus",
        "--protocol",
        "--list",
        "Exit code 0",
        "emodistill stress bundled --corpus demo",
    ):
        assert text in done.stdout


def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, emodistill: make.CommandLine
) -> None:
    from emodistill.cli import stress as verb

    monkeypatch.setattr(verb, "find_spec", lambda name: None if name == "scipy" else object())
    result = emodistill("stress", "bundled", "--corpus", "demo")
    assert result.code == 2
    assert "needs the package 'scipy', which is not installed: pip install 'emodistill[stress]'" in result.err


def test_onnx_interface_of_the_docs_is_that_of_exports(tmp_path: Path) -> None:
    graph = onnx.load(voices.model_without_voices(tmp_path) / "model.onnx").graph
    text = (ROOT / "docs/how-to/stress.md").read_text()
    assert [item.name for item in graph.input] == ["waveform"]
    assert "input `waveform`" in text
    assert "probabilities" in [item.name for item in graph.output]
