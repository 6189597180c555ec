"""Forest plots: a row for each system, with its difference to the reference and the difference's interval.

Students and teachers have scales of their own, because teachers may lie far away. A cell that lies far from
the others is drawn as an arrow with its figures, so that the scale can tell the others apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emodistill.errors import MissingExtraError
from emodistill.files import atomic_write

SIGNIFICANT = 0.05  # corrected p-values below it
FAR = 3.0  # times the median extent of a panel's intervals: what reaches further is drawn as an arrow
STUDENTS_COLOUR, OTHERS_COLOUR = "#1f77b4", "#7f7f7f"


@dataclass(frozen=True)
class ForestRow:
    """A system and its difference to the reference, in points of UA or CCC × 100. None: not compared."""

    name: str
    value: str  # its UA or CCC, as text
    difference: float | None = None
    low: float | None = None  # 95 % interval of the difference; None: it has none
    high: float | None = None
    significant: bool = False  # after Holm's correction
    is_reference: bool = False

    @property
    def figures(self) -> str:
        """The difference and its interval as text; empty without a difference."""
        if self.difference is None:
            return ""
        if self.low is None or self.high is None:
            return f"{self.difference:+.1f}"
        return f"{self.difference:+.1f} ({self.low:+.1f} … {self.high:+.1f})"

    @property
    def ends(self) -> tuple[float, float] | None:
        """The ends of the interval, or twice the difference where it has none; None without a difference."""
        if self.difference is None:
            return None
        if self.low is None or self.high is None:
            return self.difference, self.difference
        return self.low, self.high


@dataclass(frozen=True)
class ForestPanel:
    """Rows with one scale, from `low` to `high`, in the unit of their differences."""

    title: str
    rows: tuple[ForestRow, ...]
    low: float
    high: float
    students: bool

    def is_far(self, row: ForestRow) -> bool:
        """Whether a row's difference lies outside of the scale, so that an arrow stands for it."""
        return row.difference is not None and not self.low <= row.difference <= self.high

    def within(self, value: float) -> float:
        """The nearest value on the scale."""
        return min(max(value, self.low), self.high)


def forest_panel(title: str, rows: Sequence[ForestRow], students: bool = True) -> ForestPanel:
    """A panel whose scale shows all intervals but those far from the others.

    The scale of students holds zero, which is the reference. Others have one that holds their intervals.
    """
    bounds = [row.ends for row in rows if row.ends is not None]
    if not bounds:
        return ForestPanel(title, tuple(rows), -1.0, 1.0, students)
    lows, highs = np.array(bounds).T
    if students:
        extents = np.maximum(np.abs(lows), np.abs(highs))
        near = extents <= FAR * np.median(extents)
        low, high = min(0.0, float(lows[near].min())), max(0.0, float(highs[near].max()))
    else:
        low, high = float(lows.min()), float(highs.max())
    margin = 0.06 * (high - low) or 1.0
    return ForestPanel(title, tuple(rows), low - margin, high + margin, students)


def plot_forest(panels: Sequence[ForestPanel], label: str, path: Path, title: str = "UA (%)") -> None:
    """Plot panels, one below the other, to a .png, .svg or .pdf.

    `label` names the horizontal axis, and `title` the measure with its unit. Raises
    `MissingExtraError` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    sizes = [len(panel.rows) for panel in panels]
    height = 1.1 + 0.34 * sum(sizes) + 0.7 * (len(panels) - 1)
    figure = Figure(figsize=(9, height), layout="constrained")
    drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[size + 0.6 for size in sizes])
    for axes, panel in zip(drawn[:, 0], panels, strict=True):
        colour = STUDENTS_COLOUR if panel.students else OTHERS_COLOUR
        axes.set_xlim(panel.low, panel.high)
        axes.set_ylim(len(panel.rows) - 0.4, -0.6)
        axes.set_yticks(range(len(panel.rows)), [row.name for row in panel.rows])
        axes.set_title(panel.title, loc="left", fontsize=10)
        axes.text(1.02, 1.0, title, transform=axes.transAxes, va="bottom", fontsize=9, color="#555555")
        axes.grid(axis="x", color="#e8e8e8")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if panel.low < 0 < panel.high:
            axes.axvline(0, color="#555555", linewidth=0.9, linestyle=":")
        for place, row in enumerate(panel.rows):
            axes.text(1.02, place, row.value, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
            _plot_row(axes, panel, row, place, colour)
    drawn[-1, 0].set_xlabel(label)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)


def _plot_row(axes: object, panel: ForestPanel, row: ForestRow, place: int, colour: str) -> None:
    """Draw a row's interval and point, or an arrow with its figures where it is far away."""
    assert hasattr(axes, "plot")
    assert hasattr(axes, "annotate")
    if row.is_reference:
        axes.plot(0, place, "D", color=colour, markersize=6)
    if row.difference is None or row.ends is None:
        return
    low, high = row.ends
    if panel.is_far(row):
        right = row.difference > panel.high
        edge = panel.high if right else panel.low
        axes.plot(edge, place, ">" if right else "<", color=colour, clip_on=False, markersize=7)
        axes.annotate(
            row.figures, (edge, place), xytext=(-9 if right else 9, 0), textcoords="offset points",
            ha="right" if right else "left", va="center", fontsize=8, color=colour,
        )  # fmt: skip
        return
    axes.plot([panel.within(low), panel.within(high)], [place, place], color=colour, linewidth=1.6)
    if low < panel.low:
        axes.plot(panel.low, place, "<", color=colour, clip_on=False, markersize=5)
    if high > panel.high:
        axes.plot(panel.high, place, ">", color=colour, clip_on=False, markersize=5)
    face = colour if row.significant or not panel.students else "white"
    axes.plot(row.difference, place, "o", color=colour, markerfacecolor=face, markersize=6.5)
