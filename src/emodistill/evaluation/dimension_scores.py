"""Scores of predicted dimensions: CCC, Pearson's r and RMSE, with intervals by bootstrap over speakers.

All are of labels and predictions from 0 to 1. Utterances without a label do not count. For N utterances with
labels x and predictions y, means m_x and m_y, variances s_x² and s_y² and covariance s_xy, all divided by N:

    CCC = 2 · s_xy / (s_x² + s_y² + (m_x − m_y)²)    Lin 1989, "A Concordance Correlation Coefficient to
                                                      Evaluate Reproducibility", Biometrics 45(1)
    r = s_xy / (s_x · s_y)                            Pearson 1895
    RMSE = √(mean of (x − y)²)

CCC is at most |r|. It is lower where predictions have another mean or spread than labels. A model that
predicts a constant has CCC 0. Where all labels are equal, CCC and r are not defined, and r is not defined
where all predictions are equal. Such a score is None, and never NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emodistill.evaluation.bootstrap import (
    RESAMPLES,
    Estimate,
    Floats,
    draw_speakers,
    make_estimate,
)
from emodistill.evaluation.differences import DrawnMeasure, mean_of_measures
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.run import Run
from emodistill.evaluation.utterance_groups import group_rows

DIMENSION_SCORE_TITLES: Mapping[str, str] = {"ccc": "CCC", "pearson": "Pearson r", "rmse": "RMSE"}
LEAST_SD = 1e-6  # a smaller standard deviation counts as 0: the tables have seven decimals
SAME_LABELS, SAME_PREDICTIONS = "all labels are equal", "all predictions are equal"
NO_LABELS = "no utterance has a label"


@dataclass(frozen=True)
class DimensionScore:
    """The scores of one dimension, over the utterances that have its label.

    A score that is not defined is None, and `undefined` has the reason by its key.
    """

    num_utterances: int
    num_speakers: int
    scores: dict[str, Estimate | None]  # by the keys of `DIMENSION_SCORE_TITLES`
    undefined: dict[str, str]
    # By the keys of `DIMENSION_SCORE_TITLES`: mean, sd and number of the folds in which it is defined; None:
    # it is defined in none.
    folds: dict[str, dict[str, float] | None]


@dataclass(frozen=True)
class ModelDimensions:
    """The scores of a model on test, by dimension: all folds pooled, and mean over folds."""

    model: str
    dimensions: dict[str, DimensionScore]
    mean_ccc: Estimate | None  # the mean over the dimensions in which CCC is defined; None: in none


@dataclass(frozen=True)
class DimensionGroup:
    """The scores of a group of utterances, by dimension."""

    name: str
    num_utterances: int
    num_speakers: int
    dimensions: dict[str, DimensionScore]


@dataclass(frozen=True)
class RunDimensions:
    """The scores of predicted dimensions."""

    names: tuple[str, ...]
    models: tuple[ModelDimensions, ...]  # those with dimensions, the main model first
    groups: dict[str, tuple[DimensionGroup, ...]]  # of the main model: by speaker, gender, …


# --- measures --------------------------------------------------------------------------------------


def concordance(truth: Floats, predicted: Floats) -> float | None:
    """Lin's CCC of labels and predictions, both (utterances,); None where all labels are equal."""
    return measure_pairs(truth, predicted)["ccc"]


def measure_pairs(truth: Floats, predicted: Floats) -> dict[str, float | None]:
    """Each score of `DIMENSION_SCORE_TITLES` of labels and predictions, both (utterances,).

    Pairs without a label (NaN) do not count. A score that is not defined is None.
    """
    known = ~np.isnan(truth)
    if not known.any():
        return dict.fromkeys(DIMENSION_SCORE_TITLES)
    values = measures_of_moments(pair_moments(truth[known], predicted[known]).sum(axis=0))
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


def pair_moments(truth: Floats, predicted: Floats) -> Floats:
    """1, x, y, x², y² and xy of each pair, (utterances, 6), whose sums decide all scores.

    x and y are moved by the mean label, which no score depends on: so sums of squares keep their digits.
    """
    x, y = truth - truth.mean(), predicted - truth.mean()
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def measures_of_moments(sums: Floats) -> dict[str, Floats]:
    """The scores of many sums of `pair_moments`, (…, 6), each (…,); NaN where a score is not defined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y, square_x, square_y, product = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
        variance_x = np.maximum(0, square_x - mean_x**2)
        variance_y = np.maximum(0, square_y - mean_y**2)
        covariance = product - mean_x * mean_y
        ccc = 2 * covariance / (variance_x + variance_y + (mean_x - mean_y) ** 2)
        pearson = covariance / np.sqrt(variance_x * variance_y)
        varies_x, varies_y = variance_x > LEAST_SD**2, variance_y > LEAST_SD**2
    return {
        "ccc": np.where(varies_x, np.where(varies_y, ccc, 0.0), np.nan),
        "pearson": np.where(varies_x & varies_y, np.clip(pearson, -1, 1), np.nan),
        "rmse": np.sqrt(np.maximum(0, square_x + square_y - 2 * product)),
    }


def bootstrap_measures(
    table: DimensionPredictions, dimension: str, resamples: int, seed: int = 0
) -> dict[str, Floats]:
    """Each score of a dimension on each draw of speakers, (resamples,).

    The speakers are those with a label of this dimension. So tables with equal labels have equal draws.
    """
    column = table.dimensions.index(dimension)
    known = ~np.isnan(table.truth[:, column])
    speakers = [name for name, keep in zip(table.speakers, known, strict=True) if keep]
    counts, speaker_of_row = draw_speakers(speakers, resamples, seed)
    by_speaker = np.zeros((counts.shape[1], 6))
    moments = pair_moments(table.truth[known, column], table.predicted[known, column])
    np.add.at(by_speaker, speaker_of_row, moments)
    return measures_of_moments(counts @ by_speaker)


def mean_concordance(truth: Floats, predicted: Floats) -> float | None:
    """The mean CCC over the dimensions in which it is defined; None: it is defined in none.

    Both are (utterances, dimensions), and a label is NaN where there is none.
    """
    pairs = zip(truth.T, predicted.T, strict=True)
    values = [value for pair in pairs if (value := concordance(*pair)) is not None]
    return float(np.mean(values)) if values else None


def mean_ccc(table: DimensionPredictions) -> float | None:
    """The mean CCC of a table's dimensions, see `mean_concordance`."""
    return mean_concordance(table.truth, table.predicted)


def drawn_cccs(table: DimensionPredictions, resamples: int, seed: int = 0) -> dict[str, DrawnMeasure]:
    """The CCC of each dimension in which it is defined."""
    found = {}
    for column, name in enumerate(table.dimensions):
        value = concordance(table.truth[:, column], table.predicted[:, column])
        if value is not None:
            draws = bootstrap_measures(table, name, resamples, seed)["ccc"]
            found[name] = DrawnMeasure(np.array([value]), draws, table.num_speakers(name))
    return found


def drawn_mean_ccc(table: DimensionPredictions, resamples: int, seed: int = 0) -> DrawnMeasure | None:
    """The mean CCC over the dimensions in which it is defined; None: it is defined in none."""
    found = drawn_cccs(table, resamples, seed)
    return mean_of_measures(list(found.values())) if found else None


# --- scores of a table -----------------------------------------------------------------------------


def score_dimensions(
    model: str, table: DimensionPredictions, resamples: int = RESAMPLES, seed: int = 0
) -> ModelDimensions:
    """All scores of a model's dimensions."""
    scores = {name: score_dimension(table, name, resamples, seed) for name in table.dimensions}
    mean = drawn_mean_ccc(table, resamples, seed)
    if mean is None:
        return ModelDimensions(model, scores, None)
    return ModelDimensions(model, scores, make_estimate(mean.value, mean.draws, mean.num_speakers))


def score_dimension(
    table: DimensionPredictions, dimension: str, resamples: int = RESAMPLES, seed: int = 0
) -> DimensionScore:
    """The scores of one dimension of a table."""
    column = table.dimensions.index(dimension)
    truth, predicted = table.truth[:, column], table.predicted[:, column]
    known = ~np.isnan(truth)
    num_speakers = table.num_speakers(dimension)
    values = measure_pairs(truth, predicted)
    draws = (
        bootstrap_measures(table, dimension, resamples if num_speakers > 1 else 1, seed)
        if num_speakers
        else {}
    )
    by_fold = [
        measure_pairs(part.truth[:, column], part.predicted[:, column]) for part in table.by_fold().values()
    ]
    return DimensionScore(
        num_utterances=int(known.sum()),
        num_speakers=num_speakers,
        scores={
            name: None if value is None else make_estimate(value, draws[name], num_speakers)
            for name, value in values.items()
        },
        undefined=_why_undefined(truth[known], values),
        folds={name: _over_folds([fold[name] for fold in by_fold]) for name in values},
    )


def _why_undefined(truth: Floats, values: Mapping[str, float | None]) -> dict[str, str]:
    """The reason for each score that is None; `truth` is (utterances with a label,)."""
    if not len(truth):
        return dict.fromkeys(values, NO_LABELS)
    reason = SAME_LABELS if values["ccc"] is None else SAME_PREDICTIONS
    return {name: reason for name, value in values.items() if value is None}


def _over_folds(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean and standard deviation over the folds in which a score is defined; None: it is defined in none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "mean": float(np.mean(known)),
        "sd": float(np.std(known, ddof=len(known) > 1)),
        "folds": len(known),
    }


def score_dimension_group(part: DimensionPredictions, name: str) -> DimensionGroup:
    """The scores of some of the utterances, under a name."""
    return DimensionGroup(
        name, len(part), len(set(part.speakers)),
        {dimension: score_dimension(part, dimension) for dimension in part.dimensions},
    )  # fmt: skip


def score_run_dimensions(run: Run, notes: list[str], resamples: int = RESAMPLES) -> RunDimensions | None:
    """The scores of a run's dimensions; None where it predicts none. Adds notes on missing groups."""
    models = run.dimension_models()
    if not models:
        return None
    tables = {name: run.dimension_table(name) for name in models}
    main = tables[models[0]]
    groups: dict[str, tuple[DimensionGroup, ...]] = {}
    if models[0] == run.main_model:
        groups = {
            by: tuple(score_dimension_group(main.take(rows), name) for name, rows in rows_by_name.items())
            for by, rows_by_name in group_rows(main, run.utterances, notes).items()
        }
    scored = (score_dimensions(run.title_of(name), table, resamples) for name, table in tables.items())
    return RunDimensions(main.dimensions, tuple(scored), groups)


def summarise_dimensions(table: DimensionPredictions) -> dict[str, Any]:
    """Scores without intervals, as `scores.json` holds them under `dimensions` of a model and split."""
    scores = {name: score_dimension(table, name, resamples=1) for name in table.dimensions}
    return {
        "names": list(table.dimensions),
        "mean_ccc": mean_ccc(table),
        "pooled": {
            name: {
                "num_utterances": item.num_utterances,
                **{measure: None if found is None else found.value for measure, found in item.scores.items()},
            }
            for name, item in scores.items()
        },
        "mean_over_folds": {name: item.folds for name, item in scores.items()},
    }
