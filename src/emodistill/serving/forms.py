"""The forms of the REST endpoints: their fields, their limits, and the model that they choose."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import StringConstraints
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException

from emodistill.audio.recording import MAX_WINDOW_S
from emodistill.errors import one_of
from emodistill.inference.confidence import NO_COVERAGE
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation_options import (
    HOP_S,
    MAX_DURATION_S,
    MAX_SMOOTH_S,
    MIN_DURATION_S,
    MIN_HOP_S,
    SMOOTH_S,
    WINDOW_S,
)
from emodistill.serving import openapi
from emodistill.serving.problems import RequestRefused
from emodistill.serving.schemas import MAX_NAME_LENGTH
from emodistill.serving.service import IsConnected, Service

MAX_VOICES = 32  # of one request, each of another speaker
MAX_FIELDS = 64 + MAX_VOICES  # of a form, without its files
MAX_FIELD_BYTES = 8192
CHARSETS = ("utf-8", "us-ascii", "iso-8859-1")  # of the texts of a form
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Files = Annotated[list[UploadFile], File(description="One or more audio or video files.", min_length=1)]
Model = Annotated[
    str | None,
    Form(
        description="The name of a model in /v1/models. By default, the first one.",
        max_length=MAX_NAME_LENGTH,
    ),
]
Emotions = Annotated[
    str | None,
    Form(
        description="Consider only these emotions, separated by commas. Their probabilities then sum to 1.",
        max_length=1000,
    ),
]
MinConfidence = Annotated[
    str | None,
    Form(description="Give no emotion where the confidence, from 0 to 1, is lower. dev:0.8 stands for the "
         "confidence that this share of the utterances had that the model was calibrated on.",
         max_length=MAX_NAME_LENGTH),
]  # fmt: skip
Coverage = Annotated[
    float | None,
    Form(ge=0, le=1, description="Give an emotion for this share of the answers of the request, the most "
         "confident ones."),
]  # fmt: skip
Flag = Literal["true", "false"]
VoiceFile = Annotated[
    UploadFile | None,
    File(description="The voice of the speaker, as /v1/voices returns it: JSON of at most 256 KiB."),
]
VoiceFiles = Annotated[
    list[UploadFile] | None,
    File(
        description="The voice to compare speech with, as /v1/voices returns it: JSON, at most 256 KiB. With "
        "voice_name, one for each speaker.",
        max_length=MAX_VOICES,
    ),
]
VoiceNames = Annotated[
    list[Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)]] | None,
    Form(
        description="The speakers of the voices: a field for each file in voice, in the same order. With "
        "channels=split, or with segments that name their speakers.",
        max_length=MAX_VOICES,
    ),
]
ReturnVoice = Annotated[
    Flag,
    Form(description="Also return a voice for each file, learned from this file alone. Only as JSON."),
]
PredictAdapt = Annotated[
    Literal["none", "together"],
    Form(
        description="together: compare each file with the usual of all other files of the request. They must "
        "be utterances of one speaker with different emotions. Cannot be combined with voice."
    ),
]
TimelineAdapt = Annotated[
    Literal["none", "auto", "recording", "running"],
    Form(
        description="Compare each part of a recording with the usual of the whole recording (recording), or "
        "of the speech before it (running). auto: as recording, but only where the recording evidently has "
        "several emotions. Cannot be combined with voice, and auto not with segments."
    ),
]
Channel = Annotated[
    int | None,
    Form(ge=0, le=127, description="Recognise this channel, from 0. By default, all channels mixed."),
]
CHANNELS = "^(mix|split|[0-9]{1,3})$"  # documented here, and checked where the message can be clearer
Channels = Annotated[
    str,
    Form(
        json_schema_extra={"pattern": CHANNELS},
        description="mix: the mean of all channels. split: each channel on its own, as a speaker. Or the "
        "number of one channel, from 0.",
    ),
]
Names = Annotated[
    str | None,
    Form(
        description="The speakers in the channels, in order, separated by commas. With channels=split.",
        max_length=1000,
    ),
]
SegmentsFile = Annotated[
    UploadFile | None,
    File(
        description="Recognise these segments instead of the speech that is found: RTTM, JSON of whisperX or "
        "pyannote, or CSV with the columns start,end[,speaker][,path][,channel][,text]."
    ),
]
Smooth = Annotated[
    float,
    Form(
        ge=0, le=MAX_SMOOTH_S, description="How strongly changes of emotion are smoothed, in seconds. "
        "0: each stretch of speech stands alone.",
    ),
]  # fmt: skip
MinDuration = Annotated[
    float, Form(ge=0, le=MAX_DURATION_S, description="The least speech of an emotion, in seconds.")
]
Hop = Annotated[
    float, Form(ge=MIN_HOP_S, le=MAX_WINDOW_S, description="From one window to the next, in seconds.")
]
Window = Annotated[
    float,
    Form(
        ge=MIN_HOP_S,
        le=MAX_WINDOW_S,
        description="The length of a window in seconds, a whole number of hops.",
    ),
]
ERROR_STATUSES = (400, 401, 406, 408, 413, 422, 429, 500, 503, 507)


@dataclass
class Options:
    """The form fields that choose a model and its options."""

    model: Model = None
    emotions: Emotions = None
    min_confidence: MinConfidence = None


@dataclass
class PredictFields(Options):
    """The form fields of `/v1/predict`, without the files."""

    voice: VoiceFile = None
    adapt: PredictAdapt = "none"
    return_voice: ReturnVoice = "false"
    coverage: Coverage = None
    channel: Channel = None
    teachers: Annotated[Flag, Form(description="Also return what each teacher would predict.")] = "false"


@dataclass
class TimelineFields(Options):
    """The form fields of `/v1/timeline` and `/v1/jobs`, without the files."""

    voice: VoiceFiles = None
    voice_name: VoiceNames = None
    adapt: TimelineAdapt = "none"
    return_voice: ReturnVoice = "false"
    segments: SegmentsFile = None
    channels: Channels = "mix"
    names: Names = None
    smooth: Smooth = SMOOTH_S
    min_duration: MinDuration = MIN_DURATION_S
    hop: Hop = HOP_S
    window: Window = WINDOW_S


def form_route(max_files: int) -> type[APIRoute]:
    """A route class that parses the form with limits. FastAPI's own limits are too high, for three reasons.

    Each part of a form costs more than its bytes. A file below 1 MB stays in memory. And the client names the
    charset of a text. Some decoders of Python are slow, or make no text.
    """

    class FormRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handle_form(request: Request) -> Response:
                files = "1 file" if max_files == 1 else f"{max_files} files"
                detail = f"more than {files} in one request; send fewer files at a time"
                too_many = RequestRefused(422, "too-many-files", detail)
                _check_charset(request)
                try:
                    form = await request.form(
                        max_files=max_files + 1 + MAX_VOICES,  # one is for segments
                        max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES,
                    )  # fmt: skip
                    if len(form.getlist("files")) > max_files:
                        raise too_many
                except HTTPException as error:
                    if str(error.detail).startswith("Too many files"):
                        raise too_many from error
                    raise
                except UnicodeError as error:
                    detail = "a text of the form is not in the charset that its Content-Type names"
                    raise HTTPException(400, detail) from error
                return await handle(request)

            return handle_form

    return FormRoute


def _check_charset(request: Request) -> None:
    """Raise `HTTPException` (400) for a form whose Content-Type names a charset that is not in `CHARSETS`."""
    _, options = parse_options_header(request.headers.get("content-type"))
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in CHARSETS:
        names = ", ".join(CHARSETS)
        raise HTTPException(400, f"bad charset {charset[:40]!r} of the form, expected one of {names}")


async def select_recognizer(service: Service, request: Request, options: Options) -> Recognizer:
    """The recogniser with the options of a form.

    Raises what `check_fields` and `Service.recognizer` raise.
    """
    await check_fields(request)
    emotions = options.emotions
    names = None if emotions is None else [name.strip() for name in emotions.split(",") if name.strip()]
    return service.recognizer(options.model, names, options.min_confidence)


async def check_fields(request: Request) -> None:
    """Raise `RequestValidationError` for unknown and empty fields, and for several voices or segments."""
    known, form = openapi.form_fields(request.url.path), await request.form()
    for field in ("voice", "segments"):
        repeatable = field == "voice" and "voice_name" in known
        if len(form.getlist(field)) > 1 and not repeatable:
            message = f"came more than once, expected one: a request has one {field.removesuffix('s')} file"
            raise RequestValidationError([{"loc": ("body", field), "msg": message, "type": "value_error"}])
    for field, value in form.multi_items():
        # FastAPI ignores unknown fields, and treats an empty field as missing.
        if field not in known or value == "":
            if field in known:
                message = "is empty: give it a value or leave it out"
            else:
                message = NO_COVERAGE if field == "coverage" else one_of("field", field, sorted(known))
            raise RequestValidationError([{"loc": ("body", field), "msg": message, "type": "value_error"}])


def named_files(files: Sequence[UploadFile]) -> list[tuple[str, BinaryIO]]:
    """Each file with the last part of its name. The name only appears in the answer; no path is opened."""
    return [(PurePosixPath((file.filename or "").replace("\\", "/")).name, file.file) for file in files]


def connection_check(request: Request) -> IsConnected:
    """A function that returns whether the client still waits for the answer."""

    async def is_connected() -> bool:
        return not await request.is_disconnected()

    return is_connected
