"""Timelines as files for other programs: the registry of formats.

Every module of this package, except `base`, describes one format in a constant `FORMAT`. The registry finds
these modules by itself, so a new format is one new file (docs/extending.md). The order is JSON, CSV, then by
name: the server answers `Accept: */*` with the first format that fits.

A segment without an emotion (below `min_confidence`) is kept in every format: null in JSON, an empty field in
CSV, `?` where a label is needed.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from emodistill.errors import ConfigError, one_of
from emodistill.files import open_output
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
    """The formats that a server can send: they are text, and need no access to the recording."""
    return [format for format in FORMATS.values() if format.to_text is not None and not format.needs_source]


def write(
    rows: Sequence["Timeline"],
    format: str,
    path: Path | None,
    emotions: Sequence[str],
    context: WriterContext = _NO_CONTEXT,
) -> None:
    """Write timelines to a file, or to standard output for None, as `files.open_output` does.

    With `context.trend_s` the trend is written. Raises `ConfigError` for an unknown format, and for a trend
    in a format that cannot hold it, and `MissingExtraError` if a package for the format is missing.
    """
    if format not in FORMATS:
        raise ConfigError(one_of("format", format, FORMATS))
    with open_output(path) as stream, closing(_parts(rows, FORMATS[format], emotions, context)) as parts:
        for part in parts:
            if isinstance(part, str):
                stream.write(part)
            else:
                stream.buffer.write(part)


def _parts(
    rows: Sequence["Timeline"], format: TimelineFormat, emotions: Sequence[str], context: WriterContext
) -> Generator[str | bytes, None, None]:
    """Yield the content of a file part by part."""
    if format.to_parts is not None:
        yield from format.to_parts(rows, emotions, context)
    elif context.trend_s is not None:
        yield trend.to_text(rows, format.name, emotions, context.trend_s)
    elif format.to_text is not None:
        yield format.to_text(rows, emotions)
    elif format.to_bytes is not None:
        yield format.to_bytes(rows, emotions)
