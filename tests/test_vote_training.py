"""Training on listeners' votes, from a manifest to the scores against votes."""

import json
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import torch
from torch import Tensor

from emodistill.corpora import Utterance
from emodistill.errors import ConfigError, LeakError
from emodistill.evaluation import read_run, score_run
from emodistill.evaluation.compare import compare_runs, measure_title
from emodistill.evaluation.latex import comparisons_latex
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.vote_scores import VOTE_TITLES
from emodistill.protocol.folds import read_protocol
from emodistill.training.ablation import GridRuns
from emodistill.training.cross_validation import crossval
from emodistill.training.data import Batch
from emodistill.training.preflight import check_recipe
from emodistill.training.target_checks import usable_voted

PLAIN: dict[str, Any] = {"protocol": {"folds": 3, "refit": False}, "distillation": {"teachers": []}}


def student(**optim: Any) -> dict[str, Any]:
    settings = {"backbone": "compact", "layers": 1, "width": 16, "embedding_dim": 16}
    return {**settings, "optim": {**make.OPTIM, "epochs": 1, **optim}}


def voted_corpus(folder: Path, unanimous: bool = False) -> Path:
    """Write a corpus with votes. Unless they are unanimous, each first utterance of a speaker is a tie."""
    rows = make.read_rows(make.corpus_folder(folder, speakers=6, each=2))
    for number, row in enumerate(rows):
        votes = {row["emotion"]: 3}
        if not unanimous:
            other = "sad" if row["emotion"] != "sad" else "angry"
            votes[other] = 3 if number % 12 == 0 else 1
            row["emotion"] = "" if number % 12 == 0 else row["emotion"]
        row["votes"] = json.dumps(votes)
    return make.write_rows(folder / "utterances.csv", rows)


def test_ties_are_in_training_alone_and_votes_are_scored(tmp_path: Path) -> None:
    listed = voted_corpus(tmp_path / "corpus")
    ties = {row["id"]: row["speaker"] for row in make.read_rows(listed) if not row["emotion"]}
    assert len(ties) > 1
    runs = {}
    for name in ("label", "votes"):
        runs[name] = tmp_path / name
        optim = {"targets": name, "vote_loss": "kl", "class_weights": name == "votes", "label_smoothing": 0.1}
        crossval(make.recipe(listed, **PLAIN, student=student(**optim)), runs[name])
    protocols = [read_protocol(folder / "protocol.json") for folder in runs.values()]
    assert protocols[0].hash == protocols[1].hash
    for fold in protocols[0].folds:
        held_out = {name.split("_")[0] for name in (*fold.dev, *fold.test)}
        for name, folder in runs.items():
            path = folder / f"fold-{fold.name}/select/student/model.json"
            learned = set(json.loads(path.read_text(encoding="utf-8"))["training_ids"])
            own = {tie for tie, speaker in ties.items() if speaker not in held_out and name == "votes"}
            assert learned == set(fold.train) | own
    scores = score_run(read_run(runs["votes"]), resamples=20)
    assert scores.votes is not None
    assert scores.votes.models[0].figures.keys() == VOTE_TITLES.keys()
    assert scores.votes.halves is not None
    (comparison,) = compare_runs([runs["label"], runs["votes"]], resamples=20)
    assert comparison.differences["votes_kl"].run == pytest.approx(scores.votes.models[0].figures["kl"].value)
    assert measure_title("votes_kl") == "votes: KL nats"
    latex = comparisons_latex([comparison], [read_run(folder) for folder in runs.values()])
    assert " & KL & JS & " in latex
    assert "of the predictions from the listeners' votes; lower is better" in latex


@pytest.mark.parametrize("refit", [True, "classifier"])
def test_unanimous_votes_train_the_same_model_as_labels(tmp_path: Path, refit: Any) -> None:
    listed = voted_corpus(tmp_path / "corpus", unanimous=True)
    tables = []
    for name in ("label", "votes"):
        sections = {"protocol": {"folds": 3, "refit": refit}, "distillation": {"teachers": ["prosodic"]}}
        optim = {**make.OPTIM, "epochs": 1, "targets": name}
        recipe = make.recipe(
            listed, **sections, student=student(targets=name),
            prosodic={"width": 8, "embedding_dim": 8, "optim": optim},
        )  # fmt: skip
        crossval(recipe, tmp_path / name, max_folds=1)
        tables.append(read_predictions(tmp_path / name / "predictions.csv").probabilities)
    assert np.abs(tables[0] - tables[1]).max() < 1e-4


def test_votes_as_targets_need_votes(tmp_path: Path) -> None:
    listed = make.corpus_folder(tmp_path / "corpus", speakers=3, each=1)
    with pytest.raises(ConfigError, match=r"student\.optim\.targets = 'votes', but no training utterance of"):
        check_recipe(make.recipe(listed, **PLAIN, student=student(targets="votes")))
    check_recipe(make.recipe(listed, **PLAIN, student=student()))
    rows = [{**row, "emotion": "", "votes": '{"sad": 1}'} for row in make.read_rows(listed)]
    make.write_rows(listed, rows)
    with pytest.raises(
        ConfigError, match=r"no utterance of 'fake' has an emotion, only votes.*leave the col"
    ):
        check_recipe(make.recipe(listed, **PLAIN, student=student(targets="votes")))


def test_a_sweep_reads_the_ties_for_the_cells_that_learn_from_votes(tmp_path: Path) -> None:
    listed = voted_corpus(tmp_path / "corpus")
    runs = GridRuns(tmp_path / "grid")
    voted = {
        name: runs.data(make.recipe(listed, **PLAIN, student=student(targets=name))).voted
        for name in ("label", "votes")
    }
    assert not voted["label"]
    assert len(voted["votes"]) > 1


def test_a_held_out_recording_among_the_ties_is_a_leak(tmp_path: Path) -> None:
    listed = voted_corpus(tmp_path / "corpus")
    rows = make.read_rows(listed)
    tie = next(row for row in rows if not row["emotion"])
    other = next(row for row in rows if row["emotion"] and row["speaker"] != tie["speaker"])
    tie["path"] = other["path"]
    make.write_rows(listed, rows)
    with pytest.raises(LeakError, match=tie["id"]):
        check_recipe(make.recipe(listed, **PLAIN, student=student(targets="votes")))


@pytest.mark.parametrize(
    ("place", "kind", "is_used"),
    [
        ({"speaker": "new"}, "k-fold", True),
        ({"speaker": "held-out"}, "k-fold", False),
        ({"speaker": "new", "session": "2"}, "leave-one-session-out", False),
        ({"speaker": "new", "corpus": "other"}, "leave-one-corpus-out", False),
        ({"speaker": "new", "split": "train"}, "published", True),
        ({"speaker": "new", "split": "test"}, "published", False),
    ],
)
def test_a_tie_of_what_is_held_out_is_not_in_training(
    place: dict[str, str], kind: str, is_used: bool
) -> None:
    train = Utterance("a", "s1", "sad", session="1", corpus="own")
    held_out = Utterance("b", "held-out", "sad", session="2", corpus="other")
    tie = Utterance(**{"id": "c", "emotion": None, "session": "1", "corpus": "own", **place})
    assert usable_voted([tie], [train], [held_out], kind) == ((tie,) if is_used else ())


def test_mixup_mixes_votes_as_labels() -> None:
    def batch(votes: Tensor | None) -> Batch:
        return Batch(torch.zeros(2, 3), torch.ones(2), torch.tensor([0, 1]), torch.arange(2), {}, votes=votes)

    votes = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    mixed = batch(votes).with_targets_reordered(torch.tensor([1, 0]))
    assert mixed.votes is not None
    assert torch.equal(mixed.votes, votes.flip(0))
    assert batch(None).with_targets_reordered(torch.tensor([1, 0])).votes is None
