"""The formats of the server's answers. The `Accept` header chooses one; the recogniser's writers write it."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Response

from emodistill.inference.formats import formats_without_source
from emodistill.inference.prediction import Prediction
from emodistill.inference.prediction_rows import PREDICTION_FORMATS, Columns, PredictionFormat
from emodistill.inference.timelines import Timeline
from emodistill.serving.problems import RequestRefused

Row = TypeVar("Row", Prediction, Timeline)


@dataclass(frozen=True)
class ResponseFormat(Generic[Row]):
    """A format of an answer: `write(rows, emotions of the model)` returns its text."""

    write: Callable[[Sequence[Row], Sequence[str]], str]
    holds_many_files: bool = True
    holds_errors: bool = True  # whether it has a place for the error of a file


def _prediction_writer(format: PredictionFormat) -> Callable[[Sequence[Prediction], Sequence[str]], str]:
    def write(rows: Sequence[Prediction], emotions: Sequence[str]) -> str:
        stream = io.StringIO()
        has_voices = any(row.voice_utterances is not None for row in rows)
        format.write(rows, stream, Columns(emotions, has_voices))
        return stream.getvalue()

    return write


# By media type, from the registries. The first one answers requests that accept anything.
PREDICTION_RESPONSES: dict[str, ResponseFormat[Prediction]] = {
    format.media_type: ResponseFormat(_prediction_writer(format))
    for format in PREDICTION_FORMATS.values()
    if format.media_type is not None
}
TIMELINE_RESPONSES: dict[str, ResponseFormat[Timeline]] = {
    format.media_type: ResponseFormat(format.to_text, format.holds_several, format.holds_errors)
    for format in formats_without_source()
    if format.to_text is not None
}


def choose_media_type(accept: str | None, formats: Mapping[str, ResponseFormat[Row]], num_files: int) -> str:
    """The media type that the `Accept` header prefers for an answer about `num_files` files.

    It has the highest quality value; of several, it is the first in the header (RFC 9110, section 12.5.1).
    Raises `RequestRefused` (406) if the server has none of them.
    """
    available = [name for name, format in formats.items() if format.holds_many_files or num_files == 1]
    single = sorted(set(formats) - set(available))
    hint = f"; {', '.join(single)} can hold one file only: send one file at a time" if single else ""
    return best_media_type(accept, available, hint)


def best_media_type(accept: str | None, available: Sequence[str], hint: str = "") -> str:
    """The available media type that an `Accept` header prefers; without a header, the first one.

    Raises `RequestRefused` (406) if none is accepted; `hint` ends its message.
    """
    best, best_quality = None, 0.0
    for part in (accept or "*/*").split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        for media_type in available:
            main_type = media_type.partition("/")[0]
            if quality > best_quality and media_range in (media_type, f"{main_type}/*", "*/*"):
                best, best_quality = media_type, quality
    if best is None:
        detail = f"bad Accept '{accept}', expected one of {', '.join(available)}{hint}"
        raise RequestRefused(406, "not-acceptable", detail)
    return best


def write_response(
    rows: Sequence[Row],
    media_type: str,
    formats: Mapping[str, ResponseFormat[Row]],
    emotions: Sequence[str],
) -> str:
    """The text of an answer. Raises `RequestRefused` (422) for an error that the format cannot hold."""
    format = formats[media_type]
    if not format.holds_errors:
        for row in rows:
            if row.error is not None:
                raise RequestRefused(422, "unreadable", f"{row.path}: {row.error}")
    return format.write(rows, emotions)


def text_response(text: str, media_type: str) -> Response:
    """The response with a text. A lone surrogate, as of a file name, is escaped."""
    charset = "; charset=utf-8" if media_type.startswith("text/") else ""
    return Response(text.encode("utf-8", "backslashreplace"), media_type=media_type + charset)


def _quality(parameters: Sequence[str]) -> float:
    """The quality value `q` of a media range: 1 if it is missing, 0 if it is not a number."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
