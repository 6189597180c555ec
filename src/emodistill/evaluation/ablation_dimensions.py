"""The dimensions of the systems of an ablation: CCC with what its comparison needs, Pearson's r and RMSE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from emodistill.evaluation.bootstrap import Floats
from emodistill.evaluation.compare import MEAN_CCC
from emodistill.evaluation.differences import Difference, DrawnMeasure, over_seeds, sd_over_seeds
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.dimension_scores import (
    DIMENSION_SCORE_TITLES,
    drawn_mean_ccc,
    mean_ccc,
    measure_pairs,
)
from emodistill.evaluation.tables import format_interval, format_measure, format_p_value, format_value

CCC_HEADER = ("CCC", "CCC difference", "CCC 95 % interval", "CCC p, Holm")
CCC_NOTE = (
    "CCC is the mean over dimensions, pooled over folds. Its difference, interval and p are "
    "computed as those of UA."
)
DIMENSIONS_HEADER = ("cell", "dimension", *DIMENSION_SCORE_TITLES.values())
DIMENSIONS_NOTE = (
    "Dimensions are from 0 to 1, and their scores are pooled over folds. Mean: over the dimensions whose CCC "
    "is defined."
)
MEAN = "mean"  # the name of the mean over dimensions in tables


@dataclass(frozen=True)
class DimensionFigures:
    """The scores of one dimension: mean and standard deviation over seeds. None: not defined, or one seed."""

    ccc: float | None
    ccc_sd: float | None
    pearson: float | None
    pearson_sd: float | None
    rmse: float | None
    rmse_sd: float | None


@dataclass(frozen=True)
class AblationDimensions:
    """A system's scores, as means over dimensions. The field names are the last columns of `ablation.csv`."""

    ccc: float  # pooled over folds, mean over seeds
    ccc_sd: float | None  # standard deviation over seeds; None with one seed
    # CCC minus the reference's, as for UA in `AblationRow`.
    ccc_difference: float | None = None
    ccc_low: float | None = None
    ccc_high: float | None = None
    ccc_p_value: float | None = None
    ccc_p_holm: float | None = None
    ccc_detectable: float | None = None
    ccc_no_interval: str | None = None
    ccc_over_folds: float | None = None  # mean over seeds and folds
    ccc_sd_folds: float | None = None  # standard deviation over folds of the mean over seeds; None: one fold
    pearson: float | None = None  # None: it is not defined in a dimension whose CCC is defined
    pearson_sd: float | None = None  # standard deviation over seeds
    rmse: float | None = None
    rmse_sd: float | None = None
    by_dimension: Mapping[str, DimensionFigures] = field(default_factory=dict)  # in JSON, not in CSV

    @classmethod
    def columns(cls) -> list[str]:
        """The columns of `ablation.csv`."""
        return [item.name for item in fields(cls) if item.name != "by_dimension"]

    def with_difference(self, found: Difference) -> "AblationDimensions":
        """The figures with the difference of CCC to the reference."""
        return replace(
            self, ccc_difference=found.value, ccc_low=found.low, ccc_high=found.high,
            ccc_p_value=found.p_value, ccc_detectable=found.detectable, ccc_no_interval=found.no_interval,
        )  # fmt: skip


def format_ccc(row: AblationDimensions | None) -> list[str]:
    """The cells of a CCC, in the order of `CCC_HEADER`; – for None."""
    if row is None:
        return ["–"] * len(CCC_HEADER)
    return [
        format_measure(MEAN_CCC, row.ccc, row.ccc_sd), format_value(MEAN_CCC, row.ccc_difference, True),
        format_interval(MEAN_CCC, row.ccc_low, row.ccc_high, row.ccc_no_interval),
        format_p_value(row.ccc_p_holm),
    ]  # fmt: skip


def dimension_rows(cell: str, row: AblationDimensions) -> list[list[str]]:
    """The rows of a cell in the order of `DIMENSIONS_HEADER`: each dimension, and the mean of several."""
    parts: dict[str, DimensionFigures | AblationDimensions] = dict(row.by_dimension)
    if len(parts) > 1:
        parts[MEAN] = row

    def text(figures: DimensionFigures | AblationDimensions, measure: str) -> str:
        # Each of these scores is shown as a CCC is, with three decimals.
        return format_measure(MEAN_CCC, getattr(figures, measure), getattr(figures, f"{measure}_sd"))

    return [
        [cell, name, *(text(figures, measure) for measure in DIMENSION_SCORE_TITLES)]
        for name, figures in parts.items()
    ]


def drawn_ccc(tables: Sequence[DimensionPredictions], resamples: int) -> DrawnMeasure | None:
    """The mean CCC of a system, a table for each seed; None where CCC is defined in no dimension."""
    drawn = [drawn_mean_ccc(table, resamples) for table in tables]
    known = [item for item in drawn if item is not None]
    return over_seeds(known) if known and len(known) == len(drawn) else None


def dimension_figures(tables: Sequence[DimensionPredictions], ccc: DrawnMeasure) -> AblationDimensions:
    """The scores of a system, a table for each seed, whose mean CCC is `ccc`."""
    names = tables[0].dimensions
    by_seed = [
        [
            list(measure_pairs(table.truth[:, place], table.predicted[:, place]).values())
            for place in range(len(names))
        ]
        for table in tables
    ]
    values = np.array(by_seed, dtype=float)  # (seeds, dimensions, scores), NaN where one is not defined
    by_dimension = {
        name: DimensionFigures(*(item for column in values[:, place].T for item in _figure(column)))
        for place, name in enumerate(names)
    }
    defined = [place for place, name in enumerate(names) if by_dimension[name].ccc is not None]
    _, pearson, rmse = (_figure(column) for column in values[:, defined].mean(axis=1).T)
    over_folds = _over_folds(tables)
    return AblationDimensions(
        ccc.value, sd_over_seeds(ccc.values), ccc_over_folds=over_folds[0], ccc_sd_folds=over_folds[1],
        pearson=pearson[0], pearson_sd=pearson[1], rmse=rmse[0], rmse_sd=rmse[1], by_dimension=by_dimension,
    )  # fmt: skip


def _figure(values: Floats) -> tuple[float | None, float | None]:
    """Mean and standard deviation over seeds, (seeds,); None where the score is not defined."""
    if np.isnan(values).any():
        return None, None
    return float(values.mean()), sd_over_seeds(values)


def _over_folds(tables: Sequence[DimensionPredictions]) -> tuple[float | None, float | None]:
    """The mean over seeds and folds of CCC, and its standard deviation over folds, where it is defined."""
    by_fold: dict[str, list[float]] = {}
    for table in tables:
        for fold, part in table.by_fold().items():
            value = mean_ccc(part)
            if value is not None:
                by_fold.setdefault(fold, []).append(value)
    means = [float(np.mean(values)) for values in by_fold.values()]
    if not means:
        return None, None
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else None
