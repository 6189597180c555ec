"""Comparisons and scores as a person or another program reads them: a table, JSON or CSV."""

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.evaluation.compare import Comparison
from emodistill.evaluation.scores import Estimate, FullScores

Row = dict[str, Any]


def percent(value: float | None, sign: bool = False) -> str:
    """A share as a percentage with two decimals."""
    return "–" if value is None else f"{100 * value:{'+' if sign else ''}.2f}"


def p_shown(value: float | None) -> str:
    """A p-value with the digits that it deserves."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def write_csv(rows: Sequence[Row], to: Console) -> None:
    """Rows of one shape as CSV."""
    writer = csv.DictWriter(to.file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def write_json(data: Any, to: Console) -> None:
    """Plain data as JSON."""
    to.file.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def comparison_rows(found: Sequence[Comparison]) -> list[Row]:
    """A row for each pair of runs and test; shares, not percent."""
    rows: list[Row] = []
    for item in found:
        for name, one in item.differences.items():
            rows.append(
                {"reference": item.reference, "run": item.run, "test": name, "of_reference": one.reference,
                 "of_run": one.run, "difference": one.value, "low": one.low, "high": one.high,
                 "p_value": one.p_value, "p_holm": one.p_holm}
            )  # fmt: skip
        rows.append(
            {"reference": item.reference, "run": item.run, "test": "mcnemar",
             "of_reference": item.mcnemar.only_reference, "of_run": item.mcnemar.only_run,
             "difference": item.mcnemar.only_run - item.mcnemar.only_reference, "low": None, "high": None,
             "p_value": item.mcnemar.p_value, "p_holm": item.mcnemar.p_holm}
        )  # fmt: skip
    return rows


def show_comparisons(found: Sequence[Comparison], format: str, to: Console) -> None:
    """Print comparisons; `format` is table, json or csv."""
    if format == "json":
        return write_json([item.as_dict() for item in found], to)
    if format == "csv":
        return write_csv(comparison_rows(found), to)
    one = found[0]
    table = Table(title=f"test, pooled: {one.num_utterances} utterances of {one.num_speakers} speakers")
    for column in ("reference", "run"):
        table.add_column(column, overflow="fold")
    table.add_column("test")
    for column in ("reference's", "run's", "difference", "95 % interval", "p", "p, Holm"):
        table.add_column(column, justify="right")
    for row in comparison_rows(found):
        counts = row["test"] == "mcnemar"
        values = (row["of_reference"], row["of_run"], row["difference"])
        cells = [
            *(f"{value}" for value in values[:2]), f"{values[2]:+d}", "–",
        ] if counts else [
            percent(values[0]), percent(values[1]), percent(values[2], True),
            f"{percent(row['low'], True)} … {percent(row['high'], True)}",
        ]  # fmt: skip
        test = "McNemar, right alone" if counts else row["test"].upper()
        table.add_row(
            escape(row["reference"]), escape(row["run"]), test, *cells, p_shown(row["p_value"]), p_shown(row["p_holm"]),
            end_section=counts,
        )  # fmt: skip
    table.caption = (
        "UA and WA in %, intervals and p by paired bootstrap over speakers; McNemar takes utterances for "
        "independent. Holm: corrected for all comparisons of a test here."
    )
    if one.unfinished:
        table.caption += f"\nThe runs are not finished: they lack folds {', '.join(one.unfinished)}."
    to.print(table)
    return None


def flat(data: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> list[Row]:
    """Nested plain data as rows of key and value, for CSV: a member of a list goes by its name, else by its number."""
    members = (
        data.items()
        if isinstance(data, Mapping)
        else ((_called(i, item), item) for i, item in enumerate(data))
    )
    rows: list[Row] = []
    for key, value in members:
        if isinstance(value, (Mapping, list, tuple)):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append({"key": f"{prefix}{key}", "value": value})
    return rows


def _called(index: int, item: Any) -> str:
    names = ("model", "name", "teacher")
    return (
        next((item[name] for name in names if name in item), str(index))
        if isinstance(item, Mapping)
        else str(index)
    )


# --- scores in full --------------------------------------------------------------------------------

MODEL_COLUMNS = {"ua": "UA", "wa": "WA", "macro_f1": "macro-F1", "weighted_f1": "weighted F1"}
FEW_SPEAKERS = 10
CALIBRATION_COLUMNS = {"ece": "ECE %", "nll": "NLL nats", "brier": "Brier", "aurc": "AURC %"}


def with_interval(found: Estimate | None, scale: float = 100, digits: int = 1) -> str:
    """A figure and its interval."""
    if found is None:
        return "–"
    text = f"{scale * found.value:.{digits}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} ({scale * found.low:.{digits}f} … {scale * found.high:.{digits}f})"


def calibration_cell(name: str, found: Estimate) -> str:
    """A figure of calibration, in the unit of its column."""
    return with_interval(found, 100, 1) if name in ("ece", "aurc") else with_interval(found, 1, 3)


def show_scores(found: FullScores, format: str, to: Console) -> None:
    """Print scores in full; `format` is table, json or csv (a row for each figure)."""
    if format == "json":
        return write_json(found.as_dict(), to)
    if format == "csv":
        return write_csv(flat(found.as_dict()), to)
    title = f"{found.name}, test, protocol {found.protocol}"
    table = Table("model", "utterances", "speakers", title=escape(title))
    for column in (*MODEL_COLUMNS.values(), "UA over folds"):
        table.add_column(column, justify="right")
    for model in found.models:
        fold = model.folds["ua"]
        table.add_row(
            model.model, str(model.num_utterances), str(model.num_speakers),
            *(with_interval(model.scores[name]) for name in MODEL_COLUMNS),
            percent(fold["mean"]) + (f" ± {percent(fold['sd'])}" if fold["sd"] else ""),
        )  # fmt: skip
    table.caption = (
        "%, pooled, 95 % intervals by bootstrap over speakers; mean ± standard deviation over folds"
    )
    to.print(table)
    _show_recall(found, to)
    _show_calibration(found, to)
    _show_groups(found, to)
    _show_teachers(found, to)
    for note in found.notes:
        to.print(f"note: {note}", markup=False)
    return None


def _show_recall(found: FullScores, to: Console) -> None:
    student = found.models[0]
    table = Table("truth", title=f"{student.model}: recall (%), and what was said instead (utterances)")
    for column in ("recall", *found.emotions):
        table.add_column(column, justify="right")
    for emotion, row in zip(found.emotions, student.confusion, strict=True):
        table.add_row(emotion, with_interval(student.recall.get(emotion)), *map(str, row))
    to.print(table)


def _show_calibration(found: FullScores, to: Console) -> None:
    temperatures = ", ".join(f"{value:.2f}" for value in found.temperatures.values())
    table = Table("confidence", title=f"calibration; temperatures by fold: {temperatures or 'none'}")
    for column in (*CALIBRATION_COLUMNS.values(), "ECE % of a perfect model"):
        table.add_column(column, justify="right")
    for name, part in found.calibration.items():
        cells = (calibration_cell(figure, part.figures[figure]) for figure in CALIBRATION_COLUMNS)
        table.add_row(f"{name} scaling", *cells, f"{100 * part.ece_if_perfect:.1f}")
    to.print(table)


def _show_groups(found: FullScores, to: Console) -> None:
    table = Table(
        "by", "of", "utterances", "speakers", title=f"{found.models[0].model}, parts of the utterances"
    )
    for column in ("UA", "WA"):
        table.add_column(column, justify="right")
    for by, groups in found.groups.items():
        for item in groups:
            cells = (with_interval(item.scores[name]) for name in ("ua", "wa"))
            table.add_row(
                by, escape(item.name), str(item.num_utterances), str(item.num_speakers), *cells,
                end_section=item is groups[-1],
            )  # fmt: skip
    if any(1 < item.num_speakers < FEW_SPEAKERS for groups in found.groups.values() for item in groups):
        table.caption = f"intervals over fewer than {FEW_SPEAKERS} speakers are narrower than they should be"
    to.print(table)


def _show_teachers(found: FullScores, to: Console) -> None:
    if found.agreement:
        table = Table("teacher", "utterances", title="student and teacher, %")
        columns = ("student_ua", "teacher_ua", "agree", "both_right", "only_student_right",
                   "only_teacher_right", "neither_right")  # fmt: skip
        for column in columns:
            table.add_column(column.replace("_ua", " UA").replace("_", " "), justify="right")
        for item in found.agreement:
            cells = (f"{100 * getattr(item, name):.1f}" for name in columns)
            table.add_row(item.teacher, str(item.num_utterances), *cells)
        to.print(table)
    if found.ceiling is not None:
        human, student = found.ceiling.one_listener, found.ceiling.student
        to.print(
            f"listeners, {found.ceiling.votes_each:.1f} votes an utterance over {found.ceiling.num_utterances}: a single "
            f"one says the label with UA {with_interval(human['ua'])}, WA {with_interval(human['wa'])}, and what "
            f"most others say {with_interval(found.ceiling.one_against_others)} % of the time; the student on these: "
            f"UA {with_interval(student['ua'])}, WA {with_interval(student['wa'])}",
            markup=False,
        )
