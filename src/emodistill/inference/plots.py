"""A picture of a timeline: the waveform and the probabilities over time, or the trend of a long recording."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.errors import ConfigError, EmodistillError, MissingExtraError
from emodistill.files import atomic_write
from emodistill.inference.display import NO_ANSWER, clock_label
from emodistill.inference.lanes import ENVELOPE_SAMPLES
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import Timeline
from emodistill.inference.trend import (
    TrendStep,
    default_step_s,
    dimensions_of,
    speakers_of,
    trend,
)
from emodistill.labels import COLOURS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNSURE_COLOUR = "#505050"  # of a segment without an emotion
SUFFIXES = (".png", ".svg", ".pdf")
WHOLE_S = 120.0  # a longer recording is drawn as a trend
DIMENSION_COLOURS = {
    "arousal": "#c2410c", "valence": "#0f766e", "dominance": "#7c3aed", "intensity": "#374151",
}  # fmt: skip
LINE_STYLES = ("-", "--", ":", "-.")  # one a speaker
TICKS_S = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
MOST_PEAKS = 4000  # more would not be visible in a picture

Curve = list[tuple[float, float]]  # (time in seconds, probability)


def plot_timeline(row: Timeline, emotions: Sequence[str], path: Path, step_s: float | None = None) -> None:
    """Draw a timeline and write the picture to `path`.

    Up to `WHOLE_S` the picture has the waveform and the probabilities of each window, for a timeline that was
    made with `traced=True`. A longer one has the trend: shares of the emotions for each step, with one row
    for each speaker, and the dimensions. `step_s` chooses the step, and the trend for any length.

    Raises `ConfigError` for a suffix other than .png, .svg and .pdf, `MissingExtraError` without matplotlib,
    and `EmodistillError` for a timeline without a trace.
    """
    check_picture(path)
    if row.trace is None or row.duration_s is None:
        raise EmodistillError(f"'{row.path}' was not traced: call timeline(…, traced=True) to draw it")
    if step_s is not None or row.duration_s > WHOLE_S:
        figure = _trend_figure(row, emotions, step_s or default_step_s(row.duration_s))
    else:
        figure = _window_figure(row, emotions)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)


def _window_figure(row: Timeline, emotions: Sequence[str]) -> "Figure":
    """The waveform of each speaker in the colours of the segments, above the probabilities of each window."""
    assert row.duration_s is not None
    names: Sequence[str | None] = list(dict.fromkeys(part.speaker for part in row.segments)) or [None]
    has_curves = any(segment.dimensions is not None for segment in row.segments)
    heights = [1.0 if len(names) == 1 else 0.7] * len(names) + [1.2] + [0.8] * has_curves
    figure, axes_list = _figure(row, heights, width=min(16.0, max(9.0, 5 + row.duration_s / 12)))
    for axes, name in zip(axes_list, names, strict=False):
        _draw_waveform(axes, row, name)
    _draw_probabilities(axes_list[len(names)], row, emotions)
    if has_curves:
        _draw_dimensions(axes_list[-1], row.segments, names)
    _add_legend(figure, row, emotions, axes_list[-1])
    return figure


def _trend_figure(row: Timeline, emotions: Sequence[str], step_s: float) -> "Figure":
    """The stacked shares of the emotions in each step, a row a speaker, above the dimensions."""
    steps = trend(row, step_s)
    names: Sequence[str | None] = speakers_of(row.segments) or [None]
    has_curves = any(step.dimensions is not None for step in steps)
    figure, axes_list = _figure(row, [1.0] * (len(names) + has_curves), width=12.0)
    for axes, name in zip(axes_list, names, strict=False):
        _draw_shares(axes, [step for step in steps if step.speaker == name], emotions)
        axes.set_ylabel("share of the time" if name is None else _short(name))
    if has_curves:
        _draw_dimensions(axes_list[-1], steps, names)
    axes_list[-1].set_xlabel(f"{axes_list[-1].get_xlabel()}  (one step: {_step(step_s)})")
    _add_legend(figure, row, emotions, axes_list[-1])
    return figure


def _figure(row: Timeline, heights: Sequence[float], width: float) -> tuple["Figure", Sequence["Axes"]]:
    """A figure with one row of each relative height, a title and one time axis."""
    from matplotlib.figure import Figure

    assert row.duration_s is not None
    figure = Figure(figsize=(width, max(3.6, 0.8 + 2.0 * sum(heights))), layout="constrained")
    axes_list = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes in axes_list:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, 1)
    axes_list[0].set_title(f"{drawable(Path(row.path).name)}  ·  {_clock(row.duration_s)}", loc="left")
    _label_time(axes_list[-1], row.duration_s)
    return figure, list(axes_list)


def _draw_shares(axes: "Axes", steps: Sequence[TrendStep], emotions: Sequence[str]) -> None:
    """Draw one stacked bar for each step. What is left white is silence, or the speech of others."""
    starts = np.array([step.start_s for step in steps])
    lengths = np.array([step.end_s - step.start_s for step in steps])
    whole = np.maximum(lengths, [step.speech_s for step in steps])
    reached = np.zeros(len(steps))
    for name, colour in (*((name, COLOURS[name]) for name in emotions), (None, UNSURE_COLOUR)):
        seconds = [step.unsure_s if name is None else step.seconds.get(name, 0.0) for step in steps]
        heights = np.array(seconds) / whole
        axes.bar(starts, heights, 0.94 * lengths, reached, align="edge", color=colour, linewidth=0)
        reached += heights


def _draw_dimensions(
    axes: "Axes", parts: Sequence[TrendStep] | Sequence[Segment], names: Sequence[str | None]
) -> None:
    """Draw each dimension: a point for each step or a line for each segment, with a style a speaker."""
    dimensions = dimensions_of(parts)
    for number, name in enumerate(names):
        for dimension in dimensions:
            points: Curve = []
            for part in parts:
                if part.speaker != name:
                    continue
                value = (part.dimensions or {}).get(dimension, math.nan)
                if isinstance(part, TrendStep):
                    points.append(((part.start_s + part.end_s) / 2, value))
                else:
                    points += [(part.start_s, value), (part.end_s, value), (part.end_s, math.nan)]
            if points:
                axes.plot(
                    *zip(*points, strict=True), LINE_STYLES[number % len(LINE_STYLES)],
                    color=DIMENSION_COLOURS[dimension],
                    label=dimension if name is None else f"{dimension}, {_short(name)}", linewidth=1.8,
                    marker="." if isinstance(parts[0], TrendStep) else None, markersize=4,
                    clip_on=False,  # the whole line at 0 and at 1, which a head often predicts
                )  # fmt: skip
    axes.set_ylabel(",\n".join(", ".join(dimensions[at : at + 2]) for at in range(0, len(dimensions), 2)))
    axes.grid(axis="y", color="#e6e6e6")


def _short(name: str) -> str:
    return drawable(name if len(name) <= 24 else f"{name[:23]}…")


def drawable(text: str) -> str:
    """Return a text that is drawn as it is: without signs that no font has, and `$` begins no formula."""
    valid = text.encode("utf-8", "replace").decode()
    return "".join(sign if sign.isprintable() else " " for sign in valid).replace("$", r"\$")


def _step(step_s: float) -> str:
    return f"{step_s:g} s" if step_s < 60 else f"{step_s / 60:g} min"


def _add_legend(figure: "Figure", row: Timeline, emotions: Sequence[str], curves: "Axes") -> None:
    """Add the colour of each emotion with its sum over the recording and each speaker, and the curves."""
    from matplotlib.patches import Patch

    assert row.duration_s is not None
    in_minutes = row.duration_s > WHOLE_S

    def length(value: float) -> str:
        return clock_label(value) if in_minutes else f"{value:.1f} s"

    sums = [(name, COLOURS[name], row.summary.get(name, 0.0)) for name in emotions]
    unsure_s = sum(segment.end_s - segment.start_s for segment in row.segments if segment.emotion is None)
    if unsure_s:
        sums.append((NO_ANSWER, UNSURE_COLOUR, unsure_s))
    legend: list[Artist] = [
        Patch(color=colour, label=f"{name}  {length(value)}") for name, colour, value in sums
    ]
    for speaker, summary in (row.speakers or {}).items():
        legend.append(Patch(alpha=0, label=_short(speaker)))
        legend += [
            Patch(color=COLOURS[name], label=f"  {name}  {length(value)}")
            for name, value in summary.items()
            if value
        ]
    legend += curves.get_legend_handles_labels()[0]
    figure.legend(handles=legend, loc="outside right upper", frameon=False, title="emotion, in all")


def check_picture(path: Path) -> None:
    """Raise the errors of `plot_timeline` that depend on the path alone, before any recording is read."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"cannot draw to '{path}': expected .png, .svg or .pdf")
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    del matplotlib


def _draw_waveform(axes: "Axes", row: Timeline, speaker: str | None) -> None:
    """Draw the envelope in grey, and each segment of a speaker over it in the colour of its emotion.

    In a recording that was split, the envelope is that of the speaker's channel.
    """
    assert row.trace is not None
    channel = next((part.channel for part in row.segments if part.speaker == speaker), None)
    trace = row.trace if channel is None or not row.trace.channels else row.trace.channels[channel]
    step = max(1, len(trace.envelope) // MOST_PEAKS)
    peaks = np.maximum.reduceat(trace.envelope, np.arange(0, len(trace.envelope), step))
    step_s = step * ENVELOPE_SAMPLES / SAMPLE_RATE
    times = step_s * (np.arange(len(peaks)) + 0.5)
    axes.fill_between(times, -peaks, peaks, color="#c8c8c8", linewidth=0)
    for segment in row.segments:
        if segment.speaker != speaker:
            continue
        colour = COLOURS[segment.emotion] if segment.emotion else UNSURE_COLOUR
        axes.axvspan(segment.start_s, segment.end_s, color=colour, alpha=0.2, linewidth=0)
        first = max(0, round(segment.start_s / step_s - 0.5))
        inside = slice(first, max(first + 2, round(segment.end_s / step_s + 0.5)))
        axes.fill_between(times[inside], -peaks[inside], peaks[inside], color=colour, linewidth=0)
    top = max(0.01, float(peaks.max()))
    axes.set_ylim(-1.12 * top, 1.12 * top)
    axes.set_ylabel("amplitude" if speaker is None else _short(speaker))


def _draw_probabilities(axes: "Axes", row: Timeline, emotions: Sequence[str]) -> None:
    """Draw one curve for each emotion."""
    for emotion in emotions:
        for curve in _curves(row, emotion):
            axes.plot(
                *zip(*curve, strict=True), color=COLOURS[emotion], linewidth=1.8, solid_capstyle="round"
            )
    axes.set_ylabel("probability")
    axes.grid(axis="y", color="#e6e6e6")


def _label_time(axes: "Axes", duration_s: float) -> None:
    """Scale the time axis to the recording, with ticks at whole minutes where it is long."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    axes.set_xlim(0, duration_s)
    axes.set_xlabel("time, s" if duration_s < 90 else "time, min:s" if duration_s < 3600 else "time, h:min:s")
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    if duration_s >= 90:
        tick_s = next((tick_s for tick_s in TICKS_S if duration_s <= 12 * tick_s), TICKS_S[-1])
        axes.xaxis.set_major_locator(MultipleLocator(tick_s))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: clock_label(time)))


def _curves(row: Timeline, emotion: str) -> list[Curve]:
    """The probability of an emotion over time: one curve for each stretch of speech, a point for each window.

    A timeline of given segments has no windows; there each segment is a level line.
    """
    assert row.trace is not None
    if not row.trace.updates:
        return [
            [
                (segment.start_s, segment.probabilities[emotion]),
                (segment.end_s, segment.probabilities[emotion]),
            ]
            for segment in row.segments
            if segment.probabilities
        ]
    curves: list[Curve] = []
    reached_s = None
    for update in row.trace.updates:
        if reached_s is None or update.start_s > reached_s:
            curves.append([(update.start_s, update.probabilities[emotion])])
        curves[-1].append(((update.start_s + update.end_s) / 2, update.probabilities[emotion]))
        reached_s = update.end_s
    for curve, end_s in zip(curves, _stretch_ends(row), strict=True):
        curve.append((end_s, curve[-1][1]))
    return curves


def _stretch_ends(row: Timeline) -> list[float]:
    """The end of each stretch of speech, in seconds: the end of a window that the next one does not touch."""
    assert row.trace is not None
    updates = row.trace.updates
    next_starts = [*(update.start_s for update in updates[1:]), float("inf")]
    return [
        update.end_s for update, start_s in zip(updates, next_starts, strict=True) if start_s > update.end_s
    ]


def _clock(time_s: float) -> str:
    """A duration for reading: `12.3 s`, `5:07` (minutes and seconds) or `1:02:03` (with hours)."""
    return f"{time_s:.1f} s" if time_s < 90 else clock_label(time_s)
