"""What the changes of the suite have in common: a change, what it mixes in, and its marks."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

import numpy as np

from emodistill.audio.waveform import Waveform

Group = Literal["small", "sounds"]


@dataclass(frozen=True)
class Material:
    """What changes mix with speech: waveforms at 16 kHz, mono, (samples,)."""

    # Of each speaker, for babble and for another voice at the same time.
    speech: Mapping[str, Sequence[Waveform]] = field(default_factory=dict)
    music: Sequence[Waveform] = ()
    ambience: Sequence[Waveform] = ()


@dataclass(frozen=True)
class Recording:
    """One utterance that a change gets: its waveform (samples,) at 16 kHz, and who speaks."""

    waveform: Waveform
    speaker: str


@dataclass(frozen=True)
class Change:
    """A change of a recording. `apply` draws from the generator alone, so that a seed decides the result."""

    name: str  # as in marks.toml
    group: Group
    text: str  # one sentence that says what it does
    apply: Callable[[Recording, np.random.Generator, Material], Waveform]
    needs: str | None = None  # the field of `Material` without which it cannot be applied


@dataclass(frozen=True)
class Marks:
    """The marks of one change. None: no mark."""

    unchanged: float
    source: str
    ua: float | None = None
    precision: float | None = None


def read_marks() -> Mapping[str, Any]:
    """Return the sections of marks.toml; those of changes hold `Marks` by name."""
    text = resources.files("emodistill.stress").joinpath("marks.toml").read_text()
    sections: dict[str, Any] = tomllib.loads(text)
    for group in ("small", "sounds"):
        sections[group] = {name: Marks(**marks) for name, marks in sections[group].items()}
    return sections
