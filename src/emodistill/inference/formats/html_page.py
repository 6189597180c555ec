"""HTML: one page for one recording, with its sound, lanes, curves, text, summary and what to trust.

The page is one file that asks no other address for anything, and its content policy forbids it to. It holds
no voice: neither statistics nor vectors. Its parts are in `assets/recording`.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from emodistill.inference.display import (
    NO_ANSWER,
    SOUND_KBIT_S,
    UNSURE_COLOUR,
    clock_label,
    escaped,
    length_label,
    sound_attribute,
)
from emodistill.inference.formats.base import TimelineFormat, WriterContext

if TYPE_CHECKING:
    from emodistill.inference.model_card import Card
    from emodistill.inference.timelines import Timeline
    from emodistill.inference.trend import TrendStep

_MARK = re.compile(r"<!--([a-z-]+)-->")  # a place in page.html that this module fills
_NO_CONTEXT = WriterContext()


def to_html(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """The page of one recording as one text."""
    return "".join(to_parts(rows, emotions, _NO_CONTEXT))


def to_parts(rows: Sequence["Timeline"], emotions: Sequence[str], context: WriterContext) -> Iterator[str]:
    """Yield the page of one recording part by part, in ASCII.

    The sound is the recording at `Timeline.path`. If it cannot be read, the page states why and has no sound.
    """
    from tempfile import TemporaryFile

    (row,) = rows
    with TemporaryFile() as sound:
        envelope, problem = _read_recording(row, sound, context.audio)
        yield from _fill(row, emotions, context, envelope, problem, sound)


def _read_recording(row: "Timeline", sound: BinaryIO, audio: bool) -> tuple[list[dict[str, Any]], str | None]:
    """Write the recording's MP3 to `sound`; return its envelope, and why the page has no sound.

    Each channel of the envelope has `peaks`, bytes in Base64 of which 255 is its largest one, and `largest`,
    the magnitude of that one.
    """
    from emodistill.audio.encoding import Envelope, write_playable
    from emodistill.errors import AudioError
    from emodistill.inference.sources import audio_of

    envelope = Envelope()
    try:
        target = sound if audio else None
        write_playable(audio_of(row.path), target, "MP3", kbit_s=SOUND_KBIT_S, envelope=envelope)
    except AudioError as error:
        sound.truncate(0)
        return [], str(error)
    channels = []
    for peaks in envelope.peaks().T:
        largest = float(peaks.max())
        levels = (peaks * (255 / max(largest, 1e-9))).round().astype("uint8")
        text = base64.b64encode(levels.tobytes()).decode()
        channels.append({"largest": round(largest, 4), "peaks": text})
    return channels, None if audio else "The page was made without it."


def _fill(
    row: "Timeline",
    emotions: Sequence[str],
    context: WriterContext,
    envelope: Sequence[dict[str, Any]],
    problem: str | None,
    sound: BinaryIO,
) -> Iterator[str]:
    """Yield page.html with its places filled."""
    from emodistill.inference.trend import default_step_s, dimensions_of, trend

    step_s = context.trend_s or default_step_s(row.duration_s or 0.0)
    steps = trend(row, step_s)
    style, script = _style(emotions), _asset("page.js")
    facts = {
        "emotions": list(emotions),
        "envelope": list(envelope),
        "step_s": step_s,
        "trend": [step.as_dict() for step in steps],
        "dimensions": dimensions_of(row.segments),
        "sound": problem is None,
    }
    places = {
        "policy": _policy(style, script),
        "title": escaped("Standard input" if row.path == "-" else PurePath(row.path).name or "Recording"),
        "about": _about(row, context.card),
        "style": style,
        "no-sound": "" if problem is None else f"<p class=quiet>No sound: {escaped(problem)}</p>",
        "summary": _summary(row, emotions),
        "trend": _trend_table(steps, step_s),
        "trust": _trust(row, context.card),
        "timeline": _json(row.as_dict()),
        "facts": _json(facts),
        "script": script,
    }
    for place, part in enumerate(_MARK.split(_asset("page.html"))):
        if place % 2 == 0:
            yield part
        elif part == "sound":
            yield from sound_attribute(sound)
        else:
            yield places[part]


@cache
def _asset(name: str) -> str:
    return (files("emodistill") / "assets" / "recording" / name).read_text(encoding="utf-8")


def _style(emotions: Sequence[str]) -> str:
    """The style sheet with a class for each emotion, `e0` for the first one, and `unsure`."""
    from emodistill.labels import COLOURS

    colours = {f"e{place}": COLOURS.get(name, "#808080") for place, name in enumerate(emotions)}
    rules = [
        f".{name} {{ --own: {colour}; }}" for name, colour in {**colours, "unsure": UNSURE_COLOUR}.items()
    ]
    return _asset("page.css") + "\n".join(rules) + "\n"


def _policy(style: str, script: str) -> str:
    """A content policy that permits this style, this script and the sound, and no other address."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)}; media-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(data: Any) -> str:
    """JSON for a script element: no `<` can end the element, or begin a comment in it."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# --- the parts of the page ------------------------------------------------------------------------


def _about(row: "Timeline", card: "Card | None") -> str:
    from emodistill.inference.trend import speakers_of

    facts = [clock_label(row.duration_s or 0.0)]
    if num_speakers := len(speakers_of(row.segments)):
        facts.append(f"{num_speakers} {'speaker' if num_speakers == 1 else 'speakers'}")
    facts.append(f"{len(row.segments)} {'segment' if len(row.segments) == 1 else 'segments'}")
    if card is not None:
        facts.append(f"model {card.name}")
    return escaped(" · ".join(facts))


def _summary(row: "Timeline", emotions: Sequence[str]) -> str:
    """A card for the whole recording, and one for each speaker."""
    from emodistill.inference.trend import whole

    if not row.segments:
        reason = row.error or (row.reason or "no speech").replace("_", " ")
        return f"<p>No segment: {escaped(reason)}.</p>"
    return "".join(_summary_card(row, step, emotions) for step in whole(row))


def _summary_card(row: "Timeline", step: "TrendStep", emotions: Sequence[str]) -> str:
    values = [(f"e{place}", name, step.seconds.get(name, 0.0)) for place, name in enumerate(emotions)]
    values = [*values, ("unsure", NO_ANSWER, step.unsure_s)]
    bar, reached = [], 0.0
    for name, _, seconds in values:
        width = 100 * seconds / (step.speech_s or 1.0)
        bar.append(f'<rect class="fill {name}" x="{reached:.2f}" width="{width:.2f}" height="10"/>')
        reached += width
    items = [
        f'<li class="{key}"><i></i>{escaped(name)} '
        f"<b>{100 * seconds / (step.speech_s or 1.0):.0f}&nbsp;%</b> "
        f"<span>{length_label(seconds)}</span></li>"
        for key, name, seconds in sorted(values, key=lambda value: -value[2])
        if seconds
    ]
    dimensions = "".join(
        f"<div><dt>{name}</dt><dd>{value:.2f}</dd></div>" for name, value in (step.dimensions or {}).items()
    )
    title = "Whole recording" if step.speaker is None else step.speaker
    of = f" of {length_label(row.duration_s or 0.0)}" if step.speaker is None else ""
    return (
        f'<article><h3 dir="auto">{escaped(title)}</h3>'
        f'<p class="quiet">speech {length_label(step.speech_s)}{of}</p>'
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(bar)}</svg>"
        f'<ul class="shares">{"".join(items)}</ul>'
        + (f'<dl class="dimensions">{dimensions}</dl>' if dimensions else "")
        + "</article>"
    )


def _trend_table(steps: Sequence["TrendStep"], step_s: float) -> str:
    """A table with a row for each step and speaker."""
    from emodistill.inference.trend import dimensions_of, shares

    speakers = any(step.speaker is not None for step in steps)
    dimensions = dimensions_of(steps)
    head = ["start", *(["speaker"] if speakers else []), "speech", "emotions", *dimensions]
    rows = []
    for step in steps:
        cells = [clock_label(step.start_s)] if step.speaker is None else [""]
        cells += [step.speaker or "all"] if speakers else []
        cells += [length_label(step.speech_s), shares(step)]
        place = step.dimensions or {}
        cells += [f"{place[name]:.2f}" if name in place else "" for name in dimensions]
        kind = ' class="first"' if step.speaker is None else ""
        rows.append(f"<tr{kind}>{''.join(f'<td dir=auto>{escaped(cell)}</td>' for cell in cells)}</tr>")
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    return (
        f"<p class=quiet>Each row is {step_s:g} s. The shares are those of the speech in it.</p>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _trust(row: "Timeline", card: "Card | None") -> str:
    """What the model is for, its limits, its scores, and what the words on the page mean."""
    from emodistill.inference.model_card import licence_text
    from emodistill.inference.trend import dimensions_of
    from emodistill.labels import in_words

    parts: list[tuple[str, str]] = []
    if card is not None:
        parts += [("Intended use", card.intended_use), ("Limits", card.limits)]
        if scores := _scores(card):
            parts.append(("How often it is right", scores))
    surety = _surety(row)
    if surety:
        parts.append(("How sure it is", surety))
    if dimensions := dimensions_of(row.segments):
        parts.append((in_words(dimensions).capitalize(), _about_dimensions(row, dimensions, card)))
    if card is not None:
        languages = ", ".join(card.languages) or "not stated"
        emotions = f"Emotions: {', '.join(card.emotions)}"
        parts.append(("Model", f"{card.name}. {emotions}. Languages: {languages}."))
        parts.append(("Licence of the weights", licence_text(card)))
    else:
        parts.append(("Model", "This page was written without the card of the model."))
    return "".join(f"<dt>{title}</dt><dd>{escaped(text)}</dd>" for title, text in parts)


def _about_dimensions(row: "Timeline", dimensions: Sequence[str], card: "Card | None") -> str:
    """What the dimensions of a recording mean, and where they come from."""
    from emodistill.inference.model_card import MEANINGS

    meanings = " ".join(f"{name.capitalize()} goes {MEANINGS[name]}." for name in dimensions)
    if any(part.dimensions_from == "head" for part in row.segments):
        made = "Each is from 0 to 1. A head of the model predicts it from the sound, not from the emotions."
        test = {} if card is None else card.scores.get("test", {})
        scores = [f"{name} {test[f'ccc_{name}']:.2f}" for name in dimensions if f"ccc_{name}" in test]
        found = f" Concordance with the labels of its test recordings: {', '.join(scores)}." if scores else ""
        return f"{made} {meanings}{found}"
    return f"Each is from 0 to 1, and computed from the probabilities of the emotions. {meanings}"


def _scores(card: "Card") -> str:
    """The scores on test, and how the share of right answers grows with confidence."""
    from emodistill.inference.model_card import MIN_SPEAKERS, why_no_interval  # loaded, since a card is here

    sentences = []
    test = card.scores.get("test", {})
    if "ua" in test:
        interval = ""
        if "ua_low" in test and why_no_interval(round(test.get("speakers", MIN_SPEAKERS))) is None:
            interval = f" (95 % interval {100 * test['ua_low']:.0f} to {100 * test['ua_high']:.0f})"
        sentences.append(
            f"On its test recordings it finds {100 * test['ua']:.0f} % of an emotion{interval}, as a mean "
            f"over the emotions. Chance is {100 / len(card.emotions):.0f} %."
        )
    right = []
    for share, name in ((1.0, "all answers"), (0.5, "the surer half"), (0.1, "the surest tenth")):
        near = [point for point in card.coverage if abs(point.coverage - share) <= 0.05]
        if near:
            point = min(near, key=lambda point: abs(point.coverage - share))
            right.append(f"{100 * point.accuracy:.0f} % of {name}")
    if right:
        sentences.append(f"On the utterances of its calibration it was right in {', '.join(right)}.")
    if right and card.calibration_note:
        sentences.append(f"Calibration: {card.calibration_note}")
    return " ".join(sentences)


def _surety(row: "Timeline") -> str:
    """The share of the time by surety; empty where no segment has one."""
    from emodistill.inference.model_card import GUESS_FACTOR, LIKELY_ACCURACY

    seconds: dict[str, float] = {}
    for part in row.segments:
        if part.surety is not None:
            seconds[part.surety] = seconds.get(part.surety, 0.0) + part.end_s - part.start_s
    if not seconds:
        return ""
    order = ("likely", "unsure", "no better than a guess")
    shares = [
        f"{name} {100 * seconds[name] / sum(seconds.values()):.0f} %" for name in order if name in seconds
    ]
    return (
        f"By time: {', '.join(shares)}. The model was calibrated on labelled utterances. Likely means that "
        f"at least {100 * LIKELY_ACCURACY:.0f} % of such answers were right there. No better than a guess "
        f"means that fewer were right than {GUESS_FACTOR:g} times chance."
    )


FORMAT = TimelineFormat(
    name="html",
    title="HTML",
    suffix=".html",
    media_type="text/html",
    to_text=to_html,
    holds_several=False,
    holds_errors=True,
    needs_source=True,
    to_parts=to_parts,
)
