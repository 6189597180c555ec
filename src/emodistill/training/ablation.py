"""An ablation: a recipe and variants of it that lack a part of the method, and one table that compares them.

grid folder/
  cells/<cell>/seed-<k>/   run folders, with the same predictions as `crossval` of the cell's recipe.
  artifacts/               teachers, targets and predictions that the runs share.
  ablation.md .csv .json .tex .png
  sweeps.csv  sweeps.png   dev scores of swept values
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from emodistill.config import Recipe
from emodistill.console import console, say, warn
from emodistill.errors import ConfigError
from emodistill.evaluation.ablation_systems import System, system_tables, teacher_systems
from emodistill.evaluation.ablation_table import AblationTable, make_ablation_table
from emodistill.evaluation.cost import read_cost
from emodistill.evaluation.dev_scores import dev_score
from emodistill.evaluation.latex import ablation_latex
from emodistill.evaluation.run import read_run
from emodistill.evaluation.sweeps import Sweeps, choose_on_dev
from emodistill.files import atomic_write
from emodistill.protocol.folds import Protocol
from emodistill.training.artifact_cache import ArtifactCache, cache_key, to_dict
from emodistill.training.cross_validation import collect_scores, is_finished_run, prepare_run
from emodistill.training.grid import FULL, PARTS, PLAIN, Cell, Grid, make_grid
from emodistill.training.preflight import (
    NO_TRANSCRIPTS,
    AuditedData,
    check_recipe,
    missing_teachers,
    read_data,
    with_absolute_paths,
    with_used_teachers,
)


# Long: the parameters are the options of the command.
def ablate(
    recipe: Recipe,
    out: Path,
    seeds: Sequence[int] | None = None,
    sweeps: Sequence[str] = (),
    parts: bool = True,
    only: Sequence[str] | None = None,
    show_test: bool = False,
    over_folds: bool = False,
    data: AuditedData | None = None,
) -> AblationTable:
    """Run every cell of a recipe's grid with every seed, and compare each cell with the full method.

    `make_grid` explains the cells, `sweeps`, `parts` and `only`. A grid that was stopped continues where it
    was. Cells, seeds and sweeps can be added later: the table covers all seeds with which all of these cells
    were run. With `over_folds` the table also has means over folds. Dev chooses a value of each sweep, and
    test is shown for this value alone, unless `show_test`.
    Writes `ablation.md`, `.csv`, `.json`, `.tex` and `.png`, and for sweeps `sweeps.csv` and `sweeps.png`.
    A cell that needs transcripts is left out where the corpus has none, if the recipe allows that. `data` is
    the recipe's corpus and folds, where `check_recipe` has read them before. Raises `ConfigError` where `out`
    holds another grid or a sweep changes the folds, and whatever `crossval` raises.
    """
    seeds = tuple(dict.fromkeys(seeds if seeds is not None else (recipe.seed,)))
    runs = GridRuns(out)
    data = runs.data_by_key.setdefault(data_key(recipe), data or check_recipe(recipe).data)
    # Without a teacher that it allows to be missing, the method has another name.
    recipe = recipe.model_copy(update={"name": with_used_teachers(recipe, data).name})
    has_transcripts = "linguistic" not in missing_teachers(recipe, data)
    grid = make_grid(recipe, sweeps, parts, has_transcripts, only)
    for name, reason in grid.left_out.items():
        warn(f"left out: {name}: {reason}")
    runs.run(grid, seeds)
    if more := runs.other_seeds(grid, seeds):
        say(f"'{out}' also holds seeds {', '.join(map(str, more))}, and this table has them too")
    seeds = (*seeds, *more)
    if others := runs.other_cells(grid):
        say(
            f"'{out}' also holds cells that this table leaves out: {', '.join(others)}; to have all cells in "
            "one table, give the options of those runs too"
        )
    swept = read_sweeps(grid, out, seeds, runs.data(recipe).protocol, show_test)
    shown = None if swept is None or show_test else swept.chosen_cells
    systems = read_systems(grid, out, seeds, shown)
    left_out = {**grid.left_out, **dict.fromkeys(others, "it was run before, and not asked for now")}
    table = make_ablation_table(systems, reference=FULL, plain=PLAIN, left_out=left_out)
    table = replace(table, sweeps=swept, over_folds=over_folds)
    table = table.with_costs(
        {cell.name: [read_cost(cell.run_folder(out, seed)) for seed in seeds] for cell in grid.cells}
    )
    table.write(out)
    full = [read_run(grid.cells[0].run_folder(out, seed)) for seed in seeds]
    with atomic_write(out / "ablation.tex") as partial:
        partial.write_text(ablation_latex(table, full), encoding="utf-8")
    return table


def data_key(recipe: Recipe) -> str:
    """A key of the corpus and the folds of a recipe."""
    recipe = with_absolute_paths(recipe)
    folds = {**to_dict(recipe.protocol), "refit": None}  # `refit` changes the training, not the folds
    used = [sorted(recipe.targets), recipe.learns_from_votes]  # they decide which utterances are used
    return cache_key(corpus=to_dict(recipe.corpus), protocol=folds, used=used)


@dataclass
class GridRuns:
    """The runs of a grid, one after the other in one process."""

    out: Path
    data_by_key: dict[str, AuditedData] = field(default_factory=dict)  # each corpus is read and checked once

    def data(self, recipe: Recipe) -> AuditedData:
        """The corpus and folds of a recipe."""
        key = data_key(recipe)
        if key not in self.data_by_key:
            self.data_by_key[key] = read_data(with_absolute_paths(recipe))
        return self.data_by_key[key]

    def check(self, grid: Grid, seeds: Sequence[int], folds: Sequence[str]) -> None:
        """Check every cell before the first one is trained. Raises what `check_recipe` raises."""
        for cell in grid.distinct_cells:
            missing = [fold for fold in folds if not all(self._is_done(seed, cell, fold) for seed in seeds)]
            data = self.data(cell.recipe)
            if missing_teachers(cell.recipe, data):
                raise ConfigError(
                    f"'{cell.name}' has a linguistic teacher, but {NO_TRANSCRIPTS}: leave it out"
                )
            check_recipe(cell.recipe, missing, data=data)

    def run(self, grid: Grid, seeds: Sequence[int]) -> None:
        """Run all that is missing. Seeds come one by one, so a stopped grid has complete comparisons."""
        folds = self._check_folds(grid)
        self.check(grid, seeds, folds)
        jobs = [(seed, cell, fold) for seed in seeds for cell in grid.distinct_cells for fold in folds]
        progress = GridProgress(len(jobs), sum(self._is_done(*job) for job in jobs))
        progress.show(f"{len(grid.distinct_cells)} cells × {len(seeds)} seeds × {len(folds)} folds")
        artifacts = ArtifactCache(self.out / "artifacts")
        for seed in seeds:
            for cell in grid.distinct_cells:
                recipe, folder = with_absolute_paths(cell.with_seed(seed)), cell.run_folder(self.out, seed)
                missing = [fold for fold in folds if not self._is_done(seed, cell, fold)]
                # Prepared even where no fold is missing, since it refuses a folder of another recipe.
                for fold_run in prepare_run(recipe, folder, missing, self.data(recipe), artifacts):
                    job = f"{cell.name}, seed {seed}, fold {fold_run.fold.name}"
                    say(job)
                    fold_run.run()
                    progress.count(f"{job} done")
                if missing or not (folder / "scores.json").is_file():
                    collect_scores(recipe, folder)

    def _is_done(self, seed: int, cell: Cell, fold: str) -> bool:
        return (cell.run_folder(self.out, seed) / f"fold-{fold}" / cell.recipe.last_table).is_file()

    def other_seeds(self, grid: Grid, seeds: Sequence[int]) -> list[int]:
        """Further seeds with which every cell has a finished run of the same recipe."""
        folds = self._check_folds(grid)
        cell_folder = grid.distinct_cells[0].run_folder(self.out, 0).parent
        names = [path.name.removeprefix("seed-") for path in cell_folder.glob("seed-*")]
        numbers = {int(name) for name in names if name.isdecimal()}
        return [
            seed
            for seed in sorted(numbers - set(seeds))
            if all(self._is_done(seed, cell, fold) for cell in grid.distinct_cells for fold in folds)
            and all(
                is_finished_run(cell.run_folder(self.out, seed), with_absolute_paths(cell.with_seed(seed)))
                for cell in grid.distinct_cells
            )
        ]

    def other_cells(self, grid: Grid) -> list[str]:
        """The folders of cells that were run before and are not in this grid."""
        folders = {path.name for path in (self.out / "cells").iterdir() if path.is_dir()}
        return sorted(folders - {cell.folder for cell in grid.cells})

    def _check_folds(self, grid: Grid) -> list[str]:
        """The names of the folds; raises `ConfigError` where a cell has other folds than the full method."""
        full = self.data(grid.cells[0].recipe).protocol
        for cell in grid.cells:
            if self.data(cell.recipe).protocol.hash != full.hash:
                raise ConfigError(
                    f"'{cell.name}' changes the data or the folds, so it cannot be compared with the full "
                    "method: run it by itself with crossval"
                )
        return [fold.name for fold in full.folds]


@dataclass
class GridProgress:
    """How many folds of a grid are done, and about how long the others will take."""

    total: int
    done: int
    started: float = field(default_factory=time.monotonic)
    done_now: int = 0  # since `started`
    verb: str = "ablate"

    def count(self, message: str, folds: int = 1) -> None:
        """Count further folds, and show the progress."""
        self.done, self.done_now = self.done + folds, self.done_now + folds
        self.show(message)

    def show(self, message: str) -> None:
        """Print a bar on standard error. It does not move, because training shows moving bars of its own."""
        remaining = ""
        if self.done_now and self.done < self.total:
            seconds = (time.monotonic() - self.started) / self.done_now * (self.total - self.done)
            remaining = (
                f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
            )
        say(f"{self.verb}: {message}")
        bar = Progress(BarColumn(30), MofNCompleteColumn(), TextColumn("folds"), TextColumn(remaining))
        bar.add_task(self.verb, total=self.total, completed=self.done)
        console.print(bar.get_renderable())


def read_sweeps(
    grid: Grid, out: Path, seeds: Sequence[int], protocol: Protocol, show_test: bool = False
) -> Sweeps | None:
    """The dev scores of the swept values of a grid, and the value that dev chooses; None without a sweep."""
    full = grid.cells[0]
    measure = "ua" if full.recipe.has_emotions else "ccc"

    def scores(cell: Cell) -> list[float]:
        folders = [cell.run_folder(out, seed) for seed in seeds]
        return [
            dev_score(folder / f"fold-{fold.name}", measure) for folder in folders for fold in protocol.folds
        ]

    swept: dict[str, dict[str, list[float]]] = {}
    for cell in grid.cells:
        if cell.group != PARTS:
            swept.setdefault(cell.group, {})[cell.name] = scores(cell)
    if not swept:
        return None
    return choose_on_dev(
        (full.name, scores(full)),
        swept,
        own_values=[cell.name for cell in grid.cells if cell.folder == full.folder],
        dev_is_test_elsewhere=protocol.dev_is_test_elsewhere,
        has_voices=full.recipe.voice is not None and full.recipe.has_emotions,
        shows_test=show_test,
        measure=measure,
    )


def read_systems(
    grid: Grid, out: Path, seeds: Sequence[int], shown: Sequence[str] | None = None
) -> list[System]:
    """The predictions of every cell over its seeds, then of the full method's teachers and their ensemble.

    With `shown`, only those swept cells are read that it names, or that have the recipe's own value.
    """
    full = grid.cells[0]
    cells = []
    for cell in grid.cells:
        if shown is None or cell.group == PARTS or cell.folder == full.folder or cell.name in shown:
            runs = [read_run(cell.run_folder(out, seed)) for seed in seeds]
            cells.append(System(cell.name, cell.group, cell.folder, *system_tables(runs)))
    return cells + teacher_systems([read_run(full.run_folder(out, seed)) for seed in seeds])
