"""The table of an ablation: each cell's scores, and its difference to the full method with a p-value."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.errors import ModelError
from emodistill.evaluation.ablation_dimensions import (
    CCC_HEADER,
    CCC_NOTE,
    DIMENSIONS_HEADER,
    DIMENSIONS_NOTE,
    AblationDimensions,
    dimension_figures,
    dimension_rows,
    drawn_ccc,
    format_ccc,
)
from emodistill.evaluation.ablation_rows import UA, AblationRow, compared_row, drawn_ua, scored_row, with_holm
from emodistill.evaluation.ablation_systems import ENSEMBLE, ORACLES, TEACHERS, System
from emodistill.evaluation.bootstrap import make_estimate, percentile_interval
from emodistill.evaluation.compare import MEAN_CCC, RESAMPLES, is_share, measure_title
from emodistill.evaluation.cost import (
    COST_TITLES,
    CostRow,
    RunCost,
    cost_markdown,
    cost_notes,
    grid_cost_rows,
    show_costs,
)
from emodistill.evaluation.differences import DrawnMeasure, paired_difference
from emodistill.evaluation.forest import SIGNIFICANT, ForestPanel, ForestRow, forest_panel, plot_forest
from emodistill.evaluation.sweeps import Sweeps
from emodistill.evaluation.tables import (
    format_interval,
    format_mean,
    format_measure,
    format_p_value,
    format_percent,
    format_value,
)
from emodistill.files import atomic_write


@dataclass(frozen=True)
class ClosedGap:
    """The share of the gap between plain student and teachers' ensemble that distillation closes."""

    value: float  # 0: nothing, 1: the whole gap
    low: float  # 95 % interval
    high: float


@dataclass(frozen=True)
class AblationTable:
    """All rows of an ablation, with what its notes need."""

    rows: tuple[AblationRow, ...]
    reference: str
    num_speakers: int
    num_seeds: int
    left_out: Mapping[str, str]  # cell -> reason
    closed_gap: (
        ClosedGap | None
    )  # None without plain student and ensemble, or if the gap's interval includes 0
    over_folds: bool = False  # whether the table also shows the means over folds
    sweeps: Sweeps | None = None  # the dev scores of swept values; None: no field was swept
    same: tuple[str, ...] = ()  # cells whose recipe is the reference's, so they are the same runs
    costs: tuple[CostRow, ...] = ()  # of the students and the full method's teachers, by cell
    cost_notes: tuple[str, ...] = ()
    measure: str = UA  # the main one: ua, or ccc where no system predicts emotions

    def with_costs(self, cells: Mapping[str, Sequence[RunCost | None]]) -> "AblationTable":
        """The table with the costs of the runs of each cell, one for each seed; None: not known."""
        ua = {row.cell: row.pooled_ua for row in self.rows if row.pooled_ua is not None}
        names = [row.cell for row in self.rows]
        shown = {name: costs for name, costs in cells.items() if name in names}
        first, *others = ([cost for cost in costs if cost is not None] for costs in shown.values())
        students = [cost.of_student() for costs in others for cost in costs]
        notes = cost_notes([*first, *students])
        return replace(self, costs=tuple(grid_cost_rows(shown, ua)), cost_notes=tuple(notes))

    def write(self, folder: Path, name: str = "ablation") -> None:
        """Write the table as Markdown, CSV and JSON, and the plot as PNG, into a folder.

        `read_ablation` reads the JSON file.
        """
        with atomic_write(folder / f"{name}.md") as partial:
            partial.write_text(self.markdown(), encoding="utf-8")
        with (
            atomic_write(folder / f"{name}.csv") as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            own = [field.name for field in fields(AblationRow) if field.name != "dimensions"]
            columns = [*(own if self.measure == UA else COMMON_COLUMNS), *COST_TITLES]
            columns += AblationDimensions.columns() if self.has_ccc else []
            # Each row has further values, which these columns leave out.
            writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            figures = {row.model: row.figures for row in self.costs}
            for row in self.rows:
                values = asdict(row)
                dimensions = values.pop("dimensions") or {}
                writer.writerow({**values, **figures.get(row.cell, {}), **dimensions})
        with atomic_write(folder / f"{name}.json") as partial:
            partial.write_text(
                json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        plot_ablation(self, folder / f"{name}.png")
        if self.sweeps is not None:
            self.sweeps.write(folder)

    @property
    def header(self) -> tuple[str, ...]:
        """The titles of the columns."""
        measures = ("UA", "WA") if self.measure == UA else (self.title,)
        over_folds = tuple(f"{name} over folds" for name in measures) if self.over_folds else ()
        return ("cell", *measures, *HEADER, *over_folds, *(CCC_HEADER if self._shows_ccc_beside else ()))

    @property
    def title(self) -> str:
        """The name of the main measure."""
        return measure_title(self.measure)

    @property
    def unit(self) -> str:
        """The unit of differences in plots."""
        return f"points of {self.title}" if is_share(self.measure) else f"{self.title} × 100"

    @property
    def title_with_unit(self) -> str:
        """The name of the main measure with its unit, for plots."""
        return f"{self.title} (%)" if is_share(self.measure) else self.title

    @property
    def _shows_ccc_beside(self) -> bool:
        return self.has_ccc and self.measure != MEAN_CCC

    @property
    def has_ccc(self) -> bool:
        """Whether some systems have a CCC."""
        return any(row.dimensions is not None for row in self.rows)

    def cells(self, row: AblationRow) -> list[str]:
        """The cells of a row as text, in the order of `header`."""
        own, is_ua = row.figures(self.measure), self.measure == UA
        cells = [
            row.cell,
            format_measure(self.measure, own.value, own.sd),
            *([format_mean(row.pooled_wa, row.pooled_wa_sd)] if is_ua else []),
            format_value(self.measure, own.difference, True),
            format_interval(self.measure, own.low, own.high, own.no_interval),
            format_value(self.measure, own.detectable), format_p_value(own.p_value),
            format_p_value(own.p_holm),
        ]  # fmt: skip
        if self.over_folds:
            cells.append(format_measure(self.measure, own.over_folds, own.sd_folds))
            cells += [format_mean(row.wa, row.wa_sd_folds)] if is_ua else []
        return cells + (format_ccc(row.dimensions) if self._shows_ccc_beside else [])

    def dimension_rows(self) -> list[list[str]]:
        """The scores of each dimension in each cell as text, in the order of `DIMENSIONS_HEADER`."""
        return [
            cells for row in self.rows if row.dimensions for cells in dimension_rows(row.cell, row.dimensions)
        ]

    def markdown(self) -> str:
        """The tables and their notes as Markdown."""
        lines = _markdown(self.header, [self.cells(row) for row in self.rows])
        notes = [f"{note}\n" for note in self.notes()]
        if self.has_ccc:
            notes += [*_markdown(DIMENSIONS_HEADER, self.dimension_rows(), 2), "", f"{DIMENSIONS_NOTE}\n"]
        sweeps = [] if self.sweeps is None else [self.sweeps.markdown()]
        return "\n".join([*lines, "", *notes, cost_markdown(self.costs, self.cost_notes), *sweeps])

    def notes(self) -> list[str]:
        """How to read the table, and which cells it lacks."""
        seeds = (
            f"mean ± standard deviation over {self.num_seeds} seeds"
            if self.num_seeds > 1
            else "one seed, so there is no standard deviation over seeds"
        )
        covers = "speakers and seeds" if self.num_seeds > 1 else "speakers, not for other seeds"
        measures = "UA and WA in %" if self.measure == UA else "CCC is the mean over dimensions"
        notes = [
            f"{measures}, pooled over folds: {seeds}. Difference: {self.title} minus that of "
            f"'{self.reference}'.",
            f"The interval (95 %) and p are by paired bootstrap over {self.num_speakers} speakers, with all "
            f"seeds on the same draws; they are for other {covers}. Detectable: the smallest true difference "
            "that would give p < 0.05 in 80 of 100 experiments like this one. Holm: p corrected over all "
            "cells.",
        ]
        if self._shows_ccc_beside:
            notes.append(CCC_NOTE)
        if any(row.figures(self.measure).value is None for row in self.rows):
            notes.append(f"–: the system does not predict what {self.title} scores, or all labels are equal.")
        if any(row.cell == ENSEMBLE and row.dimensions for row in self.rows):
            notes.append(f"{ENSEMBLE}: its dimensions are the mean of the teachers' predictions.")
        if self.same:
            notes.append(f"The same recipe as '{self.reference}', so no difference: {', '.join(self.same)}.")
        if self.over_folds:
            notes.append(
                "Over folds: the mean over folds, as many papers state it, ± standard deviation over folds, "
                "of the mean over seeds. No interval or p-value belongs to it."
            )
        notes += [f"Left out: {name}: {reason}." for name, reason in self.left_out.items()]
        if self.closed_gap is not None:
            gap = self.closed_gap
            notes.append(
                f"Distillation closes {format_percent(gap.value)} % ({format_percent(gap.low)} … "
                f"{format_percent(gap.high)}) of the {self.title} gap between the plain student and the "
                "teachers' ensemble."
            )
        return notes


HEADER = ("difference", "95 % interval", "detectable", "p", "p, Holm")  # after the cell and its measures
COMMON_COLUMNS = ("cell", "group", "values")  # of `ablation.csv`, which are not about emotions


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    """A table as lines of Markdown; the first `names` columns are aligned to the left."""
    line = [*["---"] * names, *["---:"] * (len(header) - names)]
    return ["| " + " | ".join(cells) + " |" for cells in (header, line, *rows)]


def read_ablation(path: Path) -> AblationTable:
    """Read `ablation.json`. Raises `ModelError` where it is damaged or is no such file."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(AblationTable).validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise ModelError(
            f"'{path}' is no table of an ablation: {str(error).splitlines()[0]}; run the same 'emodistill "
            "ablate' again"
        ) from error


def show_ablation_table(ablation: AblationTable, to: Console) -> None:
    """Print the table and its notes."""
    unit = ", in %" if is_share(ablation.measure) else ""
    table = Table(title=f"test{unit}: each cell compared with '{ablation.reference}'")
    for column in ablation.header:
        table.add_column(column, justify="left" if column == "cell" else "right", overflow="fold")
    for row, next_row in zip_longest(ablation.rows, ablation.rows[1:]):
        ends_group = next_row is not None and next_row.group != row.group
        table.add_row(*map(escape, ablation.cells(row)), end_section=ends_group)
    table.caption = "\n".join(ablation.notes())
    to.print(table)
    if ablation.has_ccc:
        _show_dimensions(ablation, to)
    show_costs(ablation.costs, ablation.cost_notes, to)
    if ablation.sweeps is not None:
        ablation.sweeps.show(to)


def _show_dimensions(ablation: AblationTable, to: Console) -> None:
    """Print the scores of each dimension in each cell."""
    table = Table(title="test: dimensions")
    for column in DIMENSIONS_HEADER:
        table.add_column(
            column, justify="left" if column in ("cell", "dimension") else "right", overflow="fold"
        )
    rows = ablation.dimension_rows()
    for row, next_row in zip_longest(rows, rows[1:]):
        table.add_row(*map(escape, row), end_section=next_row is not None and next_row[0] != row[0])
    table.caption = DIMENSIONS_NOTE
    to.print(table)


def make_ablation_table(
    systems: Sequence[System],
    reference: str,
    plain: str | None = None,
    distilled: str | None = None,
    left_out: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    over_folds: bool = False,
) -> AblationTable:
    """Score systems and compare each with the reference, by paired bootstrap over speakers.

    The main measure is UA, or the mean CCC over dimensions where the reference predicts no emotions. Both are
    pooled over folds, as in `scores` and `compare`, and the difference is of these pooled figures. A fold of
    one speaker has no draws of its own, so a mean over folds has no bootstrap. All systems and seeds are
    scored on the same draws. `make_difference` explains the interval, which also covers other seeds.

    Args:
        reference: the name of the system that the others are compared with.
        plain: the student without teachers, where the closed gap to the teachers' ensemble is wanted.
        distilled: the student that closes this gap (default: the reference).
        left_out: the cells that were not run, with the reason.
        over_folds: whether the table also shows means over folds.
    """
    by_name = {system.name: system for system in systems}
    full = by_name[reference]
    measure = UA if full.tables else MEAN_CCC
    drawn: dict[str, dict[str, DrawnMeasure]] = {UA: {}, MEAN_CCC: {}}
    for system in systems:
        if system.tables:
            drawn[UA][system.name] = drawn_ua(system, resamples)
        if system.dimensions and (ccc := drawn_ccc(system.dimensions, resamples)) is not None:
            drawn[MEAN_CCC][system.name] = ccc
    paired = {
        name: {key: item for key, item in found.items() if _scored(by_name[key], name) == _scored(full, name)}
        for name, found in drawn.items()
    }
    rows = []
    for system in systems:
        row = scored_row(system)
        if system.name in drawn[MEAN_CCC]:
            dimensions = dimension_figures(system.dimensions, drawn[MEAN_CCC][system.name])
            row = replace(row, dimensions=dimensions)
        if system.recipe_key != full.recipe_key:
            differences = {
                name: paired_difference(found[reference], found[system.name])
                for name, found in paired.items()
                if system.name in found and reference in found
            }
            row = compared_row(row, differences)
        rows.append(row)
    gap = _closed_gap(paired[measure], distilled or reference, plain)
    same = [item.name for item in systems if item is not full and item.recipe_key == full.recipe_key]
    main = paired[measure].get(reference)
    table = (full.tables or full.dimensions)[0]
    return AblationTable(
        with_holm(rows, systems), reference,
        len(set(table.speakers)) if main is None else main.num_speakers,
        len(full.tables or full.dimensions), left_out or {}, gap, over_folds, same=tuple(same),
        measure=measure,
    )  # fmt: skip


def _scored(system: System, measure: str) -> list[object]:
    """The utterances, and for CCC the dimensions, of each seed. Where they are equal, so are the draws."""
    if measure == UA:
        return [table.utterances for table in system.tables]
    return [(table.utterances, table.dimensions) for table in system.dimensions]


def _closed_gap(drawn: Mapping[str, DrawnMeasure], distilled: str, plain: str | None) -> ClosedGap | None:
    if plain is None or plain not in drawn or ENSEMBLE not in drawn or distilled not in drawn:
        return None
    low, top, between = drawn[plain], drawn[ENSEMBLE], drawn[distilled]
    gap = top.draws - low.draws
    if percentile_interval(gap, low.num_speakers)[0] <= 0:
        return None
    shares = np.where(gap > 0, (between.draws - low.draws) / np.where(gap > 0, gap, 1), np.nan)
    value = (between.value - low.value) / (top.value - low.value)
    share = make_estimate(value, shares, low.num_speakers)
    return None if share.low is None or share.high is None else ClosedGap(share.value, share.low, share.high)


def forest_panels(ablation: AblationTable) -> list[ForestPanel]:
    """The rows as panels of a forest plot: the students, then teachers and oracles with their own scale."""

    def row(item: AblationRow) -> ForestRow:
        own = item.figures(ablation.measure)
        difference, low, high = (
            None if value is None else 100 * value for value in (own.difference, own.low, own.high)
        )
        return ForestRow(
            item.cell, format_measure(ablation.measure, own.value, own.sd), difference, low, high,
            own.p_holm is not None and own.p_holm < SIGNIFICANT, item.cell == ablation.reference,
        )  # fmt: skip

    others = (TEACHERS, ORACLES)
    students = [row(item) for item in ablation.rows if item.group not in others]
    rest = [row(item) for item in ablation.rows if item.group in others]
    panels = [forest_panel("students", students)]
    if rest:
        kinds = " and ".join(dict.fromkeys(item.group for item in ablation.rows if item.group in others))
        panels.append(forest_panel(f"{kinds}, on a scale of their own", rest, students=False))
    return panels


def plot_ablation(ablation: AblationTable, path: Path) -> None:
    """Plot the differences to a .png, .svg or .pdf. Raises `MissingExtraError` without matplotlib."""
    label = (
        f"difference to '{ablation.reference}' in {ablation.unit}, with 95 % interval\n"
        f"filled dots of students: p < {SIGNIFICANT:g} after Holm's correction"
    )
    plot_forest(forest_panels(ablation), label, path, ablation.title_with_unit)
