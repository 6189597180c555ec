"""Comparisons and scores as a table on the terminal, as JSON or as CSV."""

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.evaluation.bootstrap import FEW_SPEAKERS, Estimate
from emodistill.evaluation.compare import MEAN_CCC, VOTES_PREFIX, Comparison, is_share, measure_title
from emodistill.evaluation.cost import (
    RunCost,
    compared_columns,
    compared_costs,
    cost_notes,
    cost_rows,
    read_cost,
    show_costs,
)
from emodistill.evaluation.dimension_tables import show_dimensions
from emodistill.evaluation.known_scores import HEADER, known_cells, known_notes
from emodistill.evaluation.metrics import SCORE_TITLES
from emodistill.evaluation.scores import RunScores, calibration_titles
from emodistill.evaluation.vote_tables import show_votes
from emodistill.inference.model_card import MIN_SPEAKERS

Row = dict[str, Any]

CALIBRATION_TITLES = {"ece": "calibration error %", "nll": "NLL nats", "brier": "Brier", "aurc": "AURC %"}


# --- cells -----------------------------------------------------------------------------------------


def format_percent(value: float | None, sign: bool = False) -> str:
    """A share as a percentage with two decimals, – for None; with `sign`, also + before positive ones."""
    return "–" if value is None else f"{100 * value:{'+' if sign else ''}.2f}"


def format_p_value(value: float | None) -> str:
    """A p-value with three decimals, – for None."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_estimate(estimate: Estimate | None, scale: float = 100, digits: int = 1) -> str:
    """A figure, times `scale`, and its interval in brackets; – for None."""
    return "–" if estimate is None else estimate.text(scale, digits)


def format_calibration(name: str, estimate: Estimate) -> str:
    """A calibration figure in the unit of `CALIBRATION_TITLES`."""
    return format_estimate(estimate, 100, 1) if name in ("ece", "aurc") else format_estimate(estimate, 1, 3)


# --- formats ---------------------------------------------------------------------------------------


def write_csv(rows: Sequence[Row], to: Console) -> None:
    """Write rows that have the same keys as CSV."""
    writer = csv.DictWriter(to.file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def write_json(data: Any, to: Console) -> None:
    """Write dicts, lists and numbers as JSON."""
    to.file.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def flatten(data: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> list[Row]:
    """Nested dicts and lists as rows of key and value, for CSV.

    The key of a list's item is the item's name where it has one, else its place.
    """
    items = (
        data.items()
        if isinstance(data, Mapping)
        else ((_item_name(place, item), item) for place, item in enumerate(data))
    )
    rows: list[Row] = []
    for key, value in items:
        if isinstance(value, (Mapping, list, tuple)):
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append({"key": f"{prefix}{key}", "value": value})
    return rows


def _item_name(place: int, item: Any) -> str:
    if isinstance(item, Mapping):
        for name in ("model", "name", "teacher"):
            if name in item:
                return str(item[name])
    return str(place)


# --- comparisons -----------------------------------------------------------------------------------


def comparison_rows(comparisons: Sequence[Comparison]) -> list[Row]:
    """A row for each pair of runs or groups and each test, with shares, not percent.

    McNemar's test has no row where a group of seeds is compared.
    """
    rows: list[Row] = []
    for comparison in comparisons:
        seeds = {
            "reference_seeds": _seed_names(comparison.reference_seeds),
            "run_seeds": _seed_names(comparison.run_seeds),
        }
        names = {"reference": comparison.reference, "run": comparison.run}
        costs = {
            **compared_columns("reference", compared_costs(comparison.reference_runs)),
            **compared_columns("run", compared_costs(comparison.run_runs)),
        }
        for measure, difference in comparison.differences.items():
            rows.append(
                {**names, "test": measure, "of_reference": difference.reference, "of_run": difference.run,
                 "difference": difference.value, "low": difference.low, "high": difference.high,
                 "p_value": difference.p_value, "p_holm": difference.p_holm,
                 "detectable": difference.detectable, "of_reference_sd": difference.reference_sd,
                 "of_run_sd": difference.run_sd, **seeds, "no_interval": difference.no_interval, **costs}
            )  # fmt: skip
        mcnemar = comparison.mcnemar
        if mcnemar is None:
            continue
        rows.append(
            {**names, "test": "mcnemar", "of_reference": mcnemar.only_reference, "of_run": mcnemar.only_run,
             "difference": mcnemar.only_run - mcnemar.only_reference, "low": None, "high": None,
             "p_value": mcnemar.p_value, "p_holm": mcnemar.p_holm, "detectable": None,
             "of_reference_sd": None, "of_run_sd": None, **seeds, "no_interval": None, **costs}
        )  # fmt: skip
    return rows


def _seed_names(seeds: Sequence[int | None]) -> str:
    return " ".join(str(seed) for seed in seeds if seed is not None)


def format_mean(mean: float | None, sd: float | None) -> str:
    """A share as a percentage, with its standard deviation where there is one; – for None."""
    return format_percent(mean) + ("" if sd is None else f" ± {format_percent(sd)}")


def comparison_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """How to read a table of comparisons, and which seeds were compared."""
    has_seeds = any(len(item.reference_runs) > 1 or len(item.run_runs) > 1 for item in comparisons)
    notes = [
        f"{_of_measures(comparisons)} Intervals and p: paired bootstrap over speakers. "
        "Detectable: the smallest true difference that would give p < 0.05 in 80 of 100 experiments like "
        "this one. Holm: p corrected over all comparisons of a test in this table."
    ]
    if has_seeds:
        notes.append(
            "±: standard deviation over seeds. With several seeds the interval is for other speakers and "
            "other seeds; with one seed each it is for other speakers and these trained models."
        )
    else:
        notes.append("One seed each: the interval is for other speakers, not for other seeds.")
    if any(item.mcnemar is not None for item in comparisons):
        notes.append(
            "McNemar counts the utterances that only one run classified correctly; its p treats utterances "
            "as independent."
        )
    if any(item.mcnemar is None and "ua" in item.differences for item in comparisons):
        notes.append(
            "McNemar's test is left out for groups, since models of several seeds make related errors."
        )
    notes += dict.fromkeys(f"{item.run}: {item.note}." for item in comparisons if item.note)
    undefined = dict.fromkeys(name for item in comparisons for name in item.undefined)
    notes += [f"CCC of {name} is not defined, since all labels are equal." for name in undefined]
    if comparisons[0].unfinished:
        notes.append(f"The runs are not finished: they lack folds {', '.join(comparisons[0].unfinished)}.")
    return notes


def _of_measures(comparisons: Sequence[Comparison]) -> str:
    """Which measures are compared, and their units."""
    names = {name for item in comparisons for name in item.differences}
    parts = ["UA and WA in %, pooled over folds."] if "ua" in names else []
    if any(name.startswith(MEAN_CCC) for name in names):
        parts.append("CCC of labels and predictions from 0 to 1, pooled over folds.")
    if MEAN_CCC in names:
        parts.append("CCC without a name is the mean over dimensions.")
    if any(name.startswith(VOTES_PREFIX) for name in names):
        parts.append("Scores of votes are against the listeners' votes; lower is better.")
    return " ".join(parts)


def show_comparisons(comparisons: Sequence[Comparison], format: str, to: Console) -> None:
    """Print comparisons; `format` is table, json or csv."""
    if format == "json":
        return write_json(
            [
                {**comparison.as_dict(), "reference_cost": compared_costs(comparison.reference_runs),
                 "run_cost": compared_costs(comparison.run_runs)}
                for comparison in comparisons
            ],
            to,
        )  # fmt: skip
    if format == "csv":
        return write_csv(comparison_rows(comparisons), to)
    first = comparisons[0]
    table = Table(
        title=f"test, all folds pooled: {first.num_utterances} utterances of {first.num_speakers} speakers"
    )
    for column in ("reference", "run"):
        table.add_column(column, overflow="fold")
    table.add_column("test")
    for column in ("reference's", "run's", "difference", "95 % interval", "detectable", "p", "p, Holm"):
        table.add_column(column, justify="right", overflow="fold")
    rows = comparison_rows(comparisons)
    for row, next_row in zip_longest(rows, rows[1:]):
        table.add_row(
            escape(row["reference"]), escape(row["run"]), *_test_cells(row),
            format_p_value(row["p_value"]), format_p_value(row["p_holm"]),
            end_section=next_row is not None and _pair(next_row) != _pair(row),
        )  # fmt: skip
    table.caption = "\n".join(comparison_notes(comparisons))
    to.print(table)
    _show_compared_costs(comparisons, to)
    return None


def _show_compared_costs(comparisons: Sequence[Comparison], to: Console) -> None:
    """Print what the runs cost: the main model of each, and its teachers together."""
    costs: dict[str, list[RunCost]] = {}
    ua: dict[tuple[str, str], float] = {}
    for item in comparisons:
        found = item.differences.get("ua")
        for name, folders, value in (
            (item.reference, item.reference_runs, None if found is None else found.reference),
            (item.run, item.run_runs, None if found is None else found.run),
        ):
            read = [read_cost(Path(folder)) for folder in folders]
            known = [cost for cost in read if cost is not None]
            if known and len(known) == len(read):
                costs[name] = known
                if value is not None:
                    ua[name, next(iter(known[0].models))] = value
    notes = cost_notes([cost for known in costs.values() for cost in known])
    show_costs(cost_rows(costs, ua, brief=True), notes, to)


def _pair(row: Row) -> tuple[str, str]:
    return row["reference"], row["run"]


def _test_cells(row: Row) -> list[str]:
    """The cells of a comparison from the test's name to the smallest detectable difference."""
    of_reference, of_run, difference = row["of_reference"], row["of_run"], row["difference"]
    if row["test"] == "mcnemar":
        return ["McNemar", f"{of_reference}", f"{of_run}", f"{difference:+d}", "–", "–"]
    name = row["test"]
    return [
        measure_title(name),
        format_measure(name, of_reference, row["of_reference_sd"]),
        format_measure(name, of_run, row["of_run_sd"]),
        format_value(name, difference, True),
        format_ends(row),
        format_value(name, row["detectable"]),
    ]


def format_ends(row: Row) -> str:
    """The interval of a row of `comparison_rows`, the reason why there is none, or –."""
    return format_interval(row["test"], row["low"], row["high"], row["no_interval"])


def format_interval(measure: str, low: float | None, high: float | None, no_interval: str | None) -> str:
    """The interval of a difference in a measure, the reason why there is none, or – without either."""
    if low is None or high is None:
        return no_interval or "–"
    return f"{format_value(measure, low, True)} … {format_value(measure, high, True)}"


def format_value(measure: str, value: float | None, sign: bool = False) -> str:
    """A value of a measure: a share in percent with two decimals, others with three; – for None."""
    if value is None or is_share(measure):
        return format_percent(value, sign)
    return f"{value:{'+' if sign else ''}z.3f}"  # z: no minus before 0.000


def format_measure(measure: str, mean: float | None, sd: float | None) -> str:
    """A value of a measure, with its standard deviation where there is one; – for None."""
    return format_value(measure, mean) + ("" if sd is None else f" ± {format_value(measure, sd)}")


# --- all scores of a run ---------------------------------------------------------------------------


def show_scores(scores: RunScores, format: str, to: Console) -> None:
    """Print all scores of a run; `format` is table, json or csv (a row for each figure)."""
    if format == "json":
        return write_json(scores.as_dict(), to)
    if format == "csv":
        return write_csv(flatten(scores.as_dict()), to)
    title = f"{scores.name}, test, protocol {scores.protocol}"
    if scores.models:
        _show_emotions(scores, title, to)
    if scores.cost is not None:
        ua = {(scores.name, model.model): model.scores["ua"].value for model in scores.models}
        show_costs(cost_rows({scores.name: [scores.cost]}, ua), cost_notes([scores.cost]), to)
    if scores.dimensions is not None:
        show_dimensions(scores.dimensions, title, to)
    _show_known(scores, to)
    if scores.models:
        _show_recall(scores, to)
        _show_calibration(scores, to)
        _show_groups(scores, to)
        _show_agreement(scores, to)
        _show_listeners(scores, to)
    if scores.votes is not None:
        show_votes(scores.votes, to)
    for note in scores.notes:
        to.print(f"note: {note}", markup=False)
    return None


def _show_emotions(scores: RunScores, title: str, to: Console) -> None:
    """Print the scores of each model."""
    table = Table("model", "utterances", "speakers", title=escape(title))
    for column in (*SCORE_TITLES.values(), "UA over folds"):
        table.add_column(column, justify="right")
    for model in scores.models:
        fold = model.folds["ua"]
        table.add_row(
            model.model, str(model.num_utterances), str(model.num_speakers),
            *(format_estimate(model.scores[name]) for name in SCORE_TITLES),
            format_percent(fold["mean"]) + (f" ± {format_percent(fold['sd'])}" if fold["sd"] else ""),
        )  # fmt: skip
    table.caption = (
        "%, all folds pooled, with 95 % intervals by bootstrap over speakers; "
        "over folds: mean ± standard deviation"
    )
    reasons = dict.fromkeys(item.no_interval for model in scores.models for item in model.scores.values())
    table.caption += "".join(f"\n{reason}" for reason in reasons if reason)
    to.print(table)


def _show_known(scores: RunScores, to: Console) -> None:
    """Print the curve over known utterances, where there is one."""
    if not scores.known:
        return
    table = Table(title="known utterances of the speaker")
    for column in HEADER:
        table.add_column(column, justify="left" if column in ("test data", "known") else "right")
    for score, next_score in zip_longest(scores.known, scores.known[1:]):
        ends_group = next_score is not None and next_score.group != score.group
        table.add_row(*map(escape, known_cells(score)), end_section=ends_group)
    table.caption = " ".join(known_notes(scores.known))
    to.print(table)


def _show_recall(scores: RunScores, to: Console) -> None:
    model = scores.models[0]
    table = Table("true", title=f"{model.model}: recall in %, and utterances by predicted emotion")
    for column in ("recall", *scores.emotions):
        table.add_column(column, justify="right")
    for emotion, row in zip(scores.emotions, model.confusion, strict=True):
        table.add_row(emotion, format_estimate(model.recall.get(emotion)), *map(str, row))
    to.print(table)


def _show_calibration(scores: RunScores, to: Console) -> None:
    temperatures = ", ".join(f"{value:.2f}" for value in scores.temperatures.values())
    title = f"calibration; temperature of each fold: {temperatures}" if temperatures else "calibration"
    titles = calibration_titles(scores.calibration)
    table = Table("confidences", title=title)
    for column in (*CALIBRATION_TITLES.values(), "error % if calibrated, at most"):
        table.add_column(column, justify="right")
    for when, part in scores.calibration.items():
        cells = (format_calibration(name, part.figures[name]) for name in CALIBRATION_TITLES)
        table.add_row(titles[when], *cells, f"{100 * part.ece_if_perfect:.1f}")
    table.caption = (
        "Calibration error: root mean square gap between confidence and accuracy, in bins, without bias from "
        "few utterances. A perfectly calibrated model stays below the last column in 95 of 100 draws."
    )
    to.print(table)


def _show_groups(scores: RunScores, to: Console) -> None:
    table = Table(
        "by", "group", "utterances", "speakers", title=f"{scores.models[0].model} by group of utterances, %"
    )
    for column in ("UA", "WA"):
        table.add_column(column, justify="right")
    for by, groups in scores.groups.items():
        for group in groups:
            cells = (format_estimate(group.scores[name]) for name in ("ua", "wa"))
            table.add_row(
                by, escape(group.name), str(group.num_utterances), str(group.num_speakers), *cells,
                end_section=group is groups[-1],
            )  # fmt: skip
    counts = [group.num_speakers for groups in scores.groups.values() for group in groups]
    notes = []
    if any(count < MIN_SPEAKERS for count in counts):
        notes.append(f"No interval: fewer than {MIN_SPEAKERS} speakers.")
    if any(MIN_SPEAKERS <= count < FEW_SPEAKERS for count in counts):
        notes.append(f"Intervals over fewer than {FEW_SPEAKERS} speakers are uncertain.")
    table.caption = " ".join(notes)
    to.print(table)


def _show_agreement(scores: RunScores, to: Console) -> None:
    if not scores.agreement:
        return
    table = Table("teacher", "utterances", title="student and teacher, %")
    columns = ("student_ua", "teacher_ua", "agree", "both_right", "only_student_right",
               "only_teacher_right", "neither_right")  # fmt: skip
    for column in columns:
        table.add_column(column.replace("_ua", " UA").replace("_", " "), justify="right")
    for agreement in scores.agreement:
        cells = (f"{100 * getattr(agreement, name):.1f}" for name in columns)
        table.add_row(agreement.teacher, str(agreement.num_utterances), *cells)
    to.print(table)


def _show_listeners(scores: RunScores, to: Console) -> None:
    if scores.ceiling is None:
        return
    listeners = scores.ceiling
    to.print(
        f"Listeners: {listeners.num_utterances} utterances have votes, {listeners.votes_each:.1f} each. "
        f"A single listener chooses the label with UA {format_estimate(listeners.one_listener['ua'])}, "
        f"WA {format_estimate(listeners.one_listener['wa'])}, and the majority of the other listeners in "
        f"{format_estimate(listeners.one_against_others)} %. The student on these utterances: "
        f"UA {format_estimate(listeners.student['ua'])}, WA {format_estimate(listeners.student['wa'])}.",
        markup=False,
    )
