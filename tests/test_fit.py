"""The training loop learns, gives equal bytes again, and gives them after a kill too."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emodistill.config import DistillationConfig, OptimConfig, ProsodicConfig, RuntimeConfig
from emodistill.models.layers import Output, frame_mask
from emodistill.models.prosodic import NUM_PLANES, ProsodicTeacher
from emodistill.training import fit as fit_module
from emodistill.training.batch_augment import draw_mixup, mask_time
from emodistill.training.data import CLEAN, Batch, UtteranceDataset, collate
from emodistill.training.fit import FitResult, Learner, TrainingData, fit, infer
from emodistill.training.optimizer import MuonAdamW, build_optimizer

RUNTIME = RuntimeConfig(accelerator="cpu", devices=1, threads=1)
CLASSES = 3


class Killed(Exception):
    """Raised where a test ends the training, as if the process were killed."""


def do_nothing(epoch: int) -> None:
    """The default of `Sequences.before`."""


class Sequences:
    """Inputs whose mean shows the class. Their noise is a function of the epoch, as augmentation is."""

    def __init__(self, count: int, spread: float = 0.7, dim: int = 6) -> None:
        rng = np.random.default_rng(count)
        self.labels = [index % CLASSES for index in range(count)]
        self.items = []
        for label in self.labels:
            item = spread * rng.standard_normal((rng.integers(4, 12), dim))
            item[:, label] += 1
            self.items.append(torch.from_numpy(item).float())
        self.before: Callable[[int], None] = do_nothing

    def __call__(self, index: int, epoch: int) -> Tensor:
        self.before(epoch)
        if epoch == CLEAN:
            return self.items[index]
        noise = np.random.default_rng([epoch, index]).standard_normal(self.items[index].shape)
        return self.items[index] + 0.3 * torch.from_numpy(noise).float()

    def size(self, index: int) -> float:
        return len(self.items[index])

    def kill_at(self, epoch: int, call: int = 1) -> None:
        """Raise `Killed` at the given read of an input of this epoch."""
        count = 0

        def before(current_epoch: int) -> None:
            nonlocal count
            count += current_epoch == epoch
            if current_epoch == epoch and count == call:
                raise Killed

        self.before = before


class TinyModel(nn.Module):
    """Masked mean, a hidden layer with batch norm and dropout, and a frozen layer."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.frozen = nn.Linear(dim, dim).requires_grad_(False)
        self.hidden = nn.Linear(dim, 16)
        self.norm = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.3)
        self.classify = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Output:
        mask = frame_mask(lengths, x.shape[1])
        weight = torch.ones(x.shape[:2]) if mask is None else mask.float()
        mean = ((x + self.frozen(x)) * weight[:, :, None]).sum(dim=1) / weight.sum(dim=1)[:, None]
        embedding = self.dropout(self.norm(self.hidden(mean)).relu())
        return Output(self.classify(embedding), embedding)


def make_model(seed: int = 0) -> TinyModel:
    torch.manual_seed(seed)
    return TinyModel()


def train(
    folder: Path, *, train: Sequences | None = None, dev: Sequences | None = None,
    model: nn.Module | None = None, stop_after: int | None = None, no_dev: bool = False, seed: int = 0,
    runtime: RuntimeConfig = RUNTIME,
    **optim: object,
) -> tuple[nn.Module, FitResult]:  # fmt: skip
    sequences, held = train or Sequences(30), dev or Sequences(21)
    model = model or make_model()
    dev_data = None if no_dev else UtteranceDataset(held, held.labels)
    result = fit(
        model, TrainingData(UtteranceDataset(sequences, sequences.labels), dev_data, CLASSES),
        OptimConfig(**{"epochs": 4, "batch_size": 8, "lr": 1e-2, **optim}), folder, runtime,
        seed=seed, stop_after=stop_after,
    )  # fmt: skip
    return model, result


def weights(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def logits_bytes(model: nn.Module) -> bytes:
    held = Sequences(21)
    return infer(model, UtteranceDataset(held, held.labels), 8)["logits"].numpy().tobytes()


# --- learning ------------------------------------------------------------------------------------


def test_a_tiny_set_is_memorised(tmp_path: Path) -> None:
    sequences = Sequences(12, spread=0.3)
    model, result = train(tmp_path, train=sequences, dev=Sequences(12, spread=0.3), epochs=40, lr=2e-2)
    logits = infer(model, UtteranceDataset(sequences, sequences.labels), 8)["logits"]
    assert logits.argmax(dim=1).tolist() == sequences.labels
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert not model.training


def test_infer_returns_the_order_of_the_dataset() -> None:
    model, held = make_model().eval(), Sequences(21)
    data = UtteranceDataset(held, held.labels)
    logits = infer(model, data, 4)["logits"]
    for index in range(21):
        alone = model(held(index, CLEAN)[None], None).logits[0]
        torch.testing.assert_close(logits[index], alone, atol=1e-5, rtol=0)


def test_dev_ua_is_that_of_the_weights_that_are_kept(tmp_path: Path) -> None:
    for select in ("best", "last"):
        model, result = train(tmp_path / select, select=select, epochs=5, lr=0.05)
        held = Sequences(21)
        logits = infer(model, UtteranceDataset(held, held.labels), 8)["logits"]
        recall = [
            np.mean(logits.argmax(dim=1).numpy()[np.array(held.labels) == label] == label)
            for label in range(CLASSES)
        ]
        assert result.dev_ua == pytest.approx(np.mean(recall))
        history = [row["dev_ua"] for row in result.history]
        assert len(history) == 5
        if select == "best":
            assert result.dev_ua == max(history)
            assert result.epochs == history.index(max(history)) + 1, "the first of equal ones"
        else:
            assert (result.epochs, result.dev_ua) == (5, history[-1])


def test_frozen_parameters_do_not_move(tmp_path: Path) -> None:
    model = make_model()
    before = weights(model)
    train(tmp_path, model=model)
    after = weights(model)
    moved = {name for name in before if before[name] != after[name]}
    assert not {"frozen.weight", "frozen.bias"} & moved
    assert {"hidden.weight", "classify.weight", "norm.running_mean"} <= moved


def test_without_dev_the_last_epoch_is_kept(tmp_path: Path) -> None:
    _, result = train(tmp_path, no_dev=True)
    assert (result.epochs, result.dev_ua) == (4, None)
    assert "dev_ua" not in result.history[-1]


def test_stop_after_follows_the_same_schedule(tmp_path: Path) -> None:
    # The first two epochs of four, and not a run whose learning rate decays over two epochs.
    _, whole = train(tmp_path / "whole", select="last")
    two, result = train(tmp_path / "two", select="last", stop_after=2)
    short, _ = train(tmp_path / "short", select="last", epochs=2)
    assert result.epochs == 2
    assert result.history == whole.history[:2]
    assert weights(two) != weights(short)


def test_patience_ends_the_run(tmp_path: Path) -> None:
    # With almost no learning rate, dev UA is never better than after the first epoch.
    _, result = train(tmp_path, epochs=9, lr=1e-9, patience=2)
    assert (len(result.history), result.epochs) == (3, 1)


def test_with_ema_the_model_has_the_averaged_weights(tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "plain", select="last")
    averaged, result = train(tmp_path / "ema", select="last", ema=0.9)
    assert weights(plain) != weights(averaged)
    held = Sequences(21)
    logits = infer(averaged, UtteranceDataset(held, held.labels), 8)["logits"]
    truth = np.array(held.labels)
    recall = [np.mean(logits.argmax(1).numpy()[truth == label] == label) for label in range(CLASSES)]
    assert result.dev_ua == pytest.approx(np.mean(recall))


def test_ema_works_for_the_prosodic_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sequences = Sequences(12, dim=NUM_PLANES)
    teacher = ProsodicTeacher(ProsodicConfig(width=8, embedding_dim=8), CLASSES)
    _, result = train(tmp_path, train=sequences, dev=sequences, model=teacher, epochs=2, ema=0.9)
    assert result.epochs in (1, 2)
    assert int(teacher.stem_norm.num_batches_tracked) > 0


def test_accumulated_batches_make_one_step(tmp_path: Path) -> None:
    one, _ = train(tmp_path / "one", select="last")
    two, _ = train(tmp_path / "two", select="last", accumulate=2)
    assert weights(one) != weights(two)


def test_class_weights_are_inverse_frequencies(tmp_path: Path) -> None:
    sequences = Sequences(6)
    data = TrainingData(
        UtteranceDataset(sequences, [0, 0, 0, 0, 1, 1]), None, 3
    )  # the third class does not occur
    learner = Learner(make_model(), data, OptimConfig(), None, tmp_path, 0)
    assert learner.class_weights.tolist() == [0.75, 1.5, 0.0]
    plain = Learner(make_model(), data, OptimConfig(class_weights=False), None, tmp_path, 0)
    assert plain.class_weights is None


def test_learning_rates_by_part(tmp_path: Path) -> None:
    class TwoParts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(2, 2)
            self.head = nn.Linear(2, 3)

    sequences = Sequences(6)
    optim = OptimConfig(lr=1e-2, backbone_lr=1e-4, weight_decay=0.1, warmup=0)
    data = TrainingData(UtteranceDataset(sequences, sequences.labels), None, CLASSES)
    optimizer = Learner(TwoParts(), data, optim, None, tmp_path, 0).configure_optimizers()
    groups = {
        tuple(sorted(tuple(value.shape) for value in group["params"])): (
            group["initial_lr"],
            group["weight_decay"],
        )
        for group in optimizer["optimizer"].param_groups
    }
    assert sorted(groups.values()) == [(1e-4, 0.0), (1e-4, 0.1), (1e-2, 0.0), (1e-2, 0.1)]
    factor = optimizer["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert factor(0) == 1.0
    assert factor(10**6) == pytest.approx(0.0, abs=1e-9)


def test_muon_moves_the_matrices_of_linear_layers_and_adamw_the_rest() -> None:
    model = nn.Sequential(nn.Conv1d(3, 8, 5), nn.Linear(8, 16), nn.LayerNorm(16), nn.Embedding(5, 16))
    before = [value.detach().clone() for value in model.parameters()]
    optimizer = build_optimizer(model, OptimConfig(optimizer="muon", lr=1e-2, weight_decay=0.0))
    assert isinstance(optimizer, MuonAdamW)
    assert [v.shape for group in optimizer.muon.param_groups for v in group["params"]] == [(16, 8)]
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel()))
    optimizer.step()
    moved = [after.detach() - was for was, after in zip(before, model.parameters(), strict=True)]
    assert all(
        torch.allclose(step.abs(), torch.tensor(1e-2), rtol=1e-3) for i, step in enumerate(moved) if i != 2
    )
    step = moved[2]  # orthogonal: singular values are nearly equal, and the RMS has the size of AdamW's
    values = torch.linalg.svdvals(step)
    assert values.max() / values.min() < 2
    assert step.square().mean().sqrt() == pytest.approx(0.2e-2, rel=0.3)


def test_muon_without_a_linear_layer_is_adamw() -> None:
    optimizer = build_optimizer(nn.Conv1d(3, 8, 5), OptimConfig(optimizer="muon"))
    assert isinstance(optimizer, torch.optim.AdamW)


def test_time_masks_lie_within_the_input_and_reach_every_part_of_it() -> None:
    lengths = torch.tensor([100, 40, 7, 1])
    inputs = torch.arange(1.0, 101.0)[None, :, None, None].expand(4, 100, 2, 3)
    times = torch.zeros(4, 100)
    for seed in range(400):
        torch.manual_seed(seed)
        masked = mask_time(inputs, lengths, 0.2)
        gone = masked == 0
        assert torch.equal(masked[~gone], inputs[~gone])
        assert torch.equal(gone.all(dim=(2, 3)), gone.any(dim=(2, 3))), "all values of a time step"
        for row, length in enumerate(lengths.tolist()):
            moments = gone[row, :, 0, 0]
            assert moments.sum() <= 2 * (0.2 * length + 1)
            assert not moments[length:].any()
            times[row] += moments
    assert (times[0] > 0).all()
    assert (times[1, :40] > 0).all()
    torch.testing.assert_close(times[0, :20].sum(), times[0, 80:].sum(), rtol=0.25, atol=0)
    share = times[0].sum() / 400 / 100
    assert 0.15 < share < 0.2, "two stretches of 10 % on average, which may overlap"


def test_mixup_keeps_at_least_half_of_each_input() -> None:
    shares = []
    for seed in range(300):
        torch.manual_seed(seed)
        share, order = draw_mixup(6, 0.4)
        assert 0.5 <= share <= 1
        assert sorted(order.tolist()) == list(range(6))
        shares.append(share)
    assert np.mean([share > 0.9 for share in shares]) > 0.4, (
        "Beta(0.4, 0.4) has most of its mass near 0 and 1"
    )
    assert min(shares) < 0.6


def test_a_mixed_input_has_the_targets_of_both_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FixedTargets:
        def __call__(self, index: int, epoch: int) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(index)
            logits, embedding = (torch.randn(size, generator=generator) for size in (CLASSES, 16))
            hidden = torch.randn(4 + index, 6, generator=generator)
            available = torch.tensor(index != 1)
            return {"logits": logits, "embedding": embedding, "available": available, "hidden": hidden}

    class ModelWithHeads(TinyModel):
        def forward(self, x: Tensor, lengths: Tensor | None) -> Output:
            output = super().forward(x, lengths)
            mask = frame_mask(lengths, x.shape[1])
            heads, frame_heads = {"acoustic": output.embedding}, {"acoustic": x}
            return Output(output.logits, output.embedding, heads, frame_heads, x, mask)

    class FourSequences(Sequences):
        def __init__(self) -> None:
            super().__init__(4)
            self.items = [
                torch.randn(4 + i, 6, generator=torch.Generator().manual_seed(9 + i)) for i in range(4)
            ]

    share, order = 0.7, [3, 0, 1, 2]
    monkeypatch.setattr(fit_module, "draw_mixup", lambda size, a: (share, torch.tensor(order)))
    sequences = FourSequences()
    possible = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]).bool()
    weights_of = torch.tensor([1.0, 2.0, 0.5, 1.0])
    data = UtteranceDataset(sequences, sequences.labels, {"acoustic": FixedTargets()}, possible, weights_of)
    model = ModelWithHeads().eval()
    distillation = DistillationConfig(teachers=("acoustic",), hidden=1.0)

    def losses(batch: Batch, **optim: float) -> dict[str, Tensor]:
        config = OptimConfig(**optim)
        training = TrainingData(data, None, CLASSES)
        return Learner(model, training, config, distillation, tmp_path, 0).losses(batch)

    batch = collate([data[CLEAN, index] for index in range(4)])
    mixed = losses(batch, mixup=0.4)
    others = collate([data[CLEAN, index] for index in order])
    inputs = torch.zeros_like(batch.inputs)
    for row, length in enumerate(batch.lengths.tolist()):
        inputs[row, :length] = share * batch.inputs[row, :length] + (1 - share) * others.inputs[row, :length]
    own_terms = losses(replace(batch, inputs=inputs))
    other_terms = losses(replace(others, inputs=inputs, lengths=batch.lengths))
    assert set(mixed) == {"hard", "acoustic/logit", "acoustic/embedding", "acoustic/hidden", "loss"}
    for name, value in mixed.items():
        torch.testing.assert_close(value, share * own_terms[name] + (1 - share) * other_terms[name])
        assert not torch.isclose(own_terms[name], other_terms[name])


# --- determinism and resuming --------------------------------------------------------------------


def test_two_runs_are_equal_byte_for_byte(tmp_path: Path) -> None:
    one, first = train(tmp_path / "one")
    two, second = train(tmp_path / "two")
    assert weights(one) == weights(two)
    assert logits_bytes(one) == logits_bytes(two)
    assert first == second
    assert (tmp_path / "one/fit.json").read_bytes() == (tmp_path / "two/fit.json").read_bytes()
    assert weights(train(tmp_path / "other", seed=1)[0]) != weights(one)


OPTIMS = {
    "plain": {},
    "last": {"select": "last"},
    "ema": {"ema": 0.9},
    "accumulate": {"accumulate": 2},
    "muon": {"optimizer": "muon"},
    "disturbed": {"time_mask": 0.3, "mixup": 0.4},
}


@pytest.mark.parametrize("optim", OPTIMS)
@pytest.mark.parametrize(
    ("epoch", "call"),
    [(0, 9), (1, 1), (2, 1), (2, 13), (3, 30)],
    ids=["first-epoch", "after-checkpoint-1", "after-checkpoint-2", "middle-of-epoch", "last-batch"],
)
def test_killed_in_training_and_started_again(tmp_path: Path, optim: str, epoch: int, call: int) -> None:
    expected, history = train(tmp_path / "unbroken", **OPTIMS[optim])
    sequences = Sequences(30)
    sequences.kill_at(epoch, call)
    with pytest.raises(Killed):
        train(tmp_path / "killed", train=sequences, **OPTIMS[optim])
    assert not (tmp_path / "killed/fit.json").is_file()
    assert (tmp_path / "killed/last.ckpt").is_file() == (epoch > 0)
    torch.manual_seed(1234)  # a new process has another state of the generator
    model, resumed = train(tmp_path / "killed", **OPTIMS[optim])
    assert weights(model) == weights(expected)
    assert logits_bytes(model) == logits_bytes(expected)
    assert resumed == history


def test_a_model_in_eval_mode_is_trained_in_train_mode(tmp_path: Path) -> None:
    # transformers returns models in eval mode. Dropout must be on from the first epoch.
    expected, _ = train(tmp_path / "train")
    model, _ = train(tmp_path / "eval", model=make_model().eval())
    assert weights(model) == weights(expected)
    sequences = Sequences(30)
    sequences.kill_at(2)
    with pytest.raises(Killed):
        train(tmp_path / "killed", train=sequences, model=make_model().eval())
    resumed, _ = train(tmp_path / "killed", model=make_model().eval())
    assert weights(resumed) == weights(expected)


def test_killed_while_dev_is_scored(tmp_path: Path) -> None:
    expected, history = train(tmp_path / "unbroken", ema=0.9)
    held = Sequences(21)
    held.kill_at(CLEAN, 21 + 5)
    with pytest.raises(Killed):
        train(tmp_path / "killed", dev=held, ema=0.9)
    model, resumed = train(tmp_path / "killed", ema=0.9)
    assert weights(model) == weights(expected)
    assert resumed == history


def test_killed_more_than_once(tmp_path: Path) -> None:
    expected, history = train(tmp_path / "unbroken")
    for epoch, call in ((1, 3), (1, 20), (3, 2)):
        sequences = Sequences(30)
        sequences.kill_at(epoch, call)
        with pytest.raises(Killed):
            train(tmp_path / "killed", train=sequences)
    model, resumed = train(tmp_path / "killed")
    assert (weights(model), resumed) == (weights(expected), history)


def test_killed_after_the_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, history = train(tmp_path / "unbroken")

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "asdict", die)  # called where `fit.json` is written
        with pytest.raises(Killed):
            train(tmp_path / "killed")
    model, resumed = train(tmp_path / "killed")
    assert (weights(model), resumed) == (weights(expected), history)


@pytest.mark.parametrize("where", ["after-the-checkpoint", "before-fit-json"])
def test_killed_when_patience_had_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    # dev UA rises late, so a resumed run that does not stop would find and keep better weights.
    optim = {"epochs": 60, "lr": 5e-4, "patience": 1, "ema": 0.0}
    expected, history = train(tmp_path / "unbroken", **optim)
    assert len(history.history) < 60

    def die(*_: object) -> None:
        raise Killed

    save = fit_module.SaveEveryEpoch.on_train_epoch_end

    def save_and_die(self: object, trainer: object, module: Learner) -> None:
        save(self, trainer, module)
        if len(module.history) == len(history.history):
            raise Killed

    with monkeypatch.context() as patch:
        if where == "before-fit-json":
            patch.setattr(fit_module, "asdict", die)
        else:
            patch.setattr(fit_module.SaveEveryEpoch, "on_train_epoch_end", save_and_die)
        with pytest.raises(Killed):
            train(tmp_path / "killed", **optim)
    model, resumed = train(tmp_path / "killed", **optim)
    assert resumed == history
    assert weights(model) == weights(expected)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    expected, result = train(tmp_path)
    sequences = Sequences(30)
    sequences.kill_at(0)
    model, again = train(tmp_path, train=sequences, model=make_model(seed=9))
    assert again == result
    kept = weights(model)
    assert {n: v for n, v in kept.items() if "frozen" not in n} == {
        n: v for n, v in weights(expected).items() if "frozen" not in n
    }
    names = {path.name for path in tmp_path.iterdir()}
    assert {"fit.json", "best.safetensors"} <= names
    assert "last.ckpt" not in names
    assert not [name for name in names if "partial" in name]
    assert FitResult(**json.loads((tmp_path / "fit.json").read_text())) == result


def test_the_state_to_resume_from_holds_no_frozen_weights(tmp_path: Path) -> None:
    sequences = Sequences(30)
    sequences.kill_at(2)
    with pytest.raises(Killed):
        train(tmp_path, train=sequences)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("model.hidden") for name in state)
    assert not any("frozen" in name for name in state)


def test_every_term_of_a_distilled_loss_is_recorded(tmp_path: Path) -> None:
    class FixedTargets:
        def __call__(self, index: int, epoch: int) -> dict[str, Tensor]:
            logits = 3 * torch.eye(CLASSES)[index % CLASSES]
            return {"logits": logits, "embedding": torch.ones(4), "available": torch.tensor(index != 0)}

    sequences, model = Sequences(30), make_model()
    data = UtteranceDataset(sequences, sequences.labels, {"prosodic": FixedTargets()})
    result = fit(
        model, TrainingData(data, None, CLASSES),
        OptimConfig(epochs=2, batch_size=8), tmp_path, RUNTIME, seed=0,
        distillation=DistillationConfig(teachers=("prosodic",), beta=0),
    )  # fmt: skip
    for row in result.history:
        assert set(row) == {"epoch", "loss", "hard", "prosodic/logit"}
        assert row["loss"] == pytest.approx(row["hard"] + row["prosodic/logit"], rel=1e-5)


class CountingModel(TinyModel):
    """A model with fixed initial weights that counts its updates."""

    updates: Tensor

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, lengths: Tensor | None) -> Output:
        if self.training:
            self.updates += 1
        return super().forward(x, lengths)


class RecordedSequences(Sequences):
    """Writes a line for each read: process, epoch, index."""

    def __init__(self, count: int, file: Path) -> None:
        super().__init__(count)
        self.file = file

    def __call__(self, index: int, epoch: int) -> Tensor:
        with self.file.open("a") as file:
            file.write(f"{os.getpid()} {epoch} {index}\n")
        return super().__call__(index, epoch)

    def reads(self) -> list[tuple[int, int, int]]:
        return [tuple(map(int, line.split())) for line in self.file.read_text().splitlines()]


def test_two_processes_neither_repeat_nor_drop_an_utterance(tmp_path: Path) -> None:
    """Two processes cannot divide 31 training and 21 dev utterances evenly."""
    train_data, dev_data = (RecordedSequences(count, tmp_path / str(count)) for count in (31, 21))
    runtime = RUNTIME.model_copy(update={"devices": 2})
    _, result = train(
        tmp_path / "run", train=train_data, dev=dev_data, runtime=runtime, model=CountingModel()
    )
    reads = train_data.reads()
    processes = {process for process, _, _ in reads}
    assert len(processes) == 2
    for epoch in range(4):
        indices = {p: [i for q, e, i in reads if (q, e) == (p, epoch)] for p in processes}
        assert sorted(i for part in indices.values() for i in part) == list(range(31))
        assert all(len(part) in (15, 16) for part in indices.values()), "each process reads half"
    scored = dev_data.reads()
    for process in processes:  # each process scores all of dev
        assert sorted(i for p, _, i in scored if p == process) == sorted(
            list(range(21)) * len(result.history)
        )


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Two trainings in a row over two CPU processes make equally many updates and equal outputs."""
    for number in range(2):
        models = []
        for devices in (1, 2):
            model = CountingModel()
            model.dropout.p = 0.0  # each process has random numbers of its own
            model.norm = nn.Identity()  # each process would normalise its own utterances
            runtime = RUNTIME.model_copy(update={"devices": devices})
            folder = tmp_path / f"{number}-{devices}"
            model, result = train(
                folder, train=Sequences(32), model=model, runtime=runtime, class_weights=False, select="last"
            )
            assert result.epochs == len(result.history) == 4
            assert model.updates == 4 * 4
            models.append(model)
        held = UtteranceDataset(Sequences(21), Sequences(21).labels)
        one, two = (infer(model, held, 8)["logits"].softmax(dim=1) for model in models)
        torch.testing.assert_close(two, one, atol=1e-4, rtol=0)
        for name, value in models[0].state_dict().items():
            torch.testing.assert_close(models[1].state_dict()[name], value, atol=1e-4, rtol=1e-3)


def test_ctrl_c_in_a_training_is_a_keyboard_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning ends the process with exit code 1, which would look like a failed input."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "training_step", interrupt)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores further ones
