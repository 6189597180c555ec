"""The result of recognition for one input."""

from dataclasses import dataclass, field
from typing import Any, Literal

Reason = Literal["silence", "no_speech", "too_short", "low_confidence"]
Surety = Literal["likely", "unsure", "no better than a guess"]
DimensionsSource = Literal["emotions", "head"]

# Optional fields of predictions and of segments: JSON leaves them out where they are None.
OPTIONAL = ("surety", "dimensions", "dimensions_from", "channel")
LISTED = ("id", "start_s", "end_s", "speaker")  # of predictions alone: what a list of inputs states


@dataclass(frozen=True)
class Prediction:
    """The result for one input.

    Of a model with emotions, exactly one of `emotion`, `reason` and `error` is set. A model with dimensions
    alone never sets `emotion`: either `dimensions`, `reason` or `error` is set.
    """

    path: str  # empty if the input was not a path
    emotion: str | None = None
    confidence: float | None = None  # the highest probability, 0 to 1
    probabilities: dict[str, float] = field(default_factory=dict)  # by emotion; empty if none were computed
    abstained: bool = False
    reason: Reason | None = None  # why the recogniser abstained
    error: str | None = None  # why the input could not be read
    teachers: dict[str, dict[str, float]] | None = (
        None  # the student's estimate of each teacher's probabilities
    )
    voice_utterances: int | None = None  # of the voice that the input was compared with; None: no voice
    surety: Surety | None = None  # by how often such answers are right; None: not known
    dimensions: dict[str, float] | None = None  # such as arousal and valence, 0 to 1
    dimensions_from: DimensionsSource | None = None  # computed from the emotions, or by a head of the model
    channel: int | None = None  # of the recording, from 0; None: all channels mixed
    id: str | None = None  # of the utterance in a list of inputs
    start_s: float | None = None  # where the utterance begins in its recording; None: at the beginning
    end_s: float | None = None  # where it ends; None: at the end
    speaker: str | None = None  # of the utterance in a list of inputs
    mixed_channels: int | None = field(default=None, compare=False, repr=False)  # that differ; not in JSON

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, keys in a fixed order; what is optional and None is left out.

        Optional are `teachers` and all fields after it. `Prediction(**prediction.as_dict())` equals the
        prediction.
        """
        data = {**self.__dict__, "probabilities": dict(self.probabilities)}
        del data["mixed_channels"]
        for name in ("teachers", "voice_utterances", *OPTIONAL, *LISTED):
            if data[name] is None:
                del data[name]
        return data

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the sound, and the emotion with the probabilities."""
        from emodistill.inference.notebook import prediction_html

        return prediction_html(self.as_dict())
