"""Writes a student as a folder that transformers loads: `emodistill export MODEL --to transformers DIR`.

The checks of the arguments import no torch. The weights come from the checkpoint of a run, or from the graph
of an exported model. Before anything is written, the new model is compared with the ONNX graph.
"""

import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emodistill.errors import ConfigError, MissingExtraError, ModelError
from emodistill.evaluation.run import read_run
from emodistill.files import move_file
from emodistill.inference.card_writer import transformers_markdown, write_readme
from emodistill.inference.fetch import fetchable_models, package_folder
from emodistill.inference.model_card import Card, read_unchecked_card
from emodistill.partial_folders import partial_folder

TOLERANCE = (
    1e-4  # largest difference of a probability, of a dimension and of an embedding from the ONNX graph
)
LENGTHS_S = (0.3, 0.9, 2.5, 7.0, 20.0)  # of the waveforms that are compared
PACKAGES = ("torch", "transformers", "onnx", "safetensors", "joblib")
CONFIG = "config.json"
RECIPE = "recipe.toml"  # a folder with it is a run
# Settings of a backbone that say nothing about its shape, or name a folder of this machine.
_UNUSED = ("_name_or_path", "id2label", "label2id", "architectures", "transformers_version", "model_type")


class Source(NamedTuple):
    """A model that can be written for transformers."""

    folder: Path
    card: Card | None  # of an exported model; None: the folder is a run


class Written(NamedTuple):
    """What `export_transformers` has written."""

    card: Card
    largest_difference: float  # from the ONNX graph
    num_waveforms: int


def find_source(model: str | Path, out: Path, fold: str | None = None) -> Source:
    """Return where a model is: "bundled", a fetched model, an exported folder or a run. It imports no torch.

    Raises `ModelError` where there is no such model, or where transformers cannot have it: an int8 model, or
    one without emotions. Raises `ConfigError` where `out` cannot take the files, and for a fold that a run
    does not have. Raises `MissingExtraError` where a package is missing.
    """
    folder = package_folder(str(model)) or Path(model)
    if (out / "card.json").exists() or (out / RECIPE).exists():
        raise ConfigError(f"'{out}' holds an exported model or a run: give another folder for transformers")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"'{out}' is a file: give a folder for transformers")
    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package, "transformers", "the export to transformers")
    if (folder / RECIPE).is_file():
        if find_spec("lightning") is None:
            raise MissingExtraError("lightning", "train", "the export of a run")
        run = read_run(folder, needs_scores=False)
        run.checkpoint_folder(fold)
        recipe = run.recipe
        if recipe.student is None:
            raise ModelError(f"'{folder}' has no student to export: its recipe has student = 'none'")
        if not recipe.has_emotions:
            raise ModelError(_without_emotions(str(folder)))
        return Source(folder, None)
    if not folder.is_dir():
        names = ", ".join(["bundled", *fetchable_models()])
        raise ModelError(
            f"no model '{model}': expected {names}, the folder of an exported model, or a run folder"
        )
    card = read_unchecked_card(folder)
    if card.precision == "int8":
        raise ModelError(
            f"'{model}' is quantised to int8, but transformers needs floating-point weights: give the run, "
            "or export the run with --precision fp32 or fp16 and give that folder"
        )
    if not card.emotions:
        raise ModelError(_without_emotions(str(model)))
    return Source(folder, card)


def export_transformers(
    model: str | Path,
    out: Path,
    fold: str | None = None,
    texts: Mapping[str, str] | None = None,
    unheard: Sequence[Path] = (),
) -> Written:
    """Write a folder that `pipeline("audio-classification")` loads, with the code of the model and its card.

    Args:
        model: "bundled", a fetched model, the folder of an exported model, or a run.
        out: the folder; files of an earlier export in it are replaced.
        fold, texts, unheard: those of `export.export_run`, for a run alone.

    Raises the errors of `find_source`, and for a run those of `export_run`. Raises `ModelError` where the
    weights cannot be read back from the graph, or where an answer differs from the graph's by over 1e-4.
    """
    source = find_source(model, out, fold)
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(out) as partial:
        graph = source.folder
        if source.card is None:
            from emodistill.export import export_run
            from emodistill.models.checkpoint import load_checkpoint

            graph = partial / "onnx"
            export_run(source.folder, graph, fold, texts=texts, unheard=unheard)
            run = read_run(source.folder, needs_scores=False)
            checkpoint = load_checkpoint(run.checkpoint_folder(fold))
        else:
            from emodistill.models.checkpoint import read_exported

            try:
                checkpoint = read_exported(graph)
            except ModelError as error:
                raise ModelError(f"{error}. With --to transformers, give the run itself") from error
        folder = partial / "transformers"
        written = _write(graph, checkpoint, folder)
        out.mkdir(exist_ok=True)
        (out / CONFIG).unlink(missing_ok=True)  # it comes last, because a folder without it is no model
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == CONFIG, path.name)):
            move_file(path, out / path.name)
    return written


def _write(graph: Path, checkpoint: Any, folder: Path) -> Written:
    """Write all files. `graph` is the exported folder of the same student as `checkpoint`."""
    from transformers.utils import logging as transformers_logging

    from emodistill.inference.exported_student import ExportedStudent
    from emodistill.integrations.transformers import EmoDistillFeatureExtractor

    exported = ExportedStudent(graph)
    card = exported.card
    model = classifier(checkpoint.model, card)
    extractor = EmoDistillFeatureExtractor(trim_db=card.trim_db)
    largest, num_waveforms = _check(model, extractor, exported)
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    if shown:
        transformers_logging.enable_progress_bar()
    extractor.save_pretrained(folder)
    num_parameters = sum(value.numel() for value in model.parameters())
    shown_card = card.model_copy(update={"num_parameters": num_parameters})
    write_readme(shown_card, folder, transformers_markdown(shown_card, largest, num_waveforms))
    for path in graph.glob("*-LICENSE.txt"):  # of the backbone
        shutil.copyfile(path, folder / path.name)
    return Written(card, largest, num_waveforms)


def classifier(student: Any, card: Card) -> Any:
    """Return an `EmoDistillForAudioClassification` with the weights of a student, in evaluation mode.

    The projection heads for teachers are left out. Raises `ModelError` for a backbone that the code of the
    model does not have.
    """
    from emodistill.integrations.modeling_emodistill import ENCODERS
    from emodistill.integrations.transformers import EmoDistillConfig, EmoDistillForAudioClassification
    from emodistill.models.student import Standardise

    settings, backbone = student.config, student.backbone
    if backbone.model_type not in ENCODERS:
        raise ModelError(
            f"the backbone '{backbone.model_type}' cannot be exported to transformers: expected one of "
            f"{', '.join(ENCODERS)}"
        )
    config = EmoDistillConfig(
        encoder_type=backbone.model_type,
        encoder_config={key: value for key, value in backbone.config.items() if key not in _UNUSED},
        num_layers=backbone.num_layers,
        pool=None if settings.pool == "mix" else list(student.pool_layers),
        merge=settings.merge,
        attentive=settings.attentive,
        queries=settings.queries,
        nonlinear=settings.nonlinear,
        fixed_norm=isinstance(student.norm, Standardise),
        embedding_dim=settings.embedding_dim,
        dropout=settings.dropout,
        calibration_temperature=card.temperature,
        dimensions=list(card.dimensions),
        id2label=dict(enumerate(card.emotions)),
        label2id={name: index for index, name in enumerate(card.emotions)},
    )
    model = EmoDistillForAudioClassification(config)
    weights = {name: value for name, value in student.state_dict().items() if not name.startswith("heads.")}
    model.load_state_dict(weights, strict=True)
    return model.eval()


def _check(model: Any, extractor: Any, exported: Any) -> tuple[float, int]:
    """Return the largest difference from the ONNX graph, over waveforms alone and in one padded batch.

    Raises `ModelError` where it is over `TOLERANCE`, or not a number.
    """
    import torch

    from emodistill.audio.waveform import SAMPLE_RATE, load
    from emodistill.inference.confidence import apply_temperature

    call = load(Path(str(files("emodistill"))) / "demo" / "call.ogg")
    waveforms = [call[: round(length_s * SAMPLE_RATE)] for length_s in LENGTHS_S]
    alone = [extractor(waveform, SAMPLE_RATE, return_tensors="pt") for waveform in waveforms]
    together = extractor(waveforms, SAMPLE_RATE, return_tensors="pt")
    differences = []
    with torch.no_grad():
        batch = model(**together)
        for index, features in enumerate(alone):
            outputs = exported.run(features["input_values"][0].numpy())
            for found, row in ((model(**features), 0), (batch, index)):
                probabilities = found.logits[row].softmax(-1).numpy()
                expected = apply_temperature(outputs["probabilities"], exported.card.temperature)
                differences.append(np.abs(probabilities - expected).max())
                differences.append(np.abs(found.embedding[row].numpy() - outputs["embedding"]).max())
                if found.dimensions is not None:
                    differences.append(np.abs(found.dimensions[row].numpy() - outputs["dimensions"]).max())
    largest = float(np.max(differences))  # np.max returns NaN where there is one
    if not largest <= TOLERANCE:
        raise ModelError(
            f"the model for transformers differs from the ONNX model by {largest:.1e}; at most "
            f"{TOLERANCE:.0e} is allowed. Nothing was written."
        )
    return largest, len(waveforms)


def _without_emotions(model: str) -> str:
    return (
        f"'{model}' predicts dimensions alone, but an audio classifier of transformers predicts emotions: "
        "choose a model with emotions, or use emodistill.Recognizer"
    )
