"""A tiny recipe from corpus to scores: folds, teachers, targets and student; kills, refusals and masks."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import factories_corpora as trees
import numpy as np
import pytest
import soundfile
import torch

from emodistill.config import AugmentConfig, StudentConfig, load_recipe
from emodistill.console import results
from emodistill.corpora import read_manifest, write_manifest
from emodistill.corpora.load import pool_corpora
from emodistill.errors import ConfigError, LeakError, ModelError
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import read_run
from emodistill.evaluation.scores import score_run
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import load_checkpoint
from emodistill.models.student import Student
from emodistill.protocol.folds import read_protocol
from emodistill.training import fold as fold_module
from emodistill.training import fold_tables as tables_module
from emodistill.training.cross_validation import crossval, prepare_run, print_scores
from emodistill.training.data import CLEAN
from emodistill.training.fit import FitResult
from emodistill.training.labels import label_weights, possible_emotions
from emodistill.training.preflight import with_absolute_paths
from emodistill.training.stages import CLEAN_ONLY, ProsodicStage, SpeechStage
from emodistill.training.targets import TeacherTargets


class Killed(Exception):
    """Raised where a test ends a run, as if the process were killed."""


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    """The content of all files with names of a pattern, by relative path."""
    paths = sorted(path for path in folder.rglob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# --- one finished run ----------------------------------------------------------------------------


def test_every_utterance_is_predicted_once_in_its_own_fold(run: Path, manifest: Path) -> None:
    corpus = read_manifest(manifest)
    table = read_predictions(run / "predictions.csv")
    assert sorted(table.utterances) == sorted(utterance.id for utterance in corpus)
    protocol = read_protocol(run / "protocol.json")
    truth = {utterance.id: (utterance.emotion, utterance.speaker) for utterance in corpus}
    for name, fold, emotion, speaker in zip(
        table.utterances, table.folds, table.emotions, table.speakers, strict=True
    ):
        assert name in protocol.fold(fold).test
        assert (emotion, speaker) == truth[name]
    np.testing.assert_allclose(table.probabilities.sum(axis=1), 1, atol=1e-6)


def test_teachers_predict_the_utterances_that_have_their_input(run: Path, manifest: Path) -> None:
    corpus = read_manifest(manifest)
    prosodic = read_predictions(run / "predictions-prosodic.csv")
    linguistic = read_predictions(run / "predictions-linguistic.csv")
    assert set(prosodic.utterances) == {utterance.id for utterance in corpus}
    assert set(linguistic.utterances) == {utterance.id for utterance in corpus if utterance.transcript}
    assert len(linguistic) < len(prosodic)
    for name in ("", "-prosodic", "-linguistic"):
        assert len(read_predictions(run / f"predictions{name}-dev.csv")) > 0


def test_scores_agree_with_the_prediction_tables(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    assert scores["protocol"] == read_protocol(run / "protocol.json").stamp
    assert set(scores["models"]) == {"student", "prosodic", "linguistic"}
    table = read_predictions(run / "predictions.csv")
    test_scores = scores["models"]["student"]["test"]
    assert test_scores["pooled"] == table.scores().as_dict()
    by_fold = [part.scores().ua for part in table.by_fold().values()]
    assert test_scores["mean_over_folds"]["ua"]["mean"] == pytest.approx(np.mean(by_fold))
    assert test_scores["mean_over_folds"]["ua"]["sd"] == pytest.approx(np.std(by_fold, ddof=1))
    dev = scores["models"]["student"]["dev"]["by_fold"]
    for fold in scores["folds"]:
        fitted = FitResult.read(run / f"fold-{fold}/select/student/fit.json")
        assert fitted.dev_ua == pytest.approx(dev[fold]["ua"], abs=1e-6)


def test_refit_trains_on_train_and_dev_for_the_epochs_of_dev(run: Path) -> None:
    protocol = read_protocol(run / "protocol.json")
    for fold in protocol.folds:
        for name in ("prosodic", "student"):
            select = load_checkpoint(run / f"fold-{fold.name}/select/{name}")
            refit = load_checkpoint(run / f"fold-{fold.name}/refit/{name}")
            assert set(select.training_ids) == set(fold.train)
            assert set(refit.training_ids) == set(fold.train) | set(fold.dev)
            chosen = FitResult.read(run / f"fold-{fold.name}/select/{name}/fit.json")
            again = FitResult.read(run / f"fold-{fold.name}/refit/{name}/fit.json")
            assert (again.epochs, again.dev_ua) == (chosen.epochs, None)


def test_utterances_without_transcript_are_masked(run: Path, manifest: Path) -> None:
    spoken = {utterance.id: bool(utterance.transcript) for utterance in read_manifest(manifest)}
    fold = read_protocol(run / "protocol.json").folds[0]
    path = run / f"fold-{fold.name}/select/linguistic/targets-in-sample.safetensors"
    targets = TeacherTargets.read(path, fold.train)
    assert targets.available.tolist() == [spoken[name] for name in fold.train]
    assert not all(targets.available)
    assert targets.embedding[~targets.available].abs().sum() == 0
    words = set(load_checkpoint(run / f"fold-{fold.name}/select/linguistic").training_ids)
    assert words == {name for name in fold.train if spoken[name]}


def test_in_sample_targets_are_the_outputs_of_the_teacher(run: Path) -> None:
    fold = read_protocol(run / "protocol.json").folds[0]
    folder = run / f"fold-{fold.name}/select/prosodic"
    targets = TeacherTargets.read(folder / "targets-in-sample.safetensors", fold.train)
    classifier = load_checkpoint(folder).model.classifier
    torch.testing.assert_close(classifier(targets.embedding), targets.logits, atol=1e-5, rtol=1e-5)
    assert torch.allclose(targets.embedding.norm(dim=1), torch.ones(len(fold.train)), atol=1e-5)


# --- determinism, resuming, refusing --------------------------------------------------------------


def test_a_second_run_is_equal_byte_for_byte(
    run: Path, manifest: Path, tmp_path: Path, own_cache: Path
) -> None:
    recipe = load_recipe(run / "recipe.toml")
    first = read_protocol(run / "protocol.json").folds[0].name
    crossval(recipe, tmp_path / "run", [first])
    assert files(tmp_path / f"run/fold-{first}", "*.csv").keys() >= {"predictions.csv"}
    expected = files(run / f"fold-{first}", "predictions*.csv")
    assert len(expected) == 6
    assert files(tmp_path / f"run/fold-{first}", "predictions*.csv") == expected


def dies_after(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, which raises `Killed` after a number of calls."""
    count = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > calls:
            raise Killed
        return function(*args, **kwargs)

    return wrapped


KILLS = {
    "before-the-teachers-checkpoint": ("save_checkpoint", 0),
    "before-the-second-teacher": ("fit", 1),
    "before-the-student": ("fit", 2),
    "before-the-students-checkpoint": ("save_checkpoint", 2),
    "between-the-phases": ("write_predictions", 2),
    "in-the-refit": ("fit", 4),
    "before-the-last-table": ("write_predictions", 5),
}


def test_a_killed_run_continues_to_the_same_predictions(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same run is killed several times, each time somewhat later.
    recipe = load_recipe(run / "recipe.toml")
    first = read_protocol(run / "protocol.json").folds[0].name
    for name, (function, calls) in KILLS.items():
        with monkeypatch.context() as patch:
            done = sum(
                (tmp_path / f"run/fold-{first}/{phase}/{stage}/model.json").is_file()
                for phase in ("select", "refit")
                for stage in ("prosodic", "linguistic", "student")
            )
            calls_left = calls - done if function in ("fit", "save_checkpoint") else calls
            module = tables_module if function == "write_predictions" else fold_module
            patch.setattr(module, function, dies_after(getattr(module, function), calls_left))
            with pytest.raises(Killed):
                crossval(recipe, tmp_path / "run", [first])
        assert not (tmp_path / f"run/fold-{first}/predictions.csv").is_file(), name
    crossval(recipe, tmp_path / "run", [first])
    expected = files(run / f"fold-{first}", "predictions*.csv")
    assert files(tmp_path / f"run/fold-{first}", "predictions*.csv") == expected


def test_a_finished_run_is_not_changed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = files(copy, "*")
    monkeypatch.setattr(fold_module, "fit", dies_after(fold_module.fit, 0))
    crossval(load_recipe(copy / "recipe.toml"), copy)
    assert {n: v for n, v in files(copy, "*").items() if v != before.get(n)} == {}


def test_a_folder_of_another_run_is_refused(run: Path, manifest: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("recipe.toml", "protocol.json"):
        shutil.copy(run / name, copy)
    other = load_recipe(run / "recipe.toml", ["student.optim.lr=0.5"])
    with pytest.raises(
        ConfigError, match=r"another recipe: student\.optim\.lr is 0\.003 there and 0\.5 here"
    ):
        prepare_run(other, copy)
    # Settings of the machine may differ.
    assert prepare_run(load_recipe(run / "recipe.toml", ["runtime.workers=2"]), copy)

    rows = make.read_rows(manifest)
    shorter = make.write_rows(
        tmp_path / "utterances.csv", [{**row, "path": manifest.parent / row["path"]} for row in rows[1:]]
    )
    recipe = make.recipe(shorter)
    (copy / "recipe.toml").write_text(
        re.sub(r'manifest = ".*"', f'manifest = "{shorter}"', (copy / "recipe.toml").read_text())
    )
    with pytest.raises(ConfigError, match="other data or folds: its protocol hash differs"):
        prepare_run(recipe, copy)


def test_a_leaking_corpus_stops_the_run(manifest: Path, tmp_path: Path) -> None:
    rows = make.read_rows(manifest)
    folder = tmp_path / "corpus"
    shutil.copytree(manifest.parent, folder)
    sound, rate = soundfile.read(folder / rows[0]["path"])
    other = next(row for row in rows if row["speaker"] != rows[0]["speaker"])
    soundfile.write(folder / other["path"], 0.3 * sound, rate)
    with pytest.raises(LeakError, match=r"identical recordings in two splits: 's0_angry_0' \("):
        crossval(make.recipe(folder / "utterances.csv", protocol={"folds": 6}), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "no file is written before the audit"


def test_a_teacher_that_was_trained_on_the_test_fold_is_refused(run: Path, tmp_path: Path) -> None:
    protocol = read_protocol(run / "protocol.json")
    one, two = (fold.name for fold in protocol.folds[:2])
    foreign = run / f"fold-{two}/select/prosodic"
    recipe = load_recipe(run / "recipe.toml", [f"prosodic.init={foreign}"])
    with pytest.raises(
        LeakError, match="the initial prosodic teacher was trained on held-out utterances: 's"
    ):
        crossval(recipe, tmp_path / "run", [one])
    own = run / f"fold-{one}/select/prosodic"
    crossval(
        load_recipe(run / "recipe.toml", [f"prosodic.init={own}", "protocol.refit=false"]),
        tmp_path / "own", [one],
    )  # fmt: skip
    assert (tmp_path / "own/scores.json").is_file()


def test_a_recipe_without_a_folder_of_its_corpus_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names no data for 'ravdess': --set corpus\.root=DIR"):
        crossval(load_recipe("ravdess-whisper"), Path("never"))


# --- the parts of the method ---------------------------------------------------------------------


def one_fold(manifest: Path, out: Path, **sections: Any) -> tuple[Path, dict[str, Any]]:
    sections.setdefault("protocol", {"refit": False})
    recipe = make.recipe(manifest, **sections)
    scores = crossval(recipe, out, max_folds=1)
    return out / f"fold-{scores['folds'][0]}", scores


def test_out_of_fold_targets_come_from_teachers_trained_without_the_speaker(
    manifest: Path, tmp_path: Path
) -> None:
    options = {"teachers": ["prosodic"], "targets": "out-of-fold", "inner_folds": 2}
    folder, _ = one_fold(manifest, tmp_path, distillation=options)
    fold = read_protocol(tmp_path / "protocol.json").folds[0]
    speaker = {utterance.id: utterance.speaker for utterance in read_manifest(manifest)}
    inner = [load_checkpoint(folder / f"select/prosodic/inner-{k}/prosodic") for k in (1, 2)]
    trained_on = [{speaker[name] for name in checkpoint.training_ids} for checkpoint in inner]
    assert len(trained_on[0] | trained_on[1]) == 2
    assert not trained_on[0] & trained_on[1]
    path = folder / "select/prosodic/targets-out-of-fold.safetensors"
    targets = TeacherTargets.read(path, fold.train)
    assert targets.available.all()
    main = load_checkpoint(folder / "select/prosodic").model
    stage = ProsodicStage("prosodic", make.recipe(manifest), read_manifest(manifest).labels)
    by_id = {utterance.id: utterance for utterance in read_manifest(manifest)}
    for row, name in enumerate(fold.train):
        inner_model = next(
            checkpoint.model
            for checkpoint, speakers in zip(inner, trained_on, strict=True)
            if speaker[name] not in speakers
        )
        for model, value, expected in (
            (inner_model, "logits", targets.logits),
            (main, "embedding", targets.embedding),
        ):
            inputs = stage.source(model, [by_id[name]], CLEAN_ONLY)(0, CLEAN)
            output = getattr(model(inputs[None], None), value)[0]
            torch.testing.assert_close(output, expected[row], atol=1e-4, rtol=1e-4)


def test_an_acoustic_teacher_gives_its_hidden_states(
    manifest: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    teacher = {
        "backbone": str(models["whisper"]), "frozen": 1, "pool": [0, 1, 2], "embedding_dim": 12,
        "optim": make.OPTIM,
    }  # fmt: skip
    folder, scores = one_fold(
        manifest, tmp_path, acoustic={"student": teacher},
        distillation={"teachers": ["acoustic"], "hidden": 1.0},
    )  # fmt: skip
    assert set(scores["models"]) == {"student", "acoustic"}
    student = load_checkpoint(folder / "select/student").model
    assert student.teacher_dims == {"acoustic": 12, "acoustic_hidden": 3 * 32}
    fold = read_protocol(tmp_path / "protocol.json").folds[0]
    path = folder / "select/acoustic/targets-in-sample.safetensors"
    targets = TeacherTargets.read(path, fold.train)
    assert targets.offsets.shape == (len(fold.train), 2, 2)
    frames = targets.offsets[:, :, 1] - targets.offsets[:, :, 0]
    assert (frames > 5).all()
    assert int(frames.sum()) == len(targets.hidden)
    frames_of_all = targets.hidden.float()
    torch.testing.assert_close(frames_of_all.mean(dim=0), torch.zeros(96), atol=2e-3, rtol=0)
    torch.testing.assert_close(frames_of_all.std(dim=0), torch.ones(96), atol=2e-2, rtol=0)
    history = FitResult.read(folder / "select/student/fit.json").history
    assert all(row["acoustic/hidden"] > 0 for row in history)

    # A finished run gives the teachers of another run, fold by fold, without training.
    again, _ = one_fold(
        manifest, tmp_path / "again", acoustic={"run": str(tmp_path), "student": teacher},
        distillation={"teachers": ["acoustic"]},
    )  # fmt: skip
    assert load_checkpoint(again / "select/student").model.teacher_dims == {"acoustic": 16}
    assert not (again / "select/acoustic/model.json").exists()

    # A missing run is refused before any training.
    with pytest.raises(ConfigError, match=r"acoustic\.run = '.*nowhere': fold .* has no trained student in"):
        one_fold(
            manifest, tmp_path / "late", acoustic={"run": str(tmp_path / "nowhere"), "student": teacher},
            distillation={"teachers": ["prosodic", "acoustic"]},
        )  # fmt: skip
    assert not list((tmp_path / "late").rglob("fit.json"))


def test_pooled_corpora_leave_the_emotions_that_they_lack_out_of_the_loss(
    models: dict[str, Path], tmp_path: Path
) -> None:
    parts = [
        read_manifest(make.corpus_folder(tmp_path / name, emotions=emotions, each=each), name=name)
        for name, emotions, each in (("one", ("angry", "sad"), 3), ("two", ("sad", "happy", "angry"), 2))
    ]
    both = pool_corpora("both", [replace(part, merged={"calm -> sad": 1}) for part in parts])
    assert both.merged == {"one: calm -> sad": 1, "two: calm -> sad": 1}
    assert {u.speaker for u in both} == {f"{name}/s{n}" for name in ("one", "two") for n in range(6)}
    listed = tmp_path / "both.csv"
    write_manifest(both, listed)
    teacher = {"backbone": str(models["whisper"]), "frozen": 2, "embedding_dim": 12, "optim": make.OPTIM}
    recipe = make.recipe(
        listed, protocol={"refit": False}, acoustic={"student": teacher},
        augment={"views": 2, "fresh": True, "speed": 0.1, "gain_db": 6.0},
        distillation={"teachers": ["prosodic", "acoustic"], "hidden": 1.0},
    )  # fmt: skip
    (fold,) = prepare_run(recipe, tmp_path / "run")[:1]
    rows = possible_emotions(fold.train, fold.labels)
    assert rows is not None
    for utterance, row in zip(fold.train, rows, strict=True):
        happy = both.labels.index("happy")
        assert row.tolist() == [utterance.corpus == "two" or label != happy for label in range(3)]
    fold.run()
    table = read_predictions(tmp_path / f"run/fold-{fold.fold.name}/predictions.csv")
    assert len(table) == len(fold.test)
    history = FitResult.read(fold.folder / "select/student/fit.json").history
    assert all(0 < row["hard"] < 3 and row["acoustic/hidden"] > 0 for row in history)


def test_each_corpus_is_scored_by_a_student_trained_without_it(tmp_path: Path) -> None:
    parts = [
        read_manifest(make.corpus_folder(tmp_path / name, each=1, seed=seed), name=name)
        for name, seed in (("one", 0), ("two", 100))
    ]
    listed = tmp_path / "both.csv"
    write_manifest(pool_corpora("both", parts), listed)
    recipe = make.recipe(
        listed, protocol={"kind": "leave-one-corpus-out", "folds": 3, "refit": False},
        distillation={"teachers": ["prosodic"]},
    )  # fmt: skip
    scores = crossval(recipe, tmp_path / "run")
    assert scores["folds"] == ["one", "two"]
    corpus_of = {item.id: item.corpus for item in read_manifest(listed)}
    tables = read_predictions(tmp_path / "run/predictions.csv").by_fold()
    for left_out, table in tables.items():
        assert sorted(table.utterances) == sorted(
            name for name, corpus in corpus_of.items() if corpus == left_out
        )
        for model in ("student", "prosodic"):
            training_ids = load_checkpoint(tmp_path / f"run/fold-{left_out}/select/{model}").training_ids
            assert {corpus_of[name] for name in training_ids} == set(corpus_of.values()) - {left_out}


def test_corpora_can_have_equal_weight_in_the_loss(tmp_path: Path) -> None:
    corpus = read_manifest(make.corpus_folder(tmp_path / "one", each=2))
    train = [replace(u, corpus="large" if i % 4 else "small") for i, u in enumerate(corpus)]
    sizes = Counter(u.corpus for u in train)
    assert label_weights(train, 0.0) is None
    for power in (0.5, 1.0):
        weights = label_weights(train, power)
        assert weights is not None
        assert weights.mean().item() == pytest.approx(1)
        total = {
            name: sum(w for u, w in zip(train, weights.tolist(), strict=True) if u.corpus == name)
            for name in sizes
        }
        ratio = (sizes["large"] / sizes["small"]) ** (1 - power)
        assert total["large"] / total["small"] == pytest.approx(ratio, rel=1e-5)


def test_a_frozen_student_starts_from_a_probe(tmp_path: Path, models: dict[str, Path]) -> None:
    for emotions in (("angry", "sad"), ("angry", "happy", "sad")):
        where = tmp_path / str(len(emotions))
        listed = make.corpus_folder(where / "corpus", emotions=emotions, each=2)
        student = {
            "backbone": str(models["hubert"]),
            "layers": 2,
            "frozen": 2,
            "probe": 0.5,
            "embedding_dim": 8,
        }
        folder, _ = one_fold(
            listed, where / "run", distillation={"teachers": ["prosodic"]},
            student={**student, "optim": {**make.OPTIM, "epochs": 1, "lr": 1e-12}},
        )  # fmt: skip
        student_model = load_checkpoint(folder / "select/student").model
        assert student_model.classifier.weight.shape == (len(emotions), 8)
        expected = torch.zeros(len(emotions), 8)
        expected[:, : len(emotions)] = torch.eye(len(emotions))
        torch.testing.assert_close(student_model.classifier.weight.detach(), expected, atol=1e-4, rtol=0)
        assert student_model.norm.std.min() > 0

    stage = SpeechStage(
        "student",
        make.recipe(listed),
        LabelSet(emotions),
        StudentConfig(init="x", frozen=1),
        AugmentConfig(),
        {},
    )
    after = stage.create([], student_model)
    assert isinstance(after, Student)
    assert (after.config.probe, after.config.frozen, after.config.embedding_dim) == (None, 1, 8)


def test_an_emotion_that_training_lacks_stays_in_the_loss(tmp_path: Path) -> None:
    listed = make.corpus_folder(tmp_path / "one", emotions=("angry", "happy", "sad"), each=2)
    (fold,) = prepare_run(make.recipe(listed), tmp_path / "run")[:1]
    assert possible_emotions([u for u in fold.train if u.emotion != "happy"], fold.labels) is None
    mixed = [replace(u, corpus=str(u.emotion == "sad")) for u in fold.train if u.emotion != "happy"]
    rows = possible_emotions(mixed, fold.labels)
    assert rows is not None
    assert {tuple(row) for row in rows.tolist()} == {(True, True, False), (False, True, True)}


def test_a_run_on_own_folds_is_continued_until_the_list_changes(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": row["id"], "fold": int(row["speaker"][1:]) % 3} for row in make.read_rows(manifest)]
    make.write_rows(tmp_path / "folds.csv", rows)
    monkeypatch.chdir(tmp_path)
    recipe = make.recipe(manifest, protocol={"kind": "list", "folds_from": "folds.csv", "refit": False})
    recipe = with_absolute_paths(recipe)
    assert recipe.protocol.folds_from == str(tmp_path / "folds.csv"), "it can be run from any folder"
    folds = prepare_run(recipe, tmp_path / "run")
    assert [fold.fold.name for fold in folds] == ["0", "1", "2"]
    assert len(prepare_run(recipe, tmp_path / "run")) == 3
    make.write_rows(tmp_path / "folds.csv", [{**row, "fold": 2 - row["fold"]} for row in rows])
    with pytest.raises(ConfigError, match="holds a run on other data or folds"):
        prepare_run(recipe, tmp_path / "run")


def test_scores_say_which_emotions_training_lacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = make.corpus_folder(tmp_path / "one", emotions=("angry", "happy", "sad"), each=2)
    rows = make.read_rows(listed)
    only = rows[0]["speaker"]
    kept = [
        {**row, "path": listed.parent / row["path"]}
        for row in rows
        if row["emotion"] != "sad" or row["speaker"] == only
    ]
    rare = make.write_rows(tmp_path / "utterances.csv", kept)
    teacher = {"student": None, "distillation": {"teachers": ["prosodic"]}}
    protocol = {"kind": "leave-one-speaker-out", "refit": False, "dev": "next-fold"}
    recipe = make.recipe(rare, protocol=protocol, **teacher)
    scores = crossval(recipe, tmp_path / "run", folds=[only])
    printed = " ".join(capsys.readouterr().err.split())
    assert f"no 'sad' in train of 2 of 6 folds ({only}, " in printed
    (note,) = [note for note in scores["notes"] if "'sad' is in test" in note]
    assert f"not in training of 1 of 6 folds ({only})" in note
    assert note in score_run(read_run(tmp_path / "run")).notes
    print_scores(scores, results())
    assert f"note: {note}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("teachers", [["prosodic", "linguistic"], ["linguistic", "acoustic"]])
def test_utterances_without_audio_train_the_linguistic_teacher_alone(
    manifest: Path, tmp_path: Path, teachers: list[str]
) -> None:
    rows = [{**row, "path": manifest.parent / row["path"]} for row in make.read_rows(manifest)]
    text_only = {row["id"] for row in rows[1::4] if row["transcript"]}
    for row in rows:
        row["path"] = "" if row["id"] in text_only else row["path"]
    mixed = make.write_rows(tmp_path / "utterances.csv", rows)
    teacher = {"backbone": "compact", "layers": 1, "width": 8, "embedding_dim": 8, "optim": make.OPTIM}
    folder, _ = one_fold(
        mixed, tmp_path / "run", acoustic={"student": teacher},
        distillation={"teachers": teachers, "hidden": 1.0},
    )  # fmt: skip
    fold = read_protocol(tmp_path / "run/protocol.json").folds[0]
    train, test = set(fold.train), set(fold.test)
    assert train & text_only
    assert test & text_only
    training_ids = {
        name: set(load_checkpoint(folder / f"select/{name}").training_ids) for name in (*teachers, "student")
    }
    assert train & text_only <= training_ids["linguistic"]
    for name in {"prosodic", "acoustic", "student"} & set(training_ids):
        assert training_ids[name] == train - text_only
    assert set(read_predictions(folder / "predictions.csv").utterances) == test - text_only
    assert set(read_predictions(folder / "predictions-linguistic.csv").utterances) >= test & text_only


def test_hidden_states_need_a_fixed_number_of_views(manifest: Path, tmp_path: Path) -> None:
    teacher = {"backbone": "compact", "layers": 1, "width": 8, "embedding_dim": 8}
    with pytest.raises(ConfigError, match=r"needs a fixed number of views: set augment\.views"):
        one_fold(
            manifest, tmp_path, acoustic={"student": {**teacher, "optim": make.OPTIM}},
            augment={"views": 0}, distillation={"teachers": ["acoustic"], "hidden": 1.0},
        )  # fmt: skip


def test_a_file_adds_transcripts(manifest: Path, tmp_path: Path) -> None:
    from emodistill.config import CorpusConfig
    from emodistill.corpora.load import open_corpus

    def read_with_transcripts(rows: list[dict[str, str]]) -> Any:
        path = make.write_rows(tmp_path / "asr.csv", rows)
        config = CorpusConfig(name="fake", manifest=str(manifest), transcripts=str(path))
        return {u.id: (u.transcript, u.transcript_source) for u in open_corpus(config, lambda _: None)}

    transcripts = read_with_transcripts(
        [{"id": "s0_angry_0", "transcript": "go away", "source": "tiny-asr"},
         {"id": "s0_angry_1", "transcript": "  ", "source": "tiny-asr"}]
    )  # fmt: skip
    assert transcripts["s0_angry_0"] == ("go away", "tiny-asr")
    assert transcripts["s0_angry_1"][0] is None, "spaces are no transcript"
    assert transcripts["s0_angry_2"] == (make.WORDS["angry"][2], "gold")
    with pytest.raises(Exception, match=r"has 1 ids that 'fake' lacks, such as 'nobody'"):
        read_with_transcripts([{"id": "nobody", "transcript": "x", "source": "y"}])
    with pytest.raises(Exception, match=r"has no column 'source'"):
        read_with_transcripts([{"id": "s0_angry_0", "transcript": "x"}])


# --- the paper's recipe --------------------------------------------------------------------------


def iemocap_tree(root: Path) -> Path:
    """Write five sessions of two speakers in the layout of the release, with sounds; returns the folder."""
    raw = ("ang", "hap", "exc", "sad", "neu", "fru")
    turns = {
        f"Ses0{session}F_impro0{1 + number % 2}_{gender}{number:03d}": emotion
        for session in range(1, 6)
        for gender in "FM"
        for number, emotion in enumerate(raw)
    }
    trees.iemocap(root, turns=turns)
    for index, path in enumerate(sorted(root.rglob("*.wav"))):
        sound = make.speech(0.4, 100 + 5 * (index % 20), seed=index)
        soundfile.write(path, sound, make.RATE)
    return root


def test_the_paper_recipe_from_end_to_end(models: dict[str, Path], tmp_path: Path) -> None:
    corpus = iemocap_tree(tmp_path / "IEMOCAP_full_release")
    overrides = [
        f"corpus.root={corpus}", f"student.backbone={models['hubert']}",
        f"linguistic.encoder={models['bert']}", "prosodic.width=8", "student.layers=none", "student.frozen=0",
        "runtime.threads=1", "runtime.accelerator=cpu",
        *(f"{part}.optim.{key}={value}" for part in ("prosodic", "linguistic", "student")
          for key, value in (("epochs", 1), ("batch_size", 16))),
    ]  # fmt: skip
    recipe = load_recipe("paper-iemocap", overrides)
    assert recipe.corpus.name == "iemocap"
    assert set(recipe.distillation.teachers) >= {"prosodic", "linguistic"}
    folds = [run.fold for run in prepare_run(recipe, tmp_path / "run")]
    assert len(folds) == (10 if recipe.protocol.kind == "leave-one-speaker-out" else 5)
    scores = crossval(recipe, tmp_path / "run", [fold.name for fold in folds[:2]])
    table = read_predictions(tmp_path / "run/predictions.csv")
    assert table.labels.names == ("angry", "happy", "sad", "neutral")
    assert sorted(table.utterances) == sorted(name for fold in folds[:2] for name in fold.test)
    assert len(table) == (10 if recipe.protocol.kind == "leave-one-speaker-out" else 20), "fru is dropped"
    assert set(scores["models"]) == {"student", "prosodic", "linguistic"}
    assert scores["protocol"] == read_protocol(tmp_path / "run/protocol.json").stamp
    assert "LEAKS" not in scores["protocol"]
    assert json.loads((tmp_path / "run/scores.json").read_text()) == scores
    student = load_checkpoint(tmp_path / f"run/fold-{folds[0].name}/select/student").model
    assert set(student.heads) == {"prosodic", "linguistic"}


def test_unfinished_runs_have_no_scores(tmp_path: Path) -> None:
    from emodistill.evaluation.run import read_run

    with pytest.raises(ModelError, match="run"):
        read_run(tmp_path)


def test_a_student_learns_the_same_over_two_processes(manifest: Path, tmp_path: Path) -> None:
    """The student learns from logits alone: a projection head would wait for a gradient without end."""
    no_dropout = {"dropout": 0.0, "optim": {**make.OPTIM, "select": "last"}}
    sections: dict[str, Any] = {
        "protocol": {"kind": "k-fold", "folds": 3, "refit": False},
        "augment": {"views": 1, "noise_snr_db": None},
        "student": no_dropout,
        "distillation": {"teachers": ["prosodic"], "beta": 0.0},
    }
    one, two = tmp_path / "one", tmp_path / "two"
    recipe = make.recipe(manifest, **sections)
    crossval(recipe, one, max_folds=1)
    shutil.copytree(one / "fold-1/select/prosodic", two / "fold-1/select/prosodic")
    both = recipe.runtime.model_copy(update={"devices": 2})
    crossval(recipe.model_copy(update={"runtime": both}), two, max_folds=1)
    students = [load_checkpoint(run / "fold-1/select/student").model for run in (one, two)]
    assert isinstance(students[0], Student)
    assert students[0].teacher_dims == {}, "no loss would train a projection head"
    for name, value in students[0].state_dict().items():
        torch.testing.assert_close(students[1].state_dict()[name], value, atol=1e-3, rtol=1e-2)
    tables = [read_predictions(run / "predictions.csv") for run in (one, two)]
    assert tables[0].utterances == tables[1].utterances
    np.testing.assert_allclose(tables[1].probabilities, tables[0].probabilities, atol=1e-3)
