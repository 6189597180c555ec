"""Timelines as files for other programs: the registry of formats.

Every module of this package, except `base`, describes one format in a constant `FORMAT`. The registry finds
these modules by itself, so a new format is one new file (docs/extending.md). The order is JSON, CSV, then by
name: the server answers `Accept: */*` with the first format that fits.

A segment without an emotion (below `min_confidence`) is kept in every format: null in JSON, an empty field in
CSV, `?` where a label is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from emodistill.console import UNENCODABLE
from emodistill.errors import ConfigError, one_of
from emodistill.files import atomic_write
from emodistill.inference import trend
from emodistill.inference.formats.base import UNSURE, TimelineFormat, WriterContext

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline

__all__ = [
    "FORMATS",
    "FORMAT_BY_SUFFIX",
    "UNSURE",
    "TimelineFormat",
    "WriterContext",
    "file_parts",
    "formats_without_source",
    "write",
]

_HELPERS = {"base"}  # modules of this package that describe no format
_FIRST = ("json", "csv")
_NO_CONTEXT = WriterContext()


def _load_formats() -> dict[str, TimelineFormat]:
    formats: dict[str, TimelineFormat] = {}
    for module in iter_modules(__path__):
        if module.name not in _HELPERS:
            format = import_module(f"{__name__}.{module.name}").FORMAT
            assert format.name not in formats, f"two modules describe a format '{format.name}'"
            formats[format.name] = format
    order = [*_FIRST, *sorted(formats.keys() - set(_FIRST))]
    return {name: formats[name] for name in order}


FORMATS: Mapping[str, TimelineFormat] = _load_formats()
FORMAT_BY_SUFFIX: Mapping[str, str] = {  # suffix in lower case -> name
    format.suffix.lower(): format.name for format in FORMATS.values() if format.chosen_by_suffix
}


def formats_without_source() -> list[TimelineFormat]:
    """The formats that need no access to the recording: those that a server can send."""
    return [format for format in FORMATS.values() if not format.needs_source]


def file_parts(
    rows: Sequence["Timeline"], format: str, emotions: Sequence[str], context: WriterContext
) -> Iterator[str]:
    """Yield the content of a file part by part. With `context.trend_s` it is the trend.

    Raises `ConfigError` for an unknown format, and for a trend in a format that cannot hold it.
    """
    if format not in FORMATS:
        raise ConfigError(one_of("format", format, FORMATS))
    to_parts = FORMATS[format].to_parts
    if to_parts is not None:
        yield from to_parts(rows, emotions, context)
    elif context.trend_s is None:
        yield FORMATS[format].to_text(rows, emotions)
    else:
        yield trend.to_text(rows, format, emotions, context.trend_s)


def write(
    rows: Sequence["Timeline"],
    format: str,
    path: Path,
    emotions: Sequence[str],
    context: WriterContext = _NO_CONTEXT,
) -> None:
    """Write timelines to a file, which appears complete or not at all; its folder is made.

    Raises the errors of `file_parts`.
    """
    with (
        atomic_write(path) as partial,
        partial.open("w", encoding="utf-8", errors=UNENCODABLE, newline="") as stream,
    ):
        stream.writelines(file_parts(rows, format, emotions, context))
