"""Writes an exported model: a folder with `model.onnx`, `card.json` and `README.md`.

A student with voices also has `head.onnx`.
"""

from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import onnxruntime

from emodistill.audio.waveform import Waveform
from emodistill.config import TEACHERS, AudioConfig
from emodistill.console import console, say, warn
from emodistill.corpora import Corpus, Utterance
from emodistill.corpora.load import open_corpus
from emodistill.corpora.sources import data_sources
from emodistill.distillation import heads_in_use
from emodistill.errors import ConfigError, ModelError, one_of
from emodistill.evaluation.bootstrap import RESAMPLES, bootstrap_confusions, make_estimate
from emodistill.evaluation.calibration import card_fields
from emodistill.evaluation.dimension_predictions import DimensionPredictions, read_dimensions
from emodistill.evaluation.dimension_scores import score_dimension
from emodistill.evaluation.metrics import ACCURACIES, scores_of_confusions
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.evaluation.run import Run, read_run
from emodistill.export.calibration_data import calibration_data
from emodistill.export.gate import compare_with_recogniser
from emodistill.export.onnx import OnnxStudent, check_parity, parity_waveforms, write_head, write_onnx
from emodistill.export.quantize import (
    MIN_CHECKED,
    check_fp16,
    check_int8,
    quantise_to_int8,
    store_in_fp16,
)
from emodistill.export.start import inherited_fields
from emodistill.features.preparation import prepare_waveform
from emodistill.files import move_file
from emodistill.inference.card_writer import write_card
from emodistill.inference.model_card import Card, file_sha256
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import describe_model, load_checkpoint
from emodistill.models.layers import CosineClassifier
from emodistill.models.student import Student
from emodistill.partial_folders import partial_folder
from emodistill.reading import parse_toml

Precision = Literal["fp32", "fp16", "int8"]
_Table = TypeVar("_Table", Predictions, DimensionPredictions)

# The parts of a card that a person writes. `backbone` is its hub id, where training read it from a folder.
CARD_TEXTS = ("name", "backbone", "licence", "limits", "intended_use")
FILES = ("model.onnx", "head.onnx", "LICENSE", "README.md", "card.json")


# Long: its docstring and the fields of the card take 40 lines.
def export_run(
    run: Path,
    out: Path,
    fold: str | None = None,
    precision: Precision = "fp32",
    check: Corpus | None = None,
    texts: Mapping[str, str] | None = None,
    unheard: Sequence[Path] = (),
) -> Card:
    """Export the student of a run's fold; returns its card.

    Args:
        fold: default: the run's first fold.
        check: labelled utterances on which int8 is compared with fp32; default: the fold's test split.
        texts: the parts of the card that a person writes, see `CARD_TEXTS`.
        unheard: runs of the same recipe that each left out a corpus. The temperatures are fitted on these
            corpora; default: on dev.

    The scores of the test split in the card are those of the exported model through the recogniser.

    Raises `ModelError` where the run is incomplete. Also where a gate refuses, with the figures; then no file
    is left in `out`.
    """
    source = read_run(run, needs_scores=False)
    recipe = source.recipe
    if recipe.student is None:
        raise ModelError(
            f"'{run}' has no student to export: its recipe has student = 'none' and trained the "
            f"{recipe.main_model} teacher alone"
        )
    fold = fold or source.scores["folds"][0]
    corpus, ids = open_corpus(recipe.corpus, lambda _: None, recipe.targets), source.protocol.fold(fold)
    by_id = {utterance.id: utterance for utterance in corpus}
    splits = {split: [by_id[item] for item in ids.split(split)] for split in ("train", "dev", "test")}
    if source.all_data is not None and precision == "int8" and check is None:
        raise ConfigError(
            f"'{run}' was trained on all data, so no utterances are left to check int8 on: give labelled "
            "ones of other speakers with --check"
        )
    calibrated: dict[str, Any] = {}
    if recipe.has_emotions:
        calibrated = card_fields(*calibration_data(source, fold, unheard), recipe.protocol.refit)
    elif unheard:
        raise ConfigError(
            f"'{run}' predicts dimensions alone, so there is no temperature to fit: leave --unheard out"
        )
    _remove_files(out)
    with partial_folder(out / "model.onnx") as partial:
        with console.status("exporting, and comparing with torch"):
            card = export_checkpoint(
                source.checkpoint_folder(fold),
                partial,
                corpus,
                precision,
                check or Corpus(corpus.name, tuple(splits["test"] or splits["train"])),
                recipe.audio,
                teachers=_teachers_with_embeddings(source, fold),
                card={
                    "name": recipe.name,
                    **inherited_fields(
                        recipe.student.init,
                        data_sources(splits, recipe.corpus.name),
                        _without_folders(recipe.student.backbone),
                    ),
                    "corpus": recipe.corpus.name,
                    "protocol": (source.all_data or source.scores)["protocol"],
                    "fold": fold,
                    **calibrated,
                    **(texts or {}),
                },
            )
        card = card.model_copy(update=_card_results(source, fold, partial, splits))
        write_card(card, partial)
        for name in FILES:  # the card is last, because a folder without it is no model
            if (partial / name).is_file():
                move_file(partial / name, out / name)
    return card


def _card_results(
    run: Run, fold: str, model: Path, splits: Mapping[str, Sequence[Utterance]]
) -> dict[str, Any]:
    """The scores of a card. Raises `ModelError` where the recogniser and training differ too much."""
    by_id = {item.id: item for split in splits.values() for item in split}
    folder = run.folder / f"fold-{fold}"
    if run.all_data is not None:
        # The model has learned from all utterances, so the gate has only these to compare.
        emotions, dimensions = _tables(run, folder, "-train")
        compare_with_recogniser(model, emotions, by_id, "train", dimensions)
        tables = _tables(run, run.folder / "crossval")
        return {
            "scores": _card_scores("crossval", *tables, splits["train"]),
            "scores_note": run.all_data["note"],
        }
    emotions, dimensions = _tables(run, folder)
    found = compare_with_recogniser(model, emotions, by_id, dimensions=dimensions)
    scores = _card_scores("test", found.emotions, found.dimensions, splits["test"])
    # A refitted model has learned from dev, and the scores of dev are those of other weights.
    if not run.recipe.protocol.refit:
        scores |= _card_scores("dev", *_tables(run, folder, "-dev"), splits["dev"])
    tuned = run.recipe.tuned
    note = "" if tuned is None else f"The scores of these weights. {tuned.note}"
    return {"scores": scores, "scores_note": note, "through_recogniser": found.figures}


def _tables(
    run: Run, folder: Path, suffix: str = ""
) -> tuple[Predictions | None, DimensionPredictions | None]:
    """The predicted emotions and dimensions in a folder; None where the run predicts none."""
    return (
        read_predictions(folder / f"predictions{suffix}.csv") if run.recipe.has_emotions else None,
        read_dimensions(folder / f"dimensions{suffix}.csv") if run.recipe.dimensions else None,
    )


def _teachers_with_embeddings(run: Run, fold: str) -> dict[str, Path]:
    """The checkpoint folders of the teachers whose embeddings the student of a fold has learned."""
    folders = {name: run.checkpoint_folder(fold, name) for name in TEACHERS}
    return {
        name: folder
        for name, folder in folders.items()
        if (folder / "model.json").is_file() and "embedding" in heads_in_use(run.recipe.distillation, name)
    }


def _remove_files(out: Path) -> None:
    """Make the folder, and delete the files of an earlier export from it.

    Raises `ConfigError` where the folder has texts of these names that belong to no model.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = [name for name in FILES if (out / name).exists()]
    if found and not set(found) - {"LICENSE", "README.md"}:
        raise ConfigError(
            f"'{out}' has {' and '.join(found)} and no model, so an export would replace files of yours: "
            "choose another folder"
        )
    for name in FILES:
        (out / name).unlink(missing_ok=True)


# Long: its docstring and the fields of the card take 45 lines.
def export_checkpoint(
    folder: Path,
    out: Path,
    corpus: Corpus,
    precision: Precision = "fp32",
    check: Corpus | None = None,
    audio: AudioConfig | None = None,
    teachers: Mapping[str, Path] | None = None,
    card: Mapping[str, Any] | None = None,
) -> Card:
    """Export any student from its checkpoint folder, without a run; returns its card.

    Args:
        folder: the student's checkpoint.
        out: the folder to write to; an earlier export in it is replaced.
        corpus: real utterances for the parity gate.
        precision: fp32; fp16 (storage alone); or int8, which also multiplies in integers.
        check: labelled, held-out utterances, at least 64, on which int8 is compared with fp32; default:
            `corpus`.
        audio: how the student's recordings were prepared; default: `AudioConfig()`.
        teachers: checkpoint folders of teachers. The classifier of each predicts from the student's head for
            it, as a further output. That of an acoustic teacher is left out: it depends on the length of an
            embedding, and heads learn the direction alone.
        card: fields of the card that the weights do not hold (name, corpus, protocol, fold, scores, …).

    Raises `ModelError` where a gate refuses, with the figures. Then no file is left in `out`.
    """
    checkpoint = load_checkpoint(folder)
    student = checkpoint.model
    if not isinstance(student, Student):
        raise ModelError(f"'{folder}' holds a {type(student).__name__}, expected a student")
    audio, check = audio or AudioConfig(), check or corpus
    heads = [name for name in TEACHERS if name in student.heads]
    model = OnnxStudent(student, _teacher_classifiers(heads, teachers or {})).eval()
    _remove_files(out)
    with partial_folder(out / "model.onnx") as partial:
        fp32 = partial / "fp32.onnx"
        dev_ids = checkpoint.info.get("dev_ids", ())
        description = describe_model(student, checkpoint.labels, checkpoint.training_ids, dev_ids)
        student_config, backbone_config = description["config"], description["backbone"]["config"]
        if not student.dimensions:
            del description["dimensions"]  # then the graph is the one of earlier versions, byte for byte
        for part, name in (
            (student_config, "init"), (student_config, "backbone"), (backbone_config, "_name_or_path"),
        ):  # fmt: skip
            if part.get(name):  # no folder of this machine goes into the model
                part[name] = _without_folders(part[name])
        write_onnx(model, fp32, description)
        head = fp32.with_name("head.onnx") if student.has_voices else None
        if head is not None:
            write_head(model, head)
        waveforms = parity_waveforms(corpus, {utterance.id for utterance in check}, audio.max_s)
        parity = check_parity(model, fp32, waveforms, head)
        front_end = {name for name, _ in model.named_buffers()}  # its filters are fixed, not learned
        figures: dict[str, float] = {}
        path = fp32
        if precision == "fp16":
            path = fp32.with_name("fp16.onnx")
            store_in_fp16(fp32, path, front_end)
            figures = check_fp16(fp32, path, waveforms)
            if head is not None:  # in int8, the head of a graph stays as it is
                store_in_fp16(head, head)
        elif precision == "int8":
            path, figures = _to_int8(fp32, front_end, *_labelled_waveforms(check, checkpoint.labels, audio))
        move_file(path, out / "model.onnx")
        if head is not None:
            move_file(head, out / "head.onnx")
    fields = {
        "name": folder.name,
        "backbone": student.backbone.model_type,
        "corpus": corpus.name,
        "protocol": "",
        "fold": "",
        "scores": {},
        **(card or {}),
        "emotions": checkpoint.labels.names,
        "dimensions": student.dimensions,
        "trim_db": audio.trim_db,
        "sha256": file_sha256(out / "model.onnx"),
        "voice_dim": student.embed.in_features if student.has_voices else None,
        "head_sha256": file_sha256(out / "head.onnx") if student.has_voices else None,
        "precision": precision,
        "quantisation": figures,
        "teachers": tuple(heads),
        "num_parameters": sum(value.numel() for value in student.parameters()),
        "parity": parity,
        "versions": {
            **{name: version(name) for name in ("emodistill", "torch", "transformers", "onnx")},
            # Its package may be another one than `onnxruntime`, such as `onnxruntime-gpu`.
            "onnxruntime": onnxruntime.__version__,
        },
    }
    exported = Card(**fields)
    write_card(exported, out)
    return exported


def read_card_texts(path: Path) -> dict[str, str]:
    """The texts of a card from a TOML file; raises `ConfigError` for an unknown key or a bad value."""
    if not path.is_file():
        raise ConfigError(f"no file '{path}': expected TOML with texts for {', '.join(CARD_TEXTS)}")
    try:
        texts = parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"'{path}' is not TOML: {error}") from error
    for name, text in texts.items():
        if name not in CARD_TEXTS:
            raise ConfigError(f"'{path}': {one_of('text of a card', name, CARD_TEXTS)}")
        if not isinstance(text, str):
            raise ConfigError(f"'{path}': expected a text for {name}, got {text!r}")
    return {name: " ".join(text.split()) for name, text in texts.items()}


def _card_scores(
    split: str,
    emotions: Predictions | None,
    dimensions: DimensionPredictions | None,
    utterances: Sequence[Utterance],
) -> dict[str, dict[str, float]]:
    """Scores of a split, and of each corpus in it where there are several; intervals with enough speakers."""
    corpus_of = {utterance.id: utterance.corpus or "" for utterance in utterances}
    scores = {} if emotions is None else _emotion_scores(_parts(split, emotions, corpus_of))
    if dimensions is not None:
        for name, found in _dimension_scores(_parts(split, dimensions, corpus_of)).items():
            scores[name] = {**found, **scores.get(name, {})}
    return scores


def _parts(split: str, table: _Table, corpus_of: Mapping[str, str]) -> dict[str, _Table]:
    """A table under the name of its split, and its rows of each corpus where there are several."""
    parts = {split: table}
    if len(set(corpus_of.values())) > 1:
        for corpus in sorted(set(corpus_of.values())):
            parts[f"{corpus}/{split}"] = table.select(
                [corpus_of[item] == corpus for item in table.utterances]
            )
    return parts


def _dimension_scores(parts: Mapping[str, DimensionPredictions]) -> dict[str, dict[str, float]]:
    """CCC of each dimension where it is defined, over the utterances that have its label."""
    scores: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        scores[name] = {"utterances": float(len(part)), "speakers": float(len(set(part.speakers)))}
        for dimension in part.dimensions:
            found = score_dimension(part, dimension)
            if (ccc := found.scores["ccc"]) is None:
                continue
            scores[name] |= {f"utterances_{dimension}": found.num_utterances, f"ccc_{dimension}": ccc.value}
            if ccc.low is not None and ccc.high is not None:
                scores[name] |= {f"ccc_{dimension}_low": ccc.low, f"ccc_{dimension}_high": ccc.high}
    return scores


def _emotion_scores(parts: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        num_speakers = len(set(part.speakers))
        scores[name] = {"utterances": float(len(part)), "speakers": float(num_speakers)}
        draws = scores_of_confusions(bootstrap_confusions(part, RESAMPLES))
        for measure, score in ACCURACIES.items():
            found = make_estimate(score(part.truth, part.predicted), draws[measure], num_speakers)
            scores[name][measure] = found.value
            if found.low is not None and found.high is not None:
                scores[name] |= {f"{measure}_low": found.low, f"{measure}_high": found.high}
        scores[name]["macro_f1"] = part.scores().macro_f1
    return scores


def _without_folders(backbone: str) -> str:
    """A backbone as a card names it: a hub id, or the last part of an absolute path."""
    return Path(backbone).name if Path(backbone).is_absolute() else backbone


def _teacher_classifiers(heads: Sequence[str], teachers: Mapping[str, Path]) -> dict[str, CosineClassifier]:
    """The classifiers of teachers that the student has a head for, where they use the direction alone.

    A teacher of dimensions alone has an empty one, which is left out.
    """
    checkpoints = {name: load_checkpoint(path) for name, path in teachers.items() if name in heads}
    classifiers: dict[str, Any] = {name: item.model.classifier for name, item in checkpoints.items()}
    return {
        name: item
        for name, item in classifiers.items()
        if isinstance(item, CosineClassifier) and len(item.weight)
    }


def _to_int8(
    fp32: Path, front_end: Collection[str], waveforms: Sequence[Waveform], labels: Sequence[int]
) -> tuple[Path, dict[str, float]]:
    """Quantise matrix products and convolutions; where the gate refuses that, matrix products alone."""
    path = fp32.with_name("int8.onnx")
    num_convolutions = quantise_to_int8(fp32, path, front_end)
    try:
        figures = check_int8(fp32, path, waveforms, labels)
    except ModelError as error:
        if not num_convolutions or len(waveforms) < MIN_CHECKED:
            raise
        reason = str(error).partition(";")[0]
        say(f"int8 again, with {num_convolutions} convolutions left in fp32, because {reason}")
        num_convolutions = 0
        quantise_to_int8(fp32, path, front_end, convolutions=False)
        figures = check_int8(fp32, path, waveforms, labels)
    if figures["speed_ratio"] < 1:
        warn(
            f"int8 is slower than fp32 on this machine: {figures['int8_ms_per_s']:.2f} against "
            f"{figures['fp32_ms_per_s']:.2f} ms for a second of audio on one thread"
        )
    return path, {**figures, "convolutions": float(num_convolutions)}


def _labelled_waveforms(
    check: Corpus, labels: LabelSet, audio: AudioConfig
) -> tuple[list[Waveform], list[int]]:
    """Prepared waveforms, and their labels, of the utterances that have audio and an emotion of the model.

    For a model without emotions: of all utterances with audio, without labels.
    """
    if not len(labels):
        return [prepare_waveform(item, audio) for item in check if item.path is not None], []
    usable = [item for item in check if item.path is not None and item.emotion in labels.names]
    if len(usable) < len(check):
        warn(
            f"int8 is checked without {len(check) - len(usable)} utterances, which have no audio or an "
            "emotion that the model does not know"
        )
    return [prepare_waveform(item, audio) for item in usable], [
        labels.index(str(item.emotion)) for item in usable
    ]
