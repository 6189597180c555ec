"""Any model on any corpus: the meaning of labels, seen speakers, and every kind of model."""

import json
import re
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
from emodistill.corpora.load import CorpusSource
from emodistill.errors import ConfigError, CorpusError, LeakError, ModelError
from emodistill.evaluation.compare import compare_runs
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run
from emodistill.inference.recognizer import Recognizer
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import load_checkpoint
from emodistill.training.evaluated_models import open_model
from emodistill.training.evaluation_run import (
    by_seen_speakers,
    complete_mapping,
    evaluate,
    read_every_utterance,
    read_mapping,
    scored_emotions,
)


class FixedModel:
    """A model without weights, with given probabilities for each utterance."""

    kind = "fixed"
    has_voices = False
    dimensions = ()

    def __init__(
        self, names: Sequence[str], probabilities: dict[str, Sequence[float]], known_ids: Sequence[str] = ()
    ) -> None:
        self.names, self.probabilities, self.known_ids = tuple(names), probabilities, frozenset(known_ids)

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], np.ndarray]:
        rows = [row for row, item in enumerate(utterances) if item.id in self.probabilities]
        return rows, np.array([self.probabilities[utterances[row].id] for row in rows])


def corpus() -> Corpus:
    emotions = ("angry", "sad", "happy", "angry")
    items = (Utterance(f"u{i}", f"s{i // 2}", emotion, corpus="c") for i, emotion in enumerate(emotions))
    return Corpus("c", tuple(items))


PROBABILITIES = {
    "u0": [0.2, 0.4, 0.1, 0.3],
    "u1": [0.1, 0.1, 0.1, 0.7],
    "u2": [0, 0, 1, 0],
    "u3": [0.4, 0.4, 0.1, 0.1],
}
NAMES = ("ang", "fru", "hap", "sad")
MAPPING = {"ang": "angry", "fru": "angry", "hap": "happy"}


# --- labels ---------------------------------------------------------------------------------------


def test_probabilities_of_names_with_one_emotion_add_up(tmp_path: Path) -> None:
    assert evaluate(FixedModel(NAMES, PROBABILITIES), corpus(), tmp_path, "fixed", MAPPING) == 0
    table = read_predictions(tmp_path / "predictions.csv")
    assert table.labels.names == ("angry", "happy", "sad")
    assert table.probabilities[0] == pytest.approx([0.6, 0.1, 0.3])
    assert [table.labels.names[label] for label in table.predicted] == ["angry", "sad", "happy", "angry"]
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert evaluation["mapping"] == {**MAPPING, "sad": "sad"}


def test_other_emotions_are_left_out_of_model_and_corpus(tmp_path: Path) -> None:
    evaluate(
        FixedModel(NAMES, PROBABILITIES),
        corpus(),
        tmp_path,
        "fixed",
        {**MAPPING, "fru": None},
        ["angry", "sad"],
    )
    table = read_predictions(tmp_path / "predictions.csv")
    assert table.utterances == ("u0", "u1", "u3")
    assert table.probabilities[0] == pytest.approx([0.2 / 0.5, 0.3 / 0.5])
    assert json.loads((tmp_path / "evaluation.json").read_text())["left_out"] == {"of other emotions": 1}


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"the model has the names \['ang', 'sad'\], and \['ang'\] are no emotions .*--map ang=",
    ):
        complete_mapping(("ang", "sad"), {})
    with pytest.raises(ConfigError, match=r"--map agn=…: bad name of the model 'agn', .*did you mean 'ang'"):
        complete_mapping(("ang",), {"agn": "angry"})
    with pytest.raises(ConfigError, match=r"--map ang=angri: bad emotion 'angri'"):
        complete_mapping(("ang",), {"ang": "angri"})
    mapping = complete_mapping(("angry", "sad", "calm"), {})
    with pytest.raises(ConfigError, match="choose those to score, as in --emotions angry,sad"):
        scored_emotions(mapping, LabelSet(("angry", "sad", "bored")), None)
    with pytest.raises(ConfigError, match=r"--emotions: bad emotion of the model 'bored'"):
        scored_emotions(mapping, LabelSet(("angry", "sad", "bored")), ["angry", "bored"])
    with pytest.raises(ConfigError, match=r"--emotions: bad emotion of the corpus 'calm'"):
        scored_emotions(mapping, LabelSet(("angry", "sad", "bored")), ["calm"])
    assert scored_emotions(mapping, LabelSet(("angry", "sad", "bored")), ["sad", "angry"]).names == (
        "angry",
        "sad",
    )


def test_mappings_are_read_or_refused() -> None:
    assert read_mapping("ang=angry, oth=-") == {"ang": "angry", "oth": None}
    assert read_mapping(None) == {}
    for text, message in (
        ("ang", "bad --map 'ang'"),
        ("a=angry,a=sad", "gives two emotions for 'a'"),
        ("=x", "bad --map"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_mapping(text)


# --- seen speakers ---------------------------------------------------------------------------------


def test_one_utterance_in_the_training_data_marks_its_speaker_as_seen() -> None:
    items = corpus().utterances
    for known_id in ("u1", "c/u1"):
        assert by_seen_speakers(items, frozenset({known_id}), "c").tolist() == [True, True, False, False]
    pooled = [Utterance(f"c/{item.id}", item.speaker, item.emotion, corpus="c") for item in items]
    assert by_seen_speakers(pooled, frozenset({"u3"}), "pool").tolist() == [False, False, True, True]
    assert not by_seen_speakers(items, frozenset({"other/u1", "u9"}), "c").any()


def test_seen_speakers_are_refused_left_out_or_marked(tmp_path: Path) -> None:
    leaky = FixedModel(NAMES, PROBABILITIES, ["u1"])
    with pytest.raises(
        LeakError, match=r"2 of 4 utterances are by 1 such speakers, the first is 'u0' \(speaker 's0'\)"
    ):
        evaluate(leaky, corpus(), tmp_path / "a", "fixed", MAPPING)
    assert not (tmp_path / "a").exists()
    evaluate(leaky, corpus(), tmp_path / "b", "fixed", MAPPING, seen="leave-out")
    assert read_predictions(tmp_path / "b/predictions.csv").utterances == ("u2", "u3")
    evaluate(leaky, corpus(), tmp_path / "c", "fixed", MAPPING, seen="allow")
    assert len(read_predictions(tmp_path / "c/predictions.csv")) == 4
    assert score_run(read_run(tmp_path / "c")).protocol.endswith("LEAKS training data BY DESIGN")
    everything = FixedModel(NAMES, PROBABILITIES, ["u1", "u2"])
    with pytest.raises(ConfigError, match="no utterance of 'c' is left to score"):
        evaluate(everything, corpus(), tmp_path / "d", "fixed", MAPPING, seen="leave-out")


def test_utterances_without_a_prediction_are_counted(tmp_path: Path) -> None:
    some = FixedModel(NAMES, {"u0": PROBABILITIES["u0"]})
    assert evaluate(some, corpus(), tmp_path / "a", "fixed", MAPPING) == 3
    assert score_run(read_run(tmp_path / "a")).models[0].num_utterances == 1
    with pytest.raises(ModelError, match="could classify none of 4 utterances"):
        evaluate(FixedModel(NAMES, {}), corpus(), tmp_path / "b", "fixed", MAPPING)


def test_a_training_run_is_not_overwritten(run: Path) -> None:
    with pytest.raises(ConfigError, match="holds a training run"):
        evaluate(FixedModel(NAMES, PROBABILITIES), corpus(), run, "fixed", MAPPING)


def test_another_evaluation_is_not_overwritten(tmp_path: Path) -> None:
    fixed = FixedModel(NAMES, PROBABILITIES)
    evaluate(fixed, corpus(), tmp_path, "fixed", MAPPING)
    before = (tmp_path / "predictions.csv").read_bytes()
    evaluate(fixed, corpus(), tmp_path, "fixed", MAPPING)  # the same again
    for model, emotions, message in (
        ("another", None, "model is 'fixed' there and 'another' here"),
        (
            "fixed",
            ["angry", "sad"],
            r"emotions is \['angry', 'happy', 'sad'\] there and \['angry', 'sad'\] here",
        ),
    ):
        with pytest.raises(ConfigError, match=f"holds another evaluation: {message}"):
            evaluate(fixed, corpus(), tmp_path, model, MAPPING, emotions)
    assert (tmp_path / "predictions.csv").read_bytes() == before


def test_an_edited_evaluation_is_refused_with_the_row(tmp_path: Path) -> None:
    evaluate(FixedModel(NAMES, PROBABILITIES), corpus(), tmp_path, "fixed", MAPPING)
    path = tmp_path / "predictions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    with pytest.raises(ModelError, match=r"was changed after the run was scored: row 3 is 'u2,.*', was 'u1,"):
        read_run(tmp_path).table()


def test_evaluations_are_compared_like_runs(tmp_path: Path) -> None:
    wrong = {name: [0.0, 0.0, 0.0, 1.0] for name in PROBABILITIES}
    evaluate(FixedModel(NAMES, PROBABILITIES), corpus(), tmp_path / "a", "right", MAPPING)
    evaluate(FixedModel(NAMES, wrong), corpus(), tmp_path / "b", "wrong", MAPPING)
    assert compare_runs([tmp_path / "a", tmp_path / "b"])[0].differences["wa"].value == pytest.approx(-0.75)
    with pytest.raises(ModelError, match=r"holds an evaluation, not a training"):
        _ = read_run(tmp_path / "a").recipe


# --- kinds of model -------------------------------------------------------------------------------


def other_speakers(tmp_path: Path) -> Path:
    """The manifest of a corpus with the same recordings and other names of speakers."""
    manifest = make.corpus_folder(tmp_path / "new", speakers=3)
    rows = make.read_rows(manifest)
    return make.write_rows(
        manifest, [{**row, "id": f"new {row['id']}", "speaker": "n" + row["speaker"]} for row in rows]
    )


def test_a_checkpoint_predicts_the_same_as_in_its_run(run: Path, tmp_path: Path) -> None:
    fold = read_run(run).scores["folds"][0]
    for name in ("student", "prosodic", "linguistic"):
        model, digest = open_model(str(run / f"fold-{fold}/refit/{name}"))
        assert digest is not None
        suffix = "" if name == "student" else f"-{name}"
        table = read_predictions(run / f"fold-{fold}/predictions{suffix}.csv")
        utterances = read_run(run).utterances
        assert utterances is not None
        rows, probabilities = model([utterances[item] for item in table.utterances])
        assert rows == list(range(len(table)))
        np.testing.assert_allclose(probabilities, table.probabilities, atol=1e-5)
    student, _ = open_model(str(run))
    assert student.known_ids == frozenset(
        read_run(run).protocol.fold(fold).train + read_run(run).protocol.fold(fold).dev
    )


def test_dev_speakers_count_as_seen(run: Path) -> None:
    fold = read_run(run).protocol.folds[0]
    checkpoint = load_checkpoint(run / f"fold-{fold.name}/select/student")
    assert set(checkpoint.training_ids) == set(fold.train)
    model, _ = open_model(str(run / f"fold-{fold.name}/select/student"))
    assert model.known_ids == {*fold.train, *fold.dev}


def test_recordings_are_prepared_as_in_the_checkpoints_run(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    text = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(text.replace("trim_db = 35.0", "trim_db = 20.0"))
    model, _ = open_model(str(copy / "fold-1/refit/student"))
    assert model.audio == AudioConfig(trim_db=20.0)  # type: ignore[attr-defined]


def test_an_exported_model_runs_through_the_recogniser(exported: Path, tmp_path: Path) -> None:
    manifest = other_speakers(tmp_path)
    model, _ = open_model(str(exported))
    assert model.known_ids, "the exported file lists its training data"
    items = read_manifest(manifest).utterances
    rows, probabilities = model(items)
    recognizer = Recognizer(exported)
    for row, values in zip(rows, probabilities, strict=True):
        sound, rate = soundfile.read(items[row].path, dtype="float32")
        predicted = recognizer.predict(sound, rate).probabilities
        expected = list(predicted.values()) if predicted else recognizer.probabilities(sound)
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


def test_a_hugging_face_classifier_needs_the_emotions_of_its_names(tmp_path: Path) -> None:
    from transformers import AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

    folder, manifest = make.classifier(tmp_path / "model"), other_speakers(tmp_path)
    arguments = ["evaluate", str(folder), str(manifest), "-o", str(tmp_path / "out"), "-f", "json"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, ConfigError)
    assert "give their emotions with --map ang=…,oth=…" in str(refused.exception)
    result = CliRunner().invoke(app, [*arguments, "--map", "ang=angry,oth=-"])
    assert result.exit_code == 0, result.output
    assert re.search(r"--map leaves 'oth' out: most probable for \d+ of \d+ utterances", result.output)
    table = read_predictions(tmp_path / "out/predictions.csv")
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    for row, item in enumerate(read_manifest(manifest)):
        sound, rate = soundfile.read(item.path, dtype="float32")
        inputs = Wav2Vec2FeatureExtractor()(sound, sampling_rate=rate, return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).logits[0, :2].double().softmax(dim=0)
        np.testing.assert_allclose(table.probabilities[row], expected, atol=1e-5)


def test_folders_without_a_model_and_unknown_corpora_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ModelError, match=r"expected bundled, a fetched model, a hub id, or a folder with card\.json"
    ):
        open_model(str(tmp_path / "empty"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text("{}")
    with pytest.raises(ModelError, match="is no audio classifier that transformers can load"):
        open_model(str(tmp_path / "bad"))
    with pytest.raises(ConfigError, match=r"bad corpus 'ravdes', .*did you mean 'ravdess'.*or a manifest"):
        CorpusSource("ravdes")
    with pytest.raises(
        ConfigError, match="'ravdess' is read from a folder: emodistill evaluate MODEL ravdess FOLDER"
    ):
        CorpusSource("ravdess")


def test_a_table_with_other_names_is_evaluated(exported: Path, tmp_path: Path) -> None:
    manifest = other_speakers(tmp_path)
    names = {"angry": "Wut"}
    rows = [
        {"file": row["path"], "who": row["speaker"], "feeling": names.get(row["emotion"], row["emotion"])}
        for row in make.read_rows(manifest)
    ]
    rows[0]["feeling"] = "oth"
    table = make.write_rows(manifest.parent / "own.csv", rows)
    columns = ["--columns", "path=file,speaker=who,emotion=feeling"]
    arguments = ["evaluate", str(exported), str(table), *columns, "--seen", "allow", "-f", "csv"]
    arguments += ["-o", str(tmp_path / "out")]
    emotions = "Wut=angry,oth=-"
    result = CliRunner().invoke(app, [*arguments, "--map-emotions", emotions])
    assert result.exit_code == 0, result.output
    assert "dropped: 1 × emotion oth" in result.output
    truth = read_predictions(tmp_path / "out/predictions.csv").truth
    assert len(truth) == len(rows) - 1
    unknown = CliRunner().invoke(app, [*arguments, "--map-emotions", emotions + ",Wutt=angry"])
    assert isinstance(unknown.exception, CorpusError)
    assert "'Wutt'" in str(unknown.exception)
    assert "did you mean 'Wut'?" in str(unknown.exception)
    refused = CliRunner().invoke(app, ["evaluate", str(exported), "ravdess", str(tmp_path), *columns])
    assert isinstance(refused.exception, ConfigError)
    everyone = read_every_utterance(
        CorpusSource(
            str(table),
            None,
            {"path": "file", "speaker": "who", "emotion": "feeling"},
            {"Wut": "angry", "oth": "-"},
        )
    )
    assert [utterance.emotion is None for utterance in everyone] == [row["feeling"] == "oth" for row in rows]


def test_unreadable_audio_gives_exit_code_1(exported: Path, tmp_path: Path) -> None:
    manifest = other_speakers(tmp_path)
    (manifest.parent / make.read_rows(manifest)[0]["path"]).write_bytes(b"")
    result = CliRunner().invoke(
        app, ["evaluate", str(exported), str(manifest), "-o", str(tmp_path / "out"), "-f", "csv"]
    )
    assert result.exit_code == 1, result.output
    assert len(read_predictions(tmp_path / "out/predictions.csv")) == len(make.read_rows(manifest)) - 1
