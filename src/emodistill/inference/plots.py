"""A picture of a timeline: the waveform in the colours of the segments, above the probabilities over time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.errors import ConfigError, EmodistillError, MissingExtraError
from emodistill.files import atomic_write
from emodistill.inference.lanes import ENVELOPE_SAMPLES
from emodistill.inference.timelines import Timeline
from emodistill.labels import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNSURE_COLOUR = "#505050"  # of a segment without an emotion
SUFFIXES = (".png", ".svg", ".pdf")
MOST_PEAKS = 4000  # more would not be visible in a picture

Curve = list[tuple[float, float]]  # (time in seconds, probability)


def plot_timeline(row: Timeline, emotions: Sequence[str], path: Path) -> None:
    """Draw a timeline that was made with `traced=True`, and write the picture to `path`.

    Raises `ConfigError` for a suffix other than .png, .svg and .pdf, `MissingExtraError` without matplotlib,
    and `EmodistillError` for a timeline without a trace.
    """
    check_picture(path)
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if row.trace is None or row.duration_s is None:
        raise EmodistillError(f"'{row.path}' was not traced: call timeline(…, traced=True) to draw it")
    figure = Figure(figsize=(min(24.0, max(9.0, 5 + row.duration_s / 12)), 5.0), layout="constrained")
    waveform_axes, curve_axes = figure.subplots(2, sharex=True, height_ratios=[1, 1.2])
    _draw_waveform(waveform_axes, row)
    _draw_probabilities(curve_axes, row, emotions)
    for axes in (waveform_axes, curve_axes):
        axes.spines[["top", "right"]].set_visible(False)
    legend = [
        Patch(color=COLOURS[name], label=f"{name}  {row.summary.get(name, 0.0):.1f} s") for name in emotions
    ]
    unsure_s = sum(segment.end_s - segment.start_s for segment in row.segments if segment.emotion is None)
    if unsure_s:
        legend.append(Patch(color=UNSURE_COLOUR, label=f"unsure  {unsure_s:.1f} s"))
    figure.legend(handles=legend, loc="outside right upper", frameon=False, title="emotion, in all")
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)


def check_picture(path: Path) -> None:
    """Raise the errors of `plot_timeline` that depend on the path alone, before any recording is read."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"cannot draw to '{path}': expected .png, .svg or .pdf")
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    del matplotlib


def _draw_waveform(axes: "Axes", row: Timeline) -> None:
    """Draw the envelope in grey, and each segment over it in the colour of its emotion."""
    assert row.trace is not None
    assert row.duration_s is not None
    step = max(1, len(row.trace.envelope) // MOST_PEAKS)
    peaks = np.maximum.reduceat(row.trace.envelope, np.arange(0, len(row.trace.envelope), step))
    step_s = step * ENVELOPE_SAMPLES / SAMPLE_RATE
    times = step_s * (np.arange(len(peaks)) + 0.5)
    axes.fill_between(times, -peaks, peaks, color="#b8b8b8", linewidth=0)
    for segment in row.segments:
        colour = COLOURS[segment.emotion] if segment.emotion else UNSURE_COLOUR
        axes.axvspan(segment.start_s, segment.end_s, color=colour, alpha=0.2, linewidth=0)
        first = max(0, round(segment.start_s / step_s - 0.5))
        inside = slice(first, max(first + 2, round(segment.end_s / step_s + 0.5)))
        axes.fill_between(times[inside], -peaks[inside], peaks[inside], color=colour, linewidth=0)
    top = max(0.01, float(peaks.max()))
    for segment in row.segments:
        if segment.speaker and segment.end_s - segment.start_s > 0.02 * row.duration_s:
            axes.text(segment.start_s, 1.1 * top, f" {segment.speaker}", fontsize=8, va="top", clip_on=True)
    axes.set_ylim(-1.12 * top, 1.12 * top)
    axes.set_ylabel("amplitude")
    axes.set_title(f"{Path(row.path).name}  ·  {_clock(row.duration_s)}", loc="left")


def _draw_probabilities(axes: "Axes", row: Timeline, emotions: Sequence[str]) -> None:
    """Draw one curve for each emotion, and the time axis below."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    assert row.duration_s is not None
    for emotion in emotions:
        for curve in _curves(row, emotion):
            axes.plot(
                *zip(*curve, strict=True), color=COLOURS[emotion], linewidth=1.8, solid_capstyle="round"
            )
    axes.set_ylim(0, 1)
    axes.set_ylabel("probability")
    axes.set_xlim(0, row.duration_s)
    axes.set_xlabel(
        "time, s" if row.duration_s < 90 else "time, min:s" if row.duration_s < 3600 else "time, h:min:s"
    )
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    if row.duration_s >= 90:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: _clock(time)))
    axes.grid(axis="y", color="#e6e6e6")


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
    """A time for reading: `12.3 s`, `5:07` (minutes and seconds) or `1:02:03` (with hours)."""
    whole = round(time_s)
    if time_s < 90:
        return f"{time_s:.1f} s"
    if time_s < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
