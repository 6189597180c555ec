"""What callers give to a recogniser: one source of audio, or several."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.audio.recording import AudioSource
from emodistill.errors import AudioError


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
