"""The rows of an ablation: a system's figures in each measure, and their differences to the reference's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from emodistill.evaluation.ablation_dimensions import AblationDimensions
from emodistill.evaluation.ablation_systems import ORACLES, TEACHERS, System
from emodistill.evaluation.bootstrap import Floats, bootstrap_confusions
from emodistill.evaluation.compare import MEAN_CCC, holm_where_known
from emodistill.evaluation.differences import Difference, DrawnMeasure, sd_over_seeds
from emodistill.evaluation.metrics import ACCURACIES, scores_of_confusions, unweighted_accuracy

UA = "ua"


@dataclass(frozen=True)
class Figures:
    """A system's figures in one measure. `AblationRow` explains them."""

    value: float | None
    sd: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    detectable: float | None
    no_interval: str | None
    over_folds: float | None
    sd_folds: float | None


@dataclass(frozen=True)
class AblationRow:
    """A system's scores, as shares. The field names are the columns of `ablation.csv`."""

    cell: str
    group: str
    values: int  # number of seeds × folds
    # UA, WA and the difference in UA are None where a system predicts no emotions.
    ua: float | None = None  # mean over seeds and folds; the table shows it where it is asked for
    ua_sd: float | None = None  # standard deviation over all seeds and folds
    wa: float | None = None
    wa_sd: float | None = None
    ua_sd_seeds: float | None = None  # standard deviation over seeds of the mean over folds; None: one seed
    pooled_ua: float | None = None
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
    dimensions: AblationDimensions | None = None  # None: it predicts none, or CCC is not defined

    def figures(self, measure: str) -> Figures:
        """The figures of UA, or of the mean CCC over dimensions. All are None where the row has none."""
        if measure == UA:
            return Figures(
                self.pooled_ua, self.pooled_ua_sd, self.difference, self.low, self.high, self.p_value,
                self.p_holm, self.detectable, self.no_interval, self.ua, self.ua_sd_folds,
            )  # fmt: skip
        own = self.dimensions
        if own is None:
            return Figures(*[None] * len(fields(Figures)))
        return Figures(
            own.ccc, own.ccc_sd, own.ccc_difference, own.ccc_low, own.ccc_high, own.ccc_p_value,
            own.ccc_p_holm, own.ccc_detectable, own.ccc_no_interval, own.ccc_over_folds, own.ccc_sd_folds,
        )  # fmt: skip


def drawn_ua(system: System, resamples: int) -> DrawnMeasure:
    """The UA of a system's emotions."""
    draws = scores_of_confusions(bootstrap_confusions(system.pooled, resamples))["ua"]
    return DrawnMeasure(_pooled(system, UA), np.asarray(draws), len(set(system.tables[0].speakers)))


def _pooled(system: System, measure: str) -> Floats:
    """A measure over the utterances of all folds, for each seed, (seeds,)."""
    return np.array([ACCURACIES[measure](table.truth, table.predicted) for table in system.tables])


def scored_row(system: System) -> AblationRow:
    """The row of a system, without its dimensions and differences."""
    if not system.tables:
        num_folds = len(system.dimensions[0].by_fold())
        return AblationRow(system.name, system.group, num_folds * len(system.dimensions))
    by_seed = [[fold.scores() for fold in table.by_fold().values()] for table in system.tables]
    ua = np.array([[scores.ua for scores in folds] for folds in by_seed])
    wa = np.array([[scores.wa for scores in folds] for folds in by_seed])
    pooled_wa = _pooled(system, "wa")

    def sd(values: Any) -> float:
        return float(np.std(values, ddof=np.size(values) > 1))

    return AblationRow(
        system.name, system.group, ua.size, float(ua.mean()), sd(ua), float(wa.mean()), sd(wa),
        sd_over_seeds(ua.mean(axis=1)),
        # Over all seeds' utterances, which is the mean of the seeds' pooled UA.
        unweighted_accuracy(system.pooled.truth, system.pooled.predicted),
        pooled_ua_sd=sd_over_seeds(_pooled(system, UA)),
        pooled_wa=float(pooled_wa.mean()), pooled_wa_sd=sd_over_seeds(pooled_wa),
        ua_sd_folds=sd(ua.mean(axis=0)) if ua.shape[1] > 1 else None,
        wa_sd_folds=sd(wa.mean(axis=0)) if wa.shape[1] > 1 else None,
    )  # fmt: skip


def compared_row(row: AblationRow, differences: Mapping[str, Difference]) -> AblationRow:
    """The row with its differences to the reference, by measure."""
    if MEAN_CCC in differences:
        assert row.dimensions is not None
        row = replace(row, dimensions=row.dimensions.with_difference(differences[MEAN_CCC]))
    if UA not in differences:
        return row
    found = differences[UA]
    return replace(
        row, difference=found.value, low=found.low, high=found.high,
        p_value=found.p_value, detectable=found.detectable, no_interval=found.no_interval,
    )  # fmt: skip


def with_holm(rows: Sequence[AblationRow], systems: Sequence[System]) -> tuple[AblationRow, ...]:
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
