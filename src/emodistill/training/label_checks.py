"""Checks before training of the labels of each fold, and of those of a teacher. It imports no torch."""

import json
from collections.abc import Mapping
from pathlib import Path

from emodistill.config import Recipe
from emodistill.corpora import Utterance
from emodistill.errors import ConfigError
from emodistill.protocol.audit import audit_teacher
from emodistill.protocol.folds import SPLITS, Fold

_LEAST = {"train": 2, "dev": 2, "test": 1}  # labels of a dimension: CCC needs two utterances


def check_labels(recipe: Recipe, fold: Fold, by_id: Mapping[str, Utterance]) -> None:
    """Raise `ConfigError` where a split of a fold lacks labels of a target that the recipe asks for.

    Raises `CorpusError` as `Utterance.unit_dimensions` does.
    """
    reads_text = recipe.main_model == "linguistic"
    for split in SPLITS:
        names = fold.split(split)
        items = [by_id[name] for name in names]
        items = [item for item in items if (item.transcript if reads_text else item.path)]
        if not items:
            continue
        where = f"fold {fold.name}: {split}"
        if recipe.has_emotions and all(item.emotion is None for item in items):
            raise ConfigError(
                f"{where} has no utterance with an emotion: choose other folds in [protocol], or leave "
                "emotion out of targets"
            )
        labelled = [item.unit_dimensions() for item in items] if recipe.dimensions else []
        for dimension in recipe.dimensions:
            count = sum(dimension in values for values in labelled)
            if count < _LEAST[split]:
                raise ConfigError(
                    f"{where} has {count} utterance{'s' * (count != 1)} with a label of {dimension}, "
                    f"expected at least {_LEAST[split]}: choose other folds in [protocol], or leave "
                    f"{dimension} out of targets"
                )


def check_acoustic_run(recipe: Recipe, fold: Fold, emotions: tuple[str, ...]) -> None:
    """Raise `ConfigError` where `acoustic.run` has no student for a fold, or one with other labels.

    Raises `LeakError` where it was trained on a held-out utterance.
    """
    phases = ("select", "refit") if recipe.protocol.refit is True else ("select",)
    for phase in phases:
        folder = Path(recipe.acoustic.run or "") / f"fold-{fold.name}" / phase / "student"
        if not (folder / "model.json").is_file():
            problem = "" if Path(recipe.acoustic.run or "").is_dir() else "; there is no such run folder"
            raise ConfigError(
                f"acoustic.run = '{recipe.acoustic.run}': fold {fold.name} has no trained student in "
                f"'{folder}'{problem}; finish that run first, or set acoustic.run to another"
            )
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if recipe.has_emotions and sorted(description["emotions"]) != sorted(emotions):
            raise ConfigError(
                f"acoustic.run: '{folder}' has the emotions {description['emotions']}, expected those of "
                f"this run, {list(emotions)}: set acoustic.run to a run with the same emotions"
            )
        if recipe.dimensions and description.get("dimensions", []) != list(recipe.dimensions):
            raise ConfigError(
                f"acoustic.run: '{folder}' predicts the dimensions {description.get('dimensions', [])}, "
                f"expected those of targets, {list(recipe.dimensions)}: set acoustic.run to a run with them, "
                "or unset it"
            )
        held_out = fold.test if phase == "refit" else (*fold.dev, *fold.test)
        audit_teacher(description["training_ids"], held_out, "acoustic")
