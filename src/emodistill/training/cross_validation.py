"""Cross-validation: all folds of a recipe into one run folder, and their scores.

run folder/
  recipe.toml  protocol.json  utterances.csv
  fold-<name>/            see `fold`
  predictions.csv         test predictions of every fold (predictions-<teacher>.csv: those of a teacher)
  predictions-dev.csv     dev predictions of every fold
  dimensions.csv          models with dimensions: labels and predictions, in files named as for emotions
  known.csv               a student with voices: test predictions with known utterances of the speaker
  known.md  known.tex  known.png   their scores as tables and as a plot
  scores.json             the scores of every model
  cost.json               what every model costs, see `evaluation.cost`
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from emodistill.config import TEACHERS, Recipe, load_recipe, recipe_toml
from emodistill.corpora.manifest import read_manifest
from emodistill.errors import ModelError
from emodistill.evaluation.dimension_predictions import (
    DimensionPredictions,
    read_dimensions,
    write_dimensions,
)
from emodistill.evaluation.dimension_scores import summarise_dimensions
from emodistill.evaluation.dimension_tables import show_summary
from emodistill.evaluation.known import KNOWN_CSV, join_known, read_known, write_known
from emodistill.evaluation.known_scores import score_known, write_known_tables
from emodistill.evaluation.predictions import (
    Predictions,
    read_predictions,
    write_predictions,
)
from emodistill.evaluation.run import (
    UTTERANCES,
    dimension_table_name,
    is_unchanged,
    table_name,
    write_utterances,
)
from emodistill.files import atomic_write, only_writer
from emodistill.inference.model_card import file_sha256
from emodistill.protocol.audit import notes_for_scores
from emodistill.protocol.folds import Protocol, read_protocol
from emodistill.training.artifact_cache import ArtifactCache, to_dict
from emodistill.training.cost import write_cost
from emodistill.training.fold import FoldRun
from emodistill.training.preflight import AuditedData, check_recipe, refuse_other_run
from emodistill.training.stages import check_models


def crossval(
    recipe: Recipe,
    out: Path,
    folds: Sequence[str] | None = None,
    max_folds: int | None = None,
    artifacts: ArtifactCache | None = None,
    data: AuditedData | None = None,
) -> dict[str, Any]:
    """Train and test a recipe fold by fold, and return the scores of all finished folds, as in `scores.json`.

    Everything that needs no training is checked first (`check_recipe`). A run that was stopped continues
    where it was. `folds` names the folds to run (default: all), and no more
    than `max_folds` of them are run. Several runs can share `artifacts` and `data`, the result of
    `read_data`. Raises `ConfigError` where `out` holds a run of another recipe, and `LeakError` where the
    protocol leaks. Raises `ConfigError` where another process trains in `out`.
    """
    runs = prepare_run(recipe, out, folds, data, artifacts, max_folds)
    with only_writer(out, "trains in"):
        for fold_run in runs:
            fold_run.run()
        return collect_scores(load_recipe(out / "recipe.toml"), out)


def prepare_run(
    recipe: Recipe,
    out: Path,
    folds: Sequence[str] | None = None,
    data: AuditedData | None = None,
    artifacts: ArtifactCache | None = None,
    max_folds: int | None = None,
) -> list[FoldRun]:
    """Make all checks, write `recipe.toml` and `protocol.json`, and return the folds to run.

    The arguments are those of `crossval`. The recipe that is written has absolute paths, and the teachers
    that are really used.
    """
    checked = check_recipe(recipe, folds, max_folds, data, out)
    recipe, corpus, protocol = checked.recipe, checked.data.corpus, checked.data.protocol
    runs = [
        FoldRun(
            recipe,
            corpus,
            corpus.labels,
            fold,
            out / f"fold-{fold.name}",
            artifacts,
            checked.data.further,
            checked.data.voted,
        )
        for fold in checked.data.folds(folds)[:max_folds]
    ]
    if not all(run.tables.are_complete for run in runs):
        check_models(recipe, corpus.labels)
    if not refuse_other_run(recipe, protocol, out):
        out.mkdir(parents=True, exist_ok=True)
        protocol.write(out / "protocol.json")
        with atomic_write(out / "recipe.toml") as partial:
            partial.write_text(recipe_toml(recipe), encoding="utf-8")
    if not (out / UTTERANCES).is_file():
        write_utterances(corpus, out)
    if recipe.runtime.threads is not None:
        torch.set_num_threads(recipe.runtime.threads)
    return runs


def is_finished_run(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder holds a finished run of this recipe."""
    path = folder / "recipe.toml"
    if not path.is_file() or not (folder / "scores.json").is_file():
        return False
    return load_recipe(path).deciding_settings() == recipe.deciding_settings()


def collect_scores(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Join the predictions of the finished folds, and write `scores.json` and `cost.json`.

    Raises `ModelError` where a table of a fold was changed after that fold had finished.
    """
    protocol = read_protocol(out / "protocol.json")
    last = recipe.last_table
    corpus = read_manifest(out / UTTERANCES, anywhere=True)
    done = [fold.name for fold in protocol.folds if (out / f"fold-{fold.name}" / last).is_file()]
    scores: dict[str, Any] = {
        "recipe": recipe.name, "seed": recipe.seed, "protocol": protocol.stamp, "folds": done,
        "environment": {"torch": torch.__version__, "threads": torch.get_num_threads()}, "models": {},
        "sha256": {},  # of the tables of the run, so that an edit is noticed
        "notes": list(notes_for_scores(corpus, protocol, recipe.protocol)),
    }  # fmt: skip
    if recipe.tuned is not None:
        scores["tuned"] = {**to_dict(recipe.tuned), "note": recipe.tuned.note}
    main = recipe.main_model
    for model in dict.fromkeys((main, *TEACHERS)):
        entry: dict[str, Any] = {}
        for split in ("test", "dev"):
            part: dict[str, Any] = {}
            name, dimension_name = (of(model, split, main) for of in (table_name, dimension_table_name))
            if recipe.has_emotions and (parts := _parts(recipe, out, done, name, model)):
                table = Predictions.join(read_predictions(path) for path in parts)
                write_predictions(table, out / name)
                part |= summarise_scores(table)
                scores["sha256"][name] = file_sha256(out / name)
            if recipe.dimensions and (parts := _parts(recipe, out, done, dimension_name, model)):
                dimensions = DimensionPredictions.join(read_dimensions(path) for path in parts)
                write_dimensions(dimensions, out / dimension_name)
                part["dimensions"] = summarise_dimensions(dimensions)
                scores["sha256"][dimension_name] = file_sha256(out / dimension_name)
            if part:
                entry[split] = part
        if entry:
            scores["models"][model] = entry
    if recipe.voice is not None and recipe.has_emotions and done:
        scores["sha256"][KNOWN_CSV] = _collect_known(recipe, done, protocol, out)
    write_cost(recipe, out, done)
    with atomic_write(out / "scores.json") as partial:  # last, because a run with it is finished
        partial.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return scores


def _parts(recipe: Recipe, out: Path, folds: Sequence[str], name: str, model: str) -> list[Path]:
    """The tables of this name of all folds; empty where a teacher lacks one.

    Raises `ModelError` where one was changed, or where the main model lacks one.
    """
    parts = [out / f"fold-{fold}" / name for fold in folds]
    if model != recipe.main_model and not all(part.is_file() for part in parts):
        return []
    _ensure_unchanged(parts, recipe.last_table)
    return parts


def _ensure_unchanged(parts: Sequence[Path], last: str) -> None:
    """Raise `ModelError` where a table was changed after its fold had finished with the table `last`."""
    for part in parts:
        if not part.is_file() or not is_unchanged(part):
            raise ModelError(
                f"'{part}' was changed after its fold had finished: delete '{part.with_name(last)}' and run "
                "the same command again; it keeps the trained models and writes the tables again"
            )


def _collect_known(recipe: Recipe, folds: Sequence[str], protocol: Protocol, out: Path) -> str:
    """Join `known.csv` of the finished folds, write its scores, and return its SHA-256."""
    parts = [out / f"fold-{fold}" / KNOWN_CSV for fold in folds]
    _ensure_unchanged(parts, recipe.last_table)
    labels = read_predictions(out / "predictions.csv").labels
    table = join_known([read_known(part, labels) for part in parts])
    write_known(table, out / KNOWN_CSV)
    write_known_tables(score_known(table, protocol.stamp), out)
    return file_sha256(out / KNOWN_CSV)


def summarise_scores(table: Predictions) -> dict[str, Any]:
    """Scores pooled over all utterances, and mean and standard deviation over folds."""
    by_fold = {name: part.scores() for name, part in table.by_fold().items()}
    over_folds = {}
    for measure in ("ua", "wa", "macro_f1"):
        values = [getattr(item, measure) for item in by_fold.values()]
        over_folds[measure] = {
            "mean": float(np.mean(values)),
            "sd": float(np.std(values, ddof=len(values) > 1)),
        }
    return {
        "emotions": list(table.labels.names),
        "mean_over_folds": over_folds,
        "pooled": table.scores().as_dict(),
        "by_fold": {name: item.as_dict() for name, item in by_fold.items()},
    }


def print_scores(scores: dict[str, Any], out: Console) -> None:
    """Print a line for each model and split, recalls and confusion of the main model, and dimensions."""
    num_folds = len(scores["folds"])
    title = (
        f"{scores['recipe']}, seed {scores['seed']}, {num_folds} fold{'s' * (num_folds > 1)}, protocol "
        f"{scores['protocol']}"
    )
    main = next(iter(scores["models"]))
    if "emotions" in scores["models"][main]["test"]:
        _print_emotions(scores, main, title, out)
    else:
        out.print(title, markup=False)
    show_summary(scores["models"], out)
    for note in scores["notes"]:
        out.print(f"note: {note}", markup=False)


def _print_emotions(scores: dict[str, Any], main: str, title: str, out: Console) -> None:
    table = Table(title=title)
    measures = {"UA": "ua", "WA": "wa", "macro-F1": "macro_f1"}
    titles = ("UA", "WA", "weighted F1", *(f"{name} over folds" for name in measures))
    for column in ("model", "split", *titles):
        table.add_column(column, justify="left" if column in ("model", "split") else "right")
    for model, entry in scores["models"].items():
        for split, part in entry.items():
            if "emotions" not in part:
                continue
            means = [part["mean_over_folds"][measure] for measure in measures.values()]
            cells = [f"{100 * item['mean']:.2f} ± {100 * item['sd']:.2f}" for item in means]
            pooled = [f"{100 * part['pooled'][measure]:.2f}" for measure in ("ua", "wa", "weighted_f1")]
            table.add_row(model, split, *pooled, *cells)
    table.caption = "%, all folds pooled; over folds: mean ± standard deviation"
    if "tuned" in scores:
        table.caption += f"\n{scores['tuned']['note']}"
    out.print(table)
    test = scores["models"][main]["test"]
    matrix = Table(title=f"{main} on test: recall (%) and confusion (rows: true emotion, columns: predicted)")
    matrix.add_column("emotion")
    matrix.add_column("recall", justify="right")
    for name in test["emotions"]:
        matrix.add_column(name, justify="right")
    for name, row in zip(test["emotions"], test["pooled"]["confusion"], strict=True):
        recall = test["pooled"]["recall"].get(name)
        matrix.add_row(name, "–" if recall is None else f"{100 * recall:.1f}", *map(str, row))
    out.print(matrix)
