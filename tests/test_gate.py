"""The second gate of an export: the recogniser's predictions on the files, against those of crossval."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill import Recognizer
from emodistill.audio.waveform import load
from emodistill.corpora import Utterance, read_manifest
from emodistill.errors import CorpusError, ModelError
from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.evaluation.predictions import Predictions, read_predictions, write_predictions
from emodistill.evaluation.run import write_checksums
from emodistill.export import export_run
from emodistill.export.gate import (
    MIN_AGREEMENT,
    check_recogniser,
    compare_with_recogniser,
    predict_through_recogniser,
)
from emodistill.inference.card_writer import card_markdown
from emodistill.inference.model_card import file_sha256, read_card
from emodistill.labels import LabelSet

LABELS = LabelSet(("angry", "happy", "sad", "neutral"))


def table_of(truth: np.ndarray, predicted: np.ndarray) -> Predictions:
    count = len(truth)
    return Predictions(
        LABELS, tuple(f"u{row}" for row in range(count)), ("1",) * count, ("s",) * count,
        tuple(LABELS.names[label] for label in truth), np.eye(4)[predicted],
    )  # fmt: skip


def tables_with_errors(
    count: int, wrong_before: int, newly_wrong: int
) -> tuple[Predictions, Predictions, np.ndarray]:
    """Crossval's table and the recogniser's, which has further errors, and which rows have an emotion."""
    truth = np.arange(count) % 4
    before, after = truth.copy(), truth.copy()
    before[:wrong_before] = after[:wrong_before] = (truth[:wrong_before] + 1) % 4
    rows = slice(wrong_before, wrong_before + newly_wrong)
    after[rows] = (truth[rows] + 1) % 4
    return table_of(truth, before), table_of(truth, after), np.ones(count, dtype=bool)


# --- the criterion -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 500), st.integers(0, 10_000))
def test_equal_predictions_pass(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = table_of(rng.integers(4, size=count), rng.integers(4, size=count))
    figures = check_recogniser(table, table, np.ones(count, dtype=bool))
    assert figures == {
        "utterances": count, "agreement": 1, "ua_crossval": figures["ua_recogniser"],
        "ua_recogniser": pytest.approx(unweighted_accuracy(table.truth, table.predicted)), "unanswered": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("count", "newly_wrong"), [(12, 1), (12, 2), (240, 4), (480, 4)])
def test_a_loss_by_chance_or_of_one_point_passes(count: int, newly_wrong: int) -> None:
    figures = check_recogniser(*tables_with_errors(count, 4, newly_wrong))
    assert figures["ua_crossval"] - figures["ua_recogniser"] == pytest.approx(newly_wrong / count, abs=0.02)


@pytest.mark.parametrize(("count", "newly_wrong"), [(12, 7), (240, 12), (480, 9), (480, 20)])
def test_a_larger_loss_is_refused_with_its_figures(count: int, newly_wrong: int) -> None:
    with pytest.raises(
        ModelError,
        match=rf"UA \d.* % on {count} test utterances, the trained model had .*{newly_wrong} are correct in "
        r"the trained model alone and 0 in the recogniser alone .*Nothing was exported",
    ):
        check_recogniser(*tables_with_errors(count, 4, newly_wrong))


def test_other_emotions_at_the_same_score_are_refused() -> None:
    truth = np.arange(300) % 4
    before, after = truth.copy(), truth.copy()
    before[:60], after[60:120] = (truth[:60] + 1) % 4, (truth[60:120] + 1) % 4
    with pytest.raises(ModelError, match=r"60\.0 % have the same emotion"):
        check_recogniser(table_of(truth, before), table_of(truth, after), np.ones(300, dtype=bool))


def test_an_utterance_without_an_emotion_agrees_with_nothing() -> None:
    table, _, answered = tables_with_errors(100, 30, 0)
    answered[:5] = False  # crossval has the same wrong emotion there
    figures = check_recogniser(table, table, answered)
    assert (figures["agreement"], figures["unanswered"]) == (0.95, 5)
    answered[: round(100 * (1 - MIN_AGREEMENT)) + 10] = False
    with pytest.raises(ModelError, match="15 have none in the recogniser"):
        check_recogniser(table, table, answered)


# --- from the files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crossval_table(run: Path, exported: Path) -> Predictions:
    return read_predictions(run / f"fold-{read_card(exported).fold}" / "predictions.csv")


@pytest.fixture(scope="module")
def by_id(manifest: Path) -> dict[str, Utterance]:
    return {item.id: item for item in read_manifest(manifest)}


def test_the_scores_of_a_card_are_those_through_the_recogniser(
    exported: Path, crossval_table: Predictions, by_id: dict[str, Utterance]
) -> None:
    recognizer, card = Recognizer(exported), read_card(exported)
    predictions = [recognizer.predict(by_id[name].path) for name in crossval_table.utterances]
    is_right = np.array(
        [item.emotion == truth for item, truth in zip(predictions, crossval_table.emotions, strict=True)]
    )
    truth = crossval_table.truth
    ua = np.mean([is_right[truth == label].mean() for label in np.unique(truth)])
    assert card.scores["test"]["ua"] == card.through_recogniser["ua_recogniser"] == pytest.approx(ua)
    assert card.scores["test"]["wa"] == pytest.approx(is_right.mean())
    assert card.through_recogniser["ua_crossval"] == pytest.approx(crossval_table.scores().ua)
    assert card.through_recogniser["utterances"] == len(crossval_table)
    assert card.through_recogniser["unanswered"] == sum(item.emotion is None for item in predictions)
    text = card_markdown(card)
    assert "The scores of test are through the recogniser" in text
    assert f"no emotion for {card.through_recogniser['unanswered']:.0f} of {len(crossval_table)} utt" in text
    assert "through the recogniser" not in card_markdown(card.model_copy(update={"through_recogniser": {}}))


def test_predictions_of_other_weights_are_refused(
    exported: Path, crossval_table: Predictions, by_id: dict[str, Utterance]
) -> None:
    recognised, _, figures = compare_with_recogniser(exported, crossval_table, by_id)
    assert recognised is not None
    assert figures["agreement"] == 1, "both prepare audio by the same functions"
    assert recognised.emotions == crossval_table.emotions
    other = replace(crossval_table, probabilities=crossval_table.probabilities[:, ::-1])
    with pytest.raises(ModelError, match=r"0\.0 % have the same emotion"):
        compare_with_recogniser(exported, other, by_id)


def test_a_run_whose_predictions_are_of_other_weights_is_not_exported(
    run: Path, exported: Path, crossval_table: Predictions, tmp_path: Path
) -> None:
    fold = read_card(exported).fold
    shutil.copytree(run, tmp_path / "run")
    doctored = replace(crossval_table, probabilities=crossval_table.probabilities[:, ::-1])
    folder = tmp_path / "run" / f"fold-{fold}"
    write_predictions(doctored, folder / "predictions.csv")
    write_checksums(folder, {path.name: file_sha256(path) for path in folder.glob("*predictions*.csv")})
    out = tmp_path / "out"
    out.mkdir()
    (out / "card.json").write_text("{}")  # of an earlier export
    with pytest.raises(ModelError, match="Nothing was exported"):
        export_run(tmp_path / "run", out, fold)
    assert list(out.iterdir()) == []


def test_a_span_of_a_longer_file_is_recognised_as_its_own_file(
    exported: Path, crossval_table: Predictions, by_id: dict[str, Utterance], tmp_path: Path
) -> None:
    spans, pieces, start = {}, [], 0
    for name in crossval_table.utterances:
        waveform = load(by_id[name].path)
        spans[name] = (start / 16000, (start + len(waveform)) / 16000)
        pieces.append(waveform)
        start += len(waveform)
    path = tmp_path / "all.wav"
    soundfile.write(path, np.concatenate(pieces), 16000, subtype="FLOAT")
    cut = {
        name: replace(by_id[name], path=path, start_s=begin, end_s=end)
        for name, (begin, end) in spans.items()
    }
    recognizer = Recognizer(exported)
    alone, answered = predict_through_recogniser(recognizer, crossval_table, by_id)
    inside, answered_inside = predict_through_recogniser(recognizer, crossval_table, cut)
    np.testing.assert_array_equal(answered, answered_inside)
    np.testing.assert_allclose(alone.probabilities, inside.probabilities, atol=1e-3)


def test_silence_counts_as_wrong_and_a_missing_file_is_named(
    exported: Path, crossval_table: Predictions, by_id: dict[str, Utterance], tmp_path: Path
) -> None:
    first = crossval_table.utterances[0]
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(16000), 16000)
    recognizer = Recognizer(exported)
    table, answered = predict_through_recogniser(
        recognizer, crossval_table, {**by_id, first: replace(by_id[first], path=silence)}
    )
    assert not answered[0]
    assert table.predicted[0] != table.truth[0]
    for path, error in ((None, CorpusError), (tmp_path / "missing.wav", ModelError)):
        with pytest.raises(error, match=f"'{first}' "):
            predict_through_recogniser(
                recognizer, crossval_table, {**by_id, first: replace(by_id[first], path=path)}
            )
