"""What timelines and streams need of a recogniser: its answer for each window of speech."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from emodistill.audio.waveform import Waveform
from emodistill.errors import ModelError
from emodistill.inference.confidence import Answer
from emodistill.inference.emotion_path import Values
from emodistill.inference.voices import Vector


class WindowClassifier(Protocol):
    """What segmentation needs of a recogniser; `emodistill.Recognizer` has it."""

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions in the order of the probabilities."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that a head of the model predicts, in their order; empty: it has no such head."""

    def answer(
        self, probabilities: Mapping[str, float], has_voice: bool, emotion: str | None = None,
        learned: bool = False, dimensions: Mapping[str, float] | None = None, /,
    ) -> Answer:  # fmt: skip
        """Return the answer for probabilities; `has_voice`: they come from a comparison with a voice.

        `emotion` was chosen by other means; None: the most probable one. `learned`: the voice was learned
        from the same recording. `dimensions` are those of a head; None: the model has none.
        """

    def classify(self, waveform: Waveform, /) -> "WindowOutput":
        """Return what the model predicts for a waveform (samples,)."""


class WindowOutput(NamedTuple):
    """What a model predicts for one waveform."""

    probabilities: Values  # (emotions,)
    dimensions: Values | None = None  # (dimensions,) of a head, 0 to 1; None: the model has no such head
    statistics: Vector | None = None  # (windows, dim); None: the model has no voices


def check_emotions(recognizer: WindowClassifier) -> None:
    """Raise `ModelError` for a model without emotions, because these divide speech into segments."""
    if not recognizer.emotions:
        raise ModelError(
            f"the model predicts no emotions, only {', '.join(recognizer.dimensions)}, but a timeline or a "
            "stream has a segment for each emotion: choose a model with emotions, or predict utterances"
        )
