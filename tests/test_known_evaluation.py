"""`evaluate --known`, and crossval with voices: known utterances from the model to the report."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import factories as make
import numpy as np
import pytest
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.corpora import Corpus, Utterance, read_manifest
from emodistill.corpora.load import pool_corpora
from emodistill.corpora.manifest import write_manifest
from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.known import COUNTS, DRAWN, MOSTLY_NEUTRAL, Setting, SpeakerStatistics
from emodistill.evaluation.known_scores import MEAN_OF_CORPORA, MEAN_OF_FOLDS, POOLED
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run
from emodistill.inference.recognizer import Recognizer
from emodistill.report.build import write_report
from emodistill.training.cross_validation import crossval
from emodistill.training.evaluated_models import open_model
from emodistill.training.evaluation_run import KnownUtterances, evaluate

EMOTIONS = ("angry", "sad", "neutral", "happy")


class FakeVoiceModel:
    """A model whose statistics are the emotion of an utterance, plus an offset of its speaker."""

    kind = "fake"
    names = EMOTIONS
    dimensions = ()
    known_ids: frozenset[str] = frozenset()

    def __init__(self, corpus: Corpus, has_voices: bool = True) -> None:
        self.has_voices = has_voices
        self.read: list[str] = []  # ids, in the order in which audio was read
        self.speakers = list(corpus.speakers)

    def _statistics(self, utterance: Utterance) -> np.ndarray:
        offset = 1.5 * np.random.default_rng(self.speakers.index(utterance.speaker)).normal(
            size=len(EMOTIONS)
        )
        return np.asarray(2 * np.eye(len(EMOTIONS))[EMOTIONS.index(utterance.emotion or "happy")] + offset)

    def __call__(self, utterances: Sequence[Utterance]) -> tuple[list[int], np.ndarray]:
        rows, probabilities, _ = self.with_statistics(utterances)
        return rows, probabilities

    def with_statistics(
        self, utterances: Sequence[Utterance]
    ) -> tuple[list[int], np.ndarray, SpeakerStatistics]:
        rows = [row for row, item in enumerate(utterances) if item.id != "broken"]
        self.read += [utterances[row].id for row in rows]
        statistics = np.array([self._statistics(utterances[row]) for row in rows])
        return (
            rows,
            self.head(statistics, np.zeros_like(statistics)),
            SpeakerStatistics(statistics, np.arange(len(rows)), np.ones(len(rows))),
        )

    def head(self, statistics: np.ndarray, voice: np.ndarray) -> np.ndarray:
        values = np.exp(statistics - voice)
        return np.asarray(values / values.sum(axis=1, keepdims=True))


def corpus_of(num_speakers: int = 4, num_each: int = 12) -> Corpus:
    return Corpus(
        "c",
        tuple(
            Utterance(f"s{speaker}-{row}", f"s{speaker}", EMOTIONS[row % 4], corpus="c")
            for speaker in range(num_speakers)
            for row in range(num_each)
        ),
    )


def test_known_utterances_come_from_all_emotions_and_are_read_once(tmp_path: Path) -> None:
    whole = corpus_of()
    labelled = replace(whole, utterances=tuple(item for item in whole if item.emotion != "happy"))
    model = FakeVoiceModel(whole)
    evaluate(
        model, labelled, tmp_path, "fake", emotions=["angry", "sad", "neutral"],
        known=KnownUtterances(COUNTS, whole),
    )  # fmt: skip
    assert sorted(model.read) == sorted(item.id for item in whole)
    table = read_run(tmp_path).known()
    assert table is not None
    assert len(table) == 36  # without happy
    assert table.used[Setting(DRAWN, "all")].tolist() == [[11] * 36]  # with happy
    assert table.used[Setting(MOSTLY_NEUTRAL, 20)].max() == 3
    ua = {
        score.known: score.ua.value
        for score in score_run(read_run(tmp_path)).known
        if not score.is_stress_test
    }
    assert ua[0] < ua["all"]


def test_plain_results_are_those_of_an_evaluation_without_known_utterances(tmp_path: Path) -> None:
    corpus = corpus_of()
    evaluate(FakeVoiceModel(corpus), corpus, tmp_path / "plain", "fake")
    evaluate(
        FakeVoiceModel(corpus), corpus, tmp_path / "known", "fake", known=KnownUtterances((0, 5), corpus)
    )
    plain, known = (tmp_path / name / "predictions.csv" for name in ("plain", "known"))
    assert plain.read_bytes() == known.read_bytes()
    scores = score_run(read_run(tmp_path / "known"))
    for measure, estimate in (("ua", scores.known[0].ua), ("wa", scores.known[0].wa)):
        plain_estimate = scores.models[0].scores[measure]
        for name in ("value", "low", "high"):
            assert getattr(estimate, name) == pytest.approx(getattr(plain_estimate, name))
    assert scores.known[0].protocol == scores.protocol == score_run(read_run(tmp_path / "plain")).protocol
    assert scores.known[1].protocol == f"{scores.protocol}+known-5"
    assert score_run(read_run(tmp_path / "plain")).known == ()


def test_an_utterance_that_cannot_be_read_is_neither_scored_nor_known(tmp_path: Path) -> None:
    whole = corpus_of(num_each=4)
    broken = replace(whole.utterances[0], id="broken")
    corpus = replace(whole, utterances=(broken, *whole.utterances[1:]))
    known = KnownUtterances(("all",), corpus)
    assert evaluate(FakeVoiceModel(corpus), corpus, tmp_path, "fake", known=known) == 1
    table = read_run(tmp_path).known()
    assert table is not None
    assert table.used[Setting(DRAWN, "all")].tolist() == [[2] * 3 + [3] * 12]


def test_models_and_corpora_without_voices_are_refused(tmp_path: Path) -> None:
    corpus = corpus_of()
    with pytest.raises(ModelError, match=r"the fake has no voices, .*: leave --known out"):
        evaluate(FakeVoiceModel(corpus, False), corpus, tmp_path, "f", known=KnownUtterances((1,), corpus))
    strangers = replace(corpus, utterances=tuple(replace(item, speaker=item.id) for item in corpus))
    with pytest.raises(ConfigError, match="every speaker of 'c' has one utterance"):
        evaluate(
            FakeVoiceModel(strangers), strangers, tmp_path, "fake", known=KnownUtterances((1,), strangers)
        )


def test_a_folder_with_other_known_utterances_is_refused(tmp_path: Path) -> None:
    corpus = corpus_of()
    evaluate(FakeVoiceModel(corpus), corpus, tmp_path, "fake", known=KnownUtterances((0, 5), corpus))
    with pytest.raises(ConfigError, match=r"known is \[0, 5\] there and \[0\] here"):
        evaluate(FakeVoiceModel(corpus), corpus, tmp_path, "fake", known=KnownUtterances((0,), corpus))


def test_an_edited_table_of_known_utterances_is_refused(tmp_path: Path) -> None:
    corpus = corpus_of()
    evaluate(FakeVoiceModel(corpus), corpus, tmp_path, "fake", known=KnownUtterances((0, 5), corpus))
    path = tmp_path / "known.csv"
    path.write_text(path.read_text().replace("angry", "sad"))
    with pytest.raises(ModelError, match=r"known\.csv' was changed after the run was scored"):
        read_run(tmp_path).known()
    path.unlink()
    with pytest.raises(ModelError, match=r"known\.csv' is missing"):
        score_run(read_run(tmp_path))


def test_scores_and_report_show_the_curve(tmp_path: Path) -> None:
    corpus = corpus_of()
    run = tmp_path / "run"
    evaluate(FakeVoiceModel(corpus), corpus, run, "fake", known=KnownUtterances((0, 5, "all"), corpus))
    shown = CliRunner().invoke(app, ["scores", str(run)], terminal_width=160)
    assert shown.exit_code == 0, shown.output
    assert "known utterances of the speaker" in shown.stdout
    assert "5, mostly neutral" in shown.stdout
    data = json.loads(CliRunner().invoke(app, ["scores", str(run), "--format", "json"]).stdout)
    assert [score["known"] for score in data["known"]] == [0, 5, "all", 5]
    text = CliRunner().invoke(app, ["scores", str(run), "--format", "csv"]).stdout
    keys = {row["key"] for row in csv.DictReader(text.splitlines())}
    assert "known.c, 5 known, mostly neutral.ua.value" in keys
    write_report([run], tmp_path / "report.html", audio=False)
    page = (tmp_path / "report.html").read_text()
    assert "Known utterances: what a voice is worth" in page
    assert "UA over the number of known utterances of the speaker" in page
    assert ">all</text>" in page


# --- trained students ------------------------------------------------------------------------------


def test_known_with_an_exported_model(exported_voice: Path, manifest: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(exported_voice), str(manifest), "--seen", "allow", "--format", "json"]
    outputs = {}
    for name, options in (("plain", []), ("known", ["--known", "0,2,all"])):
        result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / name), *options])
        assert result.exit_code == 0, result.output
        outputs[name] = json.loads(result.stdout)
    plain, known = (read_predictions(tmp_path / name / "predictions.csv") for name in outputs)
    assert plain.predicted.tolist() == known.predicted.tolist()
    np.testing.assert_allclose(plain.probabilities, known.probabilities, atol=2e-5)
    assert outputs["plain"]["known"] == []
    assert outputs["known"]["known"][0]["ua"]["value"] == pytest.approx(
        outputs["known"]["models"][0]["scores"]["ua"]["value"]
    )
    # The last setting, with all others known, is what the recogniser answers with the enrolled voice.
    recognizer = Recognizer(exported_voice)
    corpus = read_manifest(manifest)
    table = read_run(tmp_path / "known").known()
    assert table is not None
    for row in (0, 7):
        item = next(item for item in corpus if item.id == table.utterances[row])
        others = [
            str(other.path) for other in corpus if other.speaker == item.speaker and other.id != item.id
        ]
        answer = recognizer.predict(str(item.path), voice=recognizer.enrol(others))
        assert answer.emotion == table.labels.names[table.predicted[Setting(DRAWN, "all")][0, row]]


def test_known_needs_a_model_with_voices(exported: Path, manifest: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["evaluate", str(exported), str(manifest), "--known", "1", "-o", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, ModelError)
    assert "the exported model has no voices" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_crossval_with_voices_scores_known_utterances_of_each_fold(voice_run: Path) -> None:
    run = read_run(voice_run)
    table = run.known()
    assert table is not None
    plain = run.table()
    assert table.utterances == plain.utterances
    assert table.predicted[Setting(DRAWN, 0)][0].tolist() == plain.predicted.tolist()
    assert {setting.known for setting in table.predicted if setting.variant == DRAWN} == set(COUNTS)
    for fold in run.scores["folds"]:
        assert (voice_run / f"fold-{fold}" / "known.csv").is_file()
    scores = score_run(run)
    folds = [score for score in scores.known if score.group == MEAN_OF_FOLDS]
    assert folds[0].ua_sd == pytest.approx(scores.models[0].folds["ua"]["sd"])
    assert (voice_run / "known.png").is_file()


def test_each_left_out_corpus_has_rows_of_its_own_and_a_rerun_writes_the_same(tmp_path: Path) -> None:
    parts = [
        read_manifest(make.corpus_folder(tmp_path / name, each=2, seed=seed), name=name)
        for name, seed in (("one", 0), ("two", 100))
    ]
    listed, out = tmp_path / "both.csv", tmp_path / "run"
    write_manifest(pool_corpora("both", parts), listed)
    recipe = make.voice_recipe(
        listed, protocol={"kind": "leave-one-corpus-out", "folds": 3, "refit": False},
        distillation={"teachers": []},
    )  # fmt: skip
    crossval(recipe, out)
    groups = list(dict.fromkeys(score.group for score in score_run(read_run(out)).known))
    assert groups == ["one", "two", POOLED, MEAN_OF_CORPORA, MEAN_OF_FOLDS]
    before = (out / "known.csv").read_bytes()
    for name in ("predictions.csv", "known.csv"):
        (out / "fold-one" / name).unlink()
    crossval(recipe, out)
    assert (out / "known.csv").read_bytes() == before
    path = out / "fold-two" / "known.csv"
    path.write_text(path.read_text().replace(",0,drawn", ",0,mostly neutral"))
    with pytest.raises(ModelError, match=r"known\.csv' was changed after its fold had finished"):
        crossval(recipe, out)


def test_a_run_without_voices_has_no_known_utterances(run: Path) -> None:
    assert read_run(run).known() is None
    assert not list(run.rglob("known.csv"))


def test_a_checkpoint_classifies_its_statistics_as_its_waveforms(voice_run: Path, manifest: Path) -> None:
    evaluated, _ = open_model(str(voice_run))
    assert evaluated.has_voices
    items = list(read_manifest(manifest))[:8]
    rows, probabilities, statistics = evaluated.with_statistics(items)  # type: ignore[attr-defined]
    zero = np.zeros_like(statistics.windows)
    again = evaluated.head(statistics.windows, zero)  # type: ignore[attr-defined]
    np.testing.assert_allclose(again, probabilities, atol=1e-5)
    assert rows == list(range(8))
    assert evaluated(items)[1].tolist() == probabilities.tolist()
