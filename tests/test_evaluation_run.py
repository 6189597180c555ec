"""Any model on any corpus: what labels mean, what was heard before, and every kind of model."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.config import AudioConfig
from emodistill.corpora import Corpus, Utterance, read_manifest
from emodistill.errors import ConfigError, LeakError, ModelError
from emodistill.evaluation.compare import compare_runs
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run
from emodistill.inference.recognizer import Recognizer
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import load_checkpoint
from emodistill.training.evaluation_run import (
    declared,
    evaluate,
    heard_before,
    open_labelled,
    open_model,
    read_mapping,
    scored_emotions,
)


class Parrot:
    """A model without weights: it knows what it is told."""

    kind = "parrot"

    def __init__(
        self, names: Sequence[str], answers: dict[str, Sequence[float]], heard: Sequence[str] = ()
    ) -> None:
        self.names, self.answers, self.known_ids = tuple(names), answers, frozenset(heard)

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], np.ndarray]:
        rows = [row for row, item in enumerate(utterances) if item.id in self.answers]
        return rows, np.array([self.answers[utterances[row].id] for row in rows])


def corpus() -> Corpus:
    emotions = ("angry", "sad", "happy", "angry")
    items = (Utterance(f"u{i}", f"s{i // 2}", emotion, corpus="c") for i, emotion in enumerate(emotions))
    return Corpus("c", tuple(items))


ANSWERS = {
    "u0": [0.2, 0.4, 0.1, 0.3],
    "u1": [0.1, 0.1, 0.1, 0.7],
    "u2": [0, 0, 1, 0],
    "u3": [0.4, 0.4, 0.1, 0.1],
}
NAMES = ("ang", "fru", "hap", "sad")
MEANT = {"ang": "angry", "fru": "angry", "hap": "happy"}


# --- labels ---------------------------------------------------------------------------------------


def test_names_that_mean_one_emotion_add_up(tmp_path: Path) -> None:
    assert evaluate(Parrot(NAMES, ANSWERS), corpus(), tmp_path, "parrot", MEANT) == 0
    table = read_predictions(tmp_path / "predictions.csv")
    assert table.labels.names == ("angry", "happy", "sad")
    assert table.probabilities[0] == pytest.approx([0.6, 0.1, 0.3])
    assert [table.labels.names[label] for label in table.predicted] == ["angry", "sad", "happy", "angry"]
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert told["mapping"] == {**MEANT, "sad": "sad"}


def test_what_is_not_scored_is_left_out_on_both_sides(tmp_path: Path) -> None:
    evaluate(Parrot(NAMES, ANSWERS), corpus(), tmp_path, "parrot", {**MEANT, "fru": None}, ["angry", "sad"])
    table = read_predictions(tmp_path / "predictions.csv")
    assert table.utterances == ("u0", "u1", "u3")
    assert table.probabilities[0] == pytest.approx([0.2 / 0.5, 0.3 / 0.5])
    assert json.loads((tmp_path / "evaluation.json").read_text())["left_out"] == {"of other emotions": 1}


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"the model says \['ang', 'sad'\], and \['ang'\] are no emotions .*--map ang="
    ):
        declared(("ang", "sad"), {})
    with pytest.raises(ConfigError, match=r"bad name to map 'agn', .*did you mean 'ang'"):
        declared(("ang",), {"agn": "angry"})
    with pytest.raises(ConfigError, match=r"--map ang=angri: bad emotion 'angri'"):
        declared(("ang",), {"ang": "angri"})
    meant = declared(("angry", "sad", "calm"), {})
    with pytest.raises(ConfigError, match="declare what is scored, as in --emotions angry,sad"):
        scored_emotions(meant, LabelSet(("angry", "sad", "bored")), None)
    with pytest.raises(ConfigError, match=r"'bored', .* these the model says"):
        scored_emotions(meant, LabelSet(("angry", "sad", "bored")), ["angry", "bored"])
    with pytest.raises(ConfigError, match=r"'calm', .* these the corpus has"):
        scored_emotions(meant, LabelSet(("angry", "sad", "bored")), ["calm"])
    assert scored_emotions(meant, LabelSet(("angry", "sad", "bored")), ["sad", "angry"]).names == (
        "angry",
        "sad",
    )


def test_mappings_are_read_or_refused() -> None:
    assert read_mapping("ang=angry, oth=-") == {"ang": "angry", "oth": None}
    assert read_mapping(None) == {}
    for text, message in (
        ("ang", "bad --map 'ang'"),
        ("a=angry,a=sad", "says twice what 'a' means"),
        ("=x", "bad --map"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_mapping(text)


# --- what was heard before ------------------------------------------------------------------------


def test_a_speaker_heard_in_training_is_found_by_one_utterance() -> None:
    items = corpus().utterances
    for seen in ("u1", "c/u1"):
        assert heard_before(items, frozenset({seen}), "c").tolist() == [True, True, False, False]
    pooled = [Utterance(f"c/{item.id}", item.speaker, item.emotion, corpus="c") for item in items]
    assert heard_before(pooled, frozenset({"u3"}), "pool").tolist() == [False, False, True, True]
    assert not heard_before(items, frozenset({"other/u1", "u9"}), "c").any()


def test_a_leak_is_refused_left_out_or_stamped(tmp_path: Path) -> None:
    leaky = Parrot(NAMES, ANSWERS, ["u1"])
    with pytest.raises(
        LeakError, match=r"2 of 4 utterances are of 1 speakers .* first 'u0' \(speaker 's0'\)"
    ):
        evaluate(leaky, corpus(), tmp_path / "a", "parrot", MEANT)
    assert not (tmp_path / "a").exists()
    evaluate(leaky, corpus(), tmp_path / "b", "parrot", MEANT, heard="leave-out")
    assert read_predictions(tmp_path / "b/predictions.csv").utterances == ("u2", "u3")
    evaluate(leaky, corpus(), tmp_path / "c", "parrot", MEANT, heard="allow")
    assert len(read_predictions(tmp_path / "c/predictions.csv")) == 4
    assert score_run(read_run(tmp_path / "c")).protocol.endswith("LEAKS training data BY DESIGN")
    everything = Parrot(NAMES, ANSWERS, ["u1", "u2"])
    with pytest.raises(ConfigError, match="nothing of 'c' is left to score"):
        evaluate(everything, corpus(), tmp_path / "d", "parrot", MEANT, heard="leave-out")


def test_what_cannot_be_judged_is_counted(tmp_path: Path) -> None:
    some = Parrot(NAMES, {"u0": ANSWERS["u0"]})
    assert evaluate(some, corpus(), tmp_path / "a", "parrot", MEANT) == 3
    assert score_run(read_run(tmp_path / "a")).models[0].num_utterances == 1
    with pytest.raises(ModelError, match="could not judge any of 4 utterances"):
        evaluate(Parrot(NAMES, {}), corpus(), tmp_path / "b", "parrot", MEANT)


def test_a_training_is_not_overwritten(run: Path) -> None:
    with pytest.raises(ConfigError, match="holds a training"):
        evaluate(Parrot(NAMES, ANSWERS), corpus(), run, "parrot", MEANT)


def test_another_evaluation_is_not_overwritten(tmp_path: Path) -> None:
    parrot = Parrot(NAMES, ANSWERS)
    evaluate(parrot, corpus(), tmp_path, "parrot", MEANT)
    before = (tmp_path / "predictions.csv").read_bytes()
    evaluate(parrot, corpus(), tmp_path, "parrot", MEANT)  # the same again
    for model, emotions, message in (
        ("another", None, "model: 'parrot' there, 'another' asked"),
        (
            "parrot",
            ["angry", "sad"],
            r"emotions: \['angry', 'happy', 'sad'\] there, \['angry', 'sad'\] asked",
        ),
    ):
        with pytest.raises(ConfigError, match=f"holds another evaluation .{message}"):
            evaluate(parrot, corpus(), tmp_path, model, MEANT, emotions)
    assert (tmp_path / "predictions.csv").read_bytes() == before


def test_an_edited_evaluation_is_refused_by_row(tmp_path: Path) -> None:
    evaluate(Parrot(NAMES, ANSWERS), corpus(), tmp_path, "parrot", MEANT)
    path = tmp_path / "predictions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    with pytest.raises(ModelError, match=r"was changed after the run was scored: row 3 is 'u2,.*', was 'u1,"):
        read_run(tmp_path).table()


def test_evaluations_are_compared_like_runs(tmp_path: Path) -> None:
    wrong = {name: [0.0, 0.0, 0.0, 1.0] for name in ANSWERS}
    evaluate(Parrot(NAMES, ANSWERS), corpus(), tmp_path / "a", "right", MEANT)
    evaluate(Parrot(NAMES, wrong), corpus(), tmp_path / "b", "wrong", MEANT)
    assert compare_runs([tmp_path / "a", tmp_path / "b"])[0].differences["wa"].value == pytest.approx(-0.75)
    with pytest.raises(ModelError, match=r"holds an evaluation, not a training"):
        _ = read_run(tmp_path / "a").recipe


# --- kinds of model -------------------------------------------------------------------------------


def others(tmp_path: Path) -> Path:
    """A corpus of the same sounds by speakers of other names."""
    manifest = make.corpus_folder(tmp_path / "new", speakers=3)
    rows = make.read_rows(manifest)
    return make.write_rows(
        manifest, [{**row, "id": f"new {row['id']}", "speaker": "n" + row["speaker"]} for row in rows]
    )


def test_a_checkpoint_says_what_it_said_in_its_run(run: Path, tmp_path: Path) -> None:
    fold = read_run(run).scores["folds"][0]
    for name in ("student", "prosodic", "linguistic"):
        judge, digest = open_model(str(run / f"fold-{fold}/refit/{name}"))
        assert digest is not None
        suffix = "" if name == "student" else f"-{name}"
        table = read_predictions(run / f"fold-{fold}/predictions{suffix}.csv")
        known = read_run(run).utterances
        assert known is not None
        rows, said = judge([known[utterance] for utterance in table.utterances])
        assert rows == list(range(len(table)))
        np.testing.assert_allclose(said, table.probabilities, atol=1e-5)
    lone, _ = open_model(str(run))
    assert lone.known_ids == frozenset(
        read_run(run).protocol.fold(fold).train + read_run(run).protocol.fold(fold).dev
    )


def test_dev_speakers_count_as_heard_by_what_was_chosen_by_them(run: Path) -> None:
    fold = read_run(run).protocol.folds[0]
    found = load_checkpoint(run / f"fold-{fold.name}/select/student")
    assert set(found.training_ids) == set(fold.train)
    judge, _ = open_model(str(run / f"fold-{fold.name}/select/student"))
    assert judge.known_ids == {*fold.train, *fold.dev}


def test_a_checkpoint_hears_recordings_as_its_run_prepared_them(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "run"
    shutil.copytree(run, there)
    text = (there / "recipe.toml").read_text()
    (there / "recipe.toml").write_text(text.replace("trim_db = 35.0", "trim_db = 20.0"))
    judge, _ = open_model(str(there / "fold-1/refit/student"))
    assert judge.audio == AudioConfig(trim_db=20.0)  # type: ignore[attr-defined]


def test_an_exported_model_is_asked_through_the_recogniser(exported: Path, tmp_path: Path) -> None:
    manifest = others(tmp_path)
    judge, _ = open_model(str(exported))
    assert judge.known_ids, "the exported file lists what it learned from"
    items = read_manifest(manifest).utterances
    rows, said = judge(items)
    recognizer = Recognizer(exported)
    for row, values in zip(rows, said, strict=True):
        sound, rate = soundfile.read(items[row].path, dtype="float32")
        found = recognizer.predict(sound, rate).probabilities
        expected = recognizer.probabilities(sound) if found is None else list(found.values())
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_an_exported_model_is_refused_on_its_own_training_data(
    exported: Path, manifest: Path, tmp_path: Path
) -> None:
    arguments = ["evaluate", str(exported), str(manifest), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, LeakError)
    result = CliRunner().invoke(app, [*arguments, "--seen", "leave-out", "-f", "json"])
    assert result.exit_code == 0, result.output
    held_out = set(read_predictions(tmp_path / "out/predictions.csv").speakers)
    trained = {name.split("_")[0] for name in open_model(str(exported))[0].known_ids}
    assert held_out
    assert not held_out & trained
    data = json.loads(result.stdout)
    assert data["models"][0]["model"] == "model"


def test_a_hugging_face_classifier_is_asked_with_declared_labels(tmp_path: Path) -> None:
    from transformers import AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

    folder, manifest = make.classifier(tmp_path / "model"), others(tmp_path)
    arguments = ["evaluate", str(folder), str(manifest), "-o", str(tmp_path / "out"), "-f", "json"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, ConfigError)
    assert "declare what they mean with --map ang=…,oth=…" in str(refused.exception)
    result = CliRunner().invoke(app, [*arguments, "--map", "ang=angry,oth=-"])
    assert result.exit_code == 0, result.output
    table = read_predictions(tmp_path / "out/predictions.csv")
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    for row, item in enumerate(read_manifest(manifest)):
        sound, rate = soundfile.read(item.path, dtype="float32")
        inputs = Wav2Vec2FeatureExtractor()(sound, sampling_rate=rate, return_tensors="pt")
        with torch.no_grad():
            said = model(**inputs).logits[0, :2].double().softmax(dim=0)
        np.testing.assert_allclose(table.probabilities[row], said, atol=1e-5)


def test_what_is_no_model_or_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ModelError, match=r"is no model: expected bundled, a hub id, or a folder with card\.json"
    ):
        open_model(str(tmp_path / "empty"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text("{}")
    with pytest.raises(ModelError, match="is no audio classifier that transformers can load"):
        open_model(str(tmp_path / "bad"))
    with pytest.raises(ConfigError, match=r"bad corpus 'ravdes', .*did you mean 'ravdess'.*or a manifest"):
        open_labelled("ravdes", None, None)
    with pytest.raises(
        ConfigError, match="'ravdess' is read from a folder: emodistill evaluate MODEL ravdess FOLDER"
    ):
        open_labelled("ravdess", None, None)


def test_unreadable_audio_is_told_by_the_exit_code(exported: Path, tmp_path: Path) -> None:
    manifest = others(tmp_path)
    (manifest.parent / make.read_rows(manifest)[0]["path"]).write_bytes(b"")
    result = CliRunner().invoke(
        app, ["evaluate", str(exported), str(manifest), "-o", str(tmp_path / "out"), "-f", "csv"]
    )
    assert result.exit_code == 1, result.output
    assert len(read_predictions(tmp_path / "out/predictions.csv")) == len(make.read_rows(manifest)) - 1
