"""The OpenAPI document: what FastAPI derives, and what only this server knows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from emodistill.inference.recognizer import Prediction
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import Timeline
from emodistill.serving.problems import Problem
from emodistill.serving.responses import Form, Row
from emodistill.serving.schemas import PREDICTION_EXAMPLE, TIMELINE_EXAMPLE

if TYPE_CHECKING:
    from emodistill.serving.service import Service

DESCRIPTION = """
Emotions out of speech. Send files to `/v1/predict` (one emotion for each) or `/v1/timeline` (emotion over time), or stream
audio to the WebSocket `/v1/stream`.

**Formats.** `Accept` chooses: JSON, or CSV, JSON lines, SRT, RTTM, Audacity labels, TextGrid. **Errors** are problem details
(RFC 9457), `application/problem+json`. A file that cannot be decoded is no error of the request: its row says why.

**`/v1/stream`**: the first message is JSON: `{"encoding": "pcm16" | "float32" | "webm", "rate": 48000, "channels": 1}`, and if you
like `model`, `emotions`, `min_confidence`, `coverage`, `updates`, `token`. The server answers
`{"event": "started", …}`; then send audio as binary messages, and `{"type": "end"}` after the last. Events come as JSON:
`speech_started`, `update`, `segment`, `speech_ended`, at the end `summary`, or `error` with a problem's members.
"""
_FIELDS = {
    "/v1/predict": {"files", "model", "emotions", "min_confidence", "coverage", "teachers"},
    "/v1/timeline": {"files", "model", "emotions", "min_confidence", "coverage"},
}
_NOT_TOGETHER = (("min_confidence", "coverage"), ("emotions", "coverage"))


def form_fields(path: str) -> set[str]:
    """The fields that a form may have."""
    return _FIELDS[path]


def rows(forms: Mapping[str, Form[Row]], example: Sequence[Row]) -> dict[int | str, dict[str, Any]]:
    """The successful response of an operation in all its formats, each with an example made by its writer."""
    emotions = list(PREDICTION_EXAMPLE["probabilities"])
    content: dict[str, Any] = {
        media_type: {"schema": {"type": "string"}, "example": form.text(example, emotions)}
        for media_type, form in forms.items()
        if media_type != "application/json"
    }
    content["application/json"] = {"example": [row.as_dict() for row in example]}
    return {200: {"description": "A row for each file, in their order.", "content": content}}


def prediction_example() -> list[Prediction]:
    """One row."""
    return [Prediction(**PREDICTION_EXAMPLE)]


def timeline_example() -> list[Timeline]:
    """One row."""
    segments = tuple(Segment(**segment) for segment in TIMELINE_EXAMPLE["segments"])
    return [Timeline(**{**TIMELINE_EXAMPLE, "segments": segments})]


def describe(app: FastAPI, service: "Service") -> None:
    """Make the app give this document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes,
                license_info=app.license_info, separate_input_output_schemas=False,
            )  # fmt: skip
            _complete(made, service)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(made: dict[str, Any], service: "Service") -> None:
    components = made["components"]
    schemas = components["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs")
    schemas["Problem"] = problem
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, fields in _FIELDS.items():
        operation = made["paths"][path]["post"]
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        body = schemas[form["$ref"].rpartition("/")[2]]
        assert set(body["properties"]) == fields
        _complete_form(body, service)
    if service.settings.token is not None:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in made["paths"].items():
            if path.startswith("/v1/") or path == "/metrics":
                for operation in operations.values():
                    operation["security"] = [{"token": []}]


def _complete_form(body: dict[str, Any], service: "Service") -> None:
    """What a form's fields may be, with the models at hand; a form cannot send null."""
    emotions = "|".join(
        dict.fromkeys(name for model in service.models.values() for name in model.card.emotions)
    )
    body["additionalProperties"] = False
    body["allOf"] = [{"not": {"required": list(pair)}} for pair in _NOT_TOGETHER]
    for field in body["properties"].values():
        if "anyOf" in field:
            (kind,) = (option for option in field.pop("anyOf") if option != {"type": "null"})
            field |= kind
    properties = body["properties"]
    properties["files"]["maxItems"] = service.settings.max_files
    properties["model"]["enum"] = list(service.models)
    properties["emotions"] |= {
        "pattern": f"^({emotions})(,({emotions}))*$",
        "examples": ["angry,happy,sad,neutral"],
    }
    properties["min_confidence"]["examples"] = [0.5]
    properties["coverage"]["examples"] = [0.8]
