"""The training loop, on Lightning. Teachers and student share it: they differ in input and target alone.

A run that is killed and started again gives the same result as one that was not. Order, augmentation and
dropout are functions of the seed and the step, and the state is saved at the end of every epoch.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emodistill.config import DistillationConfig, OptimConfig, RuntimeConfig, VoiceConfig, stable_seed
from emodistill.distillation import DimensionLabels, HardLabels, distillation_loss, hard_label_loss
from emodistill.errors import ConfigError, ModelError
from emodistill.files import atomic_write
from emodistill.models.layers import Output
from emodistill.models.student import RunningStandardise, Student, Suffix, Voices
from emodistill.training.batch_augment import draw_mixup, mask_time, zero_beyond_lengths
from emodistill.training.batches import Batches, make_loader
from emodistill.training.cost import MeasureCost
from emodistill.training.data import CLEAN, Batch, UtteranceDataset, collate
from emodistill.training.dev_measures import dev_scores, head_outputs
from emodistill.training.labels import inverse_frequencies
from emodistill.training.loggers import open_loggers, quiet_lightning
from emodistill.training.optimizer import build_optimizer
from emodistill.training.voices import VoiceContexts

DEV_KNOWN = 10  # utterances of a voice that are known in the second dev score of a student with voices

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class FitResult:
    """How a training went, kept as `fit.json` beside the weights."""

    epochs: int  # number of epochs that gave the weights that are kept
    dev_ua: float | None  # of the weights that are kept; None without a dev split, or without emotions
    history: list[dict[str, float]]  # one row an epoch: epoch, dev scores, and the mean of every loss term
    dev_ccc: float | None = None  # of the weights that are kept, the mean of the dimensions; None: no score

    @classmethod
    def read(cls, path: Path) -> "FitResult":
        """Read `fit.json`. Raises `ModelError` where it is damaged."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (ValidationError, OSError) as error:
            raise ModelError(
                f"'{path}' is damaged: delete its folder, and run the same command again"
            ) from error


@dataclass(frozen=True)
class TrainingData:
    """The utterances that a model learns from, and those that its epoch is chosen by."""

    train: UtteranceDataset
    dev: UtteranceDataset | None
    num_classes: int  # number of emotions; 0: the model learns dimensions alone
    voice: VoiceConfig | None = None  # how a student learns to use voices; None: without voices

    def class_weights(self) -> Tensor:
        """Inverse frequencies (classes,), see `inverse_frequencies`."""
        train = self.train
        return inverse_frequencies(train.labels, self.num_classes, train.weights, train.votes)


class Learner(lightning.LightningModule):
    """A model, its data and its losses, in the form that Lightning expects."""

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        optim: OptimConfig,
        distillation: DistillationConfig | None,
        folder: Path,
        seed: int,
        num_loaders: int = 0,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # frozen weights are not saved: see on_save_checkpoint
        self.model, self.data = model, data
        self.optim, self.distillation = optim, distillation
        self.folder, self.seed, self.num_loaders = folder, seed, num_loaders
        self.class_weights: Tensor | None
        self.register_buffer(
            "class_weights",
            data.class_weights() if optim.class_weights and data.num_classes else None,
            persistent=False,
        )
        self.measure = optim.measure if data.num_classes else "ccc"
        self.history: list[dict[str, float]] = []
        self.best: tuple[float, int] = (-2.0, 0)  # dev score, below all that are possible; epochs trained
        self.term_values: dict[str, list[float]] = {}  # of the present epoch, one a batch
        self.average: dict[str, Tensor] = {}  # exponential moving average of the weights
        self.averaged_step = 0  # step of the last update of the average
        self.contexts: VoiceContexts | None = None
        self.table: Tensor | None = None  # statistics (utterances, dim) of this epoch, with frozen layers
        if data.voice is not None:
            self.contexts = VoiceContexts(data.voice, data.train.speakers, seed)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Every term of the loss of a batch, and their sum as `loss`."""
        optim, inputs = self.optim, batch.inputs
        if optim.time_mask:
            inputs = mask_time(inputs, batch.lengths, optim.time_mask)
        voices = self._voices(batch)
        if not optim.mixup:
            return self._loss_terms(self._run(inputs, batch.lengths, voices), batch)
        share, order = draw_mixup(len(batch.labels), optim.mixup)
        order = order.to(inputs.device)
        mixed = zero_beyond_lengths(share * inputs + (1 - share) * inputs[order], batch.lengths)
        if isinstance(voices, Tensor):  # always, since mixup needs frozen layers
            voices = share * voices + (1 - share) * voices[order]
        output = self._run(mixed, batch.lengths, voices)
        own_terms = self._loss_terms(output, batch)
        other_terms = self._loss_terms(output, batch.with_targets_reordered(order))
        return {name: share * own_terms[name] + (1 - share) * other_terms[name] for name in own_terms}

    def _run(self, inputs: Tensor, lengths: Tensor, voices: Voices) -> Output:
        args = (inputs, lengths) if voices is None else (inputs, lengths, voices)  # a teacher takes no voices
        output: Output = self.model(*args)
        return output.float32()

    def _voices(self, batch: Batch) -> Voices:
        """The voice contexts of a batch; None without voices."""
        if self.contexts is None:
            return None
        contexts, epoch, indices = self.contexts, self.current_epoch, batch.indices.tolist()
        if self.table is not None:
            return contexts.from_table(self.table, epoch, indices).to(batch.inputs.device)
        return lambda statistics: contexts.from_batch(statistics, epoch, indices)

    def _loss_terms(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        hard = HardLabels(
            batch.labels, self.class_weights, self.optim.label_smoothing, batch.possible, batch.weights,
            batch.votes, self.optim.vote_loss,
        )  # fmt: skip
        dimensions = None
        if batch.dimensions is not None:
            dimensions = DimensionLabels(batch.dimensions, self.optim.dimension_loss)
        config = self.distillation or DistillationConfig()
        if batch.targets:
            return distillation_loss(output, hard, batch.targets, config, dimensions)
        if dimensions is None:
            return {"loss": hard_label_loss(output.logits, *hard)}
        labels_alone = config.model_copy(update={"gamma": config.gamma or 1.0, "delta": config.delta or 1.0})
        return distillation_loss(output, hard, {}, labels_alone, dimensions)

    def on_fit_start(self) -> None:
        # Not in `on_train_start`, which is left out where the state to resume from has all epochs.
        for logger in self.loggers:
            if isinstance(logger, CSVLogger):  # it does not keep the rows of its old file
                self._log(logger, self.history)

    def on_train_start(self) -> None:
        self.average = {name: value.to(self.device) for name, value in self.average.items()}
        self._stop_if_out_of_patience()  # a run may have been killed just before it would have stopped

    def on_train_epoch_start(self) -> None:
        if self.contexts is not None and isinstance(self.model, Suffix):
            outputs = infer(
                self.model, self.data.train, self.optim.batch_size, self.device, self.current_epoch
            )
            self.table = outputs["statistics"]
        self.model.train()  # it may have been loaded in eval mode

    def on_fit_end(self) -> None:
        # Written here, not by the caller, because with several processes the caller has no trained learner.
        if self.trainer.is_global_zero:
            epochs = self.best[1]
            kept = self.history[epochs - 1]
            result = FitResult(epochs, kept.get("dev_ua"), self.history, kept.get("dev_ccc"))
            for logger in self.loggers:
                if isinstance(logger, CSVLogger):
                    logger.save()  # before the file that says that the training is finished
            with atomic_write(self.folder / "fit.json") as partial:
                partial.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout is a function of (seed, batch), so a resumed run draws the same as one that was not stopped.
        torch.manual_seed(stable_seed("dropout", self.seed, self.current_epoch, batch_idx, self.global_rank))
        for module in self.model.modules():
            if isinstance(module, RunningStandardise):
                module.schedule(self.global_step, self.current_epoch / self.optim.epochs)
        terms = self.losses(batch)
        for name, value in terms.items():
            self.term_values.setdefault(name, []).append(float(value.detach()))
        self.log("loss", terms["loss"].detach(), prog_bar=True, logger=False, batch_size=len(batch.labels))
        return terms["loss"]

    def on_train_batch_end(self, *_: Any) -> None:
        step = self.global_step
        if not self.optim.ema or step == self.averaged_step:  # accumulated batches make one step
            return
        self.averaged_step = step
        decay = min(self.optim.ema, (1 + step) / (10 + step))
        for name, value in self._trained_weights().items():
            if name in self.average and value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name] = value.clone()

    def on_train_epoch_end(self) -> None:
        row = {"epoch": float(self.current_epoch + 1)}
        row |= {name: float(np.mean(values)) for name, values in self.term_values.items()}
        self.term_values = {}
        weights = self.average if self.optim.ema else self._trained_weights()
        if self.data.dev is not None:
            row |= self._dev_scores(weights)
            for name in ("dev_ua", "dev_ccc"):
                if name in row:
                    self.log(name, row[name], prog_bar=True, logger=False)
        self.history.append(row)
        for logger in self.loggers:
            self._log(logger, [row])
        score = row.get(f"dev_{self.measure}", -1.0)
        score = self.trainer.strategy.broadcast(score)  # so that all processes stop together
        if self.data.dev is None or self.optim.select == "last" or score > self.best[0]:
            self.best = (score, self.current_epoch + 1)
            if self.trainer.is_global_zero:
                with atomic_write(self.folder / "best.safetensors") as partial:
                    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, partial)
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
        """Scores on dev. Every process scores all of it, so that no utterance is repeated or dropped."""
        dev = self.data.dev
        assert dev is not None
        backup = (
            {name: value.clone() for name, value in self._trained_weights().items()} if self.optim.ema else {}
        )
        if backup:
            self.model.load_state_dict(weights, strict=False)
        outputs = infer(self.model, dev, self.optim.batch_size, self.device)
        by_kind = {"alone": outputs}
        if self.data.voice is not None:
            known = VoiceContexts(self.data.voice, dev.speakers, 0).with_known(
                outputs["statistics"], DEV_KNOWN
            )
            student = self.model.student if isinstance(self.model, Suffix) else self.model
            assert isinstance(student, Student)
            by_kind["known"] = head_outputs(student, outputs["statistics"] - known, self.device)
        if backup:
            self.model.load_state_dict(backup, strict=False)
        self.model.train()
        return dev_scores(dev, by_kind, self.measure)

    def _trained_weights(self) -> dict[str, Tensor]:
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
        """The batches of an epoch; of each, the utterances that belong to this process."""
        trainer = self._trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        optim = self.optim
        per_speaker = 1
        if self.data.voice is not None and not isinstance(self.model, Suffix):
            per_speaker = self.data.voice.utterances_per_speaker
        return Batches(
            self.data.train, optim.batch_size, self.seed, epoch, optim.bucket, rank, world_size, per_speaker
        )

    def train_dataloader(self) -> Any:
        return make_loader(self.data.train, self.train_batches(self.current_epoch), self.num_loaders)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {f"model.{name}" for name in self._trained_weights()}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in trained}
        checkpoint["emodistill"] = {"history": self.history, "best": list(self.best), "average": self.average}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["emodistill"]
        self.history, self.average = state["history"], state["average"]
        self.best = (state["best"][0], state["best"][1])


class PlainFiles(TorchCheckpointIO):
    """Writes a checkpoint directly to its path. Lightning's own way leaves a temporary file after a kill."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        torch.save(checkpoint, path)


class SaveEveryEpoch(Checkpoint):
    """Writes the state to resume from, `last.ckpt`, at the end of each epoch, completely or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.folder / "last.ckpt")  # all processes must call it; one writes
            return
        with atomic_write(self.folder / "last.ckpt") as partial:
            trainer.save_checkpoint(partial)


def fit(
    model: nn.Module,
    data: TrainingData,
    optim: OptimConfig,
    folder: Path,
    runtime: RuntimeConfig,
    *,
    seed: int,
    distillation: DistillationConfig | None = None,
    stop_after: int | None = None,
) -> FitResult:
    """Train a model in place and leave it with the weights that are to be kept.

    Args:
        model: maps (inputs, lengths) to `Output`. Parameters that need no gradient stay as they are.
        data: dev is scored after every epoch. Without it the weights of the last epoch are kept.
        folder: for this training alone: logs, the state to resume from, and at the end `fit.json`.
        distillation: the weights of the loss terms; None for a teacher, whose labels all weigh 1.
        stop_after: the number of epochs after which to stop, under the schedule of `optim.epochs` epochs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (result := folder / "fit.json").is_file():
        learner = Learner(model, data, optim, distillation, folder, seed, runtime.loaders)
        model.train()  # transformers returns pretrained models in eval mode
        with quiet_lightning(), open_loggers(folder, runtime) as loggers:
            trainer = _trainer(optim, folder, runtime, stop_after, loggers)
            resume = folder / "last.ckpt"
            trainer.fit(learner, ckpt_path=resume if resume.is_file() else None, weights_only=True)
    (folder / "last.ckpt").unlink(missing_ok=True)
    model.load_state_dict(load_file(folder / "best.safetensors"), strict=False)
    model.eval()
    return FitResult.read(result)


def device_of(runtime: RuntimeConfig) -> torch.device:
    """The device on which one process runs a model: a GPU if there is one and `runtime` allows it."""
    use_gpu = runtime.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")


@torch.no_grad()
def infer(
    model: nn.Module,
    dataset: UtteranceDataset,
    batch_size: int,
    device: torch.device | str = "cpu",
    epoch: int = CLEAN,
) -> dict[str, Tensor]:
    """Outputs for every utterance, in the dataset's order, on the CPU.

    Inputs are those of the given epoch, by default clean. Returns `logits`, `embedding`, the projected
    embedding of each teacher under its name, `dimensions` where the model predicts some, and for a student
    `classifier_input` and `statistics`; each is (utterances, …).
    """
    model.eval()
    collected: dict[str, list[Tensor]] = {}
    order: list[int] = []
    for keys in Batches(dataset, batch_size, 0, CLEAN):
        batch = collate([dataset[epoch, index] for _, index in keys])
        output = model(batch.inputs.to(device), batch.lengths.to(device))
        order += batch.indices.tolist()
        values = {**output.projections, "logits": output.logits, "embedding": output.embedding}
        for name in ("classifier_input", "statistics", "dimensions"):
            if (value := getattr(output, name)) is not None:
                values[name] = value
        for name, value in values.items():
            collected.setdefault(name, []).append(value.float().cpu())
    position = torch.argsort(torch.tensor(order))
    return {name: torch.cat(parts)[position] for name, parts in collected.items()}


def _trainer(
    optim: OptimConfig, folder: Path, runtime: RuntimeConfig, stop_after: int | None, loggers: list[Any]
) -> Any:
    strategy = "ddp_spawn" if runtime.strategy == "auto" and runtime.devices > 1 else runtime.strategy
    if strategy == "ddp":
        raise ConfigError(
            "bad runtime.strategy 'ddp', which would run the whole program once for each device; expected "
            "'auto' or 'ddp_spawn'"
        )
    console = Console(stderr=True)
    callbacks: list[Callback] = [MeasureCost(folder), SaveEveryEpoch(folder)]
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
        plugins=[PlainFiles()],
    )
