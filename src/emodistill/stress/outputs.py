"""The result of the suite as JSON, as JUnit XML and as tables on the terminal."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emodistill.errors import without_control
from emodistill.files import atomic_write
from emodistill.stress.advice import FAIRNESS_ADVICE, advice
from emodistill.stress.base import Cell, Change, Check, Marks
from emodistill.stress.suite import FORMAT, Result
from emodistill.version import __version__

MEASURE_TITLES = {  # measure of a check -> its name in tables and messages
    "unchanged": "unchanged",
    "ua_change": "change of UA",
    "precision_change": "change of mean precision",
    "ua difference": "difference of UA",
    "precision difference": "difference of mean precision",
}
MAX_FAILURES = 12  # that the terminal shows
MAX_MISSED = 3  # marks of one cell that a table shows


def measure_title(measure: str) -> str:
    """Return what tables call the measure of a check."""
    return MEASURE_TITLES.get(measure, measure.replace("_", " "))


def check_text(check: Check) -> str:
    """Return a figure and its mark, in percent or points.

    >>> check_text(Check("unchanged", 0.912, 0.95)), check_text(Check("ua_change", -0.062, -0.05))
    ('unchanged 91.2 %, mark 95.0 %', 'change of UA -6.2 points, mark -5.0 points')
    """
    unit, sign = ("%", "") if check.measure == "unchanged" else ("points", "+")
    value, mark = (format(100 * number, f"{sign}.1f") for number in (check.value, check.mark))
    bound = "at most " if check.at_most else ""
    return f"{measure_title(check.measure)} {value} {unit}, mark {bound}{mark} {unit}"


def missed_marks(cell: Cell) -> list[str]:
    """Return the figures that miss their marks, the farthest first, and how many more there are."""
    missed = sorted((check for check in cell.checks if not check.passed), key=_miss, reverse=True)
    texts = [check_text(check) for check in missed[:MAX_MISSED]]
    more = len(missed) - len(texts)
    return [*texts, f"and {more} more"] if more else texts


def _miss(check: Check) -> float:
    return abs(check.value - check.mark)


def cell_title(cell: Cell) -> str:
    """Return the name of a cell's change, and whether there was a voice."""
    return f"{cell.name}, with voice" if cell.voice else cell.name


@dataclass(frozen=True)
class Failure:
    """A change, or a test of fairness, that fails somewhere."""

    worst: Cell  # the one that is farthest from its mark
    num_failed: int
    num_cells: int  # with marks

    @property
    def place(self) -> str:
        """Where it fails: the corpus of the worst cell, with or without a voice, and how many cells fail."""
        voice = ", with voice" if self.worst.voice else ""
        return f"{self.worst.corpus}{voice}; {self.num_failed} of {self.num_cells} cells fail"


def failures(cells: Sequence[Cell]) -> list[Failure]:
    """Return what fails, by the distance of its worst cell from the mark."""
    by_name: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.checks:
            by_name[cell.group, cell.name].append(cell)
    found = []
    for group in by_name.values():
        failed = [cell for cell in group if not cell.passed]
        if failed:
            found.append(Failure(max(failed, key=_distance), len(failed), len(group)))
    return sorted(found, key=lambda item: (-_distance(item.worst), item.worst.group, item.worst.name))


def _distance(cell: Cell) -> float:
    """How far a cell is from its mark, in the measure that is farthest."""
    return max(_miss(check) for check in cell.checks if not check.passed)


# --- JSON ------------------------------------------------------------------------------------------


def result_dict(result: Result) -> dict[str, Any]:
    """Return the content of `stress.json`, see docs/reference/json.md."""
    return {
        "format": FORMAT,
        "version": __version__,
        "model": result.model,
        "kind": result.kind,
        "sha256": result.sha256,
        "seed": result.options.seed,
        "utterances": result.options.utterances,
        "passed": result.passed,
        "groups": {
            group: {
                "cells": len(result.checked(group)),
                "passed_cells": sum(bool(cell.passed) for cell in result.checked(group)),
                "share": round(result.share(group), 6),
                "required": result.required[group],
                "passed": result.group_passes(group),
            }
            for group in result.groups
        },
        "corpora": [asdict(facts) for facts in result.corpora],
        "cells": [_cell_dict(cell) for cell in result.cells],
    }


def _cell_dict(cell: Cell) -> dict[str, Any]:
    return {
        "group": cell.group,
        "name": cell.name,
        "corpus": cell.corpus,
        "voice": cell.voice,
        "utterances": cell.utterances,
        "no_answer": cell.no_answer,
        "passed": cell.passed,
        "checks": [
            {
                "measure": check.measure, "value": round(check.value, 6), "mark": round(check.mark, 6),
                "at_most": check.at_most, "passed": check.passed,
            }
            for check in cell.checks
        ],
        "source": cell.source,
        "figures": {name: round(value, 6) for name, value in cell.figures.items()},
        "confusion": {name: dict(row) for name, row in cell.confusion.items()},
        "note": cell.note,
    }  # fmt: skip


def write_json(result: Result, path: Path) -> None:
    """Write `stress.json`."""
    with atomic_write(path) as partial:
        text = json.dumps(result_dict(result), indent=1, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


# --- JUnit -----------------------------------------------------------------------------------------


def write_junit(result: Result, path: Path) -> None:
    """Write the cells as test cases of JUnit XML: one suite for each group, and one case for each cell."""
    root = ElementTree.Element("testsuites", name="emodistill stress")
    by_group: dict[str, list[Cell]] = defaultdict(list)
    for cell in result.cells:
        by_group[cell.group].append(cell)
    for group, cells in by_group.items():
        skipped, failed = (sum(cell.passed is value for cell in cells) for value in (None, False))
        suite = ElementTree.SubElement(
            root, "testsuite", name=f"stress.{group}", tests=str(len(cells)), failures=str(failed),
            errors="0", skipped=str(skipped),
        )  # fmt: skip
        for cell in cells:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"stress.{group}.{_xml_text(cell.corpus)}",
                name=_xml_text(cell_title(cell)),
            )  # fmt: skip
            if cell.passed is None:
                ElementTree.SubElement(case, "skipped", message=_xml_text(cell.note or "no marks"))
            elif not cell.passed:
                missed = "; ".join(check_text(check) for check in cell.checks if not check.passed)
                failure = ElementTree.SubElement(case, "failure", message=missed, type="mark")
                failure.text = f"{missed} ({cell.utterances} utterances, marks: {_xml_text(cell.source)})"
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root, " ")
    with atomic_write(path) as partial:
        ElementTree.ElementTree(root).write(partial, encoding="utf-8", xml_declaration=True)


def _xml_text(text: str) -> str:
    """Return a text without what XML cannot hold."""
    return without_control(text).encode(errors="backslashreplace").decode()


# --- the terminal ----------------------------------------------------------------------------------


def show_result(result: Result, to: Console) -> None:
    """Print the share of passing cells of each group, then what fails first and what to do."""
    table = Table(title=f"Stress suite: {escape(result.model)}", title_justify="left")
    table.add_column("group")
    table.add_column("corpus")
    for title in ("cells", "pass", "share", "required"):
        table.add_column(title, justify="right")
    table.add_column("")
    for group in result.groups:
        cells = result.checked(group)
        for corpus in dict.fromkeys(cell.corpus for cell in cells):
            passed = [bool(cell.passed) for cell in cells if cell.corpus == corpus]
            table.add_row(group, escape(corpus), str(len(passed)), str(sum(passed)), _percent(passed), "", "")
        passed = [bool(cell.passed) for cell in cells]
        verdict = "passes" if result.group_passes(group) else "fails"
        required = f"{100 * result.required[group]:.0f} %"
        table.add_row(
            group,
            "all",
            str(len(passed)),
            str(sum(passed)),
            _percent(passed),
            required,
            verdict,
            style="bold",
        )
        table.add_section()
    to.print(table)
    for facts in result.corpora:
        if facts.no_answer:
            note = f"{facts.no_answer} unchanged recordings have no answer, and are left out"
            to.print(f"{facts.name}: {note}", markup=False)
    for note, names in _notes(result.not_run).items():
        to.print(f"not run, so the suite does not pass: {', '.join(names)}: {note}", markup=False)
    for note, names in _notes([cell for cell in result.cells if cell.group == "fairness"]).items():
        to.print(f"left out: {', '.join(names)}: {note}", markup=False)
    if result.groups:
        _show_failures(failures(result.cells), to)
    else:
        to.print("Nothing was checked, so the suite does not pass.")


def _percent(passed: Sequence[bool]) -> str:
    return f"{100 * sum(passed) / len(passed):.1f} %"


def _notes(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Why cells could not be checked, with the names of their changes."""
    notes: dict[str, dict[str, None]] = defaultdict(dict)
    for cell in cells:
        if cell.note and not cell.checks:
            notes[cell.note][cell.name] = None
    return {note: list(names) for note, names in notes.items()}


def _show_failures(failed: Sequence[Failure], to: Console) -> None:
    if not failed:
        to.print("All cells pass.")
        return
    table = Table(title="What fails first", title_justify="left")
    for title in ("change", "worst in", "figure and mark", "what to do"):
        table.add_column(title, overflow="fold")
    for item in failed[:MAX_FAILURES]:
        missed = "\n".join(missed_marks(item.worst))
        table.add_row(escape(item.worst.name), escape(item.place), missed, cell_advice(item.worst) or "")
    to.print(table)
    if len(failed) > MAX_FAILURES:
        rest = ", ".join(item.worst.name for item in failed[MAX_FAILURES:])
        to.print(f"also fail: {rest}", markup=False)


def cell_advice(cell: Cell) -> str | None:
    """Return what to do about a cell that fails."""
    return FAIRNESS_ADVICE if cell.group == "fairness" else advice(cell.name)


def show_changes(changes: Sequence[Change], marks: dict[str, Marks], to: Console) -> None:
    """Print each change with what it does, its marks and their source."""
    table = Table(title="Changes of the stress suite", title_justify="left")
    for title in ("group", "change", "what it does", "unchanged", "UA", "precision", "marks of"):
        table.add_column(title, overflow="fold")
    for change in changes:
        mark = marks[change.name]
        points = ["" if value is None else f"{100 * value:+.0f}" for value in (mark.ua, mark.precision)]
        table.add_row(
            change.group,
            change.name,
            escape(change.text),
            f"{100 * mark.unchanged:.0f} %",
            *points,
            mark.source,
        )
    to.print(table)
