"""Measures what training and running a model cost. `evaluation.cost` explains the figures and their files."""

import json
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load, peak_normalise
from emodistill.config import WORDS, Recipe
from emodistill.console import say
from emodistill.corpora.manifest import read_manifest
from emodistill.errors import MissingExtraError, ModelError
from emodistill.evaluation.cost import AUDIO_S, COST, ModelCost, RunCost, TrainingCost, read_cost
from emodistill.evaluation.run import UTTERANCES
from emodistill.features.llds import extract_llds
from emodistill.models.checkpoint import load_checkpoint
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.prosodic import ProsodicTeacher, make_planes
from emodistill.models.student import Student

REPETITIONS = 20  # of a latency, at most
MIN_REPETITIONS = 3
BUDGET_S = 1.5  # for the repetitions of one latency


# --- training --------------------------------------------------------------------------------------


class MeasureCost(Checkpoint):
    """Writes `cost.json` beside `fit.json`: seconds, epochs and the peak of memory of a training.

    They are saved with the state to resume from, so a training that was killed and continued adds up. An
    epoch that was cut short counts once. A subclass of `Checkpoint`, because Lightning calls these after the
    scores on dev, and in the order of the list.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds, self.epochs, self.peak_bytes = 0.0, 0, 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.since = time.monotonic()
        reset_peak_memory(pl_module.device)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        self.epochs += 1
        self.peak_bytes = max(self.peak_bytes, peak_memory(pl_module.device) or 0)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            cost = training_cost(self.seconds, self.epochs, pl_module.device, self.peak_bytes or None)
            cost.write(self.folder / COST)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "epochs": self.epochs, "peak_bytes": self.peak_bytes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.epochs = state_dict["seconds"], state_dict["epochs"]
        self.peak_bytes = state_dict["peak_bytes"]


@contextmanager
def measured(made: Path) -> Iterator[None]:
    """Write how long the block takes that makes a file, or that makes the model of a folder.

    The cost of a file is beside it. Trainings in folders `inner-*` beside it that were finished before, by a
    run that was killed, are added.
    """
    path = made.with_suffix(f".{COST}") if made.suffix else made / COST
    before = [TrainingCost.read(cost) for cost in path.parent.glob(f"inner-*/*/{COST}")]
    start = time.monotonic()
    yield
    seconds = time.monotonic() - start + sum(cost.seconds for cost in before if cost is not None)
    training_cost(seconds, 0).write(path)


def training_cost(
    seconds: float, epochs: int, device: torch.device | str = "cpu", peak_bytes: int | None = None
) -> TrainingCost:
    """The cost of a training on this machine."""
    gpu = torch.device(device).type == "cuda"
    return TrainingCost(
        seconds, epochs, torch.cuda.get_device_name(device) if gpu else str(torch.device(device).type),
        cpu_name(), torch.get_num_threads(), torch.__version__, peak_bytes,
    )  # fmt: skip


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure the peak of memory: of a GPU, or of this process, where the system can do it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # `peak_memory` then is the peak since the process began


def peak_memory(device: torch.device) -> int | None:
    """The highest memory in bytes since `reset_peak_memory`; None: the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(lines[0].split()[1]) if lines else None


@cache
def cpu_name() -> str:
    """The model of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# --- running ---------------------------------------------------------------------------------------


class LiveTensors(TorchDispatchMode):
    """The bytes of all tensors that operations have made and that are alive, and their peak."""

    def __init__(self, ignored: Sequence[Tensor]) -> None:
        super().__init__()
        self.ignored = {tensor.untyped_storage().data_ptr() for tensor in ignored}
        self.alive: set[int] = set()
        self.bytes, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        self.peak = max(self.peak, self.bytes)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in self.alive or address in self.ignored:
            return
        self.alive.add(address)
        self.bytes += size
        weakref.finalize(storage, self._remove, address, size)

    def _remove(self, address: int, size: int) -> None:
        self.alive.discard(address)
        self.bytes -= size


def count_macs(run: Callable[[], Any]) -> int:
    """Multiply-accumulates of the matrix products and convolutions in a call.

    They are half of the floating-point operations that torch's `FlopCounterMode` counts. It knows attention
    on every device only by its products, so these are chosen.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def measure_latency(run: Callable[[], Any]) -> tuple[float, int]:
    """The median milliseconds of a call on one thread of torch, and the number of repetitions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            run()  # the first call sets up kernels
            times: list[float] = []
            while len(times) < REPETITIONS and (sum(times) < BUDGET_S or len(times) < MIN_REPETITIONS):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 1000 * statistics.median(times), len(times)


def measure_module(model: nn.Module, run: Callable[[], Any]) -> ModelCost:
    """The cost of a module in evaluation mode, on the CPU; `run` applies it to one utterance."""
    model.eval()
    weights = [*model.parameters(), *model.buffers()]
    size = sum(tensor.nbytes for tensor in weights)
    with torch.no_grad(), LiveTensors(weights) as live:
        run()
    latency_ms, repetitions = measure_latency(run)
    return ModelCost(
        parameters=sum(value.numel() for value in model.parameters()),
        trained_parameters=sum(value.numel() for value in model.parameters() if value.requires_grad),
        size_bytes=size,
        macs=count_macs(run),
        memory_bytes=size + live.peak,
        latency_ms=latency_ms,
        repetitions=repetitions,
    )


def measured_waveform() -> Waveform:
    """The utterance (samples,) that all models are measured on: `AUDIO_S` of speech, 16 kHz."""
    return load(Path(str(files("emodistill"))) / "demo" / "call.ogg", 0.0, AUDIO_S)


def measure_model(model: nn.Module, transcript: str) -> tuple[ModelCost, int | None]:
    """The cost of a student or teacher at run time, and the tokens of the transcript where it reads one.

    Weights decide no figure, so models of one architecture are measured once in a process. The projection
    heads of a student serve training alone: they count as parameters, and are not run.
    """
    tokens = len(model.tokenize(transcript)) if isinstance(model, LinguisticTeacher) else None
    parameters = list(model.parameters())
    counts = {
        "parameters": sum(value.numel() for value in parameters),
        "trained_parameters": sum(value.numel() for value in parameters if value.requires_grad),
        "size_bytes": sum(value.nbytes for value in model.state_dict().values()),
    }
    heads = model.heads if isinstance(model, Student) else None
    if isinstance(model, Student):
        model.heads = nn.ModuleDict()
    try:
        key = _architecture_key(model, tokens)
        if key not in _MEASURED:
            _MEASURED[key] = _measure(model, transcript)
    finally:
        if heads is not None:
            model.heads = heads
    return replace(_MEASURED[key], **counts), tokens


_MEASURED: dict[str, ModelCost] = {}


def _architecture_key(model: nn.Module, tokens: int | None) -> str:
    """What decides the cost of running a model: its layers and their sizes."""
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    return json.dumps([str(model), shapes, tokens])


def _measure(model: nn.Module, transcript: str) -> ModelCost:
    if isinstance(model, LinguisticTeacher):
        tokens = model.tokenize(transcript)[None]
        return measure_module(model, lambda: model(tokens, None))
    waveform = measured_waveform()
    if isinstance(model, ProsodicTeacher):
        return _measure_prosodic(model, waveform)
    assert isinstance(model, Student), type(model)
    samples = torch.from_numpy(waveform)[None]
    return measure_module(model, lambda: model(samples))


def _measure_prosodic(model: ProsodicTeacher, waveform: Waveform) -> ModelCost:
    """The cost with the extraction of LLDs, where opensmile is installed."""
    frames = round(100 * len(waveform) / SAMPLE_RATE)
    try:
        llds = extract_llds(peak_normalise(waveform))
        extraction_ms, _ = _extraction_latency()
    except MissingExtraError:
        llds, extraction_ms = torch.zeros(frames, len(model.mean)).numpy(), None
    planes = torch.from_numpy(make_planes(llds, model.mean.numpy(), model.std.numpy()))[None]
    cost = measure_module(model, lambda: model(planes, None))
    assert cost.latency_ms is not None
    if extraction_ms is None:
        return replace(cost, latency_ms=None)
    return replace(cost, latency_ms=cost.latency_ms + extraction_ms, extraction_ms=extraction_ms)


@cache
def _extraction_latency() -> tuple[float, int]:
    """As `measure_latency`, of the LLDs of the utterance. It is the same for all prosodic teachers."""
    waveform = measured_waveform()
    return measure_latency(lambda: extract_llds(peak_normalise(waveform)))


def machine() -> dict[str, Any]:
    """What the latencies were measured on."""
    return {
        "cpu": cpu_name(), "threads": 1, "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
    }  # fmt: skip


# --- runs ------------------------------------------------------------------------------------------


def write_cost(recipe: Recipe, out: Path, folds: Sequence[str]) -> None:
    """Write `cost.json` of a run with these finished folds.

    Models that are measured already keep their figures. The times of training are read again from the folders
    of the models. A model whose checkpoint is missing is left out.
    """
    if not folds:
        return
    try:
        before = read_cost(out)
    except ModelError:  # damaged: measured again
        before = None
    models: dict[str, ModelCost] = {}
    tokens = None if before is None else before.tokens
    names = [recipe.main_model, *(name for name in recipe.distillation.teachers if name != recipe.main_model)]
    for name in names:
        folder = _model_folder(recipe, out, folds[0], "select", name)
        measured = None if before is None else before.models.get(name)
        if measured is None and (folder / "model.json").is_file():
            measured, count = measure_model(load_checkpoint(folder).model, typical_transcript(out))
            tokens = tokens if count is None else count
        if measured is not None:
            training = {fold: _training(recipe, out, fold, name) for fold in folds}
            training = {fold: phases for fold, phases in training.items() if phases}
            models[name] = replace(measured, training=training)
    if not models:
        return
    RunCost(models, machine() if before is None else before.machine, tokens).write(out)
    if before is None:
        say(f"cost of student and teachers: {out / COST}")


def typical_transcript(folder: Path) -> str:
    """The transcript of median length in the corpus of a run; a few words where there are none."""
    path = folder / UTTERANCES
    known = (
        [item.transcript for item in read_manifest(path, anywhere=True) if item.transcript]
        if path.is_file()
        else []
    )
    return (
        sorted(known, key=lambda text: (len(text), text))[len(known) // 2]
        if known
        else "it is eleven o'clock"
    )


def _model_folder(recipe: Recipe, out: Path, fold: str, phase: str, model: str) -> Path:
    is_other_run = model == "acoustic" and recipe.acoustic.run is not None
    run = Path(recipe.acoustic.run or "") if is_other_run else out
    return run / f"fold-{fold}" / phase / ("student" if is_other_run else model)


def _training(recipe: Recipe, out: Path, fold: str, model: str) -> dict[str, TrainingCost]:
    """The trainings of a model in a fold by phase, and the time of its targets."""
    parts: dict[str, TrainingCost] = {}
    for phase in ("select", "refit"):
        folder = _model_folder(recipe, out, fold, phase, model)
        if (cost := TrainingCost.read(folder / COST)) is not None:
            is_other_run = model == "acoustic" and recipe.acoustic.run is not None
            parts[phase] = replace(cost, shared=True) if is_other_run else cost
        first = out / f"fold-{fold}" / phase / WORDS / COST
        if model == "student" and (cost := TrainingCost.read(first)) is not None:
            parts[f"{phase} {WORDS}"] = cost
        for path in sorted((out / f"fold-{fold}" / phase / model).glob(f"targets-*.{COST}")):
            if (cost := TrainingCost.read(path)) is not None:
                parts[f"{phase} targets"] = cost
    return parts
