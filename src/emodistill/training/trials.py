"""The trials of a search as rows, as a table, as CSV and as a plot."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.config import Recipe
from emodistill.files import atomic_write
from emodistill.training.grid import value_name

# pruned: stopped after some folds. invalid: its values contradict each other. repeated: an earlier trial has
# the same values.
State = Literal["complete", "pruned", "invalid", "repeated"]


@dataclass(frozen=True)
class TrialRow:
    """One finished trial. The names of the fields, but `values`, are columns of `trials.csv`."""

    number: int
    state: State
    dev_score: float | None  # mean over folds, as a share; of a pruned trial over the folds that were run
    folds: int  # that were run
    seconds: float
    values: Mapping[str, Any]  # field -> value


@dataclass(frozen=True)
class TuneResult:
    """The trials of a search, and the recipe of the best one."""

    recipe: Recipe
    rows: tuple[TrialRow, ...]
    best: int  # number of the best trial


def describe_values(values: Mapping[str, Any]) -> str:
    """The values of fields as text for a message."""
    return ", ".join(f"{name} = {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value_name(value)


def format_score(score: float | None, measure: str, unit: str = " %") -> str:
    """A dev score as text: CCC as a number, a share as a percentage with `unit`, – for None."""
    if score is None:
        return "–"
    return f"{score:.3f}" if measure == "ccc" else f"{100 * score:.2f}{unit}"


def write_trials(result: TuneResult, path: Path) -> None:
    """Write a row for each trial: number, state, dev_score, folds, seconds, and the value of each field."""
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        fields = list(result.rows[0].values)
        writer.writerow(["number", "state", "dev_score", "folds", "seconds", *fields])
        for row in result.rows:
            score = "" if row.dev_score is None else row.dev_score
            values = [value if isinstance(value, int | float | str) else json.dumps(value)
                      for value in row.values.values()]  # fmt: skip
            writer.writerow([row.number, row.state, score, row.folds, f"{row.seconds:.1f}", *values])


def show_trials(result: TuneResult, to: Console, most: int = 10) -> None:
    """Print the best trials, at most `most`, and how the recipe was chosen."""
    assert result.recipe.tuned is not None
    measure = result.recipe.tuned.measure
    table = Table(title="trials, by mean dev CCC" if measure == "ccc" else "trials, by mean dev score in %")
    for column in ("trial", "dev", "state"):
        table.add_column(column, justify="left" if column == "state" else "right")
    for name in result.rows[0].values:
        table.add_column(name, justify="right")
    ranked = sorted(
        (row for row in result.rows if row.state != "repeated"),
        key=lambda row: (row.number != result.best, row.state != "complete", -(row.dev_score or 0.0)),
    )
    for row in ranked[:most]:
        values = (_short(value) for value in row.values.values())
        score = format_score(row.dev_score, measure, unit="")
        table.add_row(str(row.number), score, row.state, *map(escape, values))
    table.caption = f"{result.recipe.tuned.note} No trial predicted test."
    to.print(table)


def plot_trials(result: TuneResult, measure: str, path: Path) -> None:
    """Plot the dev score of each trial in order, and over the values of each field."""
    from matplotlib.figure import Figure

    scored = [row for row in result.rows if row.dev_score is not None and row.state != "repeated"]
    fields = list(result.rows[0].values)
    columns = min(3, 1 + len(fields))
    figure_rows = -(-(1 + len(fields)) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * figure_rows), layout="constrained")
    panels = figure.subplots(figure_rows, columns, sharey=True, squeeze=False).ravel()
    complete = [row for row in scored if row.state == "complete"]
    best_so_far = [max(row.dev_score or 0.0 for row in complete[: n + 1]) for n in range(len(complete))]
    panels[0].step(
        [row.number for row in complete], [_scale(result) * score for score in best_so_far], where="post",
        color="#d62728", linewidth=1,
    )  # fmt: skip
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_xlabel("trial; line: best so far")
    panels[0].set_ylabel(
        {"ua": "mean dev UA, %", "weighted_f1": "mean dev weighted F1, %", "ccc": "mean dev CCC"}[measure]
    )
    _plot_points(panels[0], scored, [float(row.number) for row in scored], result)
    for axes, name in zip(panels[1:], fields, strict=False):
        _plot_field(axes, scored, name, result)
    for axes in panels[1 + len(fields) :]:
        axes.set_visible(False)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)


def _plot_field(axes: Any, scored: Sequence[TrialRow], name: str, result: TuneResult) -> None:
    assert result.recipe.tuned is not None
    values = result.recipe.tuned.space[name]
    if isinstance(values, Mapping):
        places = [float(row.values[name]) for row in scored]
        axes.set_xscale("log" if values.get("log") else "linear")
        if not values.get("log") and all(isinstance(row.values[name], int) for row in scored):
            axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        names = [_short(value) for value in values]
        places = [float(names.index(_short(row.values[name]))) for row in scored]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel(name)
    _plot_points(axes, scored, places, result)


def _scale(result: TuneResult) -> float:
    """The factor of scores in a plot: CCC is shown as it is, and a share in %."""
    assert result.recipe.tuned is not None
    return 1 if result.recipe.tuned.measure == "ccc" else 100


def _plot_points(axes: Any, scored: Sequence[TrialRow], places: Sequence[float], result: TuneResult) -> None:
    """Draw a point for each trial: a cross where it was pruned, a diamond for the best one."""
    best = result.best
    for row, place in zip(scored, places, strict=True):
        marker = "x" if row.state == "pruned" else "D" if row.number == best else "o"
        colour = "#d62728" if row.number == best else "#7f7f7f" if row.state == "pruned" else "#1f77b4"
        axes.plot(place, _scale(result) * (row.dev_score or 0.0), marker, color=colour, alpha=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee")
