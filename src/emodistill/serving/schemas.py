"""The shapes of requests and answers. FastAPI checks with them, and builds the OpenAPI document from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from emodistill.audio.recording import MAX_WINDOW_S
from emodistill.inference.prediction import DimensionsSource, Surety
from emodistill.inference.segmentation_options import (
    HOP_S,
    MAX_DURATION_S,
    MAX_SMOOTH_S,
    MIN_DURATION_S,
    MIN_HOP_S,
    SMOOTH_S,
    WINDOW_S,
    SegmentationOptions,
)
from emodistill.serving.problems import Problem

MAX_NAME_LENGTH = 200  # of the name of a model or an emotion
_PROBABILITIES = {
    "angry": 0.81, "happy": 0.06, "sad": 0.02, "neutral": 0.05, "fearful": 0.02, "disgusted": 0.03,
    "surprised": 0.01,
}  # fmt: skip
_VOICE_UTTERANCES = "How many utterances the voice is made of that this was compared with."
_SURETY = "How far to trust the answer, from how often answers of this confidence are right."
_DIMENSIONS = (
    "Each from 0 to 1: arousal and valence, computed from the emotions. Or those that a head of the model "
    "predicts: some of arousal, valence, dominance and intensity."
)
_DIMENSIONS_FROM = "Whether they are computed from the emotions, or predicted by a head of the model."
_CHANNEL = "The channel of the recording, from 0. Without it, all channels are mixed."
_RETURNED_VOICE = "With the option `return_voice`: the voice that was learned from this file."


class VoiceContent(BaseModel):
    """The content of a voice file. Send it as it is: an edited voice is refused. It is personal data."""

    format: int
    model: str = Field(description="The SHA-256 of the model, which alone can use the voice.")
    mean: list[float]
    utterances: int = Field(ge=1)
    speech_s: float = Field(gt=0)
    sha256: str


class EnrolledVoice(BaseModel):
    """A voice that was learned from files, and warnings: files that were left out, too little speech."""

    voice: VoiceContent
    warnings: list[str]


class PredictionRow(BaseModel):
    """The emotion of one file, or the `reason` for none, or the `error` of a file that cannot be read.

    A model that predicts dimensions alone gives `dimensions` in place of an emotion.
    """

    path: str = Field(description="The file name in the request.")
    emotion: str | None
    confidence: float | None = Field(ge=0, le=1)
    probabilities: dict[str, float]
    abstained: bool
    reason: Literal["silence", "no_speech", "too_short", "low_confidence"] | None
    error: str | None
    teachers: dict[str, dict[str, float]] | None = Field(
        None, description="With the option `teachers`: the probabilities that each teacher would predict, "
        "as estimated by the model. Only of models that can.",
    )  # fmt: skip
    voice_utterances: int | None = Field(None, ge=1, description=_VOICE_UTTERANCES)
    surety: Surety | None = Field(None, description=_SURETY)
    dimensions: dict[str, float] | None = Field(None, description=_DIMENSIONS)
    dimensions_from: DimensionsSource | None = Field(None, description=_DIMENSIONS_FROM)
    channel: int | None = Field(None, description=_CHANNEL)
    voice: VoiceContent | None = Field(None, description=_RETURNED_VOICE)


class SegmentRow(BaseModel):
    """A part of the speech with one emotion. `emotion` is null below the `min_confidence` of the request."""

    start_s: float
    end_s: float
    emotion: str | None
    confidence: float | None = Field(ge=0, le=1)
    probabilities: dict[str, float]
    speaker: str | None = Field(None, description="Of a given segment, or of a channel.")
    voice_utterances: int | None = Field(None, ge=0, description=_VOICE_UTTERANCES)
    surety: Surety | None = Field(None, description=_SURETY)
    dimensions: dict[str, float] | None = Field(None, description=_DIMENSIONS)
    dimensions_from: DimensionsSource | None = Field(None, description=_DIMENSIONS_FROM)
    channel: int | None = Field(None, description=_CHANNEL)
    text: str | None = Field(None, description="The words of a given segment.")


class TimelineRow(BaseModel):
    """Emotion over time in one file."""

    path: str = Field(description="The file name in the request.")
    duration_s: float | None
    segments: list[SegmentRow]
    summary: dict[str, float] = Field(description="Seconds of each emotion.")
    reason: Literal["silence", "no_speech", "too_short"] | None = Field(
        description="Why there is no segment."
    )
    error: str | None
    speakers: dict[str, dict[str, float]] | None = Field(
        None, description="Seconds of each emotion, for each speaker."
    )
    voice: VoiceContent | None = Field(None, description=_RETURNED_VOICE)


class JobStatus(BaseModel):
    """The state of a job. Members without a value are left out."""

    id: str = Field(description="128 random bits. Without a token, whoever has it can read the result.")
    state: Literal["waiting", "running", "done", "failed"]
    progress: float | None = Field(None, ge=0, le=1, description="Of a running job.")
    result: list[TimelineRow] | None = Field(None, description="Of a job that is done: as of /v1/timeline.")
    problem: Problem | None = Field(None, description="Of a job that has failed.")


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ok", "ready"]


class ModelInfo(BaseModel):
    """A model of this server: the main facts, and the whole card in `card`."""

    name: str
    default: bool = Field(description="Whether this model answers requests that name no model.")
    emotions: list[str] = Field(description="Empty: the model predicts dimensions alone.")
    dimensions: list[str] = Field(
        description="That a head of the model predicts. Empty: arousal and valence are computed from the "
        "emotions."
    )
    colours: dict[str, str] = Field(description="The colour of each emotion on the page and in pictures.")
    teachers: list[str]
    precision: str
    num_parameters: int
    voice_dim: int | None = Field(description="The size of the model's voices; null: it has no voices.")
    hop_compute_s: float = Field(
        description="Seconds of computation for each hop of a stream, as measured when the server started. "
        "Above the hop, 0.5 s, a stream falls behind the speaker."
    )
    languages: list[str]
    licence: str
    intended_use: str
    limits: str
    card: dict[str, Any]


class Models(BaseModel):
    """The models of this server, and its limits."""

    version: str
    models: list[ModelInfo]
    limits: dict[str, float | None]


class StreamStart(BaseModel):
    """The first message of a stream: the format of the audio, and the options."""

    model_config = ConfigDict(extra="forbid")

    # pcm16 and float32 are little-endian with interleaved channels.
    encoding: Literal["pcm16", "float32", "webm"] = "pcm16"
    rate: int | None = Field(None, ge=4_000, le=192_000)  # Hz; not needed for webm, which contains it
    channels: int = Field(1, ge=1, le=8)
    model: str | None = Field(None, max_length=MAX_NAME_LENGTH)
    emotions: list[Annotated[str, Field(max_length=MAX_NAME_LENGTH)]] | None = Field(None, max_length=64)
    min_confidence: float | Annotated[str, Field(max_length=MAX_NAME_LENGTH)] | None = None
    coverage: float | None = None  # refused, with a message that names min_confidence
    updates: bool = True  # whether to send `update` events too
    voice: dict[str, Any] | None = None  # the content of a voice file
    adapt: Literal["none", "running"] = "none"
    smooth: float = Field(SMOOTH_S, ge=0, le=MAX_SMOOTH_S)  # these four are in seconds
    min_duration: float = Field(MIN_DURATION_S, ge=0, le=MAX_DURATION_S)
    hop: float = Field(HOP_S, ge=MIN_HOP_S, le=MAX_WINDOW_S)
    window: float = Field(WINDOW_S, ge=MIN_HOP_S, le=MAX_WINDOW_S)
    token: SecretStr | None = None  # for clients that cannot set the Authorization header, such as browsers

    def segmentation(self) -> SegmentationOptions:
        """The options of segmentation. Raises `ConfigError` for a window that is no whole number of hops."""
        return SegmentationOptions(self.hop, self.window, self.smooth, self.min_duration)


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
