"""Files over HTTP: what a form asks for, done file by file, in the form that Accept names."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from emodistill.errors import one_of
from emodistill.inference.recognizer import Prediction, Recognizer
from emodistill.serving import openapi
from emodistill.serving.problems import Refused, responses
from emodistill.serving.responses import PREDICTION_FORMS, TIMELINE_FORMS, chosen, to_text
from emodistill.serving.schemas import LONGEST_NAME, PredictionRow, TimelineRow
from emodistill.serving.service import Service

MOST_FIELDS = 64  # of a form, besides its files
MOST_FIELD_BYTES = 8192
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Files = Annotated[list[UploadFile], File(description="One or many audio or video files.", min_length=1)]
Model = Annotated[
    str | None, Form(description="One of /v1/models; without it, the first.", max_length=LONGEST_NAME)
]
Emotions = Annotated[
    str | None,
    Form(
        description="Consider only these, with commas between; probabilities are renormalised.",
        max_length=1000,
    ),
]
MinConfidence = Annotated[float | None, Form(ge=0, le=1, description="Abstain below this confidence.")]
Coverage = Annotated[
    float | None,
    Form(ge=0, le=1, description="Abstain where unsure, so that about this share is answered. Not together "
         "with min_confidence or emotions."),
]  # fmt: skip
_REFUSALS = (400, 401, 406, 408, 413, 422, 429, 500, 503, 507)


def router(service: Service) -> APIRouter:
    """`/v1/predict` and `/v1/timeline`."""
    router = APIRouter(tags=["files"], route_class=_form_route(service.settings.max_files))

    @router.post(
        "/v1/predict", summary="One emotion for each file", response_model=list[PredictionRow],
        responses=openapi.rows(PREDICTION_FORMS, openapi.prediction_example()) | responses(*_REFUSALS),
    )  # fmt: skip
    async def predict(
        request: Request, files: Files, model: Model = None, emotions: Emotions = None,
        min_confidence: MinConfidence = None, coverage: Coverage = None,
        teachers: Annotated[
            Literal["true", "false"], Form(description="Also what each teacher would say.")
        ] = "false",
    ) -> Response:  # fmt: skip
        """A row for each file, in their order; a file that cannot be read has a row with its `error`."""
        recognizer = await _asked(service, request, files, model, emotions, min_confidence, coverage)
        media_type = chosen(request.headers.get("accept"), PREDICTION_FORMS, len(files))
        rows = []
        for name, file in _named(files):
            row = await service.predict(recognizer, name, file, _wanted(request))
            rows.append(row if teachers == "true" else _without_teachers(row))
        return _text(to_text(rows, media_type, PREDICTION_FORMS, recognizer.emotions), media_type)

    @router.post(
        "/v1/timeline", summary="Emotion over time in each file",
        response_model=list[TimelineRow],
        responses=openapi.rows(TIMELINE_FORMS, openapi.timeline_example()) | responses(*_REFUSALS),
    )  # fmt: skip
    async def timeline(
        request: Request, files: Files, model: Model = None, emotions: Emotions = None,
        min_confidence: MinConfidence = None, coverage: Coverage = None,
    ) -> Response:  # fmt: skip
        """Segments of the speech in each file, with start, end, emotion, confidence and probabilities."""
        recognizer = await _asked(service, request, files, model, emotions, min_confidence, coverage)
        media_type = chosen(request.headers.get("accept"), TIMELINE_FORMS, len(files))
        rows = [
            await service.timeline(recognizer, name, file, _wanted(request)) for name, file in _named(files)
        ]
        return _text(to_text(rows, media_type, TIMELINE_FORMS, recognizer.emotions), media_type)

    return router


def _form_route(max_files: int) -> type[APIRoute]:
    """Routes whose forms are read with limits of their own, before FastAPI would read them with none so tight.

    Every part of a form costs more than its bytes, a file of less than 1 MB is held in memory, and a text is decoded by
    a codec that the client names, some of which are slow.
    """

    class FormRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handle_form(request: Request) -> Response:
                try:
                    await request.form(
                        max_files=max_files, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD_BYTES
                    )
                except HTTPException as error:
                    if str(error.detail).startswith("Too many files"):
                        raise Refused(
                            422, "too-many-files", f"over {max_files} files; send fewer at a time"
                        ) from error
                    raise
                except UnicodeError as error:
                    raise HTTPException(
                        400, "the form's text is not in the charset that its Content-Type names"
                    ) from error
                return await handle(request)

            return handle_form

    return FormRoute


async def _asked(
    service: Service, request: Request, files: Sequence[UploadFile], model: str | None, emotions: str | None,
    min_confidence: float | None, coverage: float | None,
) -> Recognizer:  # fmt: skip
    """The recogniser that a form asks for. Raises what the form's problems are."""
    known = openapi.form_fields(request.url.path)
    for field, value in (await request.form()).multi_items():
        if field not in known or value == "":  # FastAPI takes an empty field for none
            message = "is empty: leave it away" if field in known else one_of("field", field, sorted(known))
            raise RequestValidationError([{"loc": ("body", field), "msg": message, "type": "value_error"}])
    names = None if emotions is None else [name.strip() for name in emotions.split(",") if name.strip()]
    return service.recogniser(model, names, min_confidence, coverage)


def _named(files: Sequence[UploadFile]) -> list[tuple[str, BinaryIO]]:
    """Each file with the last part of its name: it is shown, and never opened."""
    return [(PurePosixPath((file.filename or "").replace("\\", "/")).name, file.file) for file in files]


def _wanted(request: Request) -> Callable[[], Awaitable[bool]]:
    async def there() -> bool:
        return not await request.is_disconnected()

    return there


def _without_teachers(row: Prediction) -> Prediction:
    return replace(row, teachers=None)


def _text(text: str, media_type: str) -> Response:
    charset = "" if media_type.endswith(("json", "x-subrip")) else "; charset=utf-8"
    return Response(text.encode("utf-8", "backslashreplace"), media_type=media_type + charset)
