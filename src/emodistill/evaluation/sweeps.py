"""Sweeps of an ablation: the dev UA or CCC of each value of a field, and the value that dev chooses.

The table of test scores then shows the chosen value alone. A value that is chosen by its test score has an
optimistic test score.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.errors import MissingExtraError
from emodistill.evaluation.compare import is_share, measure_title
from emodistill.evaluation.tables import format_measure
from emodistill.files import atomic_write

CHOOSING_ON_TEST = (
    "Test is shown for every value of the sweeps. A value that you choose by these figures is chosen on "
    "test, and its test score is then too high: choose by {}."
)


@dataclass(frozen=True)
class SweptValue:
    """The dev scores of one value of a swept field. The field names are the columns of `sweeps.csv`.

    Of UA and CCC, those that the sweeps do not choose by are None, and no columns.
    """

    field: str
    cell: str
    values: int  # number of seeds × folds
    dev_ua: float | None  # mean over seeds and folds, as a share
    dev_ua_sd: float | None  # standard deviation over seeds and folds
    chosen: bool  # whether it has the best dev score of its sweep
    own: bool  # whether it is the recipe's own value
    dev_ccc: float | None = None  # of a recipe without emotions, the mean CCC over dimensions
    dev_ccc_sd: float | None = None

    def score(self, measure: str) -> tuple[float, float]:
        """Mean and standard deviation of the measure that the sweeps choose by."""
        mean, sd = (self.dev_ua, self.dev_ua_sd) if measure == "ua" else (self.dev_ccc, self.dev_ccc_sd)
        assert mean is not None
        assert sd is not None
        return mean, sd


@dataclass(frozen=True)
class Sweeps:
    """The swept values of an ablation, sweep by sweep."""

    rows: tuple[SweptValue, ...]
    dev_is_test_elsewhere: bool = False  # whether dev speakers of one fold are test speakers of another
    has_voices: bool = False
    shows_test: bool = False  # whether the ablation's table has the test scores of all values
    measure: str = "ua"  # ua, or ccc where the recipe has no emotions

    @property
    def chosen_cells(self) -> tuple[str, ...]:
        """The cell that dev chose in each sweep."""
        return tuple(row.cell for row in self.rows if row.chosen)

    def by_field(self) -> dict[str, list[SweptValue]]:
        """The values of each swept field, in the order of the sweeps."""
        found: dict[str, list[SweptValue]] = {}
        for row in self.rows:
            found.setdefault(row.field, []).append(row)
        return found

    @property
    def title(self) -> str:
        """The name of the score."""
        return f"dev {measure_title(self.measure)}"

    @property
    def header(self) -> tuple[str, str, str]:
        """The titles of the columns."""
        return "cell", self.title, ""

    def cells(self, row: SweptValue) -> list[str]:
        """The cells of a row as text, in the order of `header`."""
        words = ["the recipe's own"] * row.own + ["chosen on dev"] * row.chosen
        return [row.cell, format_measure(self.measure, *row.score(self.measure)), ", ".join(words)]

    def notes(self) -> list[str]:
        """How to read the table."""
        unit = " in %" if is_share(self.measure) else ""
        notes = [
            f"{self.title}{unit}: mean ± standard deviation over seeds and folds. Each sweep chooses the "
            "value with the best mean; of equal ones the recipe's own value, then the first."
        ]
        if self.has_voices:
            notes.append(
                "It is the mean of two scores: without a voice, and with known utterances of the speaker."
            )
        notes += [
            f"{field}: chosen on dev among {len(rows)} values: "
            f"{next(row.cell for row in rows if row.chosen)}."
            for field, rows in self.by_field().items()
        ]
        if self.dev_is_test_elsewhere:
            notes.append(
                "The dev speakers of a fold are test speakers of another fold. So the test score of a chosen "
                "value is slightly optimistic."
            )
        notes.append(
            CHOOSING_ON_TEST.format(self.title)
            if self.shows_test
            else "Test is shown for the chosen value and for the recipe's own value alone. --show-test shows "
            "all."
        )
        return notes

    def markdown(self) -> str:
        """The table and its notes as Markdown."""
        head = [[*self.header], ["---", "---:", "---"]]
        lines = ["| " + " | ".join(cells) + " |" for cells in [*head, *map(self.cells, self.rows)]]
        return "\n".join([*lines, "", *(f"{note}\n" for note in self.notes())])

    def write(self, folder: Path) -> None:
        """Write `sweeps.csv` and `sweeps.png` into a folder."""
        with (
            atomic_write(folder / "sweeps.csv") as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            other = "dev_ccc" if self.measure == "ua" else "dev_ua"
            columns = [field.name for field in fields(SweptValue) if not field.name.startswith(other)]
            writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)
        plot_sweeps(self, folder / "sweeps.png")

    def show(self, to: Console) -> None:
        """Print the table and its notes."""
        table = Table(title="sweeps, on dev" + (", in %" if is_share(self.measure) else ""))
        for column in self.header:
            table.add_column(column, justify="right" if column == self.title else "left")
        for rows in self.by_field().values():
            for row in rows:
                table.add_row(*map(escape, self.cells(row)), end_section=row is rows[-1])
        table.caption = "\n".join(self.notes())
        to.print(table)


def choose_on_dev(
    own: tuple[str, Sequence[float]],
    sweeps: Mapping[str, Mapping[str, Sequence[float]]],
    own_values: Sequence[str] = (),
    dev_is_test_elsewhere: bool = False,
    has_voices: bool = False,
    shows_test: bool = False,
    measure: str = "ua",
) -> Sweeps:
    """Choose a value of each sweep by its mean dev score; of equal ones the recipe's own, then the first.

    Args:
        own: the name of the recipe's own cell, and its dev score for each seed and fold.
        sweeps: swept field -> cell -> dev score for each seed and fold: UA as a share, or CCC.
        own_values: the cells of the sweeps that have the recipe's own value. A sweep without one gets the
            recipe's own cell as a further value.
        measure: what the scores are, ua or ccc.
    """
    rows: list[SweptValue] = []
    for field, cells in sweeps.items():
        candidates = dict(cells)
        own_cell = next((cell for cell in cells if cell in own_values), None)
        if own_cell is None:
            own_cell = own[0]
            candidates = {own_cell: own[1], **candidates}
        best = max(np.mean(values) for values in candidates.values())
        equal = [cell for cell, values in candidates.items() if np.mean(values) == best]
        chosen = own_cell if own_cell in equal else equal[0]
        for cell, values in candidates.items():
            mean, sd = float(np.mean(values)), float(np.std(values, ddof=len(values) > 1))
            row = SweptValue(field, cell, len(values), mean, sd, cell == chosen, cell == own_cell)
            if measure != "ua":
                row = replace(row, dev_ua=None, dev_ua_sd=None, dev_ccc=mean, dev_ccc_sd=sd)
            rows.append(row)
    return Sweeps(tuple(rows), dev_is_test_elsewhere, has_voices, shows_test, measure)


def plot_sweeps(sweeps: Sweeps, path: Path) -> None:
    """Plot the dev score over the values of each sweep. Raises `MissingExtraError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    by_field = sweeps.by_field()
    scale, unit = (100, ", %") if is_share(sweeps.measure) else (1, "")
    sizes = [len(rows) for rows in by_field.values()]
    figure = Figure(figsize=(8, 0.9 * len(sizes) + 0.36 * sum(sizes) + 0.6), layout="constrained")
    panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, height_ratios=[n + 1 for n in sizes])
    for axes, (field, rows) in zip(panels[:, 0], by_field.items(), strict=True):
        for place, row in enumerate(rows):
            colour = "#d62728" if row.chosen else "#1f77b4"
            mean, sd = row.score(sweeps.measure)
            axes.errorbar(
                scale * mean, place, xerr=scale * sd, capsize=3, color=colour,
                fmt="D" if row.chosen else "o",
            )  # fmt: skip
        names = [row.cell.removeprefix(f"{field}=") + (" (own)" if row.own else "") for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.margins(y=0.15)
        axes.set_title(field, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#eeeeee")
    panels[-1, 0].set_xlabel(f"{sweeps.title}{unit}: mean ± sd over seeds and folds; diamond: chosen on dev")
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)
