"""The charts of the page, one function for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from emodistill.distillation import TERMS
from emodistill.evaluation.compare import Comparison, is_share, measure_title
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.forest import SIGNIFICANT, ForestRow, forest_panel
from emodistill.evaluation.known_scores import KnownScore, curves
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.scores import Agreement, Calibration, Group, calibration_titles
from emodistill.evaluation.tables import comparison_rows, format_estimate, format_measure
from emodistill.labels import COLOURS
from emodistill.report.charts import Plot, bars, forest, stacked

if TYPE_CHECKING:
    from emodistill.training.fit import FitResult

SCALING_CLASSES = {"before": "series-2", "after": "series-1"}
NUM_SERIES = 6  # colours of lines on the page
LOSS_TITLES = {"hard": "label"}  # term of the loss -> its name in the legend, where it differs

Trainings = Mapping[str, Mapping[str, "FitResult"]]  # model -> fold -> how its training went


def speakers(groups: Sequence[Group], ua: float, limit: int) -> dict[str, Any]:
    """A bar for the UA of each speaker, lowest first, and a line at `ua`; at most `limit` bars."""
    lowest_first = sorted(groups, key=lambda group: group.scores["ua"].value)
    rows = [
        (group.name, group.scores["ua"].value, f"UA {100 * group.scores['ua'].value:.1f} %, WA "
         f"{100 * group.scores['wa'].value:.1f} %, {group.num_utterances} utterances")
        for group in lowest_first[:limit]
    ]  # fmt: skip
    values = [group.scores["ua"].value for group in lowest_first]
    return {
        "svg": bars(rows, ua, "UA of each speaker in percent"),
        "shown": len(rows),
        "all": len(values),
        "low": min(values),
        "median": float(np.median(values)),
        "high": max(values),
    }


def reliability(tables: Mapping[str, Calibration]) -> Markup:
    """Accuracy over confidence in bins of equal numbers of utterances; the last table has intervals."""
    plot = Plot((0, 1), (0, 1), ("confidence", "accuracy"), square=True)
    plot.line([(0, 0), (1, 1)], "reference")
    for name, table in tables.items():
        title, classes = calibration_titles(tables)[name], SCALING_CLASSES[name]
        if name == list(tables)[-1]:
            plot.band(
                [
                    (item.confidence, item.low, item.high)
                    for item in table.reliability
                    if item.low is not None and item.high is not None
                ],
                classes,
            )
        plot.line([(item.confidence, item.accuracy) for item in table.reliability], classes, title)
        for item in table.reliability:
            interval = "" if item.low is None else f" ({item.low:.3f} … {item.high:.3f})"
            tip = (
                f"{title}: confidence {item.confidence:.3f}, accuracy {item.accuracy:.3f}{interval}, "
                f"{item.count} utterances"
            )
            plot.dot(item.confidence, item.accuracy, classes, tip)
    return plot.svg("Reliability: accuracy over confidence")


def risk(tables: Mapping[str, Calibration]) -> Markup:
    """The error rate of the most confident predictions, over their share of all predictions."""
    highest = max(100 * value for table in tables.values() for _, value in table.risk_coverage)
    plot = Plot(
        (0, 100),
        (0, max(5.0, highest)),
        ("answered, most confident first (%)", "wrong among these (%)"),
        square=True,
    )
    for name, table in tables.items():
        points = [(100 * x, 100 * y) for x, y in table.risk_coverage]
        plot.line(points, SCALING_CLASSES[name], calibration_titles(tables)[name])
    return plot.svg("Risk over coverage")


def known(scores: Sequence[KnownScore]) -> tuple[Markup, list[tuple[str, str]]]:
    """UA over the number of known utterances, and (class, name) of each line for the legend.

    Each corpus has a line, and so has the mean of corpora. Bands are 95 % intervals. The stress test is left
    out.
    """
    lines = curves(scores)
    names = list(dict.fromkeys(str(score.known) for score in scores))
    bounds = [
        100 * share
        for points in lines.values()
        for point in points
        for share in (point.ua.value, point.ua.low, point.ua.high)
        if share is not None
    ]
    plot = Plot(
        (0, len(names) - 1),
        (max(0, min(bounds) - 5), min(100, max(bounds) + 5)),
        ("known utterances of the speaker", "UA (%)"),
        x_names=names,
    )
    legend = []
    for place, (group, points) in enumerate(lines.items()):
        classes = f"series-{place % NUM_SERIES + 1}"
        legend.append((classes, group))
        x = [names.index(str(point.known)) for point in points]
        band = [
            (across, 100 * point.ua.low, 100 * point.ua.high)
            for across, point in zip(x, points, strict=True)
            if point.ua.low is not None and point.ua.high is not None
        ]
        if len(band) > 1:
            plot.band(band, classes)
        plot.line(
            [(across, 100 * point.ua.value) for across, point in zip(x, points, strict=True)], classes, group
        )
        for across, point in zip(x, points, strict=True):
            tip = f"{point.name}: UA {format_estimate(point.ua)} %, WA {format_estimate(point.wa)} %"
            plot.dot(across, 100 * point.ua.value, classes, tip)
    return plot.svg("UA over the number of known utterances of the speaker"), legend


def differences(comparisons: Sequence[Comparison]) -> Markup:
    """A forest plot of the differences to the reference in the first measure: UA, or CCC."""
    measure = comparisons[0].measure
    rows = [row for row in comparison_rows(comparisons) if row["test"] == measure]
    first, title = rows[0], measure_title(measure)
    systems = []
    for row in rows:
        low, high = (None if row[end] is None else 100 * row[end] for end in ("low", "high"))
        significant = row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT
        name, value = Path(row["run"]).name, format_measure(measure, row["of_run"], row["of_run_sd"])
        systems.append(ForestRow(name, value, 100 * row["difference"], low, high, significant))
    reference = ForestRow(
        Path(first["reference"]).name,
        format_measure(measure, first["of_reference"], first["of_reference_sd"]),
        is_reference=True,
    )
    unit = f"{title} (%)" if is_share(measure) else title
    panel = forest_panel("systems", [reference, *systems])
    return forest([panel], f"Differences in {title} to the reference", unit)


def dimensions(table: DimensionPredictions) -> dict[str, Markup]:
    """For each dimension a chart with a dot for each utterance: its prediction over its label."""
    charts = {}
    for column, name in enumerate(table.dimensions):
        plot = Plot((0, 1), (0, 1), ("label", "prediction"), square=True)
        plot.line([(0, 0), (1, 1)], "reference")
        for row in np.flatnonzero(~np.isnan(table.truth[:, column])):
            label, predicted = float(table.truth[row, column]), float(table.predicted[row, column])
            tip = f"{table.utterances[row]}: label {label:.2f}, predicted {predicted:.2f}"
            plot.dot(label, predicted, "faint series-1", tip, radius=2.5)
        charts[name] = plot.svg(f"Predicted {name} over its label")
    return charts


def agreement(item: Agreement) -> Markup:
    """How often student and teacher are correct, as one bar."""
    parts = [
        ("both correct", item.both_right, "series-1"),
        ("only the student correct", item.only_student_right, "series-3"),
        ("only the teacher correct", item.only_teacher_right, "series-2"),
        ("neither correct", item.neither_right, "none"),
    ]
    return stacked(parts, f"How often student and {item.teacher} teacher are correct")


def learning_curves(trainings: Trainings) -> list[dict[str, Any]]:
    """For each model, a chart of dev UA by epoch with a line for each fold, and a chart of the loss terms.

    `kept` says in words which epoch's weights each fold kept.
    """
    charts = []
    for model, folds in trainings.items():
        histories = {fold: result.history for fold, result in folds.items()}
        num_epochs = max(row["epoch"] for history in histories.values() for row in history)
        loss, terms = _loss_chart(model, histories, num_epochs)
        charts.append(
            {
                "model": model,
                "folds": len(folds),
                "dev": _dev_chart(model, folds, num_epochs),
                "loss": loss,
                "terms": terms,
                "kept": kept_epochs(folds),
            }
        )
    return charts


def kept_epochs(folds: Mapping[str, "FitResult"]) -> str:
    """Which epoch's weights each fold kept, as a sentence."""
    if len(folds) == 1:
        (result,) = folds.values()
        return f"Kept: the weights after epoch {result.epochs} of {len(result.history)}."
    each = ", ".join(f"{result.epochs} (fold {fold})" for fold, result in folds.items())
    return f"Kept: the weights after epoch {each}."


def _dev_chart(model: str, folds: Mapping[str, "FitResult"], num_epochs: float) -> Markup | None:
    """Dev UA by epoch, a line for each fold and their mean; None where no epoch was scored on dev.

    A ring marks the epoch that each fold kept.
    """
    by_fold = {
        fold: [(row["epoch"], 100 * row["dev_ua"]) for row in result.history if "dev_ua" in row]
        for fold, result in folds.items()
    }
    values = [ua for points in by_fold.values() for _, ua in points]
    if not values:
        return None
    plot = Plot(
        (1, num_epochs), (max(0, min(values) - 5), min(100, max(values) + 5)), ("epoch", "dev UA (%)")
    )
    for fold, points in by_fold.items():
        plot.line(points, "thin series-1" if len(by_fold) > 1 else "series-1", f"fold {fold}")
    if len(by_fold) > 1:
        by_epoch: dict[float, list[float]] = {}
        for points in by_fold.values():
            for epoch, ua in points:
                by_epoch.setdefault(epoch, []).append(ua)
        means = [(epoch, float(np.mean(by_epoch[epoch]))) for epoch in sorted(by_epoch)]
        plot.line(means, "mean", "mean over folds")
    for fold, points in by_fold.items():
        for epoch, ua in points:
            if epoch == folds[fold].epochs:
                plot.dot(
                    epoch, ua, "kept", f"fold {fold} kept epoch {epoch:g}: dev UA {ua:.1f} %", radius=4.5
                )
    return plot.svg(f"{model}: dev UA by epoch")


def _loss_chart(
    model: str, folds: Mapping[str, Sequence[Mapping[str, float]]], num_epochs: float
) -> tuple[Markup, list[tuple[str, str]]]:
    """The loss terms by epoch, as means over folds, and (class, name) of each for the legend."""
    rows = [row for history in folds.values() for row in history]
    terms = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name != "epoch" and not name.startswith("dev_")
    ]
    if len(terms) > 1:
        terms = [name for name in terms if name != "loss"]  # their weighted sum
    lines = {
        name: [
            (epoch, float(np.mean([row[name] for row in rows if row["epoch"] == epoch and name in row])))
            for epoch in sorted({row["epoch"] for row in rows if name in row})
        ]
        for name in terms
    }
    highest = max((value for points in lines.values() for _, value in points), default=1.0)
    plot = Plot((1, num_epochs), (0, highest), ("epoch", "training loss by term"))
    for name, points in lines.items():
        plot.line(points, _line_classes(name), LOSS_TITLES.get(name, name))
    legend = [(_line_classes(name), LOSS_TITLES.get(name, name)) for name in lines]
    return plot.svg(f"{model}: training loss by epoch"), legend


def _line_classes(name: str) -> str:
    """The CSS classes of a loss term's line, by its name in fit.json: term -> colour, teacher -> dashes."""
    teacher, _, term = name.rpartition("/")
    colours = {item.name: f"series-{item.colour}" for item in TERMS}
    colour = colours.get(term, "series-1")  # a model without teachers has one line, its loss
    return f"{colour} {teacher}-teacher" if teacher else colour


def embedding_map(points: np.ndarray, table: Predictions) -> Markup:
    """A dot for each utterance at its point (utterances, 2), coloured by true emotion; errors are rings."""
    low, high = points.min(axis=0), points.max(axis=0)
    plot = Plot((low[0], high[0]), (low[1], high[1]), square=True, bare=True)
    for row, (x, y) in enumerate(points.tolist()):
        predicted = table.labels.names[table.predicted[row]]
        correct = predicted == table.emotions[row]
        tip = f"{table.utterances[row]}, speaker {table.speakers[row]}: {table.emotions[row]}" + (
            "" if correct else f", predicted as {predicted}"
        )
        plot.dot(x, y, "own" if correct else "own ring", tip, COLOURS[table.emotions[row]], 3.2)
    return plot.svg("Embeddings of test utterances in two dimensions")


def legend(table: Predictions) -> list[tuple[str, str]]:
    """(emotion, colour) of the emotions that occur."""
    return [(name, COLOURS[name]) for name in table.labels if name in table.emotions]
