"""The REST endpoints `/v1/predict` and `/v1/timeline`: files in a form, one row for each in the answer."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from emodistill.errors import one_of
from emodistill.inference.recognizer import Recognizer
from emodistill.serving import openapi
from emodistill.serving.problems import RequestRefused, documented_problems
from emodistill.serving.responses import (
    PREDICTION_RESPONSES,
    TIMELINE_RESPONSES,
    choose_media_type,
    write_response,
)
from emodistill.serving.schemas import MAX_NAME_LENGTH, PredictionRow, TimelineRow
from emodistill.serving.service import IsConnected, Service

MAX_FIELDS = 64  # of a form, without its files
MAX_FIELD_BYTES = 8192
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
_ERROR_STATUSES = (400, 401, 406, 408, 413, 422, 429, 500, 503, 507)


def create_rest_router(service: Service) -> APIRouter:
    """Routes for `/v1/predict` and `/v1/timeline`."""
    router = APIRouter(tags=["files"], route_class=_form_route(service.settings.max_files))
    problems = documented_problems(*_ERROR_STATUSES)

    @router.post(
        "/v1/predict", summary="Predict one emotion for each file", response_model=list[PredictionRow],
        responses=openapi.documented_rows(PREDICTION_RESPONSES, openapi.prediction_example()) | problems,
    )  # fmt: skip
    async def predict(
        request: Request, files: Files, model: Model = None, emotions: Emotions = None,
        min_confidence: MinConfidence = None, coverage: Coverage = None,
        teachers: Annotated[
            Literal["true", "false"], Form(description="Also return what each teacher would predict.")
        ] = "false",
    ) -> Response:  # fmt: skip
        """One row for each file, in the order of the request. An unreadable file has a row with `error`."""
        recognizer = await _select_recognizer(service, request, model, emotions, min_confidence, coverage)
        media_type = choose_media_type(request.headers.get("accept"), PREDICTION_RESPONSES, len(files))
        rows = []
        for name, file in _named_files(files):
            row = await service.predict(recognizer, name, file, _connection_check(request))
            rows.append(row if teachers == "true" else replace(row, teachers=None))
        text = write_response(rows, media_type, PREDICTION_RESPONSES, recognizer.emotions)
        return _text_response(text, media_type)

    @router.post(
        "/v1/timeline", summary="Find the emotions over time in each file", response_model=list[TimelineRow],
        responses=openapi.documented_rows(TIMELINE_RESPONSES, openapi.timeline_example()) | problems,
    )  # fmt: skip
    async def timeline(
        request: Request, files: Files, model: Model = None, emotions: Emotions = None,
        min_confidence: MinConfidence = None, coverage: Coverage = None,
    ) -> Response:  # fmt: skip
        """The segments of speech in each file, with start, end, emotion, confidence and probabilities."""
        recognizer = await _select_recognizer(service, request, model, emotions, min_confidence, coverage)
        media_type = choose_media_type(request.headers.get("accept"), TIMELINE_RESPONSES, len(files))
        rows = [
            await service.timeline(recognizer, name, file, _connection_check(request))
            for name, file in _named_files(files)
        ]
        text = write_response(rows, media_type, TIMELINE_RESPONSES, recognizer.emotions)
        return _text_response(text, media_type)

    return router


def _form_route(max_files: int) -> type[APIRoute]:
    """A route class that parses the form with limits. FastAPI's own limits are too high, for three reasons.

    Each part of a form costs more than its bytes. A file below 1 MB stays in memory. And the client names the
    charset of a text, whose decoder may be slow.
    """

    class FormRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handle_form(request: Request) -> Response:
                try:
                    await request.form(
                        max_files=max_files, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
                    )
                except HTTPException as error:
                    if str(error.detail).startswith("Too many files"):
                        detail = f"more than {max_files} files in one request; send fewer files at a time"
                        raise RequestRefused(422, "too-many-files", detail) from error
                    raise
                except UnicodeError as error:
                    detail = "a text of the form is not in the charset that its Content-Type names"
                    raise HTTPException(400, detail) from error
                return await handle(request)

            return handle_form

    return FormRoute


async def _select_recognizer(
    service: Service, request: Request, model: str | None, emotions: str | None,
    min_confidence: float | None, coverage: float | None,
) -> Recognizer:  # fmt: skip
    """The recogniser with the options of a form.

    Raises `RequestValidationError` for unknown and for empty fields, and what `Service.recognizer` raises.
    """
    known = openapi.form_fields(request.url.path)
    for field, value in (await request.form()).multi_items():
        # FastAPI ignores unknown fields, and treats an empty field as missing.
        if field not in known or value == "":
            message = (
                "is empty: give it a value or leave it out"
                if field in known
                else one_of("field", field, sorted(known))
            )
            raise RequestValidationError([{"loc": ("body", field), "msg": message, "type": "value_error"}])
    names = None if emotions is None else [name.strip() for name in emotions.split(",") if name.strip()]
    return service.recognizer(model, names, min_confidence, coverage)


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
