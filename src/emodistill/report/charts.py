"""Small charts as SVG. Text stays text, colours come from the page's theme, and the width fits a phone."""

import math
from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from emodistill.evaluation.forest import ForestPanel, ForestRow

WIDTH, HEIGHT = 360, 250  # of a chart, px; a phone is hardly wider
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 38  # margins, px
BARE_MARGIN = 10  # px, on the left and at the bottom of a chart without axes
ROW_HEIGHT = 20  # of a bar with the space below it, px
NAME_WIDTH = 84  # of the names beside bars, px
NAME_LENGTH = 13  # characters of a name that fit into it
FOREST_ROW = 36  # of a name with the interval below it, px
FOREST_NAME_LENGTH = 38  # characters of a name that fit beside its UA
FOREST_AXIS = 44  # of the numbers of a panel and the space below them, px


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values between two bounds."""
    span = high - low
    if span <= 0:
        return [low]
    smallest_step = span / count
    power = 10.0 ** math.floor(math.log10(smallest_step))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= smallest_step * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


class Plot:
    """A chart with two axes, as a list of SVG elements. `classes` are CSS classes; `series-k` is a colour."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str] = ("", ""),
        square: bool = False,
        bare: bool = False,
        x_names: Sequence[str] = (),
    ) -> None:
        """Start a chart.

        Args:
            x, y: the range of each axis.
            labels: the name of each axis.
            square: as high as wide.
            bare: without axes, where they have no unit.
            x_names: the names of x = 0, 1, …, which stand below the axis in place of numbers.
        """
        self.x, self.y = _not_empty(x), _not_empty(y)
        self.height = WIDTH if square else HEIGHT
        self.labels, self.bare, self.x_names = labels, bare, x_names
        self.elements: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point in px, from the left and from the top."""
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        left = BARE_MARGIN if self.bare else LEFT
        bottom = BARE_MARGIN if self.bare else BOTTOM
        return (
            round(left + across * (WIDTH - left - RIGHT), 1),
            round(self.height - bottom - up * (self.height - bottom - TOP), 1),
        )

    def line(self, points: Sequence[tuple[float, float]], classes: str, tip: str = "") -> None:
        """Draw a line through points, or a dot where there is only one. `tip` is shown under the pointer."""
        if len(points) == 1:
            return self.dot(*points[0], classes=classes, tip=tip)
        path = " ".join(f"{a},{b}" for a, b in (self.at(*point) for point in points))
        self.elements.append(f'<polyline class="line {classes}" points="{path}">{_tip(tip)}</polyline>')
        return None

    def band(self, points: Sequence[tuple[float, float, float]], classes: str) -> None:
        """Draw the area between lower and upper bounds; each point is (x, low, high)."""
        if not points:
            return
        edge = [self.at(x, low) for x, low, _ in points] + [
            self.at(x, high) for x, _, high in reversed(points)
        ]
        path = " ".join(f"{a},{b}" for a, b in edge)
        self.elements.append(f'<polygon class="band {classes}" points="{path}"/>')

    def dot(
        self, x: float, y: float, classes: str = "", tip: str = "", colour: str = "", radius: float = 3
    ) -> None:
        """Draw a dot. `colour` is used instead of the colour of the classes."""
        across, down = self.at(x, y)
        style = f' style="--own:{colour}"' if colour else ""
        self.elements.append(
            f'<circle class="dot {classes}"{style} cx="{across}" cy="{down}" r="{radius}">'
            f"{_tip(tip)}</circle>"
        )

    def svg(self, description: str) -> Markup:
        """The chart as SVG. Screen readers read the description."""
        axes = [] if self.bare else self._axes()
        return _svg(WIDTH, self.height, [*axes, *self.elements], description)

    def _axes(self) -> list[str]:
        """Ticks, grid lines and names of both axes."""
        elements = []
        numbers = {value: f"{value:g}" for value in ticks(*self.x)}
        names = {float(place): name for place, name in enumerate(self.x_names)} or numbers
        for value, name in names.items():
            across, down = self.at(value, self.y[0])
            elements.append(
                f'<text class="tick" x="{across}" y="{down + 14}" text-anchor="middle">{escape(name)}</text>'
            )
        for value in ticks(*self.y):
            across, down = self.at(self.x[0], value)
            end = self.at(self.x[1], value)[0]
            elements.append(f'<line class="grid" x1="{across}" y1="{down}" x2="{end}" y2="{down}"/>')
            elements.append(
                f'<text class="tick" x="{across - 5}" y="{down + 3.5}" text-anchor="end">{value:g}</text>'
            )
        (left, bottom), (right, top) = self.at(self.x[0], self.y[0]), self.at(self.x[1], self.y[1])
        middle = (top + bottom) / 2
        elements.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
        elements.append(
            f'<text class="label" x="{(left + right) / 2}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(self.labels[0])}</text>"
        )
        elements.append(
            f'<text class="label" transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.labels[1])}</text>"
        )
        return elements


def bars(rows: Sequence[tuple[str, float, str]], mark: float, description: str) -> Markup:
    """Horizontal bars, each (name, share from 0 to 1, tip), and a line at the share `mark`."""
    width = WIDTH - NAME_WIDTH - 42

    def across(share: float) -> float:
        return round(NAME_WIDTH + share * width, 1)

    elements, values = [], []
    for place, (name, share, tip) in enumerate(rows):
        top = place * ROW_HEIGHT + 2
        short_name = name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}"
        bar_width = max(0.5, across(share) - NAME_WIDTH)
        elements.append(
            f"<g>{_tip(f'{name}: {tip}')}"
            f'<text class="tick" x="{NAME_WIDTH - 6}" y="{top + 12}" text-anchor="end">'
            f"{escape(short_name)}</text>"
            f'<rect class="bar" x="{NAME_WIDTH}" y="{top}" width="{bar_width:.1f}" '
            f'height="{ROW_HEIGHT - 5}" rx="2"/>'
            "</g>"
        )
        values.append(f'<text class="value" x="{across(share) + 4}" y="{top + 12}">{100 * share:.0f}</text>')
    bottom = ROW_HEIGHT * len(rows)
    elements.append(f'<line class="mark" x1="{across(mark)}" y1="0" x2="{across(mark)}" y2="{bottom + 4}"/>')
    elements.append(
        f'<text class="label" x="{across(mark)}" y="{bottom + 18}" text-anchor="middle">'
        f"all: {100 * mark:.1f}</text>"
    )
    # The values come last, so that the line does not cross them out.
    return _svg(WIDTH, bottom + 26, [*elements, *values], description)


def stacked(parts: Sequence[tuple[str, float, str]], description: str) -> Markup:
    """One bar of length 1, made of parts, each (name, share, classes)."""
    elements, left = [], 0.0
    for name, share, classes in parts:
        width = share * WIDTH
        elements.append(
            f"<g>{_tip(f'{name}: {100 * share:.1f} %')}"
            f'<rect class="{classes}" x="{left:.1f}" y="0" width="{width:.1f}" height="26"/>'
        )
        if width > 34:
            elements.append(
                f'<text class="inside" x="{left + width / 2:.1f}" y="17" text-anchor="middle">'
                f"{100 * share:.0f} %</text>"
            )
        elements.append("</g>")
        left += width
    return _svg(WIDTH, 26, elements, description)


def forest(panels: Sequence[ForestPanel], description: str, unit: str = "UA (%)") -> Markup:
    """A forest plot: for each row its name and value, and below them its difference with the interval.

    `unit` is the measure and its unit, where it is not UA.
    """
    elements: list[str] = []
    top = 0.0
    for panel in panels:
        elements.append(f'<text class="label" x="0" y="{top + 12}">{escape(panel.title)}</text>')
        elements.append(
            f'<text class="tick" x="{WIDTH}" y="{top + 12}" text-anchor="end">{escape(unit)}</text>'
        )
        top += 18
        bottom = top + FOREST_ROW * len(panel.rows)
        for value in ticks(panel.low, panel.high):
            across = _across(panel, value)
            kind = "mark" if value == 0 else "grid"
            elements += [  # beside the intervals alone, so that no line crosses a text
                f'<line class="{kind}" x1="{across}" y1="{end - 19}" x2="{across}" y2="{end}"/>'
                for end in (top + place * FOREST_ROW for place in range(1, len(panel.rows) + 1))
            ]
            elements.append(
                f'<text class="tick" x="{across}" y="{bottom + 13}" text-anchor="middle">'
                f"{_signed(value)}</text>"
            )
        for place, row in enumerate(panel.rows):
            elements += _forest_row(panel, row, top + place * FOREST_ROW, unit)
        top = bottom + FOREST_AXIS
    return _svg(WIDTH, round(top - FOREST_AXIS + 20), elements, description)


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def _across(panel: ForestPanel, value: float) -> float:
    """The place of a difference in a forest plot, in px from the left."""
    share = (value - panel.low) / (panel.high - panel.low)
    return round(BARE_MARGIN + share * (WIDTH - 2 * BARE_MARGIN), 1)


def _forest_row(panel: ForestPanel, row: ForestRow, top: float, unit: str) -> list[str]:
    """A row of a forest plot as SVG elements. What lies outside of the scale becomes an arrow."""
    percent = " %" if unit.endswith("(%)") else ""
    value = f"{unit.removesuffix(' (%)')} {row.value}{percent}"
    name = row.name if len(row.name) <= FOREST_NAME_LENGTH else f"{row.name[: FOREST_NAME_LENGTH - 1]}…"
    middle = top + 26
    kind = "series-1" if panel.students else "other"
    elements = [
        f"<g>{_tip(f'{row.name}: {value} {row.figures}'.strip())}",
        f'<text class="value" x="0" y="{top + 14}">{escape(name)}</text>',
        f'<text class="value" x="{WIDTH}" y="{top + 14}" text-anchor="end">{escape(row.value)}</text>',
    ]
    if row.is_reference:
        across = _across(panel, 0)
        elements.append(f'<path class="dot {kind}" d="M{across} {middle - 6}l6 6l-6 6l-6 -6z"/>')
    if row.difference is not None and row.ends is not None:
        low, high = row.ends
        ends = [_across(panel, panel.within(value)) for value in (low, high)]
        if panel.is_far(row):
            left = row.difference < panel.low
            elements.append(
                f'<text class="value" x="{ends[0] + 12 if left else ends[1] - 12}" y="{middle + 4}" '
                f'text-anchor="{"start" if left else "end"}">{escape(row.figures)}</text>'
            )
        else:
            elements.append(
                f'<line class="interval {kind}" x1="{ends[0]}" y1="{middle}" x2="{ends[1]}" y2="{middle}"/>'
            )
        for end, away, beyond in ((ends[0], -7, low < panel.low), (ends[1], 7, high > panel.high)):
            if beyond:
                elements.append(f'<path class="dot {kind}" d="M{end} {middle - 5}v10l{away} -5z"/>')
        if not panel.is_far(row):
            hollow = "" if row.significant or not panel.students else " hollow"
            across = _across(panel, row.difference)
            elements.append(f'<circle class="dot {kind}{hollow}" cx="{across}" cy="{middle}" r="4.5"/>')
    return [*elements, "</g>"]


def _not_empty(bounds: tuple[float, float]) -> tuple[float, float]:
    """A range that is wider than zero."""
    low, high = bounds
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _svg(width: int, height: int, elements: Sequence[str], description: str) -> Markup:
    # The elements' texts were escaped when they were made.
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">'
        f"{''.join(elements)}</svg>"
    )
