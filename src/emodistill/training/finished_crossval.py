"""The finished crossval that a training on all data takes its epochs and scores from."""

from pathlib import Path
from typing import Any

from emodistill.config import Recipe
from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.run import Run, read_run
from emodistill.training.preflight import AuditedData, first_difference


def finished_crossval(recipe: Recipe, folder: Path, data: AuditedData) -> Run:
    """Return the finished crossval of this recipe and data in a folder.

    Raises `ConfigError` for a run of another recipe or of other data, and `ModelError` where folds are
    missing.
    """
    run = read_run(folder)
    recorded, requested = (_comparable(item) for item in (run.recipe, recipe))
    if recorded != requested:
        raise ConfigError(
            f"'{folder}' is a run of another recipe: {first_difference(recorded, requested)}. Give the "
            "crossval run of this recipe with --epochs-from"
        )
    if run.protocol.hash != data.protocol.hash:
        raise ConfigError(f"'{folder}' is a run on other data or folds: its protocol hash differs")
    if run.missing_folds:
        raise ModelError(
            f"'{folder}' is not finished: it lacks the folds {', '.join(run.missing_folds)}; run crossval "
            "again"
        )
    return run


def _comparable(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that decide a result. The acoustic teacher's run is left out: it is another one."""
    settings = recipe.deciding_settings()
    return {**settings, "acoustic": {**settings["acoustic"], "run": None}}
