"""Forest plots: scales that tell the systems apart, arrows for what is far away."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emodistill.evaluation.forest import FAR, ForestRow, forest_panel, plot_forest
from emodistill.report.charts import WIDTH, forest

pytest.importorskip("matplotlib")

intervals = st.tuples(st.floats(-60, 60), st.floats(0.1, 20), st.floats(0.1, 20))


def row(name: str, value: float, below: float = 1.0, above: float = 1.0) -> ForestRow:
    """A row with an interval around its difference."""
    return ForestRow(name, "60.00 ± 1.00", value, value - below, value + above)


@given(st.lists(intervals, min_size=1, max_size=12))
def test_most_intervals_are_whole_on_a_scale_that_they_fill(found: list[tuple[float, float, float]]) -> None:
    rows = [row(f"cell {place}", *item) for place, item in enumerate(found)]
    panel = forest_panel("students", rows)
    assert panel.low < 0 < panel.high
    whole = [item for item in rows if panel.low <= (item.low or 0) and (item.high or 0) <= panel.high]
    assert 2 * len(whole) >= len(rows)
    extents = sorted(max(abs(item.low or 0), abs(item.high or 0)) for item in rows)
    median = (extents[(len(extents) - 1) // 2] + extents[len(extents) // 2]) / 2
    assert panel.high - panel.low <= 2 * FAR * median * 1.13 + 1e-9, "far rows do not stretch the scale"


def test_a_far_row_becomes_an_arrow_and_the_others_keep_their_scale() -> None:
    near = [row("a", -1.0), row("b", 2.0), row("c", 0.5)]
    alone = forest_panel("students", near)
    together = forest_panel("students", [*near, row("far", -40.0)])
    assert (together.low, together.high) == (alone.low, alone.high)
    assert [together.is_far(item) for item in together.rows] == [False, False, False, True]
    svg = forest([together], "differences")
    assert "-40.0 (-41.0 … -39.0)" in svg
    assert "-40.0 (" not in forest([alone], "differences")


def test_the_scale_of_teachers_need_not_hold_zero() -> None:
    panel = forest_panel("teachers", [row("x", -30.0), row("y", -25.0)], students=False)
    assert -32.5 < panel.low < -31
    assert -24 < panel.high < -22.5


# The last one lies to the right of the scale, and its interval begins at the left of it.
@example([(0.0, 1.0, 1.0), (0.0, 1.0, 1.0), (2.0, 4.0, 2.0)], True)
@given(st.lists(intervals, min_size=1, max_size=8), st.booleans())
def test_every_mark_lies_in_the_picture(found: list[tuple[float, float, float]], students: bool) -> None:
    rows = [row(f"cell <{place}> {'long' * 12}", *item) for place, item in enumerate(found)]
    rows += [ForestRow("reference", "70.00 ± 2.00", is_reference=students), ForestRow("other", "–")]
    root = ElementTree.fromstring(forest([forest_panel("all", rows, students)], "differences"))
    height = float(root.attrib["viewBox"].split()[3])
    for item in root.iter():
        for name, most in (("x", WIDTH), ("x1", WIDTH), ("x2", WIDTH), ("cx", WIDTH), ("cy", height)):
            assert 0 <= float(item.attrib.get(name, 0)) <= most
    names = [title.text or "" for title in root.iter("title")]
    assert len(names) == len(rows)
    assert all(item.name in name for item, name in zip(rows, names, strict=True)), "the whole name is a tip"


def test_a_difference_without_an_interval_is_a_dot(tmp_path: Path) -> None:
    panel = forest_panel("students", [ForestRow("full", "70", is_reference=True), ForestRow("a", "72", 2.0)])
    assert panel.low < 0 < 2 < panel.high
    root = ElementTree.fromstring(forest([panel], "differences"))
    assert len(list(root.iter("circle"))) == 1
    assert [title.text for title in root.iter("title")] == ["full: UA 70 %", "a: UA 72 % +2.0"]
    plot_forest([panel], "difference", tmp_path / "forest.png")
    assert (tmp_path / "forest.png").stat().st_size > 5000


def test_a_filled_dot_is_a_significant_difference(tmp_path: Path) -> None:
    rows = [
        ForestRow("full", "70", is_reference=True),
        row("a", 2.0),
        replace(row("b", 3.0), significant=True),
    ]
    root = ElementTree.fromstring(forest([forest_panel("students", rows)], "differences"))
    circles = [item.attrib["class"] for item in root.iter("circle")]
    assert circles == ["dot series-1 hollow", "dot series-1"]
    plot_forest([forest_panel("students", rows)], "difference", tmp_path / "forest.svg")
    assert "<svg" in (tmp_path / "forest.svg").read_text(encoding="utf-8")
