"""Which chart shows what."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.scores import Agreement, Calibrated, Group
from emodistill.labels import COLOURS
from emodistill.report.charts import Plot, bars, stacked

SHOWN = {"before": ("as the model says it", "series-2"), "after": ("scaled", "series-1")}


def speakers(groups: Sequence[Group], ua: float, most: int) -> dict[str, Any]:
    """A bar for each speaker's UA, lowest first, at most so many."""
    order = sorted(groups, key=lambda item: item.scores["ua"].value)
    rows = [
        (item.name, item.scores["ua"].value, f"UA {100 * item.scores['ua'].value:.1f} %, WA "
         f"{100 * item.scores['wa'].value:.1f} %, {item.num_utterances} utterances")
        for item in order[:most]
    ]  # fmt: skip
    values = [item.scores["ua"].value for item in order]
    return {
        "svg": bars(rows, ua, "UA of each speaker in percent"),
        "shown": len(rows),
        "all": len(order),
        "low": min(values),
        "median": float(np.median(values)),
        "high": max(values),
    }


def reliability(tables: Mapping[str, Calibrated]) -> Markup:
    """Accuracy over confidence, by bins of equally many utterances, with intervals."""
    plot = Plot((0, 1), (0, 1), ("confidence", "accuracy"), square=True)
    plot.line([(0, 0), (1, 1)], "reference")
    for name, table in tables.items():
        title, classes = SHOWN[name]
        if name == list(tables)[-1]:
            plot.band([(item.confidence, item.low, item.high) for item in table.reliability], classes)
        plot.line([(item.confidence, item.accuracy) for item in table.reliability], classes, title)
        for item in table.reliability:
            tip = (
                f"{title}: confidence {item.confidence:.3f}, accuracy {item.accuracy:.3f} "
                f"({item.low:.3f} … {item.high:.3f}), {item.count} utterances"
            )
            plot.dot(item.confidence, item.accuracy, classes, tip)
    return plot.svg("Reliability: accuracy over confidence")


def risk(tables: Mapping[str, Calibrated]) -> Markup:
    """The share of wrong answers among the surest, over how many are answered."""
    highest = max(100 * value for table in tables.values() for _, value in table.risk_coverage)
    plot = Plot(
        (0, 100), (0, max(5.0, highest)), ("answered, surest first (%)", "of these wrong (%)"), square=True
    )
    for name, table in tables.items():
        title, classes = SHOWN[name]
        plot.line([(100 * x, 100 * y) for x, y in table.risk_coverage], classes, title)
    return plot.svg("Risk over coverage")


def agreement(item: Agreement) -> Markup:
    """Who of student and teacher is right, as one bar."""
    parts = [
        ("both right", item.both_right, "series-1"),
        ("only the student right", item.only_student_right, "series-3"),
        ("only the teacher right", item.only_teacher_right, "series-2"),
        ("neither right", item.neither_right, "none"),
    ]
    return stacked(parts, f"Who is right, student or {item.teacher} teacher")


def curves(histories: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> list[dict[str, Any]]:
    """For each model: dev UA by epoch, a line a fold, and the loss terms, mean over folds."""
    made = []
    for model, folds in histories.items():
        epochs = max(row["epoch"] for history in folds.values() for row in history)
        scored = {
            f: [(row["epoch"], 100 * row["dev_ua"]) for row in h if "dev_ua" in row] for f, h in folds.items()
        }
        values = [ua for points in scored.values() for _, ua in points]
        dev = None
        if values:
            plot = Plot(
                (1, epochs), (max(0, min(values) - 5), min(100, max(values) + 5)), ("epoch", "dev UA (%)")
            )
            for fold, points in scored.items():
                plot.line(points, "thin series-1", f"fold {fold}")
            mean = [
                (epoch, float(np.mean([ua for points in scored.values() for e, ua in points if e == epoch])))
                for epoch in sorted({e for points in scored.values() for e, _ in points})
            ]
            if len(scored) > 1:
                plot.line(mean, "mean", "mean over folds")
            dev = plot.svg(f"{model}: dev UA by epoch")
        made.append({"model": model, "folds": len(folds), "dev": dev, **_losses(model, folds, epochs)})
    return made


def _losses(model: str, folds: Mapping[str, Sequence[Mapping[str, float]]], epochs: float) -> dict[str, Any]:
    rows = [row for history in folds.values() for row in history]
    names = [
        name for name in dict.fromkeys(n for row in rows for n in row) if name not in ("epoch", "dev_ua")
    ]
    names = [name for name in names if name != "loss"] if len(names) > 1 else names
    lines = {
        name: [
            (epoch, float(np.mean([row[name] for row in rows if row["epoch"] == epoch and name in row])))
            for epoch in sorted({row["epoch"] for row in rows if name in row})
        ]
        for name in names
    }
    highest = max((value for points in lines.values() for _, value in points), default=1.0)
    plot = Plot((1, epochs), (0, highest), ("epoch", "training loss, term by term"))
    for place, (name, points) in enumerate(lines.items(), start=1):
        plot.line(points, f"series-{place}", name)
    shown = {"loss": "loss", "hard": "label"}
    return {
        "loss": plot.svg(f"{model}: training loss by epoch"),
        "terms": [(f"series-{place}", shown.get(name, name)) for place, name in enumerate(lines, start=1)],
    }


def embedding_map(points: np.ndarray, table: Predictions) -> Markup:
    """Points (utterances, 2) coloured by true emotion; a ring is an error."""
    low, high = points.min(axis=0), points.max(axis=0)
    plot = Plot((low[0], high[0]), (low[1], high[1]), square=True, bare=True)
    for row, (x, y) in enumerate(points.tolist()):
        said = table.labels.names[table.predicted[row]]
        right = said == table.emotions[row]
        tip = f"{table.utterances[row]}, speaker {table.speakers[row]}: {table.emotions[row]}" + (
            "" if right else f", taken for {said}"
        )
        plot.dot(x, y, "own" if right else "own ring", tip, COLOURS[table.emotions[row]], 3.2)
    return plot.svg("Embeddings of test utterances in two dimensions")


def legend(table: Predictions) -> list[tuple[str, str]]:
    """Emotion and colour, of those that occur."""
    return [(name, COLOURS[name]) for name in table.labels if name in table.emotions]
