"""Gathers what the page shows: scores, curves, the map of embeddings, errors to listen to."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jinja2 import Environment
from markupsafe import Markup

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.config import TEACHERS, recipe_toml
from emodistill.corpora import Utterance
from emodistill.errors import AudioError, ModelError
from emodistill.evaluation.calibration import with_temperature
from emodistill.evaluation.compare import compare_all
from emodistill.evaluation.predictions import Predictions, join
from emodistill.evaluation.run import Run, read_run
from emodistill.evaluation.scores import FullScores, full_scores
from emodistill.evaluation.tables import (
    CALIBRATION_COLUMNS,
    MODEL_COLUMNS,
    calibration_cell,
    comparison_rows,
    p_shown,
    percent,
    with_interval,
)
from emodistill.files import atomic_write
from emodistill.report import figures
from emodistill.version import __version__

MAX_CLIP_S = 12.0  # of an error that can be listened to
CLIP_KBPS = 32
MOST_SPEAKERS = 60  # in the chart; beyond, those with the lowest UA


@dataclass
class Section:
    """One run on the page."""

    run: Run
    scores: FullScores
    anchor: str
    notes: list[str] = field(default_factory=list)
    charts: dict[str, Any] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)


def write_report(
    folders: Sequence[Path], out: Path, num_errors: int = 12, audio: bool = True, fold: str | None = None
) -> list[str]:
    """Write the page of one or more runs; returns the notes on what it lacks, and why.

    Args:
        folders: run folders; several must lie under one protocol, and are compared with the first.
        num_errors: how many of the most confident errors are shown, with their sound.
        audio: False: no sound is put into the page, whoever may hear it.
        fold: whose student's embeddings are mapped; default: the first.

    Raises `ModelError` where a run folder is not what it should be, or two cannot be compared.
    """
    runs = [read_run(folder) for folder in folders]
    compared = comparison_rows(compare_all(folders)) if len(runs) > 1 else []
    sections = [_section(run, f"run-{place}", num_errors, audio, fold) for place, run in enumerate(runs, 1)]
    page = _template().render(
        sections=sections,
        compared=compared,
        differing=_differing(runs),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        style=Markup((files("emodistill.report") / "page.css").read_text(encoding="utf-8")),
        model_columns=MODEL_COLUMNS,
        calibration_columns=CALIBRATION_COLUMNS,
        percent=percent,
        p_shown=p_shown,
        with_interval=with_interval,
        calibration_cell=calibration_cell,
        recipe_toml=recipe_toml,
        last=lambda folder: Path(folder).resolve().name,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as partial:
        partial.write_text(page, encoding="utf-8")
    return [f"{section.run.name}: {note}" for section in sections for note in section.notes]


def _template() -> Any:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((files("emodistill.report") / "page.html").read_text(encoding="utf-8"))


def _section(run: Run, anchor: str, num_errors: int, audio: bool, fold: str | None) -> Section:
    scores = full_scores(run)
    made = Section(run, scores, anchor, list(scores.notes))
    made.charts = {
        "speakers": figures.speakers(
            scores.groups["speaker"], scores.models[0].scores["ua"].value, MOST_SPEAKERS
        ),
        "reliability": figures.reliability(scores.calibration),
        "risk": figures.risk(scores.calibration),
        "agreement": [(item, figures.agreement(item)) for item in scores.agreement],
        "curves": [] if run.trained is None else figures.curves(histories(run, made.notes)),
        "map": None if run.trained is None else _map(run, fold, made.notes),
    }
    if run.trained is None:
        made.notes.append(
            "A model was scored and none trained: there are no learning curves and no map of embeddings."
        )
    made.errors = _errors(run, scores, num_errors, audio, made.notes)
    return made


def _differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The recipe fields that differ between runs: (field, a value for each run)."""

    def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in data.items():
            found |= (
                flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
            )
        return found

    if len(runs) < 2 or any(run.trained is None for run in runs):
        return []
    fields = [flat(run.recipe.model_dump(mode="json")) for run in runs]
    names = dict.fromkeys(name for item in fields for name in item)
    rows = [(name, [item.get(name, "–") for item in fields]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


# --- learning curves -------------------------------------------------------------------------------


def histories(run: Run, notes: list[str]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Model -> fold -> its history, a row an epoch, from the phase that is scored on dev."""
    from emodistill.training.fit import FitResult

    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    lacking = []
    for model in ("student", *TEACHERS):
        if model not in run.models:
            continue
        if model == "acoustic" and run.recipe.acoustic.run is not None:
            notes.append(
                f"The acoustic teacher's learning curves are in its own run, '{run.recipe.acoustic.run}'."
            )
            continue
        for fold in run.scores["folds"]:
            path = run.folder / f"fold-{fold}" / "select" / model / "fit.json"
            if path.is_file():
                found.setdefault(model, {})[fold] = FitResult.read(path).history
            else:
                lacking.append(f"fold-{fold}/select/{model}/fit.json")
    if lacking:
        notes.append(f"Learning curves are incomplete: {len(lacking)} files are gone, first {lacking[0]}.")
    return found


# --- embeddings ------------------------------------------------------------------------------------


def _map(run: Run, fold: str | None, notes: list[str]) -> dict[str, Any] | None:
    """The embeddings of a fold's test utterances in two dimensions, by that fold's student."""
    folder = run.final(fold)
    fold = fold or run.scores["folds"][0]
    table = run.table().by_fold()[fold]
    if run.utterances is None:
        notes.append("No map of embeddings: without utterances.csv it is not known where the audio is.")
        return None
    known = [run.utterances[name] for name in table.utterances if name in run.utterances]
    gone = [item for item in known if item.path is None or not item.path.is_file()]
    if gone or len(known) < len(table):
        notes.append(
            f"No map of embeddings: the audio of {len(gone) + len(table) - len(known)} test utterances of fold "
            f"{fold} is gone{f', first {gone[0].path}' if gone else ''}."
        )
        return None
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            notes.append(f"No map of embeddings: the student of fold {fold} is gone ({folder / name}).")
            return None
    if len(table) < 5:
        notes.append(f"No map of embeddings: fold {fold} has only {len(table)} test utterances.")
        return None
    embeddings = _embeddings(folder, run, known)
    return {
        "fold": fold,
        "chart": figures.embedding_map(_in_two_dimensions(embeddings), table),
        "emotions": figures.legend(table),
        "count": len(table),
        "speakers": len(set(table.speakers)),
    }


def _embeddings(folder: Path, run: Run, utterances: Sequence[Utterance]) -> np.ndarray:
    from emodistill.models.checkpoint import load_checkpoint
    from emodistill.training.checkpoint_inference import predict_checkpoint

    _, said = predict_checkpoint(load_checkpoint(folder), utterances, run.recipe.audio, run.recipe.runtime)
    return np.asarray(said["embedding"].numpy(), dtype=np.float64)


def _in_two_dimensions(embeddings: np.ndarray) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton 2008) of (utterances, dim), started from PCA: the same map every time."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    made = TSNE(2, perplexity=perplexity, init="pca", random_state=0, metric="cosine").fit_transform(
        embeddings
    )
    return np.asarray(made, dtype=np.float64)


# --- errors ----------------------------------------------------------------------------------------


def _errors(run: Run, scores: FullScores, limit: int, audio: bool, notes: list[str]) -> list[dict[str, Any]]:
    """The errors that the student was surest of, at scaled confidences where there are any."""
    table = run.table()
    if scores.temperatures:
        parts = table.by_fold().items()
        table = join(with_temperature(part, scores.temperatures[fold]) for fold, part in parts)
    confidence = table.probabilities.max(axis=1)
    wrong = np.flatnonzero(table.predicted != table.truth)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    teachers = {name: _said(run.table(name)) for name in run.models if name != run.main_model}
    found = []
    silent = []
    for row in worst:
        name = table.utterances[row]
        known = (run.utterances or {}).get(name)
        sound = None
        if audio:
            try:
                sound = None if known is None else clip(known)
            except (AudioError, ModelError) as error:
                silent.append(str(error))
        found.append(
            {
                "utterance": name,
                "speaker": table.speakers[row],
                "fold": table.folds[row],
                "truth": table.emotions[row],
                "said": table.labels.names[table.predicted[row]],
                "confidence": float(confidence[row]),
                "of_truth": float(table.probabilities[row, table.truth[row]]),
                "transcript": None if known is None else known.transcript,
                "teachers": {
                    teacher: said.get((table.folds[row], name), "–") for teacher, said in teachers.items()
                },
                "sound": sound,
            }
        )
    if silent:
        notes.append(f"{len(silent)} of the errors have no sound: {silent[0]}")
    elif audio and found and run.utterances is None:
        notes.append("The errors have no sound: without utterances.csv it is not known where the audio is.")
    return found


def _said(table: Predictions) -> dict[tuple[str, str], str]:
    said = (table.labels.names[label] for label in table.predicted)
    return dict(zip(zip(table.folds, table.utterances, strict=True), said, strict=True))


def clip(utterance: Utterance) -> str | None:
    """An utterance's sound as a `data:` URI (MP3, mono, 16 kHz, at most 12 s); None: it is text alone.

    Raises `AudioError` where it can't be read and `ModelError` where libsndfile can't write MP3.
    """
    if utterance.path is None:
        return None
    if "MP3" not in soundfile.available_formats():
        raise ModelError("this libsndfile cannot write MP3: expected 1.1 or newer")
    waveform = load(utterance.path, utterance.start_s, utterance.end_s)[: round(MAX_CLIP_S * SAMPLE_RATE)]
    packed = io.BytesIO()
    # Level 0.85 of a constant rate is about 32 kbit/s at 16 kHz.
    soundfile.write(
        packed, waveform, SAMPLE_RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.85
    )
    return f"data:audio/mpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"
