"""What a client may ask for in Accept, and rows in that form."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from emodistill.inference.formats import WRITERS
from emodistill.inference.prediction_rows import write_rows
from emodistill.inference.recognizer import Prediction
from emodistill.inference.timelines import Timeline
from emodistill.serving.problems import Refused

Row = TypeVar("Row", Prediction, Timeline)


@dataclass(frozen=True)
class Form(Generic[Row]):
    """A format of rows: whether it can hold several, and what could not be read."""

    text: Callable[[Sequence[Row], Sequence[str]], str]
    several: bool = True
    errors: bool = True


def _rows_as(format: str) -> Callable[[Sequence[Prediction], Sequence[str]], str]:
    def text(rows: Sequence[Prediction], emotions: Sequence[str]) -> str:
        stream = io.StringIO()
        write_rows(rows, format, stream, emotions)
        return stream.getvalue()

    return text


PREDICTION_FORMS: dict[str, Form[Prediction]] = {
    "application/json": Form(_rows_as("json")),
    "application/x-ndjson": Form(_rows_as("jsonl")),
    "text/csv": Form(_rows_as("csv")),
}
TIMELINE_FORMS: dict[str, Form[Timeline]] = {
    media_type: Form(WRITERS[name].text, WRITERS[name].several, name in ("json", "csv"))
    for media_type, name in {
        "application/json": "json",
        "text/csv": "csv",
        "application/x-subrip": "srt",
        "text/x-rttm": "rttm",
        "text/x-audacity-labels": "audacity",
        "text/x-textgrid": "textgrid",
    }.items()
}


def chosen(accept: str | None, forms: Mapping[str, Form[Row]], num_files: int) -> str:
    """The media type to answer with: of those in Accept that can be given, the first of the highest quality.

    Raises `Refused` (406) where there is none; RFC 9110, section 12.5.1.
    """
    able = [media_type for media_type, form in forms.items() if form.several or num_files == 1]
    best, best_quality = None, 0.0
    for part in (accept or "*/*").split(","):
        wanted, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        for media_type in able:
            main = media_type.partition("/")[0]
            if quality > best_quality and wanted in (media_type, f"{main}/*", "*/*"):
                best, best_quality = media_type, quality
    if best is None:
        single = sorted(set(forms) - set(able))
        why = f"; {', '.join(single)} hold one file each: send one at a time" if single else ""
        raise Refused(406, "not-acceptable", f"Accept is '{accept}', expected one of {', '.join(able)}{why}")
    return best


def to_text(
    rows: Sequence[Row], media_type: str, forms: Mapping[str, Form[Row]], emotions: Sequence[str]
) -> str:
    """Rows as text. Raises `Refused` (422) where one has an error that the format has no place for."""
    form = forms[media_type]
    if not form.errors:
        for row in rows:
            if row.error is not None:
                raise Refused(422, "unreadable", f"{row.path}: {row.error}")
    return form.text(rows, emotions)


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
