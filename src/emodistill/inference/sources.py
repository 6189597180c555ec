"""What callers give to a recogniser: one source of audio, or several."""

import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from emodistill.audio.recording import AudioSource
from emodistill.errors import AudioError, ConfigError

STANDARD_INPUT = "-"  # the path that stands for standard input


def ensure_several(sources: Any, single: str) -> None:
    """Raise `AudioError` for a single source; `single` is the method that takes one."""
    if isinstance(sources, (str, Path, bytes, np.ndarray)):
        raise AudioError(
            f"expected several sources, e.g. a list, got one {type(sources).__name__}; {single} takes one"
        )


def as_list(source: Any) -> list[Any] | None:
    """Return the sources of an iterable as a list; None for a single source, and for a list of numbers."""
    if isinstance(source, (str, bytes, bytearray, memoryview)) or not isinstance(source, Iterable):
        return None
    if hasattr(source, "read") or hasattr(source, "__array__"):
        return None
    sources = list(source)
    return None if any(isinstance(item, (int, float, np.number)) for item in sources[:1]) else sources


def source_name(source: AudioSource) -> str:
    """Return the path of a source as text; empty for a source that is no path."""
    return os.fspath(source) if isinstance(source, (str, Path)) else ""


def audio_of(path: str | Path) -> str | Path | BinaryIO:
    """Return the path, or the audio of standard input if the path is `-`."""
    return standard_input() if str(path) == STANDARD_INPUT else path


def standard_input() -> BinaryIO:
    """Return the audio of standard input as a file at its beginning, which can be read again.

    A pipe is read to its end, once. Raises `ConfigError` for a terminal.
    """
    ensure_no_terminal("audio", "emodistill predict - < call.wav")
    audio = _rereadable(sys.stdin.buffer)
    audio.seek(0)
    return audio


@lru_cache(maxsize=1)
def _rereadable(stream: BinaryIO) -> BinaryIO:
    if stream.seekable():
        return stream
    content = NamedBytes(stream.read())
    content.name = "<stdin>"
    return content


class NamedBytes(BytesIO):
    """The content of a file, with the name that messages call it by."""

    name: str


def ensure_no_terminal(what: str, example: str) -> None:
    """Raise `ConfigError` if standard input is a terminal."""
    if sys.stdin.isatty():
        raise ConfigError(
            f"- reads {what} from standard input, which is a terminal: pipe it in, e.g. {example}"
        )
