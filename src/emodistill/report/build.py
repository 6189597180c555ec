"""Collects the content of the page: scores, learning curves, map of embeddings, errors with their sound."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from jinja2 import Environment
from markupsafe import Markup

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.config import TEACHERS, recipe_toml
from emodistill.corpora import Utterance
from emodistill.corpora.base import natural_sort_key
from emodistill.errors import AudioError, ModelError
from emodistill.evaluation.ablation_dimensions import DIMENSIONS_HEADER, DIMENSIONS_NOTE
from emodistill.evaluation.ablation_table import AblationTable, forest_panels, read_ablation
from emodistill.evaluation.bootstrap import FEW_SPEAKERS
from emodistill.evaluation.calibration import with_temperature
from emodistill.evaluation.compare import compare_runs, measure_title
from emodistill.evaluation.cost import cost_cell, cost_notes, cost_rows, known_titles, read_cost
from emodistill.evaluation.dimension_scores import DIMENSION_SCORE_TITLES
from emodistill.evaluation.dimension_tables import DIMENSION_NOTE, dimension_notes, format_over_folds
from emodistill.evaluation.groups import RunGroup, group_runs
from emodistill.evaluation.known_scores import HEADER, known_cells, known_notes
from emodistill.evaluation.metrics import SCORE_TITLES
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.run import Run, read_run
from emodistill.evaluation.scores import RunScores, calibration_titles, score_run
from emodistill.evaluation.tables import (
    CALIBRATION_TITLES,
    comparison_notes,
    comparison_rows,
    format_ends,
    format_estimate,
    format_measure,
    format_p_value,
    format_percent,
    format_value,
)
from emodistill.evaluation.vote_scores import VOTE_TITLES
from emodistill.evaluation.vote_tables import vote_notes, vote_rows
from emodistill.files import atomic_write
from emodistill.inference.model_card import MIN_SPEAKERS
from emodistill.report import figures
from emodistill.report.charts import forest
from emodistill.report.embeddings import embedding_map
from emodistill.version import __version__

if TYPE_CHECKING:
    from emodistill.training.fit import FitResult

MAX_CLIP_S = 12.0  # of the sound of an error; the rest of a longer utterance is cut off
MAX_SPEAKERS = 60  # in the chart; of more, those with the lowest UA


@dataclass
class Section:
    """The content of the page for one run."""

    run: Run
    scores: RunScores
    anchor: str  # start of the ids of its headings
    title: str
    notes: list[str] = field(default_factory=list)
    charts: dict[str, Any] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    num_utterances: int = 0  # of test
    num_speakers: int = 0

    @property
    def dimension_notes(self) -> list[str]:
        """Why some scores of dimensions have no interval or are not defined."""
        found = () if self.scores.dimensions is None else self.scores.dimensions.models
        return dimension_notes({item.model: item.dimensions for item in found})


@dataclass(frozen=True)
class GroupSection:
    """The content of the page for runs of one recipe, which differ in their seed alone."""

    name: str
    anchor: str
    sections: tuple[Section, ...]  # one for each seed

    @property
    def first(self) -> Section:
        """The section of the first seed."""
        return self.sections[0]

    def over_seeds(self, measure: str, model: int = 0) -> tuple[float, float]:
        """Mean and standard deviation over seeds of a model's pooled score; the main model is 0."""
        values = [section.scores.models[model].scores[measure].value for section in self.sections]
        return float(np.mean(values)), float(np.std(values, ddof=len(values) > 1))

    def ccc_over_seeds(self, dimension: str) -> tuple[float, float] | None:
        """Mean and standard deviation over seeds of the main model's CCC; None where it is not defined."""
        found = [
            section.scores.dimensions.models[0].dimensions[dimension].scores["ccc"]
            for section in self.sections
            if section.scores.dimensions is not None
        ]
        values = [item.value for item in found if item is not None]
        return (float(np.mean(values)), float(np.std(values, ddof=len(values) > 1))) if values else None


@dataclass(frozen=True)
class AblationSection:
    """The content of the page for the table of an ablation."""

    name: str  # its folder
    anchor: str
    table: AblationTable
    chart: Markup


def write_report(
    folders: Sequence[Path], out: Path, num_errors: int = 12, audio: bool = True, fold: str | None = None
) -> list[str]:
    """Write the page of one or more runs. Returns notes on what the page lacks, with the reason.

    Args:
        folders: run folders, and folders of `ablate`, of which the page shows the table and the runs of the
            full method. Several runs must have the same protocol. Runs that differ in their seed alone are a
            group, and each group is compared with the first.
        num_errors: how many of the most confident errors the page shows of each run.
        audio: False leaves the sound of these errors out, which may be personal data.
        fold: the fold whose student's embeddings are mapped (default: the first).

    Raises `ModelError` where a run folder is incomplete or was changed, or where runs cannot be compared.
    """
    ablations = [
        _ablation_section(folder, f"ablation-{place}")
        for place, folder in enumerate(filter(_is_ablation, folders), 1)
    ]
    run_folders = [run for folder in folders for run in _run_folders(folder)]
    groups = group_runs([read_run(folder) for folder in run_folders])
    compared = compare_runs(run_folders) if len(groups) > 1 else []
    sections = [
        _group_section(group, f"run-{place}", num_errors, audio, fold)
        for place, group in enumerate(groups, 1)
    ]
    page = _template().render(
        title=_page_title(sections, ablations),
        groups=sections,
        ablations=ablations,
        compared=comparison_rows(compared),
        comparison_notes=comparison_notes(compared) if compared else [],
        compared_chart=figures.differences(compared) if compared else None,
        compared_unit="points of UA" if compared and compared[0].measure == "ua" else "CCC × 100",
        costs=_costs(sections),
        recipe_differences=_recipe_differences(groups),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    with atomic_write(out) as partial:
        partial.write_text(page, encoding="utf-8")
    return [
        f"{section.run.name}: {note}"
        for group in sections
        for section in group.sections
        for note in section.notes
    ]


def _page_title(groups: Sequence[GroupSection], ablations: Sequence[AblationSection]) -> str:
    if ablations:
        return f"Ablation {', '.join(item.name for item in ablations)}"
    names = [group.name for group in groups]
    if len(names) == 1:
        return f"Report on {names[0]}"
    return f"Comparison of {' and '.join(names) if len(names) == 2 else f'{len(names)} systems'}"


def _costs(groups: Sequence[GroupSection]) -> dict[str, Any] | None:
    """The table of costs: a row for each model of each group, beside its UA; None where no cost is known."""
    by_group = {group.name: [read_cost(section.run.folder) for section in group.sections] for group in groups}
    ua = {
        (group.name, model.model): group.over_seeds("ua", place)[0]
        for group in groups
        for place, model in enumerate(group.first.scores.models)
    }
    rows = cost_rows(by_group, ua)
    if not rows:
        return None
    known = [cost for costs in by_group.values() for cost in costs if cost is not None]
    titles = known_titles([row.figures for row in rows])
    return {"rows": rows, "titles": titles, "notes": cost_notes(known), "has_ua": bool(ua)}


def _is_ablation(folder: Path) -> bool:
    return (folder / "ablation.json").is_file()


def _run_folders(folder: Path) -> list[Path]:
    """A run folder itself, or the runs of the full method in a folder of `ablate`."""
    if not _is_ablation(folder):
        return [folder]
    reference = read_ablation(folder / "ablation.json").reference
    runs = (folder / "cells" / reference).glob("seed-*/scores.json")
    return sorted((path.parent for path in runs), key=lambda path: natural_sort_key(path.name))


def _ablation_section(folder: Path, anchor: str) -> AblationSection:
    table = read_ablation(folder / "ablation.json")
    description = f"Differences to {table.reference} in {table.title}"
    chart = forest(forest_panels(table), description, table.title_with_unit)
    return AblationSection(folder.resolve().name, anchor, table, chart)


def _group_section(
    group: RunGroup, anchor: str, num_errors: int, audio: bool, fold: str | None
) -> GroupSection:
    several = len(group.runs) > 1
    sections = tuple(
        _section(run, f"{anchor}-seed-{seed}" if several else anchor, num_errors, audio, fold)
        for run, seed in zip(group.runs, group.seeds, strict=True)
    )
    recipe, folder = group.runs[0].scores["recipe"], Path(group.name).name
    name = recipe if recipe == folder else f"{recipe} ({folder})"
    return GroupSection(name if several else sections[0].title, anchor, sections)


def _template() -> Any:
    """The template of the page, with the names and formats that it uses."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "version": __version__,
        "style": Markup((files("emodistill.report") / "page.css").read_text(encoding="utf-8")),
        "score_titles": SCORE_TITLES,
        "calibration_titles": CALIBRATION_TITLES,
        "few_speakers": FEW_SPEAKERS,
        "min_speakers": MIN_SPEAKERS,
        "dimension_titles": DIMENSION_SCORE_TITLES,
        "dimension_note": DIMENSION_NOTE,
        "format_over_folds": format_over_folds,
        "measure_title": measure_title,
        "format_measure": format_measure,
        "format_value": format_value,
        "format_ends": format_ends,
        "scaling_titles": calibration_titles,
        "vote_titles": VOTE_TITLES,
        "vote_rows": vote_rows,
        "vote_notes": vote_notes,
        "scaling_classes": figures.SCALING_CLASSES,
        "dimensions_header": DIMENSIONS_HEADER,
        "dimensions_note": DIMENSIONS_NOTE,
        "known_header": HEADER,
        "known_cells": known_cells,
        "known_notes": known_notes,
        "cost_cell": cost_cell,
        "known_titles": known_titles,
        "format_percent": format_percent,
        "format_p_value": format_p_value,
        "format_estimate": format_estimate,
        "recipe_toml": recipe_toml,
        "folder_name": lambda folder: Path(folder).resolve().name,
    }
    return environment.from_string((files("emodistill.report") / "page.html").read_text(encoding="utf-8"))


def _section(run: Run, anchor: str, num_errors: int, audio: bool, fold: str | None) -> Section:
    scores = score_run(run)
    section = Section(run, scores, anchor, run.name, list(scores.notes))
    is_evaluation = run.training_recipe is None
    table = run.table() if run.has_emotions else run.dimension_table()
    section.num_utterances, section.num_speakers = len(table), len(set(table.speakers))
    section.charts = _emotion_charts(scores) if scores.models else {}
    if scores.dimensions is not None:
        section.charts["dimensions"] = figures.dimensions(run.dimension_table())
    section.charts |= {
        "known": figures.known(scores.known) if scores.known else None,
        "agreement": [(agreement, figures.agreement(agreement)) for agreement in scores.agreement],
        "curves": [] if is_evaluation else figures.learning_curves(trainings(run, section.notes)),
        "map": None if is_evaluation or not scores.models else embedding_map(run, fold, section.notes),
    }
    if is_evaluation:
        section.notes.append(
            "The run is an evaluation of an existing model, so it has no learning curves and no map of "
            "embeddings."
        )
    if scores.models:
        section.errors = _most_confident_errors(run, scores, num_errors, audio, section.notes)
    return section


def _emotion_charts(scores: RunScores) -> dict[str, Any]:
    """The charts of a model's emotions."""
    ua = scores.models[0].scores["ua"].value
    return {
        "speakers": figures.speakers(scores.groups["speaker"], ua, MAX_SPEAKERS),
        "reliability": figures.reliability(scores.calibration),
        "risk": figures.risk(scores.calibration),
    }


def _recipe_differences(groups: Sequence[RunGroup]) -> list[tuple[str, list[str]]]:
    """The recipe fields that differ between groups: (field, its value in each group)."""
    runs = [group.runs[0] for group in groups]

    def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
        values: dict[str, str] = {}
        for key, value in data.items():
            if isinstance(value, dict):
                values |= flatten(value, f"{prefix}{key}.")
            else:
                values[f"{prefix}{key}"] = str(value)
        return values

    if len(runs) < 2 or any(run.training_recipe is None for run in runs):
        return []
    recipes = [flatten(run.recipe.model_dump(mode="json")) for run in runs]
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    rows = [(name, [recipe.get(name, "–") for recipe in recipes]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1 and name != "seed"]


# --- learning curves -------------------------------------------------------------------------------


def trainings(run: Run, notes: list[str]) -> dict[str, dict[str, "FitResult"]]:
    """Model -> fold -> how its training on train alone went, which is scored on dev.

    Adds a note on files that are missing.
    """
    from emodistill.training.fit import FitResult

    by_model: dict[str, dict[str, FitResult]] = {}
    missing = []
    for model in ("student", *TEACHERS):
        if model not in run.models:
            continue
        if model == "acoustic" and run.recipe.acoustic.run is not None:
            notes.append(
                f"The acoustic teacher was trained in another run, '{run.recipe.acoustic.run}': see there "
                "for its learning curves."
            )
            continue
        for fold in run.scores["folds"]:
            path = run.folder / f"fold-{fold}" / "select" / model / "fit.json"
            if path.is_file():
                by_model.setdefault(model, {})[fold] = FitResult.read(path)
            else:
                missing.append(f"fold-{fold}/select/{model}/fit.json")
    if missing:
        notes.append(f"Learning curves are incomplete: {len(missing)} files are missing, first {missing[0]}.")
    return by_model


# --- errors ----------------------------------------------------------------------------------------


def _most_confident_errors(
    run: Run, scores: RunScores, limit: int, audio: bool, notes: list[str]
) -> list[dict[str, Any]]:
    """The student's errors with the highest confidence, temperature-scaled where there is a temperature.

    Adds a note where errors have no sound.
    """
    table = run.table()
    if scores.temperatures:
        folds = table.by_fold().items()
        table = Predictions.join(with_temperature(part, scores.temperatures[fold]) for fold, part in folds)
    confidence = table.probabilities.max(axis=1)
    wrong = np.flatnonzero(table.predicted != table.truth)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    by_teacher = {name: _predicted_emotions(run.table(name)) for name in run.models if name != run.main_model}
    errors = []
    unreadable = []
    for row in worst:
        name = table.utterances[row]
        utterance = run.utterances[name]
        sound = None
        if audio:
            try:
                sound = clip(utterance)
            except (AudioError, ModelError) as error:
                unreadable.append(str(error))
        errors.append(
            {
                "utterance": name,
                "speaker": table.speakers[row],
                "fold": table.folds[row],
                "truth": table.emotions[row],
                "predicted": table.labels.names[table.predicted[row]],
                "confidence": float(confidence[row]),
                "p_truth": float(table.probabilities[row, table.truth[row]]),
                "transcript": utterance.transcript,
                "teachers": {
                    teacher: emotions.get((table.folds[row], name), "–")
                    for teacher, emotions in by_teacher.items()
                },
                "sound": sound,
            }
        )
    if unreadable:
        notes.append(f"{len(unreadable)} of the errors have no sound: {unreadable[0]}")
    return errors


def _predicted_emotions(table: Predictions) -> dict[tuple[str, str], str]:
    """(fold, utterance) -> predicted emotion."""
    emotions = (table.labels.names[label] for label in table.predicted)
    return dict(zip(zip(table.folds, table.utterances, strict=True), emotions, strict=True))


def clip(utterance: Utterance) -> str | None:
    """An utterance's sound as a `data:` URI (MP3, mono, 16 kHz, at most 12 s); None where it has only text.

    Raises `AudioError` where its audio can't be read and `ModelError` where libsndfile can't write MP3.
    """
    if utterance.path is None:
        return None
    if "MP3" not in soundfile.available_formats():
        raise ModelError("this libsndfile cannot write MP3: expected 1.1 or newer")
    waveform = load(utterance.path, utterance.start_s, utterance.end_s)[: round(MAX_CLIP_S * SAMPLE_RATE)]
    mp3 = io.BytesIO()
    # With a constant bit rate, level 0.85 is about 32 kbit/s at 16 kHz.
    soundfile.write(mp3, waveform, SAMPLE_RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.85)
    return f"data:audio/mpeg;base64,{base64.b64encode(mp3.getvalue()).decode()}"
