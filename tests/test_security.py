"""SECURITY.md: each limit of the threat model names tests that exist, or the reason why it has none."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEST = re.compile(r"`(tests/test_\w+\.py)::(test_\w+)`")
UNTESTED = re.compile(r"not tested: .{20,}")
SEPARATOR = re.compile(r"\|( ?-+ ?\|)+")


@cache
def names_in(file: str) -> frozenset[str]:
    """The names of all test functions of a file; none where the file does not exist."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of the tables below each heading, without the heads of the tables."""
    found: dict[str, list[list[str]]] = {}
    title, in_table = "", False
    for line in text.splitlines():
        if heading := re.match(r"#+ (.+)", line):
            title, in_table = heading[1], False
        elif SEPARATOR.fullmatch(line):
            in_table = True
        elif in_table and line.startswith("|"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
        else:
            in_table = False
    return found


def problems(text: str) -> list[str]:
    """What is wrong with the threat model in `text`."""
    found = []
    sections = tables(text)
    for actor, *_ in sections["Who is trusted with what"]:
        name = re.sub(r"\[(.+)\]\(#.+\)", r"\1", actor)
        title = name[0].upper() + name[1:]
        if title not in sections:
            found.append(f"'{name}' has no section '{title}' with a table of limits")
        for row in sections.get(title, []):
            found += _problems_of_row(title, row)
    return found


def _problems_of_row(title: str, row: list[str]) -> list[str]:
    where = f"{title}: '{row[0]}'"
    if len(row) != 2:
        return [f"{where} has {len(row)} cells, expected a limit and its tests"]
    if UNTESTED.fullmatch(row[1]):
        return []
    named = TEST.findall(row[1])
    if not named or TEST.sub("", row[1]).strip(" ,"):
        return [f"{where} has '{row[1]}', expected `tests/test_x.py::test_y`, … or 'not tested: reason'"]
    missing = [f"{file}::{name}" for file, name in named if name not in names_in(file)]
    return [f"{where} names tests that do not exist: {missing}"] if missing else []


def test_each_limit_of_the_threat_model_names_tests_that_exist() -> None:
    assert problems((ROOT / "SECURITY.md").read_text(encoding="utf-8")) == []


def test_few_limits_have_no_test() -> None:
    sections = tables((ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    rows = [
        row
        for title, part in sections.items()
        for row in part
        if "tests/" in str(part) or "not tested" in str(part)
    ]
    untested = [row for row in rows if row[-1].startswith("not tested")]
    assert len(rows) >= 40
    assert len(untested) <= len(rows) / 10, untested


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("| It is safe. | `tests/test_security.py::test_few_limits_have_no_test` |", None),
        ("| It is safe. | not tested: only a person can see whether it is |", None),
        ("| It is safe. | `tests/test_security.py::test_of_nothing` |", "names tests that do not exist"),
        ("| It is safe. | `tests/test_no_file.py::test_of_nothing` |", "names tests that do not exist"),
        ("| It is safe. | trust us |", "has 'trust us', expected"),
        ("| It is safe. | not tested: |", "has 'not tested:', expected"),
        ("| It is safe. |  |", "has '', expected"),
        ("| It is safe. |", "has 1 cells"),
    ],
)  # fmt: skip
def test_a_limit_without_a_test_or_a_reason_is_a_problem(row: str, problem: str | None) -> None:
    text = (
        "## Who is trusted with what\n\n| who | with |\n| --- | --- |\n| [a guest](#a-guest) | nothing |\n\n"
        f"### A guest\n\n| limit | tests |\n| --- | --- |\n{row}\n"
    )
    found = problems(text)
    assert found == [] if problem is None else problem in found[0]
    assert problems(text.replace("### A guest", "### A host"))[0].startswith("'a guest' has no section")
