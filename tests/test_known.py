"""Known utterances: which are drawn, what a model predicts with them, the file, and the curve of scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.known import (
    COUNTS,
    DRAWN,
    MOSTLY_NEUTRAL,
    KnownPredictions,
    KnownTask,
    Setting,
    SpeakerStatistics,
    draw_known,
    join_known,
    keep_mostly_neutral,
    predict_known,
    read_counts,
    read_known,
    write_known,
)
from emodistill.evaluation.known_scores import (
    MEAN_OF_CORPORA,
    MEAN_OF_FOLDS,
    POOLED,
    known_latex,
    known_markdown,
    known_notes,
    plot_known,
    score_known,
    write_known_tables,
)
from emodistill.evaluation.metrics import unweighted_accuracy, weighted_accuracy
from emodistill.inference.voices import shrinkage
from emodistill.labels import LabelSet

LABELS = LabelSet(("angry", "sad", "neutral"))
speaker_lists = st.lists(st.sampled_from("abc"), min_size=1, max_size=12)


def ids_of(speakers: list[str]) -> list[str]:
    return [f"u{place}" for place in range(len(speakers))]


# --- which utterances are known --------------------------------------------------------------------


@given(speaker_lists, st.integers(0, 3), st.integers(0, 3))
def test_all_others_of_the_speaker_are_known_and_never_the_scored_utterance(
    speakers: list[str], draw: int, seed: int
) -> None:
    everyone = range(len(speakers))
    orders = draw_known(ids_of(speakers), speakers, everyone, draw, seed)
    for scored, order in zip(everyone, orders, strict=True):
        others = [row for row in everyone if speakers[row] == speakers[scored] and row != scored]
        assert sorted(order) == others


@given(speaker_lists, st.randoms(use_true_random=False))
def test_the_order_of_the_utterances_does_not_matter(speakers: list[str], random: object) -> None:
    ids = ids_of(speakers)
    places = list(range(len(ids)))
    random.shuffle(places)  # type: ignore[attr-defined]
    orders = draw_known(ids, speakers, range(len(ids)), 1)
    shuffled = draw_known([ids[i] for i in places], [speakers[i] for i in places], range(len(ids)), 1)
    for row, place in enumerate(places):
        assert [ids[i] for i in orders[place]] == [ids[places[i]] for i in shuffled[row]]


def test_a_draw_depends_on_seed_draw_and_utterance_and_not_on_the_other_scored_ones() -> None:
    speakers = ["a"] * 12
    ids = ids_of(speakers)
    first = draw_known(ids, speakers, [3], 0)[0].tolist()
    assert draw_known(ids, speakers, [1, 3], 0)[1].tolist() == first
    for draw, seed in ((1, 0), (0, 1)):
        assert draw_known(ids, speakers, [3], draw, seed)[0].tolist() != first


@given(st.lists(st.booleans(), max_size=40))
def test_the_stress_test_keeps_the_share_of_neutral_utterances_for_every_number(flags: list[bool]) -> None:
    is_neutral = np.array(flags, dtype=bool)
    order = np.random.default_rng(0).permutation(len(flags))
    kept = keep_mostly_neutral(order, is_neutral)
    assert len(set(kept.tolist())) == len(kept)
    shares = np.cumsum(is_neutral[kept]) / np.arange(1, len(kept) + 1)
    assert (shares >= 0.85 - 1e-9).all()
    if is_neutral.all():
        assert kept.tolist() == order.tolist()


def test_numbers_of_known_utterances_are_read_or_refused() -> None:
    assert read_counts("5, 0,all,1,5") == (0, 1, 5, "all")
    for text in ("", "1,", "-1", "two", "1.5"):
        with pytest.raises(ConfigError, match="bad --known"):
            read_counts(text)


# --- predictions -----------------------------------------------------------------------------------


def task_of(num_speakers: int = 3, num_each: int = 8, seed: int = 0) -> KnownTask:
    """Utterances whose statistics are the offset of the speaker plus that of the emotion."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(num_speakers), num_each)
    truth = np.tile(np.arange(num_each) % 3, num_speakers)
    statistics = rng.normal(size=(num_speakers, 3))[speakers] + np.eye(3)[truth]
    windows = statistics.astype(np.float32)
    return KnownTask(
        [f"u{row:02d}" for row in range(len(speakers))],
        [f"s{name}" for name in speakers],
        np.arange(len(speakers)),
        head(windows, np.zeros(3)),
        SpeakerStatistics(windows, np.arange(len(speakers)), np.ones(len(speakers))),
        np.eye(3),
    )


def head(statistics: np.ndarray, voice: np.ndarray) -> np.ndarray:
    scores = np.exp(statistics - voice)
    return scores / scores.sum(axis=1, keepdims=True)


def test_with_nothing_known_predictions_are_the_plain_ones() -> None:
    task = task_of()
    predicted, used, _ = predict_known(replace(task, plain=np.eye(3)[np.full(24, 2)]), head, (0, 1), range(2))
    assert predicted[Setting(DRAWN, 0)].tolist() == [[2] * 24]
    assert used[Setting(DRAWN, 0)].tolist() == [[0] * 24]
    assert predicted[Setting(DRAWN, 1)].shape == (2, 24)


def test_a_voice_is_the_shrunk_mean_of_the_known_ones_weighted_by_speech() -> None:
    windows = np.array([[1.0, 0.0], [4.0, 2.0], [0.0, 4.0], [2.0, 2.0]], dtype=np.float32)
    task = KnownTask(
        ["x", "y", "z"], ["s"] * 3, np.array([0]), np.array([[1.0, 0.0]]),
        SpeakerStatistics(windows, np.array([0, 1, 1, 2]), np.array([1.0, 3.0, 1.0, 2.0])),
        np.eye(2),
    )  # fmt: skip
    voices = []

    def spy(statistics: np.ndarray, voice: np.ndarray) -> np.ndarray:
        voices.append(voice)
        return head(statistics, voice)

    predict_known(task, spy, ("all",), range(3))
    mean = (3 * windows[1] + 1 * windows[2] + 2 * windows[3]) / 6
    assert len(voices) == 1  # all are known, so there is nothing to draw
    assert voices[0] == pytest.approx(shrinkage(2) * mean[None])


def test_known_utterances_take_the_speaker_away() -> None:
    task = task_of(num_speakers=6, num_each=12)
    truth = np.tile(np.arange(12) % 3, 6)
    predicted, used, _ = predict_known(task, head, COUNTS, range(3))
    share = {setting.known: float(np.mean(labels == truth)) for setting, labels in predicted.items()}
    assert share[0] < share[2] < share["all"]
    assert used[Setting(DRAWN, 20)].max() == 11  # a speaker has no more others
    assert predicted[Setting(DRAWN, 20)].tolist() == [predicted[Setting(DRAWN, "all")][0].tolist()] * 3


def test_an_utterance_without_speech_is_never_known_and_keeps_its_prediction() -> None:
    task = task_of(num_speakers=1, num_each=3)
    without_last = replace(
        task,
        plain=np.eye(3)[[0, 0, 1]],
        statistics=SpeakerStatistics(task.statistics.windows[:2], np.arange(2), np.ones(2)),
    )
    predicted, used, _ = predict_known(without_last, head, ("all",))
    setting = Setting(DRAWN, "all")
    assert used[setting].tolist() == [[1, 1, 2]]
    assert predicted[setting][0, 2] == 1


def test_predictions_do_not_depend_on_the_order_of_utterances_or_on_windows_of_others() -> None:
    task = task_of()
    order = np.random.default_rng(1).permutation(24)
    shuffled = KnownTask(
        [task.utterances[row] for row in order],
        [task.speakers[row] for row in order],
        np.arange(24),
        task.plain[order],
        SpeakerStatistics(task.statistics.windows[order], np.arange(24), np.ones(24)),
        np.eye(3),
    )
    expected, _, _ = predict_known(task, head, COUNTS, range(2))
    predicted, _, _ = predict_known(shuffled, head, COUNTS, range(2))
    for setting, labels in expected.items():
        assert predicted[setting].tolist() == labels[:, order].tolist()


def test_labels_change_the_stress_test_alone() -> None:
    task = task_of()
    plain, _, _ = predict_known(task, head, (0, 2, "all"), range(2))
    stressed, used, _ = predict_known(
        replace(task, is_neutral=np.arange(24) % 3 == 2), head, (0, 2, "all"), range(2)
    )
    assert set(stressed) - set(plain) == {Setting(MOSTLY_NEUTRAL, 2)}
    for setting, labels in plain.items():
        assert stressed[setting].tolist() == labels.tolist()
    assert used[Setting(MOSTLY_NEUTRAL, 2)].min() == 1  # a neutral one of two has one other


# --- the file --------------------------------------------------------------------------------------


def table_of(corpora: tuple[str, ...] = ("c",), seed: int = 0, fold: str = "all") -> KnownPredictions:
    rng = np.random.default_rng(seed)
    size = 24 * len(corpora)
    speakers = tuple(f"{name}/s{row // 6}" for name in corpora for row in range(24))
    settings_read = [Setting(DRAWN, 0), Setting(DRAWN, 2), Setting(DRAWN, "all"), Setting(MOSTLY_NEUTRAL, 2)]
    predicted, used = {}, {}
    for setting in settings_read:
        draws = 3 if setting.known == 2 else 1
        predicted[setting] = rng.integers(3, size=(draws, size))
        used[setting] = np.full((draws, size), {"all": 5}.get(setting.known, setting.known))
    return KnownPredictions(
        LABELS,
        tuple(f"{fold}-{row}" for row in range(size)),
        (fold,) * size,
        tuple(name for name in corpora for _ in range(24)),
        speakers,
        tuple(LABELS.names[row % 3] for row in range(size)),
        predicted,
        used,
    )


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = join_known([table_of(fold="1"), table_of(("d", "e"), 1, fold="2")])
    path = tmp_path / "known.csv"
    write_known(table, path)
    read = read_known(path, LABELS)
    for name in ("labels", "utterances", "folds", "corpora", "speakers", "emotions"):
        assert getattr(read, name) == getattr(table, name)
    for name in ("predicted", "used"):
        values, expected = getattr(read, name), getattr(table, name)
        assert list(values) == list(expected)
        assert all(values[setting].tolist() == expected[setting].tolist() for setting in expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("variant", "kind", r"lacks \['variant'\]"),
        ("all-3,", "all-33,", "not the expected row"),
        (",0,drawn", ",7,drawn", "not the expected row"),
        (",mostly neutral", ",mostly happy", "bad variant 'mostly happy'"),
        (",all,5,", ",many,5,", "must be numbers"),
        (",angry,", ",cross,", "bad emotion 'cross'"),
    ],
)
def test_an_edited_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "known.csv"
    write_known(table_of(), path)
    text = path.read_text()
    place = text.rindex(old)
    path.write_text(text[:place] + new + text[place + len(old) :])
    with pytest.raises(ModelError, match=message):
        read_known(path, LABELS)


def test_a_file_without_its_last_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "known.csv"
    write_known(table_of(), path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ModelError, match=r"lacks rows of .*mostly neutral"):
        read_known(path, LABELS)


# --- scores ----------------------------------------------------------------------------------------


def test_scores_are_means_over_draws_with_intervals() -> None:
    table = table_of()
    scores = score_known(table, "abc")
    assert [score.known for score in scores] == [0, 2, "all", 2]
    drawn = scores[1]
    predicted = table.predicted[Setting(DRAWN, 2)]
    assert drawn.ua.value == pytest.approx(
        np.mean([unweighted_accuracy(table.truth, labels) for labels in predicted])
    )
    assert drawn.wa.value == pytest.approx(
        np.mean([weighted_accuracy(table.truth, labels) for labels in predicted])
    )
    assert (drawn.num_utterances, drawn.num_speakers, drawn.used) == (24, 4, 2)


@settings(deadline=None)
@given(st.integers(5, 8), st.sampled_from([("c",), ("c", "d")]))
def test_every_interval_over_enough_speakers_holds_its_score(num_speakers: int, corpora: tuple[str]) -> None:
    table = table_of(corpora)
    speakers = tuple(f"{corpus}{row % num_speakers}" for row, corpus in enumerate(table.corpora))
    for score in score_known(replace(table, speakers=speakers), "abc", resamples=50):
        if score.ua_sd is None:
            assert score.ua.low is not None
            assert score.ua.high is not None
            assert score.ua.low <= score.ua.value <= score.ua.high


def test_several_corpora_are_scored_alone_pooled_and_as_a_mean() -> None:
    table = table_of(("c", "d"))
    by_group = {score.group: score for score in score_known(table, "abc") if score.known == 0}
    assert list(by_group) == ["c", "d", POOLED, MEAN_OF_CORPORA]
    assert by_group[MEAN_OF_CORPORA].ua.value == pytest.approx(
        (by_group["c"].ua.value + by_group["d"].ua.value) / 2
    )
    labels = table.predicted[Setting(DRAWN, 0)][0]
    assert by_group[POOLED].ua.value == pytest.approx(unweighted_accuracy(table.truth, labels))
    assert by_group[POOLED].num_speakers == 8


def test_several_folds_have_rows_of_their_own_with_a_standard_deviation() -> None:
    folds = [table_of(fold="1"), table_of(seed=1, fold="2")]
    scores = score_known(join_known(folds), "abc")
    values = [score_known(fold, "abc")[0].ua.value for fold in folds]
    row = next(score for score in scores if score.group == MEAN_OF_FOLDS)
    assert row.ua.value == pytest.approx(np.mean(values))
    assert row.ua_sd == pytest.approx(np.std(values, ddof=1))
    assert row.ua.low is None
    assert "±" in known_markdown([row])


def test_stamps_tell_scores_with_and_without_voices_apart() -> None:
    stamps = [score.protocol for score in score_known(table_of(), "abc")]
    assert stamps == ["abc", "abc+known-2", "abc+known-all", "abc+known-2-mostly-neutral"]


def test_the_stress_test_is_marked_and_comes_last() -> None:
    scores = score_known(table_of(("c", "d")), "abc")
    flags = [score.is_stress_test for score in scores]
    assert flags == sorted(flags)
    assert any(flags)
    lines = [line for line in known_markdown(scores).splitlines() if line.startswith("| c ")]
    assert [MOSTLY_NEUTRAL in line for line in lines] == [False, False, False, True]


def test_few_speakers_give_a_warning_and_no_interval() -> None:
    scores = score_known(table_of(), "p")
    notes = " ".join(known_notes(scores))
    assert "Speakers: c 4. With fewer than 10 speakers an interval is uncertain." in notes
    assert "A corpus with fewer than 5 speakers has no interval" in notes
    assert {score.ua.no_interval for score in scores} == {"no interval: 4 speakers, 5 needed"}
    one = replace(table_of(), speakers=("s",) * 24)
    assert all(score.ua.low is None for score in score_known(one, "p"))


def test_tables_and_plot_are_written(tmp_path: Path) -> None:
    scores = score_known(table_of(("c_1", "d")), "abc")
    write_known_tables(scores, tmp_path)
    assert (tmp_path / "known.png").stat().st_size > 1000
    latex = (tmp_path / "known.tex").read_text()
    assert r"c\_1 & 0 & 0.0 & 24 & 4 &" in latex
    assert latex == known_latex(scores)
    assert (tmp_path / "known.md").read_text().count("\n| c_1 |") == 4
    plot_known(scores[:2], tmp_path / "known.svg")


@settings(max_examples=20)
@given(st.integers(0, 100))
def test_an_interval_is_a_function_of_the_table(seed: int) -> None:
    table = table_of(("c", "d"), seed)
    assert score_known(table, "p", resamples=50) == score_known(table, "p", resamples=50)
