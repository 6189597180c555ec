"""The CCC of the systems of an ablation, beside their UA."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emodistill.evaluation.compare import MEAN_CCC
from emodistill.evaluation.differences import make_difference, sd_over_seeds
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.dimension_scores import bootstrap_measures, dimension_cccs, mean_ccc
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.run import Run
from emodistill.evaluation.tables import format_measure, format_p_value, format_value

CCC_HEADER = ("CCC", "CCC difference", "CCC 95 % interval", "CCC p, Holm")
CCC_NOTE = (
    "CCC is the mean over dimensions, pooled over folds. Its difference, interval and p are "
    "computed as those of UA."
)


@dataclass(frozen=True)
class AblationCcc:
    """A system's mean CCC over dimensions. The field names are the last columns of `ablation.csv`."""

    ccc: float  # pooled over folds, mean over seeds
    ccc_sd: float | None  # standard deviation over seeds; None with one seed
    # CCC minus the reference's, as for UA in `AblationRow`.
    ccc_difference: float | None = None
    ccc_low: float | None = None
    ccc_high: float | None = None
    ccc_p_value: float | None = None
    ccc_p_holm: float | None = None
    ccc_detectable: float | None = None


def format_ccc(row: AblationCcc | None) -> list[str]:
    """The cells of a CCC, in the order of `CCC_HEADER`; – for None."""
    if row is None:
        return ["–"] * len(CCC_HEADER)
    low, high = (format_value(MEAN_CCC, end, True) for end in (row.ccc_low, row.ccc_high))
    return [
        format_measure(MEAN_CCC, row.ccc, row.ccc_sd), format_value(MEAN_CCC, row.ccc_difference, True),
        "–" if row.ccc_low is None else f"{low} … {high}", format_p_value(row.ccc_p_holm),
    ]  # fmt: skip


def compare_ccc(
    own: Sequence[DimensionPredictions],
    reference: Sequence[DimensionPredictions],
    resamples: int,
    is_reference: bool,
) -> AblationCcc | None:
    """The mean CCC of a system, compared with the reference where both have the same utterances.

    `own` and `reference` have a table for each seed. None: the system has none, or CCC is not defined.
    """
    values = [mean_ccc(table) for table in own]
    known = np.array([value for value in values if value is not None])
    if not len(known) or len(known) < len(values):
        return None
    row = AblationCcc(float(known.mean()), sd_over_seeds(known))
    tables = (*own, *reference)
    is_paired = bool(reference) and all(
        (table.utterances, table.dimensions) == (tables[0].utterances, tables[0].dimensions)
        for table in tables
    )
    if is_reference or not is_paired:
        return row
    names = list(dimension_cccs(tables[0]))
    theirs = np.array([mean_ccc(table) or 0.0 for table in reference])
    draws = [
        np.mean(
            [bootstrap_measures(table, name, resamples)["ccc"] for table in side for name in names], axis=0
        )
        for side in (reference, own)
    ]
    num_speakers = min(tables[0].num_speakers(name) for name in names)
    found = make_difference(theirs, known, draws[1] - draws[0], num_speakers)
    return replace(
        row, ccc_difference=found.value, ccc_low=found.low, ccc_high=found.high, ccc_p_value=found.p_value,
        ccc_detectable=found.detectable,
    )  # fmt: skip


def system_tables(
    runs: Sequence[Run], model: str | None = None
) -> tuple[list[Predictions], list[DimensionPredictions]]:
    """The tables of a model (default: the main one) in runs with several seeds: emotions, and dimensions."""
    has_dimensions = all((model or run.main_model) in run.dimension_models() for run in runs)
    dimensions = [run.dimension_table(model) for run in runs] if has_dimensions else []
    return [run.table(model) for run in runs], dimensions
