"""The table of an ablation: each cell's scores, and its difference to the full method with a p-value."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.errors import ModelError
from emodistill.evaluation.ablation_ccc import (
    CCC_HEADER,
    CCC_NOTE,
    AblationCcc,
    compare_ccc,
    format_ccc,
    system_tables,
)
from emodistill.evaluation.bootstrap import Floats, bootstrap_confusions, make_estimate, percentile_interval
from emodistill.evaluation.compare import RESAMPLES, holm_where_known
from emodistill.evaluation.cost import (
    COST_TITLES,
    TOGETHER,
    CostRow,
    RunCost,
    cost_markdown,
    cost_notes,
    grid_cost_rows,
    show_costs,
)
from emodistill.evaluation.differences import Difference, make_difference, sd_over_seeds
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.forest import SIGNIFICANT, ForestPanel, ForestRow, forest_panel, plot_forest
from emodistill.evaluation.metrics import ACCURACIES, scores_of_confusions, unweighted_accuracy
from emodistill.evaluation.predictions import Predictions, join_predictions
from emodistill.evaluation.run import Run
from emodistill.evaluation.sweeps import Sweeps
from emodistill.evaluation.tables import format_interval, format_mean, format_p_value, format_percent
from emodistill.files import atomic_write

TEACHERS, ORACLES = "teachers", "oracles"  # groups of systems that are no students
ENSEMBLE = TOGETHER
LEAST_PROBABILITY = 1e-7  # before a logarithm: the last decimal of predictions.csv


@dataclass(frozen=True)
class System:
    """A student, teacher, ensemble or oracle that was scored on the full method's test utterances."""

    name: str
    group: str  # "parts", a swept field, `TEACHERS` or `ORACLES`
    recipe_key: str  # equal for systems of one recipe
    tables: Sequence[Predictions]  # one for each seed
    dimensions: Sequence[DimensionPredictions] = ()  # one for each seed; empty: it predicts none

    @property
    def pooled(self) -> Predictions:
        """The predictions of all seeds in one table."""
        return join_predictions(self.tables)


@dataclass(frozen=True)
class AblationRow:
    """A system's scores, as shares. The field names are the columns of `ablation.csv`."""

    cell: str
    group: str
    values: int  # number of seeds × folds
    ua: float  # mean over seeds and folds; the table shows it where it is asked for
    ua_sd: float  # standard deviation over all seeds and folds
    wa: float
    wa_sd: float
    ua_sd_seeds: float | None  # standard deviation over seeds of the mean over folds; None with one seed
    pooled_ua: float
    # Pooled UA minus the reference's. None: the reference itself, or a system with other utterances.
    difference: float | None = None
    low: float | None = None  # 95 % interval of the difference
    high: float | None = None
    p_value: float | None = None  # two-sided; the null hypothesis is that there is no difference
    p_holm: float | None = None  # p_value with Holm's correction over the students in the table
    pooled_ua_sd: float | None = None  # standard deviation over seeds; None with one seed
    pooled_wa: float | None = None  # mean over seeds
    pooled_wa_sd: float | None = None
    ua_sd_folds: float | None = None  # standard deviation over folds of the mean over seeds; None: one fold
    wa_sd_folds: float | None = None
    detectable: float | None = None  # the smallest true difference that is found with a power of 80 %
    no_interval: str | None = None  # why a difference has no interval
    dimensions: AblationCcc | None = None  # None: the system predicts none, or CCC is not defined


@dataclass(frozen=True)
class ClosedGap:
    """The share of the UA gap between plain student and teachers' ensemble that distillation closes."""

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

    def with_costs(self, cells: Mapping[str, Sequence[RunCost | None]]) -> "AblationTable":
        """The table with the costs of the runs of each cell, one for each seed; None: not known."""
        ua = {row.cell: row.pooled_ua for row in self.rows}
        shown = {name: costs for name, costs in cells.items() if name in ua}
        first, *others = ([cost for cost in costs if cost is not None] for costs in shown.values())
        students = [cost.of_student() for costs in others for cost in costs]
        notes = cost_notes([*first, *students])
        return replace(self, costs=tuple(grid_cost_rows(shown, ua)), cost_notes=tuple(notes))

    def write(self, folder: Path, name: str = "ablation") -> None:
        """Write the table as Markdown, CSV and JSON, and the plot as PNG, into a folder.

        `read_ablation` reads the JSON file.
        """
        (folder / f"{name}.md").write_text(self.markdown(), encoding="utf-8")
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            own = [field.name for field in fields(AblationRow) if field.name != "dimensions"]
            ccc = [field.name for field in fields(AblationCcc)] if self.has_ccc else []
            columns = [*own, *COST_TITLES, *ccc]
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            figures = {row.model: row.figures for row in self.costs}
            for row in self.rows:
                values = asdict(row)
                own_ccc = values.pop("dimensions") or {}
                writer.writerow({**values, **figures.get(row.cell, {}), **own_ccc})
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
        header = (*HEADER, *OVER_FOLDS) if self.over_folds else HEADER
        return (*header, *CCC_HEADER) if self.has_ccc else header

    @property
    def has_ccc(self) -> bool:
        """Whether some systems have a CCC."""
        return any(row.dimensions is not None for row in self.rows)

    def cells(self, row: AblationRow) -> list[str]:
        """The cells of a row as text, in the order of `header`."""
        return format_row(row, self.over_folds) + (format_ccc(row.dimensions) if self.has_ccc else [])

    def markdown(self) -> str:
        """The table and its notes as Markdown."""
        head = [[*self.header], ["---", *["---:"] * (len(self.header) - 1)]]
        rows = [self.cells(row) for row in self.rows]
        lines = ["| " + " | ".join(cells) + " |" for cells in [*head, *rows]]
        sweeps = [] if self.sweeps is None else [self.sweeps.markdown()]
        costs = cost_markdown(self.costs, self.cost_notes)
        return "\n".join([*lines, "", *(f"{note}\n" for note in self.notes()), costs, *sweeps])

    def notes(self) -> list[str]:
        """How to read the table, and which cells it lacks."""
        seeds = (
            f"mean ± standard deviation over {self.num_seeds} seeds"
            if self.num_seeds > 1
            else "one seed, so there is no standard deviation over seeds"
        )
        covers = "speakers and seeds" if self.num_seeds > 1 else "speakers, not for other seeds"
        notes = [
            f"UA and WA in %, pooled over folds: {seeds}. Difference: UA minus that of '{self.reference}'.",
            f"The interval (95 %) and p are by paired bootstrap over {self.num_speakers} speakers, with all "
            f"seeds on the same draws; they are for other {covers}. Detectable: the smallest true difference "
            "that would give p < 0.05 in 80 of 100 experiments like this one. Holm: p corrected over all "
            "cells.",
        ]
        if self.has_ccc:
            notes.append(CCC_NOTE)
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
                f"{format_percent(gap.high)}) of the UA gap between the plain student and the teachers' "
                "ensemble."
            )
        return notes


HEADER = ("cell", "UA", "WA", "difference", "95 % interval", "detectable", "p", "p, Holm")
OVER_FOLDS = ("UA over folds", "WA over folds")


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
    table = Table(title=f"test, in %: each cell compared with '{ablation.reference}'")
    for column in ablation.header:
        table.add_column(column, justify="left" if column == "cell" else "right", overflow="fold")
    for row, next_row in zip_longest(ablation.rows, ablation.rows[1:]):
        ends_group = next_row is not None and next_row.group != row.group
        table.add_row(*map(escape, ablation.cells(row)), end_section=ends_group)
    table.caption = "\n".join(ablation.notes())
    to.print(table)
    show_costs(ablation.costs, ablation.cost_notes, to)
    if ablation.sweeps is not None:
        ablation.sweeps.show(to)


def format_row(row: AblationRow, over_folds: bool = False) -> list[str]:
    """The cells of a row as text, in the order of `AblationTable.header`."""
    cells = [
        row.cell,
        format_mean(row.pooled_ua, row.pooled_ua_sd),
        format_mean(row.pooled_wa, row.pooled_wa_sd),
        format_percent(row.difference, True), format_interval(row.low, row.high, row.no_interval),
        format_percent(row.detectable), format_p_value(row.p_value), format_p_value(row.p_holm),
    ]  # fmt: skip
    if over_folds:
        cells += [format_mean(row.ua, row.ua_sd_folds), format_mean(row.wa, row.wa_sd_folds)]
    return cells


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

    UA is pooled over folds, as in `scores` and `compare`, and the difference is of these pooled figures. A
    fold of one speaker has no draws of its own, so a mean over folds has no bootstrap. All systems and seeds
    are scored on the same draws. `make_difference` explains the interval, which also covers other seeds.

    Args:
        reference: the name of the system that the others are compared with.
        plain: the student without teachers, where the closed gap to the teachers' ensemble is wanted.
        distilled: the student that closes this gap (default: the reference).
        left_out: the cells that were not run, with the reason.
        over_folds: whether the table also shows means over folds.
    """
    by_name = {system.name: system for system in systems}
    full = by_name[reference]
    utterances = [table.utterances for table in full.tables]
    draws = {
        system.name: np.asarray(scores_of_confusions(bootstrap_confusions(system.pooled, resamples))["ua"])
        for system in systems
        if [table.utterances for table in system.tables] == utterances
    }
    num_speakers = len(set(full.tables[0].speakers))
    rows = []
    for system in systems:
        row = _scored_row(system)
        is_same = system.recipe_key == full.recipe_key
        if system.name in draws and not is_same:
            values = _pooled(full, "ua"), _pooled(system, "ua")
            difference = make_difference(*values, draws[system.name] - draws[reference], num_speakers)
            row = _compared_row(row, difference)
        ccc = compare_ccc(system.dimensions, full.dimensions, resamples, is_same)
        rows.append(replace(row, dimensions=ccc))
    gap = _closed_gap(by_name, draws, distilled or reference, plain)
    same = [item.name for item in systems if item is not full and item.recipe_key == full.recipe_key]
    return AblationTable(
        _with_holm(rows, systems), reference, num_speakers, len(full.tables), left_out or {}, gap, over_folds,
        same=tuple(same),
    )  # fmt: skip


def teacher_systems(runs: Sequence[Run]) -> list[System]:
    """The teachers of a method, from one run for each seed, and their ensemble if there are several."""
    names = [name for name in runs[0].models if name != runs[0].main_model]
    found = {name: system_tables(runs, name) for name in names}
    tables = {name: emotions for name, (emotions, _) in found.items()}
    systems = [System(f"{name} teacher", TEACHERS, f"{name} teacher", *found[name]) for name in names]
    if len(names) > 1:
        ensembles = [
            ensemble_predictions(run.table(), [tables[name][seed] for name in names])
            for seed, run in enumerate(runs)
        ]
        systems.append(System(ENSEMBLE, TEACHERS, ENSEMBLE, ensembles))
    return systems


def ensemble_predictions(reference: Predictions, tables: Sequence[Predictions]) -> Predictions:
    """The normalised product of several models' probabilities, for the utterances of `reference`.

    This is Bayes' rule if the models' inputs are independent given the emotion and all emotions have the same
    prior. If a model has no prediction for an utterance, the product is over the other models. If no model
    has one, the utterance is left out.
    """
    log_products: dict[tuple[str, str], Floats] = {}
    for table in tables:
        for row, key in enumerate(zip(table.folds, table.utterances, strict=True)):
            log_probabilities = np.log(np.maximum(table.probabilities[row], LEAST_PROBABILITY))
            log_products[key] = log_products.get(key, 0.0) + log_probabilities
    keys = list(zip(reference.folds, reference.utterances, strict=True))
    predicted = reference.take([row for row, key in enumerate(keys) if key in log_products])
    logits = np.array([log_products[key] for key in keys if key in log_products])
    products = np.exp(logits - logits.max(axis=1, keepdims=True))
    return replace(predicted, probabilities=products / products.sum(axis=1, keepdims=True))


def _pooled_ua(system: System) -> float:
    """UA over all seeds' utterances, which is the mean of the seeds' pooled UA."""
    return unweighted_accuracy(system.pooled.truth, system.pooled.predicted)


def _pooled(system: System, measure: str) -> Floats:
    """A measure over the utterances of all folds, for each seed, (seeds,)."""
    return np.array([ACCURACIES[measure](table.truth, table.predicted) for table in system.tables])


def _scored_row(system: System) -> AblationRow:
    by_seed = [[fold.scores() for fold in table.by_fold().values()] for table in system.tables]
    ua = np.array([[scores.ua for scores in folds] for folds in by_seed])
    wa = np.array([[scores.wa for scores in folds] for folds in by_seed])
    pooled_wa = _pooled(system, "wa")

    def sd(values: Any) -> float:
        return float(np.std(values, ddof=np.size(values) > 1))

    return AblationRow(
        system.name, system.group, ua.size, float(ua.mean()), sd(ua), float(wa.mean()), sd(wa),
        sd_over_seeds(ua.mean(axis=1)), _pooled_ua(system),
        pooled_ua_sd=sd_over_seeds(_pooled(system, "ua")),
        pooled_wa=float(pooled_wa.mean()), pooled_wa_sd=sd_over_seeds(pooled_wa),
        ua_sd_folds=sd(ua.mean(axis=0)) if ua.shape[1] > 1 else None,
        wa_sd_folds=sd(wa.mean(axis=0)) if wa.shape[1] > 1 else None,
    )  # fmt: skip


def _compared_row(row: AblationRow, difference: Difference) -> AblationRow:
    return replace(
        row, difference=difference.value, low=difference.low, high=difference.high,
        p_value=difference.p_value, detectable=difference.detectable, no_interval=difference.no_interval,
    )  # fmt: skip


def _with_holm(rows: Sequence[AblationRow], systems: Sequence[System]) -> tuple[AblationRow, ...]:
    """The rows with Holm's correction over the students; two students of one recipe count as one test."""

    def corrected(p_values: Sequence[float | None]) -> list[float | None]:
        found = {
            system.recipe_key: p_value
            for p_value, row, system in zip(p_values, rows, systems, strict=True)
            if p_value is not None and row.group not in (TEACHERS, ORACLES)
        }
        by_key = dict(zip(found, holm_where_known(list(found.values())), strict=True))
        return [by_key.get(system.recipe_key) for system in systems]

    cccs = [row.dimensions for row in rows]
    for_ua = corrected([row.p_value for row in rows])
    for_ccc = corrected([None if item is None else item.ccc_p_value for item in cccs])
    return tuple(
        replace(row, p_holm=ua, dimensions=None if item is None else replace(item, ccc_p_holm=ccc))
        for row, item, ua, ccc in zip(rows, cccs, for_ua, for_ccc, strict=True)
    )


def _closed_gap(
    by_name: Mapping[str, System], draws: Mapping[str, Floats], distilled: str, plain: str | None
) -> ClosedGap | None:
    if plain is None or plain not in draws or ENSEMBLE not in draws:
        return None
    gap = draws[ENSEMBLE] - draws[plain]
    num_speakers = len(set(by_name[plain].tables[0].speakers))
    if percentile_interval(gap, num_speakers)[0] <= 0:
        return None
    gain = draws[distilled] - draws[plain]
    shares = np.where(gap > 0, gain / np.where(gap > 0, gap, 1), np.nan)
    plain_ua, ensemble_ua, distilled_ua = (_pooled_ua(by_name[name]) for name in (plain, ENSEMBLE, distilled))
    share = make_estimate((distilled_ua - plain_ua) / (ensemble_ua - plain_ua), shares, num_speakers)
    return None if share.low is None or share.high is None else ClosedGap(share.value, share.low, share.high)


def forest_panels(ablation: AblationTable) -> list[ForestPanel]:
    """The rows as panels of a forest plot: the students, then teachers and oracles with their own scale."""

    def row(item: AblationRow) -> ForestRow:
        difference, low, high = (
            None if share is None else 100 * share for share in (item.difference, item.low, item.high)
        )
        return ForestRow(
            item.cell, format_mean(item.pooled_ua, item.pooled_ua_sd), difference, low, high,
            item.p_holm is not None and item.p_holm < SIGNIFICANT, item.cell == ablation.reference,
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
        f"difference to '{ablation.reference}' in points of UA, with 95 % interval\n"
        f"filled dots of students: p < {SIGNIFICANT:g} after Holm's correction"
    )
    plot_forest(forest_panels(ablation), label, path)
