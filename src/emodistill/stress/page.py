"""The result of the suite as one HTML page that needs no network."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from emodistill.audio.decoding import RatedArray
from emodistill.audio.encoding import write_playable
from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.errors import AudioError, MissingExtraError
from emodistill.files import atomic_write
from emodistill.stress.answers import KNOWN, Example
from emodistill.stress.base import Cell, Change, Marks
from emodistill.stress.outputs import cell_advice, check_text, failures, missed_marks
from emodistill.stress.suite import Result
from emodistill.version import __version__

MAX_CLIP_S = 8.0  # of an example; the rest is cut off
_GROUPS: Mapping[str, tuple[str, str]] = {  # group -> title and text
    "small": (
        "Small changes",
        "Changes that a listener does not notice, or that say nothing about the emotion. No answer should "
        "change.",
    ),
    "sounds": (
        "Sounds, lines and rooms",
        "Changes that a listener notices. Some answers may change, and few may become wrong.",
    ),
    "fairness": (
        "Fairness",
        "The largest difference between a group of speakers and all speakers, in points. The mark is what a "
        "model that knows nothing shows by chance.",
    ),
}


def write_page(
    result: Result,
    changes: Sequence[Change],
    marks: Mapping[str, Mapping[str, Marks]],
    path: Path,
    example: Example | None = None,
    sources: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Write `stress.html`.

    Args:
        changes: those that were run; `marks` has the marks of each by group and name.
        example: an utterance, unchanged and under each change; None: the page has no sound.
        sources: what changes mix in: what it is, where it comes from, its licence.

    Raises `MissingExtraError` without jinja2.
    """
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError("jinja2", "stress", "the page of the stress suite") from error
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("emodistill.stress") / "page.html").read_text(encoding="utf-8"))
    page = template.render(
        style=Markup((files("emodistill.report") / "page.css").read_text(encoding="utf-8")),
        version=__version__,
        result=result,
        has_voices=any(cell.voice for cell in result.cells),
        failed=failures(result.cells),
        grids=[grid for group in _GROUPS if (grid := _grid(result, group))["rows"]],
        changes=[_change(result, change, marks[change.group][change.name], example) for change in changes],
        clean_sound=None if example is None else sound(example.clean),
        example=None if example is None else f"the utterance {example.utterance} of {example.corpus}",
        sources=sources,
        known=KNOWN,
        why=_why,
        missed_marks=missed_marks,
        cell_advice=cell_advice,
        tooltip=_tooltip,
        main_figure=_main_figure,
        percent=lambda value: "–" if value is None else f"{100 * value:.1f}",
    )
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


def _grid(result: Result, group: str) -> dict[str, Any]:
    """The heat map of a group: a row for each change, a column for each corpus without and with a voice."""
    cells = {(cell.name, cell.corpus, cell.voice): cell for cell in result.cells if cell.group == group}
    corpora = list(dict.fromkeys(corpus for _, corpus, _ in cells))
    voices = sorted({voice for _, _, voice in cells})
    title, text = _GROUPS[group]
    return {
        "name": group,
        "title": title,
        "text": text,
        "corpora": corpora,
        "voices": voices,
        "linked": group != "fairness",
        "rows": [
            (name, [cells.get((name, corpus, voice)) for corpus in corpora for voice in voices])
            for name in dict.fromkeys(name for name, _, _ in cells)
        ],
    }


def _change(result: Result, change: Change, marks: Marks, example: Example | None) -> dict[str, Any]:
    cells = [cell for cell in result.cells if cell.name == change.name and cell.checks]
    worst = min(cells, key=lambda cell: cell.figures["unchanged"], default=None)
    changed = None if example is None else example.changed.get(change.name)
    return {
        "change": change,
        "marks": marks,
        "worst": worst and f"{_main_figure(worst)} % in {worst.corpus}{' with voice' if worst.voice else ''}",
        "sound": None if changed is None else sound(changed),
    }


def _tooltip(cell: Cell) -> str:
    texts = [check_text(check) for check in cell.checks]
    silent = [f"{cell.no_answer} without an answer"] if cell.no_answer else []
    return "; ".join([*texts, *silent, f"{cell.utterances} utterances"])


def _why(cell: Cell) -> str:
    """What a cell fails by, where it is not the share that is unchanged."""
    failed = {check.measure: check.value for check in cell.checks if not check.passed}
    if "unchanged" in failed or "unchanged" not in cell.figures:
        return "fails"
    titles = {"ua_change": "UA", "precision_change": "prec."}
    measure = min(failed, key=lambda name: failed[name])
    return f"{titles[measure]} {100 * failed[measure]:+.0f}"


def _main_figure(cell: Cell) -> str:
    """The share that is unchanged in percent; of fairness, the figure that is farthest from its mark."""
    if "unchanged" in cell.figures:
        return f"{100 * cell.figures['unchanged']:.0f}"
    check = min(cell.checks, key=lambda item: (item.mark - item.value) * (1 if item.at_most else -1))
    return f"{100 * check.value:.1f}"


def sound(waveform: Waveform) -> str | None:
    """Return at most `MAX_CLIP_S` of a waveform as a `data:` URI, MP3.

    None where libsndfile cannot write MP3.
    """
    file = io.BytesIO()
    try:
        write_playable(RatedArray(waveform[: round(MAX_CLIP_S * SAMPLE_RATE)], SAMPLE_RATE), file, "MP3")
    except AudioError:
        return None
    return f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
