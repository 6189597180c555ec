"""The REST endpoints that take files in a form: `/v1/predict`, `/v1/timeline` and `/v1/voices`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response, UploadFile

from emodistill.errors import AudioError
from emodistill.inference.confidence import check_confidence, keep_most_confident
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.voices import Voice, enrol, ensure_voices, leave_one_out
from emodistill.serving import openapi
from emodistill.serving.forms import (
    ERROR_STATUSES,
    Channel,
    Files,
    Model,
    Options,
    PredictFields,
    TimelineFields,
    connection_check,
    form_route,
    named_files,
    select_recognizer,
)
from emodistill.serving.problems import RequestRefused, documented_problems
from emodistill.serving.responses import (
    PREDICTION_RESPONSES,
    TIMELINE_RESPONSES,
    choose_media_type,
    text_response,
    write_response,
)
from emodistill.serving.schemas import EnrolledVoice, PredictionRow, TimelineRow
from emodistill.serving.service import Service
from emodistill.serving.timelines import TimelineRequest
from emodistill.serving.voices import check_return_voice, learned_voice, read_voice, rows_with_voices

Responses = dict[int | str, dict[str, Any]]  # of an operation in the OpenAPI document


def create_rest_router(service: Service) -> APIRouter:
    """Routes for `/v1/predict`, `/v1/timeline` and `/v1/voices`."""
    router = APIRouter(tags=["files"], route_class=form_route(service.settings.max_files))
    problems = documented_problems(*ERROR_STATUSES)
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
        request: Request, files: Files, fields: Annotated[PredictFields, Depends()]
    ) -> Response:
        """One row for each file, in the order of the request. An unreadable file has a row with `error`."""
        recognizer = await select_recognizer(service, request, fields)
        if fields.coverage is not None:
            check_confidence(recognizer.card, "coverage")
        known = await read_voice(fields.voice, fields.adapt, recognizer)
        media_type = choose_media_type(request.headers.get("accept"), PREDICTION_RESPONSES, len(files))
        return_voice, channel = fields.return_voice == "true", fields.channel
        if return_voice:
            check_return_voice(media_type, recognizer)
        if fields.adapt == "none" and not return_voice:
            rows = [
                await service.predict(recognizer, name, file, connection_check(request), known, channel)
                for name, file in named_files(files)
            ]
            learned: list[Voice | None] = []
        else:
            rows, learned = await _predict_from_statistics(service, request, files, recognizer, known, fields)
        rows = [row if fields.teachers == "true" else replace(row, teachers=None) for row in rows]
        if fields.coverage is not None:
            rows = keep_most_confident(rows, fields.coverage)
        if return_voice:
            return text_response(rows_with_voices(rows, learned), media_type)
        text = write_response(rows, media_type, PREDICTION_RESPONSES, recognizer.emotions)
        return text_response(text, media_type)


def _add_timeline_route(router: APIRouter, service: Service, problems: Responses) -> None:
    @router.post(
        "/v1/timeline", summary="Find the emotions over time in each file", response_model=list[TimelineRow],
        responses=openapi.documented_rows(TIMELINE_RESPONSES, openapi.timeline_example()) | problems,
    )  # fmt: skip
    async def timeline(
        request: Request, files: Files, fields: Annotated[TimelineFields, Depends()]
    ) -> Response:
        """The segments of speech in each file, with start, end, emotion, confidence and probabilities."""
        media_type = choose_media_type(request.headers.get("accept"), TIMELINE_RESPONSES, len(files))
        options = await TimelineRequest.read(service, request, fields, media_type, len(files))
        text = await options.answer(service, named_files(files), media_type, connection_check(request))
        return text_response(text, media_type)


def _add_voices_route(router: APIRouter, service: Service, problems: Responses) -> None:
    @router.post("/v1/voices", summary="Learn the voice of a speaker", responses=problems)
    async def voices(
        request: Request, files: Files, model: Model = None, channel: Channel = None
    ) -> EnrolledVoice:
        """One voice, learned from files of one speaker without labels. The server does not keep it.

        A file without speech, or that cannot be read, is left out with a warning in the answer. A voice is
        personal data: it may serve to recognise a person.
        """
        recognizer = await select_recognizer(service, request, Options(model=model))
        ensure_voices(recognizer.card)
        statistics = [
            await service.statistics(recognizer, name, file, connection_check(request), "voices", channel)
            for name, file in named_files(files)
        ]
        try:
            voice, warnings = enrol(statistics, recognizer.card.sha256)
        except AudioError as error:
            raise RequestRefused(422, "no-speech", str(error)) from error
        return EnrolledVoice(voice=voice.as_dict(), warnings=warnings)


async def _predict_from_statistics(
    service: Service, request: Request, files: Sequence[UploadFile], recognizer: Recognizer,
    voice: Voice | None, fields: PredictFields,
) -> tuple[list[Prediction], list[Voice | None]]:  # fmt: skip
    """The prediction of each file, and the voice of each file. The model's trunk runs once for each file."""
    statistics = [
        await service.statistics(recognizer, name, file, connection_check(request), channel=fields.channel)
        for name, file in named_files(files)
    ]
    voices: Sequence[Voice | None] = [voice] * len(files)
    if fields.adapt == "together":
        voices = list(leave_one_out(statistics, recognizer.card.sha256))
    rows = await service.predict_statistics(recognizer, statistics, voices, connection_check(request))
    return rows, [learned_voice(item, recognizer) for item in statistics]
