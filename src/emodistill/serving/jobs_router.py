"""The REST endpoints for jobs: submit one, ask for its state, get its result in a format, remove it."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from emodistill.inference.timelines import Timeline
from emodistill.serving import openapi
from emodistill.serving.forms import ERROR_STATUSES, Files, TimelineFields, form_route, named_files
from emodistill.serving.job_store import KEEP_S, StoredJob
from emodistill.serving.jobs import Jobs, NamedFiles
from emodistill.serving.problems import RequestRefused, documented_problems
from emodistill.serving.responses import (
    TIMELINE_RESPONSES,
    choose_media_type,
    text_response,
    write_response,
)
from emodistill.serving.schemas import JobStatus
from emodistill.serving.service import Service
from emodistill.serving.timelines import TimelineRequest

JSON = "application/json"
_LOCATION = {"Location": {"description": "The address of the job.", "schema": {"type": "string"}}}


def create_jobs_router(service: Service, jobs: Jobs) -> APIRouter:
    """Routes for `/v1/jobs`."""
    router = APIRouter(tags=["jobs"])
    _add_submit_route(router, service, jobs)
    problems = documented_problems(401, 404, 410, 429, 500, 503)

    @router.get(
        "/v1/jobs/{job}", summary="Get the state of a job", response_model=JobStatus,
        response_model_exclude_none=True, responses=problems,
    )  # fmt: skip
    async def state(job: str) -> Response:
        """`done` comes with the `result`, the answer of `/v1/timeline`; `failed` comes with the `problem`.

        410: the job was removed, its result is older than an hour, or the server has restarted.
        """
        stored = _find(service, job)
        return JSONResponse(_status(stored))

    @router.get(
        "/v1/jobs/{job}/result", summary="Get the result of a job in any format of /v1/timeline",
        responses=openapi.documented_rows(TIMELINE_RESPONSES, openapi.timeline_example())
        | documented_problems(401, 404, 406, 409, 410, 413, 422, 429, 500, 503),
    )  # fmt: skip
    async def result(request: Request, job: str) -> Response:
        """The `Accept` header chooses the format. 409: the job has not ended. A failed job: its problem."""
        stored = _find(service, job)
        if stored.problem is not None:
            problem = stored.problem
            kind = problem["type"].rpartition(":")[2]
            raise RequestRefused(problem["status"], kind, problem["detail"])
        if stored.result is None:
            detail = f"the job is {stored.state}: ask for its result when its state is done"
            raise RequestRefused(409, "not-done", detail, {"Retry-After": "1"})
        return _result_response(stored, request.headers.get("accept"))

    @router.delete(
        "/v1/jobs/{job}", summary="Cancel a job, or remove its result", status_code=204, responses=problems
    )
    async def remove(job: str) -> Response:
        """The server stops work on the job, and deletes its upload and its result."""
        _find(service, job)
        service.job_store.remove(job)
        return Response(status_code=204)

    return router


def _add_submit_route(router: APIRouter, service: Service, jobs: Jobs) -> None:
    accepted: dict[int | str, dict[str, Any]] = {202: {"headers": _LOCATION}}
    forms = APIRouter(route_class=form_route(service.settings.max_files))

    @forms.post(
        "/v1/jobs", summary="Find the emotions over time in long files", status_code=202,
        response_model=JobStatus, response_model_exclude_none=True,
        responses=accepted | documented_problems(*ERROR_STATUSES),
    )  # fmt: skip
    async def submit(
        request: Request, files: Files, fields: Annotated[TimelineFields, Depends()]
    ) -> Response:
        """The form of `/v1/timeline`. The answer comes at once; the client may then disconnect.

        The server deletes the files as soon as they are processed, and keeps the result for an hour.
        """
        timeline = await TimelineRequest.read(service, request, fields, JSON, len(files))

        async def work(files: NamedFiles) -> str:
            return await timeline.answer(service, files, JSON, endpoint="jobs")

        id = await jobs.submit(
            named_files(files), work, timeline.recognizer.emotions, request.state.instance,
            timeline.passes,
        )  # fmt: skip
        return JSONResponse({"id": id, "state": "waiting"}, 202, {"Location": f"/v1/jobs/{id}"})

    router.include_router(forms)


def _find(service: Service, job: str) -> StoredJob:
    """A job. Raises `RequestRefused`: 404 for what is no id of a job, 410 for a job that is gone."""
    if len(job) != 32 or not set(job) <= set("0123456789abcdef"):
        raise RequestRefused(
            404, "no-job", f"bad job '{job[:40]}', expected the 32 hexadecimal digits of an id"
        )
    stored = service.job_store.get(job)
    if stored is None:
        detail = (
            f"the job is gone: it was removed, its result is older than {KEEP_S / 60:g} minutes, or the "
            "server has restarted; submit the files again"
        )
        raise RequestRefused(410, "gone", detail)
    return stored


def _status(job: StoredJob) -> dict[str, Any]:
    status: dict[str, Any] = {"id": job.id, "state": job.state}
    if job.state == "running":
        status["progress"] = round(job.progress, 4)
    if job.result is not None:
        status["result"] = json.loads(job.result)
    if job.problem is not None:
        status["problem"] = job.problem
    return status


def _result_response(job: StoredJob, accept: str | None) -> Response:
    """The result of a job that is done, in the format that the header asks for."""
    assert job.result is not None
    rows = json.loads(job.result)
    media_type = choose_media_type(accept, TIMELINE_RESPONSES, len(rows))
    if media_type == JSON:
        return text_response(job.result, JSON)
    for row in rows:
        row.pop("voice", None)  # only JSON has a place for it
    timelines = [Timeline.from_dict(row) for row in rows]
    return text_response(write_response(timelines, media_type, TIMELINE_RESPONSES, job.emotions), media_type)
