"""Timelines for other programs: JSON, CSV, SRT, RTTM, Audacity labels, Praat TextGrid; and as a picture.

A segment without an emotion (below `min_confidence`) is kept everywhere: null in JSON, an empty field in
CSV, `?` where a label is wanted.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.console import UNENCODABLE
from emodistill.errors import ConfigError, EmodistillError, MissingExtraError, one_of
from emodistill.files import atomic_write
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import ENVELOPE_SAMPLES, Timeline, rttm_id
from emodistill.labels import COLOURS

UNSURE = "?"  # the label of a segment without an emotion
NO_EMOTION = "#505050"  # its colour
PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Writer:
    """A text format of timelines: its suffix, and whether a file of it can hold several recordings."""

    suffix: str
    several: bool
    text: Callable[[Sequence[Timeline], Sequence[str]], str]  # timelines, emotions of the model -> file


def as_json(rows: Sequence[Timeline], emotions: Sequence[str]) -> str:
    """An array with one object per recording, those that could not be read included."""
    return json.dumps([row.as_dict() for row in rows], ensure_ascii=False, indent=1) + "\n"


def as_csv(rows: Sequence[Timeline], emotions: Sequence[str]) -> str:
    """One row per segment; a recording without any is one row with the reason, or the error in reading it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [f"p_{name}" for name in emotions]
    writer.writerow(
        ["path", "start_s", "end_s", "speaker", "emotion", "confidence", "reason", "error", *names]
    )
    for row in rows:
        if row.reason or row.error:
            writer.writerow([row.path, *[""] * 5, row.reason or "", row.error or "", *[""] * len(names)])
        for segment in row.segments:
            values = [segment.speaker, segment.emotion, segment.confidence, None, None]
            values += [segment.probabilities.get(name) for name in emotions]
            shown = ["" if value is None else value for value in values]
            writer.writerow([row.path, segment.start_s, segment.end_s, *shown])
    return stream.getvalue()


def as_srt(rows: Sequence[Timeline], emotions: Sequence[str]) -> str:
    """SubRip subtitles: `speaker: emotion 83 %`."""
    parts = [
        f"{number}\n{_clock(segment.start_s)} --> {_clock(segment.end_s)}\n{_label(segment)}{_percent(segment)}\n"
        for number, segment in enumerate(_all(rows), start=1)
    ]
    return "\n".join(parts)


def as_rttm(rows: Sequence[Timeline], emotions: Sequence[str]) -> str:
    """NIST's Rich Transcription Time Marked, `SPEAKER` lines: the name is the emotion, or speaker/emotion."""
    lines = [
        f"SPEAKER {rttm_id(row.path)} 1 {segment.start_s:.3f} {segment.end_s - segment.start_s:.3f} <NA> <NA> "
        f"{_label(segment, '/', blank='_')} {_confidence(segment)} <NA>\n"
        for row in rows
        for segment in row.segments
    ]
    return "".join(lines)


def as_audacity(rows: Sequence[Timeline], emotions: Sequence[str]) -> str:
    """A label track of Audacity: start, end and label, with tabs between."""
    return "".join(
        f"{segment.start_s:.6f}\t{segment.end_s:.6f}\t{_label(segment)}\n" for segment in _all(rows)
    )


def as_textgrid(rows: Sequence[Timeline], emotions: Sequence[str]) -> str:
    """Praat's TextGrid, long form: a tier for each speaker, empty intervals between the segments.

    Segments of one speaker that overlap go to further tiers, since those of a tier can't.
    """
    (row,) = rows
    end_s = max([row.duration_s or 0.0, *(segment.end_s for segment in row.segments)])
    tiers = _tiers(row.segments) or [("emotion", [])]
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "",
        "xmin = 0", f"xmax = {end_s!r}", "tiers? <exists>", f"size = {len(tiers)}", "item []:",
    ]  # fmt: skip
    for number, (name, segments) in enumerate(tiers, start=1):
        intervals = _intervals(segments, end_s)
        lines += [
            f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}",
            "        xmin = 0", f"        xmax = {end_s!r}", f"        intervals: size = {len(intervals)}",
        ]  # fmt: skip
        for place, (start, stop, label) in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{place}]:", f"            xmin = {start!r}", f"            xmax = {stop!r}",
                f"            text = {_quoted(label)}",
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


WRITERS = {
    "json": Writer(".json", True, as_json),
    "csv": Writer(".csv", True, as_csv),
    "srt": Writer(".srt", False, as_srt),
    "rttm": Writer(".rttm", True, as_rttm),
    "audacity": Writer(".txt", False, as_audacity),
    "textgrid": Writer(".TextGrid", False, as_textgrid),
}


def write(rows: Sequence[Timeline], format: str, path: Path, emotions: Sequence[str]) -> None:
    """Write timelines to a file, complete or not at all; its folder is made."""
    if format not in WRITERS:
        raise ConfigError(one_of("format", format, WRITERS))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(
            WRITERS[format].text(rows, emotions), encoding="utf-8", errors=UNENCODABLE, newline=""
        )


def ensure_same_settings(note: Path, output: Path, asked: dict[str, Any]) -> None:
    """Write down what an output is made with, or raise `ConfigError` where the note says that it was another.

    So that a resumed output never mixes the answers of two models, or of two settings.
    """
    if note.is_file():
        try:
            there = json.loads(note.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(
                f"'{note}', which says what '{output}' was made with, is damaged: name another output"
            ) from error
        different = [name for name, value in asked.items() if there.get(name) != value]
        if different:
            raise ConfigError(
                f"'{output}' was begun with another {' and '.join(different)}: name another output"
            )
    note.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(note) as partial:
        partial.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")


def output_names(paths: Sequence[Path], roots: Sequence[Path], suffix: str) -> dict[Path, Path]:
    """Where each recording's file goes below an output folder: as it lies below the folder that named it.

    The recording's own suffix is kept where two would else share a file. Raises `ConfigError` where they
    still do.
    """
    folders = [root for root in roots if root.is_dir()]
    below: dict[Path, Path] = {}
    for path in paths:
        root = next((folder for folder in folders if path.is_relative_to(folder)), path.parent)
        below[path] = path.relative_to(root)
    names = {path: short.with_suffix(suffix) for path, short in below.items()}
    times = Counter(names.values())
    names = {
        path: below[path].with_name(below[path].name + suffix) if times[name] > 1 else name
        for path, name in names.items()
    }
    taken: dict[Path, Path] = {}
    for path, name in names.items():
        if name in taken:
            raise ConfigError(
                f"'{taken[name]}' and '{path}' would both be written to '{name}': give them one at a time"
            )
        taken[name] = path
    return names


def _all(rows: Iterable[Timeline]) -> list[Segment]:
    return [segment for row in rows for segment in row.segments]


def _label(segment: Segment, between: str = ": ", blank: str = " ") -> str:
    """`emotion`, or `speaker: emotion`, on one line."""
    emotion = segment.emotion or UNSURE
    if segment.speaker is None:
        return emotion
    return f"{blank.join(segment.speaker.split())}{between}{emotion}"


def _percent(segment: Segment) -> str:
    return "" if segment.confidence is None else f" {100 * segment.confidence:.0f} %"


def _confidence(segment: Segment) -> str:
    return "<NA>" if segment.confidence is None else f"{segment.confidence:.4f}"


def _clock(time_s: float) -> str:
    """SubRip's hours:minutes:seconds,milliseconds."""
    seconds, ms = divmod(round(1000 * time_s), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},{ms:03d}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _tiers(segments: Sequence[Segment]) -> list[tuple[str, list[Segment]]]:
    """Segments without overlaps, by speaker: `emotion`, or the speaker's name; `… 2` for what overlaps."""
    tiers: list[tuple[str | None, list[Segment]]] = []
    for segment in segments:
        fitting = (
            held
            for speaker, held in tiers
            if speaker == segment.speaker and held[-1].end_s <= segment.start_s
        )
        held = next(fitting, None)
        if held is None:
            tiers.append((segment.speaker, [segment]))
        else:
            held.append(segment)
    named: list[tuple[str, list[Segment]]] = []
    for place, (speaker, held) in enumerate(tiers):
        before = sum(other == speaker for other, _ in tiers[:place])
        named.append(((speaker or "emotion") + (f" {before + 1}" if before else ""), held))
    return named


def _intervals(segments: Sequence[Segment], end_s: float) -> list[tuple[float, float, str]]:
    """Segments and, between them, nothing: intervals without gaps from 0 to the end."""
    found: list[tuple[float, float, str]] = []
    reached = 0.0
    for segment in segments:
        if segment.start_s > reached:
            found.append((reached, segment.start_s, ""))
        found.append((segment.start_s, segment.end_s, segment.emotion or UNSURE))
        reached = segment.end_s
    if end_s > reached or not found:
        found.append((reached, end_s, ""))
    return found


# --- the picture ---------------------------------------------------------------------------------


def plot_timeline(row: Timeline, emotions: Sequence[str], path: Path) -> None:
    """Draw a timeline that was `traced`: its waveform, coloured by segment, over the probabilities in time.

    Raises `ConfigError` for a suffix other than .png, .svg and .pdf, `MissingExtraError` without matplotlib.
    """
    check_picture(path)
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if row.trace is None or row.duration_s is None:
        raise EmodistillError(f"'{row.path}' was not traced: call timeline(…, traced=True) to draw it")
    figure = Figure(figsize=(min(24.0, max(9.0, 5 + row.duration_s / 12)), 5.0), layout="constrained")
    wave, curves = figure.subplots(2, sharex=True, height_ratios=[1, 1.2])

    coarse = max(1, len(row.trace.envelope) // 4000)  # no picture shows more
    starts = np.arange(0, len(row.trace.envelope), coarse)
    peaks = np.maximum.reduceat(row.trace.envelope, starts)
    step_s = coarse * ENVELOPE_SAMPLES / SAMPLE_RATE
    times = step_s * (np.arange(len(peaks)) + 0.5)
    wave.fill_between(times, -peaks, peaks, color="#b8b8b8", linewidth=0)
    for segment in row.segments:
        colour = COLOURS[segment.emotion] if segment.emotion else NO_EMOTION
        wave.axvspan(segment.start_s, segment.end_s, color=colour, alpha=0.2, linewidth=0)
        first = max(0, round(segment.start_s / step_s - 0.5))
        inside = slice(first, max(first + 2, round(segment.end_s / step_s + 0.5)))
        wave.fill_between(times[inside], -peaks[inside], peaks[inside], color=colour, linewidth=0)
    top = max(0.01, float(peaks.max()))
    for segment in row.segments:
        if segment.speaker and segment.end_s - segment.start_s > 0.02 * row.duration_s:
            wave.text(segment.start_s, 1.1 * top, f" {segment.speaker}", fontsize=8, va="top", clip_on=True)
    wave.set_ylim(-1.12 * top, 1.12 * top)
    wave.set_ylabel("amplitude")
    wave.set_title(f"{Path(row.path).name}  ·  {_minutes(row.duration_s)}", loc="left")

    for emotion in emotions:
        for points in _curves(row, emotion):
            curves.plot(
                *zip(*points, strict=True), color=COLOURS[emotion], linewidth=1.8, solid_capstyle="round"
            )
    curves.set_ylim(0, 1)
    curves.set_ylabel("probability")
    curves.set_xlim(0, row.duration_s)
    curves.set_xlabel(
        "time, s" if row.duration_s < 90 else "time, min:s" if row.duration_s < 3600 else "time, h:min:s"
    )
    curves.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    if row.duration_s >= 90:
        curves.xaxis.set_major_formatter(FuncFormatter(lambda time, _: _minutes(time)))
    curves.grid(axis="y", color="#e6e6e6")
    for axes in (wave, curves):
        axes.spines[["top", "right"]].set_visible(False)
    told = [
        Patch(color=COLOURS[name], label=f"{name}  {row.summary.get(name, 0.0):.1f} s") for name in emotions
    ]
    unsure_s = sum(segment.end_s - segment.start_s for segment in row.segments if segment.emotion is None)
    if unsure_s:
        told.append(Patch(color=NO_EMOTION, label=f"unsure  {unsure_s:.1f} s"))
    figure.legend(handles=told, loc="outside right upper", frameon=False, title="emotion, in all")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)


def check_picture(path: Path) -> None:
    """Refuse a picture that `draw` could not make, before the work."""
    if path.suffix not in PICTURES:
        raise ConfigError(f"cannot draw to '{path}': expected .png, .svg or .pdf")
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    del matplotlib


def _curves(row: Timeline, emotion: str) -> list[list[tuple[float, float]]]:
    """Probability over time, a curve for each stretch of speech: at the middle of each window.

    Where segments were given there are no windows to show, and each segment is a level line.
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
    found: list[list[tuple[float, float]]] = []
    before_s = None
    for update in row.trace.updates:
        if before_s is None or update.start_s > before_s:
            found.append([(update.start_s, update.probabilities[emotion])])
        found[-1].append(((update.start_s + update.end_s) / 2, update.probabilities[emotion]))
        before_s = update.end_s
    for curve, last in zip(found, _stretch_ends(row), strict=True):
        curve.append((last, curve[-1][1]))
    return found


def _stretch_ends(row: Timeline) -> list[float]:
    assert row.trace is not None
    updates = row.trace.updates
    following = [*(update.start_s for update in updates[1:]), float("inf")]
    return [
        update.end_s for update, start_s in zip(updates, following, strict=True) if start_s > update.end_s
    ]


def _minutes(time_s: float) -> str:
    whole = round(time_s)
    if time_s < 90:
        return f"{time_s:.1f} s"
    if time_s < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
