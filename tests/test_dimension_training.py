"""Training on dimensions: losses, heads, tables, resuming, and what is refused before training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from emodistill.config import DistillationConfig, OptimConfig, ProsodicConfig, RuntimeConfig, StudentConfig
from emodistill.corpora import read_manifest
from emodistill.distillation import ccc_loss, mse_loss, taught_dimension_loss
from emodistill.errors import ConfigError
from emodistill.evaluation.dev_scores import dev_score
from emodistill.evaluation.dimension_predictions import read_dimensions
from emodistill.evaluation.dimension_scores import concordance
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import read_run
from emodistill.labels import LabelSet
from emodistill.models.backbones import load_backbone
from emodistill.models.checkpoint import load_checkpoint, save_checkpoint
from emodistill.models.layers import Output, frame_mask
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.prosodic import ProsodicTeacher
from emodistill.models.student import Student
from emodistill.training import fold as fold_module
from emodistill.training.all_data import train_all
from emodistill.training.cross_validation import crossval
from emodistill.training.data import UtteranceDataset, collate
from emodistill.training.dev_measures import dev_scores
from emodistill.training.fit import FitResult, TrainingData, fit, infer
from emodistill.training.grid import make_grid
from emodistill.training.refit import ClassifierInputs, fit_regressor
from emodistill.training.stages import make_stage
from emodistill.training.targets import TeacherTargets
from emodistill.training.tuning import tune

BOTH = ["emotion", "arousal", "valence"]
DIMENSIONS = ["arousal", "valence"]
RUNTIME = RuntimeConfig(accelerator="cpu", devices=1, threads=1)

# --- losses ----------------------------------------------------------------------------------------

UNIT = st.integers(0, 20).map(lambda step: step / 20)  # as of a scale with 21 steps
PAIRS = st.integers(2, 12).flatmap(
    lambda rows: st.tuples(*[arrays(np.float32, (rows, 2), elements=UNIT)] * 2)
)


def with_gaps(values: np.ndarray) -> Tensor:
    """Targets (rows, 2) whose second dimension lacks its first label."""
    target = torch.from_numpy(values.copy())
    target[0, 1] = torch.nan
    return target


@given(PAIRS)
def test_the_ccc_loss_is_one_minus_the_ccc_of_the_scores(pair: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, target = torch.from_numpy(pair[0]).double(), with_gaps(pair[1]).double()
    expected = []
    for true, guess in zip(target.T.numpy(), predicted.T.numpy(), strict=True):
        if (~np.isnan(true)).sum() > 1:
            expected.append(1 - (concordance(true, guess) or 0.0))
    loss = ccc_loss(predicted, target).item()
    assert loss == pytest.approx(np.mean(expected), abs=1e-3)
    assert -1e-6 <= loss <= 2 + 1e-6


@pytest.mark.parametrize("loss", [ccc_loss, mse_loss])
@given(pair=PAIRS, extra=st.integers(1, 3))
@settings(max_examples=25)
def test_rows_without_a_label_change_nothing(
    loss: Callable[[Tensor, Tensor], Tensor], pair: tuple[np.ndarray, np.ndarray], extra: int
) -> None:
    predicted, target = torch.from_numpy(pair[0]), with_gaps(pair[1])
    more = torch.cat([predicted, torch.full((extra, 2), 0.3)])
    masked = torch.cat([target, torch.full((extra, 2), torch.nan)])
    torch.testing.assert_close(loss(more, masked), loss(predicted, target), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", [ccc_loss, mse_loss])
def test_a_perfect_prediction_costs_nothing(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    target = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    assert loss(target, target).item() == pytest.approx(0, abs=1e-5)
    assert loss(target + 0.2, target).item() > 0.01


@pytest.mark.parametrize("loss", [ccc_loss, mse_loss])
@pytest.mark.parametrize(
    "target", [[[0.2], [0.8]], [[0.5], [0.5]], [[0.5], [torch.nan]], [[torch.nan], [torch.nan]]]
)
def test_the_gradient_of_a_constant_prediction_is_finite(
    loss: Callable[[Tensor, Tensor], Tensor], target: list[list[float]]
) -> None:
    predicted = torch.full((2, 1), 0.5, requires_grad=True)
    value = loss(predicted, torch.tensor(target))
    value.backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()
    assert value.isfinite()
    labelled = (~torch.tensor(target).isnan()).sum()
    if labelled < 2 and loss is ccc_loss:
        assert value.item() == 0.0


def test_a_ccc_loss_teaches_a_constant_prediction_to_follow_the_labels() -> None:
    predicted = torch.full((2, 1), 0.5, requires_grad=True)
    ccc_loss(predicted, torch.tensor([[0.2], [0.8]])).backward()
    assert predicted.grad is not None
    assert predicted.grad[0] > 0 > predicted.grad[1]


def test_utterances_that_a_teacher_lacks_do_not_count() -> None:
    student = torch.tensor([[0.1], [0.4], [0.9]])
    teacher = torch.tensor([[0.2], [0.3], [0.0]])
    available = torch.tensor([True, True, False])
    for kind, loss in (("ccc", ccc_loss), ("mse", mse_loss)):
        value = taught_dimension_loss(student, teacher, available, kind)
        torch.testing.assert_close(value, loss(student[:2], teacher[:2]))


# --- models ----------------------------------------------------------------------------------------


def models_of(name: str, dimensions: tuple[str, ...], num_classes: int = 3) -> nn.Module:
    """A small model with the random weights of one seed."""
    torch.manual_seed(0)
    if name == "prosodic":
        return ProsodicTeacher(ProsodicConfig(width=8, embedding_dim=8), num_classes, dimensions)
    if name == "linguistic":
        config = make.recipe(Path("x.csv")).linguistic
        return LinguisticTeacher.create(config, num_classes, ["stop now"], dimensions)
    config = StudentConfig(backbone="compact", width=16, embedding_dim=12, queries=2)
    backbone = load_backbone("compact", 1, 16)
    return Student(backbone, config, num_classes, {"prosodic": 8}, False, dimensions)


@pytest.mark.parametrize("name", ["prosodic", "linguistic", "student"])
def test_all_other_weights_are_the_same_with_a_regressor(name: str) -> None:
    without, own = models_of(name, ()).state_dict(), models_of(name, ("arousal", "valence")).state_dict()
    assert own.keys() - without.keys() == {"regressor.weight", "regressor.bias"}
    for key, value in without.items():
        assert torch.equal(value, own[key]), key
    assert own["regressor.bias"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("name", ["prosodic", "linguistic", "student"])
def test_a_checkpoint_keeps_its_dimensions(name: str, num_classes: int, tmp_path: Path) -> None:
    labels = LabelSet(("angry", "happy", "sad")[:num_classes])
    model = models_of(name, ("arousal",), num_classes)
    save_checkpoint(tmp_path, model, labels, ["a"])
    loaded = load_checkpoint(tmp_path)
    assert (loaded.dimensions, loaded.labels) == (("arousal",), labels)
    assert json.loads((tmp_path / "model.json").read_text())["dimensions"] == ["arousal"]
    assert torch.equal(loaded.model.regressor.weight, model.regressor.weight)  # type: ignore[union-attr]


def test_a_checkpoint_from_before_has_no_dimensions(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, models_of("prosodic", ()), LabelSet(("angry", "happy", "sad")), ["a"])
    info = json.loads((tmp_path / "model.json").read_text())
    assert info.pop("dimensions") == []
    (tmp_path / "model.json").write_text(json.dumps(info))
    assert load_checkpoint(tmp_path).dimensions == ()


def test_the_regressor_starts_new_where_the_dimensions_differ(tmp_path: Path) -> None:
    labels = LabelSet(("angry", "happy", "sad"))
    first = make.with_random_weights(models_of("student", ("arousal",)))
    save_checkpoint(tmp_path / "first", first, labels, [])

    def started(targets: list[str]) -> dict[str, Tensor]:
        student = {"backbone": "compact", "init": str(tmp_path / "first")}
        recipe = make.recipe(Path("x.csv"), targets=targets, student=student)
        model, _ = make_stage("student", recipe, labels, {"prosodic": 8}).initialise([])
        return model.state_dict()

    same, other, none = started(["arousal"]), started(["emotion", "valence"]), started(["emotion"])
    assert torch.equal(same["regressor.weight"], first.regressor.weight)
    assert not torch.equal(other["regressor.weight"], first.regressor.weight)
    assert "regressor.weight" not in none
    for state in (same, other, none):
        assert torch.equal(state["embed.weight"], first.embed.weight)


# --- learning --------------------------------------------------------------------------------------


class Slopes:
    """Sequences whose mean in one column is a dimension; every fifth has no label."""

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.values = torch.from_numpy(rng.random((count, 1))).float()
        self.items = []
        for value in self.values:
            item = 0.5 * rng.standard_normal((rng.integers(6, 14), 4))
            item[:, 2] += 3 * float(value)
            self.items.append(torch.from_numpy(item).float())
        self.labels = self.values.clone()
        self.labels[::5] = torch.nan

    def __call__(self, index: int, epoch: int) -> Tensor:
        return self.items[index]

    def size(self, index: int) -> float:
        return len(self.items[index])

    def dataset(self, **more: Any) -> UtteranceDataset:
        return UtteranceDataset(self, [0] * len(self.items), dimensions=self.labels, **more)


class TinyRegressor(nn.Module):
    """Masked mean, a hidden layer and a regressor; it predicts no emotions."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 16)
        self.regressor = nn.Linear(16, 1)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Output:
        mask = frame_mask(lengths, x.shape[1])
        weight = torch.ones(x.shape[:2]) if mask is None else mask.float()
        mean = (x * weight[:, :, None]).sum(dim=1) / weight.sum(dim=1)[:, None]
        embedding = self.hidden(mean).tanh()
        return Output(x.new_zeros(len(x), 0), embedding, dimensions=self.regressor(embedding))


class TeacherOf:
    """Targets of a teacher that predicts half of each value."""

    def __init__(self, slopes: Slopes) -> None:
        self.values = slopes.values / 2

    def __call__(self, index: int, epoch: int) -> dict[str, Tensor]:
        return {
            "logits": torch.zeros(0), "embedding": torch.zeros(3), "available": torch.tensor(True),
            "dimensions": self.values[index],
        }  # fmt: skip


def fit_tiny(
    folder: Path, train: UtteranceDataset, dev: UtteranceDataset | None = None, **optim: Any
) -> tuple[nn.Module, FitResult]:
    torch.manual_seed(0)
    model = TinyRegressor()
    settings_ = OptimConfig(**{"epochs": 15, "batch_size": 16, "lr": 1e-2, **optim})
    weights = DistillationConfig(beta=0.0, delta=0.0) if train.targets else None
    result = fit(model, TrainingData(train, dev, 0), settings_, folder, RUNTIME, seed=0, distillation=weights)
    return model, result


@pytest.mark.parametrize("optim", [{"dimension_loss": "ccc"}, {"dimension_loss": "mse"}, {"ema": 0.9}])
def test_a_tiny_model_learns_a_dimension(tmp_path: Path, optim: dict[str, Any]) -> None:
    held = Slopes(60, seed=1)
    model, result = fit_tiny(tmp_path, Slopes(120).dataset(), held.dataset(), **optim)
    predicted = infer(model, held.dataset(), 16)["dimensions"][:, 0].double().numpy()
    assert (concordance(held.values[:, 0].double().numpy(), predicted) or 0) > 0.7
    assert result.dev_ua is None
    assert result.dev_ccc == max(row["dev_ccc"] for row in result.history)
    assert result.dev_ccc == pytest.approx(
        concordance(held.labels[:, 0].double().numpy(), predicted.clip(0, 1)), abs=1e-6
    )


@pytest.mark.parametrize("kind", ["ccc", "mse"])
def test_a_taught_dimension_comes_near_to_the_teachers(tmp_path: Path, kind: str) -> None:
    slopes = Slopes(120)
    teacher = TeacherOf(slopes)
    taught = slopes.dataset(targets={"prosodic": teacher})
    model, result = fit_tiny(tmp_path / "taught", taught, dimension_loss=kind)
    plain, _ = fit_tiny(tmp_path / "plain", slopes.dataset(), dimension_loss=kind)
    distances = [
        (infer(item, slopes.dataset(), 16)["dimensions"] - teacher.values).abs().mean().item()
        for item in (model, plain)
    ]
    assert distances[0] < 0.5 * distances[1]
    assert result.history[-1]["prosodic/taught_dimensions"] < result.history[0]["prosodic/taught_dimensions"]
    assert result.history[-1]["dimensions"] == 0.0


def test_the_refitted_regressor_is_a_minimum_near_the_old_one() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 5, generator=generator)
    labels = (inputs[:, :1] * 0.1 + 0.5).clamp(0, 1)
    labels[::7] = torch.nan
    rows = ClassifierInputs(inputs, torch.zeros(80), ("a",) * 80, dimensions=labels)
    before = nn.Linear(5, 1)
    nn.init.constant_(before.bias, 0.5)
    loss = {"ccc": ccc_loss, "mse": mse_loss}
    for kind in loss:
        fitted = fit_regressor(before, rows, kind, 1e-3)
        assert loss[kind](fitted(inputs), labels) < 0.2 * loss[kind](before(inputs), labels)
        kept = fit_regressor(before, rows, kind, 1e6)
        torch.testing.assert_close(kept.weight, before.weight, atol=1e-3, rtol=0)


def test_mixup_mixes_labels_and_targets_of_the_same_utterances() -> None:
    slopes = Slopes(6)
    data = slopes.dataset(targets={"prosodic": TeacherOf(slopes)})
    batch = collate([data[0, index] for index in range(6)])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    partner = batch.with_targets_reordered(order)
    assert batch.dimensions is not None
    assert partner.dimensions is not None
    torch.testing.assert_close(partner.dimensions, batch.dimensions[order], equal_nan=True)
    expected = TeacherOf(slopes).values[order]
    torch.testing.assert_close(partner.targets["prosodic"].dimensions, expected)


def test_an_utterance_without_an_emotion_does_not_count_in_the_ua_of_dev() -> None:
    slopes = Slopes(4)
    dev = UtteranceDataset(
        slopes, [0, 1, 0, 1], weights=torch.tensor([1.0, 1.0, 0.0, 1.0]), dimensions=slopes.labels
    )
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    alone = {"logits": logits, "dimensions": slopes.values * 3 - 1}
    scores = dev_scores(dev, {"alone": alone, "known": {**alone, "logits": -logits}}, "ccc")
    assert (scores["dev_ua_alone"], scores["dev_ua_known"], scores["dev_ua"]) == (1.0, 0.0, 0.5)
    labels, clamped = slopes.labels[:, 0].double().numpy(), (slopes.values * 3 - 1).clamp(0, 1)[:, 0]
    assert scores["dev_ccc"] == pytest.approx(concordance(labels, clamped.double().numpy()))


# --- whole runs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of `manifest` with dimensions. Some utterances have no emotion, others no arousal."""
    rows = make.read_rows(manifest)
    for number, row in enumerate(rows):
        loud = row["emotion"] == "angry"
        row |= {"path": str(manifest.parent / row["path"]), "scale": "1..5"}
        row |= {"arousal": "" if number % 7 == 3 else str(4 if loud else 2), "valence": str(1 + number % 5)}
        if number % 11 == 5:
            row["emotion"] = ""
    return make.write_rows(tmp_path_factory.mktemp("labelled") / "utterances.csv", rows)


@pytest.fixture(scope="module")
def both_run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished crossval of emotions and dimensions, with out-of-fold targets and a refitted head."""
    out = tmp_path_factory.mktemp("both") / "run"
    crossval(both_recipe(labelled), out)
    return out


def both_recipe(labelled: Path, **sections: Any) -> Any:
    own: dict[str, Any] = {
        "targets": BOTH, "protocol": {"refit": "classifier"},
        "distillation": {"targets": "out-of-fold", "inner_folds": 2},
    }  # fmt: skip
    return make.recipe(labelled, **{**own, **sections})


def test_a_run_of_both_writes_tables_of_both(both_run: Path, labelled: Path) -> None:
    corpus = {item.id: item for item in read_manifest(labelled)}
    run = read_run(both_run)
    for name in ("", "-dev", "-prosodic", "-prosodic-dev", "-linguistic", "-linguistic-dev"):
        table = read_dimensions(both_run / f"dimensions{name}.csv")
        assert table.dimensions == ("arousal", "valence")
        emotions = read_predictions(both_run / f"predictions{name}.csv")
        assert set(emotions.utterances) == {item for item in table.utterances if corpus[item].emotion}
        for row, utterance in enumerate(table.utterances):
            known = corpus[utterance].unit_dimensions()
            expected = [known.get(dimension, np.nan) for dimension in table.dimensions]
            np.testing.assert_allclose(table.truth[row], expected, atol=1e-6)
    assert len(read_dimensions(both_run / "dimensions.csv")) == len(corpus)
    for fold in run.scores["folds"]:
        sums = json.loads((both_run / f"fold-{fold}/tables.json").read_text())
        assert {"dimensions.csv", "dimensions-dev.csv", "dimensions-prosodic.csv", "predictions.csv"} <= set(
            sums
        )
    assert run.table().labels.names == ("angry", "sad")
    assert len(run.dimension_table()) == len(corpus)
    assert set(run.scores["sha256"]) >= {"dimensions.csv", "dimensions-linguistic-dev.csv"}


def test_dev_scores_of_training_are_those_of_the_tables(labelled: Path, tmp_path: Path) -> None:
    recipe = both_recipe(labelled, protocol={"refit": False}, distillation={"teachers": ["prosodic"]})
    crossval(recipe, tmp_path / "run", max_folds=1)
    (folder,) = (tmp_path / "run").glob("fold-*")
    fitted = FitResult.read(folder / "select/student/fit.json")
    assert fitted.dev_ccc == pytest.approx(dev_score(folder, "ccc"), abs=1e-6)
    assert fitted.dev_ua == pytest.approx(dev_score(folder, "ua"), abs=1e-6)
    assert {"dimensions", "prosodic/taught_dimensions", "dev_ccc"} <= set(fitted.history[0])
    teacher = FitResult.read(folder / "select/prosodic/fit.json")
    assert {"hard", "dimensions", "dev_ccc"} <= set(teacher.history[0])


def test_targets_have_the_dimensions_of_teachers_without_the_speaker(both_run: Path) -> None:
    run = read_run(both_run)
    fold = run.protocol.folds[0]
    folder = both_run / f"fold-{fold.name}/select/prosodic"
    targets = TeacherTargets.read(folder / "targets-out-of-fold.safetensors", fold.train)
    assert targets.dimensions is not None
    assert targets.dimensions.shape == (len(fold.train), 2)
    regressor = load_checkpoint(folder).model.regressor
    assert isinstance(regressor, nn.Linear)
    assert (regressor(targets.embedding) - targets.dimensions).abs().max() > 1e-4, "of the teacher itself"
    inner = load_checkpoint(folder / "inner-1" / "prosodic")
    assert inner.dimensions == ("arousal", "valence")


def test_a_refit_changes_classifier_and_regressor_alone(both_run: Path) -> None:
    (folder, *_) = sorted(both_run.glob("fold-*"))
    before, after = (
        load_checkpoint(folder / phase / "student").model.state_dict() for phase in ("select", "refit")
    )
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[0] for name in changed} == {"classifier", "regressor"}


class Killed(Exception):
    """Raised where a test ends a run, as if the process were killed."""


@pytest.mark.parametrize("targets", [BOTH, DIMENSIONS])
def test_a_killed_run_continues_to_the_same_bytes(
    targets: list[str], labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = both_recipe(labelled, targets=targets, distillation={"teachers": ["prosodic"]})
    crossval(recipe, tmp_path / "whole", max_folds=1)
    train = fold_module.FoldRun._train_new

    def killed(self: Any, stage: Any, *rest: Any) -> None:
        if stage.name == "student":
            raise Killed
        train(self, stage, *rest)

    monkeypatch.setattr(fold_module.FoldRun, "_train_new", killed)
    with pytest.raises(Killed):
        crossval(recipe, tmp_path / "killed", max_folds=1)
    monkeypatch.setattr(fold_module.FoldRun, "_train_new", train)
    crossval(recipe, tmp_path / "killed", max_folds=1)
    for path in (tmp_path / "whole").rglob("dimensions*.csv"):
        other = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes(), path
    last = next((tmp_path / "killed").glob("fold-*")) / recipe.last_table
    written = last.read_bytes()
    last.unlink()
    crossval(recipe, tmp_path / "killed", max_folds=1)
    assert last.read_bytes() == written


@pytest.mark.parametrize("voice", [False, True])
def test_dimensions_alone_need_no_emotions(voice: bool, labelled: Path, tmp_path: Path) -> None:
    make_recipe = make.voice_recipe if voice else make.recipe
    recipe = make_recipe(labelled, targets=["valence"], distillation={"teachers": ["prosodic"]})
    out = tmp_path / "run"
    crossval(recipe, out)
    run = read_run(out)
    assert run.models == ("student", "prosodic")
    assert not run.has_emotions
    assert len(run.dimension_table()) == len(list(read_manifest(labelled)))
    assert not list(out.rglob("predictions*.csv"))
    assert not list(out.rglob("known*"))
    (fold, *_) = run.scores["folds"]
    checkpoint = load_checkpoint(run.checkpoint_folder(fold))
    assert (checkpoint.labels.names, checkpoint.dimensions) == ((), ("valence",))
    rows = FitResult.read(out / f"fold-{fold}/select/student/fit.json").history
    assert {"hard", "prosodic/logit"}.isdisjoint(rows[0])
    assert {"dimensions", "prosodic/embedding", "prosodic/taught_dimensions", "dev_ccc"} <= set(rows[0])


def test_all_data_trains_dimensions(both_run: Path, labelled: Path, tmp_path: Path) -> None:
    train_all(both_recipe(labelled), tmp_path / "all", both_run)
    fold = tmp_path / "all/fold-all"
    table = read_dimensions(fold / "dimensions-train.csv")
    assert len(table) == len(list(read_manifest(labelled)))
    assert load_checkpoint(fold / "all/student").dimensions == ("arousal", "valence")
    for name in ("dimensions.csv", "dimensions-dev.csv"):
        assert (tmp_path / "all/crossval" / name).read_bytes() == (both_run / name).read_bytes()


def test_tune_chooses_by_ccc(labelled: Path, tmp_path: Path) -> None:
    recipe = make.recipe(labelled, targets=["valence"], distillation={"teachers": []})
    result = tune(recipe, tmp_path / "tune", {"student.optim.lr": [1e-4, 1e-2]}, trials=2)
    assert result.recipe.tuned is not None
    assert result.recipe.tuned.measure == "ccc"
    assert "mean dev CCC was" in result.recipe.tuned.note
    best = max(row.dev_score for row in result.rows if row.dev_score is not None)
    assert result.recipe.tuned.dev_score == best
    assert not list((tmp_path / "tune/trials").rglob("dimensions.csv")), "no trial predicts test"


# --- cells and checks ------------------------------------------------------------------------------


def test_cells_of_dimensions_appear_where_there_are_dimensions(labelled: Path) -> None:
    def cells(targets: list[str]) -> dict[str, Any]:
        return {cell.name: cell.recipe for cell in make_grid(make.recipe(labelled, targets=targets)).cells}

    own = {"no-dimension-labels", "no-taught-dimensions", "taught-dimensions-only"}
    of_emotions = {"no-hard-label", "logit-level-only"}
    assert own.isdisjoint(cells(["emotion"]))
    assert own | of_emotions <= set(cells(BOTH))
    assert own <= set(cells(DIMENSIONS))
    assert of_emotions.isdisjoint(cells(DIMENSIONS))
    assert cells(BOTH)["no-taught-dimensions"].distillation.dimensions == 0
    assert cells(["emotion"])["logit-level-only"].distillation.dimensions == 1, "as in runs from before"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"targets": ["arousal", "arousal"]}, "targets lists arousal twice: name it once"),
        ({"targets": []}, "targets is empty"),
        (
            {"student": {"optim": {"measure": "ccc"}}},
            r"student.optim.measure = 'ccc' scores dimensions, and targets has none: add some",
        ),
        (
            {"targets": ["arousal"], "prosodic": {"optim": {"measure": "weighted_f1"}}},
            r"prosodic.optim.measure = 'weighted_f1' scores emotions, and targets has none",
        ),
        (
            {"targets": ["arousal"], "student": {"backbone": "x", "frozen": 1, "probe": 0.5}},
            "student.probe is fitted to emotions, and targets has none: unset it",
        ),
        (
            {"targets": ["arousal"], "student": {"optim": {"targets": "votes"}}},
            r"student.optim.targets = 'votes' are votes for emotions, and targets has none: add emotion",
        ),
        (
            {"targets": ["arousal"], "distillation": {"certainty": "certain"}},
            "distillation.certainty is that of emotions, and targets has none",
        ),
        ({"distillation": {"delta": 0.5}}, "distillation.delta = 0.5 has no effect, because targets has no"),
        ({"distillation": {"dimensions": 0}}, "distillation.dimensions = 0 has no effect"),
    ],
)
def test_settings_that_do_not_fit_the_targets_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make.recipe(Path("utterances.csv"), **sections)


def test_a_dimension_that_no_utterance_has_is_refused(labelled: Path, tmp_path: Path) -> None:
    recipe = make.recipe(labelled, targets=["arousal", "dominance"])
    with pytest.raises(
        ConfigError, match=r"no utterance of 'fake' has dominance, which targets asks for.*arousal \(31\)"
    ):
        crossval(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fold_without_labels_of_a_target_is_refused(labelled: Path, tmp_path: Path) -> None:
    rows = make.read_rows(labelled)
    for row in rows:
        if row["speaker"] != "s0":
            row["arousal"] = ""
    manifest = make.write_rows(tmp_path / "few.csv", rows)
    with pytest.raises(
        ConfigError, match=r"fold .*: .* has 0 utterances with a label of arousal, expected at least"
    ):
        crossval(make.recipe(manifest, targets=BOTH), tmp_path / "run")
    for row in rows:
        row |= {"emotion": "" if row["speaker"] in ("s0", "s1", "s2", "s3") else "sad"}
    manifest = make.write_rows(tmp_path / "none.csv", rows)
    with pytest.raises(ConfigError, match=r"has no utterance with an emotion: choose other folds"):
        crossval(make.recipe(manifest, targets=["emotion", "valence"]), tmp_path / "run")


def test_an_acoustic_teacher_needs_the_same_dimensions(
    both_run: Path, labelled: Path, tmp_path: Path
) -> None:
    recipe = make.recipe(
        labelled, targets=["emotion", "valence"], distillation={"teachers": ["acoustic"]},
        acoustic={"run": str(both_run)}, protocol={"refit": False},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"predicts the dimensions \['arousal', 'valence'\], expected"):
        crossval(recipe, tmp_path / "run")


def test_further_speech_has_no_dimensions(labelled: Path, tmp_path: Path) -> None:
    more = make.corpus_folder(tmp_path / "more", 2, each=1, seed=90)
    rows = [
        {**row, "speaker": f"f{row['speaker']}", "transcript": f"new words {number}", "arousal": "9"}
        for number, row in enumerate(make.read_rows(more))
    ]
    further = make.write_rows(more.with_name("further.csv"), [{**row, "scale": "1..9"} for row in rows])
    recipe = make.recipe(
        labelled, targets=["arousal"], corpus={"further": str(further)}, protocol={"refit": False}
    )
    crossval(recipe, tmp_path / "run", max_folds=1)
    (folder,) = (tmp_path / "run").glob("fold-*")
    row = FitResult.read(folder / "select/student/fit.json").history[0]
    assert np.isfinite(row["linguistic/taught_dimensions"])
    ids = load_checkpoint(folder / "select/student").training_ids
    assert any(name.startswith("further/") for name in ids)
    teacher = load_checkpoint(folder / "select/linguistic").training_ids
    assert not any(name.startswith("further/") for name in teacher)
