"""The shapes of what goes in and out, for checking, and for the OpenAPI document."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

LONGEST_NAME = 200  # of a model or an emotion
_PROBABILITIES = {"angry": 0.81, "happy": 0.06, "sad": 0.02, "neutral": 0.05, "fearful": 0.02, "disgusted": 0.03, "surprised": 0.01}  # fmt: skip


class PredictionRow(BaseModel):
    """One file's emotion; `reason` where there is none, `error` where the file could not be read."""

    path: str = Field(description="The file's name, as it was sent.")
    emotion: str | None
    confidence: float | None = Field(ge=0, le=1)
    probabilities: dict[str, float]
    abstained: bool
    reason: Literal["silence", "no_speech", "too_short", "low_confidence"] | None
    error: str | None
    teachers: dict[str, dict[str, float]] | None = Field(
        None, description="With the option `teachers`: what each teacher would say, where the model knows."
    )


class SegmentRow(BaseModel):
    """A stretch of speech of one emotion; null below the confidence that was asked for."""

    start_s: float
    end_s: float
    emotion: str | None
    confidence: float | None = Field(ge=0, le=1)
    probabilities: dict[str, float]


class TimelineRow(BaseModel):
    """Emotion over time in one file."""

    path: str = Field(description="The file's name, as it was sent.")
    duration_s: float | None
    segments: list[SegmentRow]
    summary: dict[str, float] = Field(description="Seconds of each emotion.")
    reason: Literal["silence", "no_speech", "too_short"] | None = Field(
        description="Why no segment was found."
    )
    error: str | None


class Health(BaseModel):
    """Whether the server is alive, or ready for work."""

    status: Literal["ok", "ready"]


class ModelInfo(BaseModel):
    """A model that is served, in short; its whole card is under `card`."""

    name: str
    default: bool = Field(description="Whether it answers requests that name no model.")
    emotions: list[str]
    colours: dict[str, str] = Field(description="The colour of each emotion, as in this project's pictures.")
    teachers: list[str]
    precision: str
    num_parameters: int
    languages: list[str]
    licence: str
    intended_use: str
    limits: str
    card: dict[str, Any]


class Models(BaseModel):
    """What is served, and how much of it."""

    version: str
    models: list[ModelInfo]
    limits: dict[str, float | None]


class StreamStart(BaseModel):
    """The first message of a stream: what the chunks after it are."""

    model_config = ConfigDict(extra="forbid")

    encoding: Literal["pcm16", "float32", "webm"] = (
        "pcm16"  # the first two little-endian, channels interleaved
    )
    rate: int | None = Field(None, ge=4_000, le=192_000)  # Hz; webm says it itself
    channels: int = Field(1, ge=1, le=8)
    model: str | None = Field(None, max_length=LONGEST_NAME)
    emotions: list[Annotated[str, Field(max_length=LONGEST_NAME)]] | None = Field(None, max_length=64)
    min_confidence: float | None = Field(None, ge=0, le=1)
    coverage: float | None = Field(None, ge=0, le=1)
    updates: bool = True  # also the windows in between, not segments alone
    token: SecretStr | None = None  # where the server wants one and the client can set no header


PREDICTION_EXAMPLE: dict[str, Any] = {
    "path": "call.wav", "emotion": "angry", "confidence": 0.81, "probabilities": _PROBABILITIES,
    "abstained": False, "reason": None, "error": None,
}  # fmt: skip
TIMELINE_EXAMPLE: dict[str, Any] = {
    "path": "call.wav",
    "duration_s": 4.2,
    "segments": [
        {
            "start_s": 0.34,
            "end_s": 3.9,
            "emotion": "angry",
            "confidence": 0.81,
            "probabilities": _PROBABILITIES,
        }
    ],
    "summary": {**dict.fromkeys(_PROBABILITIES, 0.0), "angry": 3.56},
    "reason": None,
    "error": None,
}
