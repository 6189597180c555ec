"""Error answers: every error of the server is a problem document (RFC 9457), `application/problem+json`."""

import errno
import json
import sqlite3
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from emodistill.audio.decoding import THE_AUDIO
from emodistill.errors import (
    AudioError,
    AudioTooLongError,
    ConfigError,
    EmodistillError,
    ModelError,
    plain_message,
)

MEDIA_TYPE = "application/problem+json"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
INTERNAL_ERROR = "internal error of the server; its log has the details"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class FieldProblem(BaseModel):
    """A field of a request, and what is wrong with it."""

    field: str
    message: str


class Problem(BaseModel):
    """A problem document (RFC 9457). `type` names the kind of problem; about:blank means: see the status."""

    type: str = Field(examples=["urn:emodistill:too-large"])
    title: str = Field(examples=["Content Too Large"])
    status: int = Field(examples=[413])
    detail: str = Field(examples=["the request has more than 100000000 bytes, the limit of this server"])
    instance: str | None = Field(None, description="The id of this request in the server's log.")
    errors: list[FieldProblem] | None = Field(None, description="With status 422: the fields that are wrong.")


class RequestRefused(HTTPException):
    """A request that the server refuses. `kind` becomes the problem's `type`: urn:emodistill:KIND."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind


def body_too_large(max_bytes: int) -> RequestRefused:
    """The refusal (413) of a request with more than `max_bytes` bytes."""
    detail = (
        f"the request has more than {max_bytes} bytes, the limit of this server; send fewer files at a time"
    )
    return RequestRefused(413, "too-large", detail)


def server_busy(why: str) -> RequestRefused:
    """The refusal (503) of a server that cannot take more work now."""
    return RequestRefused(503, "busy", f"{why}; try again in a moment", {"Retry-After": "1"})


def problem_body(
    status: int,
    kind: str | None,
    detail: str,
    instance: str | None,
    errors: Sequence[FieldProblem] | None = None,
) -> dict[str, Any]:
    """A problem document as plain data. Members without a value are left out."""
    body = Problem(
        type=f"urn:emodistill:{kind}" if kind else "about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        errors=list(errors) if errors else None,
    )
    return body.model_dump(exclude_none=True)


def problem_content(error: HTTPException, instance: str | None) -> dict[str, Any]:
    """The problem document of an error. `instance` is the request's id."""
    kind = error.kind if isinstance(error, RequestRefused) else None
    return problem_body(error.status_code, kind, str(error.detail), instance)


class ProblemResponse(JSONResponse):
    """The HTTP response with a problem document."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """The JSON of the document."""
        return json_text(content).encode()


def json_text(content: Any) -> str:
    """The JSON of a content. A lone surrogate, which UTF-8 does not have, stays as its escape of JSON."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def problem_response(error: HTTPException, instance: str | None) -> ProblemResponse:
    """The HTTP response for an error. `instance` is the request's id."""
    return ProblemResponse(problem_content(error, instance), error.status_code, error.headers)


def to_http_error(error: Exception) -> HTTPException:
    """The HTTP error for an error of the recogniser or the disk. Raises any other `error` again."""
    if isinstance(error, AudioTooLongError):
        return RequestRefused(413, "too-long", message_without_source(error))
    if isinstance(error, (ConfigError, ModelError)):
        return RequestRefused(422, "bad-option", message_without_source(error))
    if isinstance(error, AudioError):
        return RequestRefused(422, "unreadable", message_without_source(error))
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        detail = "the server has no disk space left for this upload; try again later"
        return RequestRefused(507, "disk-full", detail)
    raise error


def message_without_source(error: Exception) -> str:
    """An error's message without the placeholder for unnamed audio. The client knows which file it sent."""
    return str(error).removeprefix(f"{THE_AUDIO}: ")


def install_error_handlers(app: FastAPI) -> None:
    """Make an app answer every error with a problem document."""

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        cause = error.__cause__  # FastAPI answers 400 if it cannot store an upload; the cause has the reason
        if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
            error = to_http_error(cause)
        response = problem_response(error, _request_id(request))
        if error.status_code == 405:  # Starlette lists the methods of the first route with this path alone
            response.headers["Allow"] = ", ".join(sorted(_allowed_methods(app, request.scope)))
        return response

    async def validation_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        fields = [
            FieldProblem(field=".".join(map(str, item["loc"][1:])) or "body", message=_plain_message(item))
            for item in error.errors()
        ]
        detail = "; ".join(f"{item.field}: {item.message}" for item in fields)
        body = problem_body(422, "bad-option", detail, _request_id(request), fields)
        return ProblemResponse(body, 422)

    async def recognizer_or_disk_error(request: Request, error: Exception) -> JSONResponse:
        return problem_response(to_http_error(error), _request_id(request))

    async def database_error(request: Request, error: Exception) -> JSONResponse:
        # Its database is locked for too long, or the disk is full.
        return problem_response(server_busy("the server cannot store its jobs"), _request_id(request))

    async def unexpected_error(request: Request, error: Exception) -> JSONResponse:
        # The message of such an error may hold secrets, so it goes to the log only.
        body = problem_body(500, None, INTERNAL_ERROR, _request_id(request))
        return ProblemResponse(body, 500)

    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(EmodistillError, recognizer_or_disk_error)
    app.add_exception_handler(OSError, recognizer_or_disk_error)
    app.add_exception_handler(sqlite3.OperationalError, database_error)
    app.add_exception_handler(Exception, unexpected_error)


def _plain_message(error: Mapping[str, Any]) -> str:
    message = plain_message(error)
    return "expected a file, got a text" if message.startswith("Expected UploadFile") else message


def documented_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of an operation that may answer with these statuses."""
    return {
        status: {
            "description": f"{HTTPStatus(status).phrase}. {_MEANINGS.get(status, '')}".strip(),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": problem_body(
                        status,
                        _KINDS.get(status),
                        _MEANINGS.get(status, ""),
                        "urn:uuid:8f14e45f-ceea-4671-9f2c-0c5a9d1b7e21",
                    ),
                }
            },
        }
        for status in statuses
    }


_MEANINGS = {
    400: "The body is not a form that the server can read.",
    401: "The bearer token is missing or wrong.",
    404: "There is nothing at this path.",
    405: "The path exists, but not with this method. The header Allow lists its methods.",
    406: "The server has none of the formats in Accept for this request.",
    408: "The request came too slowly.",
    409: "The job has not ended.",
    410: "The job was removed, its result is too old, or the server has restarted.",
    413: "The request has too many bytes, or the audio is too long.",
    422: "A field is missing, unknown or has a bad value, or there are too many files.",
    429: "The client sent too many requests. Retry-After has the seconds to wait.",
    500: "Internal error of the server.",
    503: "The server is busy or stopping. Retry-After has the seconds to wait.",
    507: "The server's disk is full.",
}
_KINDS = {
    401: "unauthorised", 404: "no-job", 408: "too-slow", 409: "not-done", 410: "gone", 413: "too-large",
    422: "bad-option", 429: "too-many", 503: "busy", 507: "disk-full",
}  # fmt: skip


def _allowed_methods(app: FastAPI, scope: Scope) -> set[str]:
    """The methods of all routes with the path of a request."""
    return {
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.routes)
    }


def _request_id(request: Request) -> str | None:
    return getattr(request.state, "instance", None)
