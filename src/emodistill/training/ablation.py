"""The grid of the method's parts, run and resumed, its shared work done once, and one table in the end.

grid folder/
  cells/<cell>/seed-<k>/   a run folder each, as `crossval` makes it, with the same predictions
  artifacts/                 teachers, their targets and predictions, by what decides them
  ablation.md  ablation.csv  ablation.png
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from emodistill.config import Recipe
from emodistill.console import console, say, warn
from emodistill.errors import ConfigError
from emodistill.evaluation.ablation_table import AblationTable, System, make_ablation_table, teacher_systems
from emodistill.evaluation.run import read_run
from emodistill.training.artifact_cache import ArtifactCache, key_of, to_dict
from emodistill.training.cross_validation import (
    Data,
    collect,
    holds,
    open_data,
    open_run,
    with_absolute_paths,
)
from emodistill.training.grid import FULL, PLAIN, Cell, Grid, make_grid


def ablate(
    recipe: Recipe,
    out: Path,
    seeds: Sequence[int] | None = None,
    sweeps: Sequence[str] = (),
    parts: bool = True,
    only: Sequence[str] | None = None,
) -> AblationTable:
    """Run every cell of a recipe's grid with every seed, and compare each with the full method.

    See `make_grid` for the cells. Resumes where a killed grid stopped; cells, seeds and sweeps can be added later. The
    table is over all seeds that these cells have been run with, now or before.
    Writes `ablation.md`, `ablation.csv` and `ablation.png`. Raises `ConfigError` where `out` holds another grid or
    a sweep changes the folds, and whatever `crossval` raises.
    """
    seeds = tuple(dict.fromkeys(seeds if seeds is not None else (recipe.seed,)))
    work = Work(out)
    grid = make_grid(recipe, sweeps, parts, words=work.has_words(recipe), only=only)
    for name, why in grid.left_out.items():
        warn(f"left out: {name}: {why}")
    work.run(grid, seeds)
    seeds = (*seeds, *work.other_seeds(grid, seeds))
    if others := work.other_cells(grid):
        say(
            f"not in this table, though '{out}' has them: {', '.join(others)}; ask for them as before to have all in one"
        )
    ablation = make_ablation_table(
        contenders(grid, out, seeds), reference=FULL, plain=PLAIN, left_out=grid.left_out
    )
    ablation.write(out)
    return ablation


@dataclass
class Work:
    """The runs of a grid, one after the other in one process."""

    out: Path
    opened: dict[str, Data] = field(default_factory=dict)  # corpora with their folds, read and audited once

    def data(self, recipe: Recipe) -> Data:
        """The corpus and folds of a recipe."""
        recipe = with_absolute_paths(recipe)
        folds = {**to_dict(recipe.protocol), "refit": None}  # which is of training
        key = key_of(corpus=to_dict(recipe.corpus), protocol=folds)
        if key not in self.opened:
            self.opened[key] = open_data(recipe)
        return self.opened[key]

    def has_words(self, recipe: Recipe) -> bool:
        """Whether every fold has a transcript to learn from."""
        data = self.data(recipe)
        spoken = {utterance.id for utterance in data.corpus if utterance.transcript}
        return all(spoken.intersection(fold.train) for fold in data.protocol.folds)

    def run(self, grid: Grid, seeds: Sequence[int]) -> None:
        """Run what is missing, seed by seed, so that a grid that is stopped early has whole comparisons."""
        folds = self._check_folds(grid)
        jobs = [(seed, cell, fold) for seed in seeds for cell in grid.distinct for fold in folds]
        left = Left(len(jobs), sum(self._done(*job) for job in jobs))
        left.show(f"{len(grid.distinct)} cells × {len(seeds)} seeds × {len(folds)} folds")
        artifacts = ArtifactCache(self.out / "artifacts")
        for seed in seeds:
            for cell in grid.distinct:
                recipe, folder = with_absolute_paths(cell.seeded(seed)), cell.run(self.out, seed)
                todo = [fold for fold in folds if not self._done(seed, cell, fold)]
                # Opened also where nothing is missing: a folder of another recipe is refused.
                for fold_run in open_run(recipe, folder, todo, self.data(recipe), artifacts):
                    say(f"{cell.name}, seed {seed}, fold {fold_run.fold.name}")
                    fold_run.run()
                    left.one_more(f"{cell.name}, seed {seed}, fold {fold_run.fold.name} done")
                if todo or not (folder / "scores.json").is_file():
                    collect(recipe, folder)

    def _done(self, seed: int, cell: Cell, fold: str) -> bool:
        return (cell.run(self.out, seed) / f"fold-{fold}" / "predictions.csv").is_file()

    def other_seeds(self, grid: Grid, seeds: Sequence[int]) -> list[int]:
        """Seeds besides these with which every cell was run before, to the end and by the same recipe."""
        folds = self._check_folds(grid)
        first = grid.distinct[0].run(self.out, 0).parent
        numbers = [int(name) for path in first.glob("seed-*") if (name := path.name[5:]).isdecimal()]
        return [
            seed
            for seed in sorted(set(numbers) - set(seeds))
            if all(self._done(seed, cell, fold) for cell in grid.distinct for fold in folds)
            and all(
                holds(cell.run(self.out, seed), with_absolute_paths(cell.seeded(seed)))
                for cell in grid.distinct
            )
        ]

    def other_cells(self, grid: Grid) -> list[str]:
        """The folders of cells that were run before and are not of this grid."""
        there = {path.name for path in (self.out / "cells").iterdir() if path.is_dir()}
        return sorted(there - {cell.folder for cell in grid.cells})

    def _check_folds(self, grid: Grid) -> list[str]:
        """The names of the folds, which must be the same ones in all cells."""
        full = self.data(grid.cells[0].recipe).protocol
        for cell in grid.cells:
            if self.data(cell.recipe).protocol.hash != full.hash:
                raise ConfigError(
                    f"'{cell.name}' changes the data or the folds, so it cannot be compared with the full method: "
                    "run it by itself with crossval"
                )
        return [fold.name for fold in full.folds]


@dataclass
class Left:
    """What is left of a grid, told after every fold."""

    total: int
    done: int
    started: float = field(default_factory=time.monotonic)
    made: int = 0

    def one_more(self, what: str) -> None:
        """A fold is done."""
        self.done, self.made = self.done + 1, self.made + 1
        self.show(what)

    def show(self, what: str) -> None:
        """Print a bar on standard error. It does not move: training shows bars of its own."""
        remaining = ""
        if self.made and self.done < self.total:
            seconds = (time.monotonic() - self.started) / self.made * (self.total - self.done)
            remaining = (
                f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
            )
        say(f"ablate: {what}")
        bar = Progress(BarColumn(30), MofNCompleteColumn(), TextColumn("folds"), TextColumn(remaining))
        bar.add_task("ablate", total=self.total, completed=self.done)
        console.print(bar.get_renderable())


def contenders(grid: Grid, out: Path, seeds: Sequence[int]) -> list[System]:
    """The predictions of every cell over its seeds, then of the full method's teachers and their ensemble."""
    found = [
        System(cell.name, cell.group, cell.folder, [read_run(cell.run(out, seed)).table() for seed in seeds])
        for cell in grid.cells
    ]
    full = grid.cells[0]
    return found + teacher_systems([read_run(full.run(out, seed)) for seed in seeds])
