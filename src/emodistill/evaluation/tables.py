"""Comparisons and scores as a person or another program reads them: a table, JSON or CSV."""

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.evaluation.compare import Comparison

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
    for column in (
        "reference",
        "run",
        "test",
        "reference's",
        "run's",
        "difference",
        "95 % interval",
        "p",
        "p, Holm",
    ):
        table.add_column(column, justify="left" if column in ("reference", "run", "test") else "right")
    for row in comparison_rows(found):
        counts = row["test"] == "mcnemar"
        values = (row["of_reference"], row["of_run"], row["difference"])
        cells = [
            *(f"{value}" for value in values[:2]), f"{values[2]:+d}", "–",
        ] if counts else [
            percent(values[0]), percent(values[1]), percent(values[2], True),
            f"{percent(row['low'], True)} … {percent(row['high'], True)}",
        ]  # fmt: skip
        test = "right alone (McNemar)" if counts else row["test"].upper()
        table.add_row(
            escape(row["reference"]), escape(row["run"]), test, *cells, p_shown(row["p_value"]), p_shown(row["p_holm"]),
            end_section=counts,
        )  # fmt: skip
    table.caption = (
        "UA and WA in %, intervals and p by paired bootstrap over speakers; McNemar takes utterances for "
        "independent. Holm: corrected for all comparisons of a test here."
    )
    to.print(table)
    return None


def flat(data: Mapping[str, Any], prefix: str = "") -> list[Row]:
    """Nested plain data as rows of key and value, for CSV."""
    rows: list[Row] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            for index, item in enumerate(value):
                rows += flat(item, f"{name}.{index}.")
        else:
            rows.append({"key": name, "value": value})
    return rows
