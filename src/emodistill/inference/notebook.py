"""What Jupyter shows for a prediction and a timeline: a player, a strip of the emotions, probabilities.

A view is built from the plain data of `as_dict`. The styles are in the elements, because a style sheet would
change the rest of the notebook. Sizes are bounded, because a notebook keeps its outputs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import PurePath
from tempfile import TemporaryFile
from typing import Any

from emodistill.audio.decoding import BlockSource, RatedArray
from emodistill.audio.encoding import write_playable
from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.errors import AudioError, AudioTooLongError
from emodistill.inference.display import (
    NO_ANSWER,
    SOUND_KBIT_S,
    UNSURE_COLOUR,
    clock_label,
    escaped,
    length_label,
    sound_attribute,
)
from emodistill.inference.sources import STANDARD_INPUT
from emodistill.labels import COLOURS

MAX_SOUND_S = 180.0  # a longer recording has no player; this one takes 1 MB in the notebook
MAX_LANES = 8  # speakers with a strip of their own
_COLUMNS = 600  # of a strip; no more than one part of a strip begins in each
_STRIP, _GAP, _CURVES = 12, 2, 28  # heights in a lane: the emotions, and below them the probabilities
_VIEW = "max-width:720px;font:14px/1.5 system-ui,sans-serif"
_QUIET = "opacity:.75"
_OTHER_COLOUR = "#808080"  # of an emotion that has no colour, and of dimensions

Data = Mapping[str, Any]


def prediction_html(data: Data) -> str:
    """Return the view of a prediction: its file with the sound, the answer and the probabilities."""
    strip, bars, reached = [], [], 0.0
    for name, value in data["probabilities"].items():
        strip.append(_rect(reached, 0, 100 * value, 10, _colour(name)))
        reached += 100 * value
        bars.append(_bar(name, value, _percent(value), _colour(name), is_answer=name == data["emotion"]))
    for name, value in (data.get("dimensions") or {}).items():
        bars.append(_bar(name, value, f"{value:.2f}", _OTHER_COLOUR))
    return _view(
        _title(data, _answer(data)),
        _player(data["path"], data.get("start_s"), data.get("end_s"), data.get("channel")),
        _svg(100, 10, 14, strip) if strip else "",
        *bars,
    )


def timeline_html(data: Data) -> str:
    """Return the view of a timeline: its recording with the sound, a strip for each speaker, and the sums.

    A strip has the emotions of the segments, above their probabilities.
    """
    segments, duration_s = data["segments"], data["duration_s"] or 0.0
    count = f"{len(segments)} segment{'' if len(segments) == 1 else 's'}"
    note = _problem(data) or f"{clock_label(duration_s)} · {count}"
    speakers = list(dict.fromkeys(segment.get("speaker") for segment in segments))
    emotions = list(data["summary"])
    lanes = [
        _lane(speaker, [part for part in segments if part.get("speaker") == speaker], emotions, duration_s)
        for speaker in speakers[:MAX_LANES]
    ]
    if len(speakers) > MAX_LANES:
        lanes.append(_quiet(f"{len(speakers) - MAX_LANES} more speakers are not shown."))
    if segments:
        lanes.append(
            f'<div style="display:flex;justify-content:space-between;{_QUIET}"><span>0:00</span>'
            f"<span>{clock_label(duration_s)}</span></div>{_sums(data)}"
        )
    too_long = None if duration_s <= MAX_SOUND_S else _too_long()
    return _view(_title(data, note), too_long or _player(data["path"]), *lanes)


# --- parts ----------------------------------------------------------------------------------------


def _view(*parts: str) -> str:
    view = f'<div style="{_VIEW}">{"".join(parts)}</div>'
    return view.encode("ascii", "xmlcharrefreplace").decode()


def _title(data: Data, note: str) -> str:
    name = PurePath(data["path"]).name
    title = f'<b dir="auto">{escaped(name)}</b> · ' if name and name != STANDARD_INPUT else ""
    return f"<div>{title}{note}</div>"


def _quiet(text: str) -> str:
    return f'<div style="{_QUIET}">{escaped(text)}</div>'


def _answer(data: Data) -> str:
    """The emotion with its confidence, or why there is none."""
    if data["emotion"] is None:
        return _problem(data)
    surety = f", {escaped(data['surety'])}" if data.get("surety") else ""
    return f"<b>{escaped(data['emotion'])}</b> {_percent(data['confidence'])}{surety}"


def _problem(data: Data) -> str:
    """Why there is no emotion or no segment; empty if there is none to be missed."""
    if data["error"] is not None:
        return f"error: {escaped(data['error'])}"
    reason = data["reason"]
    return "" if reason is None else f"{NO_ANSWER}: {escaped(reason.replace('_', ' '))}"


def _player(
    path: str, start_s: float | None = None, end_s: float | None = None, channel: int | None = None
) -> str:
    """A player with the sound of a file or of a part of it, or why there is none; empty without a file."""
    if path in ("", STANDARD_INPUT):
        return ""
    source: BlockSource = path
    with TemporaryFile() as sound:
        try:
            if start_s is not None or end_s is not None:
                first_s = start_s or 0.0
                last_s = first_s + MAX_SOUND_S + 1.0
                part = load(path, first_s, last_s if end_s is None else min(end_s, last_s), channel)
                source = RatedArray(part, SAMPLE_RATE)
            write_playable(source, sound, "MP3", MAX_SOUND_S, SOUND_KBIT_S)
        except AudioTooLongError:
            return _too_long()
        except AudioError as error:
            return _quiet(f"No sound: {error}")
        attribute = "".join(sound_attribute(sound))
    return f'<audio controls preload="metadata" style="width:100%;margin:4px 0"{attribute}></audio>'


def _too_long() -> str:
    return _quiet(f"No sound: the recording is longer than {MAX_SOUND_S:g} s, and a notebook keeps it.")


def _lane(speaker: str | None, segments: Sequence[Data], emotions: Sequence[str], duration_s: float) -> str:
    """The strip of a speaker: the emotions of the segments, above their probabilities."""
    shapes: list[str] = []
    areas: dict[str, list[str]] = {name: [] for name in emotions}
    for segment, first, last in _runs(segments, duration_s):
        emotion = segment["emotion"]
        confidence = "" if segment["confidence"] is None else f" {_percent(segment['confidence'])}"
        times = f"{clock_label(segment['start_s'])}–{clock_label(segment['end_s'])}"
        label = f"{times} {emotion or NO_ANSWER}{confidence}"
        shapes.append(_rect(first, 0, last - first, _STRIP, _colour(emotion), label))
        reached = 0.0
        for name in emotions:
            value = segment["probabilities"].get(name, 0.0)
            low, high = (_STRIP + _GAP + _CURVES * (1 - share) for share in (reached, reached + value))
            areas[name].append(f"M{first} {low:.1f}H{last}V{high:.1f}H{first}Z")
            reached += value
    shapes += [f'<path d="{"".join(area)}" fill="{_colour(name)}"/>' for name, area in areas.items() if area]
    name = "" if speaker is None else f'<div dir="auto">{escaped(speaker)}</div>'
    height = _STRIP + _GAP + _CURVES
    return name + _svg(_COLUMNS, height, height, shapes)


def _runs(segments: Iterable[Data], duration_s: float) -> Iterator[tuple[Data, int, int]]:
    """Yield segments with their first column and the one after their last, without overlaps.

    A segment has one column at least. Of several in one column, the last one has it.
    """
    columns: list[Data | None] = [None] * _COLUMNS
    for segment in segments:
        first, last = (
            min(_COLUMNS, max(0, ceil(_COLUMNS * segment[edge] / (duration_s or 1.0) - 0.5)))
            for edge in ("start_s", "end_s")
        )
        first = min(first, _COLUMNS - 1)
        last = max(last, first + 1)
        columns[first:last] = [segment] * (last - first)
    first = 0
    for column in range(1, _COLUMNS + 1):
        if column == _COLUMNS or columns[column] is not columns[first]:
            if (part := columns[first]) is not None:
                yield part, first, column
            first = column


def _sums(data: Data) -> str:
    """The colour of each emotion with its seconds."""
    seconds = dict(data["summary"])
    known = sum(seconds.values())
    total = sum(part["end_s"] - part["start_s"] for part in data["segments"])
    items = [(name, _colour(name), value) for name, value in seconds.items()]
    items.append((NO_ANSWER, UNSURE_COLOUR, max(0.0, total - known)))
    spans = [
        f'<span><span style="color:{colour}">■</span> {escaped(name)} {length_label(value)}</span>'
        for name, colour, value in items
        if round(value, 1)
    ]
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 14px">{"".join(spans)}</div>'


def _bar(name: str, value: float, shown: str, colour: str, is_answer: bool = False) -> str:
    """A line with a name, a bar for a value from 0 to 1, and the value as text."""
    weight = "font-weight:600" if is_answer else ""
    return (
        f'<div style="display:flex;align-items:center;gap:8px;{weight}">'
        f'<span style="width:90px">{escaped(name)}</span>'
        '<span style="flex:1;height:10px;background:rgba(128,128,128,.2)">'
        f'<span style="display:block;height:10px;width:{100 * value:.1f}%;background:{colour}"></span></span>'
        f'<span style="width:48px;text-align:right">{shown}</span></div>'
    )


def _svg(width: int, height: int, shown_px: int, shapes: Iterable[str]) -> str:
    """A picture of any width; `shown_px` is its height in the notebook."""
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'style="display:block;width:100%;height:{shown_px}px;margin:4px 0">{"".join(shapes)}</svg>'
    )


def _rect(x: float, y: float, width: float, height: float, colour: str, label: str = "") -> str:
    title = f"<title>{escaped(label)}</title>" if label else ""
    return (
        f'<rect x="{x:.4g}" y="{y:g}" width="{width:.4g}" height="{height:g}" fill="{colour}">{title}</rect>'
    )


def _colour(emotion: str | None) -> str:
    return UNSURE_COLOUR if emotion is None else COLOURS.get(emotion, _OTHER_COLOUR)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
