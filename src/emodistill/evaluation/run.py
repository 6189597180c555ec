"""A run folder as every later stage reads it; `training.crossval` says what is in it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.config import Recipe, load_recipe
from emodistill.errors import ConfigError, ModelError, one_of
from emodistill.protocol import Protocol, read_protocol


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    recipe: Recipe
    protocol: Protocol
    scores: dict[str, Any]

    def final(self, fold: str | None = None) -> Path:
        """The folder of a fold's final models (`student`, and a teacher each); by default the first's."""
        folds = self.scores["folds"]
        if fold is not None and fold not in folds:
            raise ConfigError(one_of("fold", fold, folds))
        phase = "refit" if self.recipe.protocol.refit else "select"
        return self.folder / f"fold-{fold or folds[0]}" / phase


def read_run(folder: Path) -> Run:
    """Read a run folder; raises `ModelError` where it is not one, or not finished."""
    for name in ("recipe.toml", "protocol.json"):
        if not (folder / name).is_file():
            raise ModelError(f"'{folder}' is not a run folder: it has no {name}")
    path = folder / "scores.json"
    if not path.is_file():
        raise ModelError(
            f"'{folder}' has no scores.json: the run is not finished; run the same command again"
        )
    scores = dict(json.loads(path.read_text(encoding="utf-8")))
    return Run(folder, load_recipe(folder / "recipe.toml"), read_protocol(folder / "protocol.json"), scores)
