"""One training loop, on Lightning, for teachers and student alike: they differ in input and target.

A run can be killed at any point and started again with the same result, since order, augmentation and
dropout are functions of the seed and the step, and the state is saved at the end of every epoch.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emodistill.config import DistillationConfig, OptimConfig, RuntimeConfig, stable_seed
from emodistill.distillation import distillation_loss, hard_label_loss
from emodistill.errors import ConfigError
from emodistill.evaluation.metrics import unweighted_accuracy, weighted_f1
from emodistill.files import atomic_write
from emodistill.models.layers import Output, frame_mask
from emodistill.training.data import CLEAN, Batch, Batches, UtteranceDataset, collate, loader
from emodistill.training.optimizer import build_optimizer

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class FitResult:
    """How a training went; kept beside the weights as `fit.json`."""

    epochs: int  # how many were trained for the weights that are kept
    dev_ua: float | None  # of the weights that are kept; None without a dev split
    history: list[dict[str, float]]  # one row an epoch: epoch, dev scores, and every loss term's mean

    @classmethod
    def read(cls, path: Path) -> "FitResult":
        """Read `fit.json`."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Learner(lightning.LightningModule):
    """A model, its data and its losses, as Lightning wants them."""

    def __init__(
        self,
        model: nn.Module,
        train: UtteranceDataset,
        dev: UtteranceDataset | None,
        optim: OptimConfig,
        distillation: DistillationConfig | None,
        folder: Path,
        seed: int,
        num_classes: int,
        loaders: int = 0,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # frozen weights are not saved: see on_save_checkpoint
        self.model = model
        self.train_set, self.dev_set = train, dev
        self.optim, self.distillation = optim, distillation
        self.folder, self.seed, self.loaders = folder, seed, loaders
        counts = np.bincount(train.labels, minlength=num_classes)
        weights = np.where(counts > 0, len(train) / np.maximum(counts, 1) / max(1, (counts > 0).sum()), 0.0)
        self.class_weights: Tensor | None
        self.register_buffer(
            "class_weights",
            torch.tensor(weights, dtype=torch.float32) if optim.class_weights else None,
            persistent=False,
        )
        self.history: list[dict[str, float]] = []
        self.best: tuple[float, int] = (-1.0, 0)  # dev score, epochs trained
        self.sums: dict[str, list[float]] = {}
        self.average: dict[str, Tensor] = {}
        self.averaged = 0  # step of the last update of the average

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Every term of the loss of a batch, and their sum as `loss`."""
        optim = self.optim
        inputs = (
            time_masked(batch.inputs, batch.lengths, optim.time_mask) if optim.time_mask else batch.inputs
        )
        if not optim.mixup:
            return self._terms(self.model(inputs, batch.lengths).in_full(), batch)
        share, order = mixing(len(batch.labels), optim.mixup)
        order = order.to(inputs.device)
        mixed = within(share * inputs + (1 - share) * inputs[order], batch.lengths)
        output = self.model(mixed, batch.lengths).in_full()
        own, others = self._terms(output, batch), self._terms(output, batch.with_targets_of(order))
        return {name: share * own[name] + (1 - share) * others[name] for name in own}

    def _terms(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        hard = hard_label_loss(
            output.logits,
            batch.labels,
            self.class_weights,
            self.optim.label_smoothing,
            batch.possible,
            batch.weights,
        )
        if self.distillation is None or not batch.targets:
            return {"loss": hard}
        return distillation_loss(output, hard, batch.targets, self.distillation, batch.possible)

    def on_train_start(self) -> None:
        self.average = {name: value.to(self.device) for name, value in self.average.items()}
        self._stop_if_out_of_patience()  # a resumed run may have been killed just before it stopped
        for logger in self.loggers:
            if isinstance(logger, CSVLogger):  # begins its file anew
                self._log(logger, self.history)

    def on_train_epoch_start(self) -> None:
        self.model.train()  # whatever mode it was loaded or last scored in

    def on_fit_end(self) -> None:
        # Written here, not by the caller: where there are several processes, the caller is none of them.
        if self.trainer.is_global_zero:
            epochs = self.best[1]
            result = FitResult(epochs, self.history[epochs - 1].get("dev_ua"), self.history)
            with atomic_write(self.folder / "fit.json") as partial:
                partial.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout is a function of (seed, batch), so that a resumed run draws what an unbroken one draws.
        torch.manual_seed(stable_seed("dropout", self.seed, self.current_epoch, batch_idx, self.global_rank))
        terms = self.losses(batch)
        for name, value in terms.items():
            self.sums.setdefault(name, []).append(float(value.detach()))
        self.log("loss", terms["loss"].detach(), prog_bar=True, logger=False, batch_size=len(batch.labels))
        return terms["loss"]

    def on_train_batch_end(self, *_: Any) -> None:
        step = self.global_step
        if not self.optim.ema or step == self.averaged:  # between accumulated batches nothing has moved
            return
        self.averaged = step
        decay = min(self.optim.ema, (1 + step) / (10 + step))
        for name, value in self._trained().items():
            if name in self.average and value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name] = value.clone()

    def on_train_epoch_end(self) -> None:
        row = {"epoch": float(self.current_epoch + 1)}
        row |= {name: float(np.mean(values)) for name, values in self.sums.items()}
        self.sums = {}
        weights = self.average if self.optim.ema else self._trained()
        if self.dev_set is not None:
            row |= self._dev_scores(weights)
            self.log("dev_ua", row["dev_ua"], prog_bar=True, logger=False)
        self.history.append(row)
        for logger in self.loggers:
            self._log(logger, [row])
        score = row.get(f"dev_{self.optim.measure}", -1.0)
        score = self.trainer.strategy.broadcast(score)  # so that all processes stop together
        if self.dev_set is None or self.optim.select == "last" or score > self.best[0]:
            self.best = (score, self.current_epoch + 1)
            if self.trainer.is_global_zero:
                save_file(
                    {k: v.detach().cpu().contiguous() for k, v in weights.items()},
                    self.folder / "best.safetensors",
                )
        self._stop_if_out_of_patience()

    def _stop_if_out_of_patience(self) -> None:
        waited = len(self.history) - self.best[1]
        if self.optim.patience is not None and waited >= self.optim.patience:
            self.trainer.should_stop = True

    @staticmethod
    def _log(logger: Any, rows: Sequence[dict[str, float]]) -> None:
        for row in rows:
            logger.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]) - 1)

    def _dev_scores(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """Scores on dev; every process scores all of it, so nothing is repeated or dropped."""
        assert self.dev_set is not None
        backup = {name: value.clone() for name, value in self._trained().items()} if self.optim.ema else {}
        if backup:
            self.model.load_state_dict(weights, strict=False)
        outputs = infer(self.model, self.dev_set, self.optim.batch_size, self.device)
        if backup:
            self.model.load_state_dict(backup, strict=False)
        self.model.train()
        truth, said = self.dev_set.labels, outputs["logits"].argmax(dim=1).numpy()
        scores = {"dev_ua": unweighted_accuracy(truth, said)}
        if self.optim.measure == "weighted_f1":
            scores["dev_weighted_f1"] = weighted_f1(truth, said)
        return scores

    def _trained(self) -> dict[str, Tensor]:
        frozen = {name for name, value in self.model.named_parameters() if not value.requires_grad}
        return {name: value.detach() for name, value in self.model.state_dict().items() if name not in frozen}

    def configure_optimizers(self) -> Any:
        optim = self.optim
        optimizer = build_optimizer(self.model, optim)
        steps = optim.epochs * -(-len(self.train_batches(0)) // optim.accumulate)
        warmup = optim.warmup * steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 + 0.5 * float(np.cos(np.pi * min(1.0, (step - warmup) / max(1.0, steps - warmup))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_batches(self, epoch: int) -> Batches:
        """The batches of an epoch, this process's share of each."""
        trainer = self._trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return Batches(
            self.train_set, self.optim.batch_size, self.seed, epoch, self.optim.bucket, rank, world
        )

    def train_dataloader(self) -> Any:
        return loader(self.train_set, self.train_batches(self.current_epoch), self.loaders)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {f"model.{name}" for name in self._trained()}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in trained}
        checkpoint["emodistill"] = {"history": self.history, "best": list(self.best), "average": self.average}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["emodistill"]
        self.history, self.average = kept["history"], kept["average"]
        self.best = (kept["best"][0], kept["best"][1])


def within(inputs: Tensor, lengths: Tensor) -> Tensor:
    """Inputs (batch, time, …) with zeros behind their lengths."""
    inside = frame_mask(lengths, inputs.shape[1])
    assert inside is not None
    return inputs.masked_fill(~inside.reshape(*inside.shape, *[1] * (inputs.ndim - 2)), 0)


def time_masked(inputs: Tensor, lengths: Tensor, most: float) -> Tensor:
    """Inputs (batch, time, …), samples or states, with two stretches of each set to zero (Park et al. 2019, arXiv 1904.08779).

    Each stretch has a length uniform between 0 and `most` of the input's own and lies within it. Drawn on the CPU.
    """
    size = torch.rand(2, len(inputs)).to(inputs.device) * most * lengths
    start = torch.rand(2, len(inputs)).to(inputs.device) * (lengths - size)
    middle = torch.arange(inputs.shape[1], device=inputs.device) + 0.5
    masked = ((middle >= start[..., None]) & (middle < (start + size)[..., None])).any(dim=0)
    return inputs.masked_fill(masked.reshape(*masked.shape, *[1] * (inputs.ndim - 2)), 0)


def mixing(size: int, a: float) -> tuple[float, Tensor]:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412): the share that an input keeps, and whose input fills it up.

    The share is drawn from Beta(a, a) and is 1/2 or more, since an input's length stays its own.
    """
    concentration = torch.tensor(a, dtype=torch.float64)
    share = float(torch.distributions.Beta(concentration, concentration).sample())
    return max(share, 1 - share), torch.randperm(size)


class SaveEveryEpoch(Checkpoint):
    """Writes the state to resume from, `last.ckpt`, at the end of each epoch, at once or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.folder / "last.ckpt")  # takes part, and writes nothing
            return
        with atomic_write(self.folder / "last.ckpt") as partial:
            trainer.save_checkpoint(partial)


def fit(
    model: nn.Module,
    train: UtteranceDataset,
    dev: UtteranceDataset | None,
    optim: OptimConfig,
    folder: Path,
    runtime: RuntimeConfig,
    *,
    seed: int,
    num_classes: int,
    distillation: DistillationConfig | None = None,
    stop_after: int | None = None,
) -> FitResult:
    """Train a model in place and leave it with the weights that are to be kept.

    Args:
        model: maps (inputs, lengths) to `Output`; parameters without gradient are left alone.
        dev: scored after every epoch; without it the last epoch is kept.
        folder: of this training alone: logs, the state to resume from, `fit.json` when it is done.
        distillation: weighs the teachers' terms; None for a teacher, which learns from labels.
        stop_after: end after this many epochs of the same schedule (an epoch fixed on dev).
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "fit.json"
    if not done.is_file():
        learner = Learner(model, train, dev, optim, distillation, folder, seed, num_classes, runtime.loaders)
        model.train()  # transformers hands pretrained models over in eval mode
        with _quiet_lightning():
            trainer = _trainer(optim, folder, runtime, stop_after)
            resume = folder / "last.ckpt"
            trainer.fit(learner, ckpt_path=resume if resume.is_file() else None, weights_only=True)
        (folder / "last.ckpt").unlink(missing_ok=True)
    model.load_state_dict(load_file(folder / "best.safetensors"), strict=False)
    model.eval()
    return FitResult.read(done)


def device_of(runtime: RuntimeConfig) -> torch.device:
    """Where a single process runs a model: the GPU, where there is one and it is wanted."""
    wanted = runtime.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if wanted else "cpu")


@torch.no_grad()
def infer(
    model: nn.Module,
    dataset: UtteranceDataset,
    batch_size: int,
    device: torch.device | str = "cpu",
    epoch: int = CLEAN,
) -> dict[str, Tensor]:
    """Outputs for every utterance, in the dataset's order, on the CPU: clean, or as they sound in an epoch.

    Returns `logits`, `embedding`, each teacher's name -> projected embedding, and for a student `judged`, what its
    classifier is given; (utterances, …).
    """
    model.eval()
    collected: dict[str, list[Tensor]] = {}
    order: list[int] = []
    for keys in Batches(dataset, batch_size, 0, CLEAN):
        batch = collate([dataset[epoch, index] for _, index in keys])
        output = model(batch.inputs.to(device), batch.lengths.to(device))
        order += batch.indices.tolist()
        found = {n: v for n, v in output.projections.items() if not n.endswith("_hidden")}
        found |= {"logits": output.logits, "embedding": output.embedding}
        if output.classifier_input is not None:
            found["classifier_input"] = output.classifier_input
        for name, value in found.items():
            collected.setdefault(name, []).append(value.float().cpu())
    back = torch.argsort(torch.tensor(order))
    return {name: torch.cat(parts)[back] for name, parts in collected.items()}


def _trainer(optim: OptimConfig, folder: Path, runtime: RuntimeConfig, stop_after: int | None) -> Any:
    strategy = "ddp_spawn" if runtime.strategy == "auto" and runtime.devices > 1 else runtime.strategy
    if strategy == "ddp":
        raise ConfigError(
            "strategy 'ddp' runs the whole program once a device; expected 'auto' or 'ddp_spawn'"
        )
    console = Console(stderr=True)
    loggers: list[Any] = [CSVLogger(folder, name="log", version="")]
    if runtime.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    callbacks: list[Callback] = [SaveEveryEpoch(folder)]
    if console.is_terminal:
        callbacks.append(RichProgressBar(leave=False, console_kwargs={"stderr": True}))
    return lightning.Trainer(
        max_epochs=stop_after or optim.epochs,
        accelerator=runtime.accelerator,
        devices=runtime.devices,
        strategy=strategy,
        precision=PRECISIONS[runtime.precision],  # type: ignore[arg-type]
        gradient_clip_val=optim.clip,
        accumulate_grad_batches=optim.accumulate,
        deterministic=True,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        log_every_n_steps=1,
        enable_model_summary=False,
        enable_progress_bar=console.is_terminal,
        logger=loggers,
        callbacks=callbacks,
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hide Lightning's advice on hardware and loader processes; its errors and real warnings stay."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for advice in (
            "does not have many workers",
            "Checkpoint directory",
            "No `?val_dataloader",
            "Found .* eval mode",
            "You defined a `validation",
            "Experiment logs directory",
            ".*LeafSpec",
        ):
            warnings.filterwarnings("ignore", message=f".*{advice}")
        try:
            yield
        finally:
            logger.setLevel(level)
