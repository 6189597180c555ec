"""Small charts as SVG: text stays text, colours follow the page's theme, and a phone shows them at full size."""

import math
from collections.abc import Sequence
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 360, 250  # of a chart, in px; a phone is hardly wider
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 38  # margins
BAR = 20  # height of a row of bars
LABEL = 84  # width that names of bars have


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between two bounds, about so many."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


class Plot:
    """Two axes and what is drawn between them; `series-k` are the classes of colours."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str] = ("", ""),
        square: bool = False,
        bare: bool = False,
    ) -> None:
        """`bare`: no ticks, where the axes have no unit."""
        self.x, self.y = _open(x), _open(y)
        self.height = WIDTH if square else HEIGHT
        self.labels, self.bare = labels, bare
        self.drawn: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point in px."""
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        left = 10 if self.bare else LEFT
        bottom = 10 if self.bare else BOTTOM
        return (
            round(left + across * (WIDTH - left - RIGHT), 1),
            round(self.height - bottom - up * (self.height - bottom - TOP), 1),
        )

    def line(self, points: Sequence[tuple[float, float]], classes: str, tip: str = "") -> None:
        """A line through points; a single point is a dot."""
        if len(points) == 1:
            return self.dot(*points[0], classes=classes, tip=tip)
        path = " ".join(f"{a},{b}" for a, b in (self.at(*point) for point in points))
        self.drawn.append(f'<polyline class="line {classes}" points="{path}">{_tip(tip)}</polyline>')
        return None

    def band(self, points: Sequence[tuple[float, float, float]], classes: str) -> None:
        """An area between lower and upper bounds (x, low, high)."""
        edge = [self.at(x, low) for x, low, _ in points] + [
            self.at(x, high) for x, _, high in reversed(points)
        ]
        path = " ".join(f"{a},{b}" for a, b in edge)
        self.drawn.append(f'<polygon class="band {classes}" points="{path}"/>')

    def dot(
        self, x: float, y: float, classes: str = "", tip: str = "", colour: str = "", radius: float = 3
    ) -> None:
        """A dot; `colour` is a colour of its own."""
        across, down = self.at(x, y)
        style = f' style="--own:{colour}"' if colour else ""
        self.drawn.append(
            f'<circle class="dot {classes}"{style} cx="{across}" cy="{down}" r="{radius}">{_tip(tip)}</circle>'
        )

    def svg(self, says: str) -> Markup:
        """The chart; `says` is what it shows, for who cannot see it."""
        parts = [] if self.bare else self._axes()
        return _svg(WIDTH, self.height, [*parts, *self.drawn], says)

    def _axes(self) -> list[str]:
        parts = []
        for value in ticks(*self.x):
            across, down = self.at(value, self.y[0])
            parts.append(
                f'<text class="tick" x="{across}" y="{down + 14}" text-anchor="middle">{value:g}</text>'
            )
        for value in ticks(*self.y):
            across, down = self.at(self.x[0], value)
            end = self.at(self.x[1], value)[0]
            parts.append(f'<line class="grid" x1="{across}" y1="{down}" x2="{end}" y2="{down}"/>')
            parts.append(
                f'<text class="tick" x="{across - 5}" y="{down + 3.5}" text-anchor="end">{value:g}</text>'
            )
        (left, bottom), (right, top) = self.at(self.x[0], self.y[0]), self.at(self.x[1], self.y[1])
        middle = (top + bottom) / 2
        parts.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
        parts.append(
            f'<text class="label" x="{(left + right) / 2}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(self.labels[0])}</text>"
        )
        parts.append(
            f'<text class="label" transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.labels[1])}</text>"
        )
        return parts


def bars(rows: Sequence[tuple[str, float, str]], mark: float, says: str) -> Markup:
    """Horizontal bars of shares (name, 0 to 1, tip), with a mark at one value."""
    height = BAR * len(rows) + 26
    width = WIDTH - LABEL - 42

    def across(share: float) -> float:
        return round(LABEL + share * width, 1)

    parts, values = [], []
    for place, (name, share, tip) in enumerate(rows):
        top = place * BAR + 2
        shown = name if len(name) <= 13 else f"…{name[-12:]}"
        parts.append(
            f'<g>{_tip(f"{name}: {tip}")}<text class="tick" x="{LABEL - 6}" y="{top + 12}" text-anchor="end">'
            f'{escape(shown)}</text><rect class="bar" x="{LABEL}" y="{top}" width="{max(0.5, across(share) - LABEL):.1f}" '
            f'height="{BAR - 5}" rx="2"/></g>'
        )
        values.append(f'<text class="value" x="{across(share) + 4}" y="{top + 12}">{100 * share:.0f}</text>')
    bottom = BAR * len(rows)
    parts.append(f'<line class="mark" x1="{across(mark)}" y1="0" x2="{across(mark)}" y2="{bottom + 4}"/>')
    parts.append(
        f'<text class="label" x="{across(mark)}" y="{bottom + 18}" text-anchor="middle">all: {100 * mark:.1f}</text>'
    )
    return _svg(WIDTH, height, [*parts, *values], says)  # values over the mark: it must not cross them out


def stacked(parts: Sequence[tuple[str, float, str]], says: str) -> Markup:
    """Shares (name, share, classes) side by side in one bar that is 1 long."""
    drawn, at = [], 0.0
    for name, share, classes in parts:
        width = share * WIDTH
        drawn.append(
            f'<g>{_tip(f"{name}: {100 * share:.1f} %")}<rect class="{classes}" x="{at:.1f}" y="0" width="{width:.1f}" '
            f'height="26"/>'
        )
        if width > 34:
            drawn.append(
                f'<text class="inside" x="{at + width / 2:.1f}" y="17" text-anchor="middle">{100 * share:.0f} %</text>'
            )
        drawn.append("</g>")
        at += width
    return _svg(WIDTH, 26, drawn, says)


def _open(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _svg(width: int, height: int, parts: Sequence[str], says: str) -> Markup:
    return Markup(  # all text in it was escaped above
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(says)}">{"".join(parts)}</svg>'
    )
