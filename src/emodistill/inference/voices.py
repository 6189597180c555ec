"""What is known of a speaker, without labels: statistics of speech, and the voice that is their mean.

A student with voices classifies s - m. s (dim,) are the standardised pooled statistics of an utterance. m is
the mean of the known utterances' statistics, shrunk by `shrinkage`. With nothing known, m = 0.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.errors import AudioError, ConfigError, ModelError
from emodistill.files import atomic_write
from emodistill.inference.model_card import Card
from emodistill.inference.prediction import Reason

FORMAT = 1  # of a voice file
MAX_VOICE_BYTES = 256 * 1024  # a larger file is no voice file
UTTERANCE_S = 3.0  # in a long recording, so much speech counts as one utterance
MIN_VOICE_S = 1.0  # a voice of less speech gives a warning; training knows voices of at least this much

Vector = npt.NDArray[np.float32]


def shrinkage(num_utterances: float) -> float:
    """Return the factor n / (n + k) of a voice of n utterances; k = 1 for n <= 5, else 3.

    Within one recording, n is its seconds of speech divided by `UTTERANCE_S`.

    >>> shrinkage(0), shrinkage(1), shrinkage(6)
    (0.0, 0.5, 0.6666666666666666)
    """
    assert num_utterances >= 0
    return num_utterances / (num_utterances + (1 if num_utterances <= 5 else 3))


@dataclass(frozen=True, eq=False)
class SpeechStatistics:
    """The statistics of one input. With a voice they give its prediction, without its audio.

    `Recognizer.statistics` makes them. Without speech there are no windows, and `reason` or `error` is set.
    """

    path: str  # empty if the input was not a path
    windows: Vector = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (windows, dim)
    speech_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # (windows,) in seconds
    reason: Reason | None = None  # why the recogniser abstains, with or without a voice
    error: str | None = None  # why the input could not be read
    channel: int | None = None  # of the input, from 0; None: all channels mixed
    mixed_channels: int | None = None  # as in `Prediction`

    @property
    def num_utterances(self) -> int:
        """How many utterances of a voice the input counts for; several windows count by their speech."""
        if len(self.windows) <= 1:
            return len(self.windows)
        return max(1, round(float(self.speech_s.sum()) / UTTERANCE_S))


MAX_MEAN = 1e7  # of a statistic; far above those of any speech, and far below the largest float32


@dataclass(frozen=True, eq=False)
class Voice:
    """A speaker's usual way of speaking: the mean of the statistics of known utterances, without labels.

    `Recognizer.enrol` makes a voice, and `voice + other` joins two. It is personal data, which may serve to
    recognise a person. It fits one model alone.

    Raises `ModelError` for values that no voice can have.
    """

    model: str  # the SHA-256 of the model, from its card
    # (dim,), weighted by the seconds of speech, not shrunk. It is not shown, because logs must not hold it.
    mean: npt.NDArray[np.float64] = field(repr=False)
    utterances: int  # that the mean is made of
    speech_s: float  # of these utterances, in seconds

    def __post_init__(self) -> None:
        mean = np.array(self.mean, dtype=np.float64) + 0.0  # no -0.0, which JavaScript writes as 0
        if mean.ndim != 1 or not len(mean) or not (np.abs(mean) <= MAX_MEAN).all():
            raise ModelError(
                f"bad mean of a voice: expected numbers (dim,) of at most {MAX_MEAN:g}, got {mean.shape}"
            )
        if self.utterances < 1 or not (0 < self.speech_s < math.inf):
            raise ModelError(
                "expected a voice of at least one utterance and some seconds of speech, got "
                f"{self.utterances} utterances and {self.speech_s} s"
            )
        mean.setflags(write=False)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "speech_s", float(self.speech_s))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Voice) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __add__(self, other: "Voice") -> "Voice":
        """Return the voice of the utterances of both. Raises `ModelError` for voices of two models."""
        if not isinstance(other, Voice):
            return NotImplemented
        if self.model != other.model or self.mean.shape != other.mean.shape:
            raise ModelError(
                f"a voice of the model {self.model[:12]}… can't be joined with one of the model "
                f"{other.model[:12]}…: enrol both with the same model"
            )
        speech_s = self.speech_s + other.speech_s
        mean = (self.speech_s * self.mean + other.speech_s * other.mean) / speech_s
        return Voice(self.model, mean, self.utterances + other.utterances, speech_s)

    def shrunk(self) -> Vector:
        """Return what the model subtracts, (dim,): the mean times `shrinkage(utterances)`."""
        return np.asarray(shrinkage(self.utterances) * self.mean, dtype=np.float32)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the content, in hex. It stands in the voice file, so that an edit is noticed."""
        return _digest(self._content())

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: the content of a voice file."""
        return {**self._content(), "sha256": self.sha256}

    def to_json(self) -> str:
        """Return the text of a voice file: one JSON object."""
        return json.dumps(self.as_dict()) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "the voice") -> "Voice":
        """Return the voice of the text of a voice file.

        `name` stands for the text in messages. Raises `ModelError` if the text is not that of a voice file,
        was edited, or has another format.
        """
        data = _parse(text, name)
        format = data.get("format")
        if format != FORMAT:
            raise ModelError(
                f"{name} has the format {format!r}, expected {FORMAT}: enrol the speaker again with this "
                "version of emodistill"
            )
        expected = {"format", "model", "mean", "utterances", "speech_s", "sha256"}
        if set(data) != expected:
            raise ModelError(
                f"{name} is not a voice file: expected the fields {sorted(expected)}, got {sorted(data)}"
            )
        if not (
            isinstance(data["model"], str)
            and isinstance(data["mean"], list)
            and all(_is_number(value) for value in data["mean"])
            and _is_number(data["utterances"])
            and isinstance(data["utterances"], int)
            and _is_number(data["speech_s"])
        ):
            raise ModelError(f"{name} has a field of another type than a voice file: enrol the speaker again")
        voice = cls(data["model"], np.array(data["mean"]), data["utterances"], float(data["speech_s"]))
        # Not the hash of the text: other programs write the number 2.0 as 2.
        if data["sha256"] != voice.sha256:
            raise ModelError(
                f"{name} was edited: its content does not have the SHA-256 that it states; enrol the speaker "
                "again"
            )
        return voice

    def save(self, path: str | Path) -> None:
        """Write the voice file. Delete the file to delete the voice."""
        with atomic_write(Path(path)) as partial:
            partial.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Voice":
        """Return the voice of a file. Raises `ModelError` if there is no such file, and as `from_json`."""
        try:
            with Path(path).open("rb") as file:
                content = file.read(MAX_VOICE_BYTES + 1)
        except (OSError, ValueError) as error:  # a ValueError for a NUL in the name
            problem = getattr(error, "strerror", None) or error
            raise ModelError(
                f"the voice file '{path}' cannot be read ({problem}); make one with: "
                "emodistill enrol CLIPS -o FILE"
            ) from error
        return cls.from_json(content, f"'{path}'")

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model,
            "mean": self.mean.tolist(),
            "utterances": self.utterances,
            "speech_s": self.speech_s,
        }


def enrol(statistics: Iterable[SpeechStatistics], model: str) -> tuple[Voice, list[str]]:
    """Return the voice of all inputs together, and warnings: inputs left out, and too little speech.

    Args:
        statistics: of the inputs.
        model: the SHA-256 of the model that computed them.

    Raises:
        AudioError: no input has speech; the message names each.
    """
    statistics = list(statistics)
    left_out = [
        _reason(item, number) for number, item in enumerate(statistics, start=1) if not len(item.windows)
    ]
    total = VoiceSums.of(statistics)
    if not total.num_utterances:
        listed = "".join(f"\n- {problem}" for problem in left_out)
        raise AudioError(f"no recording to make a voice of: expected at least one with speech{listed}")
    warnings = [f"left out of the voice: {problem}" for problem in left_out]
    if total.speech_s < MIN_VOICE_S:
        warnings.append(
            f"the voice has only {total.speech_s:.1f} s of speech: it says little about the speaker, give "
            "more recordings"
        )
    return total.voice(model), warnings


def leave_one_out(statistics: Sequence[SpeechStatistics], model: str) -> Iterator[Voice | None]:
    """Yield for each input the voice of all others; None where no other has speech.

    `model` is the SHA-256 of the model that computed the statistics.
    """
    total = VoiceSums.of(statistics)
    for item in statistics:
        others = total - VoiceSums.of([item])
        yield others.voice(model) if others.num_utterances else None


def ensure_voices(card: Card) -> None:
    """Raise `ModelError` if a model has no voices."""
    if card.voice_dim is None:
        raise ModelError(
            f"the model '{card.name}' has no voices: choose a model that was trained with them (the section "
            "[voice] of its recipe), or recognise without a voice"
        )


def check_voice(voice: Voice, card: Card) -> None:
    """Raise `ModelError` if a voice does not fit a model, and `ConfigError` for what is not a `Voice`."""
    if not isinstance(voice, Voice):
        raise ConfigError(
            f"expected a Voice, got {type(voice).__module__}.{type(voice).__qualname__}: load a voice file "
            "with Voice.load"
        )
    ensure_voices(card)
    if voice.model != card.sha256:
        raise ModelError(
            f"the voice was made with the model {voice.model[:12]}…, but this model, '{card.name}', is "
            f"{card.sha256[:12]}…: enrol the speaker again with this model"
        )
    if len(voice.mean) != card.voice_dim:
        raise ModelError(
            f"the voice has {len(voice.mean)} numbers, but the model '{card.name}' expects {card.voice_dim}: "
            "enrol the speaker again with this model"
        )


@dataclass(frozen=True)
class VoiceSums:
    """Sums over the utterances of a speaker, from which the speaker's voice follows."""

    weighted: npt.NDArray[np.float64] | float  # the sum of statistics times seconds of speech, (dim,)
    speech_s: float
    num_utterances: int

    @classmethod
    def of(cls, statistics: Iterable[SpeechStatistics]) -> "VoiceSums":
        """Return the sums over inputs; one without speech adds nothing."""
        weighted: npt.NDArray[np.float64] | float = 0.0
        speech_s, num_utterances = 0.0, 0
        for item in statistics:
            if len(item.windows):
                weighted = weighted + item.speech_s @ item.windows.astype(np.float64)
                speech_s += float(item.speech_s.sum())
                num_utterances += item.num_utterances
        return cls(weighted, speech_s, num_utterances)

    def __add__(self, other: "VoiceSums") -> "VoiceSums":
        return VoiceSums(
            self.weighted + other.weighted,
            self.speech_s + other.speech_s,
            self.num_utterances + other.num_utterances,
        )

    def __sub__(self, other: "VoiceSums") -> "VoiceSums":
        return VoiceSums(
            self.weighted - other.weighted,
            self.speech_s - other.speech_s,
            self.num_utterances - other.num_utterances,
        )

    def voice(self, model: str) -> Voice:
        """Return the voice, of the model with this SHA-256. There must be an utterance with speech."""
        return Voice(model, np.asarray(self.weighted / self.speech_s), self.num_utterances, self.speech_s)


def _reason(statistics: SpeechStatistics, number: int) -> str:
    """Why an input without speech is left out, with its name, or its number (from 1) without one."""
    if statistics.error is not None and statistics.path and statistics.path in statistics.error:
        return statistics.error
    name = f"'{statistics.path}'" if statistics.path else f"recording {number}"
    return f"{name}: {statistics.error or (statistics.reason or 'no speech').replace('_', ' ')}"


def _parse(text: str | bytes, name: str) -> dict[str, Any]:
    """Return the JSON object of a text. Raises `ModelError` if it holds none."""
    if len(text) > MAX_VOICE_BYTES:
        raise ModelError(f"{name} is not a voice file: it has more than {MAX_VOICE_BYTES // 1024} KiB")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{name} is not a voice file: expected JSON, as emodistill enrol writes it ({error})"
        ) from error
    if not isinstance(data, dict):
        raise ModelError(f"{name} is not a voice file: expected a JSON object, got {type(data).__name__}")
    return data


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < 1e100  # no int that is too large for a float
