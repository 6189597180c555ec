"""Student -> ONNX: waveform in, probabilities and embeddings out, behind a parity gate.

The front-end is inside the graph. The gate runs the exported model and torch on real utterances of
0.3 to 20 s, alone and batched, and refuses a model whose probabilities differ by more than 1e-4.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.audio import SAMPLE_RATE, Waveform
from emodistill.card import Card, file_sha256, write_card
from emodistill.config import TEACHERS, AudioConfig
from emodistill.corpora import Corpus
from emodistill.corpora.opening import open_corpus
from emodistill.corpora.terms import data_sources
from emodistill.errors import ModelError
from emodistill.evaluation.calibration import card_fields
from emodistill.evaluation.predictions import read_predictions
from emodistill.evaluation.run import read_run
from emodistill.features import conditioned
from emodistill.models.checkpoint import load_checkpoint
from emodistill.models.student import Student

TOLERANCE = 1e-4  # largest difference of a probability
NUM_UTTERANCES = 64  # at least, in the gate


class Exported(nn.Module):
    """What the ONNX graph computes: waveform (batch, samples), every row whole, no mask."""

    def __init__(self, student: Student, classifiers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.student = student
        self.classifiers = nn.ModuleDict(dict(classifiers))

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        teachers = [name for name in self.student.heads if not name.endswith("_hidden")]
        return [
            "probabilities",
            "embedding",
            *(f"embedding_{name}" for name in teachers),
            *(f"probabilities_{name}" for name in self.classifiers),
        ]

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Probabilities (batch, emotions), embeddings (batch, dim), what each teacher would say."""
        output = self.student(waveform, None)
        pooled = {name: value for name, value in output.projections.items() if not name.endswith("_hidden")}
        return (
            output.logits.softmax(dim=1),
            output.embedding,
            *(F.normalize(value, dim=1) for value in pooled.values()),
            *(classifier(pooled[name]).softmax(dim=1) for name, classifier in self.classifiers.items()),
        )


def export_run(run: Path, out: Path, fold: str | None = None) -> Card:
    """Export the student of a run's fold into a folder with `model.onnx` and `card.json`.

    Raises `ModelError` where the run is incomplete or the parity gate fails, with the figures.
    """
    source = read_run(run)
    recipe, scores = source.recipe, source.scores
    fold = fold or scores["folds"][0]
    phase = source.final(fold)
    found = load_checkpoint(phase / "student")
    assert isinstance(found.model, Student)
    teachers = [name for name in TEACHERS if name in found.model.heads]
    classifiers: dict[str, Any] = {
        name: load_checkpoint(phase / name).model.classifier
        for name in teachers
        if (phase / name / "model.json").is_file()
    }
    exported = Exported(found.model, classifiers).eval()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("card.json", "README.md"):  # of an earlier export
        (out / name).unlink(missing_ok=True)
    write_onnx(exported, out / "model.onnx")
    corpus, ids = open_corpus(recipe.corpus, lambda _: None), source.protocol.fold(fold)
    waveforms = gate_waveforms(corpus, set(ids.test), recipe.audio.max_s)
    parity = check_parity(exported, out / "model.onnx", waveforms)
    entry = scores["models"]["student"]
    by_id = {utterance.id: utterance for utterance in corpus}
    splits = {split: [by_id[name] for name in ids.split(split)] for split in ("train", "dev", "test")}
    dev, test = (read_predictions(run / f"fold-{fold}" / f"predictions{split}.csv") for split in ("-dev", ""))
    card = Card(
        name=recipe.name,
        emotions=found.labels.names,
        trim_db=recipe.audio.trim_db,
        sha256=file_sha256(out / "model.onnx"),
        teachers=tuple(teachers),
        backbone=_short(recipe.student.backbone),
        num_parameters=sum(value.numel() for value in found.model.parameters()),
        corpus=recipe.corpus.name,
        data=data_sources(splits, recipe.corpus.name),
        protocol=source.protocol.stamp,
        fold=fold,
        scores={
            split: {m: part["by_fold"][fold][m] for m in ("ua", "wa", "macro_f1")}
            for split, part in entry.items()
            if split == "test" or not recipe.protocol.refit  # dev belongs to the weights before the refit
        },
        **card_fields(dev, test, recipe.protocol.refit),
        parity=parity,
        versions={
            name: version(name) for name in ("emodistill", "torch", "transformers", "onnx", "onnxruntime")
        },
    )
    write_card(card, out)
    return card


def write_onnx(model: Exported, path: Path) -> None:
    """Write the graph, weights inside, batch and length dynamic."""
    example = torch.linspace(-1, 1, SAMPLE_RATE)[None].repeat(2, 1)
    shape = {0: torch.export.Dim("batch", min=1, max=1024), 1: torch.export.Dim.AUTO}
    advice = logging.getLogger(
        "torch.onnx._internal.exporter._registration"
    )  # "torchvision is not installed"
    level = advice.level
    advice.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, none about the model
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["waveform"],
            output_names=model.outputs,
            dynamic_shapes=(shape,),
            dynamo=True,
            verbose=False,
        )
    advice.setLevel(level)
    assert program is not None
    for node in program.model.graph:  # the exporter may call an inner value `embedding` too (WavLM's is)
        for value in node.outputs:
            if value.name in model.outputs and not value.is_graph_output():
                value.name = f"inner_{value.name}"
    program.save(path, external_data=False)


def gate_waveforms(corpus: Corpus, prefer: set[str], max_s: float) -> list[Waveform]:
    """Real utterances for the gate: at least 64, held-out ones first, cut or joined to span 0.3 to 20 s."""
    spoken = sorted((u for u in corpus if u.path is not None), key=lambda u: u.id not in prefer)
    whole = AudioConfig(trim_db=None, max_s=max_s)
    found = [conditioned(utterance, whole) for utterance in spoken[:NUM_UTTERANCES]]
    found = [found[index % len(found)] for index in range(max(NUM_UTTERANCES, len(found)))]
    lengths_s = np.geomspace(0.3, min(20.0, max_s), 16)
    for index, length_s in enumerate(lengths_s):
        samples = round(length_s * SAMPLE_RATE)
        joined = np.concatenate(found[index:] + found[:index])
        found[index] = np.resize(joined, samples).astype(np.float32)
    return found


def _batches(waveforms: Sequence[Waveform]) -> Iterator[np.ndarray]:
    """Batches of equal length, cut from utterances that are long enough."""
    for samples in (SAMPLE_RATE // 2, SAMPLE_RATE, 3 * SAMPLE_RATE):
        long_enough = [waveform[:samples] for waveform in waveforms if len(waveform) >= samples]
        if long_enough:
            yield np.stack(long_enough[:16])


def _short(backbone: str) -> str:
    """A backbone as a card names it: hub ids as they are, folders without where they lay."""
    return Path(backbone).name if Path(backbone).is_absolute() else backbone


@torch.no_grad()
def check_parity(model: Exported, path: Path, waveforms: Sequence[Waveform]) -> dict[str, float]:
    """Compare ONNX Runtime with torch; returns the figures, raises `ModelError` beyond `TOLERANCE`."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def worst(batch: np.ndarray) -> float:
        said = session.run(None, {"waveform": batch})
        expected = [value.numpy() for value in model(torch.from_numpy(batch))]
        return float(np.max([np.abs(a - b).max() for a, b in zip(said, expected, strict=True)]))

    alone = float(np.max([worst(waveform[None]) for waveform in waveforms]))  # NaN, unlike with max(), stays
    batched = float(np.max([worst(batch) for batch in _batches(waveforms)]))
    figures = {
        "alone": alone,
        "batched": batched,
        "utterances": float(len({waveform.tobytes() for waveform in waveforms})),
        "tolerance": TOLERANCE,
    }
    if not (alone <= TOLERANCE and batched <= TOLERANCE):
        path.unlink()
        raise ModelError(
            f"the exported model differs from torch: {alone:.1e} alone, {batched:.1e} batched, over "
            f"{len(waveforms)} utterances; at most {TOLERANCE:.0e} is allowed. Nothing was exported."
        )
    return figures
