"""The OpenAPI document: what FastAPI derives from the code, and what only a running server knows."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from emodistill.inference.prediction import Prediction
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import Timeline
from emodistill.serving.problems import Problem
from emodistill.serving.responses import ResponseFormat, Row
from emodistill.serving.schemas import PREDICTION_EXAMPLE, TIMELINE_EXAMPLE
from emodistill.serving.service import Service

DESCRIPTION = """
This server recognises emotions in speech.

* `/v1/predict` takes files and returns one emotion for each file.
* `/v1/timeline` takes files and returns the emotion over time in each file.
* `/v1/jobs` takes long files and answers at once. Ask it for the progress and the result.
* `/v1/voices` takes files of one speaker and returns the speaker's voice.
* `/v1/audio` decodes a file for playing.
* `/v1/stream` is a WebSocket. It takes audio while somebody speaks, and returns events.

**Formats.** The `Accept` header chooses the format of an answer: JSON, CSV, or another format that the
endpoint lists.

**Voices.** People differ in how they usually sound. With a `voice`, or with `adapt`, the model compares the
speech with this voice's usual. Do not use them for recordings with one emotion only: that emotion then is the
usual, and is not found. A voice is personal data, which may serve to recognise a person. The server keeps
none.

**Errors** are problem documents (RFC 9457), `application/problem+json`. A file that cannot be decoded does
not make the whole request fail: the row of that file has an `error`.

**`/v1/stream`.** First send JSON: `{"encoding": "pcm16" | "float32" | "webm", "rate": 48000, "channels": 1}`.
Optional members are `model`, `emotions`, `min_confidence`, `updates`, `token`, `smooth`, `min_duration`,
`hop`, `window`, and one of `voice`
(an object) and `adapt` (none or running). The server answers `{"event": "started", …}`. Then send audio as
binary messages, and `{"type": "end"}` after the last one. The server sends each event as JSON:
`speech_started`, `update`, `segment`, `speech_ended`, and `summary` at the end. An `error` event has the
members of a problem document.
"""
_VOICE_FIELDS = ("voice", "voice_name", "adapt", "return_voice")  # a model without voices refuses them
_OPTIONS = {"files", "model", "emotions", "min_confidence"}
_TIMELINE_FIELDS = {
    *_OPTIONS, *_VOICE_FIELDS, "segments", "channels", "names", "smooth", "min_duration", "hop", "window",
}  # fmt: skip
_FIELDS = {
    "/v1/predict": {
        *_OPTIONS,
        "voice",
        "adapt",
        "return_voice",
        "teachers",
        "coverage",
        "channel",
    },
    "/v1/timeline": _TIMELINE_FIELDS,
    "/v1/jobs": _TIMELINE_FIELDS,
    "/v1/voices": {"files", "model", "channel"},
    "/v1/audio": {"files"},
}
_EXCLUSIVE_FIELDS = (("voice", "adapt"),)


def form_fields(path: str) -> set[str]:
    """The names of the form fields of an endpoint."""
    return _FIELDS[path]


def documented_rows(
    formats: Mapping[str, ResponseFormat[Row]], example: Sequence[Row]
) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI response 200 of an endpoint, in all its formats, with the example in each of them."""
    emotions = list(PREDICTION_EXAMPLE["probabilities"])
    content: dict[str, Any] = {
        media_type: {"schema": {"type": "string"}, "example": format.write(example, emotions)}
        for media_type, format in formats.items()
        if media_type != "application/json"
    }
    content["application/json"] = {"example": [row.as_dict() for row in example]}
    return {200: {"description": "One row for each file, in the order of the request.", "content": content}}


def prediction_example() -> list[Prediction]:
    """One row."""
    return [Prediction(**PREDICTION_EXAMPLE)]


def timeline_example() -> list[Timeline]:
    """One row."""
    segments = tuple(Segment(**segment) for segment in TIMELINE_EXAMPLE["segments"])
    return [Timeline(**{**TIMELINE_EXAMPLE, "segments": segments})]


def install_document(app: FastAPI, service: Service) -> None:
    """Make the app return the complete document at /openapi.json. It is built at the first request."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes,
                license_info=app.license_info, separate_input_output_schemas=False,
            )  # fmt: skip
            _complete_document(schema, service)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete_document(document: dict[str, Any], service: Service) -> None:
    """Add the problem document, the limits of the form fields, and the token."""
    components = document["components"]
    schemas = components["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs")
    schemas["Problem"] = problem
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            # FastAPI adds it for a parameter in the path, though each text is a valid one.
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    has_voices = any(model.voice_dim is not None for model in service.models.values())
    if not has_voices:
        del document["paths"]["/v1/voices"]
    for path, fields in _FIELDS.items():
        if path not in document["paths"]:
            continue
        operation = document["paths"][path]["post"]
        reference = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"]
        form = schemas[reference.rpartition("/")[2]]
        assert set(form["properties"]) == fields
        if not has_voices:
            for name in _VOICE_FIELDS:
                form["properties"].pop(name, None)
        _complete_form(form, service)
    if service.settings.token is not None:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            if path.startswith("/v1/") or path == "/metrics":
                for operation in operations.values():
                    operation["security"] = [{"token": []}]


def _complete_form(form: dict[str, Any], service: Service) -> None:
    """Add to a form's schema what depends on the models and settings of this server."""
    emotions = "|".join(
        dict.fromkeys(name for model in service.models.values() for name in model.card.emotions)
    )
    form["additionalProperties"] = False
    properties = form["properties"]
    exclusive = [pair for pair in _EXCLUSIVE_FIELDS if properties.keys() >= set(pair)]
    if exclusive:
        form["allOf"] = [_not_together(*pair) for pair in exclusive]
    for field in properties.values():
        if "anyOf" in field:  # a type or null; but a form cannot send null
            (type_schema,) = (option for option in field.pop("anyOf") if option != {"type": "null"})
            field |= type_schema
    properties["files"]["maxItems"] = service.settings.max_files if "model" in properties else 1
    if "model" in properties:
        properties["model"]["enum"] = list(service.models)
    if "emotions" in properties:
        properties["emotions"] |= {
            "pattern": f"^({emotions})(,({emotions}))*$",
            "examples": ["angry,happy,sad,neutral"],
        }
        properties["min_confidence"] |= {
            "pattern": r"^(dev:)?(0(\.[0-9]+)?|1(\.0+)?)$",
            "examples": ["0.5", "dev:0.8"],
        }
        # The curve of dev: is over all emotions of the model.
        both = {"required": ["emotions", "min_confidence"]}
        is_share = {"properties": {"min_confidence": {"pattern": "^dev:"}}}
        form.setdefault("allOf", []).append({"not": both | is_share})
    if "names" in properties:
        split = {"required": ["channels"], "properties": {"channels": {"const": "split"}}}
        form.setdefault("allOf", []).append({"anyOf": [{"not": {"required": ["names"]}}, split]})
    if "coverage" in properties:
        properties["coverage"]["examples"] = [0.8]


def _not_together(first: str, second: str) -> dict[str, Any]:
    """The schema of a form that does not have both fields. An `adapt` of none counts as missing."""
    both: dict[str, Any] = {"required": [first, second]}
    if second == "adapt":
        both["properties"] = {"adapt": {"not": {"const": "none"}}}
    return {"not": both}
