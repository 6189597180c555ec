"""Scores of dimensions as tables on the terminal, and their cells for the other formats."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.evaluation.dimension_scores import (
    DIMENSION_SCORE_TITLES,
    DimensionScore,
    ModelDimensions,
    RunDimensions,
)

NOT_DEFINED = "not defined"
OVER_FOLDS = "CCC over folds"
DIMENSION_NOTE = (
    "Labels and predictions are from 0 to 1, all folds pooled, with 95 % intervals by bootstrap over "
    "speakers. CCC: Lin's concordance correlation; a model that predicts a constant has CCC 0."
)


def format_dimension_score(score: DimensionScore, measure: str) -> str:
    """A score with three decimals and its interval, or "not defined"."""
    estimate = score.scores[measure]
    return NOT_DEFINED if estimate is None else estimate.text(1, 3)


def format_over_folds(folds: Mapping[str, float] | None) -> str:
    """Mean ± standard deviation over the folds in which a score is defined; or "not defined"."""
    if folds is None:
        return NOT_DEFINED
    return f"{folds['mean']:.3f}" + (f" ± {folds['sd']:.3f}" if folds["sd"] else "")


def dimension_notes(models: Mapping[str, Mapping[str, DimensionScore]]) -> list[str]:
    """Why some scores of models, by model and dimension, have no interval or are not defined."""
    notes = []
    for model, scores in models.items():
        for name, score in scores.items():
            estimates = [item for item in score.scores.values() if item is not None]
            notes += [f"{model}, {name}: {item.no_interval}." for item in estimates if item.no_interval]
            for measure, reason in score.undefined.items():
                title = DIMENSION_SCORE_TITLES[measure]
                notes.append(f"{model}, {name}: {title} is not defined, since {reason}.")
    return list(dict.fromkeys(notes))


def dimension_rows(models: tuple[ModelDimensions, ...]) -> list[list[str]]:
    """The cells of a row for each model and dimension, and for the mean CCC of several dimensions."""
    rows = []
    for model in models:
        for name, score in model.dimensions.items():
            cells = [format_dimension_score(score, measure) for measure in DIMENSION_SCORE_TITLES]
            over_folds = format_over_folds(score.folds["ccc"])
            rows.append(
                [model.model, name, str(score.num_utterances), str(score.num_speakers), *cells, over_folds]
            )
        if len(model.dimensions) > 1 and model.mean_ccc is not None:
            rows.append([model.model, "mean", "", "", model.mean_ccc.text(1, 3), "", "", ""])
    return rows


DIMENSION_HEADER = (
    "model", "dimension", "utterances", "speakers", *DIMENSION_SCORE_TITLES.values(), OVER_FOLDS,
)  # fmt: skip


def show_dimensions(scores: RunDimensions, title: str, to: Console) -> None:
    """Print the scores of dimensions: of each model, then of each group of utterances."""
    table = Table(title=escape(title))
    for column in DIMENSION_HEADER:
        table.add_column(column, justify="left" if column in ("model", "dimension") else "right")
    rows = dimension_rows(scores.models)
    for row, next_row in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(*row, end_section=next_row is not None and next_row[0] != row[0])
    notes = dimension_notes({item.model: item.dimensions for item in scores.models})
    table.caption = "\n".join([DIMENSION_NOTE, *notes])
    to.print(table)
    if scores.groups:
        _show_groups(scores, to)


def _show_groups(scores: RunDimensions, to: Console) -> None:
    title = f"{scores.models[0].model} by group of utterances: CCC"
    table = Table("by", "group", "utterances", "speakers", title=title)
    for name in scores.names:
        table.add_column(name, justify="right")
    for by, groups in scores.groups.items():
        for group in groups:
            cells = (format_dimension_score(group.dimensions[name], "ccc") for name in scores.names)
            table.add_row(
                by, escape(group.name), str(group.num_utterances), str(group.num_speakers), *cells,
                end_section=group is groups[-1],
            )  # fmt: skip
    table.caption = "CCC is not defined in a group whose labels are all equal."
    to.print(table)


def show_summary(models: Mapping[str, Any], to: Console) -> None:
    """Print the scores of dimensions in `models` of a `scores.json`, a row for each dimension."""
    table = Table(title="dimensions, from 0 to 1")
    titles = DIMENSION_SCORE_TITLES.values()
    for column in ("model", "split", "dimension", *titles, *(f"{title} over folds" for title in titles)):
        table.add_column(column, justify="left" if column in ("model", "split", "dimension") else "right")
    for model, entry in models.items():
        for split, part in entry.items():
            for name, values in part.get("dimensions", {}).get("pooled", {}).items():
                pooled = (values[measure] for measure in DIMENSION_SCORE_TITLES)
                cells = (NOT_DEFINED if value is None else f"{value:.3f}" for value in pooled)
                folds = part["dimensions"]["mean_over_folds"][name]
                table.add_row(
                    model, split, name, *cells,
                    *(format_over_folds(folds[measure]) for measure in DIMENSION_SCORE_TITLES),
                )  # fmt: skip
    if table.row_count:
        table.caption = "all folds pooled; over folds: mean ± standard deviation"
        to.print(table)
