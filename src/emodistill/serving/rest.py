"""The REST endpoints that take files in a form: `/v1/predict`, `/v1/timeline` and `/v1/voices`."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from emodistill.errors import AudioError, one_of
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.voices import Voice, enrol, ensure_voices, leave_one_out
from emodistill.serving import openapi
from emodistill.serving.problems import RequestRefused, documented_problems
from emodistill.serving.responses import (
    PREDICTION_RESPONSES,
    TIMELINE_RESPONSES,
    choose_media_type,
    write_response,
)
from emodistill.serving.schemas import MAX_NAME_LENGTH, EnrolledVoice, PredictionRow, TimelineRow
from emodistill.serving.service import IsConnected, Service
from emodistill.serving.voices import check_return_voice, learned_voice, read_voice, rows_with_voices

MAX_FIELDS = 64  # of a form, without its files
MAX_FIELD_BYTES = 8192
Responses = dict[int | str, dict[str, Any]]  # of an operation in the OpenAPI document
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
    float | None, Form(ge=0, le=1, description="Give no emotion where the confidence is lower.")
]
Coverage = Annotated[
    float | None,
    Form(ge=0, le=1, description="Give no emotion where the model is least sure, so that about this share of "
         "the answers has one. Cannot be combined with min_confidence or emotions."),
]  # fmt: skip
Flag = Literal["true", "false"]
VoiceFile = Annotated[
    UploadFile | None,
    File(description="The voice of the speaker, as /v1/voices returns it: JSON of at most 256 KiB."),
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
    Literal["none", "recording", "running"],
    Form(
        description="Compare each part of a recording with the usual of the whole recording (recording), or "
        "of the speech before it (running). Cannot be combined with voice."
    ),
]
_ERROR_STATUSES = (400, 401, 406, 408, 413, 422, 429, 500, 503, 507)


@dataclass
class Options:
    """The form fields that choose a model and its options."""

    model: Model = None
    emotions: Emotions = None
    min_confidence: MinConfidence = None
    coverage: Coverage = None


def create_rest_router(service: Service) -> APIRouter:
    """Routes for `/v1/predict`, `/v1/timeline` and `/v1/voices`."""
    router = APIRouter(tags=["files"], route_class=_form_route(service.settings.max_files))
    problems = documented_problems(*_ERROR_STATUSES)
    _add_predict_route(router, service, problems)
    _add_timeline_route(router, service, problems)
    _add_voices_route(router, service, problems)
    return router


def _add_predict_route(router: APIRouter, service: Service, problems: Responses) -> None:
    @router.post(
        "/v1/predict", summary="Predict one emotion for each file", response_model=list[PredictionRow],
        responses=openapi.documented_rows(PREDICTION_RESPONSES, openapi.prediction_example()) | problems,
    )  # fmt: skip
    async def predict(
        request: Request, files: Files, options: Annotated[Options, Depends()], voice: VoiceFile = None,
        adapt: PredictAdapt = "none", return_voice: ReturnVoice = "false",
        teachers: Annotated[Flag, Form(description="Also return what each teacher would predict.")] = "false",
    ) -> Response:  # fmt: skip
        """One row for each file, in the order of the request. An unreadable file has a row with `error`."""
        recognizer = await _select_recognizer(service, request, options)
        known = await read_voice(voice, adapt, recognizer)
        media_type = choose_media_type(request.headers.get("accept"), PREDICTION_RESPONSES, len(files))
        if return_voice == "true":
            check_return_voice(media_type, recognizer)
        if adapt == "none" and return_voice == "false":
            rows = [
                await service.predict(recognizer, name, file, _connection_check(request), known)
                for name, file in _named_files(files)
            ]
            learned: list[Voice | None] = []
        else:
            rows, learned = await _predict_from_statistics(service, request, files, recognizer, known, adapt)
        rows = [row if teachers == "true" else replace(row, teachers=None) for row in rows]
        if return_voice == "true":
            return _text_response(rows_with_voices(rows, learned), media_type)
        text = write_response(rows, media_type, PREDICTION_RESPONSES, recognizer.emotions)
        return _text_response(text, media_type)


def _add_timeline_route(router: APIRouter, service: Service, problems: Responses) -> None:
    @router.post(
        "/v1/timeline", summary="Find the emotions over time in each file", response_model=list[TimelineRow],
        responses=openapi.documented_rows(TIMELINE_RESPONSES, openapi.timeline_example()) | problems,
    )  # fmt: skip
    async def timeline(
        request: Request, files: Files, options: Annotated[Options, Depends()], voice: VoiceFile = None,
        adapt: TimelineAdapt = "none", return_voice: ReturnVoice = "false",
    ) -> Response:  # fmt: skip
        """The segments of speech in each file, with start, end, emotion, confidence and probabilities."""
        recognizer = await _select_recognizer(service, request, options)
        known = await read_voice(voice, adapt, recognizer)
        media_type = choose_media_type(request.headers.get("accept"), TIMELINE_RESPONSES, len(files))
        if return_voice == "true":
            check_return_voice(media_type, recognizer)
        rows, learned = [], []
        for name, file in _named_files(files):
            check = _connection_check(request)
            rows.append(await service.timeline(recognizer, name, file, check, voice=known, adapt=adapt))
            if return_voice == "true":
                statistics = await service.statistics_of_timeline(recognizer, rows[-1], file, check)
                learned.append(learned_voice(statistics, recognizer))
        if return_voice == "true":
            return _text_response(rows_with_voices(rows, learned), media_type)
        text = write_response(rows, media_type, TIMELINE_RESPONSES, recognizer.emotions)
        return _text_response(text, media_type)


def _add_voices_route(router: APIRouter, service: Service, problems: Responses) -> None:
    @router.post("/v1/voices", summary="Learn the voice of a speaker", responses=problems)
    async def voices(request: Request, files: Files, model: Model = None) -> EnrolledVoice:
        """One voice, learned from files of one speaker without labels. The server does not keep it.

        A file without speech, or that cannot be read, is left out with a warning in the answer. A voice is
        personal data: it may serve to recognise a person.
        """
        recognizer = await _select_recognizer(service, request, Options(model=model))
        ensure_voices(recognizer.card)
        statistics = [
            await service.statistics(recognizer, name, file, _connection_check(request), "voices")
            for name, file in _named_files(files)
        ]
        try:
            voice, warnings = enrol(statistics, recognizer.card.sha256)
        except AudioError as error:
            raise RequestRefused(422, "no-speech", str(error)) from error
        return EnrolledVoice(voice=voice.as_dict(), warnings=warnings)


async def _predict_from_statistics(
    service: Service, request: Request, files: Sequence[UploadFile], recognizer: Recognizer,
    voice: Voice | None, adapt: str,
) -> tuple[list[Prediction], list[Voice | None]]:  # fmt: skip
    """The prediction of each file, and the voice of each file. The model's trunk runs once for each file."""
    statistics = [
        await service.statistics(recognizer, name, file, _connection_check(request))
        for name, file in _named_files(files)
    ]
    voices: Sequence[Voice | None] = [voice] * len(files)
    if adapt == "together":
        voices = list(leave_one_out(statistics, recognizer.card.sha256))
    rows = await service.predict_statistics(recognizer, statistics, voices, _connection_check(request))
    return rows, [learned_voice(item, recognizer) for item in statistics]


def _form_route(max_files: int) -> type[APIRoute]:
    """A route class that parses the form with limits. FastAPI's own limits are too high, for three reasons.

    Each part of a form costs more than its bytes. A file below 1 MB stays in memory. And the client names the
    charset of a text, whose decoder may be slow.
    """

    class FormRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handle_form(request: Request) -> Response:
                detail = f"more than {max_files} files in one request; send fewer files at a time"
                too_many = RequestRefused(422, "too-many-files", detail)
                try:
                    form = await request.form(
                        max_files=max_files + 1,  # the last one is for a voice
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


async def _select_recognizer(service: Service, request: Request, options: Options) -> Recognizer:
    """The recogniser with the options of a form.

    Raises `RequestValidationError` for unknown and for empty fields and for several voices, and what
    `Service.recognizer` raises.
    """
    known, form = openapi.form_fields(request.url.path), await request.form()
    if len(form.getlist("voice")) > 1:
        message = "came more than once, expected one: a request has one voice"
        raise RequestValidationError([{"loc": ("body", "voice"), "msg": message, "type": "value_error"}])
    for field, value in form.multi_items():
        # FastAPI ignores unknown fields, and treats an empty field as missing.
        if field not in known or value == "":
            message = (
                "is empty: give it a value or leave it out"
                if field in known
                else one_of("field", field, sorted(known))
            )
            raise RequestValidationError([{"loc": ("body", field), "msg": message, "type": "value_error"}])
    emotions = options.emotions
    names = None if emotions is None else [name.strip() for name in emotions.split(",") if name.strip()]
    return service.recognizer(options.model, names, options.min_confidence, options.coverage)


def _named_files(files: Sequence[UploadFile]) -> list[tuple[str, BinaryIO]]:
    """Each file with the last part of its name. The name only appears in the answer; no path is opened."""
    return [(PurePosixPath((file.filename or "").replace("\\", "/")).name, file.file) for file in files]


def _connection_check(request: Request) -> IsConnected:
    async def is_connected() -> bool:
        return not await request.is_disconnected()

    return is_connected


def _text_response(text: str, media_type: str) -> Response:
    charset = "; charset=utf-8" if media_type.startswith("text/") else ""
    return Response(text.encode("utf-8", "backslashreplace"), media_type=media_type + charset)
