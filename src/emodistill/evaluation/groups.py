"""Groups runs that differ in their seed alone, so that seeds count as repetitions of one system."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from emodistill.evaluation.run import Run

_SEED_IN_PATH = re.compile(r"[-_ ./]*seed[-_ =]?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class RunGroup:
    """Runs of one recipe on the same folds with different seeds, or a single run."""

    name: str  # the folder of a single run; of several, their folders without the seed, or the recipe's name
    runs: tuple[Run, ...]  # by seed

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seed of each run; None for an evaluation of an existing model."""
        return tuple(run_seed(run) for run in self.runs)

    @property
    def title(self) -> str:
        """The name, with the seeds if there are several."""
        if len(self.runs) == 1:
            return self.name
        return f"{self.name}, seeds {' '.join(map(str, self.seeds))}"


def run_seed(run: Run) -> int | None:
    """The seed of a run; None for an evaluation of an existing model."""
    return None if run.training_recipe is None else run.training_recipe.seed


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Put runs whose recipes differ in the seed alone into one group, in the order of their first runs.

    The protocols must be the same, and the settings of the machine do not count, except for the precision. A
    group holds each seed once: a repeated seed starts another group. An evaluation of an existing model is a
    group of its own.
    """
    groups: list[tuple[str | None, list[Run]]] = []
    for run in runs:
        key = _settings(run)
        for known, members in groups:
            if key is not None and key == known and run_seed(run) not in map(run_seed, members):
                members.append(run)
                break
        else:
            groups.append((key, [run]))
    by_seed = [sorted(members, key=lambda run: run_seed(run) or 0) for _, members in groups]
    names = [_name(members) for members in by_seed]
    return [
        RunGroup(
            name if len(members) == 1 or names.count(name) == 1 else f"{name} ({members[0].folder})",
            tuple(members),
        )
        for name, members in zip(names, by_seed, strict=True)
    ]


def ungrouped(runs: Sequence[Run]) -> list[RunGroup]:
    """Each run as a group of its own."""
    return [RunGroup(str(run.folder), (run,)) for run in runs]


def _settings(run: Run) -> str | None:
    """All that decides a run's result but the seed; None for an evaluation of an existing model."""
    recipe = run.training_recipe
    if recipe is None:
        return None
    settings = {**recipe.deciding_settings(), "seed": None}
    return json.dumps([run.protocol.hash, settings], sort_keys=True)


def _name(runs: Sequence[Run]) -> str:
    """The folder of one run; of several, their folder without the seed if it is the same, else the recipe."""
    if len(runs) == 1:
        return str(runs[0].folder)
    stems = {_SEED_IN_PATH.sub("", str(run.folder)) for run in runs}
    stem = stems.pop() if len(stems) == 1 else ""
    return stem or runs[0].recipe.name
