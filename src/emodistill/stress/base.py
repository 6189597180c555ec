"""What the parts of the suite share: changes, what they mix in, their marks, and the cells of a result."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

import numpy as np

from emodistill.audio.waveform import Waveform
from emodistill.corpora.base import Utterance
from emodistill.errors import ConfigError, one_of

ChangeGroup = Literal["small", "sounds"]
Group = Literal["small", "sounds", "fairness"]


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
    group: ChangeGroup
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


@dataclass(frozen=True)
class Answers:
    """What a model answers to the unchanged utterances of one corpus."""

    corpus: str
    voice: bool  # whether each utterance was compared with the speaker's voice
    utterances: tuple[Utterance, ...]
    predicted: tuple[str | None, ...]  # (utterances,): the emotion; None: no answer
    emotions: tuple[str, ...]  # that the model can answer; empty: it predicts dimensions alone
    for_pitch: tuple[Utterance, ...] = ()  # more of the same speakers, which measure their pitch alone


@dataclass(frozen=True)
class Check:
    """A figure of a cell, and the mark that it must reach."""

    measure: str  # such as "unchanged" or "ua"
    value: float
    mark: float
    at_most: bool = False  # the figure must not be above the mark; else it must not be below

    @property
    def passed(self) -> bool:
        """Whether the figure reaches the mark. Rounding of the last bits decides nothing."""
        distance = self.mark - self.value if self.at_most else self.value - self.mark
        return distance >= -1e-9


@dataclass(frozen=True)
class Cell:
    """One result of the suite: a change, or a test of fairness, on one corpus, with or without a voice."""

    group: Group
    name: str  # of the change, or of the test of fairness
    corpus: str
    voice: bool
    utterances: int  # that the figures come from
    checks: tuple[Check, ...]  # empty: nothing can be checked, and `note` says why
    source: str  # of the marks
    figures: Mapping[str, float] = field(default_factory=dict)  # by name, also those without a mark
    no_answer: int = 0  # utterances that the changed recording gives no answer for
    # How often each clean answer became each changed answer: {clean: {changed: count}}.
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    note: str | None = None

    @property
    def passed(self) -> bool | None:
        """Whether all checks passed; None: there are none."""
        return all(check.passed for check in self.checks) if self.checks else None


def check_names(only: Sequence[str]) -> None:
    """Raise `ConfigError` for what is no group and no name of a change. It needs no change, so it is fast."""
    marks = read_marks()
    names = ["small", "sounds", "fairness", *marks["small"], *marks["sounds"]]
    for name in only:
        if name not in names:
            raise ConfigError(one_of("change or group", name, names))
    if not only:
        raise ConfigError("--only names nothing, expected groups or changes, e.g. small,babble-10db")
