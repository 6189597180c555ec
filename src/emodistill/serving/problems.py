"""Errors as RFC 9457 problem details: one shape, whatever went wrong."""

import errno
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from emodistill.errors import AudioTooLongError, ConfigError, EmodistillError, ModelError

MEDIA_TYPE = "application/problem+json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457. `type` is a URN where there is more to know than the status says, else about:blank."""

    type: str = Field(examples=["urn:emodistill:too-large"])
    title: str = Field(examples=["Content Too Large"])
    status: int = Field(examples=[413])
    detail: str = Field(examples=["over 100000000 bytes, the most that is taken here"])
    instance: str | None = Field(None, description="Names this request in the server's log.")
    errors: list[FieldProblem] | None = Field(None, description="Of 422: what is wrong with which field.")


class Refused(HTTPException):
    """A request that is not answered, with the kind of problem that it is."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind


def too_large(limit: int) -> Refused:
    """More bytes than a request may have."""
    return Refused(413, "too-large", f"over {limit} bytes, the most that is taken here; send fewer at a time")


def busy(why: str) -> Refused:
    """The refusal of a server that cannot take more work now."""
    return Refused(503, "busy", f"{why}; try again in a moment", {"Retry-After": "1"})


def problem(
    status: int,
    kind: str | None,
    detail: str,
    instance: str | None,
    errors: Sequence[FieldProblem] | None = None,
) -> dict[str, Any]:
    """The members of a problem, as plain data."""
    found = Problem(
        type=f"urn:emodistill:{kind}" if kind else "about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        errors=list(errors) if errors else None,
    )
    return found.model_dump(exclude_none=True)


def refusal(error: HTTPException, instance: str | None) -> JSONResponse:
    """The response to a request that is refused."""
    kind = error.kind if isinstance(error, Refused) else None
    body = problem(error.status_code, kind, str(error.detail), instance)
    return JSONResponse(body, error.status_code, error.headers, MEDIA_TYPE)


def as_refused(error: Exception) -> HTTPException:
    """What an error of the recogniser, or of the disk, means over HTTP; the error itself where it is none of these."""
    if isinstance(error, AudioTooLongError):
        return Refused(413, "too-long", str(error))
    if isinstance(error, (ConfigError, ModelError)):
        return Refused(422, "bad-option", str(error))
    if isinstance(error, OSError) and error.errno in _FULL:
        return Refused(
            507, "disk-full", "no room on the server to keep the upload while it is read; try later"
        )
    raise error


def install(app: FastAPI) -> None:
    """Let every error of an app be a problem."""

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        cause = error.__cause__  # FastAPI's own 400 hides what kept a body from being kept
        if isinstance(cause, OSError) and cause.errno in _FULL:
            error = as_refused(cause)
        return refusal(error, _instance(request))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        fields = [
            FieldProblem(field=".".join(map(str, item["loc"][1:])) or "body", message=item["msg"])
            for item in error.errors()
        ]
        detail = "; ".join(f"{item.field}: {item.message}" for item in fields)
        body = problem(422, "bad-option", detail, _instance(request), fields)
        return JSONResponse(body, 422, media_type=MEDIA_TYPE)

    async def own(request: Request, error: Exception) -> JSONResponse:
        return refusal(as_refused(error), _instance(request))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # The log has the reason; it may hold what no client should read.
        body = problem(500, None, "an error of the server, and written to its log", _instance(request))
        return JSONResponse(body, 500, media_type=MEDIA_TYPE)

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(EmodistillError, own)
    app.add_exception_handler(OSError, own)
    app.add_exception_handler(Exception, unexpected)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that an operation may answer with, for its OpenAPI description."""
    return {
        status: {
            "description": f"{HTTPStatus(status).phrase}. {_WHEN.get(status, '')}".strip(),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": problem(
                        status,
                        _EXAMPLES.get(status),
                        _WHEN.get(status, ""),
                        "urn:uuid:8f14e45f-ceea-4671-9f2c-0c5a9d1b7e21",
                    ),
                }
            },
        }
        for status in statuses
    }


_WHEN = {
    400: "The body cannot be read as a form.",
    401: "The server wants a bearer token, and it was missing or wrong.",
    405: "The path is right, the method is not; Allow says which are.",
    406: "None of the types in Accept can be given for this request.",
    408: "No byte came for too long.",
    413: "Too many bytes, or audio that is too long.",
    422: "A field is missing, unknown, or has a value that cannot be; or there are too many files.",
    429: "Too many requests of one client; Retry-After says when the next may come.",
    500: "An error of the server.",
    503: "As many requests are being answered as may be at a time, or the server is stopping; see Retry-After.",
    507: "The server's disk is full.",
}
_EXAMPLES = {
    401: "unauthorised", 408: "too-slow", 413: "too-large", 422: "bad-option", 429: "too-many",
    503: "busy", 507: "disk-full",
}  # fmt: skip


def _instance(request: Request) -> str | None:
    return getattr(request.state, "instance", None)
