"""The trend of a recording: emotions and dimensions for each step of time, such as every minute."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emodistill.errors import ConfigError
from emodistill.inference.display import NO_ANSWER, clock_label, length_label
from emodistill.labels import DIMENSIONS

if TYPE_CHECKING:
    from rich.table import Table

    from emodistill.inference.segmentation import Segment
    from emodistill.inference.timelines import Timeline

MIN_STEP_S = 1.0
STEPS_S = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)  # that `default_step_s` chooses from
MAX_STEPS = 90  # more would be too narrow to see in a picture or on a page


@dataclass(frozen=True)
class TrendStep:
    """One step of a trend.

    Seconds count once for each segment, so they exceed the step where segments overlap.

    Attributes:
        start_s, end_s: the step; the last one ends with the recording.
        speaker: None for all speakers together.
        seconds: emotion -> its seconds in the step.
        unsure_s: seconds of segments without an emotion.
        dimensions: the mean of each, such as "arousal", weighted by seconds; None: no segment has them.
    """

    start_s: float
    end_s: float
    speaker: str | None
    seconds: dict[str, float]
    unsure_s: float = 0.0
    dimensions: dict[str, float] | None = None

    @property
    def speech_s(self) -> float:
        """The seconds of all segments in the step."""
        return round(sum(self.seconds.values()) + self.unsure_s, 6)

    @property
    def emotion(self) -> str | None:
        """The emotion with the most seconds; None where there is none."""
        best = max(self.seconds, key=self.seconds.__getitem__, default=None)
        return best if best is not None and self.seconds[best] else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; `speaker` and `dimensions` are left out where they are None."""
        data = {**self.__dict__, "speech_s": self.speech_s, "emotion": self.emotion}
        return {name: value for name, value in data.items() if value is not None or name == "emotion"}


def trend(row: "Timeline", step_s: float) -> list[TrendStep]:
    """Return the steps of a timeline in order of time; empty if the recording could not be read.

    A step has one row for the whole recording, and then one for each speaker. Raises `ConfigError` for a step
    under a second.
    """
    check_step(step_s)
    num_steps = math.ceil(round((row.duration_s or 0.0) / step_s, 9))
    names = speakers_of(row.segments)
    sums = {(step, name): _Sums(row.summary) for step in range(num_steps) for name in (None, *names)}
    for segment in row.segments:
        first, last = int(segment.start_s // step_s), int(segment.end_s // step_s)
        for step in range(first, min(last + 1, num_steps)):
            seconds = min(segment.end_s, (step + 1) * step_s) - max(segment.start_s, step * step_s)
            if seconds <= 0:
                continue
            sums[step, None].add(segment, seconds)
            if segment.speaker is not None:
                sums[step, segment.speaker].add(segment, seconds)
    return [
        each.as_step(step * step_s, min((step + 1) * step_s, row.duration_s or 0.0), name)
        for (step, name), each in sums.items()
    ]


class _Sums:
    """The sums over the segments of one step."""

    def __init__(self, emotions: Iterable[str]) -> None:
        self._seconds = dict.fromkeys(emotions, 0.0)
        self._unsure_s = 0.0
        self._dimensions: dict[str, float] = {}
        self._weights_s: dict[str, float] = {}  # dimension -> the seconds of the segments that have it

    def add(self, segment: "Segment", seconds: float) -> None:
        if segment.emotion is None:
            self._unsure_s += seconds
        else:
            self._seconds[segment.emotion] = self._seconds.get(segment.emotion, 0.0) + seconds
        for name, value in (segment.dimensions or {}).items():
            self._weights_s[name] = self._weights_s.get(name, 0.0) + seconds
            self._dimensions[name] = self._dimensions.get(name, 0.0) + seconds * value

    def as_step(self, start_s: float, end_s: float, speaker: str | None) -> TrendStep:
        seconds = {name: round(value, 6) for name, value in self._seconds.items()}
        dimensions = {
            name: round(self._dimensions[name] / self._weights_s[name], 6)
            for name in DIMENSIONS
            if name in self._weights_s
        }
        return TrendStep(start_s, end_s, speaker, seconds, round(self._unsure_s, 6), dimensions or None)


def whole(row: "Timeline") -> list[TrendStep]:
    """Return the sums over the whole recording: one row for all speakers, and then one for each speaker."""
    return trend(row, max(MIN_STEP_S, row.duration_s or 0.0))


def speakers_of(segments: Iterable["Segment"]) -> list[str]:
    """The names of the speakers, each once, in order of appearance."""
    return list(dict.fromkeys(one.speaker for one in segments if one.speaker is not None))


def dimensions_of(parts: Iterable["Segment | TrendStep"]) -> list[str]:
    """The dimensions that some of the parts have, in the order of `labels.DIMENSIONS`."""
    present = {name for part in parts for name in part.dimensions or ()}
    return [name for name in DIMENSIONS if name in present]


def check_step(step_s: float) -> None:
    """Raise `ConfigError` for a step under `MIN_STEP_S`."""
    if not MIN_STEP_S <= step_s < math.inf:
        raise ConfigError(f"bad step of a trend {step_s:g} s, expected at least {MIN_STEP_S:g} s, e.g. 30")


def check_trend(step_s: float, format: str) -> None:
    """Raise `ConfigError` for a step under `MIN_STEP_S`, and for a format that cannot hold a trend."""
    check_step(step_s)
    if format not in TREND_FORMATS:
        raise ConfigError(f"a trend cannot be written as {format}, expected {', '.join(TREND_FORMATS)}")


def default_step_s(duration_s: float) -> float:
    """The shortest of `STEPS_S` that gives a recording at most `MAX_STEPS` steps."""
    return next((step_s for step_s in STEPS_S if duration_s <= MAX_STEPS * step_s), STEPS_S[-1])


def to_text(rows: Sequence["Timeline"], format: str, emotions: Sequence[str], step_s: float) -> str:
    """The trend of timelines as `csv` or `json`. Raises the errors of `check_trend`."""
    check_trend(step_s, format)
    return _WRITERS[format](rows, emotions, step_s)


def to_csv(rows: Sequence["Timeline"], emotions: Sequence[str], step_s: float) -> str:
    """A header and one row for each step and speaker; the speaker is empty for all speakers together.

    A recording without segments has one row with its `reason` or `error`.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [f"{name}_s" for name in emotions]
    first, last = DIMENSIONS[:2], DIMENSIONS[2:]
    fixed = ["path", "start_s", "end_s", "speaker", "emotion", "speech_s", "unsure_s", *first]
    writer.writerow([*fixed, *names, "reason", "error", *last])
    for row in rows:
        if row.reason or row.error:
            blank = [""] * (len(fixed) - 1 + len(names))
            writer.writerow([row.path, *blank, row.reason or "", row.error or "", *("" for _ in last)])
            continue
        for step in trend(row, step_s):
            dimensions = [(step.dimensions or {}).get(name, "") for name in DIMENSIONS]
            place, more = dimensions[: len(first)], dimensions[len(first) :]
            seconds = [step.seconds.get(name, 0.0) for name in emotions]
            named = [step.speaker or "", step.emotion or "", step.speech_s, step.unsure_s]
            writer.writerow([row.path, step.start_s, step.end_s, *named, *place, *seconds, "", "", *more])
    return stream.getvalue()


def to_json(rows: Sequence["Timeline"], emotions: Sequence[str], step_s: float) -> str:
    """An array with one object for each recording: its steps in `trend`."""
    objects = [
        {
            "path": row.path,
            "duration_s": row.duration_s,
            "step_s": step_s,
            "trend": [step.as_dict() for step in trend(row, step_s)],
            "reason": row.reason,
            "error": row.error,
        }
        for row in rows
    ]
    return json.dumps(objects, ensure_ascii=False, indent=1) + "\n"


def to_table(rows: Iterable["Timeline"], step_s: float) -> "Table":
    """A table for reading: a line for each step, and within it for each speaker."""
    from rich.markup import escape
    from rich.table import Table

    rows = list(rows)
    speakers = any(speakers_of(row.segments) for row in rows)
    dimensions = dimensions_of(segment for row in rows for segment in row.segments)
    columns = ["file", "start", *(["speaker"] if speakers else []), "speech", "emotions"]
    table = Table(*columns, *dimensions)
    for row in rows:
        path = escape(row.path)
        if not row.segments:
            note = row.error or (row.reason or "no speech").replace("_", " ")
            table.add_row(path, "", *([""] if speakers else []), "", escape(note), end_section=True)
            continue
        steps = trend(row, step_s)
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            cells = [path if step is steps[0] else "", "" if step.speaker else clock_label(step.start_s)]
            cells += [escape(step.speaker or "all")] if speakers else []
            cells += [length_label(step.speech_s), shares(step)]
            place = step.dimensions or {}
            cells += [f"{place[name]:.2f}" if name in place else "" for name in dimensions]
            table.add_row(*cells, end_section=following is None or (speakers and following.speaker is None))
    return table


def shares(step: TrendStep) -> str:
    """The shares of the speech by emotion, the largest first, such as `angry 60 %, sad 40 %`."""
    seconds = {**step.seconds, NO_ANSWER: step.unsure_s}
    largest_first = sorted(seconds.items(), key=lambda item: -item[1])
    parts = [f"{name} {100 * value / step.speech_s:.0f} %" for name, value in largest_first if value]
    return ", ".join(parts) or "–"


_WRITERS = {"csv": to_csv, "json": to_json}
TREND_FORMATS = ("table", *_WRITERS, "html")  # a page of the format html always has the trend
