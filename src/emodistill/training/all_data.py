"""`train --all`: one model that is trained on all utterances, to ship.

No dev and no test speakers are left. So the epochs are those that dev chose in a finished crossval of the
same recipe, and the scores are those of that crossval.

run folder/
  recipe.toml  protocol.json  utterances.csv   one fold, `all`, in which all utterances train.
  epochs.json      the number of epochs of each model.
  fold-all/all/    the models.
  fold-all/predictions-train.csv   of some training utterances. `export` compares the recogniser with them.
  fold-all/dimensions-train.csv    the dimensions of the same utterances, of models with dimensions.
  crossval/        predictions of the crossval, for calibration and for the scores on the card.
  scores.json      no scores, but where they come from.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from emodistill.config import TEACHERS, WORDS, Recipe
from emodistill.console import say, warn
from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.dimension_predictions import write_dimensions
from emodistill.evaluation.known import KNOWN_PREDICTIONS_DEV
from emodistill.evaluation.predictions import Predictions, read_predictions, write_predictions
from emodistill.evaluation.run import (
    ALL_DATA,
    ALL_FOLD,
    Run,
    dimension_table_name,
    table_name,
    write_checksums,
)
from emodistill.files import atomic_write, only_writer
from emodistill.inference.model_card import file_sha256
from emodistill.protocol.folds import Fold, Protocol
from emodistill.training.cross_validation import crossval, prepare_run
from emodistill.training.finished_crossval import finished_crossval
from emodistill.training.fit import FitResult
from emodistill.training.preflight import AuditedData, check_recipe


def train_all(
    recipe: Recipe,
    out: Path,
    crossval_run: Path,
    run_crossval: bool = False,
    data: AuditedData | None = None,
) -> dict[str, Any]:
    """Train a recipe on all utterances of its folds, and return the content of `scores.json`.

    Each model is trained for the median number of epochs that dev chose in the folds of `crossval_run`. With
    `run_crossval` this run is made or continued first. A run that was stopped continues where it was.
    `data` is the recipe's corpus and folds, where they were read before.

    Raises `ConfigError` where `crossval_run` is of another recipe or of other data, and `ModelError` where it
    is not finished.
    """
    checked = check_recipe(recipe, data=data)
    recipe, data = checked.recipe, checked.data
    if run_crossval:
        say(f"the epochs and the scores come from the crossval run '{crossval_run}'")
        crossval(recipe, crossval_run, data=data)
    run = finished_crossval(recipe, crossval_run, data)
    chosen = chosen_epochs(run)
    epochs = {name: math.ceil(median(values)) for name, values in chosen.items()}
    ids = {
        item
        for fold in run.protocol.folds
        for split in ("train", "dev", "test")
        for item in fold.split(split)
    }
    fold = Fold(ALL_FOLD, tuple(item.id for item in data.corpus if item.id in ids), (), ())
    protocol = Protocol(data.corpus.name, "all utterances train", (fold,), run.protocol.allowed)
    (fold_run,) = prepare_run(recipe, out, data=replace(data, protocol=protocol))
    _ensure_same_epochs(out, epochs)
    if recipe.protocol.refit == "classifier":
        warn(
            "protocol.refit = 'classifier' needs speakers that the student has not learned from. None are "
            "left, so the classifier is not fitted again"
        )
    with only_writer(out, "trains in"):
        fold_run.run_on_all(epochs)
        _copy_predictions(run, out / "crossval")
    speakers = {item.speaker for item in data.corpus if item.id in ids}
    scores = _scores(recipe, protocol, run, chosen, epochs, (len(fold.train), len(speakers)))
    with atomic_write(out / "scores.json") as partial:
        partial.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return scores


def chosen_epochs(run: Run) -> dict[str, list[int]]:
    """The number of epochs that dev chose for each model in each fold of a run.

    Raises `ModelError` where a fold lacks the file with its epochs.
    """
    chosen: dict[str, list[int]] = {}
    for name in (*TEACHERS, WORDS, "student"):
        paths = [run.folder / f"fold-{fold}" / "select" / name / "fit.json" for fold in run.scores["folds"]]
        if not any(path.is_file() for path in paths):
            continue
        for path in paths:
            if not path.is_file():
                raise ModelError(
                    f"'{path}' is missing, which has the epochs that dev chose: run crossval again"
                )
        chosen[name] = [FitResult.read(path).epochs for path in paths]
    return chosen


def _ensure_same_epochs(out: Path, epochs: Mapping[str, int]) -> None:
    """Record the epochs before training; raise `ConfigError` where a folder has others."""
    path = out / "epochs.json"
    if path.is_file():
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if recorded != epochs:
            raise ConfigError(
                f"'{out}' was trained for other epochs: {recorded} there and {dict(epochs)} here; choose "
                "another folder with --out"
            )
        return
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(epochs) + "\n", encoding="utf-8")


def _copy_predictions(run: Run, folder: Path) -> None:
    """Copy the main model's predictions of a crossval, so that the run folder needs no other."""
    folder.mkdir(parents=True, exist_ok=True)
    main, names = run.main_model, []
    for split in ("test", "dev"):
        if run.has_emotions:
            names.append(table_name(main, split, main))
            write_predictions(run.table(split=split), folder / names[-1])
        if run.has_dimensions:
            names.append(dimension_table_name(main, split, main))
            write_dimensions(run.dimension_table(split=split), folder / names[-1])
    known = [run.folder / f"fold-{fold}" / KNOWN_PREDICTIONS_DEV for fold in run.scores["folds"]]
    if all(path.is_file() for path in known):
        names.append(KNOWN_PREDICTIONS_DEV)
        write_predictions(Predictions.join(map(read_predictions, known)), folder / names[-1])
    write_checksums(folder, {name: file_sha256(folder / name) for name in names})


def _scores(
    recipe: Recipe,
    protocol: Protocol,
    run: Run,
    chosen: Mapping[str, Sequence[int]],
    epochs: Mapping[str, int],
    size: tuple[int, int],
) -> dict[str, Any]:
    """The content of `scores.json`: no scores of its own, and those of the crossval under `ALL_DATA`."""
    num_utterances, num_speakers = size
    medians = ", ".join(f"{name} {number}" for name, number in epochs.items())
    unknown = "utterances" if "speaker" in run.protocol.allowed else "speakers"
    note = (
        f"Trained on all {num_utterances} utterances of {num_speakers} speakers, for the epochs that dev "
        f"chose in the crossval run {run.name} (medians over {len(run.scores['folds'])} folds: {medians}). "
        f"No test {unknown} are left: scores are those of this crossval run, whose models were tested on "
        f"{unknown} that they had not learned from. The model itself was not tested."
    )
    if recipe.tuned is not None:
        note += f" {recipe.tuned.note}"
    return {
        "recipe": recipe.name, "seed": recipe.seed, "protocol": protocol.stamp, "folds": [ALL_FOLD],
        "environment": run.scores["environment"], "models": {}, "sha256": {},
        ALL_DATA: {
            "note": note, "crossval": run.name, "protocol": run.scores["protocol"],
            "utterances": num_utterances, "speakers": num_speakers, "epochs": dict(epochs),
            "epochs_of_folds": {name: list(values) for name, values in chosen.items()},
            "scores": run.scores["models"],
        },
    }  # fmt: skip
