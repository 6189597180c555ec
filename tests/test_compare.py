"""Paired comparison of runs: bootstrap over speakers, McNemar, Holm, and run folders that are refused."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import factories as make
import numpy as np
import pytest
from factories_runs import invented_corpus, invented_run
from typer.testing import CliRunner

from emodistill.cli import app
from emodistill.config import load_recipe
from emodistill.errors import ConfigError, CorpusError, ModelError
from emodistill.evaluation.bootstrap import (
    bootstrap_confusions,
    bootstrap_interval,
    bootstrap_means,
    percentile_interval,
)
from emodistill.evaluation.compare import compare_runs, holm, mcnemar
from emodistill.evaluation.differences import Difference, make_difference
from emodistill.evaluation.metrics import score, scores_of_confusions
from emodistill.evaluation.predictions import Predictions, read_predictions, write_predictions
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run
from emodistill.inference.model_card import file_sha256
from emodistill.labels import LabelSet
from emodistill.protocol.folds import Fold, Protocol, read_protocol
from emodistill.training.cross_validation import collect_scores, crossval


def differences(reference: Path, run: Path) -> dict[str, Difference]:
    """By measure, a run's difference to a reference."""
    return compare_runs([reference, run])[0].differences


def write_with_checksum(table: Predictions, run: Path) -> None:
    """Replace a run's test predictions, and their checksum in `scores.json`."""
    write_predictions(table, run / "predictions.csv")
    scores = json.loads((run / "scores.json").read_text())
    scores["sha256"]["predictions.csv"] = file_sha256(run / "predictions.csv")
    (run / "scores.json").write_text(json.dumps(scores))


def copy_with(run: Path, to: Path, probabilities: np.ndarray | None = None, skip: int = 0) -> Path:
    """A copy of a run with other probabilities, or without its first rows."""
    shutil.copytree(run, to)
    table = read_predictions(run / "predictions.csv")
    table = table.select([index >= skip for index in range(len(table))])
    write_with_checksum(table if probabilities is None else replace(table, probabilities=probabilities), to)
    return to


def perfect(run: Path, to: Path, wrong: int = 0) -> Path:
    """A copy of a run in which all predictions but the first `wrong` are correct."""
    table = read_predictions(run / "predictions.csv")
    predicted = table.truth.copy()
    predicted[:wrong] = (predicted[:wrong] + 1) % len(table.labels)
    return copy_with(run, to, np.eye(len(table.labels))[predicted])


def random_predictions(seed: int = 0, count: int = 90) -> Predictions:
    """Predictions at chance for three emotions and seven speakers."""
    rng = np.random.default_rng(seed)
    labels = LabelSet(("angry", "happy", "sad"))
    return Predictions(
        labels, tuple(f"u{i}" for i in range(count)), ("1",) * count,
        tuple(f"s{i % 7}" for i in range(count)), tuple(labels.names[i % 3] for i in range(count)),
        rng.dirichlet(np.ones(3), count),
    )  # fmt: skip


# --- the statistics -------------------------------------------------------------------------------


def test_bootstrap_confusions_are_those_of_the_drawn_rows() -> None:
    table = random_predictions()
    of_draws = []

    def record(draw: Predictions) -> float:
        of_draws.append(score(draw.truth, draw.predicted, draw.labels))
        return of_draws[-1].ua

    interval = bootstrap_interval(table, record, resamples=40, seed=3)
    of_draws = of_draws[1:]  # the first is the table itself
    matrices = bootstrap_confusions(table, 40, seed=3)
    assert [scores.confusion for scores in of_draws] == matrices.astype(int).tolist()
    found = scores_of_confusions(matrices)
    for name in ("ua", "wa", "macro_f1", "weighted_f1"):
        np.testing.assert_allclose(found[name], [getattr(scores, name) for scores in of_draws], atol=1e-12)
    assert interval == pytest.approx(percentile_interval(found["ua"], 7))
    correct = (table.predicted == table.truth).astype(float)
    np.testing.assert_allclose(bootstrap_means(correct, table.speakers, 40, seed=3), found["wa"])


def test_an_emotion_without_utterances_does_not_count() -> None:
    found = scores_of_confusions(np.array([[[2, 0, 2], [0, 0, 0], [1, 0, 3]]]))
    assert found["ua"] == pytest.approx([(0.5 + 0.75) / 2])
    assert np.isnan(found["recall"][0, 1])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_mcnemar_by_hand() -> None:
    truth = ("angry",) * 12
    labels = LabelSet(("angry", "sad"))

    def predictions(correct: list[bool]) -> Predictions:
        values = np.array([[1.0, 0.0] if item else [0.0, 1.0] for item in correct])
        return Predictions(labels, tuple("abcdefghijkl"), ("1",) * 12, ("s",) * 12, truth, values)

    found = mcnemar(predictions([True] * 2 + [False] * 10), predictions([False] + [True] * 9 + [False] * 2))
    assert (found.only_reference, found.only_run) == (1, 8)
    assert found.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(predictions([True] * 12), predictions([True] * 12)).p_value == 1


def test_random_runs_rarely_seem_to_differ() -> None:
    """About one in twenty p-values of two runs at chance is below 0.05."""
    small = 0
    for seed in range(60):
        tables = [random_predictions(2 * seed + run) for run in (0, 1)]
        draws = [scores_of_confusions(bootstrap_confusions(table, 400))["ua"] for table in tables]
        values = [np.array([table.scores().ua]) for table in tables]
        small += (make_difference(values[0], values[1], draws[1] - draws[0], 7).p_value or 0) < 0.05
    assert small <= 7


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_does_not_differ_from_itself(run: Path) -> None:
    for difference in differences(run, run).values():
        assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)


def test_a_perfect_run_differs_by_the_others_error_rate(run: Path, tmp_path: Path) -> None:
    perfect_run = perfect(run, tmp_path / "perfect")
    found = differences(run, perfect_run)
    scores = read_predictions(run / "predictions.csv").scores()
    assert found["ua"].value == pytest.approx(1 - scores.ua)
    assert found["wa"].value == pytest.approx(1 - scores.wa)
    assert found["ua"].low is not None
    assert found["ua"].high is not None
    assert found["ua"].low <= found["ua"].value <= found["ua"].high
    reverse = differences(perfect_run, run)["ua"]
    assert reverse.value == pytest.approx(-found["ua"].value)
    assert (reverse.low, reverse.high) == pytest.approx((-found["ua"].high, -found["ua"].low))
    assert reverse.p_value == pytest.approx(found["ua"].p_value)


def test_several_runs_are_corrected_together(run: Path, tmp_path: Path) -> None:
    others = [perfect(run, tmp_path / name, wrong) for name, wrong in (("perfect", 0), ("nearly", 3))]
    found = compare_runs([run, *others])
    assert [(item.reference, item.run) for item in found] == [(str(run), str(other)) for other in others]
    for measure in ("ua", "wa"):
        plain = [item.differences[measure].p_value for item in found]
        assert [item.differences[measure].p_holm for item in found] == holm(plain)
    assert [item.mcnemar.p_holm for item in found] == holm([item.mcnemar.p_value for item in found])
    pairs = compare_runs([run, *others], every_pair=True)
    assert [(item.reference, item.run) for item in pairs[2:]] == [(str(others[0]), str(others[1]))]
    assert (pairs[2].mcnemar.only_reference, pairs[2].mcnemar.only_run) == (3, 0)
    with pytest.raises(ConfigError, match="needs two runs or more, got 1"):
        compare_runs([run])


def test_missing_rows_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"predictions\.csv' lacks 1 of the protocol's test utterances, first"
    ):
        differences(run, copy_with(run, tmp_path / "fewer", skip=1))


def test_runs_over_other_folds_are_refused(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "one-fold"
    shutil.copytree(run, there)
    scores = json.loads((there / "scores.json").read_text())
    first, *_ = scores["folds"]
    (there / "scores.json").write_text(json.dumps({**scores, "folds": [first]}))
    write_with_checksum(read_predictions(there / f"fold-{first}/predictions.csv"), there)
    with pytest.raises(ModelError, match=rf"have folds .* and \['{first}'\]: finish both runs"):
        differences(run, there)


def with_swapped_ids(folds: list[Fold]) -> tuple[list[Fold], str]:
    train = (folds[1].train[1], folds[1].train[0], *folds[1].train[2:])
    folds[1] = Fold(folds[1].name, train, folds[1].dev, folds[1].test)
    return folds, rf"in fold {folds[1].name}, train, utterance 1 is '.*' and '{folds[1].train[0]}'"


def with_shorter_dev(folds: list[Fold]) -> tuple[list[Fold], str]:
    left = folds[0].dev[-1]
    folds[0] = Fold(folds[0].name, folds[0].train, folds[0].dev[:-1], folds[0].test)
    return folds, rf"fold {folds[0].name} has 12 and 11 utterances in dev; only one of them has '{left}'"


def with_fewer_folds(folds: list[Fold]) -> tuple[list[Fold], str]:
    return folds[:2], r"the folds are \['1', '2', '3'\] and \['1', '2'\]"


@pytest.mark.parametrize("change", [with_swapped_ids, with_shorter_dev, with_fewer_folds])
def test_other_protocols_are_refused_with_the_first_difference(
    run: Path, tmp_path: Path, change: Callable[[list[Fold]], tuple[list[Fold], str]]
) -> None:
    there = tmp_path / "other"
    shutil.copytree(run, there)
    was = read_protocol(run / "protocol.json")
    folds, message = change(list(was.folds))
    Protocol(was.corpus, was.description, tuple(folds)).write(there / "protocol.json")
    scores = json.loads((there / "scores.json").read_text())
    scores["folds"] = [fold.name for fold in folds]
    (there / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(ModelError, match=f"are different protocols, .*{message}"):
        differences(run, there)


def test_every_format_shows_each_test(run: Path, tmp_path: Path) -> None:
    better = perfect(run, tmp_path / "perfect")
    shown = CliRunner().invoke(app, ["compare", str(run), str(better)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.stdout for word in ("UA", "WA", "McNemar", "Holm"))
    as_json = CliRunner().invoke(app, ["compare", str(run), str(better), "--format", "json"])
    (data,) = json.loads(as_json.stdout)
    ua = differences(run, better)["ua"]
    assert data["differences"]["ua"]["difference"] == pytest.approx(ua.value)
    assert data["differences"]["ua"]["p_holm"] == pytest.approx(ua.p_value)
    as_csv = CliRunner().invoke(app, ["compare", str(run), str(better), "-f", "csv"])
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert [row["test"] for row in rows] == ["ua", "wa", "mcnemar"]
    assert float(rows[0]["low"]) == pytest.approx(ua.low)


# --- groups of seeds ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds of a recipe."""
    folder = tmp_path_factory.mktemp("plain")
    return [invented_run(folder / f"plain-seed{seed}", 0.5, {}, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds of a recipe that is correct more often; its seed 4 has no partner in `plain`."""
    folder = tmp_path_factory.mktemp("better")
    return [
        invented_run(folder / f"better-seed{seed}", 0.7, {}, seed=seed, name="better") for seed in (1, 2, 4)
    ]


def scores_of(folders: list[Path], measure: str = "ua") -> list[float]:
    tables = [read_predictions(folder / "predictions.csv") for folder in folders]
    return [float(getattr(table.scores(), measure)) for table in tables]


def test_seeds_are_one_group_and_one_comparison(plain: list[Path], better: list[Path]) -> None:
    (found,) = compare_runs([*plain, *better])
    assert found.reference_seeds == found.run_seeds == (1, 2)
    assert found.reference_runs == tuple(map(str, plain[1:]))
    assert found.note == (
        "compared on the common seeds 1 2; left out is "
        f"seed 0 of '{plain[0].parent}/plain', seed 4 of '{better[0].parent}/better'"
    )
    assert found.run == f"{better[0].parent}/better, seeds 1 2"
    for measure, difference in found.differences.items():
        reference, run = (scores_of(folders, measure) for folders in (plain[1:], better[:2]))
        assert (difference.reference, difference.run) == pytest.approx((np.mean(reference), np.mean(run)))
        assert difference.reference_sd == pytest.approx(np.std(reference, ddof=1))
        assert difference.run_sd == pytest.approx(np.std(run, ddof=1))
        assert difference.p_holm == difference.p_value
    assert found.mcnemar is None


def test_the_order_of_runs_within_groups_does_not_matter(plain: list[Path], better: list[Path]) -> None:
    orders = [[*plain, *better], [plain[2], better[2], plain[0], *better[:2], plain[1]]]
    one, other = (compare_runs(order, resamples=200)[0] for order in orders)
    assert one == other


def test_groups_without_a_common_seed_are_averaged(plain: list[Path], better: list[Path]) -> None:
    (found,) = compare_runs([plain[0], plain[1], better[1], better[2]], resamples=200)
    assert (found.reference_seeds, found.run_seeds) == ((0, 1), (2, 4))
    assert "fewer than two common seeds, so each is averaged over all its seeds" in (found.note or "")
    assert found.differences["ua"].run == pytest.approx(np.mean(scores_of(better[1:])))


def test_a_group_of_one_run_is_the_run(plain: list[Path], better: list[Path]) -> None:
    folders = [plain[1], better[0]]
    (grouped,), (single,) = (compare_runs(folders, resamples=200, grouped=value) for value in (True, False))
    assert grouped == single
    assert (grouped.reference, grouped.run) == (str(plain[1]), str(better[0]))
    assert grouped.mcnemar is not None
    assert grouped.differences["ua"].run_sd is None


def test_single_runs_can_be_compared_without_groups(plain: list[Path]) -> None:
    found = compare_runs(plain, resamples=200, grouped=False)
    assert [item.run for item in found] == [str(folder) for folder in plain[1:]]
    with pytest.raises(ConfigError, match=r"all 3 runs are seeds of one recipe .*, seeds 0 1 2.*--ungrouped"):
        compare_runs(plain)


def test_the_command_shows_groups(plain: list[Path], better: list[Path]) -> None:
    folders = list(map(str, [*plain, *better]))
    shown = CliRunner().invoke(app, ["compare", *folders], env={"COLUMNS": "240"})
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.stdout.split())
    for words in ("seeds 1 2", " ± ", "detectable", "McNemar's test is left out", "common seeds 1 2"):
        assert words in text
    data = json.loads(CliRunner().invoke(app, ["compare", *folders, "-f", "json"]).stdout)
    assert data[0]["mcnemar"] is None
    assert data[0]["differences"]["ua"]["detectable"] > 0
    as_csv = CliRunner().invoke(app, ["compare", *folders, "-f", "csv"]).stdout
    rows = list(csv.DictReader(io.StringIO(as_csv)))
    assert [(row["test"], row["reference_seeds"]) for row in rows] == [("ua", "1 2"), ("wa", "1 2")]
    single = CliRunner().invoke(app, ["compare", *folders, "--ungrouped", "-f", "csv"]).stdout
    assert len(list(csv.DictReader(io.StringIO(single)))) == 5 * 3


def test_few_speakers_give_the_reason_in_place_of_the_interval(tmp_path: Path) -> None:
    corpus = invented_corpus(speakers=3)
    folders = [invented_run(tmp_path / name, 0.5, {}, corpus, name=name) for name in "ab"]
    (found,) = compare_runs(folders, resamples=200)
    assert found.differences["ua"].no_interval == "no interval: 3 speakers, 5 needed"
    assert found.differences["ua"].p_holm is None
    shown = CliRunner().invoke(app, ["compare", *map(str, folders)], env={"COLUMNS": "240"}).stdout
    assert "no interval: 3 speakers, 5 needed" in shown
    shown = CliRunner().invoke(app, ["scores", str(folders[0])], env={"COLUMNS": "240"}).stdout
    assert "no interval: 3 speakers, 5 needed" in shown
    assert "…" not in shown


# --- folders that are incomplete, tables that were edited -----------------------------------------


@pytest.mark.parametrize("name", ["recipe.toml", "protocol.json", "scores.json", "predictions.csv"])
def test_incomplete_folders_are_refused(run: Path, tmp_path: Path, name: str) -> None:
    there = tmp_path / "other"
    shutil.copytree(run, there)
    (there / name).unlink()
    with pytest.raises(ModelError, match=f"{there.name}.*{name}"):
        differences(run, there)


def test_damaged_scores_are_refused(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "other"
    shutil.copytree(run, there)
    for text, message in (
        ("{", r"scores\.json' is damaged \(JSONDecodeError"),
        ("[1]", r"scores\.json' is damaged"),
        ('{"folds": ["1"]}', r"scores\.json' is damaged \(KeyError: 'models'"),
        ('{"folds": ["1"], "models": {}}', r"scores\.json' is damaged \(KeyError: 'sha256'"),
        ('{"folds": ["9"], "models": {}, "sha256": {}}', r"scores\.json': bad fold '9', expected one of"),
        ('{"folds": ["1"], "models": {}, "sha256": {}}', r"holds no scores on test"),
    ):
        (there / "scores.json").write_text(text)
        with pytest.raises(ModelError, match=message):
            differences(run, there)
    with pytest.raises(ModelError, match="no run folder"):
        differences(run, tmp_path / "nothing")


def edited(run: Path, to: Path, row: int, change: Callable[[dict[str, str]], None]) -> Path:
    """A copy of a run with a changed row in its table; the header is row 1."""
    shutil.copytree(run, to)
    rows = make.read_rows(to / "predictions.csv")
    change(rows[row - 2])
    make.write_rows(to / "predictions.csv", rows)
    return to


EDITS: dict[str, tuple[Callable[[dict[str, str]], None], str]] = {
    "sum": (lambda row: row.update(p_angry="0.9", p_sad="0.3"), r"row 4: expected probabilities .* sum 1\.2"),
    "range": (
        lambda row: row.update(p_angry="1.2", p_sad="-0.2"), r"row 4: expected probabilities from 0 to 1",
    ),
    "number": (lambda row: row.update(p_angry="nan"), r"row 4: expected probabilities|not a number"),
    "predicted": (
        lambda row: row.update(predicted={"angry": "sad", "sad": "angry"}[row["predicted"]]),
        r"row 4: predicted is '.*', but the most probable",
    ),
    "emotion": (lambda row: row.update(emotion="angri"), r"row 4: bad emotion 'angri', .*mean 'angry'"),
    "other truth": (
        lambda row: row.update(emotion={"angry": "sad", "sad": "angry"}[row["emotion"]]),
        r"row 4: '.*' has emotion '.*' and speaker '.*', but utterances\.csv has",
    ),
    "speaker": (lambda row: row.update(speaker="me"), r"row 4: .* and speaker 'me', but utterances\.csv has"),
    "utterance": (lambda row: row.update(utterance="new"), r"row 4: 'new' is not in test of fold"),
    "fold": (lambda row: row.update(fold="8"), r"row 4: bad fold '8'"),
    "probabilities": (
        lambda row: row.update(
            {f"p_{name}": str(float(name == row["predicted"])) for name in ("angry", "sad")}
        ),
        r"was changed after the run was scored: row 4 is '.*', was '.*'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_edited_tables_are_refused(run: Path, tmp_path: Path, what: str) -> None:
    change, message = EDITS[what]
    with pytest.raises(ModelError, match=rf"predictions\.csv'.* {message}"):
        differences(run, edited(run, tmp_path / "other", 4, change))


def test_a_repeated_row_is_refused(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "other"
    shutil.copytree(run, there)
    rows = make.read_rows(there / "predictions.csv")
    make.write_rows(there / "predictions.csv", [*rows, rows[2]])
    message = rf"row {len(rows) + 2}: '{rows[2]['utterance']}' is already in row 4"
    with pytest.raises(ModelError, match=message):
        differences(run, there)


def test_a_run_without_utterances_is_refused(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "other"
    shutil.copytree(run, there)
    (there / "utterances.csv").unlink()
    with pytest.raises(ModelError, match=r"utterances\.csv' is missing; run the same command again"):
        differences(run, there)


def without_last(text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    return "".join(lines[:-2]), rf"row {len(lines) - 1} is missing, was '.*'"


def header_only(text: str) -> tuple[str, str]:
    return text.splitlines(keepends=True)[0], "row 2 is missing, was '.*'"


def other_line_ends(text: str) -> tuple[str, str]:
    return text.replace("\n", "\r\n"), "no row, but the header, the line ends or the encoding"


def with_byte_order_mark(text: str) -> tuple[str, str]:
    return "\ufeff" + text, "no row, but the header, the line ends or the encoding"


@pytest.mark.parametrize("change", [without_last, header_only, other_line_ends, with_byte_order_mark])
def test_the_change_of_an_edited_table_is_named(
    run: Path, tmp_path: Path, change: Callable[[str], tuple[str, str]]
) -> None:
    there = tmp_path / "other"
    shutil.copytree(run, there)
    path = there / "predictions.csv"
    text, message = change(path.read_text(encoding="utf-8"))
    path.write_bytes(text.encode())
    with pytest.raises(ModelError, match=f"was changed after the run was scored: {message}"):
        differences(run, there)


def test_an_edited_table_of_a_fold_is_not_joined(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "other"
    shutil.copytree(run, there)
    recipe = load_recipe(there / "recipe.toml")
    path = there / "fold-1/predictions.csv"
    kept = path.read_bytes()
    rows = make.read_rows(path)
    certain = {f"p_{name}": str(float(name == rows[0]["predicted"])) for name in ("angry", "sad")}
    make.write_rows(path, [{**rows[0], **certain}, *rows[1:]])
    with pytest.raises(
        ModelError, match=r"fold-1/predictions\.csv' was changed after its fold had finished: delete"
    ):
        collect_scores(recipe, there)
    shutil.copyfile(path, there / "predictions.csv")
    with pytest.raises(
        ModelError, match=r"'.*fold-1/predictions\.csv', which it was joined from, was changed too"
    ):
        read_run(there)._check_unchanged(there / "predictions.csv")
    path.unlink()
    crossval(recipe, there)  # from the trained models
    assert path.read_bytes() == kept


def test_unfinished_runs_are_compared_and_scored_with_a_note(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "begun"
    shutil.copytree(run, there)
    (there / "fold-3/predictions.csv").unlink()
    collect_scores(load_recipe(there / "recipe.toml"), there)
    assert score_run(read_run(there), 50).notes[0] == (
        "2 of 3 folds are done, and all figures are of these folds. Missing: 3."
    )
    assert not any("folds are done" in note for note in score_run(read_run(run), 50).notes)
    shown = CliRunner().invoke(app, ["compare", str(there), str(there)], env={"COLUMNS": "200"})
    assert "they lack folds 3" in shown.stdout


def test_an_edited_utterances_file_is_refused(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "other"
    shutil.copytree(run, there)
    path = there / "utterances.csv"
    kept = path.read_bytes()
    rows = make.read_rows(path)
    make.write_rows(path, [{**rows[0], "gender": "female"}, *rows[1:]])
    with pytest.raises(
        ModelError, match=r"utterances\.csv' was changed after it was written, and .*; delete it and run"
    ):
        differences(run, there)
    make.write_rows(
        path, [{**row, "path": f"/elsewhere/{row['id']}.wav"} for row in rows]
    )  # a corpus may move
    assert differences(run, there)["ua"].value == 0
    make.write_rows(path, [{**rows[0], "path": ""}, *rows[1:]])
    with pytest.raises(ModelError, match="was changed after it was written"):
        differences(run, there)
    path.write_bytes(kept.replace(b"angry", "ärger".encode("cp1252")))
    with pytest.raises(CorpusError, match="is not UTF-8"):
        differences(run, there)
    path.unlink()
    crossval(load_recipe(there / "recipe.toml"), there)
    assert path.read_bytes() == kept
    assert differences(run, there)["ua"].value == 0
