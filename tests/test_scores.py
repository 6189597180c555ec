"""All scores of a run: each figure against another way to compute it, and the notes on missing ones."""

import csv
import io
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.corpora import Corpus, Utterance, read_manifest
from emodistill.evaluation.bootstrap import bootstrap_interval
from emodistill.evaluation.calibration import (
    CALIBRATION_MEASURES,
    calibration_error_interval,
    fit_temperature,
    with_temperature,
)
from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.evaluation.run import read_run, write_utterances
from emodistill.evaluation.scores import (
    score_agreement,
    score_calibration,
    score_group,
    score_groups,
    score_listeners,
    score_model,
    score_run,
)
from emodistill.evaluation.utterance_groups import duration_bin
from emodistill.labels import LabelSet

LABELS = LabelSet(("angry", "happy", "sad"))


def random_predictions(count: int = 120, seed: int = 0, speakers: int = 8) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=count)
    probabilities = rng.dirichlet(np.ones(3), count) + 0.4 * np.eye(3)[truth]
    return Predictions(
        LABELS, tuple(f"u{i}" for i in range(count)), ("1",) * count,
        tuple(f"s{i % speakers}" for i in range(count)), tuple(LABELS.names[label] for label in truth),
        probabilities / probabilities.sum(axis=1, keepdims=True),
    )  # fmt: skip


def test_intervals_are_those_of_resampled_rows() -> None:
    table = random_predictions()
    found = score_model("student", table, resamples=200)
    expected = bootstrap_interval(table, lambda part: unweighted_accuracy(part.truth, part.predicted), 200)
    ua = found.scores["ua"]
    assert (ua.low, ua.high) == pytest.approx(expected)
    assert ua.value == pytest.approx(table.scores().ua)
    recall = bootstrap_interval(table, lambda part: part.scores().recall["sad"], 200)
    assert (found.recall["sad"].low, found.recall["sad"].high) == pytest.approx(recall)
    diagonal = found.confusion_share[2][2]
    assert diagonal is not None
    assert (diagonal.low, diagonal.high) == pytest.approx(recall)
    assert sum(cell.value for cell in found.confusion_share[0] if cell) == pytest.approx(1)


def test_calibration_is_that_of_resampled_rows() -> None:
    table = random_predictions()
    found = score_calibration(table)
    for name, measure in CALIBRATION_MEASURES.items():
        assert found.figures[name].value == pytest.approx(measure(table))
    low, high = calibration_error_interval(table)
    assert (found.figures["ece"].low, found.figures["ece"].high) == pytest.approx((low, high))
    assert found.risk_coverage[-1] == pytest.approx((1, 1 - table.scores().wa))
    assert low <= found.figures["ece"].value <= high
    assert 0 < found.ece_if_perfect < 0.2


@pytest.mark.parametrize("speakers", [1, 2, 4, 5, 9])
def test_figures_have_an_interval_that_holds_them_or_the_reason_why_not(speakers: int) -> None:
    table = random_predictions(60, speakers=speakers)
    model, calibration = score_model("student", table), score_calibration(table)
    group = score_group(table, "all")
    found = [*model.scores.values(), *model.recall.values(), *calibration.figures.values()]
    for figure in [*found, *group.scores.values()]:
        if speakers < 5:
            assert figure.low is figure.high is None
            assert "5 needed" in (figure.no_interval or "")
        else:
            assert figure.low is not None
            assert figure.high is not None
            assert figure.low <= figure.value <= figure.high
    for item in calibration.reliability:
        assert (item.low is None) == (speakers < 5)
        assert item.low is None or item.low <= item.accuracy <= (item.high or 0)


def test_each_fold_has_the_temperature_of_its_own_dev(run: Path) -> None:
    found = score_run(read_run(run), resamples=100)
    parts = []
    for fold, part in read_predictions(run / "predictions.csv").by_fold().items():
        temperature = fit_temperature(read_predictions(run / f"fold-{fold}/predictions-dev.csv"))
        assert found.temperatures[fold] == pytest.approx(temperature)
        parts.append(with_temperature(part, temperature))
    assert found.calibration["after"].figures["nll"].value == pytest.approx(
        CALIBRATION_MEASURES["nll"](Predictions.join(parts))
    )
    assert any("before the refit" in note for note in found.notes)


def test_teachers_are_scored_beside_the_student(run: Path) -> None:
    found = score_run(read_run(run), resamples=100)
    assert [item.model for item in found.models] == ["student", "prosodic", "linguistic"]
    by_teacher = {item.teacher: item for item in found.agreement}
    words = read_predictions(run / "predictions-linguistic.csv")
    assert by_teacher["linguistic"].num_utterances == len(words) < found.models[0].num_utterances
    assert by_teacher["linguistic"].teacher_ua == pytest.approx(words.scores().ua)
    for item in found.agreement:
        shares = item.both_right + item.only_student_right + item.only_teacher_right + item.neither_right
        assert shares == pytest.approx(1)
    itself = score_agreement(words, words, "itself")
    assert (itself.agree, itself.only_student_right) == (1, 0)


# --- groups of utterances -------------------------------------------------------------------------


def utterances_of(table: Predictions, **fields: list[object]) -> dict[str, Utterance]:
    rows = zip(table.utterances, table.speakers, table.emotions, strict=True)
    return {
        name: Utterance(name, speaker, emotion, **{key: values[i] for key, values in fields.items()})  # type: ignore[arg-type]
        for i, (name, speaker, emotion) in enumerate(rows)
    }


def test_groups_are_the_scores_of_their_utterances() -> None:
    table = random_predictions()
    notes: list[str] = []
    genders = ["female" if i % 8 < 3 else "male" for i in range(len(table))]
    lengths = [0.5 + (i % 5) for i in range(len(table))]
    found = score_groups(table, utterances_of(table, gender=genders, duration_s=lengths), notes)
    assert [item.name for item in found["speaker"]] == [f"s{i}" for i in range(8)]
    women = table.select([gender == "female" for gender in genders])
    female = found["gender"][0]
    assert (female.name, female.num_utterances, female.num_speakers) == ("female", len(women), 3)
    assert female.scores["ua"].value == pytest.approx(women.scores().ua)
    assert [item.name for item in found["duration"]] == ["under 1 s", "1 – 2 s", "2 – 3 s", "3 – 5 s"]
    assert sum(item.num_utterances for item in found["duration"]) == len(table)
    assert [note.split(",")[0] for note in notes] == [
        "No utterance has a language",
        "No utterance has a corpus",
    ]


def test_bins_of_durations_have_no_gap() -> None:
    assert [duration_bin(s) for s in (0, 0.99, 1, 2.5, 9.99, 10, 60)] == [
        "under 1 s", "under 1 s", "1 – 2 s", "2 – 3 s", "5 – 10 s", "10 s and over", "10 s and over",
    ]  # fmt: skip


def test_a_run_keeps_the_manifest_with_durations(run: Path, manifest: Path, tmp_path: Path) -> None:
    kept = read_run(run).utterances
    assert kept is not None
    corpus = read_manifest(manifest)
    assert list(kept) == [utterance.id for utterance in corpus]
    for utterance in corpus:
        assert kept[utterance.id].path == utterance.path
        assert 0.2 < (kept[utterance.id].duration_s or 0) < 1
        assert kept[utterance.id].transcript == utterance.transcript
    write_utterances(Corpus("text", (Utterance("a", "s", "sad"),)), tmp_path)
    (only,) = read_manifest(tmp_path / "utterances.csv")
    assert (only.corpus, only.path, only.duration_s) == ("text", None, None)


# --- listeners ------------------------------------------------------------------------------------


def test_the_listeners_scores_by_hand() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])
    table = Predictions(LABELS, tuple("abcd"), ("1",) * 4, ("s", "t", "s", "t"),
                       ("angry", "angry", "sad", "sad"), probabilities)  # fmt: skip
    votes = ['{"angry": 3, "sad": 1}', '{"angry": 2, "happy": 2}', '{"sad": 1}', None]
    found = score_listeners(table, utterances_of(table, votes=votes))
    assert found is not None
    assert (found.num_utterances, found.votes_each) == (3, pytest.approx(3))
    assert found.one_listener["wa"].value == pytest.approx((0.75 + 0.5 + 1) / 3)
    assert found.one_listener["ua"].value == pytest.approx(((0.75 + 0.5) / 2 + 1) / 2)
    # a: three of four votes agree with the most frequent other vote. b: none of four does.
    assert found.one_against_others is not None
    assert found.one_against_others.value == pytest.approx((3 / 4 + 0) / 2)
    assert found.student["wa"].value == pytest.approx(1 / 3)
    assert score_listeners(table, utterances_of(table)) is None


# --- the command -------------------------------------------------------------------------------------


def test_the_command_shows_all_scores(run: Path) -> None:
    shown = CliRunner().invoke(app, ["scores", str(run)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for word in ("weighted F1", "calibration", "duration", "corpus", "only teacher right", "note:"):
        assert word in shown.stdout
    as_json = CliRunner().invoke(app, ["scores", str(run), "-f", "json"])
    data = json.loads(as_json.stdout)
    ua = score_run(read_run(run)).models[0].scores["ua"]
    assert data["models"][0]["scores"]["ua"] == pytest.approx(ua.__dict__)
    as_csv = CliRunner().invoke(app, ["scores", str(run), "-f", "csv"])
    rows = {row["key"]: row["value"] for row in csv.DictReader(io.StringIO(as_csv.stdout))}
    assert float(rows["models.student.scores.ua.value"]) == pytest.approx(ua.value)
    assert rows["emotions.0"] == data["emotions"][0]
    confusion = data["models"][0]["confusion"]
    for truth, predicted in product(range(len(confusion)), repeat=2):
        assert int(rows[f"models.student.confusion.{truth}.{predicted}"]) == confusion[truth][predicted]
    assert not any(value.startswith(("[", "(", "{")) for value in rows.values()), "one figure in each cell"
